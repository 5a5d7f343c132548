//! The REST client of one entity: one page a call, under limits for everything.
//!
//! What is never done: follow a `Link` or redirect to another scheme, host or port; send the token anywhere else; keep
//! more of an answer than the limits permit; put a URL, a token or a proxy's password into an error.

mod graphql;

use super::auth::{SecretError, TokenReader};
use super::rate_limit::{Answer, Budget, Denial, Verdict, date_ms, judge};
use super::{
    CredentialId, CredentialSettings, EntitySettings, Next, Page, PageRequest, SecretText,
    ServerSettings, Source, SourceError,
};
use super::{denial, link, page, query};
use crate::audit::{EntityKind, EntityName, Lane};
use crate::metrics::Metrics;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LINK, LOCATION,
};
use http::{HeaderName, StatusCode};
use reqwest::Response;
use std::error::Error;
use std::fmt::Display;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use url::{Host, Url};

/// Redirects that are followed in one request, on the same scheme, host and port.
const REDIRECTS_MAX: usize = 3;
/// Bytes of an answer other than 200 that are read for its message.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest file of certificate authorities, in bytes.
const CA_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Room that is made for an entry when the length of the body is not known beforehand.
const ENTRY_BYTES_USUAL: usize = 1024;
/// Interval of HTTP/2 pings while a request is open: a connection that died in silence would swallow one request after
/// the other until TCP gives up.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a client cannot be made. All of these are faults of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL is not one that a token may be sent to.
    #[error("server {server}: `base_url` {fault}")]
    BaseUrl {
        /// The server's name.
        server: String,
        /// What is wrong, and the remedy.
        fault: String,
    },
    /// The slug makes no URL.
    #[error("entity {entity}: {source}")]
    Slug {
        /// The entity's name.
        entity: EntityName,
        /// The fault.
        source: query::QueryError,
    },
    /// The file with certificate authorities cannot be used.
    #[error("server {server}: `ca_file` {path} {fault}: it must hold certificates in PEM form")]
    CaFile {
        /// The server's name.
        server: String,
        /// The file.
        path: String,
        /// What is wrong.
        fault: String,
    },
    /// An HTTP or TLS setting was refused.
    #[error("server {server}: the HTTP client cannot be set up ({cause})")]
    Setup {
        /// The server's name.
        server: String,
        /// What the library said.
        cause: String,
    },
}

/// Whether a token may be sent to this base URL: https, or http on loopback for tests and the demo.
pub fn check_base_url(url: &Url) -> Result<(), String> {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => {
            return Err("has no host: write it as https://HOST/ or https://HOST/api/v3/".into());
        }
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err(
                "is plain http, which would show the token to the network: use https".into()
            );
        }
        _ => return Err("must begin with https://".into()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or password: remove it, the token goes into a header".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or fragment: remove everything from ? or # on".into());
    }
    Ok(())
}

/// Makes ring the process's cryptography, once. Every TLS client of ours needs it.
pub fn install_crypto_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // an error says that somebody installed one before: then that one serves
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

/// One credential of a client, and what is remembered of it.
struct Pooled {
    id: CredentialId,
    token: TokenReader,
    secondary_in_a_row: AtomicU32,
}

impl Pooled {
    fn new(settings: &CredentialSettings) -> Self {
        let token = TokenReader::new(settings.secret().clone());
        Self { id: settings.id.clone(), token, secondary_in_a_row: AtomicU32::new(0) }
    }
}

/// Fetches pages of one entity's audit log.
pub struct Client {
    http: reqwest::Client,
    server: ServerSettings,
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
        let hash = |token: Arc<SecretText>| xxhash_rust::xxh3::xxh3_64(token.expose().as_bytes());
        let token = self.pooled(credential).and_then(|pooled| pooled.token.secret().ok());
        token.map_or(0, hash)
    }
}

impl Client {
    /// A client for one entity, with all of its credentials. Opens no connection and reads no token yet.
    pub fn new(
        server: &ServerSettings,
        entity: &EntitySettings,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        check_base_url(&server.base_url)
            .map_err(|fault| ClientError::BaseUrl { server: server.name.clone(), fault })?;
        let endpoint = query::endpoint(&server.base_url, entity.kind, &entity.slug)
            .map_err(|source| ClientError::Slug { entity: entity.name.clone(), source })?;
        Ok(Self {
            http: http_client(server)?,
            server: server.clone(),
            entity: entity.name.clone(),
            kind: entity.kind,
            slug: entity.slug.clone(),
            endpoint,
            graphql_endpoint: super::graphql::endpoint(&server.base_url),
            graphql_offered: AtomicBool::new(false),
            ids: entity.credentials.iter().map(|it| it.id.clone()).collect(),
            pool: entity.credentials.iter().map(Pooled::new).collect(),
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
        let result = match timeout(self.server.request_timeout, answer).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out("the whole request", self.server.request_timeout)),
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
        self.read(response, request, page, (pooled, &token)).await
    }

    /// One request with its redirects; a second one where the token turns out to be exchanged. With a body it is a POST.
    async fn exchange(
        &self,
        url: &Url,
        body: Option<&Bytes>,
        pooled: &Pooled,
    ) -> Result<(Response, Arc<SecretText>), SourceError> {
        let no_token = |error: SecretError| self.no_token(pooled, &error);
        let mut token = pooled.token.secret().map_err(no_token)?;
        let mut response = self.follow(url, body, &token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let fresh = pooled.token.reread().map_err(no_token)?;
            if fresh != token {
                token = fresh;
                response = self.follow(url, body, &token).await?;
            }
        }
        Ok((response, token))
    }

    /// Sends a request and follows its redirects: only 301, 302, 307, 308, and only on the configured server.
    async fn follow(
        &self,
        url: &Url,
        body: Option<&Bytes>,
        token: &SecretText,
    ) -> Result<Response, SourceError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(url.clone(), body, token).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let target = location
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| self.transport("redirect", "redirects without a usable Location"))?;
            if !link::same_origin(&target, &self.endpoint) {
                let elsewhere = denial::printable(&link::origin_text(&target));
                return Err(self.transport(
                    "redirect",
                    format!("redirects to {elsewhere}, where the token does not go; if the server moved, change `base_url`"),
                ));
            }
            url = target;
        }
        Err(self.transport("redirect", format!("redirects more than {REDIRECTS_MAX} times")))
    }

    /// One request up to the headers of its answer.
    async fn send(
        &self,
        url: Url,
        body: Option<&Bytes>,
        token: &SecretText,
    ) -> Result<Response, SourceError> {
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
                self.transport("connection", "cannot be asked: the token fits no header")
            })?;
        bearer.set_sensitive(true);
        let request = match body {
            Some(body) => self
                .http
                .post(url)
                .header(CONTENT_TYPE, "application/json")
                .header(HeaderName::from_static(super::graphql::NEXT_GLOBAL_ID), "1")
                .body(body.clone()),
            None => self.http.get(url),
        };
        let request = request
            .header(ACCEPT, "application/vnd.github+json")
            .header(
                HeaderName::from_static("x-github-api-version"),
                self.server.api_version.as_str(),
            )
            .header(AUTHORIZATION, bearer);
        let limit = self.server.first_byte_timeout;
        let response = match timeout(limit, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(error, false, token)),
            Err(_) => return Err(self.timed_out("response headers", limit)),
        };
        let bytes: usize = response
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        if bytes > self.server.header_bytes_max {
            let limit = self.server.header_bytes_max;
            return Err(self.transport(
                "too_large",
                format!("sends {bytes} bytes of headers, more than {limit}"),
            ));
        }
        Ok(response)
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
            self.metrics.budget(&self.entity, budget.limit, budget.remaining);
        }
        let date =
            response.headers().get(DATE).and_then(|date| date.to_str().ok()).and_then(date_ms);
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, budget, date, (pooled, token)).await);
        }
        pooled.secondary_in_a_row.store(0, Ordering::Relaxed);
        self.tell_sunset(response.headers());
        let usual = usize::from(request.per_page) * ENTRY_BYTES_USUAL;
        let body = self.body(&mut response, self.server.body_bytes_max, usual, token).await?;
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

    /// The whole body, decompressed, within the limits of size and time.
    async fn body(
        &self,
        response: &mut Response,
        bytes_max: usize,
        bytes_usual: usize,
        token: &SecretText,
    ) -> Result<Bytes, SourceError> {
        let too_large =
            || self.transport("too_large", format!("sends a body of more than {bytes_max} bytes"));
        let announced =
            response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced.is_some_and(|length| length > bytes_max) {
            return Err(too_large());
        }
        let mut body = BytesMut::with_capacity(announced.unwrap_or(bytes_usual).min(bytes_max));
        let limit = self.server.between_bytes_timeout;
        loop {
            match timeout(limit, response.chunk()).await {
                Ok(Ok(Some(chunk))) if chunk.len() > bytes_max - body.len() => {
                    return Err(too_large());
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(body.freeze()),
                Ok(Err(error)) => return Err(self.broken(error, true, token)),
                Err(_) => return Err(self.timed_out("the next bytes of the body", limit)),
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
        let next = link::next(values, &self.endpoint)
            .map_err(|error| self.transport("bad_link", denial::printable(&error.to_string())))?;
        let stands_still = match &next {
            Some(Next::Cursor(cursor)) => request.cursor.as_ref() == Some(cursor),
            Some(Next::Page(next)) => request.cursor.is_none() && *next <= page.unwrap_or(1),
            None => false,
        };
        if stands_still {
            return Err(
                self.transport("bad_link", "sends a next link that leads back to the same page")
            );
        }
        Ok(next)
    }

    /// An answer other than 200.
    async fn refusal(
        &self,
        mut response: Response,
        budget: Option<Budget>,
        date_ms: Option<i64>,
        (pooled, token): (&Pooled, &SecretText),
    ) -> SourceError {
        let status = response.status();
        // a message that cannot be read does not change what the status says
        let body =
            self.body(&mut response, ERROR_BODY_BYTES_MAX, 1024, token).await.unwrap_or_default();
        let (message, documentation_url) = denial::said(&body, token.expose());
        let verdict = judge(&Answer {
            status,
            headers: response.headers(),
            message: &message,
            documentation_url: &documentation_url,
            now_s: date_ms.unwrap_or_else(crate::time::wall_ms) / 1000,
            secondary_in_a_row: pooled.secondary_in_a_row.load(Ordering::Relaxed),
        });
        match verdict {
            Verdict::RateLimited { reason, wait } => {
                if reason == "secondary" {
                    pooled.secondary_in_a_row.fetch_add(1, Ordering::Relaxed);
                }
                SourceError::RateLimited { reason, wait, budget }
            }
            Verdict::Denied(denial) => self.denied(denial, status, &message, pooled),
            Verdict::Refused => SourceError::Refused { status: status.as_u16(), message },
            Verdict::Transport(reason) => {
                self.transport(reason, format!("answers {status} {message}").trim_end())
            }
            Verdict::Accepted => self.transport("not_json_array", format!("answers {status}")),
        }
    }

    fn denied(
        &self,
        denial: Denial,
        status: StatusCode,
        message: &str,
        pooled: &Pooled,
    ) -> SourceError {
        let kind = match self.kind {
            EntityKind::Enterprise => "enterprise",
            EntityKind::Organization => "organization",
        };
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
                &pooled.token.place(),
                &self.server.api_version,
            ),
        }
    }

    fn no_token(&self, pooled: &Pooled, error: &SecretError) -> SourceError {
        SourceError::Denied {
            reason: Denial::Unauthorized.label(),
            message: format!("entity {}: credential {} has no token", self.entity, pooled.id),
            remedy: error.to_string(),
        }
    }

    fn not_a_page(&self, body: &[u8]) -> SourceError {
        let what = match page::trim(body) {
            [] => "an empty body",
            [b'<', ..] => "HTML",
            [b'{', ..] => "a JSON object",
            [b'[', ..] => {
                return self.transport(
                    "truncated",
                    format!("sends an array without its end, {} bytes", body.len()),
                );
            }
            _ => "something else",
        };
        self.transport(
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
                entity = %self.entity, api_version = %self.server.api_version, %when,
                "the server announces the end of this API version: plan to change `api_version`"
            );
        }
    }

    fn transport(&self, reason: &'static str, what: impl Display) -> SourceError {
        let message =
            format!("entity {}: {} {what}", self.entity, link::origin_text(&self.endpoint));
        SourceError::Transport { reason, message }
    }

    fn timed_out(&self, what: &str, limit: Duration) -> SourceError {
        self.transport("timeout", format!("took longer than {} ms for {what}", limit.as_millis()))
    }

    /// An error below HTTP's statuses, without its URL and without secrets.
    fn broken(&self, error: reqwest::Error, in_body: bool, token: &SecretText) -> SourceError {
        let reason = reason_of(&error, in_body);
        let mut text = denial::without_secret(&chain(&error.without_url()), token.expose());
        if let Some(password) = self.server.proxy.as_ref().and_then(Url::password) {
            text = denial::without_secret(&text, password);
        }
        let doing = if in_body { "breaks off in the body" } else { "cannot be asked" };
        self.transport(reason, format!("{doing} ({})", denial::printable(&text)))
    }
}

/// The label of an error below HTTP's statuses.
fn reason_of(error: &reqwest::Error, in_body: bool) -> &'static str {
    let io_kind = |kind: ErrorKind| {
        causes(error).any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == kind)
        })
    };
    if error.is_timeout() {
        "timeout"
    } else if causes(error).any(|cause| cause.to_string().contains("too large")) {
        // hyper's own word for a message head beyond its limits; it exports no type for it
        "too_large"
    } else if !in_body && causes(error).any(<dyn Error>::is::<rustls::Error>) {
        "tls"
    } else if in_body && !io_kind(ErrorKind::ConnectionReset) {
        "truncated"
    } else {
        "connection"
    }
}

/// An error, its causes, and what they wrap.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        // source() of an io::Error skips the error that it wraps
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// What an error and its causes say, each once.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    for part in causes(error).map(ToString::to_string) {
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
    }
    text
}

fn http_client(server: &ServerSettings) -> Result<reqwest::Client, ClientError> {
    install_crypto_provider();
    let setup = |error: reqwest::Error| ClientError::Setup {
        server: server.name.clone(),
        cause: chain(&error.without_url()),
    };
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("ghauditd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .gzip(server.gzip)
        .connect_timeout(server.connect_timeout)
        .pool_max_idle_per_host(4)
        .tcp_keepalive(Duration::from_mins(1))
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_max_header_list_size(u32::try_from(server.header_bytes_max).unwrap_or(u32::MAX));
    if let Some(proxy) = &server.proxy {
        builder = builder.proxy(reqwest::Proxy::https(proxy.clone()).map_err(setup)?);
    }
    if server.base_url.scheme() == "https" {
        builder = builder.https_only(true).tls_certs_merge(authorities(server)?);
    } else {
        // plain http on loopback: the system's certificates are not needed and may be missing
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(setup)
}

/// The certificate authorities that are trusted besides the system's.
fn authorities(server: &ServerSettings) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let Some(path) = &server.ca_file else {
        return Ok(Vec::new());
    };
    let fault = |fault: String| ClientError::CaFile {
        server: server.name.clone(),
        path: path.display().to_string(),
        fault,
    };
    let length =
        std::fs::metadata(path).map_err(|error| fault(format!("cannot be read ({error})")))?.len();
    if length > CA_FILE_BYTES_MAX {
        return Err(fault(format!("is larger than {CA_FILE_BYTES_MAX} bytes")));
    }
    let pem = std::fs::read(path).map_err(|error| fault(format!("cannot be read ({error})")))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| fault(format!("cannot be parsed ({})", chain(&error))))?;
    if certificates.is_empty() {
        Err(fault("holds no certificate".into()))
    } else {
        Ok(certificates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_over_https_or_loopback_only() {
        for url in [
            "https://api.github.com/",
            "https://ghe.example/api/v3/",
            "http://127.0.0.1:8080/",
            "http://[::1]:8080/",
            "http://localhost/",
        ] {
            assert_eq!(check_base_url(&Url::parse(url).unwrap()), Ok(()), "{url}");
        }
        for (url, part) in [
            ("http://ghe.example/api/v3/", "https"),
            ("http://127.0.0.1.evil.example/", "https"),
            ("ftp://ghe.example/", "https://"),
            ("https://user@ghe.example/", "user"),
            ("https://:secret@ghe.example/", "user"),
            ("https://ghe.example/?a=b", "query"),
            ("https://ghe.example/#a", "query"),
            ("file:///etc", "no host"),
        ] {
            let fault = check_base_url(&Url::parse(url).unwrap()).unwrap_err();
            assert!(fault.contains(part) && !fault.contains("secret"), "{url}: {fault}");
        }
    }
}
