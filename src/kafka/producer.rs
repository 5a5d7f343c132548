//! The transactional producer of one checkpoint partition, on a thread of its own.
//!
//! Order of one commit, and what a crash after each step leaves behind:
//! 1. begin: nothing.
//! 2. send, and wait until all is delivered: records that no `read_committed` reader sees; the next producer with this
//!    transactional id aborts them.
//! 3. commit: everything or nothing. When the answer is lost, only the checkpoint tells which ([`SinkError::Lost`]).
//!
//! librdkafka's calls block, so they never run on a tokio worker, and none for longer than [`CALL_TIMEOUT`] at a time.

use super::client::{Context, Ears, SILENT};
use super::settings::{CALL_TIMEOUT, MESSAGE_BYTES_MAX, Role, Settings};
use super::triage::{Action, Blame, Facts, Mark, blame};
use super::{Committed, Sink, SinkError};
use crate::audit::{Batch, Record, Topic};
use crate::metrics::Metrics;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Longest that a start waits for brokers that refuse it: a wrong password is told early.
const PATIENCE_WHEN_REFUSED: Duration = Duration::from_secs(5);
/// Longest single wait for metadata, which surfaces connection trouble early.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause while librdkafka's queue is full, or while it ends the last deliveries.
const SHORT_PAUSE: Duration = Duration::from_micros(100);
/// Bytes of a batch around its only record, at most, besides its keys, values and headers.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// Why a producer could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// No broker answered within the patience given; may be tried again.
    #[error("no transactional producer for {id}: {message}")]
    Unreachable {
        /// The transactional id.
        id: String,
        /// Why, with the remedy where it is known.
        message: String,
    },
    /// The broker or librdkafka refuses; trying again changes nothing.
    #[error("transactional producer {id} refused: {message}")]
    Refused {
        /// The transactional id.
        id: String,
        /// Why, with the remedy where it is known.
        message: String,
    },
}

/// The way to one producer's thread. Dropping it ends the thread after what is under way.
#[derive(Debug)]
pub struct Producer {
    partition: i32,
    brokers: String,
    ears: Arc<Ears>,
    commands: mpsc::Sender<Command>,
}

enum Command {
    Commit { batch: Batch, reply: oneshot::Sender<Result<Committed, SinkError>> },
    Rehearse { batch: Batch, reply: oneshot::Sender<Result<(), SinkError>> },
    Close { reply: oneshot::Sender<()> },
}

impl Producer {
    /// Opens the producer of a checkpoint partition: fences every older one and ends its transaction.
    ///
    /// Waits at most about `patience` for the brokers.
    pub async fn open(
        settings: Arc<Settings>,
        partition: i32,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        Self::open_as(Role::Producer { partition }, partition, settings, metrics, patience).await
    }

    /// Opens the producer of `check --connect`, which fences no daemon.
    pub(super) async fn open_probe(
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        Self::open_as(Role::Probe, 0, settings, metrics, patience).await
    }

    async fn open_as(
        role: Role,
        partition: i32,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let config = settings.client_config(role);
        let id = config.get("transactional.id").unwrap_or_default().to_owned();
        let refused = |message: String| OpenError::Refused { id: id.clone(), message };
        let (commands, inbox) = mpsc::channel(1);
        let (opened, answer) = oneshot::channel();
        let engine_id = id.clone();
        let brokers = settings.brokers.clone();
        let ears = Arc::new(Ears::new(settings.contact.clone()));
        let heard = Arc::clone(&ears);
        let name = match role {
            Role::Probe => "kafka-probe".to_owned(),
            _ => format!("kafka-tx-{partition}"),
        };
        let started = thread::Builder::new().name(name).spawn(move || {
            match Engine::open(engine_id, &config, &settings, heard, metrics, patience) {
                Ok(engine) => {
                    // nobody waits any more: nobody will send a command either
                    if opened.send(Ok(())).is_ok() {
                        engine.serve(inbox);
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        started.map_err(|error| refused(format!("its thread cannot be started: {error}")))?;
        answer.await.unwrap_or_else(|_| Err(refused("its thread ended".to_owned())))?;
        Ok(Self { partition, brokers, ears, commands })
    }

    /// The checkpoint partition that it is the fence of.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Sends a batch and aborts it: shows that it could be written, without writing it.
    pub(super) async fn rehearse(&self, batch: Batch) -> Result<(), SinkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Rehearse { batch, reply }, answer).await
    }

    /// Ends the thread after what is under way, and waits for it.
    pub async fn close(self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            drop(answer.await);
        }
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        let gone = || SinkError::Lost {
            message: "the producer has ended: a new one has to be opened".to_owned(),
        };
        self.commands.send(command).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Sink for Producer {
    async fn commit(&self, batch: Batch) -> Result<Committed, SinkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Commit { batch, reply }, answer).await
    }

    fn silence(&self) -> String {
        let reason = self.ears.reason_or(SILENT);
        format!("no answer from Kafka at {}: {reason}", self.brokers)
    }
}

/// What lives on the thread.
struct Engine {
    id: String,
    producer: ThreadedProducer<Context>,
    ears: Arc<Ears>,
    metrics: Arc<Metrics>,
    /// Names by [`Topic::ALL`].
    names: Vec<String>,
    /// Longest that one transaction may take in all.
    transaction_timeout: Duration,
}

/// Why a transaction did not commit.
enum Failure {
    /// It has to be aborted.
    Abort { code: Option<RDKafkaErrorCode>, topic: Option<Topic>, message: String },
    /// The producer is of no more use.
    Gone { fenced: bool, message: String },
}

impl Engine {
    fn open(
        id: String,
        config: &rdkafka::ClientConfig,
        settings: &Settings,
        ears: Arc<Ears>,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let producer =
            ThreadedProducer::from_config_and_context(config, Context::new(Arc::clone(&ears)))
                .map_err(|error| OpenError::Refused {
                    id: id.clone(),
                    message: error.to_string(),
                })?;
        let engine = Self {
            id,
            producer,
            ears,
            metrics,
            names: Topic::ALL.iter().map(|topic| settings.topic(*topic).to_owned()).collect(),
            transaction_timeout: settings.transaction_timeout,
        };
        engine.initialise(patience)?;
        Ok(engine)
    }

    /// Fences older producers of this transactional id. Metadata first: `init_transactions` alone takes 500 ms when its
    /// first question goes out before the connection is up.
    fn initialise(&self, patience: Duration) -> Result<(), OpenError> {
        let started = Instant::now();
        let topic = self.name(Topic::Checkpoints);
        loop {
            let wait = METADATA_TIMEOUT.min(patience);
            match self.producer.client().fetch_metadata(Some(topic), wait) {
                Ok(_) => break,
                Err(error) => self.be_patient(started, patience, &error)?,
            }
        }
        loop {
            match self.producer.init_transactions(CALL_TIMEOUT.min(patience)) {
                Ok(()) => break,
                Err(error) if Facts::of(&error).action() == Action::Again => {
                    self.be_patient(started, patience, &error)?;
                }
                Err(error) => {
                    let message = format!(
                        "{error}: check the ACL of the transactional id, and that \
                        kafka.transaction_timeout is not above the broker's transaction.max.timeout.ms"
                    );
                    return Err(OpenError::Refused { id: self.id.clone(), message });
                }
            }
        }
        self.ears.clear();
        Ok(())
    }

    fn be_patient(
        &self,
        started: Instant,
        patience: Duration,
        error: &KafkaError,
    ) -> Result<(), OpenError> {
        let patience = if self.ears.heard_lasting_trouble() {
            patience.min(PATIENCE_WHEN_REFUSED)
        } else {
            patience
        };
        if started.elapsed() < patience {
            self.metrics.retry("kafka", "connect");
            thread::sleep(Duration::from_millis(100));
            return Ok(());
        }
        let message = self.ears.reason_or(error);
        Err(OpenError::Unreachable { id: self.id.clone(), message })
    }

    fn serve(self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            match command {
                Command::Commit { batch, reply } => {
                    let result = self.commit_measured(&batch);
                    let is_over =
                        matches!(result, Err(SinkError::Lost { .. } | SinkError::Fenced { .. }));
                    if is_over {
                        // closed before the answer goes out, so that no later command waits in vain
                        inbox.close();
                    }
                    // whoever asked may have stopped waiting; the transaction stands all the same
                    drop(reply.send(result));
                    if is_over {
                        return;
                    }
                }
                Command::Rehearse { batch, reply } => drop(reply.send(self.rehearse(&batch))),
                Command::Close { reply } => {
                    drop(self);
                    reply.send(()).unwrap_or_default();
                    return;
                }
            }
        }
    }

    fn commit_measured(&self, batch: &Batch) -> Result<Committed, SinkError> {
        let started = Instant::now();
        let result = self.commit(batch);
        let outcome = match &result {
            Ok(_) => "committed",
            Err(SinkError::Aborted { .. }) => "aborted",
            Err(SinkError::Content { .. }) => "content",
            Err(SinkError::Lost { .. }) => "lost",
            Err(SinkError::Fenced { .. }) => "fenced",
        };
        self.metrics.transaction(outcome, started.elapsed().as_secs_f64(), batch.records.len());
        result
    }

    fn commit(&self, batch: &Batch) -> Result<Committed, SinkError> {
        self.check_sizes(batch)?;
        let deadline = Instant::now() + self.transaction_timeout;
        let outcome = self.send_all(batch, deadline).and_then(|()| self.end_by_commit(deadline));
        match outcome {
            Ok(()) => {
                self.ears.clear();
                Ok(Committed { next_offsets: self.context().next_offsets() })
            }
            Err(Failure::Abort { code, topic, message }) => Err(self.abort(code, topic, message)),
            Err(Failure::Gone { fenced, message }) => Err(self.gone(fenced, &message)),
        }
    }

    fn rehearse(&self, batch: &Batch) -> Result<(), SinkError> {
        self.check_sizes(batch)?;
        let deadline = Instant::now() + self.transaction_timeout;
        let sent = self.send_all(batch, deadline);
        match sent {
            Ok(()) => match self.abort(None, None, String::new()) {
                SinkError::Aborted { .. } => Ok(()),
                error => Err(error),
            },
            Err(Failure::Abort { code, topic, message }) => Err(self.abort(code, topic, message)),
            Err(Failure::Gone { fenced, message }) => Err(self.gone(fenced, &message)),
        }
    }

    /// Refuses what no topic of ours takes before a transaction is spent on it.
    fn check_sizes(&self, batch: &Batch) -> Result<(), SinkError> {
        let too_large = batch.records.iter().find(|record| wire_bytes(record) > MESSAGE_BYTES_MAX);
        too_large.map_or(Ok(()), |record| {
            Err(SinkError::Content {
                topic: Some(record.topic),
                too_large: true,
                message: format!(
                    "a record of {} bytes for topic {}: more than {MESSAGE_BYTES_MAX}, it has to travel in pieces",
                    wire_bytes(record),
                    self.name(record.topic)
                ),
            })
        })
    }

    /// Steps 1 and 2: begin, send in order, wait until every delivery has ended.
    fn send_all(&self, batch: &Batch, deadline: Instant) -> Result<(), Failure> {
        self.context().begin();
        self.producer.begin_transaction().map_err(|error| self.failure(&error, None))?;
        for record in &batch.records {
            self.send(record, deadline)?;
        }
        if !self.context().wait_ended(batch.records.len(), deadline) {
            let message = self.ears.with_reason("records were not delivered in time");
            return Err(Failure::Abort {
                code: Some(RDKafkaErrorCode::MessageTimedOut),
                topic: None,
                message,
            });
        }
        if let Some((topic, code)) = self.context().failed() {
            let message = self.ears.with_reason(format_args!("topic {}: {code}", self.name(topic)));
            return Err(Failure::Abort { code: Some(code), topic: Some(topic), message });
        }
        Ok(())
    }

    fn send(&self, record: &Record, deadline: Instant) -> Result<(), Failure> {
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(self.name(record.topic), index(record.topic))
                .key(record.key.as_ref());
        message.payload = record.value.as_deref();
        message.partition = record.partition;
        message.headers = headers(record);
        let mut waited = false;
        loop {
            let Err((error, back)) = self.producer.send(message) else {
                return Ok(());
            };
            if Facts::of(&error).action() != Action::Drain || Instant::now() >= deadline {
                return Err(self.failure(&error, Some(record.topic)));
            }
            if !waited {
                waited = true;
                self.metrics.retry("kafka", "queue_full");
            }
            thread::sleep(SHORT_PAUSE);
            message = back;
        }
    }

    /// Step 3. The same call again while librdkafka says that it may be made again.
    fn end_by_commit(&self, deadline: Instant) -> Result<(), Failure> {
        loop {
            self.settle(deadline);
            let Err(error) = self.producer.commit_transaction(call_timeout(deadline)) else {
                return Ok(());
            };
            let failure = self.failure(&error, None);
            match Facts::of(&error).action() {
                Action::Again | Action::Drain if Instant::now() < deadline => {
                    self.metrics.retry("kafka", "commit");
                }
                _ => return Err(failure),
            }
        }
    }

    /// Waits until librdkafka has let go of the delivery reports too: a commit before that sleeps for 100 ms.
    fn settle(&self, deadline: Instant) {
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            thread::sleep(SHORT_PAUSE);
        }
    }

    fn failure(&self, error: &KafkaError, topic: Option<Topic>) -> Failure {
        let facts = Facts::of(error);
        let text = match topic {
            Some(topic) => format!("topic {}: {error}", self.name(topic)),
            None => error.to_string(),
        };
        let message = self.ears.with_reason(text);
        // the record that failed first says more than the error that its transaction ends with
        let (topic, code) = match self.context().failed() {
            Some((topic, code)) => (Some(topic), Some(code)),
            None => (topic, facts.code),
        };
        match facts.action() {
            Action::Abort => Failure::Abort { code, topic, message },
            // only a record that found no room for the whole time of a transaction comes here with Drain
            Action::Drain if facts.mark == Mark::Production => {
                Failure::Abort { code, topic, message }
            }
            Action::Again | Action::Drain => Failure::Gone { fenced: false, message },
            Action::Recreate { fenced } => Failure::Gone { fenced, message },
        }
    }

    /// Ends the transaction without a trace, and says whose fault it was.
    fn abort(
        &self,
        code: Option<RDKafkaErrorCode>,
        topic: Option<Topic>,
        message: String,
    ) -> SinkError {
        let deadline = Instant::now() + self.transaction_timeout;
        if let Err(error) = self.try_abort(deadline) {
            let fenced = matches!(Facts::of(&error).action(), Action::Recreate { fenced: true });
            return self.gone(fenced, &format!("{message}; then the abort failed: {error}"));
        }
        // late reports of purged records must not be counted in the next transaction
        self.settle(deadline);
        if self.producer.in_flight_count() > 0 {
            return self
                .gone(false, &format!("{message}; then records stayed in flight after the abort"));
        }
        match blame(code) {
            Blame::Content { too_large } => SinkError::Content { topic, too_large, message },
            Blame::Circumstance { reason } => SinkError::Aborted { reason, message },
        }
    }

    fn try_abort(&self, deadline: Instant) -> KafkaResult<()> {
        loop {
            let Err(error) = self.producer.abort_transaction(call_timeout(deadline)) else {
                return Ok(());
            };
            match Facts::of(&error).action() {
                Action::Again | Action::Drain if Instant::now() < deadline => {
                    self.metrics.retry("kafka", "abort");
                }
                _ => return Err(error),
            }
        }
    }

    fn gone(&self, fenced: bool, message: &str) -> SinkError {
        if fenced {
            let message = format!(
                "a newer producer has transactional id {}, or its transaction outlived its time while the broker was \
                 away; the last owner record tells which: {message}",
                self.id
            );
            return SinkError::Fenced { message };
        }
        SinkError::Lost { message: message.to_owned() }
    }

    fn context(&self) -> &Context {
        self.producer.client().context()
    }

    fn name(&self, topic: Topic) -> &str {
        self.names.get(index(topic)).map_or(topic.default_name(), String::as_str)
    }
}

/// What is left until `deadline`, for one call: never nothing, for the first try, and never more than a call may take.
fn call_timeout(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.clamp(Duration::from_secs(1), CALL_TIMEOUT)
}

fn index(topic: Topic) -> usize {
    Topic::ALL.iter().position(|other| *other == topic).unwrap_or_default()
}

pub(super) fn headers(record: &Record) -> Option<OwnedHeaders> {
    if record.headers.is_empty() {
        return None;
    }
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    Some(record.headers.iter().fold(headers, |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value.as_ref()) })
    }))
}

/// Upper bound of a record's bytes as the only one of an uncompressed batch.
fn wire_bytes(record: &Record) -> usize {
    let headers: usize =
        record.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
    record.key.len()
        + record.value.as_ref().map_or(0, bytes::Bytes::len)
        + headers
        + RECORD_OVERHEAD_BYTES
}
