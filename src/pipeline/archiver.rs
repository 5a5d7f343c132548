//! From the topics into write-once storage (protocols 7.1 to 7.3).
//!
//! The commit order, and what a crash leaves behind:
//!
//! 1. The place of a partition is the end of its newest stored segment; the store is asked before Kafka. Nothing is
//!    written, a crash costs nothing.
//! 2. Committed records are gathered from there, in memory only. A crash here: they are read again.
//! 3. A segment is sealed where the next record begins, or at the last stable offset when there is none. Still memory.
//! 4. It is put under its start position, only if that name is free, and read back. This is the commit: a crash before
//!    it leaves nothing, a crash after it leaves a whole segment, which step 1 finds. Segments of a partition are put
//!    strictly one after another. A name that is taken is compared, and adopted or refused, never written over.
//! 5. Kafka is told the position, for monitoring only.
//!
//! So a restart walks the same steps as the first start; there is no other recovery.

mod gather;
mod lines;
mod parts;
mod place;
mod put;
mod session;
mod status;

pub use status::{ArchiverSnapshot, ArchiverStatus};

use crate::archive::gap::{ArchiveGap, seen_key};
use crate::archive::key::GapKey;
use crate::archive::probe::Verdict;
use crate::archive::store::{Lock, Store, StoreError};
use crate::archive::{AnyStore, Settings, lock_until};
use crate::kafka::consumer::ReadError;
use crate::kafka::settings::Settings as KafkaSettings;
use crate::metrics::Metrics;
use crate::retry::Backoff;
use parts::{Parts, Reader};
use session::{End, Session};
use status::Side;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Why the archiver ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ArchiverError {
    /// The store or the topic is not what the archive must rest on; an operator has to decide.
    #[error("archive stopped: {0}")]
    Refused(String),
    /// Kafka cannot be read at all: a property is wrong, or a right is missing.
    #[error("archive cannot read Kafka: {0}")]
    Kafka(#[source] ReadError),
    /// Something of our own ended; start again.
    #[error("archive ended: {0}")]
    Ended(String),
    /// Told to stop. Never leaves [`run`].
    #[error("archive told to stop")]
    Cancelled,
}

/// Opens the store of `settings`, tries what the archive rests on, and archives to it: [`run`].
///
/// A store that cannot be reached is tried again; one that lacks a property is refused.
pub async fn open_and_run(
    settings: Settings,
    kafka: KafkaSettings,
    topics: Vec<String>,
    metrics: Arc<Metrics>,
    status: Arc<ArchiverStatus>,
    cancel: CancellationToken,
) -> Result<(), ArchiverError> {
    let opened = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        opened = open(&settings, &metrics, &status) => opened,
    };
    let store = opened.inspect_err(|error| status.trouble(Side::Store, &error.to_string()))?;
    run(Arc::new(store), settings, kafka, topics, metrics, status, cancel).await
}

async fn open(
    settings: &Settings,
    metrics: &Metrics,
    status: &ArchiverStatus,
) -> Result<AnyStore, ArchiverError> {
    let refused = |error: StoreError| ArchiverError::Refused(error.to_string());
    let store = AnyStore::open(settings).await.map_err(refused)?;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let properties = loop {
        match store.probe(settings).await {
            Ok(properties) => break properties,
            Err(StoreError::Retry { reason, message }) => {
                metrics.retry("archive", reason);
                status.trouble(Side::Store, &format!("failed to try the store: {message}"));
            }
            Err(error) => return Err(refused(error)),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    };
    status.well(Side::Store);
    for property in properties {
        let (name, detail) = (property.name, property.detail);
        match property.verdict {
            Verdict::Held | Verdict::NotWanted => tracing::debug!(detail, "archive store: {name}"),
            Verdict::NotProvable => tracing::warn!(detail, "archive store: {name} is not provable"),
            Verdict::Absent => tracing::warn!(detail, "archive store: {name} is not there"),
        }
    }
    tracing::info!(store = store.describe(), "archive store opened");
    Ok(store)
}

/// Archives `topics` until cancelled. One writer at a time: two would meet in the store, and one of them would adopt.
///
/// What the store or Kafka cannot do for a while is tried again for as long as it takes. Must run on a tokio runtime.
pub async fn run<S: Store>(
    store: Arc<S>,
    settings: Settings,
    kafka: KafkaSettings,
    topics: Vec<String>,
    metrics: Arc<Metrics>,
    status: Arc<ArchiverStatus>,
    cancel: CancellationToken,
) -> Result<(), ArchiverError> {
    let reader = Reader::new(&kafka);
    let parts = Arc::new(Parts { store, settings, kafka, topics, reader, metrics, status, cancel });
    let outcome = archive(&parts).await;
    parts.status.ended();
    match outcome {
        Err(ArchiverError::Cancelled) | Ok(()) => Ok(()),
        Err(error) => {
            parts.status.trouble(Side::Store, &error.to_string());
            Err(error)
        }
    }
}

async fn archive<S: Store>(parts: &Arc<Parts<S>>) -> Result<(), ArchiverError> {
    load_gaps(parts).await?;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    while !parts.cancel.is_cancelled() {
        let began = Instant::now();
        match Session::start(Arc::clone(parts))?.run().await? {
            End::Stopped => return Ok(()),
            End::Behind => {}
            End::Again(why) => {
                parts.status.trouble(Side::Kafka, &format!("finding its places again: {why}"));
            }
        }
        parts.metrics.retry("archive", "places");
        if began.elapsed() > Duration::from_mins(1) {
            backoff.reset();
        }
        tokio::select! {
            () = parts.cancel.cancelled() => {}
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
    Ok(())
}

/// Gaps that are recorded and not acknowledged.
async fn load_gaps<S: Store>(parts: &Parts<S>) -> Result<(), ArchiverError> {
    let names = parts.again("list the gaps", || parts.store.list("gaps/")).await?;
    let mut gaps = Vec::new();
    for key in names.iter().filter_map(|name| GapKey::parse(name)) {
        if names.contains(&seen_key(&key)) || !parts.topics.contains(&key.topic) {
            continue;
        }
        let name = key.name();
        let object = parts.again("read a gap", || parts.store.get(&name)).await?;
        let gap = object.as_deref().and_then(ArchiveGap::parse).ok_or_else(|| {
            ArchiverError::Refused(format!("{name} is no gap that this program can read"))
        })?;
        if gap.records_missing {
            gaps.push(gap);
        }
    }
    parts.metrics.archive_gaps(i64::try_from(gaps.len()).unwrap_or(i64::MAX));
    parts.status.change(|status| status.gaps = gaps);
    Ok(())
}

/// The lock of an object that is closed at this time.
fn locked_until(settings: &Settings, closed_ms: i64) -> Lock {
    lock_until(settings.lock_mode, settings.retention, closed_ms)
}
