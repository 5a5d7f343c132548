//! Pages that are fetched and not committed: those that wait, and those of the batch that is under way.

use super::plan::Fetched;
use super::schedule::Ahead;
use crate::audit::slice::Walk;
use crate::audit::{Entry, Lane, SliceKind};
use crate::github::Next;
use std::collections::{BTreeMap, BTreeSet};

/// Most pages of one walk in a row without any entry.
const BARREN_MAX: u32 = 100;
/// A walk by counted pages must get past its first second within one batch, however many pages that takes.
const COUNTED_PAGES_MAX: usize = 100;

type Place = (Lane, u64);

/// Bounded by pages and bytes, each for what waits and for what is under way.
#[derive(Debug)]
pub struct Buffer {
    waiting: Vec<Fetched>,
    staged: Vec<Fetched>,
    ahead: BTreeMap<Place, Ahead>,
    lost: BTreeSet<Place>,
    barren: BTreeMap<Place, u32>,
    pages_max: usize,
    bytes_max: usize,
    hurry: bool,
}

impl Buffer {
    /// An empty buffer.
    pub fn new(pages_max: usize, bytes_max: usize) -> Self {
        Self {
            waiting: Vec::new(),
            staged: Vec::new(),
            ahead: BTreeMap::new(),
            lost: BTreeSet::new(),
            barren: BTreeMap::new(),
            pages_max: pages_max.max(1),
            bytes_max,
            hurry: false,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing more may be fetched before a commit.
    pub fn is_full(&self) -> bool {
        let (pages_max, bytes_max) = self.limits();
        self.waiting.len() >= pages_max || self.bytes() >= bytes_max
    }

    /// Whether there is room for one more page beside those that are under way. Bytes are known only when they are here: a
    /// page for each request under way may go beyond.
    pub fn has_room(&self, in_flight: usize) -> bool {
        let (pages_max, _) = self.limits();
        !self.is_full() && self.waiting.len().saturating_add(in_flight) < pages_max
    }

    /// Whether there is no use in waiting for more pages.
    pub fn is_ready(&self) -> bool {
        let ended = self.waiting.iter().any(|fetched| fetched.page.next.is_none());
        self.is_full() || self.hurry || ended
    }

    /// Whether what waits was fetched by counted pages: no further page may then be on its way during the commit.
    pub fn counts_pages(&self) -> bool {
        self.waiting.iter().any(|fetched| matches!(fetched.page.next, Some(Next::Page(_))))
    }

    /// Nothing more will come for now.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// Where walks stand beyond the committed state.
    pub fn ahead(&self) -> &BTreeMap<Place, Ahead> {
        &self.ahead
    }

    /// Monotonic time of the oldest page that waits, milliseconds.
    pub fn since_mono_ms(&self) -> i64 {
        self.waiting.first().map_or(i64::MAX, |fetched| fetched.fetched_mono_ms)
    }

    /// Takes a page that was asked for at `asked`. False: the walk goes nowhere, and the page was not taken.
    pub fn push(&mut self, fetched: Fetched, asked: Option<&Next>, kind: SliceKind) -> bool {
        let place = (fetched.lane, fetched.slice);
        let barren = self.barren.entry(place).or_default();
        *barren = if fetched.page.entries.is_empty() { barren.saturating_add(1) } else { 0 };
        let again = self.waiting.iter().rev().find(|before| (before.lane, before.slice) == place);
        let endless = fetched.page.next.is_some()
            && (fetched.page.next.as_ref() == asked
                || *barren > BARREN_MAX
                || again.is_some_and(|before| same(&before.page.entries, &fetched.page.entries)));
        if endless {
            *barren = 0;
            return false;
        }
        let ahead = match &fetched.page.next {
            Some(next) => Ahead::At(fetched.query, next.clone()),
            None => Ahead::Blocked,
        };
        self.ahead.insert(place, ahead);
        // a live page is what somebody waits for
        self.hurry |= kind == SliceKind::Tail && fetched.page.next.is_none();
        self.waiting.push(fetched);
        true
    }

    /// Moves what waits into the batch that is being planned.
    pub fn stage(&mut self) -> &[Fetched] {
        self.hurry = false;
        self.staged.append(&mut self.waiting);
        for ahead in self.ahead.values_mut() {
            // a link that counts pages is never kept across a commit
            if matches!(ahead, Ahead::At(_, Next::Page(_))) {
                *ahead = Ahead::Blocked;
            }
        }
        &self.staged
    }

    /// The pages of the batch that is under way.
    pub fn staged(&self) -> &[Fetched] {
        &self.staged
    }

    /// The batch did not happen: its pages wait again, before the others.
    pub fn failed(&mut self) {
        self.staged.append(&mut self.waiting);
        std::mem::swap(&mut self.staged, &mut self.waiting);
        self.hurry = true;
    }

    /// The batch is committed. Returns the slices whose cursor was lost meanwhile and may be dropped now.
    pub fn succeeded(&mut self) -> Vec<Place> {
        self.staged.clear();
        let waiting: BTreeSet<Place> =
            self.waiting.iter().map(|fetched| (fetched.lane, fetched.slice)).collect();
        self.ahead.retain(|place, _| waiting.contains(place));
        self.barren.retain(|place, _| waiting.contains(place));
        let lost = std::mem::take(&mut self.lost);
        let (kept, dropped): (Vec<_>, Vec<_>) =
            lost.into_iter().partition(|place| waiting.contains(place));
        self.lost.extend(kept);
        dropped
    }

    /// Whether pages of a slice are here.
    pub fn holds(&self, lane: Lane, slice: u64) -> bool {
        let mut all = self.waiting.iter().chain(&self.staged);
        all.any(|fetched| (fetched.lane, fetched.slice) == (lane, slice))
    }

    /// A slice's cursor is of no use any more: nothing is fetched for it until what is here is committed.
    pub fn lose_cursor(&mut self, lane: Lane, slice: u64) {
        self.lost.insert((lane, slice));
        self.ahead.insert((lane, slice), Ahead::Blocked);
        self.hurry = true;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.pages_max, self.bytes_max);
    }

    /// Whether a walk by counted pages would start where it started before if it were committed now, and never get
    /// further: not past its first second, or showing times that are missing or out of order.
    pub fn is_stuck(&self) -> bool {
        let mut looked_at = BTreeSet::new();
        self.waiting.iter().rev().any(|fetched| {
            let is_last = looked_at.insert((fetched.lane, fetched.slice));
            let counted = matches!(fetched.page.next, Some(Next::Page(_)));
            is_last && counted && self.restart_s(fetched) <= fetched.query.from_s
        })
    }

    /// Where the walk of a page starts again when all of it that waits is committed.
    fn restart_s(&self, last: &Fetched) -> i64 {
        let of_walk = |it: &&Fetched| (it.lane, it.slice) == (last.lane, last.slice);
        let entries = self.waiting.iter().filter(of_walk).flat_map(|it| &it.page.entries);
        let times_s = entries.map(|entry| entry.time_ms().map(|ms| ms.div_euclid(1000)));
        Walk::restart_after(last.query, times_s, last.answered_s)
    }

    fn bytes(&self) -> usize {
        self.waiting.iter().map(|fetched| fetched.page.body_bytes).sum()
    }

    fn limits(&self) -> (usize, usize) {
        if self.is_stuck() {
            (COUNTED_PAGES_MAX.max(self.pages_max), self.bytes_max.saturating_mul(8))
        } else {
            (self.pages_max, self.bytes_max)
        }
    }
}

/// Whether a page shows exactly the entries of the page before it.
fn same(before: &[Entry], after: &[Entry]) -> bool {
    let same = |(a, b): (&Entry, &Entry)| a.body == b.body;
    !after.is_empty() && before.len() == after.len() && before.iter().zip(after).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::slice::Query;
    use crate::github::Page;
    use bytes::Bytes;

    fn fetched(slice: u64, second: i64, next: Option<Next>) -> Fetched {
        let entry = Entry {
            timestamp_ms: Some(second * 1000),
            ..Entry::opaque(Bytes::from(format!("{{{slice} {next:?}}}")))
        };
        let query = Query { from_s: 100, to_s: None };
        let page = Page { entries: vec![entry], next, date_ms: None, body_bytes: 10, budget: None };
        Fetched {
            lane: Lane::Web,
            slice,
            query,
            began: false,
            page,
            dead_letter: false,
            asked_s: 1_790_000_000,
            answered_s: 1_790_000_000,
            fetched_mono_ms: 0,
        }
    }

    fn push(buffer: &mut Buffer, fetched: Fetched) {
        assert!(buffer.push(fetched, None, SliceKind::Backfill));
    }

    #[test]
    fn a_walk_by_counted_pages_is_held_until_it_is_past_its_first_second() {
        let mut buffer = Buffer::new(2, 1000);
        for page in 2..50 {
            push(&mut buffer, fetched(1, 100, Some(Next::Page(page))));
        }
        push(&mut buffer, fetched(2, 500, None));
        assert!(buffer.is_stuck(), "also when another slice's page came last");
        assert!(!buffer.is_full());
        push(&mut buffer, fetched(1, 101, Some(Next::Page(50))));
        assert!(!buffer.is_stuck());
        assert!(buffer.is_full());
    }

    /// Found by the fuzz target `lanes_beside_a_list`: committed early, such a walk never ended.
    #[test]
    fn a_walk_by_counted_pages_that_would_start_over_is_held() {
        let mut buffer = Buffer::new(1, 1000);
        push(&mut buffer, fetched(1, 499, Some(Next::Page(2))));
        assert!(buffer.is_stuck(), "one second does not tell the order");
        push(&mut buffer, fetched(1, 500, Some(Next::Page(3))));
        push(&mut buffer, fetched(2, 500, None));
        assert!(!buffer.is_stuck());
        let mut timeless = fetched(1, 500, Some(Next::Page(4)));
        timeless.page.entries.extend([Entry::opaque(Bytes::from_static(b"{}"))]);
        push(&mut buffer, timeless);
        assert!(buffer.is_stuck(), "an entry without a time");
        let mut buffer = Buffer::new(1, 1000);
        push(&mut buffer, fetched(1, 500, Some(Next::Page(2))));
        push(&mut buffer, fetched(1, 400, Some(Next::Page(3))));
        assert!(buffer.is_stuck(), "newest first");
        let mut buffer = Buffer::new(1, 1000);
        push(&mut buffer, fetched(2, 4_070_908_800, Some(Next::Page(2))));
        assert!(buffer.is_stuck(), "dated 2099");
    }

    #[test]
    fn pages_of_a_failed_batch_wait_again_before_the_others() {
        let mut buffer = Buffer::new(10, 1000);
        push(&mut buffer, fetched(1, 100, None));
        buffer.stage();
        push(&mut buffer, fetched(2, 100, None));
        buffer.failed();
        let order: Vec<u64> = buffer.stage().iter().map(|fetched| fetched.slice).collect();
        assert_eq!(order, [1, 2]);
        assert_eq!(buffer.succeeded(), []);
        assert!(buffer.ahead().is_empty(), "slices may be fetched again");
    }

    #[test]
    fn a_page_that_names_its_own_cursor_or_repeats_itself_is_not_taken() {
        let mut buffer = Buffer::new(10, 1000);
        let own = Next::Page(7);
        let again = fetched(1, 100, Some(own.clone()));
        assert!(!buffer.push(again, Some(&own), SliceKind::Backfill));
        let body = Bytes::from_static(b"{}");
        let mut first = fetched(1, 100, Some(Next::Page(8)));
        first.page.entries = vec![Entry::opaque(body.clone())];
        let mut second = fetched(1, 100, Some(Next::Page(9)));
        second.page.entries = vec![Entry::opaque(body)];
        push(&mut buffer, first);
        assert!(!buffer.push(second, None, SliceKind::Backfill));
    }
}
