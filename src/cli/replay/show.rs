//! What `ghauditd replay` says.

use crate::audit::replay::{Filter, Plan, ReplayId, Tally, TimeOf};
use crate::cli::{Output, OutputError};
use crate::pipeline::replay::scan::{Begin, Counted};
use crate::pipeline::replay::{Outcome, Rate};
use crate::time::rfc3339_ms;
use indicatif::{BinaryBytes, HumanCount, HumanDuration};
use serde::Serialize;
use std::time::Duration;

/// Ids that are named when they are not there.
const IDS_NAMED_MAX: usize = 10;

/// What would be sent.
#[derive(Debug, Serialize)]
pub(super) struct Preview<'a> {
    /// Of one that has begun already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replay: Option<&'a ReplayId>,
    pub(super) to_topic: &'a str,
    pub(super) filter: &'a Filter,
    pub(super) records: u64,
    /// Of keys, values and headers as they stand.
    pub(super) bytes: u64,
    /// At the rate limit; absent without one.
    pub(super) seconds: Option<u64>,
    /// The times of the first and last of them.
    pub(super) first_ms: Option<i64>,
    pub(super) last_ms: Option<i64>,
    pub(super) partitions: Vec<Part<'a>>,
    /// Partitions that begin later than what was asked for.
    pub(super) gone: &'a [Begin],
    pub(super) ids_missing: Vec<&'a str>,
    /// Records on the dead-letter topic that fit and are not among those above.
    pub(super) dead_letters_not_sent: u64,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Part<'a> {
    topic: &'a str,
    partition: i32,
    from: i64,
    to: i64,
    records: u64,
    bytes: u64,
}

impl<'a> Preview<'a> {
    /// From what was counted; what is known besides is for the caller to add.
    pub(super) fn new(plan: &'a Plan, counted: &'a Counted, rate: Rate, gone: &'a [Begin]) -> Self {
        let Tally { records, bytes } = counted.total();
        let parts = plan.spans.iter().zip(&counted.spans).map(|(span, tally)| Part {
            topic: &span.topic,
            partition: span.partition,
            from: span.from,
            to: span.to,
            records: tally.records,
            bytes: tally.bytes,
        });
        let missing = plan.filter.ids.iter().filter(|id| !counted.ids.contains(*id));
        Self {
            replay: None,
            to_topic: &plan.to_topic,
            filter: &plan.filter,
            records,
            bytes,
            seconds: rate.time_of(records).map(|time| time.as_secs()),
            first_ms: counted.times_ms.map(|times| times.0),
            last_ms: counted.times_ms.map(|times| times.1),
            partitions: parts.collect(),
            gone,
            ids_missing: missing.map(String::as_str).collect(),
            dead_letters_not_sent: 0,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// For people.
    pub(super) fn print(&self, rate: Rate, out: &mut Output) -> Result<(), OutputError> {
        match self.replay {
            Some(id) => out.line(format!(
                "what replay {id} has still to send to topic {}: {}",
                self.to_topic,
                asked(self.filter)
            ))?,
            None => out.line(format!("to topic {}: {}", self.to_topic, asked(self.filter)))?,
        }
        let cells = self.partitions.iter().map(|part| {
            let [partition, from, to] =
                [part.partition.to_string(), part.from.to_string(), part.to.to_string()];
            let (records, bytes) = (HumanCount(part.records), BinaryBytes(part.bytes));
            vec![part.topic.to_owned(), partition, from, to, records.to_string(), bytes.to_string()]
        });
        let head = ["TOPIC", "PARTITION", "FROM OFFSET", "TO OFFSET", "RECORDS", "BYTES"];
        out.table(&head, &cells.collect::<Vec<_>>())?;
        out.line(self.sum(rate))?;
        if let (Some(first), Some(last)) = (self.first_ms, self.last_ms) {
            out.line(format!(
                "  the first of {}, the last of {}",
                rfc3339_ms(first),
                rfc3339_ms(last)
            ))?;
        }
        self.print_missing(out)
    }

    fn sum(&self, rate: Rate) -> String {
        let (records, bytes) = (HumanCount(self.records), BinaryBytes(self.bytes));
        match self.seconds {
            Some(seconds) => {
                let time = HumanDuration(Duration::from_secs(seconds.max(1)));
                format!("{records} records, {bytes}; at {rate} about {time}")
            }
            None => format!("{records} records, {bytes}; as fast as it goes"),
        }
    }

    fn print_missing(&self, out: &mut Output) -> Result<(), OutputError> {
        print_gone(self.gone, out)?;
        if self.dead_letters_not_sent > 0 {
            let records = HumanCount(self.dead_letters_not_sent);
            out.line(format!(
                "not among them: {records} records on the dead-letter topic (large entries in pieces); add --source all"
            ))?;
        }
        if !self.ids_missing.is_empty() {
            let named: Vec<&str> = self.ids_missing.iter().copied().take(IDS_NAMED_MAX).collect();
            let more = if self.ids_missing.len() > IDS_NAMED_MAX { ", ..." } else { "" };
            let count = self.ids_missing.len();
            out.line(format!("not found: {count} of the ids ({}{more})", named.join(", ")))?;
        }
        Ok(())
    }
}

/// What Kafka no longer has.
pub(super) fn print_gone(gone: &[Begin], out: &mut Output) -> Result<(), OutputError> {
    for begin in gone {
        let since = begin.since_ms.map_or_else(
            || "holds nothing any more".to_owned(),
            |ms| format!("begins with what came at {}", rfc3339_ms(ms)),
        );
        out.line(format!(
            "not in Kafka any more: {}/{} {since}; what came before is in the archive: ghauditd archive cat {}",
            begin.topic, begin.partition, begin.topic
        ))?;
    }
    Ok(())
}

/// A filter in words.
pub(super) fn asked(filter: &Filter) -> String {
    let mut words = Vec::new();
    let what = match filter.time {
        TimeOf::Entry => "entries of",
        TimeOf::Kafka => "records that came to Kafka",
    };
    match (filter.from_ms, filter.to_ms) {
        (Some(from), Some(to)) => {
            words.push(format!("{what} {} to {}", rfc3339_ms(from), rfc3339_ms(to)));
        }
        (Some(from), None) => words.push(format!("{what} {} and later", rfc3339_ms(from))),
        _ => {}
    }
    if let Some(entity) = &filter.entity {
        words.push(format!("entity {entity}"));
    }
    if let Some(after) = filter.after_seq {
        words.push(format!("sequence above {after}"));
    }
    if !filter.actions.is_empty() {
        words.push(format!("actions {}", filter.actions.join(" or ")));
    }
    if !filter.ids.is_empty() {
        words.push(format!("{} ids", filter.ids.len()));
    }
    words.join(", ")
}

/// What was sent.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) replay: &'a ReplayId,
    pub(super) to_topic: &'a str,
    /// Whether all is sent.
    pub(super) ended: bool,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) gone_offsets: u64,
}

impl<'a> Report<'a> {
    pub(super) fn new(replay: &'a ReplayId, to_topic: &'a str, outcome: &Outcome) -> Self {
        let Outcome { ended, sent, gone_offsets } = *outcome;
        Self { replay, to_topic, ended, records: sent.records, bytes: sent.bytes, gone_offsets }
    }

    /// For people.
    pub(super) fn print(&self, out: &mut Output) -> Result<(), OutputError> {
        let state = if self.ended { "has ended" } else { "was interrupted" };
        let (records, bytes) = (HumanCount(self.records), BinaryBytes(self.bytes));
        let (id, topic) = (self.replay, self.to_topic);
        out.line(format!(
            "replay {id} {state}: {records} records ({bytes}) sent to topic {topic}"
        ))?;
        if self.gone_offsets > 0 {
            let gone = HumanCount(self.gone_offsets);
            out.line(format!(
                "{gone} offsets were deleted from Kafka before they could be sent: the archive has them"
            ))?;
        }
        if !self.ended {
            out.line(format!("go on with: ghauditd replay --resume {id} --execute"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::replay::Span;
    use crate::cli::output::testing::printed;
    use std::collections::BTreeSet;

    const FROM_MS: i64 = 1_794_873_600_000;

    fn plan() -> Plan {
        let span = |topic: &str, partition, from, to| Span {
            topic: topic.to_owned(),
            partition,
            from,
            to,
        };
        Plan {
            to_topic: "siem.new".to_owned(),
            filter: Filter {
                from_ms: Some(FROM_MS),
                to_ms: Some(FROM_MS + 86_400_000),
                entity: Some("acme".to_owned()),
                actions: vec!["repo.*".to_owned(), "org.*".to_owned()],
                ids: BTreeSet::from(["i-1".to_owned(), "i-2".to_owned()]),
                ..Filter::default()
            },
            spans: vec![
                span("github.audit.web", 0, 1_200, 91_000),
                span("github.audit.git", 11, 0, 7),
            ],
        }
    }

    fn counted() -> Counted {
        let tally = |records, bytes| Tally { records, bytes };
        Counted {
            spans: vec![tally(1_234_567, 3 << 30), tally(0, 0)],
            largest_bytes: 5_000,
            times_ms: Some((FROM_MS + 1, FROM_MS + 86_399_999)),
            oldest_ms: Some(FROM_MS),
            ids: BTreeSet::from(["i-2".to_owned()]),
        }
    }

    #[test]
    fn a_preview_for_people() {
        let (plan, counted) = (plan(), counted());
        let begin = |since_ms| Begin {
            topic: "github.audit.web".to_owned(),
            partition: 0,
            offset: 900,
            since_ms,
        };
        let gone = [begin(Some(FROM_MS + 3_600_000)), begin(None)];
        let rate = Rate::per_second(5_000).unwrap();
        let mut preview = Preview::new(&plan, &counted, rate, &gone);
        preview.dead_letters_not_sent = 12;
        insta::assert_snapshot!(printed(|out| preview.print(rate, out).unwrap()), @r"
        to topic siem.new: entries of 2026-11-17T00:00:00.000Z to 2026-11-18T00:00:00.000Z, entity acme, actions repo.* or org.*, 2 ids
        TOPIC             PARTITION  FROM OFFSET  TO OFFSET  RECORDS    BYTES
        github.audit.web  0          1200         91000      1,234,567  3.00 GiB
        github.audit.git  11         0            7          0          0 B
        1,234,567 records, 3.00 GiB; at 5000 records/s about 4 minutes
          the first of 2026-11-17T00:00:00.001Z, the last of 2026-11-17T23:59:59.999Z
        not in Kafka any more: github.audit.web/0 begins with what came at 2026-11-17T01:00:00.000Z; what came before is in the archive: ghauditd archive cat github.audit.web
        not in Kafka any more: github.audit.web/0 holds nothing any more; what came before is in the archive: ghauditd archive cat github.audit.web
        not among them: 12 records on the dead-letter topic (large entries in pieces); add --source all
        not found: 1 of the ids (i-1)
        ");
        let json = serde_json::to_value(&preview).unwrap();
        assert_eq!(
            (json["records"].as_u64(), json["seconds"].as_u64()),
            (Some(1_234_567), Some(246))
        );
        assert_eq!(json["partitions"][1]["partition"], 11);
    }

    #[test]
    fn filters_in_words() {
        let id = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let all = Filter::default();
        let rows = [
            (
                Filter { from_ms: Some(FROM_MS), time: TimeOf::Kafka, ..all.clone() },
                "records that came to Kafka 2026-11-17T00:00:00.000Z and later",
            ),
            (Filter { ids: id(&["a"]), ..all.clone() }, "1 ids"),
            (
                Filter { entity: Some("acme".to_owned()), after_seq: Some(7), ..all },
                "entity acme, sequence above 7",
            ),
        ];
        for (filter, words) in rows {
            assert_eq!(asked(&filter), words);
        }
    }

    #[test]
    fn a_report_for_people() {
        let id = ReplayId::try_from("r1".to_owned()).unwrap();
        let sent = Tally { records: 12_345, bytes: 5 << 20 };
        let show = |ended, gone_offsets| {
            let outcome = Outcome { ended, sent, gone_offsets };
            printed(|out| Report::new(&id, "siem.new", &outcome).print(out).unwrap())
        };
        insta::assert_snapshot!(show(true, 0), @"replay r1 has ended: 12,345 records (5.00 MiB) sent to topic siem.new");
        insta::assert_snapshot!(show(false, 7), @r"
        replay r1 was interrupted: 12,345 records (5.00 MiB) sent to topic siem.new
        7 offsets were deleted from Kafka before they could be sent: the archive has them
        go on with: ghauditd replay --resume r1 --execute
        ");
    }
}
