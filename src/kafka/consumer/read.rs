//! Everything that is committed in one partition, with the proof that this was all; and single looks at a place.

use super::client::{Consumer, Isolation, consumer};
use crate::kafka::client::SILENT;
use crate::kafka::settings::Settings;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Longest single call into librdkafka: far below a third of any sensible watchdog time.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Without any sign of life for this long a read fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before a failed look-up is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often the last stable offset is asked for while another producer's transaction is open.
const LSO_PAUSE: Duration = Duration::from_millis(50);

/// Most events served after a failed look-up; librdkafka queues a handful for each.
const EVENTS_AT_ONCE: usize = 64;

/// A record as it lies in the client's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its time, epoch milliseconds; -1 where it has none, as in Kafka's protocol.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl<'a> RecordView<'a> {
    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().find(|(key, _)| *key == name).and_then(|(_, value)| *value)
    }

    /// Bytes of key, value and headers.
    pub fn bytes(&self) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(*value));
        length(self.key) + length(self.value) + headers.sum::<usize>()
    }

    pub(super) fn of(message: &'a BorrowedMessage<'_>) -> Self {
        Self {
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key(),
            value: message.payload(),
            headers: message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|header| (header.key, header.value)).collect()
            }),
        }
    }
}

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The first record that Kafka still has.
    Beginning,
    /// This offset, which must not have been deleted yet.
    Offset(i64),
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that Kafka still has.
    pub low: i64,
    /// The offset after the last record, committed or not.
    pub high: i64,
    /// The offset before which everything is committed or aborted (last stable offset).
    pub stable: i64,
}

/// What stands at or after an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextRecord<T> {
    /// What was made of the first committed record there.
    Record(T),
    /// No committed record from there up to this offset, which is a last stable offset.
    End(i64),
}

/// Why a read failed. None of these ever means "empty".
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The client could not be made: a property is wrong.
    #[error("kafka client for reading not made: {message}; correct [kafka] in the config")]
    Client {
        /// librdkafka's words.
        message: String,
    },
    /// The topic is not there.
    #[error(
        "topic {topic} does not exist, or must not be seen: check its name, and grant Describe and Read; ghauditd creates its own topics at its first `run`"
    )]
    NoTopic {
        /// Its name.
        topic: String,
    },
    /// The partition is not there.
    #[error("topic {topic} has no partition {partition}")]
    NoPartition {
        /// Its topic.
        topic: String,
        /// Its number.
        partition: i32,
    },
    /// The offset is not there: deleted by retention, or the topic was recreated.
    #[error(
        "offset {offset} of {topic}/{partition} is outside of what Kafka has, {low} to {high}: deleted by retention, or the topic was recreated"
    )]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: i64,
        /// The first offset there.
        low: i64,
        /// The offset after the last.
        high: i64,
    },
    /// No answer in time; may be tried again.
    #[error("{what}: no answer from Kafka at {brokers} within {seconds} s: {because}")]
    Unreachable {
        /// What was asked.
        what: String,
        /// `bootstrap.servers`.
        brokers: String,
        /// How long it was waited for.
        seconds: u64,
        /// The last connection error, where there was one, and what to do.
        because: String,
    },
    /// Kafka refuses.
    #[error("reading {topic}/{partition} refused: {message}; grant Read and Describe on the topic")]
    Refused {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// librdkafka's words.
        message: String,
    },
}

impl ReadError {
    /// Whether trying again can help without anyone doing anything.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Reads one partition to its end, `read_committed`.
///
/// First asks for the high watermark as a `read_uncommitted` client sees it, waits until everything below it is
/// decided, then reads until the end of the partition lies at or behind it. Blocks: call it on a thread of its own.
/// Returns the offset to go on from. A missing topic, an error or a time-out is an error, never "empty".
pub fn read_to_end(
    settings: &Settings,
    topic: &str,
    partition: i32,
    from: ReadFrom,
    on_record: impl FnMut(RecordView<'_>),
) -> Result<i64, ReadError> {
    TopicReader::new(settings)?.read_to_end(topic, partition, from, on_record)
}

/// Two clients, one for each isolation level, kept for several reads (making and dropping them costs 0.1 to 0.5 s).
pub struct TopicReader {
    committed: Consumer,
    uncommitted: Consumer,
    brokers: String,
    open_transaction_timeout: Duration,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader").finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Makes the clients; connects to nothing yet.
    pub fn new(settings: &Settings) -> Result<Self, ReadError> {
        let group = format!("{}-reader", settings.id_prefix);
        let limits = [
            ("queued.max.messages.kbytes", "8192".to_owned()),
            ("fetch.max.bytes", (4 << 20).to_string()),
            ("fetch.message.max.bytes", (1 << 20).to_string()),
            ("fetch.wait.max.ms", "10".to_owned()),
        ];
        let make = |isolation| {
            consumer(settings, isolation, &group, &limits)
                .map_err(|error| ReadError::Client { message: error.to_string() })
        };
        Ok(Self {
            committed: make(Isolation::Committed)?,
            uncommitted: make(Isolation::Uncommitted)?,
            brokers: settings.brokers.clone(),
            open_transaction_timeout: settings.transaction_timeout + STALL_TIMEOUT,
        })
    }

    /// How many partitions a topic has; [`ReadError::NoTopic`] when it does not exist.
    pub fn partition_count(&self, topic: &str) -> Result<i32, ReadError> {
        let metadata = self.retry(&self.committed, &format!("metadata of {topic}"), || {
            self.committed.kafka.fetch_metadata(Some(topic), CALL_TIMEOUT)
        })?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found {
            Some(found) if found.error().is_none() && !found.partitions().is_empty() => {
                Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))
            }
            _ => Err(ReadError::NoTopic { topic: topic.to_owned() }),
        }
    }

    /// The ends of a partition, asked now.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<Watermarks, ReadError> {
        // The stable end first: asked second it could be newer than the high watermark.
        let (_, stable) = self.fetch_watermarks(&self.committed, topic, partition)?;
        let (low, high) = self.fetch_watermarks(&self.uncommitted, topic, partition)?;
        Ok(Watermarks { low, high, stable })
    }

    /// The offset after the last record, committed or not.
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Result<i64, ReadError> {
        Ok(self.fetch_watermarks(&self.uncommitted, topic, partition)?.1)
    }

    /// The offset of the first record whose timestamp is `at_ms` (epoch milliseconds) or later; `None` where there is none.
    pub fn offset_at(
        &self,
        topic: &str,
        partition: i32,
        at_ms: i64,
    ) -> Result<Option<i64>, ReadError> {
        let failed = |error: KafkaError| ReadError::Client { message: error.to_string() };
        let mut asked = TopicPartitionList::with_capacity(1);
        // librdkafka takes a time in the place of an offset here, and none before the epoch
        let time = Offset::Offset(at_ms.max(0));
        asked.add_partition_offset(topic, partition, time).map_err(failed)?;
        let found =
            self.retry(&self.committed, &format!("times of {topic}/{partition}"), || {
                self.committed.kafka.offsets_for_times(asked.clone(), CALL_TIMEOUT)
            })?;
        Ok(found.find_partition(topic, partition).and_then(|found| match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// See [`read_to_end`].
    pub fn read_to_end(
        &self,
        topic: &str,
        partition: i32,
        from: ReadFrom,
        mut on_record: impl FnMut(RecordView<'_>),
    ) -> Result<i64, ReadError> {
        let partitions = self.partition_count(topic)?;
        if partition >= partitions {
            return Err(ReadError::NoPartition { topic: topic.to_owned(), partition });
        }
        let (low, high) = self.fetch_watermarks(&self.uncommitted, topic, partition)?;
        let start = match from {
            ReadFrom::Beginning => low,
            ReadFrom::Offset(offset) => offset,
        };
        if start < low || start > high {
            return Err(out_of_range(topic, partition, start, low, high));
        }
        // Everything below the watermark must be decided before the end means anything.
        let stable = self.wait_until_stable(topic, partition, high)?;
        if start >= stable {
            return Ok(start);
        }
        let mut next = stable;
        self.assign(topic, partition, start)?;
        let outcome = self.drain(topic, partition, start, |record| {
            next = next.max(record.offset.saturating_add(1));
            on_record(record);
            true
        });
        self.unassign();
        outcome.map(|()| next)
    }

    /// The first committed record at or after `from`, made into a `T` by `take`, or the end of the partition.
    ///
    /// The end is a last stable offset that was asked for *before* the look: no committed record lies below it.
    pub fn next_record<T>(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        take: impl FnOnce(RecordView<'_>) -> T,
    ) -> Result<NextRecord<T>, ReadError> {
        let (low, stable) = self.fetch_watermarks(&self.committed, topic, partition)?;
        if from < low {
            return Err(out_of_range(topic, partition, from, low, stable));
        }
        if from >= stable {
            return Ok(NextRecord::End(from));
        }
        self.assign(topic, partition, from)?;
        let mut take = Some(take);
        let mut found = None;
        let outcome = self.drain(topic, partition, from, |record| {
            found = take.take().map(|take| take(record));
            false
        });
        self.unassign();
        outcome?;
        Ok(found.map_or(NextRecord::End(stable), NextRecord::Record))
    }

    /// The committed records from `from` up to, not including, `to`, as long as `on_record` returns true.
    pub fn read_range(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        to: i64,
        mut on_record: impl FnMut(RecordView<'_>) -> bool,
    ) -> Result<(), ReadError> {
        let (low, stable) = self.fetch_watermarks(&self.committed, topic, partition)?;
        if from < low || to > stable {
            return Err(out_of_range(topic, partition, from, low, stable));
        }
        if from >= to {
            return Ok(());
        }
        self.assign(topic, partition, from)?;
        let outcome =
            self.drain(topic, partition, from, |record| record.offset < to && on_record(record));
        self.unassign();
        outcome
    }

    /// Hands records over until the end of the partition, or until `on_record` returns false.
    fn drain(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        mut on_record: impl FnMut(RecordView<'_>) -> bool,
    ) -> Result<(), ReadError> {
        let mut last_sign = Instant::now();
        let mut last_offset = from.saturating_sub(1);
        loop {
            match self.committed.kafka.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    // A batch that began before the place asked for is cut by librdkafka; twice the same never comes.
                    if message.offset() > last_offset {
                        last_offset = message.offset();
                        if !on_record(RecordView::of(&message)) {
                            return Ok(());
                        }
                    }
                    // after the record was taken: whoever takes it may be slow, which is no silence of Kafka's
                    last_sign = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(end))) if end == partition => return Ok(()),
                Some(Err(error)) => self.triage(topic, partition, from, &error)?,
                None => {}
            }
            if last_sign.elapsed() > STALL_TIMEOUT {
                let what = format!("a fetch from {topic}/{partition}");
                return Err(self.unreachable(&self.committed, what, STALL_TIMEOUT));
            }
        }
    }

    /// Connection trouble heals by itself; what does not heal ends the read.
    fn triage(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        error: &KafkaError,
    ) -> Result<(), ReadError> {
        let message = error.to_string();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let (low, high) = self.fetch_watermarks(&self.uncommitted, topic, partition)?;
                Err(out_of_range(topic, partition, from, low, high))
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(ReadError::NoTopic { topic: topic.to_owned() })
            }
            Some(RDKafkaErrorCode::UnknownPartition) => {
                Err(ReadError::NoPartition { topic: topic.to_owned(), partition })
            }
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::BadMessage,
            ) => Err(ReadError::Refused { topic: topic.to_owned(), partition, message }),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(ReadError::Refused { topic: topic.to_owned(), partition, message })
            }
            _ => {
                tracing::debug!(topic, partition, "while reading: {message}");
                Ok(())
            }
        }
    }

    /// Waits until the last stable offset has reached `high`: another producer's open transaction ends by its
    /// time-out at the latest.
    fn wait_until_stable(&self, topic: &str, partition: i32, high: i64) -> Result<i64, ReadError> {
        let began = Instant::now();
        loop {
            let (_, stable) = self.fetch_watermarks(&self.committed, topic, partition)?;
            if stable >= high {
                return Ok(stable);
            }
            if began.elapsed() > self.open_transaction_timeout {
                let what = format!(
                    "the end of an open transaction in {topic}/{partition} (decided up to {stable} of {high})"
                );
                return Err(self.unreachable(&self.committed, what, self.open_transaction_timeout));
            }
            std::thread::sleep(LSO_PAUSE);
        }
    }

    fn fetch_watermarks(
        &self,
        client: &Consumer,
        topic: &str,
        partition: i32,
    ) -> Result<(i64, i64), ReadError> {
        self.retry(client, &format!("the ends of {topic}/{partition}"), || {
            client.kafka.fetch_watermarks(topic, partition, CALL_TIMEOUT)
        })
    }

    /// Tries a look-up until it succeeds, for at most [`STALL_TIMEOUT`].
    fn retry<T>(
        &self,
        client: &Consumer,
        what: &str,
        mut call: impl FnMut() -> Result<T, KafkaError>,
    ) -> Result<T, ReadError> {
        let began = Instant::now();
        loop {
            match call() {
                Ok(value) => {
                    client.ears.clear();
                    return Ok(value);
                }
                Err(error) => {
                    listen(client);
                    tracing::debug!("{what}: {error}");
                    if began.elapsed() > STALL_TIMEOUT {
                        return Err(self.unreachable(client, what.to_owned(), STALL_TIMEOUT));
                    }
                    std::thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    fn unreachable(&self, client: &Consumer, what: String, waited: Duration) -> ReadError {
        let because = client.ears.reason_or(SILENT);
        let brokers = self.brokers.clone();
        ReadError::Unreachable { what, brokers, seconds: waited.as_secs(), because }
    }

    fn assign(&self, topic: &str, partition: i32, offset: i64) -> Result<(), ReadError> {
        let failed = |error: KafkaError| ReadError::Client { message: error.to_string() };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(failed)?;
        self.committed.kafka.assign(&list).map_err(failed)
    }

    /// Ends an assignment, and takes away what it left in the queue: an end of partition names no topic, so one that
    /// belongs to an earlier read must not be seen by a later one.
    fn unassign(&self) {
        if let Err(error) = self.committed.kafka.unassign() {
            tracing::debug!("unassign: {error}");
        }
        let queue = &self.committed.kafka;
        self.committed.ears.forget(|| while queue.poll(Duration::ZERO).is_some() {});
    }
}

/// Serves the error callback, which alone knows the reason: one event each turn, log lines before and after it. Nothing is
/// assigned while a look-up is tried again, so no record can be among them.
fn listen(client: &Consumer) {
    for _ in 0..EVENTS_AT_ONCE {
        drop(client.kafka.poll(Duration::ZERO));
    }
}

fn out_of_range(topic: &str, partition: i32, offset: i64, low: i64, high: i64) -> ReadError {
    ReadError::OutOfRange { topic: topic.to_owned(), partition, offset, low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_is_told_with_the_brokers_and_what_to_do() {
        let settings = Settings { brokers: "kafka-7:9092".to_owned(), ..Settings::default() };
        let reader = TopicReader::new(&settings).unwrap();
        let what = "the ends of t/1".to_owned();
        let error = reader.unreachable(&reader.committed, what, STALL_TIMEOUT);
        assert!(error.is_retriable());
        let told = error.to_string();
        assert!(
            told.starts_with("the ends of t/1: no answer from Kafka at kafka-7:9092"),
            "{told}"
        );
        assert!(told.ends_with("see that the brokers run and are not overloaded"), "{told}");
    }
}
