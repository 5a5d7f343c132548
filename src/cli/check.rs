//! `ghauditd check`: all faults of a configuration at once.

use super::connect::{self, Try, Verdict};
use super::{Exit, Global, Output};
use crate::archive::{LockMode, StoreSettings};
use crate::audit::{EntityKind, Topic};
use crate::config::units::show_duration;
use crate::config::{Config, Fault, Faults, Loaded};
use crate::github::{CredentialId, EntitySettings};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

const LONG_ABOUT: &str = "\
Read the configuration and report all of its faults at once, each with its key, what is wrong and the remedy.

With --connect it also tries: each token and its scope, the topics and their settings, write access by a transaction \
that is aborted, and the archive's store. That changes nothing but for one or two small objects in a bucket, locked \
for a minute. Exit code 0: all is good; 3: faults in the configuration; 4: something does not work.";

/// Check the configuration
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = "\
Examples:
  ghauditd --config ./ghauditd.toml check
  ghauditd check --connect
  ghauditd check --json | jq -r '.faults[].key'")]
pub(super) struct CheckArgs {
    /// Also try the tokens, the topics, write access and the store
    #[arg(long)]
    connect: bool,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    config: String,
    good: bool,
    faults: &'a [Fault],
    warnings: &'a [Fault],
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<&'a [Try]>,
}

pub(super) fn run(args: &CheckArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let loaded = super::load_config(global);
    let (faults, warnings): (&[Fault], &[Fault]) = match &loaded {
        Ok(loaded) => (&[], &loaded.warnings),
        Err(Faults(faults)) => (faults, &[]),
    };
    let config = global.config.display().to_string();
    let tries = match &loaded {
        Ok(Loaded { config, .. }) if args.connect => Some(super::block_on(connect::all(config))?),
        _ => None,
    };
    let connect = tries.as_deref();
    if args.json {
        out.json(&Answer { config, good: loaded.is_ok(), faults, warnings, connect })?;
    } else {
        match &loaded {
            Ok(Loaded { config: good, .. }) => {
                out.line(format!("{config} is good"))?;
                summary(good, out)?;
            }
            Err(_) => out.line(format!("{config} has {}", counted(faults.len())))?,
        }
        show("fault", faults, out)?;
        show("warning", warnings, out)?;
        show_tries(connect.unwrap_or_default(), out)?;
    }
    let failed = |tries: &[Try]| tries.iter().any(|one| one.verdict == Verdict::Failed);
    Ok(match loaded {
        Err(_) => Exit::Config,
        Ok(_) if connect.is_some_and(failed) => Exit::Connect,
        Ok(_) => Exit::Ok,
    })
}

fn show_tries(tries: &[Try], out: &mut Output) -> anyhow::Result<()> {
    if !tries.is_empty() {
        out.line("")?;
    }
    for Try { what, verdict, message } in tries {
        out.line(format!("{:7}  {what}: {message}", verdict.word()))?;
    }
    Ok(())
}

/// `1 fault`, `2 faults`.
pub(super) fn counted(faults: usize) -> String {
    if faults == 1 { "1 fault".to_owned() } else { format!("{faults} faults") }
}

fn show(what: &str, faults: &[Fault], out: &mut Output) -> anyhow::Result<()> {
    for Fault { key, problem, remedy } in faults {
        out.line("")?;
        out.line(format!("{what}: {key}"))?;
        out.line(format!("  problem: {problem}"))?;
        out.line(format!("  remedy:  {remedy}"))?;
    }
    Ok(())
}

fn summary(config: &Config, out: &mut Output) -> anyhow::Result<()> {
    for entity in &config.entities {
        out.line(format!("  entity {}: {}", entity.name, entity_line(config, entity)))?;
        out.line(format!("    {}", super::fit::line(config, entity)))?;
    }
    let kafka = &config.kafka;
    out.line(format!("  kafka: {}", kafka.brokers))?;
    let topics: Vec<_> = Topic::ALL.iter().map(|topic| kafka.topic(*topic)).collect();
    out.line(format!("  topics: {}", topics.join(", ")))?;
    let archive = config.archive.as_ref().map_or_else(
        || "none (archive.enabled = false)".to_owned(),
        |archive| {
            format!(
                "{} in {}, {} {}",
                archive.name,
                store(&archive.store),
                lock(archive.lock_mode),
                show_duration(archive.retention)
            )
        },
    );
    out.line(format!("  archive: {archive}"))?;
    out.line(format!("  state: {}", config.state.dir.display()))?;
    let listen = config.admin.listen.map_or_else(
        || "off".to_owned(),
        |address| format!("http://{address}/livez, /readyz, /metrics"),
    );
    out.line(format!("  admin: {listen}"))?;
    Ok(())
}

fn entity_line(config: &Config, entity: &EntitySettings) -> String {
    let kind = match entity.kind {
        EntityKind::Enterprise => "enterprise",
        EntityKind::Organization => "organization",
    };
    let address = config.servers.get(&entity.server).map_or("", |server| server.base_url.as_str());
    let lanes: Vec<_> = entity
        .lanes
        .iter()
        .map(|lane| {
            format!("{} (kept {})", lane.lane, lane.retention.map_or("unlimited".to_owned(), shown))
        })
        .collect();
    let from = match entity.credentials.as_slice() {
        [own] if own.id == CredentialId::of_entity(&entity.name) => {
            format!("token from {}", own.secret())
        }
        several => {
            let each: Vec<_> =
                several.iter().map(|it| format!("{} ({})", it.id, it.access)).collect();
            format!("credentials {}", each.join(", "))
        }
    };
    format!("{kind} {} at {address}, lanes {}, {from}", entity.slug, lanes.join(", "))
}

fn shown(retention: Duration) -> String {
    show_duration(retention)
}

fn store(store: &StoreSettings) -> String {
    match store {
        StoreSettings::Dir { path, .. } => format!("folder {}", path.display()),
        StoreSettings::S3 { bucket, prefix, endpoint, .. } => {
            let server =
                endpoint.as_ref().map_or(String::new(), |endpoint| format!(" at {endpoint}"));
            format!("s3://{bucket}/{prefix}{server}")
        }
    }
}

fn lock(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "locked (governance) for",
        LockMode::Compliance => "locked (compliance) for",
        LockMode::None => "not locked, kept for",
    }
}
