//! Our side, as the archive has it: the segments that may hold something of the range, each with its checksum.

use super::from_kafka::Offsets;
use super::lists::{Lists, OurRecord};
use super::spill::SpillError;
use super::{Step, Tell};
use crate::archive::key::SegmentKey;
use crate::archive::segment::{
    ArchivedRecord, ReadLimits, SegmentError, SegmentReader, parse_line,
};
use crate::archive::store::{Store, StoreError};
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Why our side cannot be read from the archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveSideError {
    /// The store.
    #[error("archive: {0}")]
    Store(#[from] StoreError),
    /// An object is not what was written.
    #[error("archive: {key}: {what}")]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The list cannot be kept.
    #[error(transparent)]
    Spill(#[from] SpillError),
}

/// A segment that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentRead {
    /// Its name.
    pub key: String,
    /// Bytes.
    pub bytes: usize,
    /// SHA-256 of them as they were read: the same as the store's, where it keeps one.
    pub sha256: String,
    /// Records, of whatever entity and time.
    pub records: u64,
}

/// What was read, and where it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveRead {
    /// The segments.
    pub segments: Vec<SegmentRead>,
    /// Segments of the same topics that were not needed: committed before the range, or too long after it.
    pub skipped: usize,
    /// Where a segment does not begin at the end of the one before it.
    pub breaks: Vec<String>,
    /// The position behind the last segment of each partition.
    pub ends: Offsets,
}

/// Reads what was committed from `from_ms` to `until_ms` (broker's clock, inclusive) in these topics.
pub async fn read<S: Store>(
    store: &S,
    topics: &[String],
    (from_ms, until_ms): (i64, i64),
    lists: &mut Lists,
    tell: &Tell,
) -> Result<ArchiveRead, ArchiveSideError> {
    let mut out = ArchiveRead::default();
    for topic in topics {
        let names = store.list(&format!("segments/{topic}/")).await?;
        let mut partitions: BTreeMap<i32, Vec<SegmentKey>> = BTreeMap::new();
        for key in names.iter().filter_map(|name| SegmentKey::parse(name)) {
            partitions.entry(key.partition).or_default().push(key);
        }
        for (partition, keys) in partitions {
            let mut side = Side { store, lists, tell, out: &mut out };
            let end = side.partition(&keys, (from_ms, until_ms)).await?;
            out.ends.insert((topic.clone(), partition), end);
        }
    }
    Ok(out)
}

struct Side<'a, S> {
    store: &'a S,
    lists: &'a mut Lists,
    tell: &'a Tell,
    out: &'a mut ArchiveRead,
}

impl<S: Store> Side<'_, S> {
    /// Reads one partition's segments; returns the position behind the last.
    async fn partition(
        &mut self,
        keys: &[SegmentKey],
        (from_ms, until_ms): (i64, i64),
    ) -> Result<i64, ArchiveSideError> {
        let first = self.first_needed(keys, from_ms).await?;
        self.out.skipped += first;
        let (mut position, mut past) = (None, false);
        for (number, key) in keys.iter().enumerate().skip(first) {
            let is_last = number + 1 == keys.len();
            if past && !is_last {
                self.out.skipped += 1;
                position = None;
                continue;
            }
            if position.is_some_and(|position| position != key.from) {
                let (from, to) = (position.unwrap_or(0), key.from);
                let (topic, partition) = (&key.topic, key.partition);
                self.out.breaks.push(format!("{topic}/{partition}: {from} to {to}"));
            }
            (self.tell)(Step::Archive { key: &key.name(), number, of: keys.len() });
            let object = self.object(key).await?;
            let stored = self.store.head(&key.name()).await?.and_then(|stored| stored.sha256);
            let (to, last_ms) = self.segment(key, &object, stored)?;
            position = Some(to);
            past = last_ms.is_some_and(|ms| ms > until_ms);
        }
        Ok(position.unwrap_or(0))
    }

    /// The number of the first segment that may hold a record of `from_ms` or later: kafka's times only rise, so half of
    /// what is left is excluded with each look.
    async fn first_needed(
        &mut self,
        keys: &[SegmentKey],
        from_ms: i64,
    ) -> Result<usize, ArchiveSideError> {
        // everything before `low` ends too early; the segment at `high` begins late enough, or is the last one
        let (mut low, mut high) = (0, keys.len().saturating_sub(1));
        while low < high {
            let middle = low.midpoint(high);
            let Some(key) = keys.get(middle) else { break };
            let object = self.object(key).await?;
            let footer_ms = last_time(&object).map_err(|error| damaged(key, &error))?;
            match footer_ms {
                Some(last_ms) if last_ms < from_ms => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    async fn object(&self, key: &SegmentKey) -> Result<Bytes, ArchiveSideError> {
        let name = key.name();
        let missing = || ArchiveSideError::Damaged {
            key: name.clone(),
            what: "is listed and not there".to_owned(),
        };
        self.store.get(&name).await?.ok_or_else(missing)
    }

    /// Reads a segment; returns where it ends and the time of its last record.
    fn segment(
        &mut self,
        key: &SegmentKey,
        object: &Bytes,
        stored_sha256: Option<[u8; 32]>,
    ) -> Result<(i64, Option<i64>), ArchiveSideError> {
        let digest = <[u8; 32]>::from(Sha256::digest(object));
        if stored_sha256.is_some_and(|stored| stored != digest) {
            let what = "its bytes have another SHA-256 than the store says".to_owned();
            return Err(ArchiveSideError::Damaged { key: key.name(), what });
        }
        let failed = |error: SegmentError| damaged(key, &error);
        let mut reader = SegmentReader::open(object, ReadLimits::default()).map_err(failed)?;
        let header = reader.header();
        if (&header.topic, header.partition, header.from) != (&key.topic, key.partition, key.from) {
            let what = "its header names another place than its name".to_owned();
            return Err(ArchiveSideError::Damaged { key: key.name(), what });
        }
        let mut records = 0;
        while let Some(line) = reader.next_line().map_err(failed)? {
            let record = parse_line(line).map_err(|error| damaged(key, &error))?;
            records += 1;
            take(self.lists, &record)?;
        }
        let footer = reader.footer().map(|footer| (footer.to, footer.last_timestamp));
        let mut sha256 = String::with_capacity(64);
        for byte in digest {
            // writing to a String cannot fail
            write!(sha256, "{byte:02x}").unwrap_or_default();
        }
        let read = SegmentRead { key: key.name(), bytes: object.len(), sha256, records };
        self.out.segments.push(read);
        Ok(footer.unwrap_or((key.from, None)))
    }
}

fn take(lists: &mut Lists, record: &ArchivedRecord) -> Result<(), SpillError> {
    let header = |name: &str| {
        let found = record.headers.iter().find(|(it, _)| it == name)?;
        found.1.as_deref()
    };
    let value = record.value.as_deref();
    lists.take_ours(&OurRecord { value, header: &header, behind_archive: false })
}

fn last_time(object: &[u8]) -> Result<Option<i64>, SegmentError> {
    let mut reader = SegmentReader::open(object, ReadLimits::default())?;
    while reader.next_line()?.is_some() {}
    Ok(reader.footer().and_then(|footer| footer.last_timestamp))
}

fn damaged(key: &SegmentKey, what: &dyn std::fmt::Display) -> ArchiveSideError {
    ArchiveSideError::Damaged { key: key.name(), what: what.to_string() }
}
