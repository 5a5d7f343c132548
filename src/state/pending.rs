//! What a batch that is being planned adds to the seen ids, before anything of it is committed.

use crate::audit::{Bucket, Fingerprint, SeenLane, Verdict};
use hashbrown::HashTable;
use std::collections::BTreeMap;

/// Fingerprints of one planned batch of one entity. Compared with like those of the buckets, so that a batch never holds
/// an entry twice; dropped when the batch is aborted, handed to [`super::Buckets::commit`] when it is committed.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    table: HashTable<(SeenLane, Bucket, Fingerprint)>,
    groups: BTreeMap<(SeenLane, Bucket), Vec<Fingerprint>>,
}

impl Pending {
    /// Adds a fingerprint to a bucket; once is enough.
    pub fn insert(&mut self, lane: SeenLane, bucket: Bucket, fingerprint: Fingerprint) {
        let (hash, added) = (fingerprint.id_hash(), (lane, bucket, fingerprint));
        if self.table.find(hash, |known| *known == added).is_none() {
            self.table.insert_unique(hash, added, |(_, _, known)| known.id_hash());
            self.groups.entry((lane, bucket)).or_default().push(fingerprint);
        }
    }

    /// What was added, by bucket: one changelog record each.
    pub fn iter(&self) -> impl Iterator<Item = (SeenLane, Bucket, &[Fingerprint])> {
        self.groups.iter().map(|(&(lane, bucket), added)| (lane, bucket, added.as_slice()))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Forgets everything: the batch was aborted.
    pub fn clear(&mut self) {
        self.table.clear();
        self.groups.clear();
    }

    /// What `new` is beside what was added to these buckets, and to [`Bucket::NONE`].
    pub(super) fn verdict(&self, lane: SeenLane, buckets: &[Bucket], new: &Fingerprint) -> Verdict {
        self.table
            .iter_hash(new.id_hash())
            .filter(|(known_lane, bucket, _)| {
                *known_lane == lane && (*bucket == Bucket::NONE || buckets.contains(bucket))
            })
            .map(|(_, _, known)| Verdict::beside(known, new))
            .max()
            .unwrap_or(Verdict::New)
    }
}
