//! Where sources, Kafka, seen ids and the archive meet. Loops: [`collector`], [`archiver`]. Pure: [`schedule`], [`plan`].

pub mod archiver;
pub mod buffer;
pub mod collector;
pub mod partition;
pub mod pause;
pub mod plan;
pub mod record;
pub mod schedule;
pub mod seen;

use std::time::Duration;

/// How entries are collected. From `[collect]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Age at which nothing late is expected any more.
    pub settling: Duration,
    /// Shortest time between two polls of a tail.
    pub poll_interval_min: Duration,
    /// Longest time between two polls of a tail.
    pub poll_interval_max: Duration,
    /// Most pages in one transaction.
    pub batch_pages_max: usize,
    /// Most bytes of pages in one transaction, and as many fetched ahead.
    pub batch_bytes_max: usize,
    /// Requests of each hour's limit that are left to others.
    pub budget_reserve: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settling: Duration::from_mins(10),
            poll_interval_min: Duration::from_secs(15),
            poll_interval_max: Duration::from_mins(1),
            batch_pages_max: 10,
            batch_bytes_max: 8 << 20,
            budget_reserve: 0,
        }
    }
}
