//! What flows through the daemon: entries, slices, checkpoints, seen ids, records.
//!
//! Pure: takes bytes, state and `now`, returns values. Imports nothing of ours.
//! Times are epoch milliseconds (`_ms`) or whole epoch seconds (`_s`), as `i64`.

pub mod checkpoint;
pub mod clock;
pub mod cursor;
pub mod entity;
pub mod entry;
pub mod header;
pub mod interval;
pub mod lane;
pub mod operation;
pub mod record;
pub mod rewind;
pub mod saved;
pub mod seen;
pub mod seen_record;
pub mod slice;
pub mod sweep;

pub use checkpoint::{Checkpoint, Genesis, LaneState, Owner};
pub use clock::ServerClock;
pub use cursor::Cursor;
pub use entity::{EntityKind, EntityName, Lane};
pub use entry::{Entry, Text};
pub use interval::Intervals;
pub use operation::{Actor, Operation, OperationId, OperationRecord, SavedName};
pub use record::{Batch, Record, Topic};
pub use saved::{EntityState, Saved, SavedCopies};
pub use seen::{BodyHash, Bucket, Fingerprint, SeenLane, SourceKind, Verdict};
pub use seen_record::SeenRecord;
pub use slice::{Slice, SliceKind};
pub use sweep::{SweepAges, Swept};
