//! What can go wrong with the cache of seen ids.

use crate::audit::Topic;
use crate::audit::seen_record::SeenRecordError;
use std::io;
use std::path::{Path, PathBuf};

/// What the cache could not do, as what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk refused. Nothing is lost or forgotten: back off and call again.
    #[error("{action} {}: {source}; free or repair the disk, it is tried again", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The files are not what was written. They are worthless now: open the cache again and catch up from the changelog.
    #[error("seen ids in {} are damaged: the cache must be opened again, it is then rebuilt from its changelog", path.display())]
    Damaged {
        /// The file, or the cache's folder.
        path: PathBuf,
    },
    /// Another process uses the cache: stop.
    #[error("{} is in use by another ghauditd: stop that one, or give this one a state folder of its own", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
    /// The genesis names an instance that cannot be a folder: stop.
    #[error(
        "instance {instance:?} of the genesis record is not 1 to 64 characters of a-z A-Z 0-9 -"
    )]
    Instance {
        /// The instance.
        instance: String,
    },
    /// The changelog holds what this program cannot read: stop.
    #[error("seen changelog {topic:?}, partition {partition}, offset {offset}: {source}")]
    Changelog {
        /// The topic's role.
        topic: Topic,
        /// The partition.
        partition: i32,
        /// The record's offset.
        offset: i64,
        /// What is wrong with it.
        source: SeenRecordError,
    },
}

impl StateError {
    /// Whether the same call may succeed later. Otherwise the process must stop: its next start opens the cache again and
    /// catches up, or says once more what is wrong.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// Whether the disk has no room left: what the operator mends while the process waits.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
