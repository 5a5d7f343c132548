//! The GraphQL endpoint: one query for an organization's audit log, and introspection of its type.
//!
//! Of the language only as much is understood as is needed to see what is asked: names by the depth of their braces.
//! What is asked besides is answered with an error, as GitHub answers a field that it does not have.

use super::access::Who;
use super::answer::Answer;
use super::cursor::Place;
use super::disturb;
use super::inject::{Plan, Reply};
use super::limits::Standing;
use super::log::{EntityLog, Row, World};
use super::phrase::window;
use super::query::{PathTarget, Query};
use super::rng::{u64_of, usize_of};
use super::service::{accepts_gzip, rate_limit_headers};
use super::state::{State, lock};
use crate::audit::{EntityKind, Lane};
use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

/// GitHub's own points per hour.
const POINTS: u64 = 5_000;
/// Keeps the budget apart from those of the entities.
const BUDGET: usize = usize::MAX;
const SCOPES: &str = "Your token has not been granted the required scopes to execute this query. The 'auditLog' field requires one of the following scopes: ['admin:org', 'read:audit_log'].";

/// Whether a path is this endpoint's.
pub(crate) fn is_endpoint(path: &str, base_path: &str) -> bool {
    let base = base_path.strip_suffix("/v3").unwrap_or(base_path);
    let path = path.strip_prefix("/moved").unwrap_or(path);
    path.strip_prefix(base) == Some("/graphql")
}

/// A request whose sender is known, and what became of it.
pub(crate) struct Reaction {
    pub(crate) answer: Answer,
    pub(crate) plan: Plan,
}

struct Asked<'a> {
    request: &'a Parts,
    variables: &'a Value,
    user: String,
    limited: bool,
    now: i64,
}

impl State {
    /// Answers a request.
    pub(crate) fn graphql(&self, request: &Parts, body: &[u8], who: &Who, now: i64) -> Reaction {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            let answer = Answer::message(
                StatusCode::BAD_REQUEST,
                "Problems parsing JSON",
                "https://docs.github.com/graphql",
            );
            return Reaction { answer, plan: Plan::none(0) };
        };
        let query = body.get("query").and_then(Value::as_str).unwrap_or_default();
        let variables = body.get("variables").unwrap_or(&Value::Null);
        let user = format!("graphql/{}", who.user);
        let asked = Asked { request, variables, user, limited: who.limit > 0, now };
        let fields = names(query, 1);
        if fields == ["__type"] {
            return Reaction { answer: self.introspection(&asked), plan: Plan::none(0) };
        }
        if fields.iter().any(|name| !["rateLimit", "organization"].contains(name)) {
            let answer = undefined("Query", fields.first().copied().unwrap_or_default());
            return Reaction { answer, plan: Plan::none(0) };
        }
        self.audit_log(&asked, query)
    }

    fn introspection(&self, asked: &Asked<'_>) -> Answer {
        let known = asked.variables.get("typeName").and_then(Value::as_str) == Some("Organization");
        let mut fields = vec![json!({"name": "login"}), json!({"name": "repositories"})];
        if !self.faults().graphql_dropped {
            fields.push(json!({"name": "auditLog"}));
        }
        ok(&json!({"data": {"__type": known.then(|| json!({"fields": fields}))}}))
    }

    fn audit_log(&self, asked: &Asked<'_>, query: &str) -> Reaction {
        let inside = names(query, 2);
        if self.faults().graphql_dropped || !inside.contains(&"auditLog") {
            let answer = undefined("Organization", "auditLog");
            return Reaction { answer, plan: Plan::none(0) };
        }
        let login = asked.variables.get("login").and_then(Value::as_str).unwrap_or_default();
        let target = PathTarget { kind: EntityKind::Organization, name: login.to_owned() };
        let Some((number, entity)) = self.entity(&target) else {
            let message =
                format!("Could not resolve to an Organization with the login of '{login}'.");
            let answer = fault("NOT_FOUND", &message, &json!({"organization": null}));
            return Reaction { answer, plan: Plan::none(0) };
        };
        let plan = self.plan(number, Lane::GraphQl);
        let points = if asked.limited { POINTS } else { 0 };
        let standing = lock(&self.limits).count(&asked.user, BUDGET, points, asked.now);
        let mut answer = match standing {
            Some(standing) if standing.exceeded => rate_limited(),
            _ => self
                .graphql_fault(asked, &plan)
                .unwrap_or_else(|| self.graphql_page(asked, entity, &plan, standing)),
        };
        if let Some(standing) = standing {
            rate_limit_headers(&mut answer, standing, "graphql");
        }
        Reaction { answer, plan }
    }

    /// What comes in place of a page, in GraphQL's words where it has words of its own.
    fn graphql_fault(&self, asked: &Asked<'_>, plan: &Plan) -> Option<Answer> {
        let data = json!({"organization": {"auditLog": null}});
        Some(match plan.reply? {
            Reply::Forbidden => fault("INSUFFICIENT_SCOPES", SCOPES, &data),
            Reply::NotFound => fault(
                "NOT_FOUND",
                "Could not resolve to an Organization.",
                &json!({"organization": null}),
            ),
            Reply::Sso => {
                let mut error =
                    error("FORBIDDEN", "Resource protected by organization SAML enforcement.");
                if let Value::Object(members) = &mut error {
                    members.insert("extensions".to_owned(), json!({"saml_failure": true}));
                }
                ok(&json!({"data": data, "errors": [error]}))
            }
            Reply::PrimaryLimit => {
                let mut answer = rate_limited();
                let standing = Standing {
                    limit: POINTS,
                    used: POINTS,
                    reset_s: asked.now / 1000 + 2,
                    exceeded: true,
                };
                rate_limit_headers(&mut answer, standing, "graphql");
                answer
            }
            Reply::SecondaryLimit | Reply::SecondaryMessage => {
                let message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
                let mut answer = ok(&json!({"errors": [{"message": message}]}));
                if plan.reply == Some(Reply::SecondaryLimit) {
                    answer.header("retry-after", self.faults().secondary_retry_after_s.to_string());
                }
                answer
            }
            Reply::LostCursor if asked.variables.get("after").is_none_or(Value::is_null) => {
                return None;
            }
            Reply::LostCursor => bad_cursor(),
            Reply::Redirect(_) if asked.request.uri.path().starts_with("/moved") => return None,
            Reply::Redirect(_) => {
                let place = format!("{}://{}", self.scheme, super::service::host(asked.request));
                disturb::redirect(307, &format!("{place}/moved{}", asked.request.uri.path()))
            }
            Reply::RedirectElsewhere => {
                let path = asked.request.uri.path();
                disturb::redirect(302, &format!("{}://{}{path}", self.scheme, self.elsewhere))
            }
            other => disturb::reply(other, "graphql", &self.faults()),
        })
    }

    fn graphql_page(
        &self,
        asked: &Asked<'_>,
        entity: &EntityLog,
        plan: &Plan,
        standing: Option<Standing>,
    ) -> Answer {
        let text = |name: &str| asked.variables.get(name).and_then(Value::as_str);
        let after = match text("after") {
            None => None,
            Some(cursor) => match Place::decode(cursor) {
                Some(place) => Some(place),
                None => return bad_cursor(),
            },
        };
        let Ok(window) = window(text("query").unwrap_or_default(), asked.now) else {
            return fault(
                "ARGUMENT_ERROR",
                "`query` is not valid.",
                &json!({"organization": {"auditLog": null}}),
            );
        };
        let first = asked.variables.get("first").and_then(Value::as_u64).unwrap_or(0);
        if !(1..=100).contains(&first) {
            return fault(
                "EXCESSIVE_PAGINATION",
                "`first` must be between 1 and 100.",
                &Value::Null,
            );
        }
        let query = Query {
            lanes: vec![Lane::Web],
            window,
            after,
            before: None,
            ascending: true,
            per_page: usize_of(first),
            page: None,
            kept: Vec::new(),
        };
        let mut page = entity.select(&query, World { graphql: true, ..self.world() }, asked.now);
        if plan.rows.short && page.rows.len() > 1 {
            page.rows.truncate(page.rows.len() / 2);
            page.more = true;
        }
        let body = written(entity, &page.rows, page.more, plan, &points_left(standing));
        self.send_graphql(asked, plan, body, page.rows.len())
    }

    fn send_graphql(&self, asked: &Asked<'_>, plan: &Plan, body: String, rows: usize) -> Answer {
        let mut answer = Answer::new(StatusCode::OK, "application/json; charset=utf-8", Vec::new());
        let gzip = accepts_gzip(asked.request);
        let sent = disturb::body(&mut answer, body.into_bytes(), gzip, plan, &self.faults());
        let mut stats = lock(&self.stats);
        stats.graphql_pages += 1;
        stats.graphql_entries += u64_of(rows);
        stats.body_bytes += u64_of(sent);
        answer
    }
}

/// `rateLimit`: null where there is no limit.
fn points_left(standing: Option<Standing>) -> Value {
    let Some(standing) = standing else { return Value::Null };
    let remaining = standing.limit.saturating_sub(standing.used);
    let reset_at = crate::time::rfc3339_s(standing.reset_s);
    json!({"cost": 1, "limit": standing.limit, "remaining": remaining, "resetAt": reset_at})
}

/// The body of a page. With a fault that gives a part only, half of it and an error.
fn written(entity: &EntityLog, rows: &[Row], more: bool, plan: &Plan, left: &Value) -> String {
    let partial = plan.graphql.partial && !rows.is_empty();
    let shown = if partial { rows.len() / 2 } else { rows.len() };
    let hole = plan.graphql.null.then(|| usize_of(plan.draw >> 8).checked_rem(shown)).flatten();
    let nodes: Vec<String> = (rows.iter().take(shown).enumerate())
        .map(|(n, row)| match hole {
            Some(hole) if hole == n => "null".to_owned(),
            _ => entity.node(row.key.index).unwrap_or_else(|| "null".to_owned()),
        })
        .collect();
    let cursor = rows.last().map(|row| Place::from(row.key).encode());
    let info = json!({"hasNextPage": more && cursor.is_some(), "endCursor": cursor});
    let errors = if partial {
        ",\"errors\":[{\"type\":\"RESOURCE_LIMITS_EXCEEDED\",\"message\":\"Resource limits for this query exceeded.\",\"path\":[\"organization\",\"auditLog\",\"nodes\"]}]"
    } else {
        ""
    };
    format!(
        "{{\"data\":{{\"rateLimit\":{left},\"organization\":{{\"auditLog\":{{\"nodes\":[{}],\"pageInfo\":{info}}}}}}}{errors}}}",
        nodes.join(",")
    )
}

fn ok(body: &Value) -> Answer {
    Answer::new(StatusCode::OK, "application/json; charset=utf-8", body.to_string())
}

fn error(kind: &str, message: &str) -> Value {
    json!({"type": kind, "message": message, "path": ["organization"], "locations": [{"line": 1, "column": 1}]})
}

fn fault(kind: &str, message: &str, data: &Value) -> Answer {
    ok(&json!({"data": data, "errors": [error(kind, message)]}))
}

fn rate_limited() -> Answer {
    let message = "API rate limit already exceeded for user ID 1.";
    ok(
        &json!({"errors": [{"type": "RATE_LIMIT", "code": "graphql_rate_limit", "message": message}]}),
    )
}

fn bad_cursor() -> Answer {
    fault(
        "INVALID_CURSOR_ARGUMENTS",
        "`after` does not appear to be a valid cursor.",
        &json!({"organization": null}),
    )
}

fn undefined(of: &str, field: &str) -> Answer {
    let message = format!("Field '{field}' doesn't exist on type '{of}'");
    let extensions = json!({"code": "undefinedField", "typeName": of, "fieldName": field});
    ok(&json!({"errors": [{"message": message, "extensions": extensions, "path": ["query"]}]}))
}

/// The fields that a query names inside so many braces; arguments and comments aside.
fn names(query: &str, depth: usize) -> Vec<&str> {
    let (mut braces, mut brackets, mut found) = (0_usize, 0_usize, Vec::new());
    for line in query.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut rest = line;
        while let Some(symbol) = rest.chars().next() {
            let word = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let (name, after) = rest.split_at(rest.len() - word.len());
            if !name.is_empty() {
                if braces == depth && brackets == 0 {
                    found.push(name);
                }
                rest = after;
                continue;
            }
            match symbol {
                '(' => brackets += 1,
                ')' => brackets = brackets.saturating_sub(1),
                '{' if brackets == 0 => braces += 1,
                '}' if brackets == 0 => braces = braces.saturating_sub(1),
                _ => {}
            }
            rest = rest.get(symbol.len_utf8()..).unwrap_or_default();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_from_the_query() {
        let query = include_str!("../../graphql/audit_log.graphql");
        assert_eq!(names(query, 1), ["rateLimit", "organization"]);
        assert_eq!(names(query, 2), ["cost", "limit", "remaining", "resetAt", "auditLog"]);
        let probe = include_str!("../../graphql/probe.graphql");
        assert_eq!(names(probe, 1), ["__type"]);
    }

    #[test]
    fn the_endpoint_stands_beside_rest() {
        for (path, base, is) in [
            ("/graphql", "", true),
            ("/api/graphql", "/api/v3", true),
            ("/moved/graphql", "", true),
            ("/api/v3/graphql", "/api/v3", false),
            ("/graphql/x", "", false),
        ] {
            assert_eq!(is_endpoint(path, base), is, "{path}");
        }
    }
}
