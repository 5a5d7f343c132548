//! Write-once storage: sealed segments, and the stores that hold them.
//!
//! Speakers: [`dir`], [`s3`]. Pure: [`segment`], [`key`], [`gap`]. The log of manifests and its proofs are reserved.

pub mod dir;
pub mod gap;
pub mod key;
pub mod open;
pub mod probe;
pub mod s3;
pub mod segment;
pub mod store;

pub use open::AnyStore;
pub use store::{Lock, LockMode, PutOutcome, Store, StoreError, Stored};

use std::path::PathBuf;
use std::time::Duration;

/// From `[archive]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the archive: decides its owner partition and its consumer group.
    pub name: String,
    /// Where it is.
    pub store: StoreSettings,
    /// Lock of every object.
    pub lock_mode: LockMode,
    /// How long every object is kept from the close of its segment; rounded up to whole days.
    pub retention: Duration,
    /// A segment is sealed at this many compressed bytes.
    pub segment_bytes_max: usize,
    /// A segment is sealed at this many records.
    pub segment_records_max: u64,
    /// A segment is sealed at this age.
    pub segment_age_max: Duration,
    /// zstd level.
    pub zstd_level: i32,
    /// Most bytes that all open segments together hold in memory.
    pub buffer_bytes_max: usize,
}

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// A folder.
    Dir {
        /// The folder.
        path: PathBuf,
        /// Whether files are sealed with the immutable flag, where the host allows it.
        immutable: bool,
    },
    /// A bucket with Object Lock.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Key prefix; empty or ending in `/`.
        prefix: String,
        /// Region.
        region: String,
        /// Endpoint other than AWS.
        endpoint: Option<url::Url>,
        /// Whether the bucket stands in the path instead of the host name.
        path_style: bool,
        /// PEM file with certificate authorities that are trusted besides the system's.
        ca_file: Option<PathBuf>,
        /// Whether `Content-MD5` is sent too (old Ceph ignores SHA-256).
        content_md5: bool,
    },
}

/// The lock of an object that is closed at `closed_ms`: the period, rounded up to the next whole day (UTC).
pub fn lock_until(mode: LockMode, retention: Duration, closed_ms: i64) -> Lock {
    const DAY_S: i64 = 86_400;
    let period_s = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
    let end_s = closed_ms.div_euclid(1000).saturating_add(1).saturating_add(period_s);
    let days = end_s.div_euclid(DAY_S) + i64::from(end_s.rem_euclid(DAY_S) > 0);
    Lock { mode, retain_until_s: days.min(i64::MAX / DAY_S) * DAY_S }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_a_whole_day_and_never_early() {
        let day = Duration::from_hours(24);
        let until = |closed_ms| lock_until(LockMode::Governance, day, closed_ms).retain_until_s;
        assert_eq!(until(0), 2 * 86_400);
        assert_eq!(until(86_399_000), 2 * 86_400);
        assert_eq!(until(86_399_500), 2 * 86_400);
        assert_eq!(until(86_400_000), 3 * 86_400);
        assert_eq!(lock_until(LockMode::None, Duration::MAX, i64::MAX).retain_until_s % 86_400, 0);
    }
}
