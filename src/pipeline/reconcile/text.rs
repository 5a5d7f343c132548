//! The statement as an auditor reads it.

use super::Against;
use super::compare::{Counts, Fault};
use super::findings::{Findings, SHOWN};
use super::item::{Actions, Item};
use super::standing::Standing;
use super::statement::{Statement, Verdict};
use super::walk::Purpose;
use crate::audit::Lane;
use crate::time::{rfc3339_ms, span_s};
use std::collections::BTreeMap;

/// Most rows of a table; what is more stands in the JSON.
const ROWS_MAX: usize = 400;

/// What it came to, in one or two sentences.
pub(super) fn sentence(it: &Statement) -> String {
    let range = format!("from {} up to {}", it.from, it.to);
    let side = side(it.against);
    let Counts { github, missing, revised, doubled, .. } = it.totals;
    let compared = github.saturating_sub(it.totals.not_yet);
    let mut text = match it.verdict {
        Verdict::NothingMissing | Verdict::LossRecorded => format!(
            "Nothing is missing: all {} that GitHub lists of {} {range} {} in {side}, with the same bytes.",
            entries(compared),
            it.entity,
            if compared == 1 { "is" } else { "are" },
        ),
        Verdict::Different => {
            let are = |count: u64, what: String| {
                let verb = if count == 1 { "is" } else { "are" };
                (count > 0).then(|| format!("{} {verb} {what}", entries(count)))
            };
            let parts: Vec<_> = [
                are(missing, format!("MISSING in {side}")),
                are(revised, "shown by GitHub with other bytes than ours".to_owned()),
                are(doubled, format!("in {side} more than once")),
            ]
            .into_iter()
            .flatten()
            .collect();
            let all = entries(compared);
            format!("{}. GitHub lists {all} of {} {range}.", parts.join(", "), it.entity)
        }
        Verdict::NothingCompared => {
            format!("Nothing could be compared of {} {range}: the reasons stand below.", it.entity)
        }
    };
    if it.verdict == Verdict::LossRecorded {
        text.push_str(
            " But for time that GitHub has deleted since, a loss is recorded: see the recorded gaps.",
        );
    }
    if it.verdict != Verdict::NothingCompared
        && it.lanes.iter().any(|lane| {
            lane.spans.len() > 1
                || lane.spans.iter().any(|span| span.standing != Standing::Compared)
        })
    {
        text.push_str(" Part of the range could not be compared: see what was compared.");
    }
    text
}

fn side(against: Against) -> &'static str {
    match against {
        Against::Kafka => "Kafka",
        Against::Archive => "the archive",
    }
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// What a reader might take it for, and it is not.
pub(super) fn not_proved(it: &Statement) -> Vec<String> {
    let mut notes = vec![
        "It compares with what GitHub listed when it was asked. What GitHub never indexed, or indexes later, is in no list."
            .to_owned(),
        "Entries are compared by id and by a 64-bit hash (XXH3) of their bytes, which finds any loss or fault of transport; it is \
         no proof against somebody who makes other bytes with the same hash."
            .to_owned(),
    ];
    if it.against == Against::Kafka {
        notes.push("It says what is in Kafka, not what has been archived: --against archive compares that.".to_owned());
    } else {
        notes.push("The checksums of segments are those of the objects as they were read; that nobody exchanged an object and \
                    its checksum together is what the archive's own locks and proofs are for."
            .to_owned());
    }
    let late = |standing| it.spans_of(standing).next().is_some();
    if late(Standing::Expired) {
        notes.push("Of time that GitHub has deleted by its retention only ours can be counted; whether something was missed then \
                    stands in the recorded gaps, not in a comparison."
            .to_owned());
    }
    if late(Standing::NotSettled) || late(Standing::NotCollected) {
        notes.push("Of time that has not been read or has not settled nothing is called missing: compare again later.".to_owned());
    }
    if it.notes.also_outside > 0 || it.github_outside > 0 {
        notes.push(format!(
            "An entry has two times, and GitHub does not say which one it filters by: {} listed and {} of ours have one inside \
             and one outside of the range, and were left aside.",
            it.github_outside, it.notes.also_outside
        ));
    }
    notes
}

/// The whole text.
pub(super) fn text(it: &Statement, findings: &Findings, actions: &Actions) -> String {
    let mut out = Text::default();
    out.line(&format!("GITHUB'S AUDIT LOG BESIDE {}", side(it.against).to_uppercase()));
    out.line(&format!("{}: {}", it.entity, it.source));
    out.line(&format!("{} up to, not including, {}", it.from, it.to));
    out.head("What it came to");
    out.paragraph(&it.sentence);
    compared(it, &mut out);
    counts(it, &mut out);
    for (fault, title) in [
        (Fault::Missing, "Missing: GitHub lists it, ours has it not"),
        (Fault::Revised, "Changed: GitHub shows other bytes than any that ours has"),
        (Fault::Doubled, "Doubled: ours has the same id and bytes more than once"),
        (
            Fault::Extra,
            "Ours alone: GitHub lists it no more, and its retention does not explain that",
        ),
    ] {
        list(findings.first(fault), findings.count(fault), title, actions, &mut out);
    }
    others(it, &mut out);
    rests_on(it, &mut out);
    out.head("What it does not prove");
    it.does_not_prove.iter().for_each(|note| out.paragraph(&format!("- {note}")));
    out.0
}

fn compared(it: &Statement, out: &mut Text) {
    out.head("What was compared");
    let rows: Vec<_> = it
        .lanes
        .iter()
        .flat_map(|lane| {
            lane.spans.iter().map(|span| {
                let words = span.standing.words().to_owned();
                vec![lane.lane.to_string(), span.from.clone(), span.to.clone(), words]
            })
        })
        .collect();
    out.table(&["LANE", "FROM", "TO", ""], &rows);
}

fn cells(counts: &Counts) -> Vec<String> {
    let Counts { github, ours, missing, revised, extra, late, not_yet, expired, .. } = *counts;
    [github, ours, missing, revised, extra, late, not_yet, expired]
        .map(|count| if count == 0 { "-".to_owned() } else { count.to_string() })
        .into()
}

const COLUMNS: [&str; 8] =
    ["GITHUB", "OURS", "MISSING", "CHANGED", "OURS ALONE", "LATE", "TOO EARLY", "DELETED"];

fn counts(it: &Statement, out: &mut Text) {
    out.head("Counts by day (UTC) and lane");
    let mut days: BTreeMap<(Option<&String>, Lane), Counts> = BTreeMap::new();
    let mut actions: BTreeMap<(Lane, &str), Counts> = BTreeMap::new();
    for row in &it.days {
        days.entry((row.day.as_ref(), row.lane)).or_default().add(&row.counts);
        actions.entry((row.lane, &row.action)).or_default().add(&row.counts);
    }
    let rows: Vec<_> = days
        .iter()
        .map(|((day, lane), counts)| {
            let day = day.map_or_else(|| "no time".to_owned(), Clone::clone);
            [vec![day, lane.to_string()], cells(counts)].concat()
        })
        .chain([[vec!["all".to_owned(), String::new()], cells(&it.totals)].concat()])
        .collect();
    out.table(&[&["DAY", "LANE"][..], &COLUMNS[..]].concat(), &rows);
    out.paragraph(
        "LATE: found by a sweep, because GitHub indexed it late. TOO EARLY: listed and not ours, but not read or not settled \
         yet. DELETED: ours, of time that GitHub has deleted.",
    );
    out.head("Counts by lane and action");
    let rows: Vec<_> = actions
        .iter()
        .map(|((lane, action), counts)| {
            [vec![lane.to_string(), (*action).to_owned()], cells(counts)].concat()
        })
        .collect();
    out.table(&[&["LANE", "ACTION"][..], &COLUMNS[..]].concat(), &rows);
}

fn list(first: &[Item], count: u64, title: &str, actions: &Actions, out: &mut Text) {
    if count == 0 {
        return;
    }
    out.head(&format!("{title} ({})", entries(count)));
    let rows: Vec<_> = first
        .iter()
        .map(|item| {
            let time = item.time_ms.map_or_else(|| "no time".to_owned(), rfc3339_ms);
            vec![time, item.lane.to_string(), actions.name(item.action).to_owned(), item.id.clone()]
        })
        .collect();
    out.table(&["TIME", "LANE", "ACTION", "ID"], &rows);
    let more = count.saturating_sub(u64::try_from(SHOWN).unwrap_or(0));
    if more > 0 {
        out.line(&format!(
            "  and {more} more: all of them stand in the JSON (--statement, --json)"
        ));
    }
}

fn others(it: &Statement, out: &mut Text) {
    let notes = &it.notes;
    let latest = span_s(notes.latest_s);
    let lines = [
        (it.totals.late, format!("found by sweeps, the latest {latest} after its time")),
        (
            notes.older_bodies,
            "of ours with earlier bytes, which GitHub has changed since".to_owned(),
        ),
        (notes.by_another_way, "that came to us by another way than GitHub's REST list".to_owned()),
        (notes.committed_since, "committed after the list was begun, and not in it".to_owned()),
        (notes.not_archived_yet, "in Kafka and not archived yet".to_owned()),
        (it.broken_wholes, "pieces of large entries that made no whole: not compared".to_owned()),
    ];
    if lines.iter().any(|(count, _)| *count > 0) {
        out.head("Also seen");
    }
    for (count, words) in lines.iter().filter(|(count, _)| *count > 0) {
        out.line(&format!("  {count} {words}"));
    }
    if let Some(collecting) = &it.collecting {
        out.head("Collecting what was missing");
        for request in &collecting.requests {
            let (span, id) = (&request.span, &request.id);
            let [from, to] = [span.from_s, span.to_s].map(crate::time::rfc3339_s);
            out.line(&format!(
                "  request {id}: read {} again from {from} to {to}: {}: {}",
                span.lane, request.outcome, request.message
            ));
        }
        out.line(&format!(
            "  {} of {} collected",
            collecting.collected,
            entries(collecting.wanted)
        ));
    }
    if it.gap_count > 0 {
        out.head(&format!("Recorded gaps that touch the range ({})", it.gap_count));
        let rows: Vec<_> = it
            .gaps
            .iter()
            .take(SHOWN)
            .map(|gap| {
                let noticed = gap.noticed.clone().unwrap_or_default();
                vec![gap.lane.clone(), gap.from.clone(), gap.to.clone(), gap.cause.clone(), noticed]
            })
            .collect();
        out.table(&["LANE", "FROM", "TO", "CAUSE", "NOTICED"], &rows);
    }
}

fn rests_on(it: &Statement, out: &mut Text) {
    out.head("What it rests on");
    let by = &it.made_by;
    out.line(&format!("  made by {} on {} with {}", by.user, by.host, by.program));
    out.line(&format!(
        "  from {} to {} by that host's clock; GitHub's said {} at the begin",
        it.began, it.ended, it.github_now
    ));
    let reserve = it.reserve.map_or_else(String::new, |reserve| {
        format!(", leaving {reserve} requests of each hour to others")
    });
    out.line(&format!("  GitHub was sent {} requests{reserve}:", it.requests));
    let rows: Vec<_> = it
        .asked
        .iter()
        .map(|asked| {
            let why = match asked.purpose {
                Purpose::List => "the list",
                Purpose::GoOn => "its rest, after a lost cursor",
                Purpose::Confirm => "its end, again",
            };
            let date = asked.github_last.clone().unwrap_or_else(|| "-".to_owned());
            vec![
                asked.lane.to_string(),
                why.to_owned(),
                format!("created:{}..{}", asked.from, asked.to),
                asked.asked.clone(),
                date,
                asked.pages.to_string(),
                asked.entries.to_string(),
            ]
        })
        .collect();
    out.table(
        &["LANE", "WHAT", "QUERY", "ASKED", "ANSWERED (GITHUB'S CLOCK)", "PAGES", "ENTRIES"],
        &rows,
    );
    if let Some(archive) = &it.archive {
        let (count, bytes) =
            (archive.segments.len(), archive.segments.iter().map(|it| it.bytes).sum::<usize>());
        out.line(&format!(
            "  the archive in {}: {count} segments with {bytes} bytes were read ({} were not needed); their names and SHA-256 stand in the JSON",
            archive.store, archive.skipped
        ));
        for place in &archive.breaks {
            out.line(&format!(
                "  no segment holds {place}: see `ghauditd archive list` for its gaps"
            ));
        }
    }
    if !it.kafka.is_empty() {
        let behind = if it.archive.is_some() { ", behind the end of the archive" } else { "" };
        out.line(&format!("  Kafka, read committed{behind}:"));
        let rows: Vec<_> = it
            .kafka
            .iter()
            .map(|read| {
                let offsets = format!("{} to {}", read.from, read.to);
                let place = format!("{}/{}", read.topic, read.partition);
                vec![place, offsets, read.records.to_string(), read.read.clone()]
            })
            .collect();
        out.table(&["PARTITION", "OFFSETS", "RECORDS", "READ"], &rows);
    }
    out.line(&format!(
        "  what has been collected: the checkpoint with sequence {}",
        it.checkpoint_sequence
    ));
}

/// Text that grows.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn head(&mut self, title: &str) {
        self.line("");
        self.line(&title.to_uppercase());
    }

    /// Wrapped at 100 columns, indented.
    fn paragraph(&mut self, text: &str) {
        let indent = if text.starts_with("- ") { "    " } else { "  " };
        let mut line = String::from("  ");
        for word in text.split_whitespace() {
            if line.trim().is_empty() {
                line.push_str(word);
            } else if line.len() + 1 + word.len() > 100 {
                self.line(&line);
                line = format!("{indent}{word}");
            } else {
                line.push(' ');
                line.push_str(word);
            }
        }
        self.line(&line);
    }

    fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let shown = rows.get(..rows.len().min(ROWS_MAX)).unwrap_or(rows);
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(shown).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in std::iter::once(&head).chain(shown) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(&format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end()));
        }
        if rows.len() > shown.len() {
            let more = rows.len() - shown.len();
            self.line(&format!("  and {more} more rows: they stand in the JSON"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::{Finding, Notes};
    use super::super::findings::Span;
    use super::super::from_kafka::PartitionRead;
    use super::super::gap::RecordedGap;
    use super::super::item::Marks;
    use super::super::statement::{
        Collecting, CollectingRequest, LaneStatement, Maker, Row, SpanStatement, VERSION,
    };
    use super::super::walk::Asked;
    use super::*;
    use crate::audit::{Fingerprint, SourceKind};

    const OCTOBER: &str = "2026-10-01T00:00:00Z";
    const NOVEMBER: &str = "2026-11-01T00:00:00Z";

    fn lane(lane: Lane, standing: Standing, totals: Counts) -> LaneStatement {
        let span = SpanStatement { from: OCTOBER.into(), to: NOVEMBER.into(), standing };
        LaneStatement { lane, spans: vec![span], totals }
    }

    fn statement() -> Statement {
        let web = Counts { github: 1_000, ours: 998, missing: 2, late: 3, ..Counts::default() };
        let git = Counts { ours: 50, expired: 50, ..Counts::default() };
        let mut totals = web;
        totals.add(&git);
        let row = |day: &str, lane, action: &str, counts| Row {
            day: Some(day.to_owned()),
            lane,
            action: action.to_owned(),
            counts,
        };
        let asked = Asked {
            lane: Lane::Web,
            purpose: Purpose::List,
            from: OCTOBER.into(),
            to: NOVEMBER.into(),
            asked: "2026-11-20T08:00:01.000Z".into(),
            answered: "2026-11-20T08:00:30.000Z".into(),
            github_first: Some("2026-11-20T08:00:01.000Z".into()),
            github_last: Some("2026-11-20T08:00:30.000Z".into()),
            pages: 10,
            entries: 1_000,
            ended: "no_next_link",
        };
        let mut it = Statement {
            version: VERSION,
            verdict: Verdict::Different,
            sentence: String::new(),
            entity: "acme".into(),
            source: "https://api.github.com/enterprises/acme-inc".into(),
            from: OCTOBER.into(),
            to: NOVEMBER.into(),
            against: Against::Kafka,
            made_by: Maker {
                user: "alice".into(),
                host: "ops1".into(),
                pid: 7,
                program: "ghauditd 0.1.0".into(),
            },
            began: "2026-11-20T08:00:00.000Z".into(),
            ended: "2026-11-20T08:01:00.000Z".into(),
            github_now: "2026-11-20T08:00:00.000Z".into(),
            lanes: vec![
                lane(Lane::Web, Standing::Compared, web),
                lane(Lane::Git, Standing::Expired, git),
            ],
            totals,
            notes: Notes { older_bodies: 4, latest_s: 5_400, ..Notes::default() },
            github_outside: 1,
            broken_wholes: 0,
            asked: vec![asked],
            requests: 12,
            reserve: Some(870),
            kafka: vec![PartitionRead {
                topic: "github.audit.web".into(),
                partition: 0,
                from: 10,
                to: 1_100,
                records: 1_048,
                last: None,
                read: "2026-11-20T08:00:40.000Z".into(),
            }],
            archive: None,
            looked_again: 1,
            checkpoint_sequence: 123_456,
            gaps: vec![RecordedGap {
                lane: "git".into(),
                from: "2026-10-03T00:00:00Z".into(),
                to: "2026-10-03T06:00:00Z".into(),
                cause: "expired".into(),
                noticed: Some("2026-10-10T06:00:00.000Z".into()),
            }],
            gap_count: 1,
            collecting: Some(Collecting {
                requests: vec![CollectingRequest {
                    id: "000000000000000000000000000000a1".into(),
                    span: Span { lane: Lane::Web, from_s: 1_790_812_800, to_s: 1_790_812_900 },
                    outcome: "refused".into(),
                    message: "lane web: nothing is left to read there".into(),
                }],
                wanted: 2,
                collected: 0,
            }),
            does_not_prove: Vec::new(),
            days: vec![
                row("2026-10-01", Lane::Web, "repo.create", web),
                row("2026-10-01", Lane::Git, "git.clone", git),
            ],
        };
        it.sentence = sentence(&it);
        it.does_not_prove = not_proved(&it);
        it
    }

    #[test]
    fn an_auditor_reads_it() {
        let it = statement();
        let mut actions = Actions::default();
        let action = actions.number("repo.create");
        let mut findings = Findings::new(&std::env::temp_dir(), (0, 1));
        for id in ["first", "second"] {
            let item = Item {
                fingerprint: Fingerprint::new(id.as_bytes(), b"{}", SourceKind::Rest),
                time_ms: Some(1_790_812_800_123),
                lane: Lane::Web,
                action,
                id: id.to_owned(),
                ingest_ms: 0,
                marks: Marks::default(),
            };
            findings.push(&Finding { fault: Fault::Missing, item }).unwrap();
        }
        insta::assert_snapshot!("statement", text(&it, &findings, &actions));
    }

    #[test]
    fn verdicts_in_words() {
        let mut page = String::new();
        let whole = Statement { collecting: None, ..statement() };
        for verdict in [
            Verdict::NothingMissing,
            Verdict::Different,
            Verdict::LossRecorded,
            Verdict::NothingCompared,
        ] {
            for against in [Against::Kafka, Against::Archive] {
                let it = Statement { verdict, against, ..whole.clone() };
                page.push_str(&sentence(&it));
                page.push('\n');
            }
        }
        let totals = Counts { github: 1, revised: 1, doubled: 2, ..Counts::default() };
        let lanes = vec![lane(Lane::Web, Standing::Compared, totals)];
        page.push_str(&sentence(&Statement { lanes, totals, ..whole }));
        insta::assert_snapshot!("sentences", page);
    }
}
