//! The REST client of one entity: one page a call, under limits for everything.
//!
//! What is never done: follow a `Link` or redirect to another scheme, host or port; send the token anywhere else; keep
//! more of an answer than the limits permit; put a URL, a token or a proxy's password into an error.

mod graphql;

pub use super::wire::{ClientError, check_base_url, install_crypto_provider};

use super::access::Tokens;
use super::rate_limit::{Budget, Denial, Verdict};
use super::wire::{Wire, date_of};
use super::{
    CredentialId, CredentialSettings, EntitySettings, Next, Page, PageRequest, SecretText,
    ServerSettings, Source, SourceError,
};
use super::{denial, link, page, query};
use crate::audit::{EntityKind, EntityName, Lane};
use crate::metrics::Metrics;
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, LINK};
use reqwest::Response;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use tokio::time::timeout;
use url::Url;

/// Room that is made for an entry when the length of the body is not known beforehand.
const ENTRY_BYTES_USUAL: usize = 1024;

/// One credential of a client, and what is remembered of it.
struct Pooled {
    id: CredentialId,
    tokens: Tokens,
    secondary_in_a_row: AtomicU32,
}

impl Pooled {
    fn new(settings: &CredentialSettings, entity: &EntitySettings) -> Self {
        let tokens = Tokens::new(settings, entity);
        Self { id: settings.id.clone(), tokens, secondary_in_a_row: AtomicU32::new(0) }
    }
}

/// Fetches pages of one entity's audit log.
pub struct Client {
    wire: Wire,
    entity: EntityName,
    kind: EntityKind,
    slug: String,
    endpoint: Url,
    graphql_endpoint: Url,
    /// Whether the server is known to have an audit log in GraphQL.
    graphql_offered: AtomicBool,
    ids: Vec<CredentialId>,
    pool: Vec<Pooled>,
    metrics: Arc<Metrics>,
    sunset_told: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("entity", &self.entity).finish_non_exhaustive()
    }
}

impl Source for Client {
    fn credentials(&self) -> &[CredentialId] {
        &self.ids
    }

    async fn fetch(
        &self,
        request: PageRequest,
        page: Option<u64>,
        credential: &CredentialId,
    ) -> Result<Page, SourceError> {
        let pooled = self.pooled(credential).ok_or_else(|| SourceError::Denied {
            reason: Denial::Unauthorized.label(),
            message: format!("entity {}: {credential} is none of its credentials", self.entity),
            remedy: "name it in the entity's `credentials`".into(),
        })?;
        self.fetch_page(request, page, pooled).await
    }

    fn credential_generation(&self, credential: &CredentialId) -> u64 {
        self.pooled(credential).map_or(0, |pooled| pooled.tokens.generation())
    }
}

impl Client {
    /// A client for one entity, with all of its credentials. Opens no connection and reads no token yet.
    pub fn new(
        server: &ServerSettings,
        entity: &EntitySettings,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        let wire = Wire::new(server, &entity.name)?;
        let endpoint = query::endpoint(&server.base_url, entity.kind, &entity.slug)
            .map_err(|source| ClientError::Slug { entity: entity.name.clone(), source })?;
        Ok(Self {
            wire,
            entity: entity.name.clone(),
            kind: entity.kind,
            slug: entity.slug.clone(),
            endpoint,
            graphql_endpoint: super::graphql::endpoint(&server.base_url),
            graphql_offered: AtomicBool::new(false),
            ids: entity.credentials.iter().map(|it| it.id.clone()).collect(),
            pool: entity.credentials.iter().map(|it| Pooled::new(it, entity)).collect(),
            metrics,
            sunset_told: AtomicBool::new(false),
        })
    }

    fn pooled(&self, id: &CredentialId) -> Option<&Pooled> {
        self.pool.iter().find(|pooled| pooled.id == *id)
    }

    async fn fetch_page(
        &self,
        request: PageRequest,
        page: Option<u64>,
        pooled: &Pooled,
    ) -> Result<Page, SourceError> {
        let started = Instant::now();
        let answer = self.answer(&request, page, pooled);
        let result = match timeout(self.wire.server.request_timeout, answer).await {
            Ok(result) => result,
            Err(_) => {
                Err(self.wire.timed_out("the whole request", self.wire.server.request_timeout))
            }
        };
        let outcome = result.as_ref().map_or_else(SourceError::label, |_| "ok");
        self.metrics.request(&self.entity, outcome, started.elapsed().as_secs_f64());
        if let Ok(page) = &result {
            self.metrics.page(&self.entity, request.lane, page.entries.len(), page.body_bytes);
        }
        result
    }

    /// One page.
    async fn answer(
        &self,
        request: &PageRequest,
        page: Option<u64>,
        pooled: &Pooled,
    ) -> Result<Page, SourceError> {
        if request.lane == Lane::GraphQl {
            return self.graphql_page(request, pooled).await;
        }
        let url = query::page_url(&self.endpoint, request, page);
        let (response, token) = self.exchange(&url, None, pooled).await?;
        let result = self.read(response, request, page, (pooled, &token)).await;
        if matches!(result, Err(SourceError::Denied { .. })) {
            pooled.tokens.denied();
        }
        result
    }

    /// One request with its redirects; a second one where the token turns out to be exchanged. With a body it is a POST.
    async fn exchange(
        &self,
        url: &Url,
        body: Option<&Bytes>,
        pooled: &Pooled,
    ) -> Result<(Response, Arc<SecretText>), SourceError> {
        let mut token = pooled.tokens.token(&self.wire).await?;
        let mut response = self.wire.ask(url, body, &token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let fresh = pooled.tokens.renewed(&self.wire, &token).await?;
            if fresh != token {
                token = fresh;
                response = self.wire.ask(url, body, &token).await?;
            }
        }
        Ok((response, token))
    }

    /// What an answer means, and its page.
    async fn read(
        &self,
        mut response: Response,
        request: &PageRequest,
        page: Option<u64>,
        (pooled, token): (&Pooled, &SecretText),
    ) -> Result<Page, SourceError> {
        let budget = Budget::from_headers(response.headers());
        if let Some(budget) = budget {
            let credential = pooled.id.as_str();
            self.metrics.budget(&self.entity, credential, budget.limit, budget.remaining);
        }
        let date = date_of(&response);
        if let Some(date_ms) = date {
            pooled.tokens.server_says_now(date_ms);
        }
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, budget, (pooled, token)).await);
        }
        pooled.secondary_in_a_row.store(0, Ordering::Relaxed);
        self.tell_sunset(response.headers());
        let usual = usize::from(request.per_page) * ENTRY_BYTES_USUAL;
        let body =
            self.wire.body(&mut response, self.wire.server.body_bytes_max, usual, token).await?;
        if !page::is_page(&body) {
            return Err(self.not_a_page(&body));
        }
        let next = self.next(response.headers(), request, page)?;
        match page::cut(&body) {
            Ok(entries) => {
                Ok(Page { entries, next, date_ms: date, body_bytes: body.len(), budget })
            }
            Err(error) => {
                // asked for again with fewer entries: only what becomes of it is worth a warning
                tracing::debug!(entity = %self.entity, bytes = body.len(), %error, "a page cannot be cut into entries");
                Err(SourceError::Uncuttable { body, next, date_ms: date })
            }
        }
    }

    /// Where the walk goes on. A link back to where we are would be walked for ever.
    fn next(
        &self,
        headers: &HeaderMap,
        request: &PageRequest,
        page: Option<u64>,
    ) -> Result<Option<Next>, SourceError> {
        let values = headers.get_all(LINK).iter().map(HeaderValue::as_bytes);
        let next = link::next(values, &self.endpoint).map_err(|error| {
            self.wire.transport("bad_link", denial::printable(&error.to_string()))
        })?;
        let stands_still = match &next {
            Some(Next::Cursor(cursor)) => request.cursor.as_ref() == Some(cursor),
            Some(Next::Page(next)) => request.cursor.is_none() && *next <= page.unwrap_or(1),
            None => false,
        };
        if stands_still {
            return Err(self
                .wire
                .transport("bad_link", "sends a next link that leads back to the same page"));
        }
        Ok(next)
    }

    /// An answer other than 200.
    async fn refusal(
        &self,
        response: Response,
        budget: Option<Budget>,
        (pooled, token): (&Pooled, &SecretText),
    ) -> SourceError {
        let in_a_row = pooled.secondary_in_a_row.load(Ordering::Relaxed);
        let refusal = self.wire.refusal(response, token, in_a_row).await;
        let (status, message) = (refusal.status, refusal.message);
        match refusal.verdict {
            Verdict::RateLimited { reason, wait } => {
                if reason == "secondary" {
                    pooled.secondary_in_a_row.fetch_add(1, Ordering::Relaxed);
                }
                SourceError::RateLimited { reason, wait, budget }
            }
            Verdict::Denied(denial) => self.denied(denial, status, &message, pooled),
            Verdict::Refused => SourceError::Refused { status: status.as_u16(), message },
            Verdict::Transport(reason) => {
                self.wire.transport(reason, format!("answers {status} {message}").trim_end())
            }
            Verdict::Accepted => self.wire.transport("not_json_array", format!("answers {status}")),
        }
    }

    fn denied(
        &self,
        denial: Denial,
        status: StatusCode,
        message: &str,
        pooled: &Pooled,
    ) -> SourceError {
        let kind = denial::kind_word(self.kind);
        // where there is but one, it says nothing
        let with = if self.pool.len() > 1 {
            format!(" with credential {}", pooled.id)
        } else {
            String::new()
        };
        let said = if message.is_empty() {
            status.canonical_reason().unwrap_or_default()
        } else {
            message
        };
        SourceError::Denied {
            reason: denial.label(),
            message: format!(
                "entity {}: {} answers {} ({said}) for the audit log of {kind} {}{with}",
                self.entity,
                link::origin_text(&self.endpoint),
                status.as_u16(),
                self.slug,
            ),
            remedy: denial::remedy(
                denial,
                self.kind,
                &pooled.tokens.holder(),
                &self.wire.server.api_version,
            ),
        }
    }

    fn not_a_page(&self, body: &[u8]) -> SourceError {
        let what = match page::trim(body) {
            [] => "an empty body",
            [b'<', ..] => "HTML",
            [b'{', ..] => "a JSON object",
            [b'[', ..] => {
                return self.wire.transport(
                    "truncated",
                    format!("sends an array without its end, {} bytes", body.len()),
                );
            }
            _ => "something else",
        };
        self.wire.transport(
            "not_json_array",
            format!("sends {what} instead of a JSON array ({} bytes)", body.len()),
        )
    }

    /// GitHub announces the end of an API version in headers: said once.
    fn tell_sunset(&self, headers: &HeaderMap) {
        let text = |name: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).map(denial::printable)
        };
        let Some(when) = text("sunset").or_else(|| text("deprecation")) else {
            return;
        };
        if !self.sunset_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                entity = %self.entity, api_version = %self.wire.server.api_version, %when,
                "the server announces the end of this API version: plan to change `api_version`"
            );
        }
    }
}
