//! What a simulated GitHub is made of.

use super::faults::Faults;
use crate::audit::{EntityKind, Lane};
use crate::github::jwt::AppKey;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Seconds of a day.
pub(crate) const DAY_S: i64 = 86_400;

/// A simulated GitHub.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// All that is random is a pure function of this.
    pub seed: u64,
    /// Whose logs there are.
    pub entities: Vec<SimEntity>,
    /// The simulated clock: shown in `Date`, used for retention, limits and live traffic.
    pub clock: SimClock,
    /// The accepted bearer token.
    pub token: String,
    /// Further accepted tokens.
    pub further_tokens: Vec<SimToken>,
    /// GitHub Apps.
    pub apps: Vec<SimApp>,
    /// Requests per window (a simulated hour) for each user and entity; 0: no limit and, as on GHES, no headers that tell it.
    /// GitHub's own figure is 1,750.
    pub rate_limit_per_hour: u64,
    /// Length of the window that the limit is for, simulated seconds. GitHub's is an hour; it once announced 15 requests
    /// a minute, and may do so again.
    pub rate_limit_window_s: u64,
    /// `(A, B)`: entity A shows the very entries of entity B, as an enterprise and its organizations do.
    pub mirrors: Vec<(String, String)>,
    /// Whether HTTPS is spoken (HTTP/1.1 and HTTP/2 by ALPN), with a certificate authority made at start.
    pub tls: bool,
    /// Where to listen; port 0 finds a free one.
    pub listen: SocketAddr,
    /// Path before `/enterprises` and `/orgs`, for example `/api/v3` as on GHES; empty as on github.com.
    pub base_path: String,
    /// Accepted values of `X-GitHub-Api-Version`; the first one is the default.
    pub api_versions: Vec<String>,
    /// What misbehaves.
    pub faults: Faults,
    /// File to which one JSON line is appended for each body as it becomes visible.
    pub journal: Option<PathBuf>,
    /// For benches: full pages of the history (100 entries, plain and gzip) are made at start and served from memory.
    pub premade: bool,
}

impl Default for SimConfig {
    /// One enterprise `acme` with a small history and some live traffic, plain HTTP, no limit, no faults, the clock
    /// of this machine.
    fn default() -> Self {
        Self {
            seed: 1,
            entities: vec![SimEntity::new(EntityKind::Enterprise, "acme")],
            clock: SimClock::default(),
            token: "simulated-token".to_owned(),
            further_tokens: Vec::new(),
            apps: Vec::new(),
            rate_limit_per_hour: 0,
            rate_limit_window_s: 3_600,
            mirrors: Vec::new(),
            tls: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            base_path: String::new(),
            api_versions: vec!["2022-11-28".to_owned(), "2026-03-10".to_owned()],
            faults: Faults::default(),
            journal: None,
            premade: false,
        }
    }
}

/// A token that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimToken {
    /// The token.
    pub token: String,
    /// Whose it is: tokens of one user share a budget. `None`: of a user of its own.
    pub user: Option<String>,
    /// Its own limit in place of [`SimConfig::rate_limit_per_hour`].
    pub rate_limit_per_hour: Option<u64>,
}

impl SimToken {
    /// The token of a user of its own.
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), user: None, rate_limit_per_hour: None }
    }
}

/// A GitHub App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimApp {
    /// App id.
    pub id: u64,
    /// Client id.
    pub client_id: String,
    /// The public key that its JWTs are checked with, DER (PKCS#1).
    pub public_key: Vec<u8>,
    /// Where it is installed; empty: on every entity, from number 1000 on.
    pub installations: Vec<SimInstallation>,
    /// How long a token of an installation lives, simulated seconds.
    pub token_life_s: i64,
    /// The limit of each installation in place of [`SimConfig::rate_limit_per_hour`].
    pub rate_limit_per_hour: Option<u64>,
}

impl SimApp {
    /// App 12345 alias `Iv23liSimulated` with this key, installed everywhere, whose tokens live an hour.
    pub fn new(key: &AppKey) -> Self {
        Self {
            id: 12_345,
            client_id: "Iv23liSimulated".to_owned(),
            public_key: key.public_der().to_vec(),
            installations: Vec::new(),
            token_life_s: 3_600,
            rate_limit_per_hour: None,
        }
    }
}

/// An App on an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimInstallation {
    /// Its number.
    pub id: u64,
    /// Kind of account.
    pub kind: EntityKind,
    /// Slug or login of the account.
    pub slug: String,
    /// Suspended by an owner.
    pub suspended: bool,
}

impl SimInstallation {
    /// One that is not suspended.
    pub fn new(id: u64, kind: EntityKind, slug: &str) -> Self {
        Self { id, kind, slug: slug.to_owned(), suspended: false }
    }
}

/// One enterprise or organization.
#[derive(Debug, Clone)]
pub struct SimEntity {
    /// Enterprise or organization.
    pub kind: EntityKind,
    /// Its slug in the path.
    pub slug: String,
    /// Entries of `include=web`.
    pub web: Traffic,
    /// Entries of `include=git`.
    pub git: Traffic,
}

impl SimEntity {
    /// An entity with 2,000 web entries, 1,000 Git entries, and one live entry a second in each lane.
    pub fn new(kind: EntityKind, slug: &str) -> Self {
        Self {
            kind,
            slug: slug.to_owned(),
            web: Traffic { history_entries: 2_000, live_per_second: 1.0, ..Traffic::web() },
            git: Traffic { history_entries: 1_000, live_per_second: 1.0, ..Traffic::git() },
        }
    }

    /// The traffic of a lane.
    pub fn traffic(&self, lane: Lane) -> &Traffic {
        match lane {
            Lane::Web | Lane::GraphQl => &self.web,
            Lane::Git => &self.git,
        }
    }
}

/// What happens in one lane of an entity.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Entries before the clock's start.
    pub history_entries: u64,
    /// Over how many seconds before the clock's start they are spread. Default: nine tenths of the retention (of
    /// GitHub's retention when `retention_s` is `None`), so that none expires before a reader had time to come.
    pub history_span_s: Option<i64>,
    /// Entries per simulated second from the clock's start on.
    pub live_per_second: f64,
    /// Live traffic ends after so many.
    pub live_entries_max: Option<u64>,
    /// How long entries are kept; `None`: for ever, as on a GHES.
    pub retention_s: Option<i64>,
}

impl Traffic {
    /// None yet, kept 180 days.
    pub fn web() -> Self {
        Self { retention_s: Some(180 * DAY_S), ..Self::default() }
    }

    /// None yet, kept 7 days.
    pub fn git() -> Self {
        Self { retention_s: Some(7 * DAY_S), ..Self::default() }
    }
}

/// The simulated clock.
#[derive(Debug, Clone, Copy)]
pub struct SimClock {
    /// Where it starts, epoch milliseconds.
    pub start_ms: i64,
    /// How many times faster than real time it runs; at least 1.
    pub speed: f64,
}

impl Default for SimClock {
    /// Real time.
    fn default() -> Self {
        Self { start_ms: crate::time::wall_ms(), speed: 1.0 }
    }
}
