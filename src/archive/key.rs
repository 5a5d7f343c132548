//! Names of the objects of an archive, relative to its prefix.
//!
//! ```text
//! segments/<topic>/<partition, 5 digits>/<start position, 20 digits>.jsonl.zst
//! gaps/<topic>/<partition, 5 digits>/<from, 20 digits>-<to, 20 digits>.json
//! probe/<random>
//! ```
//!
//! Digits are padded, so the order of names is the order of positions. Kafka's own rule for topic names (letters,
//! digits, `.`, `_`, `-`; neither `.` nor `..`) makes them safe as one part of a path.

/// Where a segment stands in its topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentKey {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The position where it starts: the end of the segment before it.
    pub from: i64,
}

const SEGMENT_END: &str = ".jsonl.zst";
const GAP_END: &str = ".json";

impl SegmentKey {
    /// Its name.
    pub fn name(&self) -> String {
        let Self { topic, partition, from } = self;
        format!("segments/{topic}/{partition:05}/{from:020}{SEGMENT_END}")
    }

    /// What a name says; `None` when it is not the name of a segment.
    pub fn parse(name: &str) -> Option<Self> {
        let (topic, partition, file) = parts("segments", name)?;
        let from = digits(file.strip_suffix(SEGMENT_END)?, 20)?;
        Some(Self { topic, partition, from })
    }
}

/// Where an archive gap stands: a range of positions that Kafka no longer had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GapKey {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The position up to which everything is archived.
    pub from: i64,
    /// The first offset that Kafka still had.
    pub to: i64,
}

impl GapKey {
    /// Its name.
    pub fn name(&self) -> String {
        let Self { topic, partition, from, to } = self;
        format!("gaps/{topic}/{partition:05}/{from:020}-{to:020}{GAP_END}")
    }

    /// What a name says; `None` when it is not the name of a gap.
    pub fn parse(name: &str) -> Option<Self> {
        let (topic, partition, file) = parts("gaps", name)?;
        let (from, to) = file.strip_suffix(GAP_END)?.split_once('-')?;
        Some(Self { topic, partition, from: digits(from, 20)?, to: digits(to, 20)? })
    }
}

/// What all segments of a partition begin with.
pub fn segments_prefix(topic: &str, partition: i32) -> String {
    format!("segments/{topic}/{partition:05}/")
}

/// What all gaps of a partition begin with.
pub fn gaps_prefix(topic: &str, partition: i32) -> String {
    format!("gaps/{topic}/{partition:05}/")
}

/// Whether a name may be used: parts of letters, digits and `._=-`, none of them empty, `.` or `..`.
pub fn is_safe(name: &str) -> bool {
    let byte_ok = |b: u8| b.is_ascii_alphanumeric() || b"._=-".contains(&b);
    let part_ok = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.len() <= 250
            && part.bytes().all(byte_ok)
    };
    name.len() <= 900 && name.split('/').all(part_ok)
}

fn parts<'a>(kind: &str, name: &'a str) -> Option<(String, i32, &'a str)> {
    if !is_safe(name) {
        return None;
    }
    let mut parts = name.split('/');
    if parts.next() != Some(kind) {
        return None;
    }
    let (topic, partition, file) = (parts.next()?, parts.next()?, parts.next()?);
    let partition = i32::try_from(digits(partition, 5)?).ok()?;
    parts.next().is_none().then(|| (topic.to_owned(), partition, file))
}

/// A padded number: exactly `width` digits, or more only where it does not fit.
fn digits(text: &str, width: usize) -> Option<i64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    let padded = text.len() == width || (text.len() > width && !text.starts_with('0'));
    if plain && padded { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_fixed() {
        let key = SegmentKey { topic: "github.audit.web".to_owned(), partition: 3, from: 1200 };
        assert_eq!(key.name(), "segments/github.audit.web/00003/00000000000000001200.jsonl.zst");
        let gap = GapKey { topic: "t".to_owned(), partition: 0, from: 1, to: 20 };
        assert_eq!(gap.name(), "gaps/t/00000/00000000000000000001-00000000000000000020.json");
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for bad in [
            "",
            "segments/../00001/00000000000000000001.jsonl.zst",
            "segments/t/1/00000000000000000001.jsonl.zst",
            "segments/t/00001/1.jsonl.zst",
            "segments/t/00001/00000000000000000001.jsonl",
            "segments/t/00001/x/00000000000000000001.jsonl.zst",
            "segments/t/00001/99999999999999999999.jsonl.zst",
        ] {
            assert_eq!(SegmentKey::parse(bad), None, "{bad}");
        }
        for bad in ["", "/a", "a//b", "a/../b", ".", "a/\0", "a b", "a/ü"] {
            assert!(!is_safe(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(topic in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,40}", partition in 0..i32::MAX, from in 0..i64::MAX, to in 0..i64::MAX) {
            let key = SegmentKey { topic: topic.clone(), partition, from };
            prop_assert_eq!(SegmentKey::parse(&key.name()), Some(key));
            let gap = GapKey { topic, partition, from, to };
            prop_assert_eq!(GapKey::parse(&gap.name()), Some(gap));
        }

        #[test]
        fn arbitrary_names_never_panic(name in ".{0,200}") {
            drop((SegmentKey::parse(&name), GapKey::parse(&name), is_safe(&name)));
        }
    }
}
