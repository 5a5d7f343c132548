//! `ghauditd checkpoint rebuild`: the state of a lost Kafka cluster, rebuilt from the archive into an empty one.

mod report;

use super::{Exit, Global, Output};
use crate::archive::{self, AnyStore, StoreError, StoreSettings};
use crate::audit::SeenLane;
use crate::config::Config;
use crate::kafka::ownership::StartError;
use crate::kafka::rebuild::{Standing, TargetError, look};
use crate::metrics::Metrics;
use crate::pipeline::rebuild::{self, Configured, EntityPlan, Order, RebuildError, Survey};
use crate::state;
use crate::time::{rfc3339_ms, wall_ms};
use clap::{Args, ValueEnum};
use report::{Report, View};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LONG_ABOUT: &str = "\
Rebuild the state that a lost Kafka cluster held, from the archive, into a new and empty cluster.

The archive is read whole. Each entity gets the fingerprints of what is archived, so that nothing is collected twice; a \
sequence that goes on far above every number that was ever given; and lanes that begin at the last commit that the \
archive proves, with nothing collected: GitHub is read again, and what is known is dropped. What was in Kafka and not \
yet archived is collected again, as far as GitHub still has it.

Without --execute nothing is written: what would be done is shown, and what it costs. A rebuild that was interrupted is \
run again; until it has ended, no daemon starts on that cluster.";

/// Rebuild the state from the archive after the loss of the Kafka cluster
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = "\
Examples:
  ghauditd checkpoint rebuild --from-archive                        what would be done
  ghauditd checkpoint rebuild --from-archive --execute
  ghauditd checkpoint rebuild --from-archive /srv/archive-2025 /srv/archive-2026 --execute --reason 'INC-4711'")]
pub(super) struct RebuildArgs {
    /// Read this archive: a folder, or in a bucket a prefix; several after one another, the oldest first. Without a
    /// value the one that the configuration names
    #[arg(long, value_name = "PLACE", num_args = 0.., required = true)]
    from_archive: Vec<String>,
    /// Do it
    #[arg(long)]
    execute: bool,
    /// Go on although something is not as it should be
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    accept: Vec<Accept>,
    /// Why, for the record on the operations topic
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

/// What an operator may know better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Accept {
    /// Parts of the archive are missing or damaged: entries in them that GitHub still has are collected a second time
    Holes,
    /// An entity is only in the archive and another only in the configuration: it is not the same under a new name
    Names,
}

/// Why the command ended.
enum Ended {
    Complaint(String, Exit),
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) fn run(args: &RebuildArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    let config = loaded.config;
    match super::block_on(work(args, &config, out))? {
        Ok(exit) => Ok(exit),
        Err(Ended::Complaint(message, exit)) => {
            out.complain(message);
            Ok(exit)
        }
        Err(Ended::Failed(error)) => Err(error),
    }
}

async fn work(args: &RebuildArgs, config: &Config, out: &mut Output) -> Result<Exit, Ended> {
    let archives = archives(config, &args.from_archive)?;
    let lock = state::Lock::take_where_there(&config.state).map_err(busy)?;
    let kafka = Arc::new(config.kafka.clone());
    let standing = look(&kafka).await.map_err(|error| target(&error))?;
    let now_ms = wall_ms();
    let configured = configured(config);
    let stores = open(&archives).await?;
    let mut view = View::new();
    let survey = rebuild::survey(&stores, &configured, now_ms, |at| view.show(at)).await;
    view.clear();
    let survey = survey.map_err(failed)?;
    let plans = rebuild::decide(&survey, &configured, now_ms);
    let mut report = Report::new(&survey, &plans, config, notes(&standing, &configured, &plans));
    let unaccepted = unaccepted(args, &survey, &plans, &configured);
    if !args.execute || !unaccepted.is_empty() {
        report.print(args.json, out)?;
        for message in &unaccepted {
            out.complain(message);
        }
        return Ok(if unaccepted.is_empty() { Exit::Ok } else { Exit::Archive });
    }
    let statement = report.statement(args.reason.clone(), now_ms);
    let metrics = Arc::new(Metrics::default());
    let (plans, configured) = (plans.as_slice(), &configured);
    let order = Order { survey, plans, configured, kafka, metrics, now_ms };
    let done = rebuild::execute(&stores, order, statement, |at| view.show(at)).await;
    view.clear();
    report.done(done.map_err(failed)?);
    report.print(args.json, out)?;
    drop(lock);
    Ok(Exit::Ok)
}

/// The archives that are read.
fn archives(config: &Config, places: &[String]) -> Result<Vec<archive::Settings>, Ended> {
    let Some(configured) = &config.archive else {
        let message = "the configuration names no archive (archive.enabled = false): name the store that the lost \
                       cluster was archived to in [archive]";
        return Err(Ended::Complaint(message.to_owned(), Exit::NotFound));
    };
    if places.is_empty() {
        return Ok(vec![configured.clone()]);
    }
    Ok(places.iter().map(|place| at(configured, place)).collect())
}

/// The same store with another folder or prefix.
fn at(configured: &archive::Settings, place: &str) -> archive::Settings {
    let mut settings = configured.clone();
    match &mut settings.store {
        StoreSettings::Dir { path, .. } => *path = PathBuf::from(place),
        StoreSettings::S3 { prefix, .. } => {
            let plain = place.trim_matches('/');
            *prefix = if plain.is_empty() { String::new() } else { format!("{plain}/") };
        }
    }
    settings
}

async fn open(archives: &[archive::Settings]) -> Result<Vec<AnyStore>, Ended> {
    let mut stores = Vec::with_capacity(archives.len());
    for settings in archives {
        let opened = AnyStore::open(settings).await;
        stores.push(opened.map_err(|error| failed(RebuildError::Store(error)))?);
    }
    Ok(stores)
}

/// What the configuration says, as the daemon would take it.
fn configured(config: &Config) -> Configured {
    // what the seen topics keep is GitHub's retention and a window
    let less = |kept: Duration, days: u64| kept.checked_sub(Duration::from_hours(24 * days));
    let rules = config.entities.iter().map(|entity| {
        let rules = |lane: &crate::github::LaneSettings| {
            (lane.lane, config.collect.rules(lane.lane, lane.retention))
        };
        (entity.name.clone(), entity.lanes.iter().map(rules).collect())
    });
    Configured {
        rules: rules.collect(),
        default: [
            (SeenLane::Web, less(config.kafka.seen_web_retention, 45)),
            (SeenLane::Git, less(config.kafka.seen_git_retention, 14)),
        ]
        .into(),
    }
}

fn notes(standing: &Standing, configured: &Configured, plans: &[EntityPlan]) -> Vec<String> {
    let mut notes = Vec::new();
    if let Standing::Unfinished(before) = standing {
        notes.push(format!(
            "a rebuild from {} (process {} on {}, begun {}) has not ended in this cluster: this one ends it",
            before.archives.join(", "),
            before.pid,
            before.host,
            rfc3339_ms(before.started_ms)
        ));
    }
    let (archived, new) = configured.strangers(plans);
    for name in archived {
        notes.push(format!(
            "entity {name} is in the archive and not in the configuration: its sequence and fingerprints are rebuilt, its \
             log is not read"
        ));
    }
    for name in new {
        notes.push(format!(
            "entity {name} is in the configuration and not in the archive: it begins as at a first run"
        ));
    }
    notes
}

/// What keeps it from going on, as long as it is not accepted.
fn unaccepted(
    args: &RebuildArgs,
    survey: &Survey,
    plans: &[EntityPlan],
    configured: &Configured,
) -> Vec<String> {
    let mut messages = Vec::new();
    let (problems, more) = survey.problems();
    if !problems.is_empty() && !args.accept.contains(&Accept::Holes) {
        let count = u64::try_from(problems.len()).unwrap_or(u64::MAX).saturating_add(more);
        messages.push(format!(
            "the archive has {count} missing or unusable parts (above): entries in them that GitHub still has would be \
             collected a second time. Repair the archive, or go on with --accept holes"
        ));
    }
    let (archived, new) = configured.strangers(plans);
    if let (Some(old), Some(new)) = (archived.first(), new.first())
        && !args.accept.contains(&Accept::Names)
    {
        messages.push(format!(
            "entity {old} is only in the archive and entity {new} only in the configuration: if that is one and the same, give it \
             its old name, or all of it is collected a second time; if not, go on with --accept names"
        ));
    }
    messages
}

fn busy(error: state::StateError) -> Ended {
    match error {
        state::StateError::Busy { .. } => Ended::Complaint(
            format!("a ghauditd is running on this host: stop it first: {error}"),
            Exit::Fenced,
        ),
        error => Ended::Complaint(error.to_string(), Exit::Unexpected),
    }
}

fn target(error: &TargetError) -> Ended {
    let exit = match error {
        error if error.is_retriable() => Exit::Unexpected,
        TargetError::Start(StartError::Claim { .. }) => Exit::Fenced,
        _ => Exit::Refused,
    };
    Ended::Complaint(error.to_string(), exit)
}

fn failed(error: RebuildError) -> Ended {
    let exit = match error {
        RebuildError::Target(error) => return target(&error),
        RebuildError::Empty { .. } => Exit::NotFound,
        RebuildError::Store(StoreError::Refused { .. })
        | RebuildError::Newer { .. }
        | RebuildError::Changed { .. } => Exit::Archive,
        RebuildError::Store(StoreError::Retry { .. })
        | RebuildError::Thread(_)
        | RebuildError::Statement(_) => Exit::Unexpected,
    };
    Ended::Complaint(error.to_string(), exit)
}
