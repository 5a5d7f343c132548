//! One lane's log as pure functions of (seed, entity, lane, index): when entries occurred, under which id, and since
//! when they can be seen. Nothing is stored but the settings.
//!
//! Indexes ascend with time: first the history, then the live traffic. GitHub's order is (time, document id), which
//! differs from the order of indexes within one millisecond only; [`LaneLog::walk`] sorts there.

use super::config::{DAY_S, Traffic};
use super::faults::Faults;
use super::rng::{Chance, Rng, i64_of, mix, mix_text, scaled, u64_from};
use super::shape::Shapes;
use crate::audit::Lane;
use base64::Engine as _;
use std::collections::VecDeque;

/// Indexes from here on are the few entries that stand outside the regular traffic.
pub(crate) const EXTRA: u64 = 1 << 62;

/// 2099-12-31T23:59:59Z.
const YEAR_2099_MS: i64 = 4_102_444_799_000;

/// Entries whose `created_at` is later than their `@timestamp` are so by less than this.
const RECORDED_LATER_MS: u64 = 2_000;

/// Among so many entries at most one carries the id of another.
const REUSE_BLOCK: u64 = 64;

/// A document id: 22 characters of base64url, as GitHub's.
pub(crate) type Id = [u8; 22];

/// GitHub's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Epoch milliseconds.
    pub(crate) ts: i64,
    /// Document id.
    pub(crate) id: Id,
    /// Index in its lane: a last resort for rows that are equal in all else.
    pub(crate) index: u64,
}

/// Which body an entry has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Its body has changed.
    pub(crate) revised: bool,
    /// IP addresses are disclosed.
    pub(crate) ip: bool,
}

/// One lane of one entity.
#[derive(Debug)]
pub(crate) struct LaneLog {
    /// Which.
    pub(crate) lane: Lane,
    /// Of this lane alone.
    pub(crate) seed: u64,
    /// How long entries are kept.
    pub(crate) retention_ms: Option<i64>,
    /// What is odd about entries.
    pub(crate) shapes: Shapes,
    start_ms: i64,
    history: u64,
    span_ms: u64,
    interval_ns: u64,
    live_max: u64,
    extras: Vec<Key>,
    late: Chance,
    late_ms: (u64, u64),
    late_created_at: bool,
    revised: Chance,
    revised_after_ms: u64,
    ip_from_ms: Option<i64>,
    reused: Chance,
    graphql_only: Chance,
    ties: (u64, u64),
    burst: (u64, u64),
}

impl LaneLog {
    /// The log of a lane.
    pub(crate) fn new(
        seed: u64,
        slug: &str,
        lane: Lane,
        start_ms: i64,
        traffic: &Traffic,
        faults: &Faults,
    ) -> Self {
        let kept_s = traffic.retention_s.unwrap_or(match lane {
            Lane::Web | Lane::GraphQl => 180 * DAY_S,
            Lane::Git => 7 * DAY_S,
        });
        let span_s = traffic.history_span_s.unwrap_or(kept_s / 10 * 9).max(1);
        let history = traffic.history_entries;
        let burst = faults.burst.min(history);
        let mut log = Self {
            lane,
            seed: mix_text(mix_text(seed, slug), lane.as_str()),
            retention_ms: traffic.retention_s.map(|s| s.saturating_mul(1000)),
            shapes: Shapes::new(faults),
            start_ms,
            history,
            span_ms: u64_from(span_s).saturating_mul(1000),
            interval_ns: interval_ns(traffic.live_per_second),
            live_max: traffic.live_entries_max.unwrap_or(EXTRA / 2),
            extras: Vec::new(),
            late: Chance::new(faults.late),
            late_ms: (faults.late_min_s * 1000, faults.late_max_s.max(faults.late_min_s) * 1000),
            late_created_at: faults.late_created_at,
            revised: Chance::new(faults.revised),
            revised_after_ms: faults.revised_after_s * 1000,
            ip_from_ms: (faults.ip_disclosed_after_s > 0)
                .then(|| start_ms + i64_of(faults.ip_disclosed_after_s * 1000)),
            reused: Chance::new(faults.reused_id * 64.0),
            graphql_only: Chance::new(faults.graphql_only),
            ties: (faults.tie_run, faults.tie_every.max(1)),
            burst: ((history - burst) / 2, burst),
        };
        log.extras = log.dated_2099(faults.dated_2099);
        log
    }

    fn dated_2099(&self, count: u64) -> Vec<Key> {
        let key = |n| {
            let index = EXTRA + n;
            Key { ts: YEAR_2099_MS, id: self.own_id(index), index }
        };
        let mut keys: Vec<_> = (0..count).map(key).collect();
        keys.sort_unstable();
        keys
    }

    /// A number of this entry for one purpose.
    fn draw(&self, index: u64, purpose: u64) -> u64 {
        mix(mix(self.seed, index), purpose)
    }

    /// When it would have occurred, ties and bursts aside. Ascends with the index.
    fn plain_ts(&self, index: u64) -> i64 {
        if index < self.history {
            let step = self.span_ms / self.history;
            let jitter = self.draw(index, 1).checked_rem(step).unwrap_or(0);
            let offset = index.saturating_mul(self.span_ms) / self.history + jitter;
            return self.start_ms - i64_of(self.span_ms) + i64_of(offset);
        }
        let jitter = self.draw(index, 1).checked_rem(self.interval_ns).unwrap_or(0);
        let offset = (index - self.history).saturating_mul(self.interval_ns).saturating_add(jitter);
        self.start_ms.saturating_add(i64_of(offset / 1_000_000))
    }

    /// When it occurred, epoch milliseconds: its place in GitHub's order. Ascends with the index.
    pub(crate) fn ts(&self, index: u64) -> i64 {
        if index >= EXTRA {
            return YEAR_2099_MS;
        }
        let (run, every) = self.ties;
        let place = index % every;
        let plain = self.plain_ts(if place < run { index - place } else { index });
        let (begin, count) = self.burst;
        if index < begin || index - begin >= count {
            return plain;
        }
        let second = (self.plain_ts(begin) / 1000 + 1) * 1000;
        plain.min(second + i64_of((index - begin) * 1000 / count))
    }

    /// When it was recorded, epoch milliseconds: mostly at once.
    pub(crate) fn created_at(&self, index: u64) -> i64 {
        let draw = self.draw(index, 2);
        let later = if draw.is_multiple_of(10) { (draw >> 8) % RECORDED_LATER_MS } else { 0 };
        let late = if self.late_created_at { self.lateness(index) } else { 0 };
        self.ts(index).saturating_add(i64_of(later.max(late)))
    }

    /// By how much `created_at` may be later than `@timestamp`.
    pub(crate) fn created_at_later_max(&self) -> i64 {
        let late = if self.late_created_at { self.late_ms.1 } else { 0 };
        i64_of(RECORDED_LATER_MS.max(late))
    }

    fn lateness(&self, index: u64) -> u64 {
        if self.late.is_never() || index >= EXTRA {
            return 0;
        }
        let draw = self.draw(index, 3);
        let (least, most) = self.late_ms;
        if self.late.hits(draw) { least + mix(draw, 1) % (most - least + 1) } else { 0 }
    }

    /// Since when it can be seen, epoch milliseconds.
    pub(crate) fn visible_at(&self, index: u64) -> i64 {
        if index >= EXTRA {
            return self.start_ms;
        }
        self.ts(index).saturating_add(i64_of(self.lateness(index)))
    }

    /// When it is deleted, epoch milliseconds.
    pub(crate) fn expires_at(&self, index: u64) -> Option<i64> {
        self.retention_ms.map(|kept| self.ts(index).saturating_add(kept))
    }

    /// Whether it is shown at `now`.
    pub(crate) fn is_shown(&self, index: u64, now: i64) -> bool {
        self.visible_at(index) <= now && self.expires_at(index).is_none_or(|at| at > now)
    }

    /// When its body changes, if it does.
    pub(crate) fn revised_at(&self, index: u64) -> Option<i64> {
        if self.revised.is_never() {
            return None;
        }
        let draw = self.draw(index, 4);
        let after = self.revised_after_ms + mix(draw, 1) % (self.revised_after_ms / 2 + 1);
        self.revised.hits(draw).then(|| self.visible_at(index).saturating_add(i64_of(after)))
    }

    /// Whether GraphQL shows it and REST never does.
    pub(crate) fn is_graphql_only(&self, index: u64) -> bool {
        !self.graphql_only.is_never()
            && self.graphql_only.hits(self.draw(index, 10))
            && super::node::is_shown(self, index)
    }

    /// Its body at `now`.
    pub(crate) fn variant(&self, index: u64, now: i64) -> Variant {
        Variant {
            revised: self.revised_at(index).is_some_and(|at| at <= now),
            ip: self.ip_from_ms.is_some_and(|at| at <= now),
        }
    }

    /// Every body that it has had up to `now`, with the time from which it was shown.
    pub(crate) fn variants(&self, index: u64, now: i64) -> Vec<(i64, Variant)> {
        let visible_at = self.visible_at(index);
        let mut times = vec![visible_at];
        times.extend([self.revised_at(index), self.ip_from_ms].into_iter().flatten());
        times.retain(|at| (visible_at..=now).contains(at));
        times.sort_unstable();
        times.dedup();
        times.into_iter().map(|at| (at, self.variant(index, at))).collect()
    }

    /// No entry below this index has changed or appeared after `from_ms`, as seen at `now`.
    pub(crate) fn first_changed_after(&self, from_ms: Option<i64>, now: i64) -> u64 {
        let Some(from) = from_ms else { return 0 };
        if self.ip_from_ms.is_some_and(|at| at > from && at <= now) {
            return 0;
        }
        let late_ms = if self.late.is_never() { 0 } else { self.late_ms.1 };
        let revised_ms = if self.revised.is_never() { 0 } else { self.revised_after_ms * 2 };
        self.count_until(from.saturating_sub(i64_of(late_ms + revised_ms)))
    }

    fn own_id(&self, index: u64) -> Id {
        let mut bytes = [0; 16];
        let (high, low) = (self.draw(index, 5), self.draw(index, 6));
        for (to, from) in
            bytes.iter_mut().zip(high.to_be_bytes().into_iter().chain(low.to_be_bytes()))
        {
            *to = from;
        }
        let mut id = [b'A'; 22];
        // 16 bytes are always 22 characters: the buffer fits, and what could fail cannot happen
        drop(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode_slice(bytes, &mut id));
        id
    }

    /// Its document id: its own, or that of an entry shortly before it.
    pub(crate) fn id(&self, index: u64) -> Id {
        if self.reused.is_never() || index >= EXTRA {
            return self.own_id(index);
        }
        let draw = self.draw(index, 7);
        let earlier = index.saturating_sub(1 + mix(draw, 1) % 40);
        // one in a block, so that no id has three entries; and never within one millisecond, where GitHub's own cursor
        // could not tell the two apart
        let last_of_block = index % REUSE_BLOCK == REUSE_BLOCK - 1;
        let reuse = last_of_block && self.reused.hits(draw) && self.ts(earlier) < self.ts(index);
        self.own_id(if reuse { earlier } else { index })
    }

    /// A stream of numbers for its body.
    pub(crate) fn body_rng(&self, index: u64) -> Rng {
        Rng::new(self.draw(index, 8))
    }

    /// A draw that decides what is odd about it.
    pub(crate) fn shape_draw(&self, index: u64) -> u64 {
        self.draw(index, 9)
    }

    /// The number of regular entries with a time up to `ts` (inclusive).
    pub(crate) fn count_until(&self, ts: i64) -> u64 {
        let since_ns = u64_from(ts.saturating_sub(self.start_ms)).saturating_mul(1_000_000);
        let live = match since_ns.checked_div(self.interval_ns) {
            // a run of ties takes the time of its first entry, so as many more may have come
            Some(live) => live.saturating_add(1 + self.ties.0).min(self.live_max),
            None => 0,
        };
        let (mut low, mut high) = (0, self.history + live);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ts(middle) <= ts {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The entries that stand outside the regular traffic.
    pub(crate) fn extras(&self) -> impl Iterator<Item = u64> {
        self.extras.iter().map(|key| key.index)
    }

    /// The keys with times from `from` to `to` (inclusive) that may be visible at `now`, in GitHub's order.
    pub(crate) fn walk(&self, from: i64, to: i64, now: i64, descending: bool) -> Walk<'_> {
        let begin = self.count_until(from.saturating_sub(1).min(now));
        let end = self.count_until(to.min(now)).max(begin);
        let mut extras: VecDeque<_> =
            self.extras.iter().filter(|key| (from..=to).contains(&key.ts)).copied().collect();
        if descending {
            extras.make_contiguous().reverse();
        }
        Walk { log: self, begin, end, descending, ties: VecDeque::new(), extras }
    }
}

/// Nanoseconds between two live entries; 0 when there are none.
fn interval_ns(per_second: f64) -> u64 {
    if per_second > 0.0 { scaled(1.0 / per_second, 1e9).max(1) } else { 0 }
}

/// See [`LaneLog::walk`].
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    log: &'a LaneLog,
    begin: u64,
    end: u64,
    descending: bool,
    ties: VecDeque<Key>,
    extras: VecDeque<Key>,
}

impl Walk<'_> {
    /// Takes all entries of the next millisecond and sorts them by id.
    fn fill(&mut self) {
        let Some(first) = self.take_index() else {
            return;
        };
        let ts = self.log.ts(first);
        let mut ties = vec![Key { ts, id: self.log.id(first), index: first }];
        while let Some(index) = self.peek_index().filter(|index| self.log.ts(*index) == ts) {
            ties.push(Key { ts, id: self.log.id(index), index });
            self.take_index();
        }
        ties.sort_unstable();
        if self.descending {
            ties.reverse();
        }
        self.ties = ties.into();
    }

    fn peek_index(&self) -> Option<u64> {
        let next = if self.descending { self.end.checked_sub(1)? } else { self.begin };
        (self.begin < self.end).then_some(next)
    }

    fn take_index(&mut self) -> Option<u64> {
        let next = self.peek_index()?;
        if self.descending {
            self.end = next;
        } else {
            self.begin = next + 1;
        }
        Some(next)
    }
}

impl Iterator for Walk<'_> {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        if self.ties.is_empty() {
            self.fill();
        }
        let extra_first = match (self.ties.front(), self.extras.front()) {
            (Some(tie), Some(extra)) => (extra < tie) != self.descending,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if extra_first { self.extras.pop_front() } else { self.ties.pop_front() }
    }
}
