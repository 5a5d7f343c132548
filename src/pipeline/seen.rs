//! Bringing the files of seen ids up to date from their changelog, and keeping them.

use crate::audit::{Bucket, EntityName, Lane, SeenLane};
use crate::github::EntitySettings;
use crate::kafka::consumer::{ReadError, ReadFrom, TopicReader};
use crate::kafka::settings::Settings;
use crate::retry::Backoff;
use crate::state::{Buckets, StateError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// Kept this much longer than GitHub keeps the entries: protocols' window behind the retention.
const KEPT_LONGER: Duration = Duration::from_hours(45 * 24);

/// Why the seen ids are not up to date.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// The changelog cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record cannot be applied.
    #[error(transparent)]
    State(#[from] StateError),
    /// The thread ended.
    #[error("catching up with the seen ids ended: {0}")]
    Thread(String),
}

/// Reads both changelogs of a partition from where the files are, to their proven ends. Waits for a broker that is away.
pub async fn catch_up(
    kafka: Arc<Settings>,
    buckets: Arc<Mutex<Buckets>>,
    partition: i32,
) -> Result<(), CatchUpError> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let (kafka, buckets) = (Arc::clone(&kafka), Arc::clone(&buckets));
        let read = tokio::task::spawn_blocking(move || {
            let reader = TopicReader::new(&kafka)?;
            SeenLane::ALL
                .into_iter()
                .try_for_each(|lane| catch_up_lane(&reader, &kafka, &buckets, lane, partition))
        });
        match read.await {
            Ok(Err(CatchUpError::Read(error))) if error.is_retriable() => {
                warn!("seen ids cannot be read yet, trying again: {error}");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Ok(result) => return result,
            Err(error) => return Err(CatchUpError::Thread(error.to_string())),
        }
    }
}

fn catch_up_lane(
    reader: &TopicReader,
    kafka: &Settings,
    buckets: &Mutex<Buckets>,
    lane: SeenLane,
    partition: i32,
) -> Result<(), CatchUpError> {
    let topic = lane.topic();
    let name = kafka.topic(topic);
    let applied = lock(buckets).applied(topic, partition);
    let marks = reader.watermarks(name, partition)?;
    // what retention has deleted is in the files already, or older than anything a slice reads
    let from = match applied {
        Some(offset) if (marks.low..=marks.high).contains(&offset) => ReadFrom::Offset(offset),
        _ => ReadFrom::Beginning,
    };
    let (mut records, mut outcome) = (0_u64, Ok(()));
    let next = reader.read_to_end(name, partition, from, |record| {
        if outcome.is_ok() {
            records += 1;
            let key = record.key.unwrap_or_default();
            let mut buckets = lock(buckets);
            outcome = buckets.apply_record(topic, partition, record.offset, key, record.value);
        }
    })?;
    outcome?;
    let mut buckets = lock(buckets);
    buckets.set_applied(topic, partition, next);
    if records > 0 {
        info!(topic = name, partition, records, "seen ids brought up to date");
    }
    Ok(())
}

/// How long the fingerprints of each lane are needed: the longest retention of its entities and the window behind it.
/// A lane that is unlimited for one of them is not named: nothing of it may be forgotten.
pub fn retentions(entities: &[EntitySettings]) -> BTreeMap<SeenLane, Duration> {
    let mut longest: BTreeMap<SeenLane, Option<Duration>> = BTreeMap::new();
    for lane in entities.iter().flat_map(|entity| &entity.lanes) {
        let seen = match lane.lane {
            Lane::Web | Lane::GraphQl => SeenLane::Web,
            Lane::Git => SeenLane::Git,
        };
        let kept = lane.retention.map(|retention| retention.saturating_add(KEPT_LONGER));
        let entry = longest.entry(seen).or_insert(kept);
        *entry = entry.zip(kept).map(|(a, b)| a.max(b));
    }
    longest.into_iter().filter_map(|(lane, kept)| Some((lane, kept?))).collect()
}

/// GitHub's now as each entity's collector knows it: what is too old is reckoned by the earliest of them.
#[derive(Debug, Default)]
pub struct Clocks(Mutex<BTreeMap<EntityName, i64>>);

impl Clocks {
    /// An entity's collector has seen this time, epoch milliseconds.
    pub fn set(&self, entity: &EntityName, now_ms: i64) {
        let mut clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clock) = clocks.get_mut(entity) {
            *clock = now_ms;
        } else {
            clocks.insert(entity.clone(), now_ms);
        }
    }

    fn earliest_ms(&self) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().copied().min()
    }
}

/// Makes what was applied durable, and unlinks what is not needed any more.
pub fn keep(
    buckets: &Mutex<Buckets>,
    retentions: &BTreeMap<SeenLane, Duration>,
    clocks: &Clocks,
) -> Result<(), StateError> {
    let mut buckets = lock(buckets);
    buckets.flush()?;
    let Some(now_ms) = clocks.earliest_ms() else { return Ok(()) };
    for (&lane, &kept) in retentions {
        let kept_ms = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
        buckets.expire(lane, Bucket::of_ms(now_ms.saturating_sub(kept_ms)))?;
    }
    Ok(())
}

fn lock(buckets: &Mutex<Buckets>) -> std::sync::MutexGuard<'_, Buckets> {
    buckets.lock().unwrap_or_else(PoisonError::into_inner)
}
