//! `ghauditd run`: the daemon.

use super::{Exit, Global};
use crate::config::{Config, Fault, Faults, Loaded};
use crate::daemon::{self, DaemonError, RunOptions};
use crate::github::{Access, CredentialId, SecretSource};
use crate::kafka::ownership::StartError;
use crate::pipeline::collector::CollectorError;
use crate::pipeline::seen::CatchUpError;
use crate::state::StateError;
use clap::Args;
use tracing::{error, info, warn};

const LONG_ABOUT: &str = "\
Collect the audit logs until SIGTERM or SIGINT.

Started again at any moment, after whatever end, it goes on from its checkpoints in Kafka. A stop ends the batch \
that is on its way and lasts at most daemon.grace; a second signal ends it at once, which loses nothing either.";

/// Collect until SIGTERM
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = "\
Examples:
  ghauditd run
  ghauditd --config ./ghauditd.toml --log-format json run
  ghauditd run --init      begin anew after a topic was lost")]
pub(super) struct RunArgs {
    /// Take topics that are missing or empty for a new beginning, although others hold data
    ///
    /// Without this a start that finds such a thing is refused, because it may be a loss. Use it once, when you know
    /// why: topics are created, and what GitHub still has is read again.
    #[arg(long)]
    init: bool,
}

pub(super) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<Exit> {
    let Some(config) = config(global) else { return Ok(Exit::Config) };
    info!(version = env!("CARGO_PKG_VERSION"), config = %global.config.display(), "starting");
    let ended = super::block_on(daemon::run(config, RunOptions { init: args.init }))?;
    match ended {
        Ok(()) => Ok(Exit::Ok),
        Err(error) => {
            error!(%error, "the daemon has ended");
            Ok(exit_of(&error))
        }
    }
}

/// The configuration, or its faults in the log.
fn config(global: &Global) -> Option<Config> {
    let faults = match super::load_config(global) {
        Ok(Loaded { config, warnings }) => {
            let faults = only_under_systemd(&config);
            if faults.is_empty() {
                for Fault { key, problem, remedy } in warnings {
                    warn!(key, problem, remedy, "configuration");
                }
                return Some(config);
            }
            faults
        }
        Err(Faults(faults)) => faults,
    };
    for Fault { key, problem, remedy } in faults {
        error!(key, problem, remedy, "configuration");
    }
    None
}

/// `check` may look at a configuration outside of systemd; the daemon needs its credentials.
fn only_under_systemd(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    for entity in &config.entities {
        for credential in &entity.credentials {
            let SecretSource::Credential { name, path: None } = credential.secret() else {
                continue;
            };
            let place = match credential.access {
                Access::Token(_) if credential.id == CredentialId::of_entity(&entity.name) => {
                    format!("entity[{}].token_credential", entity.name)
                }
                Access::Token(_) => format!("credential.{}.token_credential", credential.id),
                Access::App(_) => format!("credential.{}.private_key_credential", credential.id),
            };
            faults.push(Fault {
                key: place,
                problem: format!("systemd passed no credential {name:?}"),
                remedy: "start the service by its unit with LoadCredential=, or name a file"
                    .to_owned(),
            });
        }
    }
    // a credential of several entities is one fault
    faults.sort();
    faults.dedup();
    faults
}

fn exit_of(error: &DaemonError) -> Exit {
    match error {
        DaemonError::Start(StartError::OwnedByOther { .. })
        | DaemonError::State(StateError::Busy { .. })
        | DaemonError::CatchUp(CatchUpError::State(StateError::Busy { .. }))
        | DaemonError::Collector(CollectorError::OwnedByOther(_)) => Exit::Fenced,
        DaemonError::Start(_)
        | DaemonError::State(_)
        | DaemonError::CatchUp(_)
        | DaemonError::Collector(CollectorError::Refused(_)) => Exit::Refused,
        DaemonError::Setup(_)
        | DaemonError::Collector(CollectorError::State(_))
        | DaemonError::Admin(_)
        | DaemonError::Unexpected(_) => Exit::Unexpected,
    }
}
