//! Records of the checkpoint topic: an entity's checkpoint, the owner of a partition, the genesis.
//!
//! All three are JSON objects with a `version`. Keys: the entity's name for a checkpoint, `#owner/<partition>` for an
//! owner record, `#genesis` for the genesis (entity names cannot begin with `#`).
//! A version that is newer than the program is refused, never guessed.

use super::entity::{EntityName, Lane};
use super::interval::Intervals;
use super::slice::Slice;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The only version of all three layouts so far.
pub const VERSION: u32 = 1;

/// An entity's saved state. One record per transaction of that entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Layout version.
    pub version: u32,
    /// The entity.
    pub entity: EntityName,
    /// Sequence of the last record committed; the first record gets 1.
    pub sequence: u64,
    /// GitHub's clock at the last commit, epoch milliseconds.
    pub github_now_ms: Option<i64>,
    /// The lanes that have begun.
    pub lanes: BTreeMap<Lane, LaneState>,
}

/// A lane's saved state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneState {
    /// GitHub's now when the lane began (T0 + settling), epoch seconds.
    pub began_s: i64,
    /// Time that has been read once.
    pub collected: Intervals,
    /// Open slices, by id. Exactly one is a tail.
    pub slices: Vec<Slice>,
    /// Id of the next slice.
    pub next_slice: u64,
    /// Backfills that are being read, or were wholly empty and are asked again.
    pub backfills: Vec<Backfill>,
    /// Id of the next backfill.
    pub next_backfill: u64,
    /// Entries committed.
    pub entries: u64,
}

/// A span that was not read when it was new, read in one or more closed slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// Number within the lane.
    pub id: u64,
    /// First second.
    pub from_s: i64,
    /// Last second.
    pub to_s: i64,
    /// Second before which loss is no gap: the retention edge when the lane began.
    pub gap_floor_s: i64,
    /// Entries that its slices showed.
    pub entries: u64,
    /// When it was last found wholly empty (GitHub's now, epoch seconds): unconfirmed, asked again daily.
    pub empty_at_s: Option<i64>,
}

/// Who owns a checkpoint partition. Committed first, before anything else is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Layout version.
    pub version: u32,
    /// Random id of this process's run.
    pub run: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Local time of the start, epoch milliseconds.
    pub started_ms: i64,
}

/// The record that proves that a state topic is the one that this installation began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Layout version.
    pub version: u32,
    /// Random id of this installation.
    pub instance: String,
    /// Names of all topics at the first run, with their partition counts.
    pub topics: BTreeMap<String, i32>,
    /// Local time of the first run, epoch milliseconds.
    pub created_ms: i64,
}

/// Key of the genesis record.
pub const GENESIS_KEY: &str = "#genesis";

/// Key of the owner record of a checkpoint partition.
pub fn owner_key(partition: i32) -> String {
    format!("#owner/{partition}")
}

/// A state record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error("{what} has version {found}, this program knows up to {VERSION}: start the newer ghauditd that wrote it")]
    Newer {
        /// What was read.
        what: &'static str,
        /// Its version.
        found: u32,
    },
    /// Not the layout.
    #[error("{what} cannot be read: {source}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let malformed = |source| DecodeError::Malformed { what, source };
    let Version { version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if version > VERSION {
        return Err(DecodeError::Newer { what, found: version });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

macro_rules! json_record {
    ($type:ty, $what:literal) => {
        impl $type {
            /// Reads the record's value.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                decode($what, bytes)
            }

            /// The record's value.
            pub fn encode(&self) -> Vec<u8> {
                // strings, integers and maps with string keys: cannot fail
                serde_json::to_vec(self).unwrap_or_default()
            }
        }
    };
}
json_record!(Checkpoint, "checkpoint");
json_record!(Owner, "owner record");
json_record!(Genesis, "genesis");
