//! One exchange with the configured server, under limits for everything.
//!
//! What is never done: follow a redirect to another scheme, host or port; send a secret anywhere else; keep more of an answer
//! than the limits permit; put a URL, a secret or a proxy's password into an error.

use super::rate_limit::{Answer, Verdict, date_ms, judge};
use super::{SecretText, ServerSettings, SourceError};
use super::{denial, link, query};
use crate::audit::EntityName;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, LOCATION,
};
use http::{HeaderName, Method, StatusCode};
use reqwest::Response;
use std::error::Error;
use std::fmt::Display;
use std::io::ErrorKind;
use std::sync::Once;
use std::time::Duration;
use tokio::time::timeout;
use url::{Host, Url};

/// Redirects that are followed in one request, on the same scheme, host and port.
const REDIRECTS_MAX: usize = 3;
/// Bytes of an answer other than a success that are read for its message.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest file of certificate authorities, in bytes.
const CA_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
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

/// An answer that is no success.
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// What the server said, printable; may be empty.
    pub(super) message: String,
    /// What it means.
    pub(super) verdict: Verdict,
}

/// The `Date` of an answer, epoch milliseconds.
pub(super) fn date_of(response: &Response) -> Option<i64> {
    response.headers().get(DATE).and_then(|date| date.to_str().ok()).and_then(date_ms)
}

/// The way to one server, for one entity.
pub(super) struct Wire {
    http: reqwest::Client,
    /// The server.
    pub(super) server: ServerSettings,
    /// Whom messages are about.
    entity: EntityName,
}

impl Wire {
    /// Opens no connection yet.
    pub(super) fn new(server: &ServerSettings, entity: &EntityName) -> Result<Self, ClientError> {
        check_base_url(&server.base_url)
            .map_err(|fault| ClientError::BaseUrl { server: server.name.clone(), fault })?;
        let http = http_client(server)?;
        Ok(Self { http, server: server.clone(), entity: entity.clone() })
    }

    /// A URL of the server, of these path segments, whatever they hold.
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.server.base_url.clone();
        // a base of http or https always has segments
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// A GET, or a POST of JSON; redirects are followed as in [`Self::follow`].
    pub(super) async fn ask(
        &self,
        url: &Url,
        json: Option<&Bytes>,
        secret: &SecretText,
    ) -> Result<Response, SourceError> {
        let method = if json.is_some() { Method::POST } else { Method::GET };
        self.follow_with(&method, url, json, secret).await
    }

    /// Sends a request and follows its redirects: only 301, 302, 307, 308, and only on the configured server.
    pub(super) async fn follow(
        &self,
        method: &Method,
        url: &Url,
        secret: &SecretText,
    ) -> Result<Response, SourceError> {
        self.follow_with(method, url, None, secret).await
    }

    async fn follow_with(
        &self,
        method: &Method,
        url: &Url,
        json: Option<&Bytes>,
        secret: &SecretText,
    ) -> Result<Response, SourceError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(method, url.clone(), json, secret).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let target = location
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| self.transport("redirect", "redirects without a usable Location"))?;
            if !link::same_origin(&target, &self.server.base_url) {
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
        method: &Method,
        url: Url,
        json: Option<&Bytes>,
        secret: &SecretText,
    ) -> Result<Response, SourceError> {
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {}", secret.expose())).map_err(|_| {
                self.transport("connection", "cannot be asked: the credential fits no header")
            })?;
        bearer.set_sensitive(true);
        let request = self
            .http
            .request(method.clone(), url)
            .header(ACCEPT, "application/vnd.github+json")
            .header(
                HeaderName::from_static("x-github-api-version"),
                self.server.api_version.as_str(),
            )
            .header(AUTHORIZATION, bearer);
        let request = match json {
            Some(json) => request
                .header(CONTENT_TYPE, "application/json")
                .header(HeaderName::from_static(super::graphql::NEXT_GLOBAL_ID), "1")
                .body(json.clone()),
            // some servers want to be told that a request with this method has no body
            None if *method == Method::POST => request.header(CONTENT_LENGTH, "0"),
            None => request,
        };
        let limit = self.server.first_byte_timeout;
        let response = match timeout(limit, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(error, false, secret)),
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

    /// What an answer that is no success means.
    pub(super) async fn refusal(
        &self,
        mut response: Response,
        secret: &SecretText,
        secondary_in_a_row: u32,
    ) -> Refusal {
        let status = response.status();
        // a message that cannot be read does not change what the status says
        let body = self.body(&mut response, ERROR_BODY_BYTES_MAX, 1024, secret).await;
        let (message, documentation_url) = denial::said(&body.unwrap_or_default(), secret.expose());
        let verdict = judge(&Answer {
            status,
            headers: response.headers(),
            message: &message,
            documentation_url: &documentation_url,
            now_s: date_of(&response).unwrap_or_else(crate::time::wall_ms) / 1000,
            secondary_in_a_row,
        });
        Refusal { status, message, verdict }
    }

    /// The whole body, decompressed, within the limits of size and time.
    pub(super) async fn body(
        &self,
        response: &mut Response,
        bytes_max: usize,
        bytes_usual: usize,
        secret: &SecretText,
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
                Ok(Err(error)) => return Err(self.broken(error, true, secret)),
                Err(_) => return Err(self.timed_out("the next bytes of the body", limit)),
            }
        }
    }

    pub(super) fn transport(&self, reason: &'static str, what: impl Display) -> SourceError {
        let message =
            format!("entity {}: {} {what}", self.entity, link::origin_text(&self.server.base_url));
        SourceError::Transport { reason, message }
    }

    pub(super) fn timed_out(&self, what: &str, limit: Duration) -> SourceError {
        self.transport("timeout", format!("took longer than {} ms for {what}", limit.as_millis()))
    }

    /// An error below HTTP's statuses, without its URL and without secrets.
    pub(super) fn broken(
        &self,
        error: reqwest::Error,
        in_body: bool,
        secret: &SecretText,
    ) -> SourceError {
        let reason = reason_of(&error, in_body);
        let mut text = denial::without_secret(&chain(&error.without_url()), secret.expose());
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
