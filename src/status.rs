//! How the daemon stands, as plain values: the parts post them, `/status` serves them, `ghauditd status` shows them.
//!
//! The document is for programs too: members are added, never renamed; times are RFC 3339 in UTC, spans are seconds.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The only version of [`Page`] so far.
pub const VERSION: u32 = 1;

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Version of this document.
    pub version: u32,
    /// Version of the program.
    pub program: String,
    /// The process.
    pub pid: u32,
    /// When it started, by the host's clock.
    pub started: String,
    /// When this was said, by the host's clock.
    pub now: String,
    /// Whether nothing is starting or degraded.
    pub ready: bool,
    /// What is the matter now.
    pub trouble: Vec<Trouble>,
    /// What was the matter, the latest first.
    pub earlier: Vec<Trouble>,
    /// Each entity.
    pub entities: Vec<EntityStatus>,
    /// The archive, where there is one.
    pub archive: Option<ArchiveStatus>,
}

/// Something that was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Which part.
    pub part: String,
    /// What, with the remedy where there is one.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// Until when; `None`: still.
    pub until: Option<String>,
}

/// An entity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntityStatus {
    /// Its name in the configuration.
    pub entity: String,
    /// GitHub's clock.
    pub github_now: Option<String>,
    /// Sequence of the last record.
    pub sequence: u64,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
    /// Its credentials.
    pub credentials: Vec<CredentialStatus>,
}

/// A lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// `web`, `git`, ...
    pub lane: String,
    /// Entries committed.
    pub entries: u64,
    /// End of the time that was read again after settling.
    pub complete_up_to: Option<String>,
    /// Where the tail's next query starts.
    pub tail_from: Option<String>,
    /// Age of the oldest time that is not collected.
    pub behind_s: Option<i64>,
    /// Seconds until something expires that is not collected; negative: it has begun to. `None`: never.
    pub runway_s: Option<i64>,
    /// When that is.
    pub lost_from: Option<String>,
    /// The open slices.
    pub slices: Vec<SliceStatus>,
    /// Backfills that were wholly empty and are asked again daily.
    pub unconfirmed: Vec<SpanStatus>,
}

/// From when to when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanStatus {
    /// First second.
    pub from: String,
    /// Last second.
    pub to: String,
}

/// An open slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceStatus {
    /// Number within the lane.
    pub id: u64,
    /// `tail`, `backfill`, `sweep`.
    pub kind: String,
    /// The age that a sweep is for.
    pub age_s: Option<i64>,
    /// First second.
    pub from: String,
    /// Last second; `None` for a tail.
    pub to: Option<String>,
    /// How much of it is read, in per cent; `None` for a tail.
    pub percent: Option<u8>,
    /// Entries that it showed.
    pub entries: u64,
    /// Why its next request was or was not made when that was last decided.
    pub why: Option<String>,
}

/// A credential, as it stands for one entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialStatus {
    /// Its name in the configuration.
    pub credential: String,
    /// Requests of a window; `None`: no limit is known.
    pub limit: Option<u64>,
    /// What is left of them.
    pub remaining: Option<u64>,
    /// When the window ends.
    pub resets: Option<String>,
    /// Why it is not used, and until when.
    pub set_aside: Option<String>,
}

/// The archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Whether every partition has a place from which it is read.
    pub placed: bool,
    /// Partitions that are read.
    pub partitions: usize,
    /// Offsets in Kafka that are not stored yet.
    pub behind_records: i64,
    /// Age of the oldest record that is not stored.
    pub behind_s: i64,
    /// When something was stored last.
    pub last_stored: Option<String>,
    /// Gaps that nobody has acknowledged.
    pub gaps: usize,
    /// What keeps it from storing or reading, with the remedy.
    pub trouble: Option<String>,
}

/// Where the parts post how they stand. Cheap to share behind an `Arc`; no call blocks.
#[derive(Debug, Default)]
pub struct Board(Mutex<Posted>);

#[derive(Debug, Default)]
struct Posted {
    entities: BTreeMap<String, EntityStatus>,
    archive: Option<ArchiveStatus>,
}

impl Board {
    /// An empty board.
    pub fn new() -> Self {
        Self::default()
    }

    fn posted(&self) -> MutexGuard<'_, Posted> {
        // a poisoned lock means that a holder panicked between two assignments of plain values
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How an entity stands.
    pub fn post_entity(&self, entity: EntityStatus) {
        self.posted().entities.insert(entity.entity.clone(), entity);
    }

    /// How the archive stands.
    pub fn post_archive(&self, archive: ArchiveStatus) {
        self.posted().archive = Some(archive);
    }

    /// Everything that was posted.
    pub fn read(&self) -> (Vec<EntityStatus>, Option<ArchiveStatus>) {
        let posted = self.posted();
        (posted.entities.values().cloned().collect(), posted.archive.clone())
    }
}
