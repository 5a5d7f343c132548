//! `ghauditd reconcile`: did we miss anything?

mod collect;

use super::times::{When, parse_when};
use super::{Exit, Global, Output, OutputError};
use crate::archive::{AnyStore, StoreError};
use crate::audit::Lane;
use crate::config::Config;
use crate::config::units::{parse_duration, show_duration};
use crate::github::client::Client;
use crate::github::{EntitySettings, LaneSettings};
use crate::metrics::Metrics;
use crate::pipeline::reconcile::{
    Against, ArchiveSideError, Compared, KafkaSideError, Maker, Question, ReconcileError,
    Reconciliation, Sides, Statement, Step, Tell, Verdict,
};
use crate::time::{rfc3339_s, wall_ms};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LONG_ABOUT: &str = "\
Answer \"did we miss anything?\": compare GitHub's list of a range of time with what is in Kafka, or in the archive, id by \
id and body by body.

GitHub is asked for the whole list again: one request for 100 entries, out of the budget that the daemon lives on. Half \
of what is left of each hour is left to it (--reserve). Nothing is written but the statement: its summary as a record on \
the operations topic, and the whole of it as text and JSON where --statement says.

With --collect the daemon is asked to read again what is missing; then it is compared once more.

Only time that has been read and has settled is judged, and only as far back as GitHub keeps it (180 days; Git events 7): \
the statement says what could be compared and what could not.";

const EXAMPLES: &str = "\
Examples:
  ghauditd reconcile --entity acme --from 2026-10 --to 2026-10      did we miss anything in October?
  ghauditd reconcile --entity acme --from 3d --to 1h --collect      and get what is missing
  ghauditd reconcile --entity acme --from 2026-10-01 --to 2026-10-31 \\
      --against archive --statement october

Exit code 0: nothing is missing of what could be compared. 9: something is missing, changed or doubled, or a loss is \
recorded. 8: nothing could be compared.";

/// Compare GitHub's list with ours: did we miss anything?
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct ReconcileArgs {
    /// Name of the entity in the configuration
    #[arg(long, value_name = "NAME")]
    entity: String,
    /// Where the range begins: a time (2026-10-01T00:00:00Z), a day (2026-10-01), a month (2026-10), or how long ago (3d)
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    from: When,
    /// Where it ends: a time is not included; a day or a month is included whole
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    to: When,
    /// One lane; without it all lanes of the entity
    #[arg(long, value_enum, value_name = "LANE")]
    lane: Option<LaneArg>,
    /// What GitHub's list is compared with; without it Kafka if it still has the range, else the archive
    #[arg(long, value_enum, value_name = "SIDE")]
    against: Option<AgainstArg>,
    /// Requests of each hour's limit that are left to the daemon; without it half of what is left
    #[arg(long, value_name = "REQUESTS")]
    reserve: Option<u64>,
    /// Have the daemon read again what is missing, and compare once more
    #[arg(long)]
    collect: bool,
    /// How long that is waited for
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "15m")]
    #[arg(requires = "collect")]
    wait: Duration,
    /// Write the statement to FILE.txt and FILE.json
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    /// Folder for lists that are too long for memory (about 90 bytes an entry); without it the system's
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Why it is asked, in your words: goes on record with the statement
    #[arg(long, value_name = "TEXT", value_parser = super::control::parse_reason)]
    reason: Option<String>,
    /// Do not put the statement on record in the operations topic: nothing is written to Kafka then
    #[arg(long, conflicts_with_all = ["reason", "collect"])]
    no_record: bool,
    /// Answer as JSON: the whole statement
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LaneArg {
    /// All but Git events
    Web,
    /// Git events
    Git,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AgainstArg {
    /// The topics
    Kafka,
    /// The segments in write-once storage
    Archive,
}

pub(super) fn run(args: &ReconcileArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    let config = loaded.config;
    let question = match question(args, &config, wall_ms()) {
        Ok(question) => question,
        Err((exit, message)) => {
            out.complain(message);
            return Ok(exit);
        }
    };
    // before hours of reading, not behind them; one that is there already is evidence of its own
    let files = match args.statement.as_deref().map(Files::create).transpose() {
        Ok(files) => files,
        Err((path, error)) => {
            let path = path.display();
            out.complain(match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{path} is there already: choose another name for --statement")
                }
                _ => format!("the statement cannot be written to {path} ({error}): choose another --statement"),
            });
            return Ok(Exit::Usage);
        }
    };
    super::block_on(reconcile(args, &config, question, files, out))?
}

/// Where the statement goes. Removed again where there is none.
struct Files {
    text: (PathBuf, File),
    json: (PathBuf, File),
    is_written: bool,
}

impl Files {
    fn create(path: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let file = |end: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            let path = PathBuf::from(name);
            // ids and actions are nobody else's business
            match OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path) {
                Ok(file) => Ok((path, file)),
                Err(error) => Err((path, error)),
            }
        };
        let text = file(".txt")?;
        let json = file(".json").inspect_err(|_| drop(std::fs::remove_file(&text.0)))?;
        Ok(Self { text, json, is_written: false })
    }

    fn write(
        &mut self,
        statement: &Statement,
        run: &Reconciliation<'_, Client>,
        compared: &Compared,
    ) -> io::Result<()> {
        self.text.1.write_all(statement.text(run, compared).as_bytes())?;
        let mut json = BufWriter::new(&self.json.1);
        statement.write_json(run, compared, &mut json)?;
        json.flush()?;
        drop(json);
        self.text.1.sync_all()?;
        self.json.1.sync_all()?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.is_written {
            // made by us a moment ago; what cannot be removed is empty
            drop(std::fs::remove_file(&self.text.0));
            drop(std::fs::remove_file(&self.json.0));
        }
    }
}

/// What is asked, or why it cannot be.
fn question(
    args: &ReconcileArgs,
    config: &Config,
    now_ms: i64,
) -> Result<Question, (Exit, String)> {
    let entity = config.entities.iter().find(|entity| entity.name.as_str() == args.entity);
    let Some(entity) = entity else {
        let names: Vec<_> = config.entities.iter().map(|it| it.name.as_str()).collect();
        let message = format!(
            "entity {:?} is not in the configuration: it has {}",
            args.entity,
            names.join(", ")
        );
        return Err((Exit::NotFound, message));
    };
    let wanted = args.lane.map(|lane| match lane {
        LaneArg::Web => Lane::Web,
        LaneArg::Git => Lane::Git,
    });
    let lanes: Vec<LaneSettings> = entity
        .lanes
        .iter()
        .copied()
        // what GraphQL shows, REST shows too
        .filter(|settings| settings.lane != Lane::GraphQl)
        .filter(|settings| wanted.is_none_or(|wanted| wanted == settings.lane))
        .collect();
    if lanes.is_empty() {
        let message = format!("entity {} does not read that lane: see its `lanes`", entity.name);
        return Err((Exit::NotFound, message));
    }
    // GitHub's filter knows whole seconds
    let whole = |ms: i64| ms.div_euclid(1000).saturating_mul(1000);
    let (from_ms, to_ms) = (whole(args.from.start_ms(now_ms)), whole(args.to.end_ms(now_ms)));
    if from_ms >= to_ms {
        let [from, to] = [from_ms, to_ms].map(|ms| rfc3339_s(ms.div_euclid(1000)));
        let message = format!("the range is empty: --from is {from} and --to is {to}");
        return Err((Exit::Usage, message));
    }
    Ok(Question {
        entity: entity.clone(),
        from_ms,
        to_ms,
        lanes,
        against: args.against.map(|against| match against {
            AgainstArg::Kafka => Against::Kafka,
            AgainstArg::Archive => Against::Archive,
        }),
        reserve: args.reserve,
        work_dir: args.work_dir.clone().unwrap_or_else(std::env::temp_dir),
    })
}

async fn reconcile(
    args: &ReconcileArgs,
    config: &Config,
    question: Question,
    files: Option<Files>,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    let entity = question.entity.name.clone();
    let client = client(config, &question.entity)?;
    let archive = match &config.archive {
        Some(settings) => match AnyStore::open(settings).await {
            Ok(store) => Some(store),
            Err(error) => return Ok(store_failed(&error, out)),
        },
        None => None,
    };
    let sides = Sides {
        source: &client,
        kafka: Arc::new(config.kafka.clone()),
        archive: archive.as_ref(),
        collect: &config.collect,
        place: place(config, &question.entity),
    };
    let bar = Bar::new();
    let done = async {
        let (mut run, compared) = compared(sides, question, bar.tell(), config).await?;
        if !args.collect || compared.findings.wanting() == 0 {
            return Ok((run, compared, None));
        }
        let reason = args.reason.as_deref();
        let asked = collect::collect(&mut run, compared, config, &entity, reason, args.wait).await;
        asked.map(|(compared, collecting)| (run, compared, Some(collecting)))
    };
    let done = done.await;
    bar.clear();
    let (run, compared, collecting) = match done {
        Ok(done) => done,
        Err(error) => return Ok(failed(&error, out)),
    };
    let statement = run.statement(&compared, maker(), collecting);
    answer(args, files, (&statement, &run, &compared), out)?;
    let exit = match statement.verdict {
        Verdict::NothingMissing => Exit::Ok,
        Verdict::Different | Verdict::LossRecorded => Exit::Mismatch,
        Verdict::NothingCompared => Exit::NotFound,
    };
    if args.no_record {
        return Ok(exit);
    }
    let (kafka, details) = (Arc::new(config.kafka.clone()), statement.details());
    let reason = args.reason.clone();
    match super::control::state(kafka, "reconcile", Some(entity), reason, details).await {
        Ok(_) => Ok(exit),
        Err(error) => {
            out.complain(format!("the statement is not on record (--no-record): {error}"));
            // what was found weighs more
            Ok(if exit == Exit::Ok { Exit::Unexpected } else { exit })
        }
    }
}

/// The statement in its files, and on stdout.
fn answer(
    args: &ReconcileArgs,
    files: Option<Files>,
    (statement, run, compared): (&Statement, &Reconciliation<'_, Client>, &Compared),
    out: &mut Output,
) -> anyhow::Result<()> {
    if let Some(mut files) = files {
        files.write(statement, run, compared).with_context(|| {
            format!("the statement cannot be written to {}", files.text.0.display())
        })?;
    }
    if args.json {
        let written = statement.write_json(run, compared, &mut out.writer());
        written.map_err(OutputError::from)?;
    } else {
        out.bytes(statement.text(run, compared).as_bytes())?;
    }
    Ok(())
}

/// Gathers and compares; looks at our side once more before anything is called missing.
async fn compared<'a>(
    sides: Sides<'a, Client>,
    question: Question,
    tell: Tell,
    config: &Config,
) -> Result<(Reconciliation<'a, Client>, Compared), ReconcileError> {
    let mut run = Reconciliation::gather(sides, question, tell).await?;
    let compared = run.compare()?;
    if compared.findings.wanting() == 0 {
        return Ok((run, compared));
    }
    // what a sweep has just found is committed within this time
    run.look_again(config.collect.poll_interval_min.clamp(LOOK_AGAIN_MIN, LOOK_AGAIN_MAX)).await?;
    let compared = run.compare()?;
    Ok((run, compared))
}

const LOOK_AGAIN_MIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(15);

fn client(config: &Config, entity: &EntitySettings) -> anyhow::Result<Client> {
    let server = config.servers.get(&entity.server);
    let server =
        server.ok_or_else(|| anyhow::anyhow!("server {} is not configured", entity.server))?;
    Ok(Client::new(server, entity, Arc::new(Metrics::default()))?)
}

/// Where GitHub is asked: also the `ce_source` of the records.
fn place(config: &Config, entity: &EntitySettings) -> String {
    let base = config.servers.get(&entity.server).map_or("", |server| server.base_url.as_str());
    let base = base.trim_end_matches('/');
    format!("{base}/{}/{}", entity.kind.path_segment(), entity.slug)
}

fn maker() -> Maker {
    let actor = super::control::actor();
    Maker {
        user: actor.user,
        host: actor.host,
        pid: actor.pid,
        program: format!("ghauditd {}", env!("CARGO_PKG_VERSION")),
    }
}

fn failed(error: &ReconcileError, out: &mut Output) -> Exit {
    out.complain(error);
    match error {
        ReconcileError::Restore(error) if !error.is_retriable() => Exit::Refused,
        ReconcileError::NeverCollected(_)
        | ReconcileError::Expired { .. }
        | ReconcileError::KafkaGone(_)
        | ReconcileError::NoArchiveToo(_)
        | ReconcileError::NoArchive => Exit::NotFound,
        ReconcileError::Future { .. } => Exit::Usage,
        ReconcileError::Kafka(KafkaSideError::Read(error)) if !error.is_retriable() => {
            Exit::Refused
        }
        ReconcileError::Archive(
            ArchiveSideError::Store(StoreError::Refused { .. }) | ArchiveSideError::Damaged { .. },
        ) => Exit::Archive,
        _ => Exit::Unexpected,
    }
}

fn store_failed(error: &StoreError, out: &mut Output) -> Exit {
    out.complain(format!("archive: {error}"));
    match error {
        StoreError::Retry { .. } => Exit::Unexpected,
        StoreError::Refused { .. } => Exit::Archive,
    }
}

/// Progress on a terminal; nothing elsewhere but the waits, as log lines.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }

    fn tell(&self) -> Tell {
        let bar = self.0.clone();
        Arc::new(move |step| {
            if let Step::Waiting { reason, wait } = step
                && reason != "look_again"
            {
                tracing::info!(reason, wait_s = wait.as_secs(), "requests are used up, waiting");
            }
            bar.set_message(words(step));
            bar.tick();
        })
    }
}

fn words(step: Step<'_>) -> String {
    match step {
        Step::Listing { lane, entries, at_s, to_s } => {
            let [at, to] = [at_s, to_s].map(rfc3339_s);
            format!("GitHub's list: {entries} entries, lane {lane} at {at} of {to}")
        }
        Step::Waiting { reason: "look_again", wait } => {
            format!("looking again in {}", show_duration(wait))
        }
        Step::Waiting { reason, wait } => {
            format!("requests are used up ({reason}): waiting {}", show_duration(wait))
        }
        Step::Reading { topic, partition, at, to, .. } => {
            format!("Kafka: {topic}/{partition}, offset {at} of {to}")
        }
        Step::Archive { key, number, of } => format!("archive: {key} ({} of {of})", number + 1),
    }
}
