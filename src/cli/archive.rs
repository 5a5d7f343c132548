//! `ghauditd archive list|cat|acknowledge`: looking into the archive, without disturbing anybody.

use super::{Exit, Output};
use crate::archive::gap::{ArchiveGap, seen_key};
use crate::archive::key::{GapKey, SegmentKey, segments_prefix};
use crate::archive::segment::{ArchivedRecord, Footer, ReadLimits, SegmentReader, parse_line};
use crate::archive::store::{PutOutcome, Store, StoreError};
use crate::archive::{AnyStore, Settings, lock_until};
use crate::time::{rfc3339_ms, rfc3339_s, wall_ms};
use bytes::Bytes;
use serde::Serialize;
use std::ops::Range;

/// How records are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CatFormat {
    /// JSON lines, as they are stored: offset, timestamp, key, headers, value
    Lines,
    /// The original values, byte for byte, each followed by a line feed; tombstones are left out
    Values,
    /// The original values, each behind its length in 4 bytes, most significant first; a tombstone is ffffffff
    Lengths,
}

/// Which records are shown, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatOptions {
    /// The topic.
    pub topic: String,
    /// The partition; `None`: all, one after another.
    pub partition: Option<i32>,
    /// Offsets, `from` up to, not including, `to`.
    pub offsets: Range<i64>,
    /// How.
    pub format: CatFormat,
}

#[derive(Serialize)]
struct Listing {
    store: String,
    segments: Vec<SegmentView>,
    gaps: Vec<GapView>,
}

#[derive(Serialize)]
struct SegmentView {
    topic: String,
    partition: i32,
    from: i64,
    /// Start of the next segment; of the newest, its own word.
    to: Option<i64>,
    records: Option<u64>,
    last_timestamp: Option<i64>,
    bytes: Option<u64>,
    retain_until_s: Option<i64>,
    key: String,
}

#[derive(Serialize)]
struct GapView {
    #[serde(flatten)]
    gap: ArchiveGap,
    acknowledged: bool,
}

/// Lists the segments of every partition, and the gaps. `long`: reads each segment for its count and size; else only
/// the newest of each partition.
pub async fn list(
    settings: &Settings,
    json: bool,
    long: bool,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    let store = match AnyStore::open(settings).await {
        Ok(store) => store,
        Err(error) => return Ok(refused(&error, out)),
    };
    let listing = match look(&store, long).await {
        Ok(listing) => listing,
        Err(error) => return Ok(refused(&error, out)),
    };
    if json {
        out.json(&listing)?;
        return Ok(Exit::Ok);
    }
    show(&listing, out)?;
    Ok(Exit::Ok)
}

async fn look(store: &AnyStore, long: bool) -> Result<Listing, StoreError> {
    let names = store.list("segments/").await?;
    let keys: Vec<_> = names.iter().filter_map(|name| SegmentKey::parse(name)).collect();
    let mut segments = Vec::with_capacity(keys.len());
    for (index, key) in keys.iter().enumerate() {
        let next = keys
            .get(index + 1)
            .filter(|next| next.topic == key.topic && next.partition == key.partition);
        let mut view = SegmentView {
            topic: key.topic.clone(),
            partition: key.partition,
            from: key.from,
            to: next.map(|next| next.from),
            records: None,
            last_timestamp: None,
            bytes: None,
            retain_until_s: None,
            key: key.name(),
        };
        if long || next.is_none() {
            read_view(store, &mut view).await?;
        }
        segments.push(view);
    }
    Ok(Listing { store: store.describe(), segments, gaps: gaps(store).await? })
}

async fn read_view(store: &AnyStore, view: &mut SegmentView) -> Result<(), StoreError> {
    if let Some(stored) = store.head(&view.key).await? {
        view.bytes = Some(stored.size_bytes);
        view.retain_until_s = stored.lock.map(|lock| lock.retain_until_s);
    }
    let object = store.get(&view.key).await?.unwrap_or_default();
    let footer = footer(&object)
        .map_err(|error| StoreError::Refused { message: format!("{}: {error}", view.key) })?;
    view.to = Some(footer.to);
    view.records = Some(footer.count);
    view.last_timestamp = footer.last_timestamp;
    Ok(())
}

fn footer(object: &[u8]) -> anyhow::Result<Footer> {
    let mut reader = SegmentReader::open(object, ReadLimits::default())?;
    while reader.next_line()?.is_some() {}
    reader.footer().cloned().ok_or_else(|| anyhow::anyhow!("no footer"))
}

async fn gaps(store: &AnyStore) -> Result<Vec<GapView>, StoreError> {
    let names = store.list("gaps/").await?;
    let mut gaps = Vec::new();
    for key in names.iter().filter_map(|name| GapKey::parse(name)) {
        let object = store.get(&key.name()).await?.unwrap_or_default();
        let gap = ArchiveGap::parse(&object).ok_or_else(|| StoreError::Refused {
            message: format!("{} is no gap that this program can read", key.name()),
        })?;
        gaps.push(GapView { gap, acknowledged: names.contains(&seen_key(&key)) });
    }
    Ok(gaps)
}

fn show(listing: &Listing, out: &mut Output) -> anyhow::Result<()> {
    out.line(&listing.store)?;
    let number = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
    let count = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let rows: Vec<_> = listing
        .segments
        .iter()
        .map(|segment| {
            vec![
                segment.topic.clone(),
                segment.partition.to_string(),
                segment.from.to_string(),
                number(segment.to),
                count(segment.records),
                count(segment.bytes),
                segment.last_timestamp.map_or("-".to_owned(), rfc3339_ms),
                segment.retain_until_s.map_or("-".to_owned(), rfc3339_s),
            ]
        })
        .collect();
    let head =
        ["TOPIC", "PARTITION", "FROM", "TO", "RECORDS", "BYTES", "LAST RECORD", "KEPT UNTIL"];
    out.table(&head, &rows)?;
    for view in &listing.gaps {
        let seen = if view.acknowledged { "acknowledged" } else { "NOT ACKNOWLEDGED" };
        out.line(format!("gap, {seen}: {}", view.gap))?;
    }
    Ok(())
}

/// Writes archived records out.
pub async fn cat(
    settings: &Settings,
    options: &CatOptions,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    let store = match AnyStore::open(settings).await {
        Ok(store) => store,
        Err(error) => return Ok(refused(&error, out)),
    };
    let prefix = match options.partition {
        Some(partition) => segments_prefix(&options.topic, partition),
        None => format!("segments/{}/", options.topic),
    };
    let names = match store.list(&prefix).await {
        Ok(names) => names,
        Err(error) => return Ok(refused(&error, out)),
    };
    let keys: Vec<_> = names.iter().filter_map(|name| SegmentKey::parse(name)).collect();
    if keys.is_empty() {
        out.complain(format!("{} holds nothing under {prefix}", store.describe()));
        return Ok(Exit::NotFound);
    }
    for (index, key) in keys.iter().enumerate() {
        let ends_before = keys.get(index + 1).is_some_and(|next| {
            next.partition == key.partition && next.from <= options.offsets.start
        });
        if ends_before || key.from >= options.offsets.end {
            continue;
        }
        let object = match store.get(&key.name()).await {
            Ok(object) => object.unwrap_or_default(),
            Err(error) => return Ok(refused(&error, out)),
        };
        if let Err(error) = cat_segment(&object, options, out) {
            if error.downcast_ref::<super::OutputError>().is_some() {
                return Err(error);
            }
            out.complain(format!("{}: {error}", key.name()));
            return Ok(Exit::Archive);
        }
    }
    Ok(Exit::Ok)
}

fn cat_segment(object: &[u8], options: &CatOptions, out: &mut Output) -> anyhow::Result<()> {
    let mut reader = SegmentReader::open(object, ReadLimits::default())?;
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.next_line()? {
            Some(next) => line.extend_from_slice(next),
            None => return Ok(()),
        }
        if !options.offsets.contains(&reader.last_offset()) {
            continue;
        }
        if options.format == CatFormat::Lines {
            line.push(b'\n');
            out.bytes(&line)?;
        } else {
            write_value(&parse_line(&line)?, options.format, out)?;
        }
    }
}

fn write_value(record: &ArchivedRecord, format: CatFormat, out: &mut Output) -> anyhow::Result<()> {
    let prefixed = format == CatFormat::Lengths;
    let Some(value) = &record.value else {
        if prefixed {
            out.bytes(&u32::MAX.to_be_bytes())?;
        }
        return Ok(());
    };
    if prefixed {
        out.bytes(&u32::try_from(value.len())?.to_be_bytes())?;
    }
    out.bytes(value)?;
    if !prefixed {
        out.bytes(b"\n")?;
    }
    Ok(())
}

/// Writes down that somebody has seen every archive gap there is; the archive then counts as ready again, from the
/// next start of the daemon on.
pub async fn acknowledge(settings: &Settings, out: &mut Output) -> anyhow::Result<Exit> {
    let done = async {
        let store = AnyStore::open(settings).await?;
        let lock = lock_until(settings.lock_mode, settings.retention, wall_ms());
        let mut seen = Vec::new();
        for view in gaps(&store).await?.into_iter().filter(|view| !view.acknowledged) {
            let bytes = Bytes::from(format!("{{\"seen_ms\":{}}}", wall_ms()));
            match store.put_if_absent(&view.gap.seen_key(), bytes, lock).await? {
                PutOutcome::Written(_) | PutOutcome::Exists => seen.push(view.gap),
            }
        }
        Ok(seen)
    };
    match done.await {
        Ok(seen) => {
            for gap in &seen {
                out.line(format!("acknowledged: {gap}"))?;
            }
            if seen.is_empty() {
                out.line("no archive gap waits to be acknowledged")?;
            }
            Ok(Exit::Ok)
        }
        Err(error) => Ok(refused(&error, out)),
    }
}

fn refused(error: &StoreError, out: &mut Output) -> Exit {
    out.complain(format!("archive: {error}"));
    match error {
        StoreError::Retry { .. } => Exit::Unexpected,
        StoreError::Refused { .. } => Exit::Archive,
    }
}
