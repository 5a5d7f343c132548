//! Sends again what Kafka still holds, into a topic that is not live: each record exactly once, whatever is killed when.
//!
//! Order of a session, and what a crash after each step leaves behind:
//! 1. Open the producer of this replay: fences an older process of the same replay and ends its transaction.
//! 2. Read the operations topic: has this replay begun, has it ended?
//! 3. Begin, where it has not: the note with the plan and the first progress, in one transaction.
//! 4. Read, filter, send: copies and the progress that accounts for them, in one transaction each.
//! 5. End: the note with the counts and the last progress, in one transaction.
//!
//! Every start, also after an error within one process, walks steps 1 to 5; nothing is kept but in Kafka. Blocks of
//! [`scan`] belong on a thread of their own.

mod feed;
mod pace;
pub mod scan;

pub use pace::{Pacer, Rate};

use crate::audit::checkpoint::DecodeError;
use crate::audit::operation::{Statement, TooLarge, VERSION};
use crate::audit::replay::{Note, Plan, ReplayId, Span, Tally, WHAT};
use crate::audit::{Actor, EntityName, OperationId, OperationRecord, Topic};
use crate::kafka::SinkError;
use crate::kafka::consumer::{ReadError, ReadFrom, TopicReader};
use crate::kafka::producer::{CopyBatch, OpenError, Producer, Progress, copy_group};
use crate::kafka::settings::Settings;
use crate::metrics::Metrics;
use crate::retry::Backoff;
use crate::time::wall_ms;
use feed::{Chunk, Work};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Longest that a start waits for the brokers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A replay that is to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// How Kafka is reached.
    pub settings: Arc<Settings>,
    /// Where transactions are counted.
    pub metrics: Arc<Metrics>,
    /// Which replay.
    pub id: ReplayId,
    /// What it sends.
    pub plan: Plan,
    /// How fast.
    pub rate: Rate,
    /// Who runs it.
    pub by: Actor,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it has begun before.
    pub resume: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Offsets dealt with, of [`Seen::offsets_all`].
    pub offsets_done: u64,
    /// Offsets of the plan.
    pub offsets_all: u64,
    /// What has been sent, interruptions included.
    pub sent: Tally,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether all is sent; else it was asked to stop.
    pub ended: bool,
    /// What has been sent, interruptions included.
    pub sent: Tally,
    /// Offsets that Kafka had deleted before they could be read.
    pub gone_offsets: u64,
}

/// Why a replay does not run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Its producer cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Something cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The operations topic holds what this program does not understand.
    #[error("topic {topic}, offset {offset}: {message}")]
    Operations {
        /// Its name.
        topic: String,
        /// Where.
        offset: i64,
        /// Why.
        message: String,
    },
    /// There is one of this id.
    #[error("replay {0} has begun already: go on with --resume {0}, or choose another --replay-id")]
    Exists(ReplayId),
    /// There is none of this id.
    #[error("there is no replay {0}: its begin would stand in topic {1}")]
    Unknown(ReplayId, String),
    /// It has ended.
    #[error("replay {id} has ended: {} records were sent. Begin a new one to send them again", .sent.records)]
    Ended {
        /// Which.
        id: ReplayId,
        /// What was sent.
        sent: Tally,
    },
    /// Kafka has forgotten how far it was.
    #[error(
        "how far replay {id} has come is not known any more: Kafka forgets the offsets of group {group} after \
         offsets.retention.minutes. Going on could send records twice: begin a new one into an empty topic"
    )]
    ProgressGone {
        /// Which.
        id: ReplayId,
        /// Its group.
        group: String,
    },
    /// The plan does not fit into a record.
    #[error("the plan cannot be recorded: {0}; give fewer ids or patterns")]
    TooLarge(#[from] TooLarge),
    /// The filter is not one.
    #[error("{0}")]
    Filter(String),
    /// The topic does not take the records.
    #[error("{0}")]
    Content(String),
    /// Another process runs the same replay.
    #[error("another process has taken replay {id} over: {message}")]
    Fenced {
        /// Which.
        id: ReplayId,
        /// librdkafka's words.
        message: String,
    },
    /// The outcome of a transaction is not known: it is found out by the next session.
    #[error("{0}")]
    Lost(String),
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopping,
}

impl ReplayError {
    /// Whether a new session may get further without anyone doing anything.
    fn passes(&self) -> bool {
        match self {
            Self::Open(OpenError::Unreachable { .. }) | Self::Lost(_) => true,
            // retention went faster than we did: the next session says what is gone, and goes on behind it
            Self::Read(error) => {
                error.is_retriable() || matches!(error, ReadError::OutOfRange { .. })
            }
            _ => false,
        }
    }
}

/// What the operations topic says of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Its plan, the statement's id, and when it began, epoch milliseconds.
    pub begun: Option<(Plan, OperationId, i64)>,
    /// What it had sent at its end, and how many offsets were gone.
    pub ended: Option<(Tally, u64)>,
}

/// Looks up a replay. Waits for no open transaction unless `to_end`.
pub async fn history(
    settings: Arc<Settings>,
    id: &ReplayId,
    to_end: bool,
) -> Result<History, ReplayError> {
    let id = id.clone();
    let read = tokio::task::spawn_blocking(move || read_history(&settings, &id, to_end));
    read.await.unwrap_or(Err(ReplayError::Stopping))
}

fn read_history(settings: &Settings, id: &ReplayId, to_end: bool) -> Result<History, ReplayError> {
    let topic = settings.topic(Topic::Operations);
    let reader = TopicReader::new(settings)?;
    let mut history = History::default();
    let mut failed = None;
    let mut take = |offset: i64, value: Option<&[u8]>| match note(value.unwrap_or_default()) {
        Ok(Some((statement, note))) if note.replay() == id => history.take(statement, note),
        Ok(_) => {}
        Err(message) => failed = Some((offset, message)),
    };
    let partition = crate::audit::operation::PARTITION;
    if to_end {
        reader.read_to_end(topic, partition, ReadFrom::Beginning, |record| {
            take(record.offset, record.value);
        })?;
    } else {
        let ends = reader.watermarks(topic, partition)?;
        reader.read_range(topic, partition, ends.low, ends.stable, |record| {
            take(record.offset, record.value);
            true
        })?;
    }
    match failed {
        Some((offset, message)) => {
            Err(ReplayError::Operations { topic: topic.to_owned(), offset, message })
        }
        None => Ok(history),
    }
}

/// The note of a record, where it is one about a replay.
fn note(value: &[u8]) -> Result<Option<(Statement, Note)>, String> {
    let record = match OperationRecord::decode(value) {
        Ok(record) => record,
        Err(error @ DecodeError::Newer { .. }) => return Err(error.to_string()),
        // no program of ours wrote it, so it is about no replay
        Err(_) => return Ok(None),
    };
    match record {
        OperationRecord::Statement(statement) if statement.what == WHAT => {
            let note = serde_json::from_value(statement.details.clone())
                .map_err(|error| format!("a note about a replay is not understood: {error}"))?;
            Ok(Some((statement, note)))
        }
        _ => Ok(None),
    }
}

impl History {
    fn take(&mut self, statement: Statement, note: Note) {
        match note {
            Note::Begun { plan, .. } => self.begun = Some((plan, statement.id, statement.at_ms)),
            Note::Ended { sent, gone_offsets, .. } => self.ended = Some((sent, gone_offsets)),
        }
    }
}

/// How far each span of a plan is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The span.
    pub span: Span,
    /// The next offset to be looked at.
    pub next: i64,
    /// What was sent of it.
    pub sent: Tally,
    /// Offsets of it that were gone before they could be read.
    pub gone_offsets: u64,
}

impl Position {
    fn first(span: &Span) -> Self {
        let span = span.clone();
        Self { next: span.from, span, sent: Tally::default(), gone_offsets: 0 }
    }

    fn done(&self) -> u64 {
        u64::try_from(self.next.saturating_sub(self.span.from)).unwrap_or(0)
    }

    /// As it is kept with the offset: what was sent must be known when the last session ends, too.
    fn progress(&self) -> Progress {
        let note = format!("{},{},{}", self.sent.records, self.sent.bytes, self.gone_offsets);
        let (topic, partition) = (self.span.topic.clone(), self.span.partition);
        Progress { topic, partition, next: self.next, note }
    }

    fn of(span: &Span, progress: &Progress) -> Option<Self> {
        let mut numbers = progress.note.split(',').map(str::parse);
        let mut number = || numbers.next()?.ok();
        let sent = Tally { records: number()?, bytes: number()? };
        let (span, gone_offsets) = (span.clone(), number()?);
        Some(Self { span, next: progress.next, sent, gone_offsets })
    }
}

/// How far a replay that has begun is; changes nothing.
pub async fn positions(
    settings: Arc<Settings>,
    id: &ReplayId,
    plan: &Plan,
) -> Result<Vec<Position>, ReplayError> {
    let group = copy_group(&settings, id);
    let found = Progress::read(settings, id, &plan.spans).await?;
    let known = plan.spans.iter().zip(&found);
    let positions = known.map(|(span, it)| it.as_ref().and_then(|it| Position::of(span, it)));
    let gone = || ReplayError::ProgressGone { id: id.clone(), group };
    positions.collect::<Option<Vec<_>>>().ok_or_else(gone)
}

/// Runs a replay to its end, or until it is asked to stop. `tell` hears how far it is, after each commit.
pub async fn run(
    job: &Job,
    stop: &CancellationToken,
    mut tell: impl FnMut(Seen),
) -> Result<Outcome, ReplayError> {
    let mut session = Session { job, begun: false, statement: OperationId::new(rand::random()) };
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    loop {
        let error = match session.run(stop, &mut tell).await {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        // before anything has begun, whoever asks wants to know at once
        if !error.passes() || !session.begun {
            return Err(error);
        }
        warn!(%error, "the replay goes on from its last commit");
        tokio::select! {
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

struct Session<'a> {
    job: &'a Job,
    /// Set as soon as the begin may have been committed.
    begun: bool,
    /// The id of the statement with which this process begins.
    statement: OperationId,
}

impl Session<'_> {
    async fn run(
        &mut self,
        stop: &CancellationToken,
        tell: &mut impl FnMut(Seen),
    ) -> Result<Outcome, ReplayError> {
        let job = self.job;
        let (settings, metrics) = (Arc::clone(&job.settings), Arc::clone(&job.metrics));
        let producer = Producer::open_copier(settings, &job.id, metrics, PATIENCE).await?;
        let history = history(Arc::clone(&job.settings), &job.id, true).await?;
        if let Some((sent, gone_offsets)) = history.ended {
            // the answer to our own last commit was lost
            return if self.begun {
                Ok(Outcome { ended: true, sent, gone_offsets })
            } else {
                Err(ReplayError::Ended { id: job.id.clone(), sent })
            };
        }
        match &history.begun {
            Some((_, statement, _)) if job.resume || *statement == self.statement => {}
            Some(_) => return Err(ReplayError::Exists(job.id.clone())),
            None if job.resume => {
                let topic = job.settings.topic(Topic::Operations).to_owned();
                return Err(ReplayError::Unknown(job.id.clone(), topic));
            }
            None => self.begin(&producer).await?,
        }
        self.begun = true;
        let mut positions = positions(Arc::clone(&job.settings), &job.id, &job.plan).await?;
        self.skip_gone(&mut positions).await?;
        let mut sender = Sender { job, producer, positions, stop, pacer: Pacer::new(job.rate) };
        tell(sender.seen());
        let ended = sender.send_all(tell).await?;
        if ended {
            self.end(&sender).await?;
        }
        let (sent, gone_offsets) = sender.totals();
        sender.producer.close().await;
        Ok(Outcome { ended, sent, gone_offsets })
    }

    async fn begin(&mut self, producer: &Producer) -> Result<(), ReplayError> {
        let (replay, plan) = (self.job.id.clone(), self.job.plan.clone());
        let progress = plan.spans.iter().map(|span| Position::first(span).progress()).collect();
        let note = Note::Begun { replay, plan };
        let record = self.statement(self.statement.clone(), &note)?;
        self.begun = true;
        let (topic, copies) = (self.job.plan.to_topic.clone(), Vec::new());
        let batch = CopyBatch { topic, copies, records: vec![record], progress };
        commit(self.job, producer, batch, None).await
    }

    async fn end(&self, sender: &Sender<'_>) -> Result<(), ReplayError> {
        let (sent, gone_offsets) = sender.totals();
        let note = Note::Ended { replay: self.job.id.clone(), sent, gone_offsets };
        let record = self.statement(OperationId::new(rand::random()), &note)?;
        let progress = sender.positions.iter().map(Position::progress).collect();
        let (topic, copies) = (self.job.plan.to_topic.clone(), Vec::new());
        let batch = CopyBatch { topic, copies, records: vec![record], progress };
        commit(self.job, &sender.producer, batch, Some(sender.stop)).await
    }

    fn statement(&self, id: OperationId, note: &Note) -> Result<crate::audit::Record, TooLarge> {
        let entity = self.job.plan.filter.entity.clone();
        let statement = Statement {
            version: VERSION,
            id,
            entity: entity.and_then(|name| EntityName::try_from(name).ok()),
            by: self.job.by.clone(),
            at_ms: wall_ms(),
            reason: self.job.reason.clone(),
            what: WHAT.to_owned(),
            // strings and numbers only: cannot fail
            details: serde_json::to_value(note).unwrap_or_default(),
        };
        OperationRecord::Statement(statement).to_record()
    }

    /// What retention has deleted meanwhile is not waited for: it is counted and said.
    async fn skip_gone(&self, positions: &mut Vec<Position>) -> Result<(), ReplayError> {
        let settings = Arc::clone(&self.job.settings);
        let mut known = std::mem::take(positions);
        let looked = tokio::task::spawn_blocking(move || {
            let reader = TopicReader::new(&settings)?;
            for it in &mut known {
                let low = reader.watermarks(&it.span.topic, it.span.partition)?.low;
                let behind = low.min(it.span.to).max(it.next);
                if behind > it.next {
                    let offsets = u64::try_from(behind - it.next).unwrap_or(0);
                    let (topic, partition) = (&it.span.topic, it.span.partition);
                    warn!(
                        topic,
                        partition,
                        from = it.next,
                        to = behind,
                        "offsets are not in Kafka any more and were not sent; the archive has them"
                    );
                    it.gone_offsets = it.gone_offsets.saturating_add(offsets);
                    it.next = behind;
                }
            }
            Ok::<_, ReadError>(known)
        });
        *positions = looked.await.map_err(|_| ReplayError::Stopping)??;
        Ok(())
    }
}

/// One session's sending.
struct Sender<'a> {
    job: &'a Job,
    producer: Producer,
    positions: Vec<Position>,
    stop: &'a CancellationToken,
    pacer: Pacer,
}

impl Sender<'_> {
    /// Whether all was sent; else it was asked to stop.
    async fn send_all(&mut self, tell: &mut impl FnMut(Seen)) -> Result<bool, ReplayError> {
        let selection = self.job.plan.filter.compile().map_err(ReplayError::Filter)?;
        let spans = self.positions.iter().map(|it| (it.span.clone(), it.next)).collect();
        let records_max = self.job.rate.batch_records_max();
        let work = Work { id: self.job.id.clone(), selection, spans, records_max };
        let mut chunks = feed::start(&self.job.settings, work)?;
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(false),
                chunk = chunks.recv() => chunk,
            };
            let Some(chunk) = chunk.transpose()? else { return self.is_done() };
            let is_sent = self.send(chunk).await?;
            tell(self.seen());
            if !is_sent {
                return Ok(false);
            }
        }
    }

    /// The reader has ended: with everything, or not.
    fn is_done(&self) -> Result<bool, ReplayError> {
        let open = self.positions.iter().find(|it| it.next < it.span.to);
        open.map_or(Ok(true), |it| {
            let place = format!("{}/{}, offset {}", it.span.topic, it.span.partition, it.next);
            Err(ReplayError::Lost(format!("the reader has ended early, at {place}")))
        })
    }

    /// Sends a chunk when its time has come; false: asked to stop before.
    async fn send(&mut self, chunk: Chunk) -> Result<bool, ReplayError> {
        let Chunk { span, copies, tally, next } = chunk;
        if !copies.is_empty() {
            let at = self.pacer.book(tally.records, tokio::time::Instant::now());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep_until(at) => {}
            }
        }
        if let Some(position) = self.positions.get_mut(span) {
            position.next = next;
            position.sent = position.sent.plus(tally);
        }
        if copies.is_empty() {
            // goes with the next commit; after a crash it is looked at again, and nothing of it is sent again
            return Ok(true);
        }
        // all of them each time: Kafka forgets the offsets of a partition that nobody has committed for a week
        let progress = self.positions.iter().map(Position::progress).collect();
        let topic = self.job.plan.to_topic.clone();
        let batch = CopyBatch { topic, copies, records: Vec::new(), progress };
        commit(self.job, &self.producer, batch, Some(self.stop)).await?;
        Ok(true)
    }

    fn totals(&self) -> (Tally, u64) {
        let sent = self.positions.iter().map(|it| it.sent).fold(Tally::default(), Tally::plus);
        (sent, self.positions.iter().map(|it| it.gone_offsets).sum())
    }

    fn seen(&self) -> Seen {
        Seen {
            offsets_done: self.positions.iter().map(Position::done).sum(),
            offsets_all: self.positions.iter().map(|it| it.span.offsets()).sum(),
            sent: self.totals().0,
        }
    }
}

/// Commits a batch; the same again while circumstances abort it.
async fn commit(
    job: &Job,
    producer: &Producer,
    batch: CopyBatch,
    stop: Option<&CancellationToken>,
) -> Result<(), ReplayError> {
    let batch = Arc::new(batch);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let message = match producer.copy(Arc::clone(&batch)).await {
            Ok(()) => return Ok(()),
            Err(SinkError::Content { message, .. }) => return Err(ReplayError::Content(message)),
            Err(SinkError::Fenced { message }) => {
                return Err(ReplayError::Fenced { id: job.id.clone(), message });
            }
            Err(SinkError::Lost { message }) => return Err(ReplayError::Lost(message)),
            Err(SinkError::Aborted { message, .. }) => message,
        };
        let Some(stop) = stop else { return Err(ReplayError::Lost(message)) };
        warn!(%message, "a transaction of the replay was aborted and is tried again");
        tokio::select! {
            () = stop.cancelled() => return Err(ReplayError::Lost(message)),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> Span {
        Span { topic: "t".to_owned(), partition: 2, from: 10, to: 90 }
    }

    proptest! {
        #[test]
        fn what_is_kept_with_an_offset_is_read_back(
            next in 10_i64..90, records in any::<u64>(), bytes in any::<u64>(), gone_offsets in any::<u64>(),
        ) {
            let sent = Tally { records, bytes };
            let position = Position { span: span(), next, sent, gone_offsets };
            prop_assert_eq!(Position::of(&span(), &position.progress()), Some(position));
        }
    }

    #[test]
    fn a_note_of_others_is_not_progress() {
        for note in ["", "1", "1,2", "a,b,c", "1,2,-3", "1;2;3"] {
            let (topic, note) = ("t".to_owned(), note.to_owned());
            let progress = Progress { topic, partition: 2, next: 1, note };
            assert_eq!(Position::of(&span(), &progress), None, "{progress:?}");
        }
    }

    #[test]
    fn notes_are_found_among_other_records() {
        let id = ReplayId::try_from("r1".to_owned()).unwrap();
        let ended = Note::Ended {
            replay: id.clone(),
            sent: Tally { records: 3, bytes: 9 },
            gone_offsets: 1,
        };
        let statement = |what: &str, details| {
            let by = Actor { user: "u".to_owned(), host: "h".to_owned(), pid: 1 };
            let (what, id) = (what.to_owned(), OperationId::new(7));
            OperationRecord::Statement(Statement {
                version: VERSION,
                id,
                entity: None,
                by,
                at_ms: 5,
                reason: None,
                what,
                details,
            })
            .encode()
            .unwrap()
        };
        let details = serde_json::to_value(&ended).unwrap();
        let (_, found) = note(&statement(WHAT, details.clone())).unwrap().unwrap();
        assert_eq!((found.replay(), &found), (&id, &ended));
        assert_eq!(
            details.to_string(),
            r#"{"gone_offsets":1,"phase":"ended","replay":"r1","sent":{"bytes":9,"records":3}}"#
        );
        assert_eq!(note(&statement("rebuild", details)), Ok(None));
        assert!(note(&statement(WHAT, 7.into())).unwrap_err().contains("not understood"));
        assert_eq!(note(b"garbage"), Ok(None));
        assert!(note(br#"{"kind":"dream","version":99}"#).unwrap_err().contains("version 99"));
    }
}
