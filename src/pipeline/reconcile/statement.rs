//! The statement: what was compared, what it came to, and what it rests on. As JSON; as text next door.
//!
//! Layout, version 1: one JSON object. The summary comes first; the lists `missing`, `revised`, `extra` and `doubled`,
//! which may be long, come last and whole.

use super::compare::{Counts, Fault, Notes};
use super::findings::Span;
use super::from_archive::SegmentRead;
use super::from_kafka::PartitionRead;
use super::gap::RecordedGap;
use super::item::{Actions, Item};
use super::standing::Standing;
use super::walk::Asked;
use super::{Against, Compared, Reconciliation};
use crate::archive::Store as _;
use crate::audit::Lane;
use crate::github::Source;
use crate::time::{rfc3339_ms, rfc3339_s, wall_ms};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The only version so far.
pub const VERSION: u32 = 1;

/// Whoever makes a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Maker {
    /// Login name, as the host says it.
    pub user: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Name and version of the program.
    pub program: String,
}

/// What it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All that could be compared is there.
    NothingMissing,
    /// Entries are missing, changed, or doubled.
    Different,
    /// What could be compared is there; but of time that GitHub has deleted a loss is recorded.
    LossRecorded,
    /// Nothing of the range could be compared.
    NothingCompared,
}

/// What came of collecting what was missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collecting {
    /// The requests to the owner of the state, by id, and what became of them.
    pub requests: Vec<CollectingRequest>,
    /// Entries that were to be collected.
    pub wanted: u64,
    /// Of them, those that ours has now.
    pub collected: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CollectingRequest {
    /// Its id on the operations topic.
    pub id: String,
    /// What was to be read again.
    pub span: Span,
    /// `done` or `refused`.
    pub outcome: String,
    /// The owner's words.
    pub message: String,
}

/// See the file's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Layout version.
    #[serde(rename = "ghauditd_reconciliation")]
    pub version: u32,
    /// What it came to.
    pub verdict: Verdict,
    /// The same in words.
    pub sentence: String,
    /// Name of the entity.
    pub entity: String,
    /// REST base URL, `/enterprises/` or `/orgs/`, slug.
    pub source: String,
    /// First moment.
    pub from: String,
    /// The moment after the last.
    pub to: String,
    /// With what GitHub's list was compared.
    pub against: Against,
    /// Who made it.
    pub made_by: Maker,
    /// When it was begun, host's clock.
    pub began: String,
    /// When it was done, host's clock.
    pub ended: String,
    /// GitHub's clock when it was begun.
    pub github_now: String,
    /// The lanes.
    pub lanes: Vec<LaneStatement>,
    /// All counts together.
    pub totals: Counts,
    /// More counts of the whole range.
    pub notes: Notes,
    /// GitHub's entries that are dated outside of the range, and were not compared.
    pub github_outside: u64,
    /// Pieces of large entries that made no whole, and were not compared.
    pub broken_wholes: u64,
    /// What GitHub was asked.
    pub asked: Vec<Asked>,
    /// Requests that were sent, refused ones too.
    pub requests: u64,
    /// Requests of GitHub's window that were left to others; null where there is no limit.
    pub reserve: Option<u64>,
    /// What was read of Kafka.
    pub kafka: Vec<PartitionRead>,
    /// What was read of the archive.
    pub archive: Option<ArchiveStatement>,
    /// How often our side was looked at again, because something seemed to be missing.
    pub looked_again: u32,
    /// `gh_seq` of the checkpoint that says what was collected.
    pub checkpoint_sequence: u64,
    /// Gaps that are recorded of the range: the first ones.
    pub gaps: Vec<RecordedGap>,
    /// How many there are.
    pub gap_count: usize,
    /// What came of collecting.
    pub collecting: Option<Collecting>,
    /// What this does not prove.
    pub does_not_prove: Vec<String>,
    /// Counts by day, lane and action.
    pub days: Vec<Row>,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaneStatement {
    /// Which.
    pub lane: Lane,
    /// What can be said of which time.
    pub spans: Vec<SpanStatement>,
    /// Its counts.
    pub totals: Counts,
}

/// A span of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpanStatement {
    /// First second.
    pub from: String,
    /// The second after the last.
    pub to: String,
    /// What can be said of it.
    pub standing: Standing,
}

/// What was read of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveStatement {
    /// Where it is.
    pub store: String,
    /// Segments that were read.
    pub segments: Vec<SegmentRead>,
    /// Segments that were not needed.
    pub skipped: usize,
    /// Where a segment does not begin at the end of the one before it.
    pub breaks: Vec<String>,
}

/// Counts of one day, lane and action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The day (UTC); null: entries without a time.
    pub day: Option<String>,
    /// The lane.
    pub lane: Lane,
    /// The action.
    pub action: String,
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Statement {
    pub(super) fn new<S: Source>(
        run: &Reconciliation<'_, S>,
        compared: &Compared,
        made_by: Maker,
        collecting: Option<Collecting>,
    ) -> Self {
        let (from_s, to_s) =
            (run.question.from_ms.div_euclid(1000), run.question.to_ms.div_euclid(1000));
        let tally = &compared.tally;
        let lanes: Vec<LaneStatement> = run
            .basis
            .lanes
            .iter()
            .map(|(&lane, time)| LaneStatement {
                lane,
                spans: time
                    .spans(from_s, to_s)
                    .into_iter()
                    .map(|(from_s, to_s, standing)| SpanStatement {
                        from: rfc3339_s(from_s),
                        to: rfc3339_s(to_s),
                        standing,
                    })
                    .collect(),
                totals: tally.sum(|place| place.1 == lane),
            })
            .collect();
        let store = run.sides.archive.map(crate::archive::AnyStore::describe);
        let archive = run.archive_read.as_ref().map(|read| ArchiveStatement {
            store: store.unwrap_or_default(),
            segments: read.segments.clone(),
            skipped: read.skipped,
            breaks: read.breaks.clone(),
        });
        let mut this = Self {
            version: VERSION,
            verdict: Verdict::NothingMissing,
            sentence: String::new(),
            entity: run.question.entity.name.to_string(),
            source: run.sides.place.clone(),
            from: rfc3339_s(from_s),
            to: rfc3339_s(to_s),
            against: run.against,
            made_by,
            began: rfc3339_ms(run.began_ms),
            ended: rfc3339_ms(wall_ms()),
            github_now: rfc3339_ms(run.github_now_ms),
            lanes,
            totals: tally.sum(|_| true),
            notes: tally.notes.clone(),
            github_outside: run.lists.github_outside,
            broken_wholes: run.lists.broken_wholes,
            asked: run.asked.clone(),
            requests: run.requests,
            reserve: run.reserve,
            kafka: run.kafka_read.clone(),
            archive,
            looked_again: run.looked_again,
            checkpoint_sequence: run.checkpoint.sequence,
            gaps: run.gaps.0.clone(),
            gap_count: run.gaps.1,
            collecting,
            does_not_prove: Vec::new(),
            days: rows(compared, &run.lists.actions),
        };
        this.verdict = this.judged();
        this.sentence = super::text::sentence(&this);
        this.does_not_prove = super::text::not_proved(&this);
        this
    }

    fn judged(&self) -> Verdict {
        let Counts { missing, revised, doubled, .. } = self.totals;
        if missing + revised + doubled > 0 {
            return Verdict::Different;
        }
        if self.losses().next().is_some() {
            return Verdict::LossRecorded;
        }
        if self.spans_of(Standing::Compared).next().is_none() {
            return Verdict::NothingCompared;
        }
        Verdict::NothingMissing
    }

    /// Spans of which this can be said.
    pub(super) fn spans_of(
        &self,
        standing: Standing,
    ) -> impl Iterator<Item = (Lane, &SpanStatement)> {
        let of_lane = |lane: &'_ LaneStatement| lane.lane;
        self.lanes
            .iter()
            .flat_map(move |lane| lane.spans.iter().map(move |span| (of_lane(lane), span)))
            .filter(move |(_, span)| span.standing == standing)
    }

    /// Recorded gaps of time that GitHub no longer lists: nothing can show any more what was in it.
    pub(super) fn losses(&self) -> impl Iterator<Item = &RecordedGap> {
        self.gaps.iter().filter(|gap| {
            // a page that cannot be cut is kept whole
            gap.cause != "uncuttable_page"
                && self.spans_of(Standing::Expired).any(|(lane, span)| {
                    lane.as_str() == gap.lane && gap.touches(second(&span.from), second(&span.to))
                })
        })
    }

    /// Writes it whole, with all that was found. `compared` is what it was made of.
    pub fn write_json<S: Source>(
        &self,
        run: &Reconciliation<'_, S>,
        compared: &Compared,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let mut summary = serde_json::to_vec_pretty(self)?;
        // the object goes on with the lists
        while summary.last().is_some_and(|byte| matches!(byte, b'}' | b'\n')) {
            summary.pop();
            if summary.last() != Some(&b'\n') {
                break;
            }
        }
        out.write_all(summary.trim_ascii_end())?;
        for (name, fault) in [
            ("missing", Fault::Missing),
            ("revised", Fault::Revised),
            ("extra", Fault::Extra),
            ("doubled", Fault::Doubled),
        ] {
            write!(out, ",\n  \"{name}\": [")?;
            let mut between = "\n    ";
            compared.findings.each(fault, |item| {
                out.write_all(between.as_bytes())?;
                between = ",\n    ";
                serde_json::to_writer(&mut *out, &entry_view(item, &run.lists.actions))
                    .map_err(io::Error::from)
            })?;
            out.write_all(if between.starts_with(',') { b"\n  ]" } else { b"]" })?;
        }
        out.write_all(b"\n}\n")
    }

    /// For people: see [`super::text`].
    pub fn text<S: Source>(&self, run: &Reconciliation<'_, S>, compared: &Compared) -> String {
        super::text::text(self, &compared.findings, &run.lists.actions)
    }

    /// The summary for the operations topic, small whatever the range: neither days nor lists.
    pub fn details(&self) -> serde_json::Value {
        let lanes: BTreeMap<_, _> =
            self.lanes.iter().map(|lane| (lane.lane.as_str(), lane.totals)).collect();
        let collecting = self.collecting.as_ref().map(|it| {
            let ids: Vec<_> = it.requests.iter().map(|request| &request.id).collect();
            serde_json::json!({ "requests": ids, "wanted": it.wanted, "collected": it.collected })
        });
        serde_json::json!({
            "verdict": self.verdict,
            "sentence": self.sentence,
            "source": self.source,
            "from": self.from,
            "to": self.to,
            "against": self.against,
            "github_now": self.github_now,
            "lanes": lanes,
            "totals": self.totals,
            "requests": self.requests,
            "gap_count": self.gap_count,
            "collecting": collecting,
        })
    }
}

/// Epoch second of a time that this file wrote.
fn second(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second)
}

fn entry_view(item: &Item, actions: &Actions) -> serde_json::Value {
    serde_json::json!({
        "id": item.id,
        "time": item.time_ms.map(rfc3339_ms),
        "lane": item.lane,
        "action": actions.name(item.action),
    })
}

fn rows(compared: &Compared, actions: &Actions) -> Vec<Row> {
    let row = |(&(day, lane, action), &counts): (&(Option<i64>, Lane, u32), &Counts)| Row {
        day: day.map(day_text),
        lane,
        action: actions.name(action).to_owned(),
        counts,
    };
    compared.tally.counts.iter().map(row).collect()
}

/// `2026-10-31` of an epoch day.
pub(super) fn day_text(day: i64) -> String {
    let text = rfc3339_s(day.saturating_mul(86_400));
    text.split_once('T').map_or(text.clone(), |(date, _)| date.to_owned())
}
