//! Starts and stops a simulated GitHub.

use super::answer::Answer;
use super::config::{SimConfig, SimInstallation, SimToken};
use super::faults::Faults;
use super::journal::{self, JournalEntry};
use super::listener::{Answerer, accept};
use super::state::{State, lock};
use super::stats::SimStats;
use super::tls;
use http::request::Parts;
use http::{StatusCode, header};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

/// How often the journal file is written, real milliseconds.
const JOURNAL_EVERY_MS: u64 = 500;

/// A running simulated GitHub.
#[derive(Debug)]
pub struct Sim {
    state: Arc<State>,
    base_url: Url,
    elsewhere_url: Url,
    ca_pem: Option<String>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Sim {
    /// Starts it. When this returns, connections are accepted.
    pub async fn start(config: SimConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let other = TcpListener::bind(SocketAddr::new(config.listen.ip(), 0)).await?;
        let (acceptor, ca_pem) = if config.tls {
            tls::acceptor().map(|(acceptor, pem)| (Some(acceptor), Some(pem)))?
        } else {
            (None, None)
        };
        let state = State::new(&config, other.local_addr()?.to_string());
        let url = |address: SocketAddr| {
            let base = format!("{}://{address}{}/", state.scheme, state.base_path);
            Url::parse(&base).map_err(io::Error::other)
        };
        let (base_url, elsewhere_url) = (url(listener.local_addr()?)?, url(other.local_addr()?)?);
        let (state, tasks, stop) = (Arc::new(state), TaskTracker::new(), CancellationToken::new());
        let elsewhere = Arc::new(Elsewhere(Arc::clone(&state)));
        tasks.spawn(accept(
            listener,
            acceptor.clone(),
            Arc::clone(&state),
            tasks.clone(),
            stop.clone(),
        ));
        tasks.spawn(accept(other, acceptor, elsewhere, tasks.clone(), stop.clone()));
        if let Some(path) = config.journal {
            tasks.spawn(write_journal(path, Arc::clone(&state), stop.clone()));
        }
        Ok(Self { state, base_url, elsewhere_url, ca_pem, tasks, stop })
    }

    /// REST base: ends in `/`.
    pub fn base_url(&self) -> Url {
        self.base_url.clone()
    }

    /// Base of the other host, to which redirects and links may lead astray: no token may ever come there.
    pub fn elsewhere_url(&self) -> Url {
        self.elsewhere_url.clone()
    }

    /// The certificate authority to trust, in PEM; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Every body that has been visible so far. Holds all of them in memory: for long logs use
    /// [`Sim::journal_entries`].
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.journal_entries().collect()
    }

    /// As [`Sim::journal`], made one by one.
    pub fn journal_entries(&self) -> impl Iterator<Item = JournalEntry> + '_ {
        journal::entries(&self.state, None, self.now_ms())
    }

    /// Every entry that GraphQL has shown so far, with its node as the body. What GraphQL alone shows stands only here.
    pub fn graphql_journal(&self) -> Vec<JournalEntry> {
        journal::nodes(&self.state, self.now_ms()).collect()
    }

    /// How many entries have become visible so far, over all entities and lanes, revisions not counted.
    pub fn visible_entries(&self) -> u64 {
        journal::visible(&self.state, self.now_ms())
    }

    /// Changes all switches but those that shape entries.
    pub fn set_faults(&self, faults: Faults) {
        self.state.set_faults(faults);
    }

    /// The switches as they are.
    pub fn faults(&self) -> Faults {
        Faults::clone(&self.state.faults())
    }

    /// Accepts another token in place of the first one, which is then refused with 401.
    pub fn set_token(&self, token: impl Into<String>) {
        lock(&self.state.access).set_first(token.into());
    }

    /// Accepts a further token.
    pub fn accept_token(&self, token: SimToken) {
        lock(&self.state.access).accept(token);
    }

    /// Refuses a token with 401 from now on.
    pub fn revoke_token(&self, token: &str) {
        lock(&self.state.access).revoke(token);
    }

    /// Refuses all tokens of installations that were made so far.
    pub fn revoke_installation_tokens(&self) {
        lock(&self.state.access).revoke_made();
    }

    /// Changes what an App is installed on. Tokens of an installation that is gone or suspended are refused.
    pub fn set_installations(&self, app: u64, installations: Vec<SimInstallation>) {
        lock(&self.state.access).set_installations(app, installations);
    }

    /// How many tokens of installations have been made.
    pub fn installation_tokens_made(&self) -> u64 {
        lock(&self.state.access).made_ever()
    }

    /// Somebody else makes requests of this user to the log of an entity (by its place in the configuration). A user is the
    /// one of [`SimToken::user`], else the token itself; `installation/ID` for an App's.
    pub fn use_elsewhere(&self, user: &str, entity: usize, requests: u64) {
        lock(&self.state.limits).take(user, entity, requests, self.now_ms());
    }

    /// Counters.
    pub fn stats(&self) -> SimStats {
        lock(&self.state.stats).clone()
    }

    /// Simulated now, epoch milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.state.clock.now_ms()
    }

    /// Moves the simulated clock ahead.
    pub fn advance(&self, by: Duration) {
        self.state.clock.advance(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    }

    /// Ends all connections and tasks.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Runs until `stop` is cancelled by someone else or the future is dropped.
    pub(crate) async fn run(&self) {
        self.stop.cancelled().await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs a simulated GitHub until the future is dropped.
pub async fn serve_forever(config: SimConfig) -> io::Result<()> {
    Sim::start(config).await?.run().await;
    Ok(())
}

/// The other host: counts who comes, and whether with a token.
#[derive(Debug)]
struct Elsewhere(Arc<State>);

impl Answerer for Elsewhere {
    fn answer(&self, request: &Parts, _: &[u8]) -> Answer {
        let mut stats = lock(&self.0.stats);
        stats.elsewhere_requests += 1;
        if request.headers.contains_key(header::AUTHORIZATION) {
            stats.elsewhere_authorized += 1;
        }
        Answer::new(StatusCode::OK, "application/json; charset=utf-8", "[]")
    }
}

/// Appends a line for each body that has become visible, until `stop`, and once more then.
async fn write_journal(path: PathBuf, state: Arc<State>, stop: CancellationToken) {
    let mut from_ms = None;
    loop {
        let last = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(Duration::from_millis(JOURNAL_EVERY_MS)) => false,
        };
        let now = state.clock.now_ms();
        let appended = append(&path, &state, from_ms, now).await;
        if let Err(error) = appended {
            tracing::error!(path = %path.display(), %error, "failed to write the journal of the simulated GitHub");
            return;
        }
        from_ms = Some(now);
        if last {
            return;
        }
    }
}

async fn append(path: &PathBuf, state: &State, from_ms: Option<i64>, now: i64) -> io::Result<()> {
    let file = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await?;
    let mut file = tokio::io::BufWriter::new(file);
    for (number, entry) in journal::entries(state, from_ms, now).enumerate() {
        file.write_all(entry.to_line().as_bytes()).await?;
        if number % 256 == 0 {
            // making a long history takes seconds: others want to run
            tokio::task::yield_now().await;
        }
    }
    file.flush().await
}
