//! What a rebuild found and did: for people, as JSON, and as the statement on the operations topic.

use super::super::control::{actor, operation_id};
use super::super::{Output, OutputError};
use crate::archive::StoreSettings;
use crate::audit::operation::{Statement, TooLarge, VERSION};
use crate::audit::{OperationRecord, Record};
use crate::config::Config;
use crate::pipeline::rebuild::{Done, EntityPlan, LanePlan, Progress, Survey, WHAT};
use crate::time::{rfc3339_ms, rfc3339_s};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Requests of an hour that GitHub gives a credential.
const REQUESTS_AN_HOUR: u64 = 1_750;
/// Most spans of lost numbers that are shown to people.
const SPANS_SHOWN: usize = 5;
/// Most problems in the statement.
const PROBLEMS_STATED: usize = 20;
/// Most entities in it: a record of that topic has at most 1 MiB.
const ENTITIES_STATED: usize = 1_000;
/// Log lines off a terminal come this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Everything that there is to say.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    executed: bool,
    archives: Vec<String>,
    segments: u64,
    bytes: u64,
    records: u64,
    other_records: u64,
    torn: u64,
    entities: Vec<EntityPlan>,
    fingerprints: u64,
    requests: u64,
    problems: Vec<String>,
    problems_not_shown: u64,
    notes: Vec<String>,
    /// The new installation.
    instance: Option<String>,
    #[serde(skip)]
    archive_key: &'static str,
}

impl Report {
    pub(super) fn new(
        survey: &Survey,
        plans: &[EntityPlan],
        config: &Config,
        notes: Vec<String>,
    ) -> Self {
        let (problems, problems_not_shown) = survey.problems();
        let lanes = || plans.iter().flat_map(|plan| plan.lanes.values());
        let is_dir = config
            .archive
            .as_ref()
            .is_none_or(|archive| matches!(archive.store, StoreSettings::Dir { .. }));
        Self {
            executed: false,
            archives: survey.archives.clone(),
            segments: survey.segments,
            bytes: survey.bytes,
            records: survey.records,
            other_records: survey.other_records,
            torn: survey.torn,
            entities: plans.to_vec(),
            fingerprints: plans.iter().map(|plan| plan.fingerprints).sum(),
            requests: lanes().map(|lane| lane.requests).sum(),
            problems: problems.iter().map(ToString::to_string).collect(),
            problems_not_shown,
            notes,
            instance: None,
            archive_key: if is_dir { "archive.path" } else { "archive.prefix" },
        }
    }

    /// It was done.
    pub(super) fn done(&mut self, done: Done) {
        self.executed = true;
        self.instance = Some(done.genesis.instance);
    }

    pub(super) fn print(&self, json: bool, out: &mut Output) -> Result<(), OutputError> {
        if json {
            return out.json(self);
        }
        out.line(format!(
            "read: {} ({} segments, {}, {} records)",
            self.archives.join(", "),
            self.segments,
            HumanBytes(self.bytes),
            self.records
        ))?;
        out.table(
            &["ENTITY", "LANE", "ENTRIES", "OLDEST", "NEWEST", "SHOWN AGAIN", "REQUESTS"],
            &self.entities.iter().flat_map(rows).collect::<Vec<_>>(),
        )?;
        self.entities.iter().try_for_each(|plan| entity(plan, out))?;
        if self.torn > 0 {
            let torn = self.torn;
            out.line(format!(
                "{torn} large entries end in pieces that were not archived any more: they count as not collected"
            ))?;
        }
        for problem in &self.problems {
            out.line(format!("problem: {problem}"))?;
        }
        if self.problems_not_shown > 0 {
            out.line(format!("problem: and {} more", self.problems_not_shown))?;
        }
        for note in &self.notes {
            out.line(format!("note: {note}"))?;
        }
        if self.executed { self.next_steps(out) } else { self.cost(out) }
    }

    fn cost(&self, out: &mut Output) -> Result<(), OutputError> {
        let hours = self.requests.div_ceil(REQUESTS_AN_HOUR);
        out.line(format!(
            "it would write {} fingerprints; reading again then costs about {} requests, {hours} h of one credential, the \
             sweeps not counted",
            self.fingerprints, self.requests
        ))?;
        out.line("nothing was written: add --execute to do it")
    }

    fn next_steps(&self, out: &mut Output) -> Result<(), OutputError> {
        let instance = self.instance.as_deref().unwrap_or_default();
        let (places, key) = (self.archives.join(", "), self.archive_key);
        out.line(format!("rebuilt: installation {instance}, {} fingerprints", self.fingerprints))?;
        out.line("now:")?;
        out.line(format!(
            "  1. set {key} to a new, empty place: the new cluster's offsets begin at 0, and what is archived of the old \
             one is never written again ({places} stays as it is)"
        ))?;
        out.line("  2. start the daemon: `ghauditd run`; what GitHub shows again is dropped")?;
        out.line(format!(
            "  3. write down that the archive now has two parts: another rebuild has to name all of them behind \
             --from-archive, the oldest first ({places}, then the new one)"
        ))
    }

    /// The record of what was done, once that is known.
    pub(super) fn statement(
        &self,
        reason: Option<String>,
        now_ms: i64,
    ) -> impl FnOnce(u64) -> Result<Record, TooLarge> + use<> {
        let entity = |plan: &EntityPlan| {
            json!({
                "entity": plan.entity,
                "sequence": plan.sequence,
                "goes_on_after": plan.goes_on_after,
                "missing": plan.missing,
                "proven_s": plan.proven_s,
                "fingerprints": plan.fingerprints,
            })
        };
        let details = json!({
            "archives": self.archives,
            "segments": self.segments,
            "records": self.records,
            "problems": self.problems.iter().take(PROBLEMS_STATED).collect::<Vec<_>>(),
            "entities": self.entities.iter().take(ENTITIES_STATED).map(entity).collect::<Vec<_>>(),
        });
        let statement = Statement {
            version: VERSION,
            id: operation_id(),
            entity: None,
            by: actor(),
            at_ms: now_ms,
            reason,
            what: WHAT.to_owned(),
            details,
        };
        move |filed| {
            let mut statement = statement;
            if let Some(details) = statement.details.as_object_mut() {
                details.insert("filed".to_owned(), filed.into());
            }
            OperationRecord::Statement(statement).to_record()
        }
    }
}

fn rows(plan: &EntityPlan) -> Vec<Vec<String>> {
    let time = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), rfc3339_ms);
    let row = |(lane, found): (&crate::audit::Lane, &LanePlan)| {
        vec![
            plan.entity.to_string(),
            lane.to_string(),
            found.entries.to_string(),
            time(found.oldest_ms),
            time(found.newest_ms),
            found.shown_again.to_string(),
            found.requests.to_string(),
        ]
    };
    plan.lanes.iter().map(row).collect()
}

fn entity(plan: &EntityPlan, out: &mut Output) -> Result<(), OutputError> {
    out.line(format!(
        "entity {}: sequence {}, goes on after {}; {} of {} entries are still needed as fingerprints",
        plan.entity,
        plan.sequence,
        plan.goes_on_after,
        plan.fingerprints,
        plan.lanes.values().map(|lane| lane.entries).sum::<u64>()
    ))?;
    match plan.proven_s {
        Some(proven_s) => out.line(format!(
            "  the archive holds every commit up to {}: from there on it begins anew, with nothing collected",
            rfc3339_s(proven_s)
        ))?,
        None => out.line("  the archive lacks the beginning of its sequence: nothing is proven, all is read again")?,
    }
    if plan.missing > 0 {
        let shown = plan.lost.iter().take(SPANS_SHOWN).map(|span| match span {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first} to {last}"),
        });
        out.line(format!(
            "  {} numbers below {} are not in the archive ({}{}): what they were given to is collected again under \
             other numbers, as far as GitHub has it",
            plan.missing,
            plan.sequence,
            shown.collect::<Vec<_>>().join(", "),
            if plan.lost.len() > SPANS_SHOWN { ", ..." } else { "" }
        ))?;
    }
    if plan.doubled > 0 {
        let doubled = plan.doubled;
        out.line(format!("  {doubled} numbers are in the archive more than once"))?;
    }
    Ok(())
}

/// How far it is: a bar on a terminal, a line in the log now and then elsewhere.
pub(super) struct View {
    bar: Option<ProgressBar>,
    last: Instant,
}

impl View {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg:24} {bar:30.cyan/blue} {pos}/{len} segments {eta}",
            );
            let bar = ProgressBar::new(1);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, last: Instant::now() }
    }

    pub(super) fn show(&mut self, at: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(at.of);
            bar.set_position(at.segments);
            bar.set_message(format!("{}: {}", at.doing, HumanCount(at.count)));
        } else if self.last.elapsed() >= PLAIN_EVERY {
            self.last = Instant::now();
            tracing::info!(segments = at.segments, of = at.of, count = at.count, "{}", at.doing);
        }
    }

    /// Takes the bar away: what comes next is the answer.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
