//! `ghauditd sim`: a simulated GitHub on its own.

use super::config::{DAY_S, SimApp, SimClock, SimConfig, SimEntity, SimToken, Traffic};
use super::faults::{FaultError, Faults};
use super::server::Sim;
use crate::audit::EntityKind;
use crate::github::jwt::AppKey;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Serve GitHub's audit-log REST API with made-up entries, for trying and testing.
///
/// The log is a pure function of the seed, the entities and the start of the clock. The base URL is printed as soon as
/// connections are accepted; stop with Ctrl-C.
#[derive(Debug, Clone, clap::Args)]
pub struct SimArgs {
    /// Address to listen on; port 0 finds a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Whose log there is: `enterprise:SLUG` or `org:SLUG`. Can be given several times.
    #[arg(long, value_name = "KIND:SLUG", default_value = "enterprise:acme", value_parser = entity)]
    pub entity: Vec<(EntityKind, String)>,
    /// All that is random follows from this.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The accepted bearer token. It is no secret.
    #[arg(long, default_value = "simulated-token")]
    pub token: String,
    /// Another accepted token; with =USER it shares a budget with the other tokens of that user. Can be given several times.
    #[arg(long, value_name = "TOKEN[=USER]", value_parser = further_token)]
    pub further_token: Vec<SimToken>,
    /// Private key (PEM) of a GitHub App with id 12345 and client id `Iv23liSimulated`, installed on every entity.
    #[arg(long, value_name = "FILE")]
    pub app_key: Option<PathBuf>,
    /// Web entries in the past.
    #[arg(long, value_name = "ENTRIES", default_value_t = 20_000)]
    pub history_web: u64,
    /// Git entries in the past.
    #[arg(long, value_name = "ENTRIES", default_value_t = 10_000)]
    pub history_git: u64,
    /// New web entries per simulated second.
    #[arg(long, value_name = "RATE", default_value_t = 5.0)]
    pub live_web: f64,
    /// New Git entries per simulated second.
    #[arg(long, value_name = "RATE", default_value_t = 2.0)]
    pub live_git: f64,
    /// Days that web entries are kept; 0: for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 180)]
    pub retention_web: u32,
    /// Days that Git entries are kept; 0: for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub retention_git: u32,
    /// Requests per hour for each user and entity; 0: no limit. GitHub's own limit is 1750.
    #[arg(long, value_name = "REQUESTS", default_value_t = 1_750)]
    pub rate_limit: u64,
    /// Start of the simulated clock, for example 2026-01-01T00:00:00Z; default: now.
    #[arg(long, value_name = "TIME")]
    pub start: Option<jiff::Timestamp>,
    /// How many times faster than real time the simulated clock runs.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub speed: f64,
    /// Path before the endpoints, for example /api/v3 as on GitHub Enterprise Server.
    #[arg(long, value_name = "PATH", default_value = "")]
    pub base_path: String,
    /// Speak HTTPS; the certificate authority to trust is written to this file.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Append a JSON line to this file for each entry as it becomes visible: id, SHA-256 and times.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Switch on everything that must cost neither a loss nor a double, at moderate rates.
    #[arg(long)]
    pub nasty: bool,
    /// Set one fault, for example `late=0.05`. Can be given several times; comes after --nasty.
    #[arg(long, value_name = "NAME=VALUE")]
    pub fault: Vec<String>,
    /// List all faults with their meaning, and end.
    #[arg(long)]
    pub list_faults: bool,
    /// Make full pages of the history at start and serve them from memory, for benchmarks.
    #[arg(long)]
    pub premade: bool,
}

/// Why `ghauditd sim` ended.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A fault that cannot be set.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A `--fault` without a value.
    #[error("--fault {0:?} is not NAME=VALUE: `ghauditd sim --list-faults` names them")]
    NotAssigned(String),
    /// The key of the App.
    #[error("--app-key {path}: {fault}")]
    AppKey {
        /// The file.
        path: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Listening or writing failed.
    #[error("simulated GitHub on {address}: {error}")]
    Io {
        /// Where it listens.
        address: SocketAddr,
        /// What happened.
        error: io::Error,
    },
}

fn entity(text: &str) -> Result<(EntityKind, String), String> {
    match text.split_once(':') {
        Some(("enterprise", slug)) if !slug.is_empty() => {
            Ok((EntityKind::Enterprise, slug.to_owned()))
        }
        Some(("org", slug)) if !slug.is_empty() => Ok((EntityKind::Organization, slug.to_owned())),
        _ => Err("not enterprise:SLUG or org:SLUG".to_owned()),
    }
}

fn further_token(text: &str) -> Result<SimToken, String> {
    let (token, user) = match text.split_once('=') {
        Some((token, user)) => (token, Some(user.to_owned())),
        None => (text, None),
    };
    let named = user.as_ref().is_none_or(|user| !user.is_empty());
    if token.is_empty() || !named {
        return Err("not TOKEN or TOKEN=USER".to_owned());
    }
    Ok(SimToken { user, ..SimToken::new(token) })
}

fn app(path: &Path) -> Result<SimApp, SimError> {
    let fault = |fault: String| SimError::AppKey { path: path.display().to_string(), fault };
    let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    let key = AppKey::from_pem(&pem).map_err(|words| fault(words.to_owned()))?;
    Ok(SimApp::new(&key))
}

impl SimArgs {
    /// The configuration that the arguments say.
    pub fn config(&self) -> Result<SimConfig, SimError> {
        let mut faults = if self.nasty { Faults::nasty() } else { Faults::default() };
        for assignment in &self.fault {
            let (name, value) = assignment
                .split_once('=')
                .ok_or_else(|| SimError::NotAssigned(assignment.clone()))?;
            faults.set(name.trim(), value.trim())?;
        }
        let clock = SimClock::default();
        let start_ms = self.start.map_or(clock.start_ms, jiff::Timestamp::as_millisecond);
        let kept = |days: u32| (days > 0).then(|| i64::from(days) * DAY_S);
        let traffic = |history_entries, live_per_second, days| Traffic {
            history_entries,
            live_per_second,
            retention_s: kept(days),
            ..Traffic::default()
        };
        let entities = self.entity.iter().map(|(kind, slug)| SimEntity {
            kind: *kind,
            slug: slug.clone(),
            web: traffic(self.history_web, self.live_web, self.retention_web),
            git: traffic(self.history_git, self.live_git, self.retention_git),
        });
        Ok(SimConfig {
            seed: self.seed,
            entities: entities.collect(),
            clock: SimClock { start_ms, speed: self.speed },
            token: self.token.clone(),
            further_tokens: self.further_token.clone(),
            apps: self.app_key.as_deref().map(app).transpose()?.into_iter().collect(),
            rate_limit_per_hour: self.rate_limit,
            tls: self.tls_ca.is_some(),
            listen: self.listen,
            base_path: self.base_path.clone(),
            faults,
            journal: self.journal.clone(),
            premade: self.premade,
            ..SimConfig::default()
        })
    }
}

/// Runs `ghauditd sim` until Ctrl-C or SIGTERM.
pub async fn run(args: SimArgs) -> Result<(), SimError> {
    let config = args.config()?;
    serve(&args, config).await.map_err(|error| SimError::Io { address: args.listen, error })
}

async fn serve(args: &SimArgs, config: SimConfig) -> io::Result<()> {
    if args.list_faults {
        return list_faults();
    }
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let sim = Sim::start(config).await?;
    if let (Some(path), Some(pem)) = (&args.tls_ca, sim.ca_pem()) {
        tokio::fs::write(path, pem).await?;
    }
    announce(args, &sim)?;
    tokio::select! {
        () = sim.run() => {}
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    sim.stop().await;
    Ok(())
}

fn list_faults() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, takes, meaning) in Faults::list() {
        writeln!(out, "{name:<28} {takes}\n   {}", meaning.trim())?;
    }
    Ok(())
}

fn announce(args: &SimArgs, sim: &Sim) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "simulated GitHub: {}", sim.base_url())?;
    for (kind, slug) in &args.entity {
        let path = format!("{}/{slug}/audit-log", kind.path_segment());
        writeln!(out, "   {}{path}?include=web", sim.base_url())?;
    }
    writeln!(out, "token: {}", args.token)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: SimArgs,
    }

    fn parsed(arguments: &[&str]) -> SimArgs {
        let all = std::iter::once(&"sim").chain(arguments);
        Program::try_parse_from(all).unwrap().args
    }

    #[test]
    fn arguments_become_a_configuration() {
        let args = parsed(&[
            "--entity",
            "org:octo",
            "--retention-git",
            "0",
            "--nasty",
            "--fault",
            "late=0.5",
            "--further-token",
            "b=octocat",
        ]);
        let config = args.config().unwrap();
        let [entity] = config.entities.as_slice() else { panic!("one entity") };
        assert_eq!((entity.kind, entity.slug.as_str()), (EntityKind::Organization, "octo"));
        assert_eq!((entity.git.retention_s, entity.web.retention_s), (None, Some(180 * DAY_S)));
        assert_eq!(config.faults, Faults { late: 0.5, ..Faults::nasty() });
        let user = Some("octocat".to_owned());
        assert_eq!(config.further_tokens, [SimToken { user, ..SimToken::new("b") }]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_remedy() {
        let refused = |fault: &str| parsed(&["--fault", fault]).config().unwrap_err().to_string();
        assert!(refused("lat=1").contains("--list-faults"));
        assert!(refused("late").contains("NAME=VALUE"));
        assert!(Program::try_parse_from(["sim", "--entity", "user:x"]).is_err());
        assert!(Program::try_parse_from(["sim", "--further-token", "a="]).is_err());
        let error = parsed(&["--app-key", "/nonexistent"]).config().unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
