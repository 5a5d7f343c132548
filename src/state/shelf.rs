//! What is known of one lane's bucket files, and which of them are in memory.

use super::disk::{self, Vouched};
use super::error::StateError;
use super::set::FingerprintSet;
use crate::audit::{Bucket, EntityName, SeenLane};
use std::path::{Path, PathBuf};

/// A bucket that exists: what its file holds, and its set while it is in memory.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) bucket: Bucket,
    pub(super) sum: u64,
    pub(super) count: u32,
    /// Written since the last flush.
    pub(super) dirty: bool,
    pub(super) loaded: Option<Box<Loaded>>,
}

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) set: FingerprintSet,
    pub(super) used_at: u64,
}

impl Loaded {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.set.heap_bytes()
    }
}

impl Slot {
    pub(super) fn vouched(&self) -> Vouched {
        Vouched { bucket: self.bucket, count: self.count, sum: self.sum }
    }
}

/// More files than this are not synced one by one.
const SYNC_EACH_MAX: usize = 32;

/// The buckets of one lane of one entity.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) entity: EntityName,
    pub(super) lane: SeenLane,
    pub(super) dir: PathBuf,
    /// Ascending.
    pub(super) slots: Vec<Slot>,
    /// Whether the index on disk is not that of `slots`.
    pub(super) dirty: bool,
}

impl Shelf {
    pub(super) fn position(&self, bucket: Bucket) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&bucket, |slot| slot.bucket)
    }

    pub(super) fn slot_mut(&mut self, bucket: Bucket) -> Option<&mut Slot> {
        let at = self.position(bucket).ok()?;
        self.slots.get_mut(at)
    }

    pub(super) fn path(&self, bucket: Bucket) -> PathBuf {
        self.dir.join(disk::bucket_file(bucket))
    }

    /// Makes durable the buckets that were written since the last flush.
    ///
    /// A backfill touches thousands of hours in a minute: above [`SYNC_EACH_MAX`] the whole file system is synced once,
    /// instead of each file by itself.
    pub(super) fn sync_buckets(&mut self) -> Result<(), StateError> {
        let dir = &self.dir;
        if self.slots.iter().filter(|slot| slot.dirty).count() > SYNC_EACH_MAX {
            disk::sync_file_system(dir).map_err(StateError::io("sync", dir))?;
            self.slots.iter_mut().for_each(|slot| slot.dirty = false);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.dirty) {
            let path = dir.join(disk::bucket_file(slot.bucket));
            disk::sync(&path).map_err(StateError::io("sync", &path))?;
            slot.dirty = false;
        }
        Ok(())
    }

    /// Writes the lane's index; the names in its folder and in the entity's become durable with it.
    pub(super) fn write_index(&mut self, root: &Path) -> Result<(), StateError> {
        if self.slots.is_empty() && !self.dir.exists() {
            self.dirty = false;
            return Ok(());
        }
        let bytes = disk::encode_index(self.slots.iter().map(Slot::vouched));
        let path = self.dir.join(disk::INDEX);
        disk::replace(&self.dir, disk::INDEX, &bytes).map_err(StateError::io("write", &path))?;
        let entity = root.join(self.entity.as_str());
        disk::sync(&entity).map_err(StateError::io("sync", &entity))?;
        self.dirty = false;
        Ok(())
    }
}
