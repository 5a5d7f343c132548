//! What an archived record says: the entry, its number, and the fingerprint that the collector would compute.

use crate::archive::segment::ArchivedRecord;
use crate::audit::entry::derived_id;
use crate::audit::seen::{SourceKind, filing};
use crate::audit::{Bucket, EntityName, Entry, Fingerprint, Lane, SeenLane, header};
use crate::github::graphql;
use crate::github::page::entry_of;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most bytes of large entries that wait for their further pieces.
const JOIN_BYTES_MAX: usize = 512 << 20;

/// A record that stands for an entry, or for a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbered {
    /// The entity.
    pub(super) entity: EntityName,
    /// Its number.
    pub(super) sequence: u64,
    /// When it was planned, by the collecting host's clock, epoch milliseconds.
    pub(super) ingest_ms: i64,
    /// The lane that it came through.
    pub(super) lane: Lane,
    ce_id: Vec<u8>,
    is_revision: bool,
    piece: Option<Piece>,
    value: Bytes,
}

/// Which piece of what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    number: usize,
    of: usize,
    sha256: String,
}

/// An entry that the archive holds, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archived {
    /// The entry, with its facts.
    pub(super) entry: Entry,
    /// What the collector knows it by.
    pub(super) fingerprint: Fingerprint,
    /// Which seen ids it belongs to.
    pub(super) lane: SeenLane,
}

/// Reads a record; `None` when it is none of an entry (a gap record, a statement, another program's).
pub(super) fn numbered(record: ArchivedRecord) -> Result<Option<Numbered>, String> {
    let text = |name: &str| -> Option<&str> {
        let (_, value) = record.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    };
    let (Some(entity), Some(sequence)) = (text(header::ENTITY), text(header::SEQ)) else {
        return Ok(None);
    };
    // what was sent again is there in the original too
    if text(header::REPLAY).is_some() {
        return Ok(None);
    }
    let entity = EntityName::try_from(entity.to_owned()).map_err(|error| error.to_string())?;
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
    let sequence = sequence.parse().map_err(|_| format!("{} is no number", header::SEQ))?;
    let ingest_ms = text(header::INGEST_MS).and_then(|text| text.parse().ok());
    let ingest_ms = ingest_ms.ok_or_else(|| format!("no {}", header::INGEST_MS))?;
    let lane = text(header::LANE).unwrap_or_default();
    let lane = Lane::ALL.into_iter().find(|known| known.as_str() == lane).ok_or_else(|| {
        format!("{} is {lane:?}: use the ghauditd that knows this way in", header::LANE)
    })?;
    let ce_id = text(header::CE_ID).ok_or_else(|| format!("no {}", header::CE_ID))?.as_bytes();
    let piece = match (number(header::CHUNK), number(header::CHUNKS), text(header::CHUNK_SHA256)) {
        (Some(number), Some(of), Some(sha256)) => Some(Piece {
            number: usize::try_from(number).unwrap_or(usize::MAX),
            of: usize::try_from(of).unwrap_or(usize::MAX),
            sha256: sha256.to_owned(),
        }),
        (None, None, None) => None,
        _ => return Err("it is a piece without number, count or SHA-256".to_owned()),
    };
    let (ce_id, is_revision) = (ce_id.to_vec(), text(header::REVISION).is_some());
    let value = record.value.ok_or("it has no value")?.into();
    Ok(Some(Numbered { entity, sequence, ingest_ms, lane, ce_id, is_revision, piece, value }))
}

/// Puts pieces together: those of a whole lie in one partition, in order.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: BTreeMap<(EntityName, String), Open>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Open {
    next: usize,
    value: Vec<u8>,
}

impl Joiner {
    /// The entry that a record is, or completes; `None` while pieces of it are to come.
    pub(super) fn take(&mut self, record: &Numbered) -> Result<Option<Archived>, String> {
        let Some(piece) = &record.piece else {
            return archived(record, record.value.clone()).map(Some);
        };
        let key = (record.entity.clone(), piece.sha256.clone());
        let mut open = self.open.remove(&key).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(open.value.len());
        if piece.number != open.next {
            return Err(format!("it is piece {}, where {} is due", piece.number, open.next));
        }
        open.next = open.next.saturating_add(1);
        open.value.extend_from_slice(&record.value);
        if open.next < piece.of {
            self.bytes = self.bytes.saturating_add(open.value.len());
            if self.bytes > JOIN_BYTES_MAX {
                return Err(format!("more than {JOIN_BYTES_MAX} bytes wait for further pieces"));
            }
            self.open.insert(key, open);
            return Ok(None);
        }
        let digest = derived_id(&open.value);
        if digest.strip_prefix("sha256:") != Some(piece.sha256.as_str()) {
            return Err("its pieces do not make the SHA-256 that they name".to_owned());
        }
        archived(record, Bytes::from(open.value)).map(Some)
    }

    /// How many wholes lack pieces; they are forgotten.
    pub(super) fn end(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.open).len()
    }
}

/// The fingerprint is made of the body, exactly as the collector makes it; `ce_id` has to say the same.
fn archived(record: &Numbered, body: Bytes) -> Result<Archived, String> {
    let source = record.lane.source();
    let entry = match source {
        SourceKind::GraphQl => graphql::cut::entry_of(&body),
        SourceKind::Rest | SourceKind::Push => entry_of(body),
    };
    let fingerprint = Fingerprint::new(&entry.id_or_derived().0, &entry.body, source);
    let mut id = entry.id_or_derived().0.into_owned();
    if record.is_revision {
        id.extend_from_slice(header::REVISION_SEPARATOR.as_bytes());
        let hash = fingerprint.body();
        id.extend(hash.iter().take(4).flat_map(|byte| format!("{byte:02x}").into_bytes()));
    }
    if id != record.ce_id {
        let (says, is) = (String::from_utf8_lossy(&record.ce_id), String::from_utf8_lossy(&id));
        return Err(format!("{} is {says:?}, its value makes {is:?}", header::CE_ID));
    }
    let lane = SeenLane::of(&entry);
    Ok(Archived { entry, fingerprint, lane })
}

impl Archived {
    /// The buckets that it was filed in when it was committed (`ingest_ms`).
    fn filed(&self, ingest_ms: i64, retention: Option<Duration>) -> impl Iterator<Item = Bucket> {
        let list = filing(&self.entry, ingest_ms, retention);
        (0..list.len()).filter_map(move |at| list.get(at).copied())
    }

    /// The latest time, epoch milliseconds, as of which it is still needed in one of its buckets: see [`Self::kept`].
    pub(super) fn needed_until_ms(&self, ingest_ms: i64, retention: Option<Duration>) -> i64 {
        let until = |bucket: Bucket| until_ms(bucket, ingest_ms);
        self.filed(ingest_ms, retention).map(until).max().unwrap_or(ingest_ms)
    }

    /// The buckets that an installation would still have, which forgets all from before `floor_ms`: hours by their time, the
    /// bucket of insane times by the time of the commit, as the topic forgets them.
    pub(super) fn kept(
        &self,
        ingest_ms: i64,
        retention: Option<Duration>,
        floor_ms: i64,
    ) -> impl Iterator<Item = Bucket> {
        self.filed(ingest_ms, retention)
            .filter(move |bucket| until_ms(*bucket, ingest_ms) >= floor_ms)
    }
}

fn until_ms(bucket: Bucket, ingest_ms: i64) -> i64 {
    const HOUR_MS: i64 = 3_600_000;
    if bucket == Bucket::NONE { ingest_ms } else { bucket.0.saturating_mul(HOUR_MS) }
}

/// SHA-256 of an object, to be compared with what the store says.
pub(super) fn sha256(object: &[u8]) -> [u8; 32] {
    Sha256::digest(object).into()
}
