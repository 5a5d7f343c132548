//! What a GitHub App asks as itself: its installations, and tokens of them.

use super::access::AppFault;
use super::answer::Answer;
use super::config::{SimApp, SimInstallation};
use super::service::bearer;
use super::state::{State, lock};
use crate::audit::EntityKind;
use crate::time::rfc3339_s;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

const DOCS: &str = "https://docs.github.com/rest/apps/apps";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call<'a> {
    /// `GET /app/installations`.
    List,
    /// `GET /orgs/{org}/installation`, `GET /enterprises/{enterprise}/installation`.
    Find(EntityKind, &'a str),
    /// `POST /app/installations/{id}/access_tokens`.
    Make(u64),
}

fn call<'a>(method: &Method, path: &'a str) -> Option<Call<'a>> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, segments.as_slice()) {
        (&Method::GET, [.., "app", "installations"]) => Some(Call::List),
        (&Method::GET, [.., "orgs", slug, "installation"]) => {
            Some(Call::Find(EntityKind::Organization, slug))
        }
        (&Method::GET, [.., "enterprises", slug, "installation"]) => {
            Some(Call::Find(EntityKind::Enterprise, slug))
        }
        (&Method::POST, [.., "app", "installations", id, "access_tokens"]) => {
            id.parse().ok().map(Call::Make)
        }
        _ => None,
    }
}

impl State {
    /// The answer to a request that is about Apps; `None`: it is about something else.
    pub(crate) fn app_answer(&self, request: &Parts, now_ms: i64) -> Option<Answer> {
        let call = call(&request.method, request.uri.path())?;
        let refused = |(status, message): AppFault| {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
            Answer::message(status, message, DOCS)
        };
        let mut access = lock(&self.access);
        let app = match access.app(bearer(request).unwrap_or_default(), now_ms) {
            Ok(app) => app.clone(),
            Err(fault) => {
                lock(&self.stats).apps_refused += 1;
                return Some(refused(fault));
            }
        };
        let not_found = || refused((404, "Not Found"));
        Some(match call {
            Call::List => list(&app, request, &self.base(request)),
            Call::Find(EntityKind::Enterprise, _) if self.faults().no_enterprise_installation => {
                not_found()
            }
            Call::Find(kind, slug) => {
                let is =
                    |it: &&SimInstallation| it.kind == kind && it.slug.eq_ignore_ascii_case(slug);
                app.installations.iter().find(is).map_or_else(not_found, |found| {
                    json_answer(StatusCode::OK, &shown(&app, found))
                })
            }
            Call::Make(_) if self.faults().no_token_made => {
                Answer::new(StatusCode::INTERNAL_SERVER_ERROR, "text/html", "<html>oops</html>")
            }
            Call::Make(id) => match app.installations.iter().find(|it| it.id == id) {
                None => not_found(),
                Some(found) if found.suspended => {
                    refused((403, "This installation has been suspended"))
                }
                Some(_) => access.make(id, now_ms).map_or_else(not_found, |(token, until_ms)| {
                    json_answer(
                        StatusCode::CREATED,
                        &json!({
                            "token": token,
                            "expires_at": rfc3339_s(until_ms / 1000),
                            "permissions": { "organization_administration": "read" },
                            "repository_selection": "all",
                        }),
                    )
                }),
            },
        })
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    Answer::new(status, "application/json; charset=utf-8", value.to_string())
}

/// An installation as GitHub shows it, as far as anybody looks.
fn shown(app: &SimApp, installation: &SimInstallation) -> Value {
    let (kind, account) = match installation.kind {
        EntityKind::Enterprise => {
            ("Enterprise", json!({ "id": installation.id, "slug": installation.slug }))
        }
        EntityKind::Organization => (
            "Organization",
            json!({ "id": installation.id, "login": installation.slug, "type": "Organization" }),
        ),
    };
    json!({
        "id": installation.id,
        "app_id": app.id,
        "client_id": app.client_id,
        "target_type": kind,
        "account": account,
        "permissions": { "organization_administration": "read" },
        "suspended_at": installation.suspended.then_some("2026-01-02T03:04:05Z"),
    })
}

/// One page of all installations.
fn list(app: &SimApp, request: &Parts, base: &str) -> Answer {
    let number = |name: &str, default: usize| {
        let query = request.uri.query().unwrap_or_default();
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        let found = pairs.find(|(key, _)| key == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(default).max(1)
    };
    let (per_page, page) = (number("per_page", 30).min(100), number("page", 1));
    let from = per_page.saturating_mul(page - 1);
    let all = app.installations.iter().skip(from).take(per_page);
    let shown: Vec<_> = all.map(|installation| shown(app, installation)).collect();
    let mut answer = json_answer(StatusCode::OK, &Value::Array(shown));
    if app.installations.len() > from.saturating_add(per_page) {
        let next = format!("{base}/app/installations?per_page={per_page}&page={}", page + 1);
        answer.header("link", format!("<{next}>; rel=\"next\""));
    }
    answer
}
