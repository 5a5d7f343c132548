//! Sends records of other topics again, and moves a group's offsets in the same transaction: where a copy stands in the
//! target, its source's offset is behind it, and the other way round.
//!
//! The group never joins anything; it is the place where progress is kept. Kafka forgets a group's offsets when nobody
//! has committed any for `offsets.retention.minutes` (7 days by default).

use super::{Asked, Engine, Failure, OpenError, Producer, RECORD_OVERHEAD_BYTES, call_timeout};
use crate::audit::Record;
use crate::audit::replay::{ReplayId, Span};
use crate::kafka::client::{Context, Ears};
use crate::kafka::consumer::ReadError;
use crate::kafka::scout::blocking;
use crate::kafka::settings::{CALL_TIMEOUT, MESSAGE_BYTES_MAX, Role, Settings};
use crate::kafka::triage::{Action, Facts};
use crate::kafka::{SinkError, scout};
use crate::metrics::Metrics;
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Delivery opaque of a record that goes to none of our topics.
const FOREIGN: usize = usize::MAX;
/// Bytes around a header, at most.
const HEADER_OVERHEAD_BYTES: usize = 10;
/// Bytes that the marks of a replay take, at most: an id, the longest name of a topic with partition and offset, a time.
const MARKS_BYTES_MAX: usize = 480;
/// Longest that progress is asked for: a transaction of a process that was killed may have to end first.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(90);
/// Pause before it is asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A record to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order, and ours behind them.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Its time, epoch milliseconds; -1: none.
    pub timestamp_ms: i64,
}

impl Copy {
    /// Bytes of key, value and headers.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
        length(&self.key) + length(&self.value) + headers
    }

    /// Upper bound of its bytes as the only record of an uncompressed batch.
    pub fn wire_bytes(&self) -> usize {
        self.bytes() + HEADER_OVERHEAD_BYTES * self.headers.len() + RECORD_OVERHEAD_BYTES
    }

    /// The same of a record that stands in a topic, before it is marked as sent again.
    pub fn wire_bytes_with(bytes: usize, headers: usize) -> usize {
        bytes + MARKS_BYTES_MAX + HEADER_OVERHEAD_BYTES * headers + RECORD_OVERHEAD_BYTES
    }
}

/// What one transaction of a replay holds: all of it, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyBatch {
    /// Where the copies go.
    pub topic: String,
    /// The copies.
    pub copies: Vec<Copy>,
    /// Records to topics of ours, beside them.
    pub records: Vec<Record>,
    /// For each source partition: topic, partition, the next offset to be looked at, and a note kept with it.
    pub progress: Vec<Progress>,
}

impl CopyBatch {
    pub(super) fn len(&self) -> usize {
        self.copies.len() + self.records.len()
    }
}

/// How far a source partition has been dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The next offset to be looked at.
    pub next: i64,
    /// What the caller keeps with it; short.
    pub note: String,
}

/// The consumer group in which a replay's progress is kept; also its transactional id.
pub fn copy_group(settings: &Settings, id: &ReplayId) -> String {
    format!("{}-replay-{id}", settings.id_prefix)
}

impl Producer {
    /// Opens the producer of a replay: fences every older one of the same replay and ends its transaction.
    ///
    /// Waits at most about `patience` for the brokers.
    pub async fn open_copier(
        settings: Arc<Settings>,
        id: &ReplayId,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let name = copy_group(&settings, id);
        let refused = |message: String| OpenError::Refused { id: name.clone(), message };
        let group = group_client(&settings, &name)
            .map_err(|error| refused(error.to_string()))?
            .0
            .group_metadata()
            .ok_or_else(|| refused("librdkafka knows no group".to_owned()))?;
        let mut config = settings.client_config(Role::Probe);
        config.set("transactional.id", &name);
        let thread = "kafka-replay".to_owned();
        let asked = Asked { config, name: thread, partition: 0, group: Some(group), patience };
        Self::open_as(asked, settings, metrics).await
    }

    /// Sends copies, records and progress in one transaction.
    ///
    /// Returns when the outcome is known. Cancelling the future does not cancel the transaction.
    pub async fn copy(&self, batch: Arc<CopyBatch>) -> Result<(), SinkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(super::Command::Copy { batch, reply }, answer).await
    }
}

impl Engine {
    pub(super) fn copy(&self, batch: &CopyBatch) -> Result<(), SinkError> {
        self.check_sizes(&batch.records)?;
        check_copies(batch)?;
        let deadline = Instant::now() + self.transaction_timeout;
        let outcome = self
            .begin()
            .and_then(|()| self.send_copies(batch, deadline))
            .and_then(|()| self.send_records(&batch.records, deadline))
            .and_then(|()| self.delivered(batch.len(), deadline))
            .and_then(|()| self.send_progress(batch, deadline))
            .and_then(|()| self.end_by_commit(deadline));
        self.conclude(outcome).map_err(|error| named(error, &batch.topic))
    }

    fn send_copies(&self, batch: &CopyBatch, deadline: Instant) -> Result<(), Failure> {
        batch.copies.iter().try_for_each(|copy| {
            let mut message: BaseRecord<'_, [u8], [u8], usize> =
                BaseRecord::with_opaque_to(&batch.topic, FOREIGN);
            message.key = copy.key.as_deref();
            message.payload = copy.value.as_deref();
            message.timestamp = (copy.timestamp_ms >= 0).then_some(copy.timestamp_ms);
            message.headers = Some(headers(copy));
            self.send(message, None, deadline)
        })
    }

    /// The group's offsets become part of the transaction. The same call again while librdkafka says so.
    fn send_progress(&self, batch: &CopyBatch, deadline: Instant) -> Result<(), Failure> {
        let Some(group) = self.group.as_ref().filter(|_| !batch.progress.is_empty()) else {
            return Ok(());
        };
        let offsets = offsets(&batch.progress).map_err(|error| self.failure(&error, None))?;
        loop {
            let timeout = call_timeout(deadline);
            let Err(error) = self.producer.send_offsets_to_transaction(&offsets, group, timeout)
            else {
                return Ok(());
            };
            match Facts::of(&error).action() {
                Action::Again | Action::Drain if Instant::now() < deadline => {
                    self.metrics.retry("kafka", "offsets");
                }
                _ => return Err(self.failure(&error, None)),
            }
        }
    }
}

fn headers(copy: &Copy) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(copy.headers.len());
    copy.headers.iter().fold(headers, |headers, (key, value)| {
        headers.insert(Header { key, value: value.as_deref() })
    })
}

fn offsets(progress: &[Progress]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(progress.len());
    for it in progress {
        let mut place = list.add_partition(&it.topic, it.partition);
        place.set_offset(Offset::Offset(it.next))?;
        place.set_metadata(&it.note);
    }
    Ok(list)
}

/// Refuses what no topic takes before a transaction is spent on it.
fn check_copies(batch: &CopyBatch) -> Result<(), SinkError> {
    let too_large = batch.copies.iter().map(Copy::wire_bytes).find(|it| *it > MESSAGE_BYTES_MAX);
    too_large.map_or(Ok(()), |bytes| {
        let message = format!("a record of {bytes} bytes: more than {MESSAGE_BYTES_MAX}");
        Err(SinkError::Content { topic: None, too_large: true, message })
    })
}

/// A fault of the copies' topic, with its name.
fn named(error: SinkError, target: &str) -> SinkError {
    match error {
        SinkError::Content { topic: None, too_large, message } => {
            let remedy = if too_large {
                format!("set its max.message.bytes to {MESSAGE_BYTES_MAX}")
            } else {
                "see that it exists and that this user may write to it, and read and describe the replay's group"
                    .to_owned()
            };
            let message = format!("topic {target}: {message}: {remedy}");
            SinkError::Content { topic: None, too_large, message }
        }
        other => other,
    }
}

/// A consumer of the group, which never joins it.
fn group_client(
    settings: &Settings,
    group: &str,
) -> Result<(BaseConsumer<Context>, Arc<Ears>), KafkaError> {
    let mut config = settings.client_config(Role::Consumer);
    config.set("group.id", group);
    let ears = Arc::new(Ears::new(settings.contact.clone()));
    let client = config.create_with_context(Context::new(Arc::clone(&ears)))?;
    Ok((client, ears))
}

impl Progress {
    /// What a replay's group has committed for each of some spans; `None` where it has nothing, or no more.
    ///
    /// Waits until a transaction that is still open has ended.
    pub async fn read(
        settings: Arc<Settings>,
        id: &ReplayId,
        spans: &[Span],
    ) -> Result<Vec<Option<Self>>, ReadError> {
        let group = copy_group(&settings, id);
        let spans = spans.to_vec();
        blocking(move || read_progress(&settings, &group, &spans)).await
    }
}

impl From<scout::Ended> for ReadError {
    fn from(_: scout::Ended) -> Self {
        Self::Client { message: "the program is stopping".to_owned() }
    }
}

fn read_progress(
    settings: &Settings,
    group: &str,
    spans: &[Span],
) -> Result<Vec<Option<Progress>>, ReadError> {
    let failed = |error: KafkaError| ReadError::Client { message: error.to_string() };
    let (client, ears) = group_client(settings, group).map_err(failed)?;
    let began = Instant::now();
    loop {
        let mut asked = TopicPartitionList::with_capacity(spans.len());
        for span in spans {
            asked.add_partition(&span.topic, span.partition);
        }
        let answer = client.committed_offsets(asked, CALL_TIMEOUT);
        let error = match answer.and_then(|found| whole(&found).map(|()| found)) {
            Ok(found) => return Ok(spans.iter().map(|span| of_span(&found, span)).collect()),
            Err(error) => error,
        };
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            let message = format!("group {group} refused: grant Read and Describe on it");
            return Err(ReadError::Client { message });
        }
        if began.elapsed() > PROGRESS_TIMEOUT {
            return Err(ReadError::Unreachable {
                what: format!("the offsets of group {group}"),
                brokers: settings.brokers.clone(),
                seconds: PROGRESS_TIMEOUT.as_secs(),
                because: ears.reason_or(error),
            });
        }
        // serves the error callback
        drop(client.poll(Duration::ZERO));
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// An answer of which every part is known.
fn whole(found: &TopicPartitionList) -> Result<(), KafkaError> {
    found
        .elements()
        .iter()
        .try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)
}

fn of_span(found: &TopicPartitionList, span: &Span) -> Option<Progress> {
    let found = found.find_partition(&span.topic, span.partition)?;
    let Offset::Offset(next) = found.offset() else {
        return None;
    };
    let (topic, note) = (span.topic.clone(), found.metadata().to_owned());
    Some(Progress { topic, partition: span.partition, next, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_goes_in_with_its_note() {
        let progress = |partition, next, note: &str| Progress {
            topic: "t".to_owned(),
            partition,
            next,
            note: note.to_owned(),
        };
        let all = [progress(0, 12, "7,1200"), progress(3, 0, "")];
        let list = offsets(&all).unwrap();
        let span = |partition| Span { topic: "t".to_owned(), partition, from: 0, to: 99 };
        assert_eq!(of_span(&list, &span(0)).as_ref(), Some(&all[0]));
        assert_eq!(of_span(&list, &span(3)).as_ref(), Some(&all[1]));
        assert_eq!(of_span(&list, &span(1)), None);
    }

    #[test]
    fn what_no_topic_takes_is_told_before_it_is_sent() {
        let copy = |bytes: usize| Copy {
            key: None,
            value: Some(Bytes::from(vec![0; bytes])),
            headers: vec![("a".to_owned(), None)],
            timestamp_ms: -1,
        };
        let batch =
            |bytes| CopyBatch { copies: vec![copy(1), copy(bytes)], ..CopyBatch::default() };
        assert_eq!(copy(5).bytes(), 6);
        assert!(check_copies(&batch(1_000_000)).is_ok());
        let error = named(check_copies(&batch(MESSAGE_BYTES_MAX)).unwrap_err(), "siem");
        assert!(error.to_string().contains("topic siem: a record of 83"), "{error}");
    }
}
