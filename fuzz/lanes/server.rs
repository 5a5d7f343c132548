//! GitHub as a list of entries with a clock: order, ties, paging, cursors, expiry and their oddities.

use super::collector::Collector;
use crate::decisions::Decisions;
use bytes::Bytes;
use ghauditd::audit::lane::LaneRules;
use ghauditd::audit::slice::Query;
use ghauditd::audit::{Cursor, Entry, Lane, Text};
use ghauditd::github::{Next, Page};

/// An entry at GitHub.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) id: u32,
    /// What the order and `created:` go by.
    pub(super) at_ms: i64,
    /// The time that the entry itself shows: the same, a little earlier, none, or insane.
    shown_ms: Option<i64>,
}

/// What is not known of GitHub, or differs between its servers.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
struct Oddities {
    newest_first: bool,
    /// Whether `A..B` holds the milliseconds of second B.
    whole_last_second: bool,
    /// Links count pages instead of holding a cursor.
    counted: bool,
    /// A full page has a next link even where nothing follows.
    eager: bool,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) now_ms: i64,
    began_ms: i64,
    retention_s: Option<i64>,
    events: Vec<Event>,
    oddities: Oddities,
    per_page: usize,
    /// Cursors of an earlier age are refused.
    age: u32,
}

/// Why there is no page.
pub(super) enum Refusal {
    /// 4xx for a cursor.
    Cursor,
}

impl Server {
    pub(super) fn new(decisions: &mut Decisions<'_>, retention_s: Option<i64>) -> Self {
        let now_ms = 1_790_000_000_000 + i64::from(decisions.byte()) * 250;
        let odd = decisions.byte();
        let mut server = Self {
            now_ms,
            began_ms: now_ms,
            retention_s,
            events: Vec::new(),
            oddities: Oddities {
                newest_first: odd & 0x03 == 0x01,
                whole_last_second: odd & 0x04 == 0,
                counted: odd & 0x18 == 0x08,
                eager: odd & 0x20 == 0,
            },
            per_page: [1, 2, 3, 7][usize::from(odd >> 6)],
            age: 0,
        };
        if server.oddities.counted {
            // one batch must get past a second: it does up to a hundred pages
            server.per_page = 7;
        }
        // what was there before us
        let span_s = retention_s.unwrap_or(400 * 86_400) + 86_400;
        for _ in 0..decisions.below(24) {
            let back = match decisions.byte() {
                0..=63 => i64::from(decisions.byte()) * 4_000,
                64..=95 => i64::from(decisions.byte()),
                _ => span_s * i64::from(decisions.byte()) * 1000 / 256,
            };
            server.add(now_ms - back, decisions);
        }
        server
    }

    fn add(&mut self, at_ms: i64, decisions: &mut Decisions<'_>) {
        let shown_ms = match decisions.byte() {
            0..=15 => None,
            16..=23 => Some(4_070_908_800_000),
            24..=39 => Some(at_ms - i64::from(decisions.byte()) * 100),
            _ => Some(at_ms),
        };
        let id = u32::try_from(self.events.len()).unwrap();
        self.events.push(Event { id, at_ms, shown_ms });
    }

    /// Time passes, and something happens meanwhile. Nothing appears behind what was shown already: lateness is the
    /// business of sweeps.
    pub(super) fn pass(&mut self, seconds: i64, decisions: &mut Decisions<'_>) {
        let from_ms = self.now_ms;
        self.now_ms += seconds * 1000 + i64::from(decisions.byte()) * 4;
        if self.events.len() < 300 {
            for _ in 0..decisions.byte() % 8 {
                let passed_ms = self.now_ms - from_ms;
                let at_ms =
                    from_ms + 1 + (passed_ms - 1).max(0) * i64::from(decisions.byte()) / 255;
                self.add(at_ms.min(self.now_ms), decisions);
            }
        }
    }

    /// Many entries at once: more than a page, or than a batch of pages.
    pub(super) fn burst(&mut self, decisions: &mut Decisions<'_>) {
        self.now_ms += 1;
        for _ in 0..decisions.byte() % 48 {
            if self.events.len() < 300 {
                self.add(self.now_ms, decisions);
            }
        }
    }

    pub(super) fn forget_cursors(&mut self) {
        self.age += 1;
    }

    fn is_expired(&self, event: &Event) -> bool {
        self.retention_s.is_some_and(|kept| event.at_ms < self.now_ms - kept * 1000)
    }

    pub(super) fn page(
        &self,
        lane: Lane,
        query: Query,
        next: Option<&Next>,
    ) -> Result<Page, Refusal> {
        let from_ms = query.from_s * 1000;
        let last_ms = if self.oddities.whole_last_second { 999 } else { 0 };
        let to_ms = query.to_s.map_or(i64::MAX, |to| to * 1000 + last_ms);
        let mut found: Vec<&Event> = self
            .events
            .iter()
            .filter(|it| (from_ms..=to_ms).contains(&it.at_ms) && !self.is_expired(it))
            .collect();
        let key = |it: &Event| if self.oddities.newest_first { -it.at_ms } else { it.at_ms };
        found.sort_by_key(|it| (key(it), it.id));
        let skipped = match next {
            None => 0,
            Some(Next::Page(page)) => (usize::try_from(*page).unwrap() - 1) * self.per_page,
            Some(Next::Cursor(cursor)) => {
                let after = self.place(cursor)?;
                found.iter().filter(|it| (key(it), it.id) <= after).count()
            }
        };
        let rest = found.get(skipped..).unwrap_or_default();
        let (shown, more) = rest.split_at(rest.len().min(self.per_page));
        let goes_on = !more.is_empty() || (self.oddities.eager && shown.len() == self.per_page);
        let next = goes_on.then(|| self.next(shown, next, key)).flatten();
        let entries: Vec<Entry> = shown.iter().map(|it| entry(lane, it)).collect();
        let date_ms = Some(self.now_ms / 1000 * 1000);
        Ok(Page { entries, next, date_ms, body_bytes: 100, budget: None })
    }

    fn next(
        &self,
        shown: &[&Event],
        before: Option<&Next>,
        key: impl Fn(&Event) -> i64,
    ) -> Option<Next> {
        if self.oddities.counted {
            let page = if let Some(Next::Page(page)) = before { *page } else { 1 };
            return Some(Next::Page(page + 1));
        }
        let last = shown.last()?;
        Cursor::new(format!("{}|{}|{}", self.age, key(last), last.id)).map(Next::Cursor)
    }

    fn place(&self, cursor: &Cursor) -> Result<(i64, u32), Refusal> {
        let mut parts = cursor.as_str().split('|');
        let mut number = || parts.next().and_then(|part| part.parse::<i64>().ok()).unwrap();
        if number() != i64::from(self.age) {
            return Err(Refusal::Cursor);
        }
        Ok((number(), u32::try_from(number()).unwrap()))
    }

    /// What was neither committed nor named in a gap, and was there to be had.
    pub(super) fn uncollected(&self, collector: &Collector, rules: &LaneRules) -> Vec<Event> {
        let lost = |it: &&Event| !collector.has(it.id) && !self.is_excused(collector, rules, it);
        self.events.iter().filter(lost).copied().collect()
    }

    /// No second that counts as collected holds an entry that was not committed.
    pub(super) fn check_collected(&self, collector: &Collector, rules: &LaneRules) {
        for lane in collector.state().lanes.values() {
            for it in &self.events {
                let claimed = lane.collected.contains(it.at_ms.div_euclid(1000));
                assert!(
                    !claimed || collector.has(it.id) || self.is_excused(collector, rules, it),
                    "{it:?} is lost: {lane:#?}\n{self:?}"
                );
            }
        }
    }

    fn is_excused(&self, collector: &Collector, rules: &LaneRules, it: &Event) -> bool {
        let at_s = it.at_ms.div_euclid(1000);
        let Some(kept_s) = self.retention_s else {
            // GitHub was founded in 2008
            return at_s < ghauditd::audit::lane::OLDEST_S;
        };
        // what expires while the first pages are fetched cannot be saved by anyone
        let floor_s = self.began_ms / 1000 - kept_s + rules.settling_s + 2;
        self.is_expired(it) && (at_s < floor_s.max(collector.floor_s()) || collector.has_gap(at_s))
    }
}

fn entry(lane: Lane, event: &Event) -> Entry {
    let text = |text: String| Text::new(Bytes::from(text));
    Entry {
        id: text(event.id.to_string()),
        timestamp_ms: event.shown_ms,
        action: (lane == Lane::Git).then(|| text("git.push".to_owned())).flatten(),
        ..Entry::opaque(Bytes::from(format!("{{{}}}", event.id)))
    }
}
