//! The cutter against `serde_json`: wherever that accepts a page, both agree on elements and facts; nothing is lost
//! where it does not.

use crate::decisions::Decisions;
use bytes::Bytes;
use ghauditd::audit::{Entry, Text};
use ghauditd::github::fact;
use ghauditd::github::page::{self, CutError};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Any bytes between brackets.
#[test]
fn page_of_bytes() {
    bolero::check!().for_each(|bytes: &[u8]| check(&[b"[", bytes, b"]"].concat()));
}

/// What looks like a page, with faults here and there.
#[test]
fn page_of_entries() {
    bolero::check!().with_max_len(2048_usize).for_each(|bytes: &[u8]| {
        check(&generate(&mut Decisions::new(bytes)));
    });
}

const NAMES: &[&str] = &[
    r#""_document_id""#,
    r#""@timestamp""#,
    r#""created_at""#,
    r#""action""#,
    r#""actor""#,
    r#""org""#,
    r#""repo""#,
    r#""data""#,
    r#""\u006frg""#,
    r#""""#,
    r#""_document_id ""#,
    r#""a\"b""#,
];

const SCALARS: &[&str] = &[
    "null",
    "true",
    "1606929874512",
    "-1",
    "0",
    "-0",
    "1.6e12",
    "1.60692987451e12",
    "16069298745120e-1",
    "1e400",
    "1e-400",
    "0.5",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "100000000000000000000e-5",
    "0.000",
    "1E+3",
    r#""2020-12-02T17:24:34.512Z""#,
    r#""2020-12-02T17:24:34+25:00""#,
    r#""repo.create""#,
    r#""""#,
    r#""é😀""#,
    r#""\ud83d\ude00\n\u0000""#,
    r#""\ud800""#,
    r#""\\""#,
    r#""\\\"""#,
    r#""]},{[,:""#,
];

/// Bytes that turn a right page into a wrong one.
const FAULTS: &[&[u8]] = &[
    b"",
    b",",
    b":",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\xff",
    b"\x00",
    b"\t",
    b"01",
    b"+1",
    b"1.",
    b"nul",
    b"\"\\x\"",
    b"\"\\u12\"",
    b"\"\n\"",
    b"\xef\xbb\xbf",
];

fn generate(decisions: &mut Decisions<'_>) -> Vec<u8> {
    let mut page = Vec::new();
    spaces(decisions, &mut page);
    page.push(b'[');
    let mut first = true;
    while !decisions.is_empty() && page.len() < 20_000 {
        if !first {
            page.push(b',');
        }
        first = false;
        value(decisions, &mut page, 0);
    }
    page.push(b']');
    spaces(decisions, &mut page);
    page
}

fn spaces(decisions: &mut Decisions<'_>, page: &mut Vec<u8>) {
    if decisions.byte() > 240 {
        page.extend_from_slice(decisions.pick(&[" ", "\n", "\t\r ", "  "]).as_bytes());
    }
}

fn value(decisions: &mut Decisions<'_>, page: &mut Vec<u8>, depth: usize) {
    spaces(decisions, page);
    match decisions.byte() {
        0 => page.extend_from_slice(FAULTS[decisions.below(FAULTS.len())]),
        1..=3 => {
            let long = "y".repeat(fact::BYTES_MAX - 1 + decisions.below(4));
            page.extend_from_slice(format!("\"{long}\"").as_bytes());
        }
        4..=20 => {
            // a string of any length below 64, so that every path of the search for its end is taken
            page.push(b'"');
            page.extend(std::iter::repeat_n(b'z', decisions.below(64)));
            page.push(b'"');
        }
        21..=130 if depth < 6 => object(decisions, page, depth),
        131..=160 if depth < 6 => array(decisions, page, depth),
        _ => page.extend_from_slice(decisions.pick(SCALARS).as_bytes()),
    }
    spaces(decisions, page);
}

fn object(decisions: &mut Decisions<'_>, page: &mut Vec<u8>, depth: usize) {
    page.push(b'{');
    for member in 0..decisions.below(9) {
        if member > 0 {
            page.push(b',');
        }
        spaces(decisions, page);
        page.extend_from_slice(decisions.pick(NAMES).as_bytes());
        spaces(decisions, page);
        page.push(b':');
        value(decisions, page, depth + 1);
    }
    page.push(b'}');
}

fn array(decisions: &mut Decisions<'_>, page: &mut Vec<u8>, depth: usize) {
    page.push(b'[');
    for element in 0..decisions.below(5) {
        if element > 0 {
            page.push(b',');
        }
        value(decisions, page, depth + 1);
    }
    page.push(b']');
}

fn check(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let result = page::cut(&body);
    if let Ok(entries) = &result {
        nothing_is_lost(&body, entries);
    }
    let Ok(elements) = serde_json::from_slice::<Vec<&RawValue>>(bytes) else { return };
    let entries = match result {
        Ok(entries) => entries,
        Err(CutError::TooMany) => return assert!(elements.len() > page::ENTRIES_MAX),
        Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(bytes)),
    };
    assert_eq!(entries.len(), elements.len());
    for (entry, element) in entries.iter().zip(elements) {
        assert_eq!(entry.body, element.get().as_bytes());
        facts_agree(entry, element);
    }
}

/// Outside of the entries stand only the brackets, commas and white space: every other byte travels.
fn nothing_is_lost(body: &Bytes, entries: &[Entry]) {
    let mut at = 0;
    let mut commas = 0;
    let mut outside = |bytes: &[u8]| {
        assert!(bytes.iter().all(|byte| b"[], \t\r\n".contains(byte)), "{bytes:?}");
        commas += memchr::memchr_iter(b',', bytes).count();
    };
    for entry in entries {
        assert!(!entry.body.is_empty());
        let start = entry.body.as_ptr().addr() - body.as_ptr().addr();
        outside(&body[at..start]);
        at = start + entry.body.len();
    }
    outside(&body[at..]);
    assert_eq!(commas, entries.len().saturating_sub(1));
}

/// Members of an object in their order, duplicates kept.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// What a lenient reader of the value says.
fn facts_agree(entry: &Entry, element: &RawValue) {
    let members = match serde_json::from_str::<Members<'_>>(element.get()) {
        Ok(members) => members.0,
        // a name that is no Unicode: serde_json gives up on the whole object, we on that name
        Err(_) if element.get().starts_with('{') => return,
        Err(_) => Vec::new(),
    };
    let last =
        |name: &str| members.iter().rev().find(|member| member.0 == name).map(|member| member.1);
    let string = |name: &str| last(name).and_then(text);
    let same = |fact: &Option<Text>, expected: Option<String>| {
        assert_eq!(fact.as_ref().map(Text::as_str), expected.as_deref(), "{}", element.get());
    };
    same(&entry.id, string("_document_id").filter(|id| !id.is_empty()));
    same(&entry.action, string("action"));
    same(&entry.actor, string("actor"));
    same(&entry.repo, string("repo"));
    let array = last("org").and_then(|org| serde_json::from_str::<Vec<&RawValue>>(org.get()).ok());
    let org = match array {
        Some(array) => array.into_iter().find(|org| org.get().starts_with('"')).and_then(text),
        None => string("org"),
    };
    same(&entry.org, org);
    for (fact, name) in [(entry.timestamp_ms, "@timestamp"), (entry.created_at_ms, "created_at")] {
        match last(name).map_or(Time::Is(None), time) {
            Time::Is(expected) => assert_eq!(fact, expected, "{}", element.get()),
            Time::BeyondReference => {}
        }
    }
}

fn text(raw: &RawValue) -> Option<String> {
    let fits = raw.get().len() <= fact::BYTES_MAX + 2;
    serde_json::from_str::<String>(raw.get()).ok().filter(|_| fits)
}

/// What floating point can say of a time, and where it cannot.
enum Time {
    Is(Option<i64>),
    BeyondReference,
}

fn time(raw: &RawValue) -> Time {
    let token = raw.get();
    if token.starts_with('"') {
        let time = text(raw).and_then(|text| text.parse::<jiff::Timestamp>().ok());
        return Time::Is(time.map(jiff::Timestamp::as_millisecond));
    }
    if let Ok(number) = token.parse::<i64>() {
        return Time::Is(Some(number));
    }
    let number = token.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if !number || !token.contains(['.', 'e', 'E']) {
        return Time::Is(None);
    }
    let number: f64 = token.parse().unwrap();
    let exact = token.len() < 17 && number != 0.0 && number.abs() < 9e15;
    if !exact {
        return Time::BeyondReference;
    }
    let whole = (number.fract() == 0.0).then(|| format!("{number:.0}").parse().unwrap());
    Time::Is(whole)
}
