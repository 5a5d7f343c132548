//! Reading again: which collected time is read once more at which age, and what may then be called complete.
//!
//! GitHub's cursor is (time, id): what is indexed late sorts behind it and is never shown by going on. So each second is
//! read again when it has reached each of the sweep ages. For each age the lane keeps the time that a slice has read whose
//! first query was asked at that age or later; the rest is due.

use super::checkpoint::LaneState;
use super::interval::Intervals;
use super::lane::LaneRules;
use super::slice::{Slice, SliceKind};
use serde::{Deserialize, Serialize};

/// What is kept for ever is read again up to this age: behind it nobody knows any more what was committed.
const UNLIMITED_S: i64 = 180 * 86_400;
/// A sweep reads at least this part of its age at once, so that few requests show little.
const SPANS_PER_AGE: i64 = 12;
/// The last look reads at most this part of the time that it has before expiry at once.
const SPANS_PER_LAST_LOOK: i64 = 4;
/// Of what is overdue, a sweep reads this part at once.
const SPANS_PER_BACKLOG: i64 = 4;

/// At which ages collected time is read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepAges {
    /// Seconds, in rising order, each once. The first is the settling age.
    ages_s: Vec<i64>,
    /// The last of them that has a deadline: the expiry at GitHub. With the time that it has until then.
    last_look: Option<LastLook>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastLook {
    age_s: i64,
    margin_s: i64,
}

impl SweepAges {
    /// The settling age, further ages, and a last look `margin_s` before what is kept for `retention_s` expires. Ages at
    /// or behind the last look are of no use and left out; so is a last look that would come before settling.
    pub fn new(
        settling_s: i64,
        further_s: &[i64],
        retention_s: Option<i64>,
        margin_s: Option<i64>,
    ) -> Self {
        let last_look = retention_s
            .zip(margin_s)
            .map(|(retention, margin_s)| LastLook {
                age_s: retention.saturating_sub(margin_s),
                margin_s,
            })
            .filter(|look| look.age_s > settling_s && look.margin_s > 0);
        let end_s = last_look.map_or(retention_s.unwrap_or(i64::MAX), |look| look.age_s);
        let further = further_s.iter().copied().filter(|&age| age > settling_s && age < end_s);
        let mut ages_s: Vec<i64> = std::iter::once(settling_s)
            .chain(further)
            .chain(last_look.map(|look| look.age_s))
            .collect();
        ages_s.sort_unstable();
        ages_s.dedup();
        Self { ages_s, last_look }
    }

    /// The ages, seconds, in rising order.
    pub fn as_slice(&self) -> &[i64] {
        &self.ages_s
    }

    /// Whether a sweep of this age must be done before GitHub deletes what it reads.
    pub fn has_deadline(&self, age_s: i64) -> bool {
        self.last_look.is_some_and(|look| look.age_s == age_s)
    }

    fn settling_s(&self) -> Option<i64> {
        self.ages_s.first().copied()
    }

    /// How much time a sweep of this age reads at least.
    pub(crate) fn span_s(&self, age_s: i64) -> i64 {
        match self.last_look.filter(|look| look.age_s == age_s) {
            Some(look) => (look.margin_s / SPANS_PER_LAST_LOOK).max(1),
            None => (age_s / SPANS_PER_AGE).max(self.settling_s().unwrap_or(age_s)).max(1),
        }
    }
}

/// Time that has been read at an age or later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {
    /// The age, seconds.
    pub age_s: i64,
    /// The time that was read at it, or that was lost before this age was configured.
    pub spans: Intervals,
}

/// A sweep that is due: first and last second.
type Due = (i64, i64);

impl LaneRules {
    /// Before this second nothing is read again: GitHub has deleted it, or it is too old for us.
    pub(super) fn oldest_kept_s(&self, now_s: i64) -> i64 {
        self.edge_s(now_s).unwrap_or_else(|| now_s.saturating_sub(UNLIMITED_S))
    }

    /// Where sweeps of an age begin. At the settling age behind GitHub's edge too: what was lost there must be told.
    fn sweep_floor_s(&self, age_s: i64, now_s: i64) -> i64 {
        if self.sweeps.settling_s() == Some(age_s) && self.retention_s.is_some() {
            return i64::MIN;
        }
        self.oldest_kept_s(now_s)
    }
}

impl LaneState {
    /// Whether [`Self::open_sweeps`] would change something.
    pub fn is_sweep_due(&self, rules: &LaneRules, now_s: i64) -> bool {
        !self.knows_ages(rules)
            || rules.sweeps.as_slice().iter().any(|&age| self.due(rules, age, now_s).is_some())
    }

    /// Opens a sweep of each age that has one due and none open; true when something changed.
    pub fn open_sweeps(&mut self, rules: &LaneRules, now_s: i64) -> bool {
        let mut changed = self.adopt_ages(rules, now_s);
        for &age_s in rules.sweeps.as_slice() {
            if let Some((from_s, to_s)) = self.due(rules, age_s, now_s) {
                self.forget_expired(rules, age_s, now_s);
                self.push_sweep(age_s, (from_s, to_s), now_s);
                changed = true;
            }
        }
        changed
    }

    /// A slice from `from_s` to `to_s` that was opened at `opened_s` has been read whole.
    pub(super) fn mark_read(&mut self, from_s: i64, to_s: i64, opened_s: Option<i64>) {
        let Some(opened_s) = opened_s else { return };
        for swept in &mut self.swept {
            swept.spans.insert(from_s, to_s.min(opened_s.saturating_sub(swept.age_s)));
        }
    }

    /// End of the contiguous time, from the oldest that GitHub still keeps, that was read again after settling: complete, as
    /// far as GitHub has shown. `None`: no sweep has been configured yet.
    pub fn frontier_s(&self, rules: &LaneRules, now_s: i64) -> Option<i64> {
        let settling_s = rules.sweeps.settling_s()?;
        let swept = self.swept.iter().find(|swept| swept.age_s == settling_s)?;
        let oldest_s = rules.oldest_kept_s(now_s).max(self.oldest_s());
        Some(swept.spans.first_missing(oldest_s))
    }

    /// Whether a sweep is due that has a deadline.
    pub fn is_last_look_due(&self, rules: &LaneRules, now_s: i64) -> bool {
        let mut ages =
            rules.sweeps.as_slice().iter().filter(|age| rules.sweeps.has_deadline(**age));
        ages.any(|&age| self.due(rules, age, now_s).is_some())
    }

    /// What no sweep of this age will read any more leaves no hole in what it has read: there would be one more each time.
    fn forget_expired(&mut self, rules: &LaneRules, age_s: i64, now_s: i64) {
        let (oldest_s, floor_s) = (self.oldest_s(), rules.sweep_floor_s(age_s, now_s));
        if let Some(swept) = self.swept.iter_mut().find(|swept| swept.age_s == age_s) {
            swept.spans.insert(oldest_s, floor_s);
        }
    }

    fn knows_ages(&self, rules: &LaneRules) -> bool {
        let known = self.swept.iter().map(|swept| swept.age_s);
        known.eq(rules.sweeps.as_slice().iter().copied())
    }

    /// Makes the list of ages that of the rules. What was read at a greater age was read at a new, smaller one too. What
    /// GitHub had deleted before there were sweeps, or what was read after settling before it was deleted, is not owed.
    pub(super) fn adopt_ages(&mut self, rules: &LaneRules, now_s: i64) -> bool {
        if self.knows_ages(rules) {
            return false;
        }
        let known = std::mem::take(&mut self.swept);
        self.swept = rules
            .sweeps
            .as_slice()
            .iter()
            .map(|&age_s| {
                if let Some(same) = known.iter().find(|swept| swept.age_s == age_s) {
                    return same.clone();
                }
                let mut spans = Intervals::default();
                for older in known.iter().filter(|swept| swept.age_s > age_s) {
                    for &(from_s, to_s) in older.spans.as_slice() {
                        spans.insert(from_s, to_s);
                    }
                }
                let edge_s = rules.oldest_kept_s(now_s);
                match known.first() {
                    // what expires while the first of them is asked for cannot be saved by anyone
                    None => spans.insert(self.oldest_s(), edge_s.saturating_add(rules.settling_s)),
                    Some(settled) => settled
                        .spans
                        .as_slice()
                        .iter()
                        .for_each(|&(from_s, to_s)| spans.insert(from_s, to_s.min(edge_s))),
                }
                Swept { age_s, spans }
            })
            .collect();
        true
    }

    /// The lowest time that the lane has anything to do with.
    fn oldest_s(&self) -> i64 {
        let collected = self.collected.as_slice().first().map(|&(from, _)| from);
        collected.into_iter().chain(self.slices.iter().map(|slice| slice.from_s)).min().unwrap_or(0)
    }

    /// The lowest collected time that has reached an age and was not read at it; `None` while one is open, or too little is
    /// due for a request.
    fn due(&self, rules: &LaneRules, age_s: i64, now_s: i64) -> Option<Due> {
        if self.slices.iter().any(|slice| slice.sweep_age_s == Some(age_s)) {
            return None;
        }
        let swept = &self.swept.iter().find(|swept| swept.age_s == age_s)?.spans;
        let aged_s = now_s.saturating_sub(age_s);
        let floor_s = rules.sweep_floor_s(age_s, now_s);
        let (from_s, end_s) = self.collected.as_slice().iter().find_map(|&(a, b)| {
            let from_s = swept.first_missing(a.max(floor_s));
            (from_s < b.min(aged_s)).then_some((from_s, b))
        })?;
        let span_s = rules.sweeps.span_s(age_s);
        // more will come to it: the tail goes on from where it ends
        let grows = self.slices.iter().any(|slice| slice.to_s.is_none() && slice.start_s <= end_s);
        let next_swept_s = swept.next_after(from_s).unwrap_or(i64::MAX);
        let ready_s = end_s.min(aged_s);
        let more_will_come = (aged_s < end_s || grows) && next_swept_s >= ready_s;
        if more_will_come && ready_s.saturating_sub(from_s) < span_s {
            return None;
        }
        let end_s = end_s.min(next_swept_s);
        let overdue_s = aged_s.saturating_sub(from_s);
        let most_s = span_s.max(overdue_s / SPANS_PER_BACKLOG).min(rules.slice_span_s());
        let to_s = from_s.saturating_add(most_s).min(end_s).min(aged_s);
        // what is being read at a smaller age now may be old enough to count for this one too
        let waits = !rules.sweeps.has_deadline(age_s)
            && self.slices.iter().any(|slice| {
                slice.sweep_age_s.is_some_and(|age| age < age_s)
                    && slice.from_s < to_s
                    && slice.to_s.is_some_and(|end| from_s < end)
            });
        (!waits).then_some((from_s, to_s))
    }

    fn push_sweep(&mut self, age_s: i64, (from_s, to_s): Due, now_s: i64) {
        let id = self.next_slice_id();
        self.slices.push(Slice {
            sweep_age_s: Some(age_s),
            ..Slice::new(id, SliceKind::Sweep, from_s, Some(to_s), Some(now_s))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Lane;
    use crate::audit::lane::{Expired, Shown};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const NOW: i64 = 1_790_000_000;
    const HOUR_S: i64 = 3600;
    const DAY_S: i64 = 24 * HOUR_S;

    fn rules() -> LaneRules {
        let retention_s = Some(7 * DAY_S);
        let sweeps = SweepAges::new(600, &[DAY_S], retention_s, Some(12 * HOUR_S));
        LaneRules { readers: 1, lane: Lane::Git, retention_s, settling_s: 600, sweeps }
    }

    /// GitHub's log: time of an entry, and from when on it is shown.
    type Log = Vec<(i64, i64)>;

    /// Walks a slice to its end in one page; returns what was recorded as a gap.
    fn walk(
        lane: &mut LaneState,
        rules: &LaneRules,
        id: u64,
        log: &Log,
        known: &mut BTreeSet<usize>,
        now_s: i64,
    ) -> Option<Expired> {
        let query = lane.slice(id)?.next_query();
        let kept_s = rules.edge_s(now_s).unwrap_or(i64::MIN);
        let mut shown: Vec<_> = (0..log.len())
            .filter(|&i| log[i].1 <= now_s && log[i].0 >= kept_s)
            .filter(|&i| log[i].0 >= query.from_s && query.to_s.is_none_or(|to| log[i].0 <= to))
            .collect();
        shown.sort_by_key(|&i| log[i].0);
        let new = shown.iter().filter(|&&i| known.insert(i)).count();
        lane.begin_walk(id, query, now_s);
        let times_s = shown.iter().map(|&i| Some(log[i].0)).collect();
        let new_entries = u64::try_from(new).unwrap();
        let shown = Shown { times_s, new_entries, cursor: None, more: false };
        lane.apply_page(rules, id, &shown, now_s)
    }

    /// A poll of the tail, and everything that is due; returns the gaps of sweeps.
    fn turn(
        lane: &mut LaneState,
        rules: &LaneRules,
        log: &Log,
        known: &mut BTreeSet<usize>,
        now_s: i64,
    ) -> Vec<Expired> {
        let mut gaps = Vec::new();
        lane.split_tail(rules, now_s);
        let tail = lane.slices.iter().find(|slice| slice.kind == SliceKind::Tail).unwrap().id;
        walk(lane, rules, tail, log, known, now_s);
        for _ in 0..1000 {
            lane.open_sweeps(rules, now_s);
            let closed = lane.slices.iter().filter(|slice| slice.kind != SliceKind::Tail);
            let due = |slice: &&Slice| {
                !slice.confirming || slice.to_s.is_some_and(|to| now_s >= to + rules.settling_s)
            };
            let Some(slice) = closed.into_iter().find(due) else {
                assert!(!lane.is_sweep_due(rules, now_s), "due and not opened");
                return gaps;
            };
            let (id, kind) = (slice.id, slice.kind);
            let gap = walk(lane, rules, id, log, known, now_s);
            gaps.extend(gap.filter(|_| kind == SliceKind::Sweep));
        }
        panic!("sweeps without end: {lane:?}");
    }

    #[test]
    fn ages_rise_and_the_last_look_is_the_last() {
        let ages = |retention, further: &[i64], margin| {
            SweepAges::new(600, further, retention, margin).as_slice().to_vec()
        };
        assert_eq!(ages(Some(7 * DAY_S), &[DAY_S], Some(DAY_S)), [600, DAY_S, 6 * DAY_S]);
        assert_eq!(ages(Some(7 * DAY_S), &[DAY_S, 6 * DAY_S, 9 * DAY_S], Some(DAY_S)).len(), 3);
        assert_eq!(ages(None, &[DAY_S, DAY_S, 1], Some(DAY_S)), [600, DAY_S]);
        assert_eq!(ages(Some(DAY_S), &[], Some(DAY_S)), [600], "no last look before settling");
        assert_eq!(ages(Some(DAY_S), &[], None), [600]);
    }

    #[test]
    fn what_a_backfill_read_when_it_was_old_is_not_read_again_and_the_rest_is_at_each_age() {
        let rules = rules();
        let (mut lane, log, mut known) =
            (LaneState::begin(&rules, NOW), Log::new(), BTreeSet::new());
        turn(&mut lane, &rules, &log, &mut known, NOW);
        assert_eq!(lane.frontier_s(&rules, NOW), Some(NOW - 600));
        let read_at = |lane: &LaneState, age: i64| {
            let swept = lane.swept.iter().find(|swept| swept.age_s == age).unwrap();
            swept.spans.as_slice().last().unwrap().1
        };
        assert_eq!(read_at(&lane, DAY_S), NOW - DAY_S);
        assert_eq!(read_at(&lane, 7 * DAY_S - 12 * HOUR_S), NOW - 7 * DAY_S + 12 * HOUR_S);
        // little is due for a while, then a whole span at once
        assert!(!lane.is_sweep_due(&rules, NOW + 500));
        let mut now_s = NOW;
        while now_s < NOW + 2 * DAY_S {
            now_s += 60;
            turn(&mut lane, &rules, &log, &mut known, now_s);
            let behind_s = now_s - lane.frontier_s(&rules, now_s).unwrap();
            assert!(behind_s <= 2 * 600 + 60, "{behind_s}");
        }
        assert!(read_at(&lane, DAY_S) >= now_s - DAY_S - HOUR_S - 60);
    }

    #[test]
    fn an_installation_that_knew_no_sweeps_reads_again_what_github_still_has_and_no_gap_is_recorded()
     {
        let rules = rules();
        let mut lane = LaneState::begin(&rules, NOW);
        let (mut known, day) = (BTreeSet::new(), NOW - 3 * DAY_S);
        turn(&mut lane, &rules, &Log::new(), &mut known, NOW);
        lane.swept.clear();
        let later = NOW + 8 * DAY_S;
        assert_eq!(lane.frontier_s(&rules, later), None);
        let log = vec![(day, NOW + 1), (later - 2 * DAY_S, later - DAY_S)];
        // opened in one moment, asked for in another
        lane.split_tail(&rules, later);
        lane.open_sweeps(&rules, later);
        let mut gaps = Vec::new();
        for minute in 5..100 {
            gaps.extend(turn(&mut lane, &rules, &log, &mut known, later + minute * 60));
        }
        assert_eq!(gaps, []);
        assert_eq!(known, BTreeSet::from([1]), "the first has expired");
        assert!(lane.frontier_s(&rules, later + 6000).unwrap() > later - HOUR_S);
    }

    /// The tail is read once or twice a minute; sweeps of an idle lane must not add as much again.
    #[test]
    fn an_idle_day_costs_few_sweeps() {
        let rules = rules();
        let (mut lane, log, mut known) =
            (LaneState::begin(&rules, NOW), Log::new(), BTreeSet::new());
        turn(&mut lane, &rules, &log, &mut known, NOW);
        let before = lane.next_slice;
        for minute in 0..24 * 60 {
            turn(&mut lane, &rules, &log, &mut known, NOW + minute * 60);
        }
        let sweeps = lane.next_slice - before;
        assert!(
            (18..=22).contains(&sweeps),
            "{sweeps} sweeps: none at settling, which the polls do; 12 at a day, 8 last looks"
        );
        // two lanes that are polled each minute, in an hour, of 1,750 requests
        let idle = 2 * (24 * 60 + sweeps) / 24;
        assert!(idle * 100 <= 1_750 * 7, "{idle} requests an hour");
    }

    #[test]
    fn another_settling_age_forgives_nothing_that_was_owed() {
        let owed = |new_settling: i64| {
            let old = rules();
            // an entry at the end of the poll's time: the next poll does not read before it again
            let (mut lane, log, mut known) =
                (LaneState::begin(&old, NOW), vec![(NOW, NOW)], BTreeSet::new());
            turn(&mut lane, &old, &log, &mut known, NOW);
            let tail = lane.slices.iter().find(|slice| slice.kind == SliceKind::Tail).unwrap().id;
            walk(&mut lane, &old, tail, &log, &mut known, NOW + 600);
            let sweeps = SweepAges::new(new_settling, &[DAY_S], old.retention_s, Some(12 * HOUR_S));
            let new = LaneRules { settling_s: new_settling, sweeps, ..old };
            let gaps = turn(&mut lane, &new, &log, &mut known, NOW + 8 * DAY_S);
            (gaps.first().map(|gap| gap.from_s), gaps.last().map(|gap| gap.to_s))
        };
        assert_eq!(owed(600), (Some(NOW - 600), Some(NOW - 1)));
        assert_eq!(owed(900), (Some(NOW - 600), Some(NOW - 1)));
    }

    #[test]
    fn what_is_kept_for_ever_is_read_again_as_far_as_fingerprints_reach() {
        let sweeps = SweepAges::new(600, &[DAY_S], None, None);
        let rules = LaneRules { retention_s: None, sweeps, ..rules() };
        let (mut lane, log, mut known) =
            (LaneState::begin(&rules, NOW), Log::new(), BTreeSet::new());
        turn(&mut lane, &rules, &log, &mut known, NOW);
        lane.swept.clear();
        let later = NOW + HOUR_S;
        let mut lowest = i64::MAX;
        for _ in 0..200 {
            lane.open_sweeps(&rules, later);
            let sweep = lane.slices.iter().find(|slice| slice.kind == SliceKind::Sweep);
            let Some((id, from_s)) = sweep.map(|slice| (slice.id, slice.from_s)) else { break };
            lowest = lowest.min(from_s);
            walk(&mut lane, &rules, id, &log, &mut known, later);
        }
        assert_eq!(lowest, later - UNLIMITED_S + 600);
        assert!(!lane.is_sweep_due(&rules, later));
    }

    #[test]
    fn time_that_expires_before_it_was_read_again_is_a_gap() {
        let rules = rules();
        let mut lane = LaneState::begin(&rules, NOW);
        let log: Log = (0..=200).map(|n| (NOW + n * 300, NOW + n * 300)).collect();
        let mut known = BTreeSet::new();
        turn(&mut lane, &rules, &log, &mut known, NOW);
        // polls only: whoever has no budget for sweeps
        let mut now_s = NOW;
        for _ in 0..200 {
            now_s += 300;
            let tail = lane.slices.iter().find(|slice| slice.kind == SliceKind::Tail).unwrap().id;
            walk(&mut lane, &rules, tail, &log, &mut known, now_s);
        }
        let unswept = (NOW - 600, now_s - 1);
        now_s += 8 * DAY_S;
        let gaps = turn(&mut lane, &rules, &log, &mut known, now_s);
        assert_eq!(gaps.first().map(|gap| gap.from_s), Some(unswept.0));
        assert!(gaps.windows(2).all(|pair| pair[0].to_s == pair[1].from_s), "{gaps:?}");
        assert_eq!(gaps.last().map(|gap| gap.to_s), Some(unswept.1));
    }

    proptest! {
        /// Whatever is late by less than the last look is found before it expires, through stops of up to a day.
        #[test]
        fn every_late_entry_is_found(
            entries in vec((0_i64..3 * DAY_S, prop_oneof![Just(0), 0..DAY_S, 0..6 * DAY_S]), 0..40),
            pauses in vec(prop_oneof![4 => 60_i64..1200, 1 => HOUR_S..DAY_S], 60..90),
        ) {
            let rules = rules();
            let log: Log = entries.iter().map(|&(at, late)| (NOW + at, NOW + at + late)).collect();
            let (mut lane, mut known) = (LaneState::begin(&rules, NOW), BTreeSet::new());
            let (mut now_s, mut pauses) = (NOW, pauses.into_iter().cycle());
            let mut gaps = Vec::new();
            while now_s < NOW + 11 * DAY_S {
                gaps.extend(turn(&mut lane, &rules, &log, &mut known, now_s));
                now_s += pauses.next().unwrap_or(60).min(6 * HOUR_S);
            }
            prop_assert_eq!(known.len(), log.len(), "{:?}", lane);
            prop_assert_eq!(gaps, []);
        }
    }
}
