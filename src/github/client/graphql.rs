//! The same client asks in GraphQL: same limits, same host, same tokens.

use super::{Client, Pooled};
use crate::github::denial::printable;
use crate::github::graphql::cut::{Answer, cut};
use crate::github::graphql::fault::{Fault, Meaning, judge};
use crate::github::graphql::{audit_log_body, is_offered, probe_body};
use crate::github::link;
use crate::github::rate_limit::{Budget, Denial};
use crate::github::wire::date_of;
use crate::github::{Next, Page, PageRequest, SecretText, SourceError};
use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Room that is made for a node when the length of the body is not known beforehand.
const NODE_BYTES_USUAL: usize = 512;
/// A page's envelope, and the answer to the probe.
const ENVELOPE_BYTES_USUAL: usize = 16 * 1024;

/// An answer with status 200.
struct Accepted {
    body: Bytes,
    headers: HeaderMap,
    date_ms: Option<i64>,
    token: Arc<SecretText>,
}

impl Client {
    /// One page; before the first one, whether the server has an audit log there at all.
    pub(super) async fn graphql_page(
        &self,
        request: &PageRequest,
        pooled: &Pooled,
    ) -> Result<Page, SourceError> {
        if !self.graphql_offered.load(Ordering::Relaxed) {
            self.graphql_probe(pooled).await?;
            self.graphql_offered.store(true, Ordering::Relaxed);
        }
        let usual = usize::from(request.per_page) * NODE_BYTES_USUAL;
        let question = audit_log_body(&self.slug, request).into();
        let accepted = self.graphql_answer(&question, usual, pooled).await?;
        let Accepted { body, headers, date_ms, .. } = &accepted;
        let standing = |next: &Option<Next>| match next {
            Some(Next::Cursor(cursor)) => request.cursor.as_ref() == Some(cursor),
            _ => false,
        };
        match cut(body).map_err(|error| self.wire.transport("graphql_answer", error))? {
            Answer::Page { entries, next, budget } => {
                let next = next.map(Next::Cursor);
                if standing(&next) {
                    return Err(self.wire.transport(
                        "bad_link",
                        "sends a cursor in GraphQL that leads back to the same page",
                    ));
                }
                pooled.secondary_in_a_row.store(0, Ordering::Relaxed);
                let budget = budget.or_else(|| Budget::from_headers(headers));
                Ok(Page { entries, next, date_ms: *date_ms, body_bytes: body.len(), budget })
            }
            Answer::Holes { log, next } => {
                let next = next.map(Next::Cursor);
                Err(SourceError::Uncuttable { body: log, next, date_ms: *date_ms })
            }
            Answer::Faults(faults) => Err(self.graphql_faults(&faults, &accepted, pooled)),
            Answer::NoOrganization => {
                let nobody = Fault { kind: "NOT_FOUND".into(), ..Fault::default() };
                Err(self.graphql_faults(&[nobody], &accepted, pooled))
            }
        }
    }

    /// Whether the server has an audit log in GraphQL. An answer that does not say is asked for again.
    async fn graphql_probe(&self, pooled: &Pooled) -> Result<(), SourceError> {
        let accepted =
            self.graphql_answer(&probe_body().into(), ENVELOPE_BYTES_USUAL, pooled).await?;
        match (is_offered(&accepted.body), cut(&accepted.body)) {
            (Some(true), _) => Ok(()),
            (Some(false), _) => {
                Err(self.not_offered("its type Organization has no field auditLog any more"))
            }
            (None, Ok(Answer::Faults(faults))) => {
                Err(self.graphql_faults(&faults, &accepted, pooled))
            }
            (None, _) => {
                Err(self.wire.transport("graphql_answer", "does not answer an introspection query"))
            }
        }
    }

    /// Sends a query and takes the whole of an answer with status 200.
    async fn graphql_answer(
        &self,
        question: &Bytes,
        usual: usize,
        pooled: &Pooled,
    ) -> Result<Accepted, SourceError> {
        let (mut response, token) =
            self.exchange(&self.graphql_endpoint, Some(question), pooled).await?;
        let budget = Budget::from_headers(response.headers());
        let date_ms = date_of(&response);
        match response.status() {
            StatusCode::OK => {}
            // of the endpoint itself: what GraphQL does not find, it says with status 200
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
                return Err(self.not_offered(&format!(
                    "{} answers {}",
                    self.graphql_endpoint.path(),
                    response.status().as_u16()
                )));
            }
            _ => return Err(self.refusal(response, budget, (pooled, &token)).await),
        }
        let headers = response.headers().clone();
        let body =
            self.wire.body(&mut response, self.wire.server.body_bytes_max, usual, &token).await?;
        Ok(Accepted { body, headers, date_ms, token })
    }

    /// What `errors` mean: no page, whatever else the answer holds.
    fn graphql_faults(
        &self,
        faults: &[Fault],
        accepted: &Accepted,
        pooled: &Pooled,
    ) -> SourceError {
        let Accepted { headers, date_ms, token, .. } = accepted;
        let said = faults.iter().map(|fault| fault.message.as_str()).find(|it| !it.is_empty());
        let message =
            crate::github::denial::without_secret(said.unwrap_or_default(), token.expose());
        let now_s = date_ms.unwrap_or_else(crate::time::wall_ms) / 1000;
        let in_a_row = pooled.secondary_in_a_row.load(Ordering::Relaxed);
        match judge(faults, headers, now_s, in_a_row) {
            Meaning::RateLimited { reason, wait } => {
                if reason == "secondary" {
                    pooled.secondary_in_a_row.fetch_add(1, Ordering::Relaxed);
                }
                SourceError::RateLimited { reason, wait, budget: Budget::from_headers(headers) }
            }
            Meaning::Denied(denial) => {
                pooled.tokens.denied();
                self.graphql_denied(denial, &message, pooled)
            }
            Meaning::NotOffered => self.not_offered(&message),
            Meaning::Refused => SourceError::Refused { status: 200, message },
            Meaning::Failed => self
                .wire
                .transport("graphql_errors", format!("answers errors in GraphQL: {message}")),
        }
    }

    fn graphql_denied(&self, denial: Denial, message: &str, pooled: &Pooled) -> SourceError {
        match self.denied(denial, StatusCode::OK, message, pooled) {
            SourceError::Denied { reason, message, remedy } => SourceError::Denied {
                reason,
                message: format!("{message} in GraphQL"),
                remedy: format!("{remedy}; or take \"graphql\" out of the entity's `lanes`"),
            },
            other => other,
        }
    }

    fn not_offered(&self, why: &str) -> SourceError {
        let origin = link::origin_text(&self.graphql_endpoint);
        SourceError::NotOffered {
            message: format!(
                "entity {}: {origin} has no audit log in GraphQL: {}",
                self.entity,
                printable(why)
            ),
        }
    }
}
