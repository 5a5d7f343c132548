//! Names of archive objects: any text; a name that is read is written the same, and order of names is order of positions.

use crate::decisions::Decisions;
use ghauditd::archive::gap::seen_key;
use ghauditd::archive::key::{GapKey, SegmentKey, gaps_prefix, is_safe, segments_prefix};

const PARTS: &[&str] = &[
    "segments/",
    "gaps/",
    "github.audit.web",
    "/",
    "//",
    "..",
    ".",
    "../",
    "00000/",
    "00003/",
    "0003/",
    "99999/",
    "100000/",
    "2147483647/",
    "2147483648/",
    "00000000000000000000",
    "00000000000000001200",
    "09223372036854775807",
    "09223372036854775808",
    "99999999999999999999",
    "1",
    "-",
    "+",
    ".jsonl.zst",
    ".json",
    ".seen.json",
    " ",
    "\0",
    "\u{e9}",
    "\\",
    "%2e",
];

#[test]
fn key_of_bytes() {
    bolero::check!()
        .with_max_len(1024_usize)
        .for_each(|bytes: &[u8]| check_name(&String::from_utf8_lossy(bytes)));
}

#[test]
fn key_of_parts() {
    bolero::check!().with_max_len(48_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut name = decisions.pick(&["segments/t/00000/", "gaps/t/00000/", ""]).to_owned();
        while !decisions.is_empty() {
            name.push_str(decisions.pick(PARTS));
        }
        check_name(&name);
    });
}

#[test]
fn key_of_numbers() {
    bolero::check!().with_max_len(48_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let topic = topic(&mut decisions);
        let partition = i32::try_from(decisions.number() & i64::from(i32::MAX)).unwrap();
        let mut position = || decisions.number() & i64::MAX;
        let (from, to) = (position(), position());
        let key = |from| SegmentKey { topic: topic.clone(), partition, from };
        let gap = |from, to| GapKey { topic: topic.clone(), partition, from, to };
        assert_eq!(SegmentKey::parse(&key(from).name()), Some(key(from)));
        assert_eq!(GapKey::parse(&gap(from, to).name()), Some(gap(from, to)));
        assert!(key(from).name().starts_with(&segments_prefix(&topic, partition)));
        assert!(gap(from, to).name().starts_with(&gaps_prefix(&topic, partition)));
        // a listing is in the order of names: it must be that of positions
        assert_eq!(key(from).name().cmp(&key(to).name()), from.cmp(&to));
        assert_eq!(gap(from, 0).name().cmp(&gap(to, 0).name()), from.cmp(&to));
        // what acknowledges a gap is no gap, and is next to it
        let seen = seen_key(&gap(from, to));
        assert!(is_safe(&seen) && GapKey::parse(&seen).is_none());
        assert!(seen.starts_with(gap(from, to).name().trim_end_matches(".json")));
    });
}

/// A name that Kafka takes for a topic.
fn topic(decisions: &mut Decisions<'_>) -> String {
    const PLAIN: &[u8] = b"abcXYZ019._-";
    let len = 1 + decisions.below(249);
    let few = decisions.below(PLAIN.len()) + 1;
    let name: String = (0..len)
        .map(|at| char::from(PLAIN[if at < 24 { decisions.below(PLAIN.len()) } else { at % few }]))
        .collect();
    if matches!(name.as_str(), "." | "..") { "t".to_owned() } else { name }
}

fn check_name(name: &str) {
    let segment = SegmentKey::parse(name);
    let gap = GapKey::parse(name);
    assert!(segment.is_none() || gap.is_none());
    let again = segment.map(|key| key.name()).or_else(|| gap.map(|key| key.name()));
    if let Some(again) = again {
        assert_eq!(again, name, "one object has one name");
        assert!(is_safe(name));
    }
    if is_safe(name) {
        let path = std::path::Path::new("/archive").join(name);
        let parts = path.components().collect::<Vec<_>>();
        assert!(path.starts_with("/archive"), "{path:?}");
        assert!(parts.iter().all(|part| *part != std::path::Component::ParentDir), "{path:?}");
        assert_eq!(parts.len(), 2 + name.split('/').count(), "{path:?}");
    }
}
