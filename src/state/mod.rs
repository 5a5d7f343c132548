//! Seen ids on disk: a cache of their changelog topic.

pub mod buckets;

use std::path::PathBuf;

/// From `[state]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the cache (systemd's `StateDirectory`).
    pub dir: PathBuf,
    /// Most bytes of buckets held in memory.
    pub memory_bytes_max: usize,
}
