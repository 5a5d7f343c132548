//! From an entry to its Kafka records: headers, key, pieces. Header names: [`crate::audit::header`].

use super::plan::Clocks;
use crate::audit::lane::{Expired, LaneRules};
use crate::audit::{
    BodyHash, Checkpoint, EntityName, Entry, Lane, Record, SeenLane, Slice, SliceKind, Topic,
    header,
};
use crate::time::{rfc3339_ms, rfc3339_s};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Bytes of a value that fit into a record of 8 MiB beside its key and headers.
pub const VALUE_BYTES_MAX: usize = (8 << 20) - (64 << 10);

/// What is the same for all records of an entity.
#[derive(Debug, Clone)]
pub struct EntityContext {
    /// Its name.
    pub name: EntityName,
    /// Its partition in each state topic.
    pub state_partition: i32,
    /// The rules of its lanes.
    pub rules: BTreeMap<Lane, LaneRules>,
    /// Largest value that a topic takes whole; lowered when a topic turns out to take less.
    pub value_bytes_max: usize,
    /// `ce_source`.
    pub source: Bytes,
    /// The name as a record key.
    pub key: Bytes,
}

/// One entry on its way to being a record.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// The lane that it came through.
    pub lane: Lane,
    /// The kind of slice that it came through.
    pub kind: SliceKind,
    /// Its id, or the one derived from its bytes.
    pub id: &'a [u8],
    /// Whether the id is derived.
    pub derived: bool,
    /// When the same id came before with another body.
    pub revision: Option<Revision>,
}

/// Two bodies of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// The one that is sent now.
    pub body: BodyHash,
    /// The one that came before.
    pub before: BodyHash,
}

/// One allocation for the small header values of a whole batch.
#[derive(Debug)]
pub struct Arena {
    buffer: BytesMut,
    ingest: Bytes,
}

impl Arena {
    /// Room for the headers of `entries` records planned at `ingest_ms`.
    pub fn new(entries: usize, ingest_ms: i64) -> Self {
        Self {
            buffer: BytesMut::with_capacity(entries.saturating_mul(40)),
            ingest: Bytes::from(ingest_ms.to_string()),
        }
    }

    fn text(&mut self, args: std::fmt::Arguments<'_>) -> Bytes {
        // writing to a growing buffer cannot fail
        self.buffer.write_fmt(args).unwrap_or_default();
        self.buffer.split().freeze()
    }
}

impl EntityContext {
    /// How long GitHub keeps what is filed under `lane`; the longest known where the lane is not read.
    pub fn seen_retention(&self, lane: SeenLane) -> Option<Duration> {
        let wanted = match lane {
            SeenLane::Web => Lane::Web,
            SeenLane::Git => Lane::Git,
        };
        let rules = self.rules.get(&wanted).or_else(|| self.rules.values().next())?;
        rules.retention_s.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0)))
    }

    /// The record that holds a checkpoint.
    pub fn checkpoint_record(&self, checkpoint: &Checkpoint) -> Record {
        Record {
            topic: Topic::Checkpoints,
            partition: Some(self.state_partition),
            key: self.key.clone(),
            value: Some(Bytes::from(checkpoint.encode())),
            headers: Vec::new(),
        }
    }

    /// The record of a period whose completeness cannot be claimed. `slice`: what was to read it, as it stood before the
    /// answer; `asked_s`: when that answer was asked for.
    pub fn gap_record(
        &self,
        lane: Lane,
        span: Expired,
        cause: &str,
        (slice, asked_s): (&Slice, i64),
        clocks: Clocks,
    ) -> Record {
        let value = serde_json::json!({
            "version": 1,
            "entity": self.name,
            "lane": lane,
            "from": rfc3339_s(span.from_s),
            "to": rfc3339_s(span.to_s),
            "cause": cause,
            "noticed": rfc3339_ms(clocks.github_now_ms),
            "tried": {
                "slice": slice.kind,
                "slice_id": slice.id,
                "opened": slice.opened_s.map(rfc3339_s),
                "read_up_to": rfc3339_s(slice.unread_s()),
                "entries": slice.entries,
                "asked": rfc3339_s(asked_s),
            },
        });
        Record {
            topic: Topic::Gaps,
            partition: None,
            key: self.key.clone(),
            value: Some(Bytes::from(value.to_string())),
            headers: vec![
                (header::ENTITY, self.key.clone()),
                (header::CONTENT_TYPE, Bytes::from_static(header::CONTENT_TYPE_JSON.as_bytes())),
            ],
        }
    }

    /// Appends the records of one entry: one, or numbered pieces on the dead-letter topic when its topic cannot take it
    /// whole. Each gets the next number of the sequence. Returns how many.
    pub fn records(
        &self,
        arena: &mut Arena,
        draft: &Draft<'_>,
        topic: Topic,
        sequence: &mut u64,
        out: &mut Vec<Record>,
    ) -> usize {
        let body = &draft.entry.body;
        let common = self.headers(arena, draft);
        let key =
            draft.entry.org.as_ref().map_or_else(|| self.key.clone(), |org| org.as_bytes().clone());
        let mut push = |topic, value: Bytes, mut headers: Vec<(&'static str, Bytes)>| {
            *sequence = sequence.saturating_add(1);
            headers.push((header::SEQ, arena.text(format_args!("{sequence}"))));
            out.push(Record {
                topic,
                partition: None,
                key: key.clone(),
                value: Some(value),
                headers,
            });
        };
        if body.len() <= self.value_bytes_max {
            let mut headers = common;
            let json = Bytes::from_static(header::CONTENT_TYPE_JSON.as_bytes());
            headers.push((header::CONTENT_TYPE, json));
            push(topic, body.clone(), headers);
            return 1;
        }
        let digest = crate::audit::entry::derived_id(body);
        let whole =
            Bytes::copy_from_slice(digest.strip_prefix("sha256:").unwrap_or(&digest).as_bytes());
        let id = hex_prefix(&Sha256::digest(draft.id), 16);
        let size = self.value_bytes_max.max(1);
        let pieces = body.len().div_ceil(size);
        for piece in 0..pieces {
            let from = piece.saturating_mul(size);
            let to = from.saturating_add(size).min(body.len());
            let mut headers = common.clone();
            headers.push((header::CHUNK_ID, Bytes::from(id.clone())));
            headers.push((header::CHUNK, Bytes::from(piece.to_string())));
            headers.push((header::CHUNKS, Bytes::from(pieces.to_string())));
            headers.push((header::CHUNK_SHA256, whole.clone()));
            push(Topic::DeadLetter, body.slice(from..to), headers);
        }
        pieces
    }

    fn headers(&self, arena: &mut Arena, draft: &Draft<'_>) -> Vec<(&'static str, Bytes)> {
        let entry = draft.entry;
        let mut headers = Vec::with_capacity(12);
        headers.push((header::CE_SPECVERSION, Bytes::from_static(header::CE_VERSION.as_bytes())));
        headers.push((header::CE_ID, ce_id(draft)));
        headers.push((header::CE_SOURCE, self.source.clone()));
        let unknown = || Bytes::from_static(header::CE_TYPE_UNKNOWN.as_bytes());
        let action = entry.action.as_ref().map_or_else(unknown, |action| action.as_bytes().clone());
        headers.push((header::CE_TYPE, action));
        if let Some(time) =
            entry.time_ms().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        {
            headers.push((header::CE_TIME, arena.text(format_args!("{time:.3}"))));
        }
        headers.push((header::ENTITY, self.key.clone()));
        headers.push((header::LANE, Bytes::from_static(draft.lane.as_str().as_bytes())));
        headers.push((header::SLICE, Bytes::from_static(draft.kind.as_str().as_bytes())));
        headers.push((header::INGEST_MS, arena.ingest.clone()));
        if let Some(revision) = draft.revision {
            headers.push((header::REVISION, Bytes::from(hex_prefix(&revision.before, 8))));
        }
        if draft.derived {
            headers.push((header::DERIVED_ID, Bytes::from_static(b"1")));
        }
        headers
    }
}

fn ce_id(draft: &Draft<'_>) -> Bytes {
    match (draft.revision, &draft.entry.id) {
        (None, Some(id)) => id.as_bytes().clone(),
        (None, None) => Bytes::copy_from_slice(draft.id),
        (Some(revision), _) => {
            let mut id = draft.id.to_vec();
            id.extend_from_slice(header::REVISION_SEPARATOR.as_bytes());
            id.extend_from_slice(hex_prefix(&revision.body, 4).as_bytes());
            Bytes::from(id)
        }
    }
}

/// The first `bytes` bytes as hex digits.
fn hex_prefix(from: &[u8], bytes: usize) -> String {
    from.iter().take(bytes).fold(String::with_capacity(bytes * 2), |mut hex, byte| {
        // writing to a String cannot fail
        write!(hex, "{byte:02x}").unwrap_or_default();
        hex
    })
}
