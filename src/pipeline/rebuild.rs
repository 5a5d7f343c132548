//! After the loss of the Kafka cluster: sequences and seen ids of a new one, rebuilt from the archive (protocols 6 and 7).
//!
//! The order, and what a crash after each step leaves behind:
//! 1. the archive is read once, whole: [`Survey`]. Nothing is changed; most mistakes end here.
//! 2. what each entity is given follows from that: [`EntityPlan`]. Nothing is changed; a dry run ends here.
//! 3. the new cluster is taken, and marked as being rebuilt: from now on no daemon starts there.
//! 4. the segments that still matter are read again; their fingerprints go to the seen topics in batches. A crash: the
//!    next run writes them again, which is harmless, they are sets.
//! 5. the checkpoint of each entity, then, in one transaction, gap records, statement, genesis and the end of the mark.
//!
//! What is claimed of the time before: nothing but what the archive proves. A lane begins as of the last commit that is
//! proven, with nothing collected: GitHub is read again, and what is known is dropped.

mod decide;
mod load;
mod record;
mod sequence;
mod survey;

pub use decide::{EntityPlan, LanePlan, WHAT};
pub use survey::{Problem, Retentions, Survey};

use crate::archive::key::{GapKey, SegmentKey};
use crate::archive::segment::SegmentError;
use crate::archive::store::{Store, StoreError};
use crate::audit::lane::LaneRules;
use crate::audit::operation::TooLarge;
use crate::audit::{Batch, EntityName, Genesis, Lane, Record, SeenLane};
use crate::kafka::rebuild::{Target, TargetError};
use crate::kafka::settings::Settings as KafkaSettings;
use crate::metrics::Metrics;
use crate::retry::Backoff;
use bytes::Bytes;
use load::Loader;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How often a store that does not answer is asked again: for about two minutes.
const STORE_TRIES: u32 = 12;

/// Why nothing was rebuilt, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store does not give what it holds.
    #[error("archive: {0}")]
    Store(StoreError),
    /// There is no archive.
    #[error(
        "{place} holds no segment: there is nothing to rebuild from. Name the archive of the lost cluster behind \
         --from-archive; without one start `ghauditd run`, which collects all that GitHub still has"
    )]
    Empty {
        /// Where.
        place: String,
    },
    /// A newer program wrote it.
    #[error("{key}: {source}")]
    Newer {
        /// The segment.
        key: String,
        /// Its version.
        source: SegmentError,
    },
    /// A segment is not any more what it was when it was read first.
    #[error("{key} could be read, and now it cannot: {why}; run it again")]
    Changed {
        /// The segment.
        key: String,
        /// Why.
        why: String,
    },
    /// The new cluster.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// What was done cannot be recorded.
    #[error("the statement of what was done: {0}")]
    Statement(#[from] TooLarge),
    /// A thread ended.
    #[error("reading the archive ended: {0}")]
    Thread(String),
}

impl From<StoreError> for RebuildError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub doing: &'static str,
    /// Segments done.
    pub segments: u64,
    /// Segments in all.
    pub of: u64,
    /// Records read, or fingerprints written.
    pub count: u64,
}

/// What the configuration says of the entities.
#[derive(Debug, Clone, Default)]
pub struct Configured {
    /// The lanes of each entity.
    pub rules: BTreeMap<EntityName, BTreeMap<Lane, LaneRules>>,
    /// Retention of the fingerprints of entities that it does not name.
    pub default: BTreeMap<SeenLane, Option<Duration>>,
}

impl Configured {
    /// As the collector reckons: the retention of the lane, or of one that is read.
    fn retentions(&self) -> Retentions {
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        let of = |lanes: &BTreeMap<Lane, LaneRules>, lane| {
            let wanted = match lane {
                SeenLane::Web => Lane::Web,
                SeenLane::Git => Lane::Git,
            };
            lanes.get(&wanted).or_else(|| lanes.values().next())?.retention_s.map(seconds)
        };
        let each = |(name, lanes): (&EntityName, &BTreeMap<Lane, LaneRules>)| {
            SeenLane::ALL.map(|lane| ((name.clone(), lane), of(lanes, lane)))
        };
        self.rules.iter().flat_map(each).collect()
    }

    /// Entities that only the archive knows, and entities that only the configuration names.
    pub fn strangers(&self, plans: &[EntityPlan]) -> (Vec<EntityName>, Vec<EntityName>) {
        decide::strangers(plans, &self.rules)
    }
}

/// Reads archives whole, one segment in memory at a time. `now_ms` is the machine's clock.
pub async fn survey<S: Store>(
    stores: &[S],
    configured: &Configured,
    now_ms: i64,
    mut told: impl FnMut(Progress),
) -> Result<Survey, RebuildError> {
    let places = stores.iter().map(Store::describe).collect();
    let (retentions, default) = (configured.retentions(), configured.default.clone());
    let mut survey = Survey::new(places, retentions, default, now_ms);
    let mut all = Vec::new();
    for (archive, store) in stores.iter().enumerate() {
        let names = again(|| store.list("segments/")).await?;
        let keys: Vec<_> = names.iter().filter_map(|name| SegmentKey::parse(name)).collect();
        if keys.is_empty() {
            return Err(RebuildError::Empty { place: store.describe() });
        }
        all.extend(keys.into_iter().map(|key| (archive, store, key)));
    }
    let of = count(all.len());
    let mut gaps = Vec::new();
    for store in stores {
        gaps.push(archive_gaps(store).await?);
    }
    for (archive, store, key) in all {
        let object = checked(store, &key).await?;
        let gaps = gaps.get(archive).and_then(|all| all.get(&(key.topic.clone(), key.partition)));
        let gaps = gaps.cloned().unwrap_or_default();
        survey = blocking(move || {
            let object = object.as_ref().map(Bytes::as_ref).map_err(Clone::clone);
            let taken = survey.take(archive, &key, object, &gaps);
            taken.map_err(|source| RebuildError::Newer { key: key.name(), source })?;
            Ok(survey)
        })
        .await?;
        let (segments, count) = (survey.segments, survey.records);
        told(Progress { doing: "reading the archive", segments, of, count });
    }
    survey.end();
    Ok(survey)
}

/// What each entity is given.
pub fn decide(survey: &Survey, configured: &Configured, now_ms: i64) -> Vec<EntityPlan> {
    decide::decide(survey, &configured.rules, now_ms)
}

impl Survey {
    /// What it lacks, or what cannot be trusted, and how much more of that there is.
    pub fn problems(&self) -> (&[Problem], u64) {
        (&self.problems, self.problems_more)
    }
}

/// What was written.
#[derive(Debug)]
pub struct Done {
    /// The new installation.
    pub genesis: Genesis,
    /// Fingerprints written, counted once for each hour that they are filed under.
    pub filed: u64,
}

/// What is to be written, and where.
#[derive(Debug)]
pub struct Order<'a> {
    /// What the archives hold.
    pub survey: Survey,
    /// What each entity is given.
    pub plans: &'a [EntityPlan],
    /// What the configuration says of the entities.
    pub configured: &'a Configured,
    /// The new cluster.
    pub kafka: Arc<KafkaSettings>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The machine's clock, epoch milliseconds.
    pub now_ms: i64,
}

/// Writes what was decided to the new cluster. `statement` makes the record of it from the number of fingerprints written.
pub async fn execute<S: Store>(
    stores: &[S],
    order: Order<'_>,
    statement: impl FnOnce(u64) -> Result<Record, TooLarge>,
    mut told: impl FnMut(Progress),
) -> Result<Done, RebuildError> {
    let Order { survey, plans, configured, kafka, metrics, now_ms } = order;
    let count_of = kafka.partitions(crate::audit::Topic::Checkpoints);
    let partitions: BTreeSet<i32> =
        plans.iter().map(|plan| plan.entity.partition(count_of)).collect();
    let target = Target::take(kafka, &partitions, survey.archives.clone(), metrics).await?;
    let filed = load(stores, survey, plans, &target, &mut told).await?;
    for plan in plans {
        let checkpoint = plan.checkpoint(configured.rules.get(&plan.entity));
        let record = load::checkpoint_record(&checkpoint, count_of);
        let partition = plan.entity.partition(count_of);
        target.commit(partition, Batch { records: vec![record] }).await?;
    }
    let gaps = plans.iter().map(|plan| plan.gap_record(now_ms));
    let genesis = target.finish(gaps.chain([statement(filed)?]).collect()).await?;
    Ok(Done { genesis, filed })
}

/// Step 4.
async fn load<S: Store>(
    stores: &[S],
    survey: Survey,
    plans: &[EntityPlan],
    target: &Target,
    told: &mut impl FnMut(Progress),
) -> Result<u64, RebuildError> {
    let mut loader = Loader::new(plans, target.state_partitions());
    let needed: Vec<_> =
        survey.order.iter().filter(|segment| loader.needs(segment)).cloned().collect();
    let (of, survey) = (count(needed.len()), Arc::new(survey));
    for (done, segment) in needed.into_iter().enumerate() {
        let Some(store) = stores.get(segment.archive) else { continue };
        let key = segment.key.name();
        let changed = |why: String| RebuildError::Changed { key: key.clone(), why };
        let object = checked(store, &segment.key).await?.map_err(&changed)?;
        let survey = Arc::clone(&survey);
        let taken = blocking(move || {
            let taken = loader.take(&survey, &segment, &object);
            Ok((loader, taken))
        });
        let taken = taken.await?;
        loader = taken.0;
        taken.1.map_err(|error| changed(error.to_string()))?;
        if loader.is_full() {
            write(target, &mut loader).await?;
        }
        let (segments, count) = (count(done.saturating_add(1)), loader.filed);
        told(Progress { doing: "writing fingerprints", segments, of, count });
    }
    write(target, &mut loader).await?;
    Ok(loader.filed)
}

async fn write(target: &Target, loader: &mut Loader) -> Result<(), RebuildError> {
    for (partition, batch) in loader.batches() {
        target.commit(partition, batch).await?;
    }
    Ok(())
}

/// The archive gaps of each partition.
async fn archive_gaps<S: Store>(
    store: &S,
) -> Result<BTreeMap<(String, i32), Vec<(i64, i64)>>, RebuildError> {
    let names = again(|| store.list("gaps/")).await?;
    let mut gaps: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for key in names.iter().filter_map(|name| GapKey::parse(name)) {
        gaps.entry((key.topic, key.partition)).or_default().push((key.from, key.to));
    }
    Ok(gaps)
}

/// A segment's bytes, compared with the size and SHA-256 that the store keeps; `Err`: they are not what they were.
async fn checked<S: Store>(
    store: &S,
    key: &SegmentKey,
) -> Result<Result<Bytes, String>, RebuildError> {
    let name = key.name();
    let stored = again(|| store.head(&name)).await?;
    let object = again(|| store.get(&name)).await?;
    let (Some(stored), Some(object)) = (stored, object) else {
        return Ok(Err("it is listed and not there: check the rights to read versions".to_owned()));
    };
    blocking(move || {
        let size = count(object.len());
        if stored.size_bytes != size {
            return Ok(Err(format!("{size} bytes came of {}", stored.size_bytes)));
        }
        if stored.sha256.is_some_and(|known| known != record::sha256(&object)) {
            return Ok(Err("its bytes do not have the SHA-256 that the store keeps".to_owned()));
        }
        Ok(Ok(object))
    })
    .await
}

async fn again<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
    for _ in 1..STORE_TRIES {
        match attempt().await {
            Err(StoreError::Retry { message, .. }) => {
                tracing::warn!("the archive does not answer, trying again: {message}");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            ended => return ended,
        }
    }
    attempt().await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RebuildError> + Send + 'static,
) -> Result<T, RebuildError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(RebuildError::Thread(error.to_string())))
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
