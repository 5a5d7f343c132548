//! One segment into the store, until it is there or must not be (protocols 7.2).

use super::gather::Slot;
use super::lines::{Comparison, hex};
use super::{ArchiverError, Parts, locked_until};
use crate::archive::key::SegmentKey;
use crate::archive::segment::{ReadLimits, Sealed, SegmentReader};
use crate::archive::store::{Lock, LockMode, PutOutcome, Store};
use crate::kafka::consumer::ReadError;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Instant;

/// How a segment came to be in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredAs {
    /// As it was sealed, now or by an earlier attempt.
    Sealed,
    /// Another one of the same start was there, with the same records; it ends here.
    Adopted { to: i64 },
}

/// What became of a put.
#[derive(Debug)]
pub(super) struct PutDone {
    pub(super) slot: Slot,
    pub(super) sealed: Sealed,
    pub(super) seconds: f64,
    pub(super) outcome: Result<StoredAs, ArchiverError>,
}

/// Stores a segment. Ends only with it stored, a refusal, or cancellation.
pub(super) async fn put<S: Store>(parts: Arc<Parts<S>>, slot: Slot, sealed: Sealed) -> PutDone {
    let began = Instant::now();
    let outcome = put_or_adopt(&parts, &sealed).await;
    PutDone { slot, sealed, seconds: began.elapsed().as_secs_f64(), outcome }
}

async fn put_or_adopt<S: Store>(
    parts: &Parts<S>,
    sealed: &Sealed,
) -> Result<StoredAs, ArchiverError> {
    let header = &sealed.header;
    let key =
        SegmentKey { topic: header.topic.clone(), partition: header.partition, from: header.from };
    let name = key.name();
    let lock = locked_until(&parts.settings, sealed.footer.sealed_ms);
    // A crash before this put leaves nothing, after it a whole segment: recovery finds it by its name, and goes on
    // behind it. Its outcome may be unknown; then the same put finds the name taken.
    let outcome = parts
        .again("store a segment", || parts.store.put_if_absent(&name, sealed.bytes.clone(), lock))
        .await?;
    match outcome {
        PutOutcome::Written(stored) => {
            if stored.sha256.is_some_and(|found| found != sealed.sha256) {
                return Err(ArchiverError::Refused(format!(
                    "{} keeps another checksum for {name} than was sent: it damages what it stores",
                    parts.store.describe()
                )));
            }
            Ok(StoredAs::Sealed)
        }
        PutOutcome::Exists => adopt(parts, sealed, &name, lock).await,
    }
}

/// The name is taken: by an earlier attempt of ours, or by another writer, whose records must be the same.
async fn adopt<S: Store>(
    parts: &Parts<S>,
    sealed: &Sealed,
    name: &str,
    lock: Lock,
) -> Result<StoredAs, ArchiverError> {
    let object = parts.again("read a segment", || parts.store.get(name)).await?;
    let Some(object) = object else {
        return Err(ArchiverError::Refused(format!(
            "{name} is taken in {} and cannot be read: check the rights to read versions",
            parts.store.describe()
        )));
    };
    let stored_as = if object == sealed.bytes {
        StoredAs::Sealed
    } else {
        let to = compare(parts, sealed, name, object).await?;
        parts.status.change(|status| status.adopted += 1);
        StoredAs::Adopted { to }
    };
    ensure_lock(parts, name, lock).await?;
    Ok(stored_as)
}

async fn ensure_lock<S: Store>(
    parts: &Parts<S>,
    name: &str,
    lock: Lock,
) -> Result<(), ArchiverError> {
    if lock.mode == LockMode::None {
        return Ok(());
    }
    let head = parts.again("look at a segment", || parts.store.head(name)).await?;
    let long_enough = head
        .and_then(|stored| stored.lock)
        .is_some_and(|held| held.retain_until_s >= lock.retain_until_s);
    if !long_enough {
        parts.again("extend a lock", || parts.store.extend(name, lock)).await?;
        tracing::info!(segment = name, "lock of an adopted segment extended");
    }
    Ok(())
}

/// Compares the stored segment with Kafka's records of its range; its end is returned.
async fn compare<S: Store>(
    parts: &Parts<S>,
    sealed: &Sealed,
    name: &str,
    object: Bytes,
) -> Result<i64, ArchiverError> {
    let to = shape(sealed, name, &object)?;
    let header = sealed.header.clone();
    let (topic, partition, from) = (header.topic.clone(), header.partition, header.from);
    let object_hash = hex(&Sha256::digest(&object));
    let read = parts
        .reader
        .blocking(move |reader| {
            let stored = match SegmentReader::open(&object, ReadLimits::default()) {
                Ok(stored) => stored,
                Err(error) => return Ok(Err(error)),
            };
            let mut comparison = Comparison::new(stored);
            reader.read_range(&topic, partition, from, to, |record| {
                comparison.kafka(&record);
                true
            })?;
            Ok(comparison.finish())
        })
        .await;
    match read {
        Ok(Ok((true, ..))) => {
            tracing::info!(segment = name, to, "segment was there already, with the same records");
            Ok(to)
        }
        Ok(Ok((false, stored, kafka))) => Err(ArchiverError::Refused(format!(
            "segment {name} is stored with other records than Kafka has: SHA-256 of its lines {stored}, of Kafka's \
             {kafka} (object {object_hash}, ours {}); another writer or another topic: give this archive a new prefix",
            hex(&sealed.sha256)
        ))),
        Ok(Err(error)) => Err(ArchiverError::Refused(format!("segment {name}: {error}"))),
        Err(ArchiverError::Kafka(ReadError::OutOfRange { low, high, .. })) => {
            if low > from {
                parts.status.change(|status| status.adopted_unchecked += 1);
                tracing::warn!(
                    segment = name,
                    sha256 = object_hash,
                    "adopted unchecked: Kafka no longer has its records; its own shape and chain hold"
                );
                return Ok(to);
            }
            Err(ArchiverError::Refused(format!(
                "segment {name} ends at {to}, Kafka's log at {high}: topic recreated; give this archive a new prefix"
            )))
        }
        Err(error) => Err(error),
    }
}

/// The stored segment is whole, and of the same partition and start.
fn shape(sealed: &Sealed, name: &str, object: &[u8]) -> Result<i64, ArchiverError> {
    let refused = |what: String| {
        ArchiverError::Refused(format!(
            "{name} is taken by an object that is no such segment: {what}; give this archive a new prefix"
        ))
    };
    let mut reader = SegmentReader::open(object, ReadLimits::default())
        .map_err(|error| refused(error.to_string()))?;
    let (stored, ours) = (reader.header().clone(), &sealed.header);
    if (&stored.topic, stored.partition, stored.from) != (&ours.topic, ours.partition, ours.from) {
        return Err(refused(format!(
            "it is of {}/{} from {}",
            stored.topic, stored.partition, stored.from
        )));
    }
    while reader.next_line().map_err(|error| refused(error.to_string()))?.is_some() {}
    reader.footer().map(|footer| footer.to).ok_or_else(|| refused("no footer".to_owned()))
}
