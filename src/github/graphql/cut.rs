//! Cuts an answer into its entries, which keep GitHub's bytes as they are.
//!
//! The envelope and each entry are walked by strings and brackets, as in REST (`page`), so that an entry that is odd
//! inside costs nothing else. Anything but a whole page without `errors` is no page: GitHub answers 200 also when it
//! gives only a part, and then says so in `errors` alone.

use super::fault::{self, Fault};
use super::id;
use crate::audit::{Cursor, Entry, Text};
use crate::github::fact::BYTES_MAX;
use crate::github::page::{ENTRIES_MAX, trim};
use crate::github::rate_limit::Budget;
use crate::github::scan::Scanner;
use bytes::Bytes;
use serde::Deserialize;
use std::ops::Range;

/// What an answer with status 200 holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A whole page.
    Page {
        /// The entries, in the order in which they came.
        entries: Vec<Entry>,
        /// Where to go on; `None`: the walk has ended.
        next: Option<Cursor>,
        /// What is left of the hour's points.
        budget: Option<Budget>,
    },
    /// A page with entries that GitHub shows as `null`, without saying why.
    Holes {
        /// The connection's own bytes: entries and cursor, without what changes from answer to answer.
        log: Bytes,
        /// Where to go on.
        next: Option<Cursor>,
    },
    /// `errors`, with or without data.
    Faults(Vec<Fault>),
    /// There is no such organization, or it is not shown to this token.
    NoOrganization,
}

/// Why an answer with status 200 says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// It does not begin with `{`.
    #[error("sends something else than a JSON object")]
    NotAnObject,
    /// It begins with `{` and does not end with `}`.
    #[error("sends a JSON object without its end")]
    Truncated,
    /// Its strings and brackets do not add up.
    #[error("sends a JSON object that cannot be cut at byte {0}")]
    Malformed(usize),
    /// There are neither errors nor a page.
    #[error("sends neither a page nor errors: {0} is missing")]
    Incomplete(&'static str),
    /// More entries than a page may have.
    #[error("sends more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// Reads an answer.
pub fn cut(body: &Bytes) -> Result<Answer, CutError> {
    let whole = whole(body)?;
    let root = members(body, &whole)?;
    if let Some(errors) = root.find(body, "errors")
        && let faults = fault::read(body.get(errors).unwrap_or_default())
        && !faults.is_empty()
    {
        return Ok(Answer::Faults(faults));
    }
    let data = child(body, &root, "data")?;
    let budget = data.find(body, "rateLimit").and_then(|range| budget(body.get(range)?));
    let organization =
        data.find(body, "organization").ok_or(CutError::Incomplete("organization"))?;
    if body.get(organization.clone()) == Some(b"null") {
        return Ok(Answer::NoOrganization);
    }
    let organization = members(body, &organization)?;
    let log = organization.find(body, "auditLog").ok_or(CutError::Incomplete("auditLog"))?;
    let inside = members(body, &log)?;
    let next = next(body, &inside)?;
    let nodes = inside.find(body, "nodes").ok_or(CutError::Incomplete("nodes"))?;
    Ok(match entries(body, &nodes)? {
        Some(entries) => Answer::Page { entries, next, budget },
        None => Answer::Holes { log: body.slice(log), next },
    })
}

/// The object's place in the body, white space around it aside.
fn whole(body: &Bytes) -> Result<Range<usize>, CutError> {
    let trimmed = trim(body);
    match trimmed {
        [b'{', .., b'}'] => {
            let from = body.len() - body.trim_ascii_start().len();
            Ok(from..from + trimmed.len())
        }
        [b'{', ..] => Err(CutError::Truncated),
        _ => Err(CutError::NotAnObject),
    }
}

/// Names and values of an object, as places in the body.
struct Members(Vec<(Range<usize>, Range<usize>)>);

impl Members {
    /// The value of a name; the last one wins.
    fn find(&self, body: &[u8], wanted: &str) -> Option<Range<usize>> {
        let is_wanted = |name: &Range<usize>| {
            let name = body.get(name.clone()).unwrap_or_default();
            let plain = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\""));
            plain == Some(wanted.as_bytes())
                || name.contains(&b'\\')
                    && serde_json::from_slice::<String>(name).is_ok_and(|name| name == wanted)
        };
        self.0.iter().rev().find(|(name, _)| is_wanted(name)).map(|(_, value)| value.clone())
    }
}

fn child(body: &[u8], of: &Members, name: &'static str) -> Result<Members, CutError> {
    members(body, &of.find(body, name).ok_or(CutError::Incomplete(name))?)
}

/// The members of the object that is the whole of `object`.
fn members(body: &[u8], object: &Range<usize>) -> Result<Members, CutError> {
    if body.get(object.start) != Some(&b'{') {
        return Err(CutError::Incomplete("an object"));
    }
    let inside = body.get(..object.end).unwrap_or_default();
    let mut scan = Scanner::new(inside, object.start + 1);
    match read_members(&mut scan) {
        Some(members) if scan.at == object.end => Ok(members),
        _ => Err(CutError::Malformed(scan.at)),
    }
}

fn read_members(scan: &mut Scanner<'_>) -> Option<Members> {
    let mut members = Vec::with_capacity(16);
    if scan.take(b'}') {
        return Some(Members(members));
    }
    loop {
        scan.skip_space();
        if scan.peek() != Some(b'"') {
            return None;
        }
        let name = scan.at;
        scan.skip_string()?;
        let name = name..scan.at;
        if !scan.take(b':') {
            return None;
        }
        scan.skip_space();
        if !scan.starts_value() {
            return None;
        }
        let value = scan.at;
        scan.skip_value()?;
        members.push((name, value..scan.at));
        if !scan.take(b',') {
            return scan.take(b'}').then_some(Members(members));
        }
    }
}

/// The elements of `nodes`; `None` when one of them is no object.
fn entries(body: &Bytes, nodes: &Range<usize>) -> Result<Option<Vec<Entry>>, CutError> {
    if body.get(nodes.start) != Some(&b'[') {
        // the connection as a whole is not shown
        return Err(CutError::Incomplete("nodes"));
    }
    let inside = body.get(..nodes.end).unwrap_or_default();
    let mut scan = Scanner::new(inside, nodes.start + 1);
    let mut entries = Vec::with_capacity(100);
    let mut holes = false;
    if scan.take(b']') {
        return Ok(Some(entries));
    }
    loop {
        scan.skip_space();
        let from = scan.at;
        if !scan.starts_value() || scan.skip_value().is_none() {
            return Err(CutError::Malformed(scan.at));
        }
        if entries.len() == ENTRIES_MAX {
            return Err(CutError::TooMany);
        }
        let element = from..scan.at;
        holes |= body.get(from) != Some(&b'{');
        entries.push(entry(body, element));
        if scan.take(b',') {
            continue;
        }
        return if scan.take(b']') && scan.at == nodes.end {
            Ok((!holes).then_some(entries))
        } else {
            Err(CutError::Malformed(scan.at))
        };
    }
}

/// The entry that a node is: the value of a record that came by this way.
pub fn entry_of(body: &Bytes) -> Entry {
    entry(body, 0..body.len())
}

/// One entry. A fact that is missing or odd is `None` and costs nothing else.
fn entry(body: &Bytes, element: Range<usize>) -> Entry {
    let bytes = body.slice(element.clone());
    let Ok(members) = members(body, &element) else { return Entry::opaque(bytes) };
    let fact = |name: &str| text(body.get(members.find(body, name)?)?);
    let id = fact("id").filter(|id| !id.is_empty());
    let created_at = fact("createdAt").and_then(|at| at.parse::<jiff::Timestamp>().ok());
    Entry {
        body: bytes,
        id: id.map(|id| id::document_id(&id).unwrap_or(id)).and_then(owned),
        // what REST calls `@timestamp`: both say when it happened, and both logs are in its order
        timestamp_ms: created_at.map(jiff::Timestamp::as_millisecond),
        created_at_ms: None,
        action: fact("action").and_then(owned),
        actor: fact("actorLogin").and_then(owned),
        org: fact("organizationName").and_then(owned),
        repo: fact("repositoryName").and_then(owned),
    }
}

fn text(value: &[u8]) -> Option<String> {
    (value.len() <= BYTES_MAX + 2).then(|| serde_json::from_slice(value).ok()).flatten()
}

fn owned(text: String) -> Option<Text> {
    Text::new(text.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

fn next(body: &[u8], log: &Members) -> Result<Option<Cursor>, CutError> {
    let range = log.find(body, "pageInfo").ok_or(CutError::Incomplete("pageInfo"))?;
    let info: PageInfo = serde_json::from_slice(body.get(range).unwrap_or_default())
        .map_err(|_| CutError::Incomplete("pageInfo"))?;
    if !info.has_next_page {
        return Ok(None);
    }
    let cursor = info.end_cursor.and_then(Cursor::new);
    cursor.map(Some).ok_or(CutError::Incomplete("endCursor"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    limit: u64,
    remaining: u64,
    reset_at: String,
}

fn budget(value: &[u8]) -> Option<Budget> {
    let read: RateLimit = serde_json::from_slice(value).ok()?;
    let reset_at: jiff::Timestamp = read.reset_at.parse().ok()?;
    Some(Budget { limit: read.limit, remaining: read.remaining, reset_s: reset_at.as_second() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    const NODE: &str = r#"{"__typename":"RepoCreateAuditEntry","id":"RAAE_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ","action":"repo.create","createdAt":"2020-12-02T17:24:34.512Z","actorLogin":"mona","organizationName":"octo","repositoryName":"octo/r"}"#;

    fn answer(nodes: &str, page_info: &str) -> Bytes {
        format!(
            r#"{{"data":{{"rateLimit":{{"cost":1,"limit":5000,"remaining":4999,"resetAt":"2026-01-01T00:00:00Z"}},"organization":{{"auditLog":{{"nodes":{nodes},"pageInfo":{page_info}}}}}}}}}"#
        )
        .into()
    }

    const LAST: &str = r#"{"hasNextPage":false,"endCursor":"Y3Vyc29y"}"#;
    const MORE: &str = r#"{"hasNextPage":true,"endCursor":"Y3Vyc29y"}"#;

    fn page(body: &Bytes) -> (Vec<Entry>, Option<Cursor>, Option<Budget>) {
        match cut(body).unwrap() {
            Answer::Page { entries, next, budget } => (entries, next, budget),
            other => panic!("{other:?}"),
        }
    }

    fn str_of(text: Option<&Text>) -> Option<&str> {
        text.map(Text::as_str)
    }

    #[test]
    fn a_page_keeps_the_bytes_of_its_entries() {
        let odd = "{ \"id\" : \"a\\u0062\" ,\"x\":[1e400,\"\\ud800\"]}";
        let (entries, next, budget) = page(&answer(&format!("[ {NODE} ,\n{odd}]"), MORE));
        assert_eq!(entries[0].body, NODE);
        assert_eq!(str_of(entries[0].id.as_ref()), Some("vlFaZ0NZXBTTO2lhNU03EA"));
        assert_eq!(entries[0].time_ms(), Some(1_606_929_874_512));
        assert_eq!(str_of(entries[0].action.as_ref()), Some("repo.create"));
        assert_eq!(str_of(entries[0].actor.as_ref()), Some("mona"));
        assert_eq!(str_of(entries[0].org.as_ref()), Some("octo"));
        assert_eq!(str_of(entries[0].repo.as_ref()), Some("octo/r"));
        assert_eq!(entries[1].body, odd);
        assert_eq!(str_of(entries[1].id.as_ref()), Some("ab"));
        assert_eq!(next.unwrap().as_str(), "Y3Vyc29y");
        let reset_s = 1_767_225_600;
        assert_eq!(budget, Some(Budget { limit: 5000, remaining: 4999, reset_s }));
    }

    #[test]
    fn the_last_page_has_no_next_and_an_empty_one_no_entries() {
        assert_eq!(page(&answer("[]", LAST)).0, []);
        assert_eq!(page(&answer(&format!("[{NODE}]"), LAST)).1, None);
        let spaced = Bytes::from([b" \r\n".as_slice(), &answer("[ ]", LAST), b"\t"].concat());
        assert_eq!(page(&spaced).0, []);
    }

    #[test]
    fn an_entry_without_an_id_still_travels() {
        for node in ["{}", r#"{"id":7}"#, r#"{"id":""}"#, r#"{"id":null}"#, r#"{"id" "x"}"#] {
            let (entries, _, _) = page(&answer(&format!("[{node}]"), LAST));
            assert_eq!((&entries[0].body[..], &entries[0].id), (node.as_bytes(), &None), "{node}");
        }
        let (entries, _, _) = page(&answer(r#"[{"id":"U_kgDOADP9xw","id":"MDQ6"}]"#, LAST));
        assert_eq!(str_of(entries[0].id.as_ref()), Some("MDQ6"), "the last one wins");
    }

    #[test]
    fn errors_make_it_no_page_even_beside_data() {
        let whole = String::from_utf8(answer(&format!("[{NODE}]"), LAST).to_vec()).unwrap();
        let with =
            |errors: &str| Bytes::from(whole.replacen('{', &format!("{{\"errors\":{errors},"), 1));
        for errors in [r#"[{"message":"x"}]"#, "[7]", "{}", "\"x\"", "1"] {
            let Ok(Answer::Faults(faults)) = cut(&with(errors)) else { panic!("{errors}") };
            assert_eq!(faults.len(), 1, "{errors}");
        }
        for errors in ["null", "[]", "[ ]"] {
            assert_eq!(page(&with(errors)).0.len(), 1, "{errors}");
        }
    }

    #[test]
    fn entries_that_are_null_make_it_no_page() {
        for nodes in ["[null]".to_owned(), format!("[{NODE},null,{NODE}]"), "[7]".to_owned()] {
            let Ok(Answer::Holes { log, next }) = cut(&answer(&nodes, MORE)) else {
                panic!("{nodes}")
            };
            assert_eq!(log, format!(r#"{{"nodes":{nodes},"pageInfo":{MORE}}}"#));
            assert_eq!(next.unwrap().as_str(), "Y3Vyc29y");
        }
    }

    #[test]
    fn what_is_not_shown_is_told_from_what_is_not_there() {
        let of = |text: &str| cut(&Bytes::copy_from_slice(text.as_bytes()));
        assert_eq!(of(r#"{"data":{"organization":null}}"#), Ok(Answer::NoOrganization));
        for (text, expected) in [
            ("", CutError::NotAnObject),
            ("[]", CutError::NotAnObject),
            ("<html>", CutError::NotAnObject),
            ("{", CutError::Truncated),
            (r#"{"data":"#, CutError::Truncated),
            ("{}", CutError::Incomplete("data")),
            (r#"{"data":null}"#, CutError::Incomplete("an object")),
            (r#"{"data":{}}"#, CutError::Incomplete("organization")),
            (r#"{"data":{"organization":{}}}"#, CutError::Incomplete("auditLog")),
            (r#"{"data":{"organization":{"auditLog":null}}}"#, CutError::Incomplete("an object")),
            (
                r#"{"data":{"organization":{"auditLog":{"nodes":[]}}}}"#,
                CutError::Incomplete("pageInfo"),
            ),
            (r#"{"a":[}"#, CutError::Malformed(6)),
            ("{}{}", CutError::Malformed(2)),
        ] {
            assert_eq!(of(text), Err(expected), "{text}");
        }
        for (nodes, info, missing) in [
            ("null", LAST, "nodes"),
            ("[]", "{}", "pageInfo"),
            ("[]", r#"{"hasNextPage":true,"endCursor":null}"#, "endCursor"),
            ("[]", r#"{"hasNextPage":true,"endCursor":""}"#, "endCursor"),
        ] {
            assert_eq!(cut(&answer(nodes, info)), Err(CutError::Incomplete(missing)), "{nodes}");
        }
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let most = format!("[{}{{}}]", "{},".repeat(ENTRIES_MAX - 1));
        assert_eq!(page(&answer(&most, LAST)).0.len(), ENTRIES_MAX);
        let more = format!("[{}{{}}]", "{},".repeat(ENTRIES_MAX));
        assert_eq!(cut(&answer(&more, LAST)), Err(CutError::TooMany));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(cut(&Bytes::from([b"{", bytes.as_slice(), b"}"].concat())));
            drop(cut(&answer(&format!("[{}]", String::from_utf8_lossy(&bytes)), MORE)));
        }

        #[test]
        fn agrees_with_serde_json_on_every_entry(texts in proptest::collection::vec("\\PC{0,20}", 0..5)) {
            let nodes: Vec<String> =
                texts.iter().map(|text| serde_json::json!({"id": text, "x": [text]}).to_string()).collect();
            let nodes = format!("[{}]", nodes.join(" , "));
            let expected: Vec<&RawValue> = serde_json::from_str(&nodes).unwrap();
            let (entries, _, _) = page(&answer(&nodes, LAST));
            prop_assert_eq!(entries.len(), expected.len());
            for (entry, element) in entries.iter().zip(expected) {
                prop_assert_eq!(&entry.body[..], element.get().as_bytes());
            }
        }
    }
}
