//! What the archiver says about itself: for `/readyz`, the status page and the demo.

use crate::archive::gap::ArchiveGap;
use crate::health::Health;
use crate::status::{ArchiveStatus, Board};
use crate::time::rfc3339_ms;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A look at the archiver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiverSnapshot {
    /// Whether every partition that exists has a place from which it is read.
    pub placed: bool,
    /// Partitions that are read.
    pub partitions: usize,
    /// What keeps it from storing, with the remedy.
    pub store_trouble: Option<String>,
    /// What keeps it from reading, with the remedy.
    pub kafka_trouble: Option<String>,
    /// Archive gaps that nobody has acknowledged, without those where only transaction markers are missing.
    pub gaps: Vec<ArchiveGap>,
    /// Offsets in Kafka that are not in the store yet.
    pub lag_records: i64,
    /// Age of the oldest record that is gathered and not stored, seconds.
    pub lag_seconds: i64,
    /// Records stored by this process.
    pub records: u64,
    /// Segments stored by this process.
    pub segments: u64,
    /// Bytes of these segments.
    pub bytes: u64,
    /// Segments that were there already and were adopted.
    pub adopted: u64,
    /// Of these, those that Kafka could no longer be compared with.
    pub adopted_unchecked: u64,
    /// Bytes held by segments that are not stored.
    pub buffered_bytes: usize,
    /// When something was stored last, epoch milliseconds.
    pub last_stored_ms: Option<i64>,
    /// When the loop turned last, in [`crate::time::mono_ms`].
    pub last_turn_mono_ms: i64,
}

/// Shared between the archiver, who writes, and everyone who looks.
#[derive(Debug, Default)]
pub struct ArchiverStatus {
    now: Mutex<ArchiverSnapshot>,
    health: Arc<Health>,
    board: Option<Arc<Board>>,
}

/// The part of [`Health`], and the name of the loop, that the archiver speaks for.
const PART: &str = "archive";
const LOOP: &str = "archiver";

impl ArchiverStatus {
    /// A status that also tells `health` (part `archive`, loop `archiver`).
    pub fn new(health: Arc<Health>) -> Self {
        health.set_starting(PART, "the places from which it goes on are not found yet");
        Self { now: Mutex::default(), health, board: None }
    }

    /// The same, posted to a board too.
    #[must_use]
    pub fn posting_to(mut self, board: Arc<Board>) -> Self {
        board.post_archive(ArchiverSnapshot::default().for_board());
        self.board = Some(board);
        self
    }

    /// How things are.
    pub fn snapshot(&self) -> ArchiverSnapshot {
        self.lock().clone()
    }

    /// What `/readyz` shows of it: trouble first, then gaps.
    pub fn degraded(&self) -> Option<String> {
        self.lock().degraded()
    }

    /// The loop has turned.
    pub(super) fn beat(&self) {
        self.health.beat(LOOP);
    }

    /// The loop waits for its last puts.
    pub(super) fn draining(&self) {
        self.health.named_wait(LOOP, "the last puts and its reader's end", Duration::from_mins(10));
    }

    /// The loop has ended.
    pub(super) fn ended(&self) {
        self.health.ended(LOOP);
    }

    /// Tells health what is so now.
    fn tell(&self, now: &ArchiverSnapshot) {
        if let Some(board) = &self.board {
            board.post_archive(now.for_board());
        }
        match now.degraded() {
            Some(reason) => self.health.set_degraded(PART, reason),
            None if now.placed => self.health.clear(PART),
            None => {}
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ArchiverSnapshot)) {
        let mut now = self.lock();
        change(&mut now);
        self.tell(&now);
    }

    /// Says what is wrong on one side; logged once for each new text.
    pub(super) fn trouble(&self, side: Side, message: &str) {
        let mut now = self.lock();
        let slot = now.slot(side);
        if slot.as_deref() != Some(message) {
            *slot = Some(message.to_owned());
            self.tell(&now);
            drop(now);
            tracing::warn!("archive: {message}");
        }
    }

    /// Nothing is wrong any more on one side.
    pub(super) fn well(&self, side: Side) {
        let mut now = self.lock();
        let before = now.slot(side).take();
        self.tell(&now);
        drop(now);
        if before.is_some() {
            tracing::info!("archive: {} answers again", side.name());
        }
    }

    fn lock(&self) -> MutexGuard<'_, ArchiverSnapshot> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom the archiver speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Store,
    Kafka,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Store => "the store",
            Self::Kafka => "Kafka",
        }
    }
}

impl ArchiverSnapshot {
    /// What keeps it from being ready: trouble first, then gaps.
    fn degraded(&self) -> Option<String> {
        if let Some(trouble) = self.store_trouble.as_ref().or(self.kafka_trouble.as_ref()) {
            return Some(trouble.clone());
        }
        let first = self.gaps.first()?;
        Some(format!(
            "{} archive gap(s) not acknowledged, the first: {first}; see `ghauditd archive list`",
            self.gaps.len()
        ))
    }

    fn for_board(&self) -> ArchiveStatus {
        ArchiveStatus {
            placed: self.placed,
            partitions: self.partitions,
            behind_records: self.lag_records,
            behind_s: self.lag_seconds,
            last_stored: self.last_stored_ms.map(rfc3339_ms),
            gaps: self.gaps.len(),
            trouble: self.degraded(),
        }
    }

    fn slot(&mut self, side: Side) -> &mut Option<String> {
        match side {
            Side::Store => &mut self.store_trouble,
            Side::Kafka => &mut self.kafka_trouble,
        }
    }
}
