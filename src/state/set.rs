//! A bucket in memory: a hash set of fingerprints that finds all those of one id.

use crate::audit::{Fingerprint, Verdict};
use hashbrown::HashTable;

/// The fingerprints of one bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct FingerprintSet {
    table: HashTable<Fingerprint>,
}

impl FingerprintSet {
    /// An empty set with room for `capacity` fingerprints.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { table: HashTable::with_capacity(capacity) }
    }

    /// Adds a fingerprint; once is enough.
    pub(super) fn insert(&mut self, fingerprint: Fingerprint) {
        if !self.contains(&fingerprint) {
            self.extend_new(&[fingerprint]);
        }
    }

    /// Adds fingerprints that are not there: without looking.
    pub(super) fn extend_new(&mut self, new: &[Fingerprint]) {
        self.table.reserve(new.len(), Fingerprint::id_hash);
        for fingerprint in new {
            self.table.insert_unique(fingerprint.id_hash(), *fingerprint, Fingerprint::id_hash);
        }
    }

    /// Whether exactly this fingerprint is there.
    pub(super) fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.table.find(fingerprint.id_hash(), |known| known == fingerprint).is_some()
    }

    /// What `new` is beside all of the set.
    pub(super) fn verdict(&self, new: &Fingerprint) -> Verdict {
        self.table
            .iter_hash(new.id_hash())
            .map(|known| Verdict::beside(known, new))
            .max()
            .unwrap_or(Verdict::New)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.table.allocation_size()
    }
}
