//! `ghauditd replay`: sends again what Kafka still holds, into a topic that is not live.

mod args;
mod show;
mod view;

pub(super) use args::ReplayArgs;

use super::{Exit, Global, Output, OutputError, control};
use crate::audit::replay::{Filter, Plan, ReplayId, Span};
use crate::audit::{EntityName, SavedName, Topic};
use crate::config::Config;
use crate::kafka::consumer::{ReadError, TopicReader};
use crate::kafka::producer::OpenError;
use crate::kafka::restore::{RestoreError, Restored, read_checkpoints};
use crate::kafka::settings::Settings;
use crate::kafka::target::{self, Load, NewTarget, Target, TargetError};
use crate::metrics::Metrics;
use crate::pipeline::replay::scan::{self, Begin, Counted, Places};
use crate::pipeline::replay::{self, Job, Outcome, ReplayError};
use crate::supervisor::StopSignals;
use crate::time::wall_ms;
use show::{Preview, Report};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use view::View;

/// Why a replay ended before it had an answer.
enum Stop {
    /// The user is told, and the process ends so.
    Told(Exit, String),
    /// Nothing can be told.
    Other(anyhow::Error),
}

impl From<OutputError> for Stop {
    fn from(error: OutputError) -> Self {
        Self::Other(error.into())
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Told(exit_of_read(&error), error.to_string())
    }
}

impl From<ReplayError> for Stop {
    fn from(error: ReplayError) -> Self {
        let exit = match &error {
            ReplayError::Open(OpenError::Unreachable { .. })
            | ReplayError::Lost(_)
            | ReplayError::Stopping => Exit::Unexpected,
            ReplayError::Read(error) => exit_of_read(error),
            ReplayError::Open(OpenError::Refused { .. })
            | ReplayError::Operations { .. }
            | ReplayError::Exists(_)
            | ReplayError::Ended { .. }
            | ReplayError::ProgressGone { .. }
            | ReplayError::TooLarge(_)
            | ReplayError::Content(_) => Exit::Refused,
            ReplayError::Unknown(..) => Exit::NotFound,
            ReplayError::Filter(_) => Exit::Usage,
            ReplayError::Fenced { .. } => Exit::Fenced,
        };
        Self::Told(exit, error.to_string())
    }
}

impl From<TargetError> for Stop {
    fn from(error: TargetError) -> Self {
        let exit = match &error {
            TargetError::Unreachable(_) => Exit::Unexpected,
            TargetError::Read(error) => exit_of_read(error),
            TargetError::Refused(_) => Exit::Refused,
        };
        Self::Told(exit, error.to_string())
    }
}

impl From<RestoreError> for Stop {
    fn from(error: RestoreError) -> Self {
        let exit = match &error {
            RestoreError::Read(error) => exit_of_read(error),
            _ => Exit::Refused,
        };
        Self::Told(exit, format!("checkpoints cannot be read: {error}"))
    }
}

fn exit_of_read(error: &ReadError) -> Exit {
    match error {
        ReadError::NoTopic { .. } | ReadError::NoPartition { .. } => Exit::NotFound,
        ReadError::Unreachable { .. } | ReadError::OutOfRange { .. } => Exit::Unexpected,
        ReadError::Client { .. } | ReadError::Refused { .. } => Exit::Refused,
    }
}

fn told<T>(exit: Exit, message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Told(exit, message.into()))
}

pub(super) fn run(args: &ReplayArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    let config = loaded.config;
    let done = super::block_on(async {
        match &args.resume {
            Some(id) => resume(args, &config, id, out).await,
            None => fresh(args, &config, out).await,
        }
    })?;
    match done {
        Ok(exit) => Ok(exit),
        Err(Stop::Told(exit, message)) => {
            out.complain(message);
            Ok(exit)
        }
        Err(Stop::Other(error)) => Err(error),
    }
}

/// A replay that has not begun.
async fn fresh(args: &ReplayArgs, config: &Config, out: &mut Output) -> Result<Exit, Stop> {
    let settings = Arc::new(config.kafka.clone());
    let mut filter = args.filter(wall_ms()).or_else(|message| told(Exit::Usage, message))?;
    let to_topic = args.to_topic.clone().unwrap_or_default();
    refuse_live(&settings, &to_topic)?;
    let restored = read_checkpoints(Arc::clone(&settings)).await?;
    refuse_listed(&restored, &to_topic)?;
    refuse_unknown_entity(config, &restored, &filter)?;
    if let Some(name) = &args.since_checkpoint {
        filter.after_seq = Some(saved_sequence(&restored, &filter, name)?);
    }
    let found = target::find(Arc::clone(&settings), &to_topic).await?;
    if found.is_none() && !args.create_topic {
        let message = format!(
            "topic {to_topic} does not exist, or must not be seen: check its name, or let it be created with --create-topic"
        );
        return told(Exit::NotFound, message);
    }
    let (topics, with_dead_letters) = args.topics(&settings);
    let places = look_up(&settings, topics, &filter).await?;
    let plan = Plan { to_topic, filter, spans: places.spans };
    if plan.spans.is_empty() {
        show::print_gone(&places.gone, out)?;
        return told(Exit::NotFound, nothing_fits(&plan.filter));
    }
    if !args.execute {
        let dead_letters =
            if with_dead_letters { 0 } else { dead_letters(&settings, &plan).await? };
        let counted = count(&settings, &plan).await?;
        let shown = Shown { id: None, plan: &plan, gone: &places.gone, dead_letters };
        return preview(args, &shown, &counted, found.as_ref(), out);
    }
    let id = match &args.replay_id {
        Some(id) => id.clone(),
        None => new_id(),
    };
    if replay::history(Arc::clone(&settings), &id, false).await?.begun.is_some() {
        return Err(ReplayError::Exists(id).into());
    }
    let oldest_ms = places.oldest_ms;
    let load = Load { largest_bytes: None, oldest_ms, now_ms: wall_ms() };
    make_ready(args, &settings, &plan.to_topic, found.as_ref(), load, out).await?;
    execute(args, settings, id, plan, out).await
}

/// A replay that was interrupted.
async fn resume(
    args: &ReplayArgs,
    config: &Config,
    id: &ReplayId,
    out: &mut Output,
) -> Result<Exit, Stop> {
    let settings = Arc::new(config.kafka.clone());
    let history = replay::history(Arc::clone(&settings), id, false).await?;
    let Some((mut plan, ..)) = history.begun else {
        let topic = settings.topic(Topic::Operations).to_owned();
        return Err(ReplayError::Unknown(id.clone(), topic).into());
    };
    if let Some((sent, _)) = history.ended {
        return Err(ReplayError::Ended { id: id.clone(), sent }.into());
    }
    refuse_live(&settings, &plan.to_topic)?;
    let Some(found) = target::find(Arc::clone(&settings), &plan.to_topic).await? else {
        let message = format!(
            "topic {} does not exist any more: what replay {id} had sent is gone with it. Begin a new one",
            plan.to_topic
        );
        return told(Exit::NotFound, message);
    };
    if args.execute {
        return execute(args, settings, id.clone(), plan, out).await;
    }
    let positions = replay::positions(Arc::clone(&settings), id, &plan).await?;
    plan.spans = positions.into_iter().map(|it| Span { from: it.next, ..it.span }).collect();
    let counted = count(&settings, &plan).await?;
    let shown = Shown { id: Some(id), plan: &plan, gone: &[], dead_letters: 0 };
    // its own records are there already, which is as it should be
    let mut found = found;
    found.holds.replays.remove(id.as_str());
    preview(args, &shown, &counted, Some(&found), out)
}

/// Refuses a topic of this installation, under whatever name it goes, and Kafka's own.
fn refuse_live(settings: &Settings, to_topic: &str) -> Result<(), Stop> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if to_topic.is_empty() || to_topic.len() > 249 || !to_topic.chars().all(is_safe) {
        return told(Exit::Usage, format!("--to-topic: {to_topic:?} is no name of a topic"));
    }
    if to_topic.starts_with("__") {
        return told(Exit::Refused, format!("topic {to_topic} is Kafka's own: choose another"));
    }
    let is_ours = Topic::ALL.into_iter().any(|topic| settings.topic(topic) == to_topic);
    if is_ours { told(Exit::Refused, live(to_topic)) } else { Ok(()) }
}

/// The same for topics that this installation began with, should the configuration name others now.
fn refuse_listed(restored: &Restored, to_topic: &str) -> Result<(), Stop> {
    let genesis = restored.genesis.as_ref();
    let is_listed = genesis.is_some_and(|genesis| genesis.topics.contains_key(to_topic));
    if is_listed { told(Exit::Refused, live(to_topic)) } else { Ok(()) }
}

fn live(to_topic: &str) -> String {
    format!(
        "topic {to_topic} is live, it belongs to this installation: its consumers and the archive would see entries twice. Choose another topic"
    )
}

fn refuse_unknown_entity(
    config: &Config,
    restored: &Restored,
    filter: &Filter,
) -> Result<(), Stop> {
    let Some(wanted) = filter.entity.as_deref() else { return Ok(()) };
    let configured = config.entities.iter().map(|entity| entity.name.as_str());
    let saved = restored.checkpoints.keys().map(EntityName::as_str);
    let known: std::collections::BTreeSet<&str> = configured.chain(saved).collect();
    if known.contains(wanted) {
        return Ok(());
    }
    let names: Vec<&str> = known.into_iter().collect();
    let message = format!(
        "entity {wanted:?} is neither in the configuration nor in the checkpoints; there are: {}",
        names.join(", ")
    );
    told(Exit::NotFound, message)
}

/// The sequence that a saved checkpoint of the filter's entity had reached.
fn saved_sequence(restored: &Restored, filter: &Filter, name: &SavedName) -> Result<u64, Stop> {
    let entity = filter.entity.clone().unwrap_or_default();
    let found = EntityName::try_from(entity.clone()).ok();
    let copies = found.and_then(|entity| restored.saved.get(&entity));
    if let Some(saved) = copies.and_then(|copies| copies.get(name)) {
        return Ok(saved.checkpoint.sequence);
    }
    told(
        Exit::NotFound,
        format!(
            "entity {entity:?} has no checkpoint saved as {name}: see `ghauditd checkpoint list`"
        ),
    )
}

/// Something to sort by, and enough chance that two of the same second differ.
fn new_id() -> ReplayId {
    let time = jiff::Timestamp::from_millisecond(wall_ms()).unwrap_or_default();
    let text = format!("{}-{:04x}", time.strftime("%Y%m%d-%H%M%S"), rand::random::<u16>());
    // digits and dashes: always an id
    ReplayId::try_from(text).unwrap_or_else(|_| new_id())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Stop> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Stop::Other(error.into()))??)
}

async fn look_up(
    settings: &Arc<Settings>,
    topics: Vec<String>,
    filter: &Filter,
) -> Result<Places, Stop> {
    let (settings, filter) = (Arc::clone(settings), filter.clone());
    blocking(move || scan::places(&TopicReader::new(&settings)?, &topics, &filter)).await
}

/// Reads all of it.
async fn count(settings: &Arc<Settings>, plan: &Plan) -> Result<Counted, Stop> {
    let (settings, plan) = (Arc::clone(settings), plan.clone());
    let selection = plan.filter.compile().or_else(|message| told(Exit::Usage, message))?;
    let all = plan.spans.iter().map(Span::offsets).sum();
    let counted = blocking(move || {
        let mut view = View::new("counting", all);
        scan::count(&TopicReader::new(&settings)?, &plan, &selection, |done| {
            view.show(done, all, None);
            true
        })
    });
    Ok(counted.await?.unwrap_or_default())
}

/// How many records of the dead-letter topic fit.
async fn dead_letters(settings: &Arc<Settings>, plan: &Plan) -> Result<u64, Stop> {
    let topics = vec![settings.topic(Topic::DeadLetter).to_owned()];
    let spans = look_up(settings, topics, &plan.filter).await?.spans;
    let plan = Plan { spans, ..plan.clone() };
    Ok(count(settings, &plan).await?.total().records)
}

struct Shown<'a> {
    id: Option<&'a ReplayId>,
    plan: &'a Plan,
    gone: &'a [Begin],
    dead_letters: u64,
}

/// The end of a dry run.
fn preview(
    args: &ReplayArgs,
    shown: &Shown<'_>,
    counted: &Counted,
    found: Option<&Target>,
    out: &mut Output,
) -> Result<Exit, Stop> {
    let mut preview = Preview::new(shown.plan, counted, args.rate, shown.gone);
    preview.replay = shown.id;
    preview.dead_letters_not_sent = shown.dead_letters;
    if let Some(target) = found {
        let largest_bytes = Some(counted.largest_bytes);
        let load = Load { largest_bytes, oldest_ms: counted.oldest_ms, now_ms: wall_ms() };
        (preview.problems, preview.warnings) = target::judge(target, load);
    }
    if args.json {
        out.json(&preview)?;
    } else {
        preview.print(args.rate, out)?;
        match found {
            Some(target) => {
                out.line(format!("topic {}: {} partitions", target.name, target.partitions))?;
            }
            None => out.line(format!("topic {} would be created", shown.plan.to_topic))?,
        }
        for warning in &preview.warnings {
            out.line(format!("warning: {warning}"))?;
        }
        out.line("nothing was sent: that needs --execute")?;
    }
    if !preview.problems.is_empty() {
        return told(Exit::Refused, preview.problems.join("; "));
    }
    // a replay that has begun may have sent everything but its end
    if preview.records == 0 && shown.id.is_none() {
        return told(Exit::NotFound, nothing_fits(&shown.plan.filter));
    }
    Ok(Exit::Ok)
}

/// The topic is there and may be written to.
async fn make_ready(
    args: &ReplayArgs,
    settings: &Settings,
    to_topic: &str,
    found: Option<&Target>,
    load: Load,
    out: &mut Output,
) -> Result<(), Stop> {
    if let Some(target) = found {
        let (problems, warnings) = target::judge(target, load);
        if !problems.is_empty() {
            return told(Exit::Refused, problems.join("; "));
        }
        for warning in warnings {
            out.complain(format!("warning: {warning}"));
        }
        return Ok(());
    }
    let new = NewTarget {
        partitions: args.partitions.unwrap_or(settings.data_partitions),
        replication: args.replication,
        retention: Some(args.retention),
    };
    target::create(settings, to_topic, &new).await?;
    out.complain(format!("topic {to_topic} was created, {} partitions", new.partitions));
    Ok(())
}

async fn execute(
    args: &ReplayArgs,
    settings: Arc<Settings>,
    id: ReplayId,
    plan: Plan,
    out: &mut Output,
) -> Result<Exit, Stop> {
    out.complain(format!(
        "replay {id} to topic {}: {}; after an interruption: ghauditd replay --resume {id} --execute",
        plan.to_topic,
        show::asked(&plan.filter)
    ));
    let job = Job {
        settings,
        metrics: Arc::new(Metrics::default()),
        id,
        plan,
        rate: args.rate,
        by: control::actor(),
        reason: args.reason.clone(),
        resume: args.resume.is_some(),
    };
    let outcome = send(&job).await?;
    let report = Report::new(&job.id, &job.plan.to_topic, &outcome);
    if args.json {
        out.json(&report)?;
    } else {
        report.print(out)?;
    }
    Ok(match outcome {
        Outcome { ended: false, .. } => Exit::Unexpected,
        Outcome { sent, .. } if sent.records == 0 => Exit::NotFound,
        Outcome { .. } => Exit::Ok,
    })
}

/// Sends until all is sent or a signal comes.
async fn send(job: &Job) -> Result<Outcome, Stop> {
    let mut signals = StopSignals::new().map_err(|error| Stop::Other(error.into()))?;
    let stop = CancellationToken::new();
    let mut view = View::new("sending", job.plan.spans.iter().map(Span::offsets).sum());
    let work = replay::run(job, &stop, |seen| {
        view.show(seen.offsets_done, seen.offsets_all, Some(seen.sent.records));
    });
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome.map_err(|error| interrupted(error, &job.id)),
            name = signals.next() => {
                if stop.is_cancelled() {
                    // nothing is half committed: what is on its way is aborted or done
                    return told(Exit::Unexpected, format!("{name} again: ended at once; {}", go_on(&job.id)));
                }
                stop.cancel();
            }
        }
    }
}

/// Where trying again may help, what to type.
fn interrupted(error: ReplayError, id: &ReplayId) -> Stop {
    let has_place =
        matches!(error, ReplayError::Content(_) | ReplayError::Lost(_) | ReplayError::Read(_));
    match Stop::from(error) {
        Stop::Told(exit, message) if has_place => {
            Stop::Told(exit, format!("{message}; then {}", go_on(id)))
        }
        other => other,
    }
}

fn nothing_fits(filter: &Filter) -> String {
    format!("nothing in Kafka fits: {}", show::asked(filter))
}

fn go_on(id: &ReplayId) -> String {
    format!("go on with: ghauditd replay --resume {id} --execute")
}
