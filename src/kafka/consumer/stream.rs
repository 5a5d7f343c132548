//! All partitions of several topics as they grow: a thread of its own, and batches over a channel bounded in bytes.

use super::client::{Consumer, Isolation, consumer};
use super::read::ReadError;
use crate::kafka::settings::Settings;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// One assignment of a partition. A partition that is assigned again gets another slot, so that what was on its way
/// under the old one is recognised.
pub type Slot = u32;

/// How much may be on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// A batch is handed over at this size.
    pub batch_bytes_max: usize,
    /// Bytes of batches that wait for the receiver; one batch that is larger passes alone.
    pub queue_bytes_max: usize,
    /// Bytes that librdkafka fetches ahead.
    pub prefetch_bytes_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { batch_bytes_max: 256 << 10, queue_bytes_max: 1 << 20, prefetch_bytes_max: 8 << 20 }
    }
}

/// A record as the encoder sees it.
#[derive(Debug, Clone, Copy)]
pub struct StreamRecord<'a>(&'a BorrowedMessage<'a>);

impl<'a> StreamRecord<'a> {
    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// Its time, epoch milliseconds; -1: none.
    pub fn timestamp_ms(&self) -> i64 {
        self.0.timestamp().to_millis().unwrap_or(-1)
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.0.key()
    }

    /// Its value.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.0.payload()
    }

    /// Its headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.0
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| (header.key, header.value))
    }
}

/// Encoded records of one or more partitions, in the order of each partition.
#[derive(Debug)]
pub struct RecordBatch {
    bytes: Vec<u8>,
    records: Vec<Place>,
    /// Gives its bytes back to the queue when the batch is dropped.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    slot: Slot,
    offset: i64,
    timestamp_ms: i64,
    end: usize,
}

/// An encoded record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// Its partition.
    pub slot: Slot,
    /// Its offset.
    pub offset: i64,
    /// Its time, epoch milliseconds; -1: none.
    pub timestamp_ms: i64,
    /// What the encoder made of it.
    pub bytes: &'a [u8],
}

impl RecordBatch {
    /// The records.
    pub fn iter(&self) -> impl Iterator<Item = Encoded<'_>> {
        let mut start = 0;
        self.records.iter().map(move |place| {
            let bytes = self.bytes.get(start..place.end).unwrap_or_default();
            start = place.end;
            Encoded {
                slot: place.slot,
                offset: place.offset,
                timestamp_ms: place.timestamp_ms,
                bytes,
            }
        })
    }
}

/// What a stream says.
#[derive(Debug)]
pub enum Event {
    /// Records.
    Records(RecordBatch),
    /// A position is not there any more: deleted by retention, or its topic was recreated. Which one is not said.
    OutOfRange,
    /// Something is wrong that librdkafka goes on trying to mend; said once until [`Event::Healed`].
    Trouble {
        /// What.
        message: String,
        /// Whether a topic is gone or may not be read: what comes after may be another topic of the same name.
        topic_lost: bool,
    },
    /// Records flow again.
    Healed,
}

enum Command {
    Assign { slot: Slot, topic: String, partition: i32, offset: i64 },
    Commit { topic: String, partition: i32, offset: i64 },
}

/// A running stream. Ends, with its thread, when it is dropped or [`Stream::stop`]ped.
#[derive(Debug)]
pub struct Stream {
    events: mpsc::Receiver<Event>,
    commands: SyncSender<Command>,
    queue: Arc<Semaphore>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Commands that may wait: more than any archive has partitions.
const COMMANDS_MAX: usize = 16_384;

impl Stream {
    /// Starts the thread `name`, without any partition. `group` is used for committing offsets, never joined.
    /// `encode` appends to the bytes what the receiver shall get of a record; it runs on that thread.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(
        settings: &Settings,
        name: &str,
        group: &str,
        limits: StreamLimits,
        encode: impl Fn(StreamRecord<'_>, &mut Vec<u8>) + Send + 'static,
    ) -> Result<Self, ReadError> {
        let fetch = (limits.prefetch_bytes_max / 2).max(1 << 20);
        let more = [
            ("queued.max.messages.kbytes", (limits.prefetch_bytes_max >> 10).to_string()),
            ("fetch.max.bytes", fetch.to_string()),
            ("fetch.message.max.bytes", fetch.min(1 << 20).to_string()),
        ];
        let failed = |message: String| ReadError::Client { message };
        let consumer = consumer(settings, Isolation::Committed, group, &more)
            .map_err(|error| failed(error.to_string()))?;
        let (commands, orders) = sync_channel(COMMANDS_MAX);
        let (sender, events) = mpsc::channel(64);
        let queue = Arc::new(Semaphore::new(limits.queue_bytes_max.max(1)));
        let worker = Worker {
            consumer,
            orders,
            events: sender,
            queue: Arc::clone(&queue),
            runtime: Handle::current(),
            limits,
            encode,
            slots: Vec::new(),
            last: 0,
            bytes: Vec::new(),
            records: Vec::new(),
            troubled: false,
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || worker.run())
            .map_err(|error| failed(format!("thread {name} not started: {error}")))?;
        Ok(Self { events, commands, queue, thread: Some(thread) })
    }

    /// Reads a partition from `offset` on; what it was read at before, if it was, ends.
    pub fn assign(&self, slot: Slot, topic: &str, partition: i32, offset: i64) {
        self.order(Command::Assign { slot, topic: topic.to_owned(), partition, offset });
    }

    /// Tells Kafka how far a partition is done; for monitoring only, nothing depends on it.
    pub fn commit(&self, topic: &str, partition: i32, offset: i64) {
        self.order(Command::Commit { topic: topic.to_owned(), partition, offset });
    }

    fn order(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::debug!("reader thread takes no more commands");
        }
    }

    /// The next event; `None` when the thread has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Ends the thread and waits for it.
    pub async fn stop(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
            if !matches!(joined, Ok(true)) {
                tracing::warn!("reader thread did not end in good order");
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Wakes the thread where it waits for room; it then finds the channel closed and ends.
        self.queue.close();
        self.events.close();
    }
}

struct Assigned {
    slot: Slot,
    topic: String,
    partition: i32,
}

struct Worker<E> {
    consumer: Consumer,
    orders: Receiver<Command>,
    events: mpsc::Sender<Event>,
    queue: Arc<Semaphore>,
    runtime: Handle,
    limits: StreamLimits,
    encode: E,
    slots: Vec<Assigned>,
    /// Where in `slots` the last record's partition was: records come in runs.
    last: usize,
    bytes: Vec<u8>,
    records: Vec<Place>,
    troubled: bool,
}

/// The receiver is gone.
struct Ended;

impl<E: Fn(StreamRecord<'_>, &mut Vec<u8>)> Worker<E> {
    fn run(mut self) {
        while self.turn().is_ok() {}
    }

    fn turn(&mut self) -> Result<(), Ended> {
        self.obey()?;
        let mut wait = Duration::from_millis(100);
        loop {
            match self.consumer.kafka.poll(wait) {
                Some(Ok(message)) => {
                    let place = slot_of(&self.slots, &mut self.last, &message);
                    let record = StreamRecord(&message);
                    if let Some(slot) = place {
                        (self.encode)(record, &mut self.bytes);
                        self.records.push(Place {
                            slot,
                            offset: record.offset(),
                            timestamp_ms: record.timestamp_ms(),
                            end: self.bytes.len(),
                        });
                    }
                }
                Some(Err(error)) => {
                    return self.hand_over().and_then(|()| self.report(&error));
                }
                None => return self.hand_over(),
            }
            if self.bytes.len() >= self.limits.batch_bytes_max {
                return self.hand_over();
            }
            wait = Duration::ZERO;
        }
    }

    fn hand_over(&mut self) -> Result<(), Ended> {
        if self.events.is_closed() {
            return Err(Ended);
        }
        if self.records.is_empty() {
            return Ok(());
        }
        self.consumer.ears.clear();
        if std::mem::take(&mut self.troubled) {
            self.send(Event::Healed)?;
        }
        let weight = self.bytes.len().clamp(1, self.limits.queue_bytes_max.max(1));
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.queue).acquire_many_owned(weight);
        let permit = self.runtime.block_on(permit).map_err(|_| Ended)?;
        let bytes =
            std::mem::replace(&mut self.bytes, Vec::with_capacity(self.limits.batch_bytes_max));
        let records = std::mem::take(&mut self.records);
        self.send(Event::Records(RecordBatch { bytes, records, _permit: permit }))
    }

    fn send(&self, event: Event) -> Result<(), Ended> {
        self.events.blocking_send(event).map_err(|_| Ended)
    }

    fn report(&mut self, error: &KafkaError) -> Result<(), Ended> {
        use RDKafkaErrorCode as Code;
        if matches!(error, KafkaError::PartitionEOF(_)) {
            return Ok(());
        }
        let code = error.rdkafka_error_code();
        if matches!(code, Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)) {
            return self.send(Event::OutOfRange);
        }
        if std::mem::replace(&mut self.troubled, true) {
            return Ok(());
        }
        let topic_lost = matches!(
            code,
            Some(
                Code::UnknownTopicOrPartition
                    | Code::UnknownTopic
                    | Code::UnknownPartition
                    | Code::TopicAuthorizationFailed
            )
        );
        let message = self.consumer.ears.with_reason(error);
        self.send(Event::Trouble { message, topic_lost })
    }

    fn obey(&mut self) -> Result<(), Ended> {
        loop {
            match self.orders.try_recv() {
                Ok(Command::Assign { slot, topic, partition, offset }) => {
                    self.assign(slot, topic, partition, offset);
                }
                Ok(Command::Commit { topic, partition, offset }) => {
                    self.commit(&topic, partition, offset);
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Ended),
            }
        }
    }

    fn assign(&mut self, slot: Slot, topic: String, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::with_capacity(1);
        let known = self.slots.iter().position(|a| a.partition == partition && a.topic == topic);
        let outcome = (|| {
            if let Some(known) = known {
                list.add_partition(&topic, partition);
                self.consumer.kafka.incremental_unassign(&list)?;
                list = TopicPartitionList::with_capacity(1);
                self.slots.swap_remove(known);
            }
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
            self.consumer.kafka.incremental_assign(&list)
        })();
        self.slots.push(Assigned { slot, topic, partition });
        if let Err(error) = outcome {
            tracing::error!("partition not assigned for reading: {error}");
        }
    }

    fn commit(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::with_capacity(1);
        let outcome = list
            .add_partition_offset(topic, partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.kafka.commit(&list, CommitMode::Async));
        if let Err(error) = outcome {
            tracing::debug!("offset not committed: {error}");
        }
    }
}

/// The slot of a record's partition. `last` is where the one before was found.
fn slot_of(slots: &[Assigned], last: &mut usize, message: &BorrowedMessage<'_>) -> Option<Slot> {
    let is = |assigned: &Assigned| {
        assigned.partition == message.partition() && assigned.topic == message.topic()
    };
    if !slots.get(*last).is_some_and(is) {
        *last = slots.iter().position(is)?;
    }
    slots.get(*last).map(|assigned| assigned.slot)
}
