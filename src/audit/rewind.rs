//! Going back to a saved state, and reading time again on request: more is read, never less is known.
//!
//! Going back takes away what a lane claims to have read and the saved state did not, and opens it as backfill. It adds no
//! claim and takes no open slice over: whatever checkpoint it is given, also a wrong one, at worst costs requests. GitHub's
//! cursors count as the times that they stand for. Sequence, counters and ids of slices never go back, so what is read
//! again is recognised by its fingerprints and dropped.

use super::checkpoint::{Checkpoint, LaneState};
use super::entity::Lane;
use super::interval::Intervals;
use super::lane::{LaneRules, RETENTION_SLACK_S};
use super::slice::{Slice, SliceKind};
use std::collections::BTreeMap;

/// Most slices of time to be read again on request that may be open at once in a lane.
pub const REREADS_MAX: usize = 200;
/// Entries that one request shows.
const ENTRIES_PER_REQUEST: u64 = 100;

/// What going back means for one lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Time that is read again whole.
    pub again: Intervals,
    /// What of it GitHub is said to keep no longer: what is gone there stays what Kafka has of it.
    pub expired: Intervals,
    /// For each sweep age, seconds, that was read at since: the other time that is read again at it.
    pub swept_again: Vec<(i64, Intervals)>,
    /// Entries that were committed since, where the saved state tells: about as many are read again and dropped.
    pub entries: Option<u64>,
    /// Slices that are opened for it.
    pub slices: usize,
}

impl Rewound {
    /// Whether nothing is read again.
    pub fn is_empty(&self) -> bool {
        self.again.is_empty() && self.swept_again.is_empty()
    }

    /// About how many requests the backfill takes, where it is known.
    pub fn requests(&self) -> Option<u64> {
        let slices = u64::try_from(self.slices).unwrap_or(u64::MAX);
        if self.again.is_empty() {
            return Some(0);
        }
        Some(self.entries?.div_ceil(ENTRIES_PER_REQUEST).saturating_add(slices))
    }
}

impl Checkpoint {
    /// This state gone back to a saved one, and what that means for each lane that is read.
    pub fn rewound(
        &self,
        saved: &Self,
        rules: &BTreeMap<Lane, LaneRules>,
        now_s: i64,
    ) -> (Self, BTreeMap<Lane, Rewound>) {
        let mut next = self.clone();
        let mut all = BTreeMap::new();
        for (lane, state) in &mut next.lanes {
            if let Some(rules) = rules.get(lane) {
                all.insert(*lane, state.rewind(saved.lanes.get(lane), rules, now_s));
            }
        }
        (next, all)
    }
}

/// Why time is not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RereadError {
    /// The span holds no time, or none that GitHub keeps.
    #[error(
        "nothing is left to read there: the time is empty, has not come yet, or GitHub keeps it no longer"
    )]
    Nothing,
    /// Enough is open already.
    #[error(
        "{REREADS_MAX} slices are waiting to be read again in this lane already: wait until they are done"
    )]
    TooMany,
}

impl LaneState {
    /// Goes back to `saved`; `None`: to before the lane began.
    pub fn rewind(&mut self, saved: Option<&LaneState>, rules: &LaneRules, now_s: i64) -> Rewound {
        self.detach_tail();
        self.adopt_ages(rules, now_s);
        let mut reopened = self.reopen(&saved.map(LaneState::had_read).unwrap_or_default());
        let again = self.read_since(saved, rules, now_s);
        // what expires before it is read again is a gap only where it was never read after settling: nothing else is lost
        let spans: Vec<_> =
            again.as_slice().iter().map(|&span| (span, self.settled(span))).collect();
        let swept_again = self.unsweep(saved, rules, &again, now_s);
        self.collected = self.collected.without(&again);
        self.drop_covered(&again);
        let kept = self.slices.len();
        for ((from_s, to_s), floor_s) in spans {
            self.open_backfill(rules, from_s, to_s, floor_s, now_s);
        }
        again.as_slice().iter().for_each(|&(from_s, to_s)| reopened.insert(from_s, to_s));
        let again = reopened;
        Rewound {
            expired: again.within(&up_to(rules.edge_s(now_s).unwrap_or(i64::MIN))),
            swept_again,
            entries: self.entries.checked_sub(saved.map_or(0, |saved| saved.entries)),
            slices: self.slices.len().saturating_sub(kept),
            again,
        }
    }

    /// Opens slices that read `from_s` to `to_s` once more, before all sweeps that may wait; returns what they cover.
    pub fn reread(
        &mut self,
        rules: &LaneRules,
        from_s: i64,
        to_s: i64,
        now_s: i64,
    ) -> Result<(i64, i64), RereadError> {
        let (from_s, to_s) = (from_s.max(oldest_s(rules, now_s)), to_s.min(now_s));
        if from_s >= to_s {
            return Err(RereadError::Nothing);
        }
        let is_reread =
            |slice: &&Slice| slice.kind == SliceKind::Sweep && slice.sweep_age_s.is_none();
        let mut open = self.slices.iter().filter(is_reread).count();
        let mut at_s = from_s;
        let mut slices = Vec::new();
        while at_s < to_s {
            open = open.saturating_add(1);
            if open > REREADS_MAX {
                return Err(RereadError::TooMany);
            }
            let end_s = at_s.saturating_add(rules.slice_span_s()).min(to_s);
            slices.push((at_s, end_s));
            at_s = end_s;
        }
        for (from_s, to_s) in slices {
            let id = self.next_slice_id();
            // it was read when it was due, or is read by a slice of its own: no gap when it expires meanwhile
            let slice = Slice::new(id, SliceKind::Sweep, from_s, Some(to_s), Some(now_s));
            self.slices.push(Slice { gap_to_s: Some(to_s), ..slice });
        }
        Ok((from_s, to_s))
    }

    /// The tail covers only what it has not read: what it has read may be taken from what is collected.
    fn detach_tail(&mut self) {
        let tail = self.slices.iter_mut().find(|slice| slice.kind == SliceKind::Tail);
        if let Some(tail) = tail {
            let from_s = std::mem::replace(&mut tail.from_s, tail.start_s);
            let to_s = tail.start_s;
            self.collected.insert(from_s, to_s);
        }
    }

    /// Open backfill goes back too: each slice starts again where it has read what the saved state had not. Returns that time.
    fn reopen(&mut self, had: &Intervals) -> Intervals {
        let mut again = Intervals::default();
        for slice in self.slices.iter_mut().filter(|slice| slice.kind == SliceKind::Backfill) {
            let unread_s = slice.unread_s();
            let mut read = Intervals::default();
            read.insert(slice.from_s, unread_s);
            let since = read.without(had);
            let Some(&(from_s, _)) = since.as_slice().first() else { continue };
            // it was read: what expires before it is read again is no gap
            slice.gap_to_s = slice.gap_to_s.max(Some(unread_s));
            slice.start_s = from_s;
            slice.walk = None;
            slice.confirming = false;
            again.insert(from_s, unread_s);
        }
        again
    }

    /// What was read that the saved state had not read, as far back as GitHub may have it.
    fn read_since(&self, saved: Option<&LaneState>, rules: &LaneRules, now_s: i64) -> Intervals {
        let had = saved.map(LaneState::had_read).unwrap_or_default();
        self.collected.without(&had).without(&up_to(oldest_s(rules, now_s)))
    }

    /// All time that was read once, also that of slices that are not at their end.
    fn had_read(&self) -> Intervals {
        let mut read = self.collected.clone();
        for slice in self.slices.iter().filter(|slice| slice.kind != SliceKind::Sweep) {
            read.insert(slice.from_s, slice.unread_s());
        }
        read
    }

    /// Up to where a span was read after settling; its end where nothing is known of sweeps.
    fn settled(&self, (from_s, to_s): (i64, i64)) -> i64 {
        let swept = self.swept.first().map_or(to_s, |swept| swept.spans.first_missing(from_s));
        swept.clamp(from_s, to_s)
    }

    /// Takes from each sweep age what is read again, and what the saved state had not read at it and GitHub still has.
    /// Returns the latter.
    fn unsweep(
        &mut self,
        saved: Option<&LaneState>,
        rules: &LaneRules,
        again: &Intervals,
        now_s: i64,
    ) -> Vec<(i64, Intervals)> {
        let mut saved = saved.cloned().unwrap_or_else(|| Self::begin(rules, now_s));
        saved.adopt_ages(rules, now_s);
        let gone_s = rules.oldest_kept_s(now_s).saturating_add(rules.settling_s);
        let left = self.collected.without(again);
        let mut swept_again = Vec::new();
        for swept in &mut self.swept {
            let same = saved.swept.iter().find(|it| it.age_s == swept.age_s);
            let mut kept = same.map(|it| it.spans.clone()).unwrap_or_default();
            kept.insert(i64::MIN, gone_s);
            let before = std::mem::take(&mut swept.spans);
            swept.spans = before.without(again).within(&kept);
            let undone = before.without(&swept.spans).within(&left);
            if !undone.is_empty() {
                swept_again.push((swept.age_s, undone));
            }
        }
        swept_again
    }

    /// Drops the sweeps of time that is read again whole, and the empty backfills that are a part of it.
    fn drop_covered(&mut self, again: &Intervals) {
        let spans = again.as_slice();
        self.slices.retain(|slice| {
            let is_dropped = |&(a, b): &(i64, i64)| match slice.sweep_age_s {
                // becomes due again by its age
                Some(_) => slice.from_s < b && slice.to_s.is_none_or(|to| a < to),
                // one that was asked for is remembered nowhere else
                None => a <= slice.from_s && slice.to_s.is_some_and(|to| to <= b),
            };
            slice.kind != SliceKind::Sweep || !spans.iter().any(is_dropped)
        });
        self.backfills.retain(|it| {
            let covers = |&(a, b): &(i64, i64)| a <= it.from_s && it.to_s <= b;
            it.empty_at_s.is_none() || !spans.iter().any(covers)
        });
    }
}

/// How far back it is asked for: a filter costs nothing, the edge is vague.
fn oldest_s(rules: &LaneRules, now_s: i64) -> i64 {
    rules.edge_s(now_s).map_or(i64::MIN, |edge| edge.saturating_sub(RETENTION_SLACK_S))
}

fn up_to(to_s: i64) -> Intervals {
    let mut spans = Intervals::default();
    spans.insert(i64::MIN, to_s);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::SweepAges;
    use crate::audit::lane::{Expired, OLDEST_S, Shown};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const NOW: i64 = 1_790_000_000;
    const HOUR_S: i64 = 3600;
    const DAY_S: i64 = 24 * HOUR_S;

    fn rules() -> LaneRules {
        let retention_s = Some(7 * DAY_S);
        let sweeps = SweepAges::new(600, &[DAY_S], retention_s, Some(12 * HOUR_S));
        LaneRules { readers: 1, lane: Lane::Git, retention_s, settling_s: 600, sweeps }
    }

    /// One page that ends a walk of a slice; each page shows one entry when `news` says so.
    fn walk(
        lane: &mut LaneState,
        rules: &LaneRules,
        id: u64,
        news: bool,
        now_s: i64,
    ) -> Option<Expired> {
        let query = lane.slice(id)?.next_query();
        lane.begin_walk(id, query, now_s);
        let time_s = query.to_s.unwrap_or(now_s);
        let times_s = if news { vec![Some(time_s)] } else { vec![] };
        let shown = Shown { times_s, new_entries: u64::from(news), cursor: None, more: false };
        lane.apply_page(rules, id, &shown, now_s)
    }

    /// A poll, and at most `walks` walks of what is open or due; returns the gaps.
    fn turn(
        lane: &mut LaneState,
        rules: &LaneRules,
        walks: usize,
        news: bool,
        now_s: i64,
    ) -> Vec<Expired> {
        lane.split_tail(rules, now_s);
        let tail = lane.slices.iter().find(|slice| slice.kind == SliceKind::Tail).unwrap().id;
        let mut gaps = Vec::from_iter(walk(lane, rules, tail, news, now_s));
        for _ in 0..walks {
            lane.open_sweeps(rules, now_s);
            let is_open = |slice: &&Slice| {
                slice.to_s.is_some_and(|to| !slice.confirming || now_s >= to + rules.settling_s)
            };
            let Some(slice) = lane.slices.iter().find(is_open) else { break };
            gaps.extend(walk(lane, rules, slice.id, news && !slice.confirming, now_s));
        }
        gaps
    }

    /// Everything that is read, or will be: collected time and open slices.
    fn covered(lane: &LaneState) -> Intervals {
        let mut all = lane.collected.clone();
        for slice in lane.slices.iter().filter(|slice| slice.kind != SliceKind::Sweep) {
            all.insert(slice.from_s, slice.to_s.unwrap_or(i64::MAX));
        }
        all
    }

    fn ids_are_sound(lane: &LaneState) -> bool {
        let mut ids: Vec<_> = lane.slices.iter().map(|slice| slice.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.len() == lane.slices.len()
            && ids.iter().all(|&id| id < lane.next_slice)
            && lane.backfills.iter().all(|it| it.id < lane.next_backfill)
            && lane.slices.iter().filter(|slice| slice.kind == SliceKind::Tail).count() == 1
            && lane
                .slices
                .iter()
                .filter_map(|slice| slice.backfill)
                .all(|id| lane.backfills.iter().any(|backfill| backfill.id == id))
    }

    /// A lane that has read everything up to `NOW`.
    fn settled() -> LaneState {
        let rules = rules();
        let mut lane = LaneState::begin(&rules, NOW - DAY_S);
        turn(&mut lane, &rules, 200, true, NOW - DAY_S + 700);
        for step in (0..=23).rev() {
            turn(&mut lane, &rules, 50, true, NOW - step * HOUR_S);
        }
        lane
    }

    #[test]
    fn what_was_read_since_is_read_again_and_nothing_else() {
        let rules = rules();
        let saved = settled();
        let mut lane = saved.clone();
        for hours in 1..=5 {
            turn(&mut lane, &rules, 50, true, NOW + hours * HOUR_S);
        }
        let (before, now_s) = (lane.clone(), NOW + 5 * HOUR_S);
        let rewound = lane.rewind(Some(&saved), &rules, now_s);
        let tail = saved.slices.iter().find(|slice| slice.kind == SliceKind::Tail).unwrap();
        let &[(from_s, to_s)] = rewound.again.as_slice() else { panic!("{rewound:?}") };
        assert_eq!(from_s, tail.start_s);
        assert!(now_s - to_s <= 600, "up to the tail: {}", now_s - to_s);
        assert!(rewound.expired.is_empty());
        assert_eq!(rewound.entries, Some(before.entries - saved.entries));
        assert_eq!(rewound.slices, 2, "what was read after settling, and the last minutes");
        assert_eq!(rewound.requests(), Some(1 + 2));
        assert_eq!(lane.entries, before.entries, "counters never go back");
        assert!(lane.next_slice > before.next_slice);
        // the sweeps of those hours are owed again, each for as long as it was
        for (age_s, spans) in &rewound.swept_again {
            let seconds: i64 = spans.as_slice().iter().map(|(a, b)| b - a).sum();
            assert!(seconds <= 6 * HOUR_S, "{age_s}: {seconds}");
        }
        // walked to the end with nothing new, the lane stands where it stood
        let again = turn(&mut lane, &rules, 500, false, now_s + 1200);
        assert_eq!(again, []);
        assert!(before.collected.without(&lane.collected).is_empty());
    }

    #[test]
    fn going_back_to_now_changes_nothing() {
        let rules = rules();
        let lane = settled();
        let mut same = lane.clone();
        let rewound = same.rewind(Some(&lane), &rules, NOW);
        assert!(rewound.is_empty(), "{rewound:?}");
        assert_eq!(rewound.requests(), Some(0));
        assert_eq!(same.collected, lane.collected);
        assert_eq!(same.next_slice, lane.next_slice);
    }

    /// What an open slice has read since is not among what is collected, and is read again all the same.
    #[test]
    fn a_slice_that_is_half_read_goes_back_too() {
        let rules = rules();
        let saved = LaneState::begin(&rules, NOW);
        let mut lane = saved.clone();
        let slice = lane.slices.iter().rfind(|it| it.kind == SliceKind::Backfill).unwrap().clone();
        lane.begin_walk(slice.id, slice.next_query(), NOW);
        let times_s = vec![Some(slice.from_s + 10), Some(slice.from_s + 500)];
        let cursor = crate::audit::Cursor::new("c".to_owned());
        let shown = Shown { times_s, new_entries: 2, cursor, more: true };
        assert_eq!(lane.apply_page(&rules, slice.id, &shown, NOW), None);
        let half = lane.clone();
        assert_eq!(lane.slice(slice.id).unwrap().unread_s(), slice.from_s + 500);
        let rewound = lane.rewind(Some(&saved), &rules, NOW);
        assert_eq!(rewound.again.as_slice(), [(slice.from_s, slice.from_s + 500)]);
        let back = lane.slice(slice.id).unwrap();
        assert_eq!((back.unread_s(), &back.walk), (slice.from_s, &None));
        let later = lane.slice(slice.id).unwrap().from_s + 7 * DAY_S + 100;
        assert_eq!(walk(&mut lane, &rules, slice.id, false, later), None, "it was read: no gap");
        let mut same = half.clone();
        assert!(same.rewind(Some(&half), &rules, NOW).is_empty());
    }

    /// What is read for the second time and expires meanwhile was not lost.
    #[test]
    fn what_expires_before_it_is_read_again_is_no_gap() {
        let rules = rules();
        let saved = LaneState::begin(&rules, NOW - DAY_S);
        let mut lane = settled();
        let rewound = lane.rewind(Some(&saved), &rules, NOW);
        let first = rewound.again.as_slice()[0].0;
        assert!(first < NOW - 7 * DAY_S, "GitHub may have more than it says");
        assert!(!rewound.expired.is_empty());
        assert_eq!(turn(&mut lane, &rules, 500, false, NOW + 3 * DAY_S), []);
    }

    #[test]
    fn to_before_the_lane_began() {
        let rules = rules();
        let mut lane = settled();
        let rewound = lane.rewind(None, &rules, NOW);
        assert_eq!(rewound.entries, Some(lane.entries));
        assert!(lane.collected.is_empty() || lane.collected.as_slice()[0].1 < NOW - 7 * DAY_S);
        assert!(ids_are_sound(&lane));
    }

    #[test]
    fn time_read_on_request_is_a_sweep_that_counts_and_leaves_no_gap() {
        let rules = rules();
        let mut lane = settled();
        let (from_s, to_s) = (NOW - 3 * DAY_S, NOW - 2 * HOUR_S);
        let covers = lane.reread(&rules, from_s, to_s, NOW).unwrap();
        assert_eq!(covers, (from_s, to_s));
        let opened: Vec<_> = lane
            .slices
            .iter()
            .filter(|it| it.kind == SliceKind::Sweep && it.sweep_age_s.is_none())
            .collect();
        assert_eq!(opened.len(), 3, "a day at a time");
        assert!(opened.iter().all(|slice| slice.opened_s == Some(NOW)));
        let ids: Vec<_> = opened.iter().map(|slice| slice.id).collect();
        for id in ids {
            assert_eq!(walk(&mut lane, &rules, id, false, NOW + 9 * DAY_S), None, "no gap");
            assert_eq!(lane.slice(id), None, "read to its end");
        }
        assert!(lane.collected.contains(from_s));
        for (from_s, to_s) in [(to_s, from_s), (NOW + 5, NOW + 9), (OLDEST_S, OLDEST_S + 5)] {
            assert_eq!(lane.clone().reread(&rules, from_s, to_s, NOW), Err(RereadError::Nothing));
        }
        let mut full = settled();
        let refused = (0..9).find_map(|_| full.reread(&rules, 0, NOW, NOW).err());
        assert_eq!(refused, Some(RereadError::TooMany));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever was read between: time is never forgotten, ids never come twice, and what is known to be read only
        /// gets less. Once all is read again no gap is told, and as much is known as before.
        #[test]
        fn going_back_loses_nothing(
            before in vec((60..20_000_i64, 0..6_usize, any::<bool>()), 1..8),
            after in vec((60..90_000_i64, 0..6_usize, any::<bool>()), 0..8),
            unknown in any::<bool>(),
        ) {
            let rules = rules();
            let mut lane = LaneState::begin(&rules, NOW);
            let mut now_s = NOW;
            for (step_s, walks, news) in before {
                now_s += step_s;
                turn(&mut lane, &rules, walks, news, now_s);
            }
            let saved = lane.clone();
            for (step_s, walks, news) in after {
                now_s += step_s;
                turn(&mut lane, &rules, walks, news, now_s);
            }
            let was = lane.clone();
            let rewound = lane.rewind((!unknown).then_some(&saved), &rules, now_s);
            prop_assert!(ids_are_sound(&lane), "{:?}", lane);
            prop_assert!(covered(&was).without(&covered(&lane)).is_empty());
            let mut claimed = was.clone();
            claimed.detach_tail();
            claimed.adopt_ages(&rules, now_s);
            prop_assert!(lane.collected.without(&claimed.collected).is_empty());
            prop_assert_eq!(&claimed.had_read().without(&lane.had_read()), &rewound.again);
            for (now, then) in lane.swept.iter().zip(&claimed.swept) {
                prop_assert!(now.spans.without(&then.spans).is_empty());
            }
            prop_assert_eq!(lane.entries, was.entries);
            prop_assert!(lane.next_slice >= was.next_slice && lane.next_backfill >= was.next_backfill);
            let json = serde_json::to_vec(&lane).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<LaneState>(&json).unwrap(), &lane);
            let gaps = turn(&mut lane, &rules, 2000, false, now_s + 1);
            prop_assert_eq!(gaps, turn(&mut was.clone(), &rules, 2000, false, now_s + 1));
            turn(&mut lane, &rules, 2000, false, now_s + 700);
            turn(&mut lane, &rules, 2000, false, now_s + 1400);
            prop_assert!(was.collected.without(&lane.collected).is_empty());
        }
    }
}
