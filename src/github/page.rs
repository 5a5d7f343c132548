//! Cuts a page into entries and reads their facts: one pass over the bytes, no copy of the body.
//!
//! A page is a JSON array. The cutter knows only as much of JSON as it needs to be right: strings, their escapes,
//! brackets, and the members of an entry. So one entry with invalid UTF-8, a lone surrogate, `1e400` or nesting
//! 200 deep costs nothing: it travels byte for byte like all others. Wherever `serde_json` accepts a page, both agree
//! on every element (property test below, fuzz target `page`).
//!
//! Facts are read leniently: one that is missing, of another type, longer than [`fact::BYTES_MAX`] or not decodable is
//! `None` and costs nothing else. Duplicate member names: the last one wins.

use super::fact;
use super::scan::Scanner;
use crate::audit::Entry;
use bytes::Bytes;

/// Most entries of a page. GitHub sends 100; the limit bounds what a hostile body of the permitted size can cost.
pub const ENTRIES_MAX: usize = 10_000;

/// Entries for which room is made at first: GitHub's largest page.
const ENTRIES_USUAL: usize = 100;

/// Why a body cannot be cut into entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// It does not begin with `[` and end with `]`: not a page at all.
    #[error("the body does not begin with [ and end with ]")]
    NotAnArray,
    /// Its strings and brackets do not add up at this byte.
    #[error("the array cannot be cut into entries at byte {0}")]
    Malformed(usize),
    /// More entries than [`ENTRIES_MAX`].
    #[error("the array has more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// Whether a body counts as a page: begins with `[` and ends with `]`, JSON white space aside.
pub fn is_page(body: &[u8]) -> bool {
    let trimmed = trim(body);
    trimmed.len() >= 2 && trimmed.first() == Some(&b'[') && trimmed.last() == Some(&b']')
}

/// A body without JSON white space around it.
pub fn trim(mut body: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = body {
        body = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\n' | b'\r'] = body {
        body = rest;
    }
    body
}

/// Cuts a page into its entries, which share the body's bytes.
pub fn cut(body: &Bytes) -> Result<Vec<Entry>, CutError> {
    if !is_page(body) {
        return Err(CutError::NotAnArray);
    }
    let mut scan = Scanner::new(body, 0);
    scan.skip_space();
    scan.at += 1;
    let mut entries = Vec::with_capacity(ENTRIES_USUAL);
    scan.skip_space();
    if scan.peek() == Some(b']') {
        scan.at += 1;
    } else {
        loop {
            scan.skip_space();
            if entries.len() == ENTRIES_MAX {
                return Err(CutError::TooMany);
            }
            let Some(entry) = element(&mut scan, body) else {
                return Err(CutError::Malformed(scan.at));
            };
            entries.push(entry);
            scan.skip_space();
            match scan.peek() {
                Some(b',') => scan.at += 1,
                Some(b']') => {
                    scan.at += 1;
                    break;
                }
                _ => return Err(CutError::Malformed(scan.at)),
            }
        }
    }
    scan.skip_space();
    if scan.peek().is_none() { Ok(entries) } else { Err(CutError::Malformed(scan.at)) }
}

/// An entry of which only the bytes were kept: with the facts that [`cut`] read when it came. What was never an element
/// of a page (a whole page that could not be cut) has none, as then.
pub fn entry_of(body: Bytes) -> Entry {
    let mut scan = Scanner::new(&body, 0);
    match element(&mut scan, &body) {
        Some(entry) if scan.peek().is_none() => entry,
        _ => Entry::opaque(body),
    }
}

/// One element of the array, from its first byte to its last.
#[inline]
fn element(scan: &mut Scanner<'_>, page: &Bytes) -> Option<Entry> {
    let start = scan.at;
    if scan.peek() == Some(b'{') {
        let facts = fact::read(scan)?;
        return Some(facts.into_entry(page, page.slice(start..scan.at)));
    }
    scan.skip_value()?;
    Some(Entry::opaque(page.slice(start..scan.at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Text;
    use crate::github::fact;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn cut_text(page: &str) -> Result<Vec<Entry>, CutError> {
        cut(&Bytes::copy_from_slice(page.as_bytes()))
    }

    fn one(entry: &str) -> Entry {
        let entries = cut_text(&format!("[{entry}]")).unwrap();
        assert_eq!(entries.len(), 1, "{entry}");
        assert_eq!(entries[0].body, entry.as_bytes(), "the bytes travel as they are");
        entries.into_iter().next().unwrap()
    }

    fn str_of(text: Option<&Text>) -> Option<&str> {
        text.map(Text::as_str)
    }

    #[test]
    fn entries_share_the_bytes_of_the_page() {
        let page = Bytes::from_static(
            b" [ {\"_document_id\":\"a\",\"org\":\"o\"} ,\n{\"_document_id\":\"b\"}\t] \r\n",
        );
        let entries = cut(&page).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].body.as_ptr(), page[3..].as_ptr());
        assert_eq!(entries[0].body, &b"{\"_document_id\":\"a\",\"org\":\"o\"}"[..]);
        assert_eq!(str_of(entries[1].id.as_ref()), Some("b"));
        assert_eq!(cut_text("[]").unwrap(), []);
        assert_eq!(cut_text(" [ ] ").unwrap(), []);
    }

    #[test]
    fn all_facts_are_read() {
        let entry = one(
            r#"{"@timestamp":1606929874512,"_document_id":"xJJFlFOhQ6b-5vaAFy9Rjw","action":"repo.create",
            "actor":"octocat","created_at":1606929874513,"org":"octo-org","repo":"octo-org/r","data":{"org":"no"}}"#,
        );
        assert_eq!(entry.timestamp_ms, Some(1_606_929_874_512));
        assert_eq!(entry.created_at_ms, Some(1_606_929_874_513));
        assert_eq!(str_of(entry.id.as_ref()), Some("xJJFlFOhQ6b-5vaAFy9Rjw"));
        assert_eq!(str_of(entry.action.as_ref()), Some("repo.create"));
        assert_eq!(str_of(entry.actor.as_ref()), Some("octocat"));
        assert_eq!(str_of(entry.org.as_ref()), Some("octo-org"));
        assert_eq!(str_of(entry.repo.as_ref()), Some("octo-org/r"));
    }

    #[test]
    fn a_fact_that_is_missing_or_odd_costs_nothing_else() {
        let long = "x".repeat(fact::BYTES_MAX + 1);
        for id in [
            "null",
            "7",
            "\"\"",
            "{}",
            "[\"a\"]",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            r#""\x""#,
            r#""\u12""#,
            "\"a\tb\"",
            &format!("\"{long}\""),
        ] {
            let entry = one(&format!(r#"{{"_document_id":{id},"action":"a.b"}}"#));
            assert_eq!(entry.id, None, "{id}");
            assert_eq!(str_of(entry.action.as_ref()), Some("a.b"), "{id}");
        }
        assert_eq!(one(r#"{"action":1,"actor":["x"],"repo":{}}"#).action, None);
    }

    #[test]
    fn the_last_of_duplicate_names_wins() {
        let entry = one(r#"{"_document_id":"a","org":"x","_document_id":"b","org":null}"#);
        assert_eq!(str_of(entry.id.as_ref()), Some("b"));
        assert_eq!(entry.org, None);
        let entry = one(r#"{"_document_id":"a","\u005fdocument_id":"b\u00e9\n\ud83d\ude00"}"#);
        assert_eq!(str_of(entry.id.as_ref()), Some("b\u{e9}\n\u{1f600}"));
    }

    #[test]
    fn org_may_be_an_array() {
        for (org, expected) in [
            (r#"["a","b"]"#, Some("a")),
            (r#"[ null , ["x"] , {"y":"z"}, "b" ]"#, Some("b")),
            ("[]", None),
            ("[1,2]", None),
            (r#"["\u0061"]"#, Some("a")),
        ] {
            assert_eq!(str_of(one(&format!(r#"{{"org":{org}}}"#)).org.as_ref()), expected, "{org}");
        }
    }

    #[test]
    fn times_are_whole_numbers_or_rfc_3339() {
        for (time, expected) in [
            ("1606929874512", Some(1_606_929_874_512)),
            ("1.6e12", Some(1_600_000_000_000)),
            ("1600000000000.0", Some(1_600_000_000_000)),
            ("16000000000000e-1", Some(1_600_000_000_000)),
            ("-5", Some(-5)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0e999999999999999999999", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("1e400", None),
            ("1e-400", None),
            ("1.5", None),
            ("1e99999999999999999999999", None),
            ("01", None),
            ("1.", None),
            (".5", None),
            ("1e", None),
            ("+1", None),
            ("-", None),
            ("NaN", None),
            ("true", None),
            ("null", None),
            ("[1]", None),
            ("\"1606929874512\"", None),
            ("\"2020-12-02T17:24:34.512Z\"", Some(1_606_929_874_512)),
            ("\"2020-12-02T18:24:34+01:00\"", Some(1_606_929_874_000)),
            ("\"2099-13-02T17:24:34Z\"", None),
        ] {
            assert_eq!(
                one(&format!(r#"{{"@timestamp":{time}}}"#)).timestamp_ms,
                expected,
                "{time}"
            );
        }
    }

    #[test]
    fn hostile_entries_travel_byte_for_byte() {
        let deep = format!(r#"{{"_document_id":"d","x":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let mixed = format!(r#"{{"x":{}{}}}"#, r#"{"a":["#.repeat(500), "]}".repeat(500));
        let large = format!(r#"{{"_document_id":"l","x":"{}\\\""}}"#, "y".repeat(1 << 20));
        for entry in [
            deep.as_str(),
            &mixed,
            &large,
            r#"{"_document_id":"s","x":"\ud800"}"#,
            r#"{"_document_id":"e","x":1e400}"#,
            r#"{"_document_id":"n","x":9223372036854775809}"#,
            r#"{"_document_id":"b","x":"\q\u00"}"#,
            r#"{"x":"]},{[\"\\"}"#,
            r#"{"broken" 1 "members"::,}"#,
            "7",
            "-1.5e3",
            "null",
            "\"text ] \\\" \"",
            "[[1],{}]",
            "{}",
        ] {
            let page = format!("[{entry},{entry}]");
            let entries = cut_text(&page).unwrap();
            assert_eq!(entries.len(), 2);
            assert!(entries.iter().all(|cut| cut.body == entry.as_bytes()), "{entry}");
        }
        let invalid = b"[{\"_document_id\":\"i\",\"x\":\"\xff\xfe\"},{\"_document_id\":\"\xff\",\"action\":\"a\"}]";
        let entries = cut(&Bytes::from_static(invalid)).unwrap();
        assert_eq!(str_of(entries[0].id.as_ref()), Some("i"));
        assert_eq!(entries[1].id, None);
        assert_eq!(str_of(entries[1].action.as_ref()), Some("a"));
    }

    #[test]
    fn an_object_that_is_not_written_as_json_has_no_facts() {
        assert_eq!(one(r#"{"_document_id":"a","x" 1}"#).id, None);
        assert_eq!(one(r#"{"_document_id":"a",}"#).id, None);
    }

    #[test]
    fn what_is_no_page_is_told_from_what_cannot_be_cut() {
        for body in ["", " ", "[", "]", "{}", "{\"a\":[]}", "<html>", "null", "[{}", "[1,2", "x[]"]
        {
            assert_eq!(cut_text(body), Err(CutError::NotAnArray), "{body}");
        }
        for body in [
            "[,]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[{}{}]",
            "[{]",
            "[{]}]",
            "[}]",
            "[[]",
            "[1][2]",
            "[]]",
            "[\"a]",
            "[{\"a]",
            "[{\"a\\\"]",
            "[:]",
        ] {
            assert!(matches!(cut_text(body), Err(CutError::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn brackets_of_two_kinds_are_told_apart_at_any_depth() {
        for depth in [1, 63, 64, 65, 127, 128, 129, 1000] {
            let opens: String = "{[".repeat(depth);
            let closes: String = "]}".repeat(depth);
            let right = format!("[[{opens}{closes}]]");
            assert_eq!(cut_text(&right).unwrap().len(), 1);
            let cut = closes.strip_suffix('}').unwrap();
            let wrong = format!("[[{opens}]{cut}]]");
            assert!(cut_text(&wrong).is_err(), "depth {depth}");
        }
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let most = format!("[{}0]", "0,".repeat(ENTRIES_MAX - 1));
        assert_eq!(cut_text(&most).unwrap().len(), ENTRIES_MAX);
        let more = format!("[{}0]", "0,".repeat(ENTRIES_MAX));
        assert_eq!(cut_text(&more), Err(CutError::TooMany));
    }

    /// Text that is likely to be a page or nearly one.
    fn pagelike() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            4 => Just(r#"{"_document_id":"#.to_owned()),
            2 => Just(r#""@timestamp":"#.to_owned()),
            2 => Just(r#""org":"#.to_owned()),
            6 => Just("{".to_owned()), 6 => Just("}".to_owned()),
            3 => Just("[".to_owned()), 3 => Just("]".to_owned()),
            8 => Just(",".to_owned()), 4 => Just(":".to_owned()),
            4 => Just("\"a\"".to_owned()), 1 => Just("\"".to_owned()), 1 => Just("\\".to_owned()),
            2 => Just(" ".to_owned()), 2 => Just("1.6e12".to_owned()), 2 => Just("null".to_owned()),
            1 => Just(r#""\ud83d\ude00\n""#.to_owned()),
        ];
        proptest::collection::vec(token, 0..40).prop_map(|tokens| format!("[{}]", tokens.concat()))
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let page: Bytes = [b"[", bytes.as_slice(), b"]"].concat().into();
            if let Ok(entries) = cut(&page) {
                for entry in entries {
                    prop_assert!(!entry.body.is_empty());
                    // its bytes alone say all that the page said
                    prop_assert_eq!(entry_of(entry.body.clone()), entry);
                }
            }
        }

        #[test]
        fn agrees_with_serde_json_wherever_that_accepts(page in pagelike()) {
            if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(&page) {
                let entries = cut_text(&page).unwrap();
                prop_assert_eq!(entries.len(), elements.len());
                for (entry, element) in entries.iter().zip(elements) {
                    prop_assert_eq!(&entry.body[..], element.get().as_bytes());
                    prop_assert_eq!(&entry_of(entry.body.clone()), entry);
                }
            }
        }

        #[test]
        fn finds_the_end_of_any_string(text in "\\PC{0,120}", before in 0_usize..9) {
            let quoted = serde_json::to_string(&text).unwrap();
            let page = format!("[{}{quoted}]", " ".repeat(before));
            prop_assert_eq!(&cut_text(&page).unwrap()[0].body[..], quoted.as_bytes());
        }

        #[test]
        fn reads_any_id_that_fits(id in "\\PC{1,60}", at in any::<i64>()) {
            let entry = serde_json::json!({"_document_id": id, "created_at": at}).to_string();
            let entry = one(&entry);
            prop_assert_eq!(str_of(entry.id.as_ref()), Some(id.as_str()));
            prop_assert_eq!(entry.created_at_ms, Some(at));
        }
    }
}
