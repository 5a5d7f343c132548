//! Taking checkpoint partitions over, and giving them up: who may write, and from where it goes on.
//!
//! Order of a start, and what a crash after each step leaves behind:
//! 1. topics are created: empty topics, which the next start takes as they are.
//! 2. state is looked at, and whatever is wrong refused: nothing was changed yet.
//! 3. producers are opened: older ones are fenced, their open transactions aborted. Nothing is written.
//! 4. the owner record of each partition is committed; at a first run the genesis with that of partition 0, in one
//!    transaction: there is never an owner without a genesis.
//! 5. checkpoints are read to their proven ends: only we can write there now.

use super::consumer::TopicReader;
use super::producer::{OpenError, Producer};
use super::restore::{Reached, RestoreError, Restored, Until, read_partitions, read_reached};
use super::scout::{Scout, ScoutError, blocking};
use super::settings::Settings;
use super::topics::{self, TopicError, TopicState};
use super::{Sink as _, SinkError};
use crate::audit::checkpoint::{GENESIS_KEY, Rebuild, STATE_VERSION, owner_key};
use crate::audit::{Batch, Checkpoint, EntityName, EntityState, Genesis, Owner, Record, Topic};
use crate::metrics::Metrics;
use crate::time::wall_ms;
use bytes::Bytes;
use futures_util::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Longest that opening one producer waits for the brokers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the daemon cannot take its partitions.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The topics are not there, or not usable.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// No producer.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// State could not be read, or not be trusted.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The first transaction did not go through.
    #[error("the owner record of checkpoint partition {partition} was not committed: {source}")]
    Claim {
        /// The partition.
        partition: i32,
        /// Why.
        source: SinkError,
    },
    /// No genesis beside records.
    #[error(
        "topic {checkpoints} has no genesis, while {holding} holds records: a deleted topic is never a first run. \
         Restore {checkpoints} from a backup, or start once with --init to begin anew: what GitHub still has is then \
         read again, and dropped only as far as the seen ids are still there"
    )]
    GenesisMissing {
        /// The checkpoint topic.
        checkpoints: String,
        /// A topic that holds records.
        holding: String,
    },
    /// What is there is unfinished.
    #[error(
        "a rebuild from the archive (process {} on {}, begun {}) has not ended here: run it again to its end, \
         `ghauditd checkpoint rebuild --from-archive --execute`", .0.pid, .0.host, crate::time::rfc3339_ms(.0.started_ms)
    )]
    RebuildUnfinished(Rebuild),
    /// The config names other topics than the first run.
    #[error(
        "the genesis lists topic {name}, which the config does not name: names are fixed from the first run on, correct \
         [kafka.topics] or the prefix"
    )]
    TopicRenamed {
        /// The listed topic.
        name: String,
    },
    /// A listed topic has other partitions than at the first run.
    #[error(
        "topic {name} has {found} partitions, at the first run it had {listed}: it was recreated or changed; restore it \
         as it was, or begin anew under other topic names"
    )]
    PartitionsChanged {
        /// The topic.
        name: String,
        /// Partitions now.
        found: i32,
        /// Partitions in the genesis.
        listed: i32,
    },
    /// Data is further than the checkpoint that accounts for it.
    #[error(
        "{} / {} holds sequence {} of entity {entity} at offset {}, its checkpoint is at {checkpoint}: the checkpoint topic was \
         deleted, recreated or rolled back. Restore it from a backup, or start once with --init to go on after that \
         sequence", .reached.topic, .reached.partition, .reached.sequence, .reached.offset
    )]
    DataAhead {
        /// The entity.
        entity: EntityName,
        /// Sequence of its checkpoint; 0 without one.
        checkpoint: u64,
        /// The record found.
        reached: Reached,
    },
    /// Another instance owns the partition.
    #[error(
        "checkpoint partition {partition} is owned by another ghauditd: process {} on {}, started {}: stop one of the two, \
         or give one another kafka.id_prefix and other topics", .owner.pid, .owner.host, crate::time::rfc3339_ms(.owner.started_ms)
    )]
    OwnedByOther {
        /// The partition.
        partition: i32,
        /// Who.
        owner: Owner,
    },
}

impl From<ScoutError> for StartError {
    fn from(error: ScoutError) -> Self {
        Self::Topics(TopicError::Unreachable(error))
    }
}

impl StartError {
    /// Whether trying again later can help without anyone doing anything: the brokers are away.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Topics(
                TopicError::NotNow { .. } | TopicError::Unreachable(ScoutError::Unreachable { .. }),
            )
            | Self::Open(OpenError::Unreachable { .. }) => true,
            Self::Topics(TopicError::Unreachable(ScoutError::Read(error))) => error.is_retriable(),
            Self::Restore(error) => error.is_retriable(),
            Self::Claim { source, .. } => !matches!(source, SinkError::Content { .. }),
            _ => false,
        }
    }
}

/// What a start hands over.
#[derive(Debug)]
pub struct Acquired {
    /// For taking a partition again after [`SinkError::Lost`] or [`SinkError::Fenced`].
    pub ownership: Ownership,
    /// One producer for each partition asked for.
    pub producers: BTreeMap<i32, Producer>,
    /// The genesis of this installation.
    pub genesis: Genesis,
    /// State of the entities in these partitions; an entity that never committed has none.
    pub entities: BTreeMap<EntityName, EntityState>,
    /// The topics as they are.
    pub topics: Vec<TopicState>,
    /// What the operator should know: to be logged once.
    pub warnings: Vec<String>,
}

/// Who we are, for as long as the process runs.
#[derive(Debug, Clone)]
pub struct Ownership {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    me: Owner,
}

impl Ownership {
    /// Takes checkpoint partitions over from whoever had them. See the order at the top of this file.
    ///
    /// `init` allows what is otherwise refused because it looks like a deleted topic.
    pub async fn acquire(
        settings: Arc<Settings>,
        partitions: BTreeSet<i32>,
        entities: &[EntityName],
        init: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Acquired, StartError> {
        let ownership = Self::of_this_process(settings, metrics);
        let topics = topics::ensure(Arc::clone(&ownership.settings), init).await?;
        let reader = Reader::open(&ownership.settings).await?;
        let known = ownership.survey(&reader, &topics, init).await?;
        let mut producers = ownership.open_all(&partitions, known.genesis.is_none()).await?;
        let genesis = match known.genesis {
            Some(genesis) => genesis,
            None => ownership.begin(&reader, &producers, &topics).await?,
        };
        try_join_all(producers.values().map(|producer| ownership.claim(producer, None))).await?;
        if !partitions.contains(&0)
            && let Some(first) = producers.remove(&0)
        {
            first.close().await;
        }
        for note in grown(&genesis, &topics) {
            tracing::info!("{note}");
        }
        let mut warnings: Vec<String> =
            topics.iter().flat_map(|topic| topic.warnings.clone()).collect();
        warnings.extend(orphans(&known.checkpoints, entities));
        let entities = ownership.restore(&reader, &producers, init, &mut warnings).await?;
        Ok(Acquired { ownership, producers, genesis, entities, topics, warnings })
    }

    pub(super) fn of_this_process(settings: Arc<Settings>, metrics: Arc<Metrics>) -> Self {
        Self { settings, metrics, me: this_process() }
    }

    pub(super) fn me(&self) -> &Owner {
        &self.me
    }

    /// The random id of this process's run, as in its owner records.
    pub fn run(&self) -> &str {
        &self.me.run
    }

    /// Takes a partition again after its producer was lost or fenced; refuses when another instance owns it now.
    ///
    /// The checkpoints tell whether the last transaction was committed.
    pub async fn reopen(
        &self,
        partition: i32,
    ) -> Result<(Producer, BTreeMap<EntityName, EntityState>), StartError> {
        let reader = Reader::open(&self.settings).await?;
        // first without fencing: another instance must not be disturbed by one that lost
        let mut before = self.read(&reader, [partition], Until::Now).await?;
        self.refuse_other(partition, before.owners.remove(&partition))?;
        let producer = self.open(partition).await?;
        let mut restored = self.read(&reader, [partition], Until::End).await?;
        // it may have come between the look and the fence: then it is the newer one, and takes the partition back
        self.refuse_other(partition, restored.owners.remove(&partition))?;
        self.claim(&producer, None).await?;
        Ok((producer, restored.into_entities()))
    }

    fn refuse_other(&self, partition: i32, owner: Option<Owner>) -> Result<(), StartError> {
        match owner {
            Some(owner) if owner.run != self.me.run => {
                Err(StartError::OwnedByOther { partition, owner })
            }
            _ => Ok(()),
        }
    }

    /// Step 2: looks at all state without changing anything.
    async fn survey(
        &self,
        reader: &Reader,
        topics: &[TopicState],
        init: bool,
    ) -> Result<Restored, StartError> {
        let count = self.settings.partitions(Topic::Checkpoints);
        let known = self.read(reader, 0..count, Until::Now).await?;
        if let Some(rebuild) = known.rebuild {
            return Err(StartError::RebuildUnfinished(rebuild));
        }
        match &known.genesis {
            Some(genesis) => check_listed(genesis, topics)?,
            None if init => {}
            None => {
                let names = topics.iter().map(|topic| topic.name.clone()).collect();
                let holding = Scout::open(&self.settings).await?.first_with_records(names).await?;
                if let Some(holding) = holding {
                    let checkpoints = self.settings.topic(Topic::Checkpoints).to_owned();
                    return Err(StartError::GenesisMissing { checkpoints, holding });
                }
            }
        }
        Ok(known)
    }

    /// Step 3. A first run needs partition 0 for the genesis, whoever lives there.
    pub(super) async fn open_all(
        &self,
        partitions: &BTreeSet<i32>,
        is_first_run: bool,
    ) -> Result<BTreeMap<i32, Producer>, StartError> {
        let mut all = partitions.clone();
        if is_first_run {
            all.insert(0);
        }
        let opened = try_join_all(all.iter().map(|partition| self.open(*partition))).await?;
        Ok(opened.into_iter().map(|producer| (producer.partition(), producer)).collect())
    }

    async fn open(&self, partition: i32) -> Result<Producer, StartError> {
        let (settings, metrics) = (Arc::clone(&self.settings), Arc::clone(&self.metrics));
        Ok(Producer::open(settings, partition, metrics, PATIENCE).await?)
    }

    /// Step 4 of a first run. Another first run may have been faster until we fenced it: then its genesis stands.
    async fn begin(
        &self,
        reader: &Reader,
        producers: &BTreeMap<i32, Producer>,
        topics: &[TopicState],
    ) -> Result<Genesis, StartError> {
        let first = self.read(reader, [0], Until::End).await?;
        if let Some(rebuild) = first.rebuild {
            // it began after we had looked
            return Err(StartError::RebuildUnfinished(rebuild));
        }
        if let Some(genesis) = first.genesis {
            check_listed(&genesis, topics)?;
            return Ok(genesis);
        }
        let genesis = genesis_of(topics);
        if let Some(first) = producers.get(&0) {
            self.claim(first, Some(&genesis)).await?;
        }
        Ok(genesis)
    }

    /// Step 4: the owner record, before anything else is written.
    async fn claim(
        &self,
        producer: &Producer,
        genesis: Option<&Genesis>,
    ) -> Result<(), StartError> {
        let genesis = genesis.map(|genesis| state_record(producer, GENESIS_KEY, genesis.encode()));
        let owner = self.owner_record(producer);
        write(producer, genesis.into_iter().chain([owner]).collect()).await
    }

    pub(super) fn owner_record(&self, producer: &Producer) -> Record {
        state_record(producer, &owner_key(producer.partition()), self.me.encode())
    }

    /// Step 5.
    async fn restore(
        &self,
        reader: &Reader,
        producers: &BTreeMap<i32, Producer>,
        init: bool,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<EntityName, EntityState>, StartError> {
        let partitions: Vec<i32> = producers.keys().copied().collect();
        let mut restored = self.read(reader, partitions, Until::End).await?;
        let checkpoints = &mut restored.checkpoints;
        let reached = reader.with(&self.settings, read_reached);
        let count = self.settings.partitions(Topic::Checkpoints);
        for (entity, reached) in reached.await? {
            let checkpoint = checkpoints.get(&entity).map_or(0, |known| known.sequence);
            // other partitions are other instances' business
            let Some(producer) = producers.get(&entity.partition(count)) else { continue };
            if reached.sequence <= checkpoint {
                continue;
            }
            if !init {
                return Err(StartError::DataAhead { entity, checkpoint, reached });
            }
            warnings.push(format!(
                "entity {entity}: its checkpoint was at sequence {checkpoint}, {} is at {}: going on after that, because of --init",
                reached.topic, reached.sequence
            ));
            let begun =
                checkpoints.entry(entity.clone()).or_insert_with(|| Checkpoint::empty(entity));
            begun.sequence = reached.sequence;
            // written now: the next start comes without --init
            let record = state_record(producer, begun.entity.as_str(), begun.encode());
            write(producer, vec![record]).await?;
        }
        Ok(restored.into_entities())
    }

    async fn read(
        &self,
        reader: &Reader,
        partitions: impl IntoIterator<Item = i32> + Send + 'static,
        until: Until,
    ) -> Result<Restored, RestoreError> {
        reader.restored(&self.settings, partitions, until).await
    }
}

/// Clients for reading, kept for one start: making and dropping them costs more than the reading.
pub(super) struct Reader(Option<Arc<TopicReader>>);

impl Reader {
    pub(super) async fn restored(
        &self,
        settings: &Arc<Settings>,
        partitions: impl IntoIterator<Item = i32> + Send + 'static,
        until: Until,
    ) -> Result<Restored, RestoreError> {
        self.with(settings, move |reader, settings| {
            read_partitions(reader, settings, partitions, until)
        })
        .await
    }

    pub(super) async fn open(settings: &Arc<Settings>) -> Result<Self, RestoreError> {
        let settings = Arc::clone(settings);
        blocking(move || Ok(Self(Some(Arc::new(TopicReader::new(&settings)?))))).await
    }

    /// Runs what blocks away from the event loop.
    async fn with<T: Send + 'static>(
        &self,
        settings: &Arc<Settings>,
        work: impl FnOnce(&TopicReader, &Settings) -> Result<T, RestoreError> + Send + 'static,
    ) -> Result<T, RestoreError> {
        // taken only by the drop
        let Some(reader) = self.0.clone() else { return Err(RestoreError::Stopping) };
        let settings = Arc::clone(settings);
        blocking(move || work(&reader, &settings)).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // closing a consumer blocks for 100 ms and more: not on the event loop
        let reader = self.0.take();
        drop(tokio::task::spawn_blocking(move || drop(reader)));
    }
}

fn state_record(producer: &Producer, key: &str, value: Vec<u8>) -> Record {
    Record {
        topic: Topic::Checkpoints,
        partition: Some(producer.partition()),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::from(value)),
        headers: vec![],
    }
}

pub(super) async fn write(producer: &Producer, records: Vec<Record>) -> Result<(), StartError> {
    let partition = producer.partition();
    let committed = producer.commit(Batch { records }).await;
    committed.map(drop).map_err(|source| StartError::Claim { partition, source })
}

/// Shows that every topic could be written, by a transaction that is aborted. Fences no daemon.
pub async fn probe_write(settings: Arc<Settings>, metrics: Arc<Metrics>) -> Result<(), StartError> {
    let found = Scout::open(&settings).await?.topics().await?;
    let record = |topic| Record {
        topic,
        partition: Some(0),
        key: Bytes::from_static(b"#probe"),
        value: Some(Bytes::from_static(b"{}")),
        headers: vec![],
    };
    let there = Topic::ALL.into_iter().filter(|topic| found.contains_key(settings.topic(*topic)));
    let records = there.map(record).collect();
    let producer = Producer::open_probe(settings, metrics, PATIENCE).await?;
    let rehearsed = producer.rehearse(Batch { records }).await;
    producer.close().await;
    rehearsed.map_err(|source| StartError::Claim { partition: 0, source })
}

/// What the first run listed must be named by the config, and have the partitions that it had.
fn check_listed(genesis: &Genesis, topics: &[TopicState]) -> Result<(), StartError> {
    for (name, listed) in &genesis.topics {
        let Some(topic) = topics.iter().find(|topic| topic.name == *name) else {
            return Err(StartError::TopicRenamed { name: name.clone() });
        };
        // a data topic may have been given more partitions since
        let is_grown = !topic.topic.is_state() && topic.partitions > *listed;
        if topic.partitions != *listed && !is_grown {
            let (name, found, listed) = (name.clone(), topic.partitions, *listed);
            return Err(StartError::PartitionsChanged { name, found, listed });
        }
    }
    Ok(())
}

/// Data topics that were given more partitions since the first run, and what that means.
fn grown(genesis: &Genesis, topics: &[TopicState]) -> Vec<String> {
    let listed = |topic: &TopicState| genesis.topics.get(&topic.name).copied();
    topics
        .iter()
        .filter_map(|topic| Some((topic, listed(topic).filter(|had| topic.partitions > *had)?)))
        .map(|(topic, had)| {
            format!(
                "topic {} has {} partitions, at the first run it had {had}: entries of a key may now go to another \
                 partition than before, so for a while consumers see the order of a key only by its sequence header; \
                 nothing is lost, the archive reads the new partitions from their beginning",
                topic.name, topic.partitions
            )
        })
        .collect()
}

/// Entities that were taken out of the config keep their state.
fn orphans<'a>(
    checkpoints: &'a BTreeMap<EntityName, Checkpoint>,
    entities: &'a [EntityName],
) -> impl Iterator<Item = String> + 'a {
    checkpoints.iter().filter(|(name, _)| !entities.contains(name)).map(|(name, checkpoint)| {
        format!(
            "entity {name} has state (sequence {}) and is not in the config: its log is not read",
            checkpoint.sequence
        )
    })
}

/// The genesis of an installation that begins with these topics.
pub(super) fn genesis_of(topics: &[TopicState]) -> Genesis {
    Genesis {
        version: STATE_VERSION,
        instance: random_id(),
        topics: topics.iter().map(|topic| (topic.name.clone(), topic.partitions)).collect(),
        created_ms: wall_ms(),
    }
}

/// The name of this host; empty where it has none.
pub fn host_name() -> String {
    // no name is worth a failed start
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

fn this_process() -> Owner {
    Owner {
        version: STATE_VERSION,
        run: random_id(),
        host: host_name(),
        pid: std::process::id(),
        started_ms: wall_ms(),
    }
}

fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_topic_that_has_grown_is_told_and_nothing_else() {
        let topic = |topic: Topic, partitions| TopicState {
            topic,
            name: topic.default_name().to_owned(),
            partitions,
            replication: 1,
            message_bytes_max: 1,
            created: false,
            warnings: Vec::new(),
        };
        let genesis = Genesis {
            version: STATE_VERSION,
            instance: random_id(),
            topics: [("github.audit.web".to_owned(), 6), ("ghauditd.seen.web".to_owned(), 12)]
                .into(),
            created_ms: 0,
        };
        let same = [topic(Topic::Web, 6), topic(Topic::SeenWeb, 12), topic(Topic::Stream, 6)];
        assert_eq!(grown(&genesis, &same), Vec::<String>::new());
        let told = grown(&genesis, &[topic(Topic::Web, 8)]);
        assert_eq!(told.len(), 1);
        assert!(
            told[0]
                .starts_with("topic github.audit.web has 8 partitions, at the first run it had 6")
        );
    }
}
