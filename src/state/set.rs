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

    /// Adds a fingerprint; whether it was not there before.
    pub(super) fn insert(&mut self, fingerprint: Fingerprint) -> bool {
        let hash = fingerprint.id_hash();
        if self.table.find(hash, |known| *known == fingerprint).is_some() {
            return false;
        }
        self.table.insert_unique(hash, fingerprint, Fingerprint::id_hash);
        true
    }

    /// Adds fingerprints; those that are there already change nothing.
    pub(super) fn extend(&mut self, fingerprints: impl IntoIterator<Item = Fingerprint>) {
        for fingerprint in fingerprints {
            self.insert(fingerprint);
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
