//! Counters and gauges, in Prometheus' text format. Names carry their units; documented in `docs/metrics.md`.

use crate::audit::{EntityName, Lane, SliceKind};

/// All metrics of one process. Cheap to share behind an `Arc`.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A page was accepted.
    pub fn page(&self, _entity: &EntityName, _lane: Lane, _entries: usize, _body_bytes: usize) {}
    /// A request was made: `outcome` is `ok` or the reason of the error.
    pub fn request(&self, _entity: &EntityName, _outcome: &'static str, _seconds: f64) {}
    /// What is left of a credential's budget.
    pub fn budget(&self, _entity: &EntityName, _limit: u64, _remaining: u64) {}
    /// Something is tried again: `what` is `github`, `kafka`, `archive`.
    pub fn retry(&self, _what: &'static str, _reason: &'static str) {}
    /// Seconds until the oldest entry that is not collected expires; `None`: unlimited retention.
    pub fn runway(&self, _entity: &EntityName, _lane: Lane, _seconds: Option<f64>) {}
    /// Seconds that the lowest uncollected edge lies behind GitHub's now.
    pub fn lag(&self, _entity: &EntityName, _lane: Lane, _seconds: f64) {}
    /// Entries committed.
    pub fn committed(&self, _entity: &EntityName, _lane: Lane, _kind: SliceKind, _entries: u64) {}
    /// Entries dropped because they were seen already.
    pub fn known(&self, _entity: &EntityName, _lane: Lane, _entries: u64) {}
    /// Revisions committed.
    pub fn revisions(&self, _entity: &EntityName, _lane: Lane, _entries: u64) {}
    /// Entries that went to the dead-letter topic.
    pub fn dead_letters(&self, _entity: &EntityName, _entries: u64) {}
    /// Gaps recorded.
    pub fn gap(&self, _entity: &EntityName, _lane: Lane) {}
    /// A transaction ended: `outcome` is `committed`, `aborted`, `content`, `lost`, `fenced`.
    pub fn transaction(&self, _outcome: &'static str, _seconds: f64, _records: usize) {}
    /// Seconds from a live response to its commit.
    pub fn live_latency(&self, _entity: &EntityName, _seconds: f64) {}
    /// A segment was stored.
    pub fn segment(&self, _topic: &str, _records: u64, _bytes: u64, _seconds: f64) {}
    /// What a partition still holds that is not archived.
    pub fn archive_lag(&self, _topic: &str, _partition: i32, _records: i64, _seconds: f64) {}
    /// Bytes held by open segments.
    pub fn archive_buffer(&self, _bytes: usize) {}
    /// Archive gaps that are not acknowledged.
    pub fn archive_gaps(&self, _gaps: i64) {}
    /// Fingerprints known on disk were looked up or loaded.
    pub fn seen_bucket_loads(&self, _loads: u64) {}
    /// The page for Prometheus.
    pub fn render(&self) -> String {
        String::new()
    }
}
