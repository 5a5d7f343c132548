//! Our side, as Kafka has it: the records that may belong to the range, up to the end as it was when the read began.

use super::gap::RecordedGap;
use super::lists::{Lists, OurRecord};
use super::spill::SpillError;
use super::{Step, Tell};
use crate::audit::Topic;
use crate::kafka::consumer::{NextRecord, ReadError, ReadFrom, RecordView, TopicReader};
use crate::kafka::settings::Settings;
use crate::time::rfc3339_ms;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Records between two words about progress.
const TELL_EVERY: u64 = 2_000;

/// Offsets, by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// Why our side cannot be read from Kafka.
#[derive(Debug, thiserror::Error)]
pub enum KafkaSideError {
    /// Kafka.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Deleted by its retention.
    #[error(
        "Kafka no longer has all that was committed since {since}: {topic}/{partition} begins at {begins}"
    )]
    Gone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What was asked for.
        since: String,
        /// Time of the first record that is left.
        begins: String,
    },
    /// The list cannot be kept.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// The runtime is stopping.
    #[error("the program is stopping")]
    Stopping,
}

/// What was read of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionRead {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// The offset after the last: the last stable offset when the read began.
    pub to: i64,
    /// Records, of whatever entity and time.
    pub records: u64,
    /// Time of the last of them, broker's clock.
    pub last: Option<String>,
    /// When it was read, host's clock.
    pub read: String,
}

/// The topics that hold entries.
pub fn entry_topics(settings: &Settings) -> Vec<String> {
    let topics = Topic::ALL.into_iter().filter(|topic| topic.holds_entries());
    topics.map(|topic| settings.topic(topic).to_owned()).collect()
}

/// Where each partition stands for what was committed at `since_ms` (broker's clock) or later.
/// [`KafkaSideError::Gone`] where some of it may have been deleted.
pub async fn offsets_since(
    settings: Arc<Settings>,
    since_ms: i64,
) -> Result<Offsets, KafkaSideError> {
    blocking(move || {
        let reader = TopicReader::new(&settings)?;
        let mut offsets = Offsets::new();
        for topic in entry_topics(&settings) {
            for partition in 0..reader.partition_count(&topic)? {
                let offset = offset_since(&reader, &topic, partition, since_ms)?;
                offsets.insert((topic.clone(), partition), offset);
            }
        }
        Ok(offsets)
    })
    .await
}

fn offset_since(
    reader: &TopicReader,
    topic: &str,
    partition: i32,
    since_ms: i64,
) -> Result<i64, KafkaSideError> {
    let ends = reader.watermarks(topic, partition)?;
    let at = reader.offset_at(topic, partition, since_ms)?;
    // what was deleted is older than what is left: a record from before the time shows that nothing after it is gone
    let older_is_left = match at {
        Some(at) => at > ends.low,
        None => ends.low < ends.stable,
    };
    if ends.low == 0 || older_is_left {
        return Ok(at.unwrap_or(ends.stable).min(ends.stable));
    }
    let first = reader.next_record(topic, partition, ends.low, |record| record.timestamp_ms)?;
    let begins = match first {
        NextRecord::Record(ms) => rfc3339_ms(ms),
        NextRecord::End(_) => "its end".to_owned(),
    };
    let (topic, since) = (topic.to_owned(), rfc3339_ms(since_ms));
    Err(KafkaSideError::Gone { topic, partition, since, begins })
}

/// Reads from `from` to what is committed by now; returns the lists, what was read, and where it ended.
pub async fn read(
    settings: Arc<Settings>,
    from: Offsets,
    behind_archive: bool,
    lists: Lists,
    tell: Tell,
) -> Result<(Lists, Vec<PartitionRead>, Offsets), KafkaSideError> {
    blocking(move || {
        let reader = TopicReader::new(&settings)?;
        let mut side = Side { reader, lists, tell, behind_archive, read: Vec::new() };
        let mut ends = Offsets::new();
        for ((topic, partition), from) in from {
            let to = side.partition(&topic, partition, from)?;
            ends.insert((topic, partition), to);
        }
        Ok((side.lists, side.read, ends))
    })
    .await
}

struct Side {
    reader: TopicReader,
    lists: Lists,
    tell: Tell,
    behind_archive: bool,
    read: Vec<PartitionRead>,
}

impl Side {
    fn partition(&mut self, topic: &str, partition: i32, from: i64) -> Result<i64, KafkaSideError> {
        let ends = self.reader.watermarks(topic, partition)?;
        // behind the archive Kafka may have deleted what was never archived: the archive's own gaps tell of that
        let from = if self.behind_archive { from.max(ends.low) } else { from };
        let to = ends.stable;
        if from >= to {
            return Ok(from);
        }
        let (mut records, mut last_ms, mut failed) = (0_u64, None, None);
        let Self { reader, lists, tell, behind_archive, .. } = self;
        reader.read_range(topic, partition, from, to, |record| {
            records += 1;
            last_ms = Some(record.timestamp_ms);
            if records.is_multiple_of(TELL_EVERY) {
                tell(Step::Reading { topic, partition, at: record.offset, from, to });
            }
            match take(lists, &record, *behind_archive) {
                Ok(()) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.read.push(PartitionRead {
            topic: topic.to_owned(),
            partition,
            from,
            to,
            records,
            last: last_ms.map(rfc3339_ms),
            read: rfc3339_ms(crate::time::wall_ms()),
        });
        Ok(to)
    }
}

fn take(lists: &mut Lists, record: &RecordView<'_>, behind: bool) -> Result<(), SpillError> {
    let header = |name: &str| record.header(name);
    lists.take_ours(&OurRecord { value: record.value, header: &header, behind_archive: behind })
}

/// The gaps that are recorded of an entity and touch `[from_s, to_s)`; at most `most`, and how many there are.
pub async fn gaps(
    settings: Arc<Settings>,
    entity: String,
    (from_s, to_s): (i64, i64),
    most: usize,
) -> Result<(Vec<RecordedGap>, usize), KafkaSideError> {
    blocking(move || {
        let (mut gaps, mut count) = (Vec::new(), 0);
        let reader = TopicReader::new(&settings)?;
        let topic = settings.topic(Topic::Gaps);
        for partition in 0..reader.partition_count(topic)? {
            reader.read_to_end(topic, partition, ReadFrom::Beginning, |record| {
                let of_entity = record.key == Some(entity.as_bytes());
                let gap = record.value.and_then(RecordedGap::read).filter(|_| of_entity);
                let Some(gap) = gap.filter(|gap| gap.touches(from_s, to_s)) else { return };
                count += 1;
                if gaps.len() < most {
                    gaps.push(gap);
                }
            })?;
        }
        Ok((gaps, count))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaSideError> + Send + 'static,
) -> Result<T, KafkaSideError> {
    // ends by the bounds of the calls inside
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(KafkaSideError::Stopping))
}
