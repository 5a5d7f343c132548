//! Archive gaps: what Kafka no longer had when the archive wanted it. One object for each, `gaps/…` (see [`super::key`]).
//!
//! ```json
//! {"ghauditd_archive_gap":1,"topic":"…","partition":0,"from":10,"to":20,"cause":"…","records_missing":true,"found_ms":0}
//! ```
//!
//! An operator who has seen a gap acknowledges it with a second object, the same name ending in `.seen.json`; until then
//! the archive is degraded.

use super::key::GapKey;
use serde::{Deserialize, Serialize};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// A range of positions that is not in the archive and never will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveGap {
    /// [`VERSION`].
    #[serde(rename = "ghauditd_archive_gap")]
    pub version: u32,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// End of what is archived before.
    pub from: i64,
    /// Where the archive goes on.
    pub to: i64,
    /// Why.
    pub cause: String,
    /// False where only a transaction marker fits: then no record is known to be missing.
    pub records_missing: bool,
    /// When it was found, epoch milliseconds.
    pub found_ms: i64,
}

impl ArchiveGap {
    /// A gap because of Kafka's retention.
    ///
    /// A committed transaction takes at least two offsets, a record and a marker; so where one offset is missing it was
    /// a marker.
    pub fn behind_retention(
        topic: &str,
        partition: i32,
        from: i64,
        to: i64,
        found_ms: i64,
    ) -> Self {
        let records_missing = to.saturating_sub(from) > 1;
        let cause = if records_missing {
            "Kafka's retention deleted these offsets before they were archived"
        } else {
            "Kafka's log begins one offset later; only a transaction marker fits, no record known missing"
        };
        Self {
            version: VERSION,
            topic: topic.to_owned(),
            partition,
            from,
            to,
            cause: cause.to_owned(),
            records_missing,
            found_ms,
        }
    }

    /// Its name.
    pub fn key(&self) -> GapKey {
        GapKey {
            topic: self.topic.clone(),
            partition: self.partition,
            from: self.from,
            to: self.to,
        }
    }

    /// The name of the object that acknowledges it.
    pub fn seen_key(&self) -> String {
        seen_key(&self.key())
    }

    /// Reads one; `None` when it is none of ours, or newer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|gap: &Self| gap.version <= VERSION)
    }
}

/// The name of the object that acknowledges a gap.
pub fn seen_key(key: &GapKey) -> String {
    format!("{}.seen.json", key.name().trim_end_matches(".json"))
}

impl std::fmt::Display for ArchiveGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, partition, from, to, cause, .. } = self;
        write!(f, "{topic}/{partition} offsets {from} to {to}: {cause}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let gap = ArchiveGap::behind_retention("t", 1, 10, 20, 5);
        let text = serde_json::to_string(&gap).unwrap();
        assert_eq!(
            text,
            r#"{"ghauditd_archive_gap":1,"topic":"t","partition":1,"from":10,"to":20,"cause":"Kafka's retention deleted these offsets before they were archived","records_missing":true,"found_ms":5}"#
        );
        assert_eq!(ArchiveGap::parse(text.as_bytes()), Some(gap.clone()));
        assert_eq!(ArchiveGap::parse(text.replacen(":1", ":2", 1).as_bytes()), None);
        assert_eq!(
            gap.seen_key(),
            "gaps/t/00001/00000000000000000010-00000000000000000020.seen.json"
        );
        assert_eq!(GapKey::parse(&gap.seen_key()), None);
    }

    #[test]
    fn one_offset_is_a_marker() {
        assert!(!ArchiveGap::behind_retention("t", 1, 10, 11, 5).records_missing);
        assert!(ArchiveGap::behind_retention("t", 1, 10, 12, 5).records_missing);
    }

    proptest! {
        #[test]
        fn a_gap_is_read_back(
            topic in "[a-zA-Z0-9._-]{1,20}", partition in 0..i32::MAX, from in 0..i64::MAX, to in 0..i64::MAX,
            found_ms in any::<i64>(),
        ) {
            let gap = ArchiveGap::behind_retention(&topic, partition, from, to, found_ms);
            let bytes = serde_json::to_vec(&gap).unwrap();
            prop_assert_eq!(ArchiveGap::parse(&bytes), Some(gap));
        }

        #[test]
        fn arbitrary_bytes_are_no_gap(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(ArchiveGap::parse(&bytes), None);
        }
    }
}
