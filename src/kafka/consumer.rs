//! Reading topics, `read_committed` and at explicit offsets.
//!
//! Three ways, for three needs, all of them blocking or on a thread of their own, never on the caller's event loop:
//!
//! - [`read_to_end`], [`TopicReader`]: everything that is committed in one partition, and the proof that this was all;
//! - [`TopicReader::next_record`]: what stands at or after an offset, or where the partition ends;
//! - [`Stream`]: all partitions of several topics as they grow, in batches over a channel that is bounded in bytes.
//!
//! None of them joins a consumer group: partitions are assigned with explicit offsets, and `auto.offset.reset=error`
//! turns every lost place into an error instead of a silent jump.

mod client;
mod read;
mod stream;

pub use read::{NextRecord, ReadError, ReadFrom, RecordView, TopicReader, Watermarks, read_to_end};
pub use stream::{Encoded, Event, RecordBatch, Slot, Stream, StreamLimits, StreamRecord};
