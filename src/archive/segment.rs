//! Segments: sealed runs of records of one partition, as zstd-compressed JSON lines.
//!
//! # Layout, version 1
//!
//! An object is a sequence of zstd frames (so a valid `.zst` file); together they hold lines that end in LF:
//!
//! 1. the header, `{"ghauditd_segment":1,"topic":"…","partition":0,"from":0}`. `from` is the position where it begins:
//!    the end of the segment before. The first segment of a partition also has `"log_start"`: where Kafka's log began
//!    then. The first segment after an archive gap also has `"gap_from"`: the end of what was archived before the gap.
//! 2. one line for each record, in the order of offsets:
//!    `{"offset":0,"timestamp":0,"key":"…","headers":[["name","value"],…],"len":2,"value":{}}`.
//!    - `timestamp` is Kafka's, epoch milliseconds; null where the record has none.
//!    - `key` and the values of headers are JSON strings where they are UTF-8, else `{"b64":"…"}`, or null.
//!    - `value` stands last. A value that is JSON on one line is there verbatim: its exact bytes are the `len` bytes
//!      before the final `}` of the line. Any other value stands as `"value_b64":"…"` (standard alphabet, padded). A
//!      tombstone has `"value":null` and no `len`.
//! 3. the footer, `{"to":0,"count":0,"first_timestamp":0,"last_timestamp":0,"sealed_ms":0}`. `to` is the position of
//!    the next segment: no committed record lies between the last one here and `to`.
//!
//! Record lines are a pure function of the records: two writers of the same range write the same lines. (Header and
//! footer may differ in `log_start`, `to` and `sealed_ms`; frames may differ.) A reader refuses a newer version.

mod builder;
mod line;
mod reader;

pub use builder::{Compressor, OpenSegment, Sealed};
pub use line::{ArchivedRecord, LineError, RecordRef, parse_line, write_line};
pub use reader::{ReadLimits, SegmentReader};

use serde::{Deserialize, Serialize};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    #[serde(rename = "ghauditd_segment")]
    pub version: u32,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The position where it begins.
    pub from: i64,
    /// First segment of a partition: where Kafka's log began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_start: Option<i64>,
    /// First segment after an archive gap: the end of what was archived before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_from: Option<i64>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// The position where the next segment begins.
    pub to: i64,
    /// Records.
    pub count: u64,
    /// Kafka's time of the first record, epoch milliseconds.
    pub first_timestamp: Option<i64>,
    /// Kafka's time of the last record, epoch milliseconds.
    pub last_timestamp: Option<i64>,
    /// When it was sealed, epoch milliseconds, by the archiver's clock.
    pub sealed_ms: i64,
}

/// Why an object cannot be read as a segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Written by a newer program.
    #[error("segment of version {found}, this program reads up to {VERSION}: use a newer ghauditd")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// Not a segment, cut off, or damaged.
    #[error("segment damaged at line {line}: {what}")]
    Damaged {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// Larger than what a reader takes.
    #[error("segment has {what} of more than {limit} bytes: not read")]
    TooLarge {
        /// What of it.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}
