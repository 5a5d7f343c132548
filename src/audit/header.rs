//! Names of the record headers: a public format, read by consumers that are not ours.
//!
//! Few and short, because each costs about 0.12 us a record. `ce_*` and `content-type` are the Kafka binding of `CloudEvents` in
//! binary mode (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>);
//! `gh_*` are ours. All values are UTF-8 text; numbers are decimal.

/// Version of `CloudEvents`: always [`CE_VERSION`].
pub const CE_SPECVERSION: &str = "ce_specversion";
/// The entry's id; for a revision followed by [`REVISION_SEPARATOR`] and 8 hex digits of its body's hash.
pub const CE_ID: &str = "ce_id";
/// Base URL, `/enterprises/` or `/orgs/`, slug.
pub const CE_SOURCE: &str = "ce_source";
/// GitHub's `action`, or [`CE_TYPE_UNKNOWN`].
pub const CE_TYPE: &str = "ce_type";
/// Entry time, RFC 3339 with milliseconds; absent when the entry has no time.
pub const CE_TIME: &str = "ce_time";
/// [`CONTENT_TYPE_JSON`] for a whole entry; absent for a piece.
pub const CONTENT_TYPE: &str = "content-type";

/// The entity's name in the configuration.
pub const ENTITY: &str = "gh_entity";
/// `web`, `git`, `graphql` or `push`: the way in.
pub const LANE: &str = "gh_lane";
/// Kind of slice: `tail`, `backfill`, `sweep` or `push`.
pub const SLICE: &str = "gh_slice";
/// When the record was planned, local clock, epoch milliseconds.
pub const INGEST_MS: &str = "gh_ingest_ms";
/// The entity's sequence: from 1, without holes, shared by data and dead-letter records.
pub const SEQ: &str = "gh_seq";
/// On a revision: 16 hex digits, XXH3-64 of a body with which the same id came before. Absent otherwise.
pub const REVISION: &str = "gh_revision";
/// `1` when GitHub gave no id and `ce_id` is `sha256:` of the bytes. Absent otherwise.
pub const DERIVED_ID: &str = "gh_derived_id";

/// A piece of something too large for its topic: id of the whole, equal for all of its pieces.
pub const CHUNK_ID: &str = "gh_chunk_id";
/// Number of this piece, from 0.
pub const CHUNK: &str = "gh_chunk";
/// How many pieces the whole has.
pub const CHUNKS: &str = "gh_chunks";
/// SHA-256 of the whole, 64 hex digits.
pub const CHUNK_SHA256: &str = "gh_chunk_sha256";

/// On a record that was sent again: the id of the replay.
pub const REPLAY: &str = "gh_replay";
/// On a record that was sent again: where it stood, as `topic/partition/offset`.
pub const REPLAY_OF: &str = "gh_replay_of";
/// On a record that was sent again: Kafka's timestamp there, epoch milliseconds; absent where it had none.
pub const REPLAY_TS: &str = "gh_replay_ts";

/// Value of [`CE_SPECVERSION`].
pub const CE_VERSION: &str = "1.0";
/// Value of [`CE_TYPE`] for an entry without an action.
pub const CE_TYPE_UNKNOWN: &str = "unknown";
/// Value of [`CONTENT_TYPE`].
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// Between an id and the 8 hex digits of a revision's body.
pub const REVISION_SEPARATOR: &str = ";r=";
