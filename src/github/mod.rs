//! Where entries come from: GitHub's REST audit log, and what is left of the one in GraphQL.
//!
//! Speakers: [`client`] (pages over HTTP) with `access` and `app` (tokens of GitHub Apps), [`auth`] (reads secrets). Pure:
//! [`jwt`], [`page`] (with [`fact`]), [`link`], [`rate_limit`], [`query`], [`denial`].

mod access;
mod app;
pub mod auth;
pub mod client;
mod credential;
pub mod denial;
pub mod fact;
pub mod graphql;
mod installation;
pub mod jwt;
pub mod link;
pub mod page;
pub mod query;
pub mod rate_limit;
mod scan;
mod wire;

pub use credential::{Access, AppSettings, CredentialId, CredentialSettings, SecretSource};

use crate::audit::slice::Query;
use crate::audit::{Cursor, EntityKind, EntityName, Entry, Lane};
use bytes::Bytes;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// One GitHub server and how to speak to it. From `[server.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Name in the configuration.
    pub name: String,
    /// REST base, for example `https://api.github.com/`, `https://api.SUB.ghe.com/`, `https://HOST/api/v3/`. Ends in `/`.
    pub base_url: Url,
    /// `X-GitHub-Api-Version`.
    pub api_version: String,
    /// PEM file with certificate authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy for HTTPS requests (CONNECT).
    pub proxy: Option<Url>,
    /// Whether gzip is asked for.
    pub gzip: bool,
    /// Time to establish a connection.
    pub connect_timeout: Duration,
    /// Time from request to response headers.
    pub first_byte_timeout: Duration,
    /// Time between two pieces of a body.
    pub between_bytes_timeout: Duration,
    /// Time for a whole request.
    pub request_timeout: Duration,
    /// Most bytes of response headers.
    pub header_bytes_max: usize,
    /// Most bytes of a body, after decompression.
    pub body_bytes_max: usize,
}

/// A secret that cannot be printed.
#[derive(Clone)]
pub struct SecretText(secrecy::SecretString);

impl SecretText {
    /// Takes a secret.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the header of a request and nothing else.
    pub fn expose(&self) -> &str {
        secrecy::ExposeSecret::expose_secret(&self.0)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretText {}

impl std::hash::Hash for SecretText {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

/// One entity whose log is read. From `[[entity]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntitySettings {
    /// Key of its state; never changed.
    pub name: EntityName,
    /// Enterprise or organization.
    pub kind: EntityKind,
    /// Slug at GitHub; may change under the name.
    pub slug: String,
    /// Name of its server in the configuration.
    pub server: String,
    /// What its requests may be made with: at least one, all for its server.
    pub credentials: Vec<CredentialSettings>,
    /// The lanes that are read.
    pub lanes: Vec<LaneSettings>,
}

/// One lane of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSettings {
    /// Which.
    pub lane: Lane,
    /// How long GitHub keeps it; `None`: unlimited.
    pub retention: Option<Duration>,
}

/// One page to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Which lane (`include`).
    pub lane: Lane,
    /// The query.
    pub query: Query,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// 1 to 100.
    pub per_page: u8,
}

/// Where a walk goes on after a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A cursor: may be kept in a checkpoint.
    Cursor(Cursor),
    /// A link that counts pages (`page=`): usable within this walk, never kept across a commit.
    Page(u64),
}

/// An accepted answer.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries, in the order in which they came.
    pub entries: Vec<Entry>,
    /// Where to go on; `None`: the walk has ended.
    pub next: Option<Next>,
    /// The `Date` header, epoch milliseconds.
    pub date_ms: Option<i64>,
    /// Bytes of the body after decompression.
    pub body_bytes: usize,
    /// What is left of the request budget, where the headers say so.
    pub budget: Option<rate_limit::Budget>,
}

/// Why there is no page, as what the caller can do about it. The cursor does not move.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// Ask again after this time: a rate limit.
    #[error("rate limited ({reason}), retry in {} s", .wait.as_secs())]
    RateLimited {
        /// `primary`, `secondary` or `retry_after`.
        reason: &'static str,
        /// How long.
        wait: Duration,
        /// What the headers said.
        budget: Option<rate_limit::Budget>,
    },
    /// Refused: retry slowly, tell the operator once.
    #[error("{message}: {remedy}")]
    Denied {
        /// `unauthorized`, `forbidden`, `sso`, `not_found`, `gone`: a metric's label.
        reason: &'static str,
        /// What GitHub said, with the entity's name.
        message: String,
        /// What the operator can do.
        remedy: String,
    },
    /// A 4xx that is neither authorization nor rate. While holding a cursor: drop the cursor.
    #[error("request refused with status {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What GitHub said, shortened.
        message: String,
    },
    /// Ask again after a back-off: 5xx, time-out, reset, truncated, HTML, not an array, too large.
    #[error("{message}")]
    Transport {
        /// `server_error`, `timeout`, `connection`, `truncated`, `not_json_array`, `too_large`, `redirect`, `bad_link`, `tls`: a metric's label.
        reason: &'static str,
        /// What happened, with the thing's name.
        message: String,
    },
    /// The server has no such lane: it is left alone. Only GraphQL's, which GitHub has announced to remove.
    #[error("{message}")]
    NotOffered {
        /// What the server said, with the entity's name.
        message: String,
    },
    /// A complete array that cannot be cut into entries.
    #[error("a page of {} bytes cannot be cut into entries", .body.len())]
    Uncuttable {
        /// The whole body.
        body: Bytes,
        /// Where the walk would go on.
        next: Option<Next>,
        /// The `Date` header, epoch milliseconds.
        date_ms: Option<i64>,
    },
}

impl SourceError {
    /// The label of metrics and of logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::RateLimited { reason, .. }
            | Self::Denied { reason, .. }
            | Self::Transport { reason, .. } => reason,
            Self::Refused { .. } => "refused",
            Self::NotOffered { .. } => "not_offered",
            Self::Uncuttable { .. } => "uncuttable",
        }
    }
}

/// Where pages come from. A trait, because tests inject faults here.
pub trait Source: Send + Sync + 'static {
    /// The credentials that its requests may be made with; at least one, always the same.
    fn credentials(&self) -> &[CredentialId];

    /// Fetches one page with one of [`Self::credentials`]. `page` is `Some` where the walk goes on by a counted page
    /// ([`Next::Page`]).
    fn fetch(
        &self,
        request: PageRequest,
        page: Option<u64>,
        credential: &CredentialId,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// Another value each time a credential changes: what it was refused is then asked again.
    fn credential_generation(&self, credential: &CredentialId) -> u64;
}
