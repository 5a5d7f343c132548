//! What is not alike: all of it for the JSON statement, the first of it for people, and where to read again.

use super::compare::{Fault, Finding};
use super::item::Item;
use super::spill::{Folder, PARTS, Spill, SpillError};
use crate::audit::Lane;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// How many of a kind are shown to people.
pub const SHOWN: usize = 20;
/// Most spans of a lane that are read again: more are joined, the nearest first.
const SPANS_MAX: usize = 10;
const HOUR_S: i64 = 3_600;

/// A span that is to be read again, to collect what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The lane.
    pub lane: Lane,
    /// First second.
    pub from_s: i64,
    /// The second after the last.
    pub to_s: i64,
}

/// What a comparison found.
#[derive(Debug)]
pub struct Findings {
    range_s: (i64, i64),
    lists: BTreeMap<Fault, (Spill, Vec<Item>)>,
    /// First and last second of what is to be collected, by lane and hour.
    hours: BTreeMap<(Lane, i64), (i64, i64)>,
}

impl Findings {
    /// Nothing yet.
    pub(super) fn new(work_dir: &Path, range_s: (i64, i64)) -> Self {
        let folder = Folder::below(work_dir);
        let lists = [Fault::Missing, Fault::Revised, Fault::Extra, Fault::Doubled]
            .map(|fault| (fault, (Spill::new(&folder, name(fault)), Vec::new())));
        Self { range_s, lists: lists.into(), hours: BTreeMap::new() }
    }

    pub(super) fn push(&mut self, finding: &Finding) -> Result<(), SpillError> {
        let item = &finding.item;
        if matches!(finding.fault, Fault::Missing | Fault::Revised) {
            self.note_hour(item);
        }
        let Some((spill, first)) = self.lists.get_mut(&finding.fault) else { return Ok(()) };
        let key = |it: &Item| (it.time_ms, it.fingerprint);
        let at = first.partition_point(|it| key(it) < key(item));
        if at < SHOWN {
            first.insert(at, item.clone());
            first.truncate(SHOWN);
        }
        spill.push(item)
    }

    fn note_hour(&mut self, item: &Item) {
        let (from_s, to_s) = self.range_s;
        // one without a time may stand anywhere in the range
        let Some(at_s) = item.time_s() else {
            let whole = self.hours.entry((item.lane, from_s.div_euclid(HOUR_S)));
            let span = whole.or_insert((from_s, to_s));
            *span = (span.0.min(from_s), to_s);
            return;
        };
        let span = self.hours.entry((item.lane, at_s.div_euclid(HOUR_S))).or_insert((at_s, at_s));
        *span = (span.0.min(at_s), span.1.max(at_s));
    }

    /// How many there are of a kind.
    pub fn count(&self, fault: Fault) -> u64 {
        self.lists.get(&fault).map_or(0, |(spill, _)| spill.items())
    }

    /// How many entries are to be collected.
    pub fn wanting(&self) -> u64 {
        self.count(Fault::Missing).saturating_add(self.count(Fault::Revised))
    }

    /// The first of a kind, by time.
    pub(super) fn first(&self, fault: Fault) -> &[Item] {
        self.lists.get(&fault).map_or(&[], |(_, first)| first)
    }

    /// All of a kind, part by part, in no order of time.
    pub(super) fn each(
        &self,
        fault: Fault,
        mut on_item: impl FnMut(&Item) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let Some((spill, _)) = self.lists.get(&fault) else { return Ok(()) };
        for part in 0..PARTS {
            for item in spill.part(part).map_err(std::io::Error::other)? {
                on_item(&item)?;
            }
        }
        Ok(())
    }

    /// What must be read again so that all that is missing is shown: few spans, each as short as that allows.
    pub fn spans(&self) -> Vec<Span> {
        let mut by_lane: BTreeMap<Lane, Vec<(i64, i64)>> = BTreeMap::new();
        for (&(lane, _), &(from_s, to_s)) in &self.hours {
            let spans = by_lane.entry(lane).or_default();
            match spans.last_mut() {
                Some(last) if from_s <= last.1.saturating_add(HOUR_S) => last.1 = last.1.max(to_s),
                _ => spans.push((from_s, to_s)),
            }
        }
        let spans = by_lane.into_iter().flat_map(|(lane, spans)| {
            few(spans).into_iter().map(move |(from_s, last_s)| {
                let to_s = last_s.saturating_add(1);
                Span { lane, from_s, to_s }
            })
        });
        spans.collect()
    }
}

/// The same in at most [`SPANS_MAX`] spans, joined where the gaps between them are shortest.
fn few(spans: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    let gap = |pair: (&(i64, i64), &(i64, i64))| pair.1.0.saturating_sub(pair.0.1);
    let mut gaps: Vec<i64> = spans.iter().zip(spans.iter().skip(1)).map(gap).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    // gaps that stay: the longest ones
    let Some(&least) = gaps.get(SPANS_MAX.saturating_sub(1)) else { return spans };
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (from_s, to_s) in spans {
        match joined.last_mut() {
            Some(last) if from_s.saturating_sub(last.1) <= least => last.1 = to_s,
            _ => joined.push((from_s, to_s)),
        }
    }
    joined
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Missing => "missing",
        Fault::Revised => "revised",
        Fault::Extra => "extra",
        Fault::Doubled => "doubled",
    }
}

#[cfg(test)]
mod tests {
    use super::super::item::testing::items;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every missing entry lies in a span of its lane, and there are few spans.
        #[test]
        fn spans_hold_all_that_is_missing(
            list in proptest::collection::vec((items(), -50_i64..50), 0..60),
        ) {
            let mut findings = Findings::new(&std::env::temp_dir(), (0, 200));
            let spread = |(item, days): &(Item, i64)| {
                Item { time_ms: item.time_ms.map(|ms| ms + days * 86_400_000), ..item.clone() }
            };
            let list: Vec<Item> = list.iter().map(spread).collect();
            for item in &list {
                findings.push(&Finding { fault: Fault::Missing, item: item.clone() }).unwrap();
            }
            let spans = findings.spans();
            for item in &list {
                let holds = |span: &&Span| {
                    let inside = |at| span.from_s <= at && at < span.to_s;
                    span.lane == item.lane && item.time_s().map_or(inside(0) && inside(200), inside)
                };
                prop_assert!(spans.iter().any(|span| holds(&span)), "{item:?} not in {spans:?}");
            }
            for lane in Lane::ALL {
                prop_assert!(spans.iter().filter(|span| span.lane == lane).count() <= SPANS_MAX);
            }
            let first = findings.first(Fault::Missing);
            prop_assert_eq!(first.len(), list.len().min(SHOWN));
            prop_assert!(first.iter().zip(first.iter().skip(1)).all(|(a, b)| a.time_ms <= b.time_ms));
        }
    }
}
