//! What happens to a lane's slices: the rules of collecting, as pure functions of state, page and now.
//!
//! Neighbouring queries share their edge second, because whether GitHub's `A..B` includes the milliseconds of second B
//! is not known; what comes twice is dropped by its id.

use super::checkpoint::{Backfill, LaneState};
use super::cursor::Cursor;
use super::entity::Lane;
use super::interval::Intervals;
use super::slice::{Query, Slice, SliceKind, Walk};
use super::sweep::SweepAges;

/// GitHub was founded in 2008: nothing is older. Epoch seconds.
pub const OLDEST_S: i64 = 1_199_145_600;
/// The first backfill asks this much further back than the retention: a filter costs nothing, the edge is vague.
pub const RETENTION_SLACK_S: i64 = 35 * DAY_S;
/// A tail that starts more than settling and this behind now is turned into backfill.
pub const TAIL_SLACK_S: i64 = 600;
/// A wholly empty backfill is asked again after this time.
pub const UNCONFIRMED_AGAIN_S: i64 = DAY_S;
const DAY_S: i64 = 86_400;
/// A backfill is not cut into shorter slices than this for the sake of several credentials.
const SHARE_MIN_S: i64 = 3_600;

/// What a lane's rules depend on besides its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneRules {
    /// Which lane.
    pub lane: Lane,
    /// How long GitHub keeps it; `None`: unlimited.
    pub retention_s: Option<i64>,
    /// Age at which nothing late is expected any more.
    pub settling_s: i64,
    /// At which ages it is read again.
    pub sweeps: SweepAges,
    /// How many credentials read it: a backfill is cut into so many slices at least, so that each has work.
    pub readers: u32,
}

impl LaneRules {
    /// Longest slice: a few for the whole retention, so that a lost cursor costs little and the checkpoint stays small.
    pub(super) fn slice_span_s(&self) -> i64 {
        let least_s = match self.lane {
            Lane::Web | Lane::GraphQl => 30 * DAY_S,
            Lane::Git => DAY_S,
        };
        self.retention_s.map_or(least_s, |retention| least_s.max(retention / 30))
    }

    /// Before this second, GitHub has deleted everything at `now_s`.
    pub(super) fn edge_s(&self, now_s: i64) -> Option<i64> {
        self.retention_s.map(|retention| now_s.saturating_sub(retention))
    }
}

/// What one page showed, as far as the rules care.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Entry time of each entry, epoch seconds, in the order in which they came.
    pub times_s: Vec<Option<i64>>,
    /// How many were new.
    pub new_entries: u64,
    /// The cursor of the next page, where it may be kept.
    pub cursor: Option<Cursor>,
    /// Whether there is a next page at all.
    pub more: bool,
}

/// A period that expired before it was read, or read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// First second.
    pub from_s: i64,
    /// Second after the last.
    pub to_s: i64,
}

impl LaneState {
    /// A lane's first state: the tail from now - settling, the backfill before it.
    pub fn begin(rules: &LaneRules, now_s: i64) -> Self {
        let start_s = now_s.saturating_sub(rules.settling_s);
        let mut lane = Self {
            began_s: now_s,
            collected: Intervals::default(),
            slices: Vec::new(),
            next_slice: 1,
            backfills: Vec::new(),
            next_backfill: 1,
            entries: 0,
            swept: Vec::new(),
        };
        lane.push_slice(SliceKind::Tail, start_s, None, None, None);
        let (from_s, floor_s) = match rules.edge_s(now_s) {
            // what expires while the first pages are fetched cannot be saved by anyone: settling is allowed for it
            Some(edge) => (
                edge.saturating_sub(RETENTION_SLACK_S),
                edge.saturating_add(rules.settling_s).min(start_s),
            ),
            None => (OLDEST_S, OLDEST_S),
        };
        lane.open_backfill(rules, from_s, start_s, floor_s, now_s);
        lane.open_sweeps(rules, now_s);
        lane
    }

    /// Turns what a tail has fallen behind into backfill; true when something changed.
    ///
    /// To be called before each walk of the tail, and after a restart.
    pub fn split_tail(&mut self, rules: &LaneRules, now_s: i64) -> bool {
        let Some(tail) = self.slices.iter_mut().find(|slice| slice.kind == SliceKind::Tail) else {
            return false;
        };
        let behind_s = tail.restart_s();
        let live_s = now_s.saturating_sub(rules.settling_s);
        if live_s.saturating_sub(behind_s) <= TAIL_SLACK_S {
            return false;
        }
        self.collected.insert(tail.from_s, behind_s);
        tail.from_s = live_s;
        tail.start_s = live_s;
        tail.walk = None;
        self.open_backfill(rules, behind_s, live_s, behind_s, now_s);
        true
    }

    /// Opens slices for backfills that were wholly empty and are due to be asked again; true when something changed.
    ///
    /// One whose time GitHub can no longer have is not asked again.
    pub fn ask_again(&mut self, rules: &LaneRules, now_s: i64, credentials_changed: bool) -> bool {
        let known = self.backfills.len();
        if let Some(edge_s) = rules.edge_s(now_s) {
            let oldest_s = edge_s.saturating_sub(RETENTION_SLACK_S);
            self.backfills.retain(|it| it.empty_at_s.is_none() || it.to_s > oldest_s);
        }
        let forgotten = self.backfills.len() < known;
        let due: Vec<_> = self
            .backfills
            .iter_mut()
            .filter(|backfill| {
                backfill.empty_at_s.is_some_and(|at| {
                    credentials_changed || now_s.saturating_sub(at) >= UNCONFIRMED_AGAIN_S
                })
            })
            .map(|backfill| {
                backfill.empty_at_s = None;
                (backfill.id, backfill.from_s, backfill.to_s)
            })
            .collect();
        for &(id, from_s, to_s) in &due {
            self.push_backfill_slices(rules, (id, now_s), from_s, to_s, from_s);
        }
        forgotten || !due.is_empty()
    }

    /// Begins a new walk of a slice, as its first page is applied, which was asked for at `asked_s`.
    pub fn begin_walk(&mut self, slice: u64, query: Query, asked_s: i64) {
        if let Some(slice) = self.slice_mut(slice) {
            slice.walk = Some(Walk { began_s: Some(asked_s), ..Walk::new(query) });
        }
    }

    /// Drops a cursor that GitHub no longer takes: the next walk starts where nothing can be missed.
    pub fn drop_cursor(&mut self, slice: u64) {
        if let Some(slice) = self.slice_mut(slice) {
            slice.start_s = slice.restart_s();
            slice.walk = None;
        }
    }

    /// Takes what a page of a slice's walk showed. `now_s` is GitHub's now when the answer came, however much later it is
    /// applied. Returns what expired before it was read.
    pub fn apply_page(
        &mut self,
        rules: &LaneRules,
        id: u64,
        shown: &Shown,
        now_s: i64,
    ) -> Option<Expired> {
        let floor_s = self.gap_floor_s(id);
        let entries = count(shown.times_s.len());
        let slice = self.slice_mut(id)?;
        let expired = slice.expired(rules, floor_s, now_s);
        if let Some(expired) = expired {
            slice.gap_to_s = Some(expired.to_s);
        }
        slice.entries = slice.entries.saturating_add(entries);
        let backfill = slice.backfill;
        if let Some(walk) = slice.walk.as_mut() {
            take(walk, shown, now_s);
        }
        if let Some(backfill) = backfill.and_then(|id| self.backfill_mut(id)) {
            backfill.entries = backfill.entries.saturating_add(entries);
        }
        self.entries = self.entries.saturating_add(shown.new_entries);
        if !shown.more {
            self.end_walk(rules, id, now_s);
        }
        expired
    }

    /// Epoch second of the lowest edge that is not collected yet and still counts.
    pub fn lowest_edge_s(&self) -> Option<i64> {
        self.slices
            .iter()
            .filter(|slice| slice.kind != SliceKind::Sweep)
            .filter_map(|slice| {
                let floor = slice
                    .backfill
                    .and_then(|id| self.backfill(id))
                    .map_or(i64::MIN, |b| b.gap_floor_s);
                let counts = slice.to_s.is_none_or(|to| to > floor);
                counts.then(|| slice.unread_s().max(floor))
            })
            .min()
    }

    fn end_walk(&mut self, rules: &LaneRules, id: u64, now_s: i64) {
        let Some(slice) = self.slices.iter_mut().find(|slice| slice.id == id) else {
            return;
        };
        let Some(walk) = slice.walk.take() else {
            return;
        };
        match slice.to_s {
            None => {
                // reckoned from the walk's beginning: entries may come while it goes on or waits for its commit, and
                // where the newest come first no later page shows them
                let settled_s = walk.began_s.map(|began| began.saturating_sub(rules.settling_s));
                let newest_s = walk.newest_s.map(|newest| newest.min(now_s).saturating_sub(1));
                slice.start_s = settled_s.max(newest_s).unwrap_or(slice.start_s).max(slice.from_s);
                let (from_s, to_s) = (slice.from_s, slice.start_s);
                self.collected.insert(from_s, to_s);
                // an idle lane's poll reads again what has settled since the one before: that is its sweep
                self.mark_read(walk.query.from_s, to_s, walk.began_s);
            }
            Some(to_s)
                if walk.new_entries == 0
                    && walk.began_s >= Some(to_s.saturating_add(rules.settling_s)) =>
            {
                let (from_s, backfill, opened_s) = (slice.from_s, slice.backfill, slice.opened_s);
                self.slices.retain(|slice| slice.id != id);
                self.collected.insert(from_s, to_s);
                self.mark_read(from_s, to_s, opened_s);
                self.end_backfill(backfill, now_s);
            }
            Some(_) => {
                slice.start_s = walk.restart_s(slice.from_s, slice.to_s);
                slice.confirming = true;
            }
        }
    }

    fn end_backfill(&mut self, id: Option<u64>, now_s: i64) {
        let Some(id) = id else { return };
        if self.slices.iter().any(|slice| slice.backfill == Some(id)) {
            return;
        }
        if let Some(backfill) = self.backfill_mut(id)
            && backfill.entries == 0
        {
            backfill.empty_at_s = Some(now_s);
            // it has been read: what expires before it is asked again is no gap
            backfill.gap_floor_s = backfill.to_s;
        } else {
            self.backfills.retain(|backfill| backfill.id != id);
        }
    }

    pub(super) fn open_backfill(
        &mut self,
        rules: &LaneRules,
        from_s: i64,
        to_s: i64,
        gap_floor_s: i64,
        now_s: i64,
    ) {
        let id = self.next_backfill;
        self.next_backfill = id.saturating_add(1);
        self.backfills.push(Backfill {
            id,
            from_s,
            to_s,
            gap_floor_s,
            entries: 0,
            empty_at_s: None,
        });
        self.push_backfill_slices(rules, (id, now_s), from_s, to_s, gap_floor_s);
    }

    fn push_backfill_slices(
        &mut self,
        rules: &LaneRules,
        (id, now_s): (u64, i64),
        from_s: i64,
        to_s: i64,
        floor_s: i64,
    ) {
        let (id, now_s) = (Some(id), Some(now_s));
        let mut at_s = from_s;
        if rules.retention_s.is_some() && from_s < floor_s && floor_s < to_s {
            self.push_slice(SliceKind::Backfill, from_s, Some(floor_s), id, now_s);
            at_s = floor_s;
        }
        let share_s = to_s.saturating_sub(at_s) / i64::from(rules.readers.max(1));
        let span_s = rules.slice_span_s().min(share_s.saturating_add(1).max(SHARE_MIN_S));
        while rules.retention_s.is_some() && to_s.saturating_sub(at_s) > span_s {
            let end_s = at_s.saturating_add(span_s);
            self.push_slice(SliceKind::Backfill, at_s, Some(end_s), id, now_s);
            at_s = end_s;
        }
        self.push_slice(SliceKind::Backfill, at_s, Some(to_s), id, now_s);
    }

    fn push_slice(
        &mut self,
        kind: SliceKind,
        from_s: i64,
        to_s: Option<i64>,
        backfill: Option<u64>,
        opened_s: Option<i64>,
    ) {
        let id = self.next_slice_id();
        let slice = Slice { backfill, ..Slice::new(id, kind, from_s, to_s, opened_s) };
        self.slices.push(slice);
    }

    pub(super) fn next_slice_id(&mut self) -> u64 {
        let id = self.next_slice;
        self.next_slice = id.saturating_add(1);
        id
    }

    fn gap_floor_s(&self, slice: u64) -> i64 {
        self.slice(slice)
            .and_then(|slice| slice.backfill)
            .and_then(|id| self.backfill(id))
            .map_or(i64::MIN, |backfill| backfill.gap_floor_s)
    }

    /// An open slice by its id.
    pub fn slice(&self, id: u64) -> Option<&Slice> {
        self.slices.iter().find(|slice| slice.id == id)
    }

    fn slice_mut(&mut self, id: u64) -> Option<&mut Slice> {
        self.slices.iter_mut().find(|slice| slice.id == id)
    }

    fn backfill(&self, id: u64) -> Option<&Backfill> {
        self.backfills.iter().find(|backfill| backfill.id == id)
    }

    fn backfill_mut(&mut self, id: u64) -> Option<&mut Backfill> {
        self.backfills.iter_mut().find(|backfill| backfill.id == id)
    }
}

impl Slice {
    /// Where a walk without a cursor starts: the slice's own start; the second of the last entry only if every entry of
    /// the walk so far came in non-descending time.
    pub fn restart_s(&self) -> i64 {
        self.walk.as_ref().map_or(self.start_s, |walk| walk.restart_s(self.start_s, self.to_s))
    }

    /// The query of the next walk.
    pub fn next_query(&self) -> Query {
        Query { from_s: self.start_s, to_s: self.to_s }
    }

    /// The lowest second that has not been read.
    pub fn unread_s(&self) -> i64 {
        if self.confirming {
            self.to_s.unwrap_or(self.start_s).max(self.start_s)
        } else {
            self.restart_s()
        }
    }

    /// What of this slice has expired unread at an answer at `now_s` and has not been recorded.
    fn expired(&self, rules: &LaneRules, floor_s: i64, now_s: i64) -> Option<Expired> {
        // whatever a sweep of a greater age misses, the one of the settling age is to read before it
        if self.sweep_age_s.is_some_and(|age| age > rules.settling_s) {
            return None;
        }
        let edge_s = rules.edge_s(now_s)?;
        let from_s = self.unread_s().max(floor_s).max(self.gap_to_s.unwrap_or(i64::MIN));
        let to_s = self.to_s.map_or(edge_s, |to| to.min(edge_s));
        (from_s < to_s).then_some(Expired { from_s, to_s })
    }
}

fn take(walk: &mut Walk, shown: &Shown, now_s: i64) {
    shown.times_s.iter().for_each(|&time_s| walk.show(time_s, now_s));
    walk.new_entries = walk.new_entries.saturating_add(shown.new_entries);
    walk.cursor.clone_from(&shown.cursor);
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
