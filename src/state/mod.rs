//! Seen ids on disk: a cache of their changelog topic.
//!
//! [`Buckets`] has one owner and one process at a time. The files hold only what a read-committed reader has shown, or what
//! this process has committed with a known outcome: losing them loses time, never an entry.

pub mod buckets;
mod disk;
mod error;
mod opening;
mod pending;
mod set;
mod shelf;
#[cfg(test)]
mod tests;

pub use buckets::Buckets;
pub use error::StateError;
pub use opening::Lock;
pub use pending::Pending;

use std::path::PathBuf;

/// From `[state]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the cache (systemd's `StateDirectory`).
    pub dir: PathBuf,
    /// Most bytes of buckets held in memory. Exceeded only when the three used last are larger.
    pub memory_bytes_max: usize,
}
