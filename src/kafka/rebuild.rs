//! The cluster that a rebuild from the archive writes to: empty, or left by a rebuild that did not end.
//!
//! The commit order, and what a crash after each step leaves behind:
//! 1. topics are created: empty topics, as a first start leaves them.
//! 2. producers are opened: older ones are fenced. The rebuild record is committed: from now on nobody starts here.
//! 3. seen ids, then checkpoints: the rebuild record stands, there is no genesis; the next rebuild writes them again.
//! 4. genesis, gap records and statement, and the end of the rebuild record, in one transaction: a daemon may start.

use super::ownership::{Ownership, Reader, StartError, genesis_of, write};
use super::producer::Producer;
use super::restore::{RestoreError, Restored, Until};
use super::scout::{Scout, ScoutError};
use super::settings::Settings;
use super::topics::{self, TopicError, TopicState};
use super::{Sink as _, SinkError};
use crate::audit::checkpoint::{GENESIS_KEY, REBUILD_KEY, Rebuild, STATE_VERSION};
use crate::audit::{Batch, Genesis, Owner, Record, Topic};
use crate::metrics::Metrics;
use crate::retry::Backoff;
use crate::time::{rfc3339_ms, wall_ms};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often a transaction that was aborted by circumstances is tried again.
const TRIES: u32 = 8;

/// What stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Empty,
    /// What a rebuild wrote that did not end.
    Unfinished(Rebuild),
}

/// Why nothing can be rebuilt there.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Something is there that would be mixed up with what the archive holds.
    #[error(
        "the cluster at {brokers} is not empty: {}. A rebuild writes only to topics that are empty or missing: name others \
         (kafka.topic_prefix and kafka.id_prefix), or start `ghauditd run` if this is the state to go on from", .holding.join("; ")
    )]
    NotEmpty {
        /// `bootstrap.servers`.
        brokers: String,
        /// What is there.
        holding: Vec<String>,
    },
    /// It cannot be looked at or written to.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl TargetError {
    /// Whether trying again later can help without anyone doing anything.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Start(error) if error.is_retriable())
    }
}

impl From<ScoutError> for TargetError {
    fn from(error: ScoutError) -> Self {
        Self::Start(error.into())
    }
}

impl From<TopicError> for TargetError {
    fn from(error: TopicError) -> Self {
        Self::Start(error.into())
    }
}

impl From<RestoreError> for TargetError {
    fn from(error: RestoreError) -> Self {
        Self::Start(error.into())
    }
}

/// Looks at the cluster; writes nothing and fences nobody.
pub async fn look(settings: &Arc<Settings>) -> Result<Standing, TargetError> {
    let scout = Scout::open(settings).await?;
    let found = scout.topics().await?;
    let mut filled = BTreeSet::new();
    for topic in Topic::ALL {
        let name = settings.topic(topic).to_owned();
        if found.contains_key(&name) && scout.first_with_records(vec![name]).await?.is_some() {
            filled.insert(topic);
        }
    }
    if filled.is_empty() {
        return Ok(Standing::Empty);
    }
    let mut known = Restored::default();
    if let Some(checkpoints) = found.get(settings.topic(Topic::Checkpoints)) {
        let reader = Reader::open(settings).await?;
        known = reader.restored(settings, 0..checkpoints.partitions, Until::Now).await?;
    }
    let only_state = filled.iter().all(|topic| topic.is_state());
    match &known.rebuild {
        Some(rebuild) if known.genesis.is_none() && only_state => {
            Ok(Standing::Unfinished(rebuild.clone()))
        }
        _ => Err(not_empty(settings, &filled, &known)),
    }
}

fn not_empty(settings: &Settings, filled: &BTreeSet<Topic>, known: &Restored) -> TargetError {
    let names: Vec<&str> = filled.iter().map(|topic| settings.topic(*topic)).collect();
    let mut holding = vec![format!("there are records in {}", names.join(", "))];
    if let Some(genesis) = &known.genesis {
        holding.push(format!("an installation began there at {}", rfc3339_ms(genesis.created_ms)));
    }
    holding.extend(known.owners.values().next().map(last_owner));
    TargetError::NotEmpty { brokers: settings.brokers.clone(), holding }
}

fn last_owner(owner: &Owner) -> String {
    let since = rfc3339_ms(owner.started_ms);
    format!("its last owner is process {} on {}, started {since}", owner.pid, owner.host)
}

/// A cluster that is being written to.
#[derive(Debug)]
pub struct Target {
    settings: Arc<Settings>,
    producers: BTreeMap<i32, Producer>,
    topics: Vec<TopicState>,
}

impl Target {
    /// Creates the topics, fences whoever was there, looks again, and says that a rebuild has begun.
    pub async fn take(
        settings: Arc<Settings>,
        partitions: &BTreeSet<i32>,
        archives: Vec<String>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TargetError> {
        let topics = topics::ensure(Arc::clone(&settings), false).await?;
        let ownership = Ownership::of_this_process(Arc::clone(&settings), metrics);
        // the genesis comes last and goes to partition 0, whoever lives there
        let producers = ownership.open_all(partitions, true).await?;
        look(&settings).await?;
        let me = ownership.me();
        let rebuild = Rebuild {
            version: STATE_VERSION,
            archives,
            host: me.host.clone(),
            pid: me.pid,
            started_ms: wall_ms(),
        };
        let begun = special(REBUILD_KEY, Some(rebuild.encode()));
        for (number, producer) in &producers {
            let first = (*number == 0).then(|| begun.clone());
            write(producer, first.into_iter().chain([ownership.owner_record(producer)]).collect())
                .await?;
        }
        Ok(Self { settings, producers, topics })
    }

    /// Partitions of each state topic.
    pub fn state_partitions(&self) -> i32 {
        self.settings.partitions(Topic::Checkpoints)
    }

    /// Commits records in one transaction of a checkpoint partition's producer. What circumstances abort is tried again.
    pub async fn commit(&self, partition: i32, batch: Batch) -> Result<(), TargetError> {
        let Some(producer) = self.producers.get(&partition) else { return Ok(()) };
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        for _ in 1..TRIES {
            match producer.commit(batch.clone()).await {
                Err(SinkError::Aborted { message, .. }) => {
                    tracing::warn!("a transaction was aborted, trying again: {message}");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                ended => return Ok(ended.map(drop).map_err(|source| claim(partition, source))?),
            }
        }
        let last = producer.commit(batch).await.map(drop);
        Ok(last.map_err(|source| claim(partition, source))?)
    }

    /// Ends the rebuild: with this transaction a daemon may start.
    pub async fn finish(self, records: Vec<Record>) -> Result<Genesis, TargetError> {
        let genesis = genesis_of(&self.topics);
        let ends = [special(GENESIS_KEY, Some(genesis.encode())), special(REBUILD_KEY, None)];
        let records = records.into_iter().chain(ends).collect();
        self.commit(0, Batch { records }).await?;
        for producer in self.producers.into_values() {
            producer.close().await;
        }
        Ok(genesis)
    }
}

fn claim(partition: i32, source: SinkError) -> StartError {
    StartError::Claim { partition, source }
}

/// A record of partition 0 of the checkpoint topic.
fn special(key: &str, value: Option<Vec<u8>>) -> Record {
    Record {
        topic: Topic::Checkpoints,
        partition: Some(0),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(Bytes::from),
        headers: vec![],
    }
}
