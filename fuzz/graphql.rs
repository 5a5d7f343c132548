//! Answers in GraphQL: any bytes are a page, errors, or a clear no; a page's entries are GitHub's own bytes, and what has
//! `errors` is never one.

use crate::decisions::Decisions;
use bytes::Bytes;
use ghauditd::audit::Text;
use ghauditd::github::fact;
use ghauditd::github::graphql::cut::{Answer, cut};
use ghauditd::github::graphql::{fault, id, is_offered};
use ghauditd::github::rate_limit::WAIT_MAX;
use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;
use std::time::Duration;

/// Any bytes between braces, and within the list of entries.
#[test]
fn graphql_of_bytes() {
    bolero::check!().for_each(|bytes: &[u8]| {
        check(&[b"{", bytes, b"}"].concat());
        let (before, after) = (
            r#"{"data":{"organization":{"auditLog":{"nodes":["#,
            r#"],"pageInfo":{"hasNextPage":false}}}}}"#,
        );
        check(&[before.as_bytes(), bytes, after.as_bytes()].concat());
        if is_offered(bytes).is_some() {
            assert!(serde_json::from_slice::<Value>(bytes).is_ok());
        }
    });
}

const MEMBERS: &[&str] = &[
    r#""errors":null"#,
    r#""errors":[]"#,
    r#""errors":[{"type":"RATE_LIMITED","message":"API rate limit exceeded"}]"#,
    r#""errors":[{"message":"x","extensions":{"code":"undefinedField","saml_failure":true}}]"#,
    r#""errors":[{"type":"FORBIDDEN"},{"type":"INVALID_CURSOR_ARGUMENTS"}]"#,
    r#""errors":{"message":7}"#,
    r#""\u0065rrors":[{}]"#,
    r#""extensions":{"warnings":[]}"#,
    r#""data":null"#,
];

const NODES: &[&str] = &[
    "null",
    "7",
    "{}",
    r#"{"id":"RAAE_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ","action":"repo.create","createdAt":"2020-12-02T17:24:34.512Z"}"#,
    r#"{"id":"MDQ6VXNlcg==","createdAt":"2020-13-02T17:24:34Z","actorLogin":null}"#,
    r#"{ "id" : "" , "id":"\u0061", "organizationName":["x"]}"#,
    r#"{"id":"\ud800","repositoryName":"o/r","x":1e400}"#,
    r#"{"id" "x"}"#,
    r#"{"x":"]},{[\"\\"}"#,
];

const INFO: &[&str] = &[
    r#"{"hasNextPage":false,"endCursor":null}"#,
    r#"{"hasNextPage":true,"endCursor":"Y3Vyc29y"}"#,
    r#"{"hasNextPage":true,"endCursor":null}"#,
    r#"{"hasNextPage":"true"}"#,
    "null",
];

const LIMITS: &[&str] = &[
    r#"{"cost":1,"limit":5000,"remaining":4999,"resetAt":"2026-01-01T00:00:00Z"}"#,
    r#"{"limit":-1,"remaining":0,"resetAt":"soon"}"#,
    "null",
];

const FAULTS: &[&str] = &["", ",", "}", "{", "]", "[", "\"", ":", "\u{e9}"];

/// What looks like an answer, with faults here and there.
#[test]
fn graphql_of_answers() {
    bolero::check!().with_max_len(1024_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut members: Vec<String> = Vec::new();
        for _ in 0..decisions.below(4) {
            members.push(decisions.pick(MEMBERS).to_owned());
        }
        let (limit, info) = (decisions.pick(LIMITS), decisions.pick(INFO));
        let nodes: Vec<&str> = (0..decisions.below(6)).map(|_| decisions.pick(NODES)).collect();
        let separator = if decisions.byte() > 250 { decisions.pick(FAULTS) } else { "," };
        let nodes = nodes.join(separator);
        let log = format!(r#"{{"nodes":[{nodes}],"pageInfo":{info}}}"#);
        let data = format!(r#""data":{{"rateLimit":{limit},"organization":{{"auditLog":{log}}}}}"#);
        let at = decisions.below(members.len() + 1);
        members.insert(at, data);
        let mut answer = format!("{{{}}}", members.join(","));
        if decisions.byte() > 240 {
            answer.push_str(decisions.pick(FAULTS));
        }
        check(answer.as_bytes());
    });
}

fn check(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let answer = cut(&body);
    assert_eq!(answer, cut(&body), "the same answer means the same");
    let read: Option<Value> = serde_json::from_slice(bytes).ok();
    let errors = read.as_ref().and_then(|read| read.get("errors"));
    let has_errors = errors.is_some_and(|errors| match errors {
        Value::Null => false,
        Value::Array(errors) => !errors.is_empty(),
        _ => true,
    });
    match answer {
        Ok(Answer::Page { entries, .. }) => {
            assert!(!has_errors, "{}", String::from_utf8_lossy(bytes));
            for entry in &entries {
                let (from, len) =
                    (entry.body.as_ptr().addr() - body.as_ptr().addr(), entry.body.len());
                assert_eq!(entry.body, body[from..from + len], "the body's own bytes");
                assert!(entry.id.as_ref().is_none_or(|id| !id.as_bytes().is_empty()));
            }
            if read.is_some() {
                agree(
                    bytes,
                    &entries.iter().map(|it| (it.body.clone(), it.id.clone())).collect::<Vec<_>>(),
                );
            }
        }
        Ok(Answer::Faults(faults)) => {
            assert!(!faults.is_empty());
            assert!(has_errors || read.is_none());
            if let fault::Meaning::RateLimited { wait, .. } =
                fault::judge(&faults, &HeaderMap::new(), 0, 3)
            {
                assert!((Duration::from_secs(1)..=WAIT_MAX).contains(&wait));
            }
        }
        Ok(Answer::Holes { .. } | Answer::NoOrganization) => assert!(!has_errors),
        Err(_) => {}
    }
}

#[derive(serde::Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    organization: Organization<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Organization<'a> {
    #[serde(borrow)]
    audit_log: Log<'a>,
}

#[derive(serde::Deserialize)]
struct Log<'a> {
    #[serde(borrow)]
    nodes: Vec<&'a RawValue>,
}

/// What another reader sees, where no name is there twice.
fn agree(bytes: &[u8], entries: &[(Bytes, Option<Text>)]) {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(bytes) else { return };
    let nodes = answer.data.organization.audit_log.nodes;
    assert_eq!(nodes.len(), entries.len());
    for (node, (body, known)) in nodes.iter().zip(entries) {
        assert_eq!(node.get().as_bytes(), &body[..]);
        let Ok(value) = serde_json::from_str::<Value>(node.get()) else { continue };
        let node_id = value.get("id").and_then(Value::as_str);
        let node_id = node_id.filter(|id| !id.is_empty() && id.len() <= fact::BYTES_MAX);
        // an escaped text may be too long as it is written
        let Some(node_id) = node_id.filter(|_| !node.get().contains('\\')) else { continue };
        let expected = id::document_id(node_id).unwrap_or_else(|| node_id.to_owned());
        assert_eq!(known.as_ref().map(Text::as_str), Some(expected.as_str()));
    }
}

/// One id for one entry, whichever way it came.
#[test]
fn graphql_id() {
    const PLAIN: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    bolero::check!().with_max_len(64_usize).for_each(|bytes: &[u8]| {
        drop(id::document_id(&String::from_utf8_lossy(bytes)));
        let mut decisions = Decisions::new(bytes);
        let document: Vec<u8> = (0..22).map(|_| PLAIN[decisions.below(PLAIN.len())]).collect();
        let node = id::node_id("RCAE", &document);
        assert_eq!(id::document_id(&node).map(String::into_bytes), Some(document.clone()));
        // of another length it is another shape
        let cut = &document[..decisions.below(22)];
        assert_eq!(id::document_id(&id::node_id("RCAE", cut)), None);
    });
}
