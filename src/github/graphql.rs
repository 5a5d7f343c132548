//! GitHub's audit log in GraphQL: what is asked, and what an answer means. Pure; [`super::client`] sends it.
//!
//! A second, optional source: 60 actions of organizations, no Git events, deprecated. Facts and limits:
//! docs.github.com, "Rate limits and query limits for the GraphQL API"; `docs/decisions/0022-graphql.md`.
//!
//! Schema and queries stand in `graphql/` and are checked against each other when this is compiled.

pub mod cut;
pub mod fault;
pub mod id;

use super::PageRequest;
use super::query::phrase;
use graphql_client::{GraphQLQuery, QueryBody};
use serde::Serialize;
use url::Url;

/// Asks GitHub to write all ids in the new form, which holds the id that REST shows, whatever the entry's age. Source:
/// docs.github.com, "Migrating GraphQL global node IDs".
pub const NEXT_GLOBAL_ID: &str = "x-github-next-global-id";

/// The type that has the audit log.
const TYPE_NAME: &str = "Organization";
/// Its field.
const FIELD_NAME: &str = "auditLog";

// what the schema's own scalars are in Rust
type DateTime = String;
type PreciseDateTime = String;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "graphql/schema.graphql",
    query_path = "graphql/audit_log.graphql",
    response_derives = "Debug"
)]
struct AuditLog;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "graphql/schema.graphql",
    query_path = "graphql/probe.graphql",
    response_derives = "Debug"
)]
struct Probe;

/// Where a server answers GraphQL, from its REST base: `https://api.github.com/graphql`,
/// `https://api.SUBDOMAIN.ghe.com/graphql`, `https://HOST/api/graphql` for `https://HOST/api/v3/`.
pub fn endpoint(base: &Url) -> Url {
    let mut url = base.clone();
    let segments: Vec<String> = base
        .path_segments()
        .into_iter()
        .flatten()
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect();
    let kept = match segments.as_slice() {
        [before @ .., api, version] if api == "api" && version == "v3" => before.len() + 1,
        all => all.len(),
    };
    // a base that cannot be one is refused with the configuration
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().extend(segments.iter().take(kept)).push("graphql");
    }
    url
}

/// The body of a request for one page.
pub fn audit_log_body(slug: &str, request: &PageRequest) -> Vec<u8> {
    bytes(&AuditLog::build_query(audit_log::Variables {
        login: slug.to_owned(),
        query: phrase(request.query),
        first: i64::from(request.per_page.clamp(1, 100)),
        after: request.cursor.as_ref().map(|cursor| cursor.as_str().to_owned()),
    }))
}

/// The body of the question whether the server has an audit log in GraphQL.
pub fn probe_body() -> Vec<u8> {
    bytes(&Probe::build_query(probe::Variables { type_name: TYPE_NAME.to_owned() }))
}

/// Whether the server has an audit log, by its answer to [`probe_body`]; `None` where it does not say.
pub fn is_offered(body: &[u8]) -> Option<bool> {
    let answer: graphql_client::Response<probe::ResponseData> =
        serde_json::from_slice(body).ok()?;
    if answer.errors.is_some_and(|errors| !errors.is_empty()) {
        return None;
    }
    // a type that there is not has no fields
    let fields = answer.data?.type_.and_then(|it| it.fields).unwrap_or_default();
    Some(fields.iter().any(|field| field.name == FIELD_NAME))
}

fn bytes<V: Serialize>(body: &QueryBody<V>) -> Vec<u8> {
    // text and numbers always are JSON
    serde_json::to_vec(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::slice::Query;
    use crate::audit::{Cursor, Lane};
    use serde_json::Value;

    fn request(cursor: Option<&str>) -> PageRequest {
        PageRequest {
            lane: Lane::GraphQl,
            query: Query { from_s: 1_767_323_045, to_s: Some(1_767_323_046) },
            cursor: cursor.and_then(|text| Cursor::new(text.to_owned())),
            per_page: 100,
        }
    }

    #[test]
    fn endpoints_as_github_documents_them() {
        for (base, expected) in [
            ("https://api.github.com/", "https://api.github.com/graphql"),
            ("https://api.octo.ghe.com", "https://api.octo.ghe.com/graphql"),
            ("https://ghe.example/api/v3/", "https://ghe.example/api/graphql"),
            ("https://ghe.example/api/v3", "https://ghe.example/api/graphql"),
            ("https://ghe.example/proxy/api/v3/", "https://ghe.example/proxy/api/graphql"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/graphql"),
            ("http://127.0.0.1:8080/api/", "http://127.0.0.1:8080/api/graphql"),
        ] {
            assert_eq!(endpoint(&Url::parse(base).unwrap()).as_str(), expected, "{base}");
        }
    }

    #[test]
    fn a_page_is_asked_for_with_the_filter_of_rest() {
        let body = |cursor| -> Value {
            serde_json::from_slice(&audit_log_body("octo", &request(cursor))).unwrap()
        };
        let first = body(None);
        assert_eq!(first["operationName"], "AuditLog");
        assert_eq!(
            first["variables"],
            serde_json::json!({
                "login": "octo",
                "query": "created:2026-01-02T03:04:05Z..2026-01-02T03:04:06Z",
                "first": 100,
                "after": null,
            })
        );
        assert_eq!(body(Some("Y3Vyc29y"))["variables"]["after"], "Y3Vyc29y");
        let query = first["query"].as_str().unwrap();
        assert!(query.contains("orderBy: { field: CREATED_AT, direction: ASC }"), "{query}");
    }

    #[test]
    fn the_probe_tells_whether_the_field_is_there() {
        let body: Value = serde_json::from_slice(&probe_body()).unwrap();
        assert_eq!(body["variables"]["typeName"], "Organization");
        let answer = |text: &str| is_offered(text.as_bytes());
        let with = r#"{"data":{"__type":{"fields":[{"name":"login"},{"name":"auditLog"}]}}}"#;
        assert_eq!(answer(with), Some(true));
        assert_eq!(answer(r#"{"data":{"__type":{"fields":[{"name":"login"}]}}}"#), Some(false));
        assert_eq!(answer(r#"{"data":{"__type":{"fields":null}}}"#), Some(false));
        assert_eq!(answer(r#"{"data":{"__type":null}}"#), Some(false));
        for body in
            ["", "[]", "<html>", r#"{"data":null}"#, r#"{"data":null,"errors":[{"message":"x"}]}"#]
        {
            assert_eq!(answer(body), None, "{body}");
        }
    }
}
