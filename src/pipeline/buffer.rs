//! Pages that are fetched and not committed: those that wait, and those of the batch that is under way.

use super::plan::Fetched;
use super::schedule::Ahead;
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
        self.waiting.len() >= self.limit() || self.bytes() >= self.bytes_max
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

    fn bytes(&self) -> usize {
        self.waiting.iter().map(|fetched| fetched.page.body_bytes).sum()
    }

    fn limit(&self) -> usize {
        let stuck = self.counts_pages()
            && self.waiting.last().is_some_and(|fetched| {
                let last = fetched.page.entries.iter().rev().find_map(Entry::time_ms);
                last.is_none_or(|ms| ms.div_euclid(1000) <= fetched.query.from_s)
            });
        if stuck { COUNTED_PAGES_MAX.max(self.pages_max) } else { self.pages_max }
    }
}

/// Whether a page shows exactly the entries of the page before it.
fn same(before: &[Entry], after: &[Entry]) -> bool {
    let same = |(a, b): (&Entry, &Entry)| a.body == b.body;
    !after.is_empty() && before.len() == after.len() && before.iter().zip(after).all(same)
}
