//! `ghauditd checkpoint diff`: what one checkpoint has read and another has not.

use super::read;
use super::saved::Which;
use crate::audit::{Checkpoint, Intervals, Lane, LaneState, SliceKind};
use crate::cli::{Exit, Output, control};
use crate::config::Config;
use crate::time::rfc3339_s;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

/// Show what is different between two checkpoints of an entity
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  ghauditd checkpoint diff before-upgrade current
  ghauditd checkpoint diff monday tuesday --entity acme --json")]
pub(super) struct DiffArgs {
    /// A saved checkpoint, or `current`
    a: Which,
    /// The other one
    b: Which,
    /// Name of the entity; needed where the configuration has several
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Answer as JSON: times are epoch seconds
    #[arg(long)]
    json: bool,
}

/// What differs, from `a` to `b`.
#[derive(Debug, Serialize)]
struct Difference {
    sequence: [u64; 2],
    lanes: BTreeMap<Lane, LaneDifference>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct LaneDifference {
    /// Read once in `a` and not in `b`.
    only_a: Intervals,
    /// Read once in `b` and not in `a`.
    only_b: Intervals,
    /// For each sweep age in seconds: read at it in `b` and not in `a`.
    swept_only_b: BTreeMap<String, Intervals>,
    /// The same the other way round.
    swept_only_a: BTreeMap<String, Intervals>,
    /// Where the tails' next queries start, epoch seconds.
    tail_s: [Option<i64>; 2],
    /// Open slices that are not tails.
    open_slices: [usize; 2],
    /// Entries committed.
    entries: [u64; 2],
}

pub(super) fn diff(args: &DiffArgs, config: &Config, out: &mut Output) -> anyhow::Result<Exit> {
    let entity = match control::entity_of(config, args.entity.as_deref(), out) {
        Ok(entity) => &entity.name,
        Err(exit) => return Ok(exit),
    };
    let restored = match read(config, out)? {
        Ok(restored) => restored,
        Err(exit) => return Ok(exit),
    };
    let found = args
        .a
        .find(config, &restored, entity, out)
        .and_then(|a| Ok((a, args.b.find(config, &restored, entity, out)?)));
    let (a, b) = match found {
        Ok(both) => both,
        Err(exit) => return Ok(exit),
    };
    let difference = difference(a, b);
    if args.json {
        out.json(&difference)?;
    } else {
        show(&args.a.to_string(), &args.b.to_string(), &difference, out)?;
    }
    Ok(Exit::Ok)
}

fn difference(a: &Checkpoint, b: &Checkpoint) -> Difference {
    let lanes = Lane::ALL.into_iter().filter_map(|lane| {
        let both = [a.lanes.get(&lane), b.lanes.get(&lane)];
        both.iter().any(Option::is_some).then(|| (lane, lane_difference(both)))
    });
    Difference { sequence: [a.sequence, b.sequence], lanes: lanes.collect() }
}

fn lane_difference(both: [Option<&LaneState>; 2]) -> LaneDifference {
    let [a, b] = both;
    let collected = |it: Option<&LaneState>| it.map(|it| it.collected.clone()).unwrap_or_default();
    let tail = |it: Option<&LaneState>| {
        it?.slices.iter().find(|slice| slice.kind == SliceKind::Tail).map(|tail| tail.start_s)
    };
    let open = |it: Option<&LaneState>| {
        let slices = it.into_iter().flat_map(|it| &it.slices);
        slices.filter(|slice| slice.kind != SliceKind::Tail).count()
    };
    LaneDifference {
        only_a: collected(a).without(&collected(b)),
        only_b: collected(b).without(&collected(a)),
        swept_only_b: swept_without(b, a),
        swept_only_a: swept_without(a, b),
        tail_s: both.map(tail),
        open_slices: both.map(open),
        entries: both.map(|it| it.map_or(0, |it| it.entries)),
    }
}

fn swept_without(of: Option<&LaneState>, other: Option<&LaneState>) -> BTreeMap<String, Intervals> {
    let spans = |it: Option<&LaneState>, age_s: i64| {
        let swept = it.and_then(|it| it.swept.iter().find(|swept| swept.age_s == age_s));
        swept.map(|swept| swept.spans.clone()).unwrap_or_default()
    };
    of.into_iter()
        .flat_map(|it| &it.swept)
        .map(|it| (it.age_s.to_string(), it.spans.without(&spans(other, it.age_s))))
        .filter(|(_, spans)| !spans.is_empty())
        .collect()
}

fn show(a: &str, b: &str, difference: &Difference, out: &mut Output) -> anyhow::Result<()> {
    let [before, after] = difference.sequence;
    out.line(format!("sequence: {before} in {a}, {after} in {b}"))?;
    for (lane, it) in &difference.lanes {
        out.line(format!("lane {lane}"))?;
        let [in_a, in_b] = it.entries;
        out.line(format!("  entries committed: {in_a} in {a}, {in_b} in {b}"))?;
        let [in_a, in_b] = it.tail_s.map(|s| s.map_or_else(|| "-".to_owned(), rfc3339_s));
        out.line(format!("  tail: next query from {in_a} in {a}, from {in_b} in {b}"))?;
        let [in_a, in_b] = it.open_slices;
        out.line(format!("  open slices besides the tail: {in_a} in {a}, {in_b} in {b}"))?;
        spans(&format!("  read once only in {a}"), &it.only_a, out)?;
        spans(&format!("  read once only in {b}"), &it.only_b, out)?;
        for (name, swept) in [(a, &it.swept_only_a), (b, &it.swept_only_b)] {
            for (age_s, swept) in swept {
                spans(&format!("  read at the age of {age_s} s only in {name}"), swept, out)?;
            }
        }
    }
    Ok(())
}

fn spans(what: &str, intervals: &Intervals, out: &mut Output) -> anyhow::Result<()> {
    for (from_s, to_s) in intervals.as_slice() {
        out.line(format!("{what}: {} to {}", rfc3339_s(*from_s), rfc3339_s(*to_s)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::lane::LaneRules;
    use crate::audit::{EntityName, SweepAges, Swept};
    use crate::cli::output::testing::printed;

    #[test]
    fn what_one_has_read_and_the_other_has_not() {
        let now_s = 1_795_176_000;
        let retention_s = Some(7 * 86_400);
        let sweeps = SweepAges::default();
        let rules = LaneRules { readers: 1, lane: Lane::Git, retention_s, settling_s: 600, sweeps };
        let lane = LaneState::begin(&rules, now_s);
        let checkpoint = |sequence, lane: Option<LaneState>| Checkpoint {
            sequence,
            lanes: lane.into_iter().map(|lane| (Lane::Git, lane)).collect(),
            ..Checkpoint::empty(EntityName::try_from("acme".to_owned()).unwrap())
        };
        let mut later = lane.clone();
        later.collected.insert(now_s - 600, now_s + 3_000);
        later.swept = vec![Swept { age_s: 600, spans: later.collected.clone() }];
        later.slices[0].start_s = now_s + 3_000;
        later.slices.truncate(1);
        later.entries = 12;
        let (a, b) = (checkpoint(5, Some(lane)), checkpoint(17, Some(later)));
        let shown =
            |a, b| printed(|out| show("monday", "current", &difference(a, b), out).unwrap());
        insta::assert_snapshot!(shown(&a, &b));
        assert_eq!(difference(&b, &a).lanes[&Lane::Git].swept_only_a.len(), 1);
        insta::assert_snapshot!(shown(&checkpoint(0, None), &a));
        assert!(difference(&checkpoint(0, None), &checkpoint(1, None)).lanes.is_empty());
    }
}
