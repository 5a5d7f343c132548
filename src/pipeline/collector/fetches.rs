//! The requests of a collector: at most one for each credential, and one for each slice.

use super::{Collector, Purpose, generations};
use crate::audit::slice::Query;
use crate::audit::{Lane, SliceKind};
use crate::github::{Next, Page, PageRequest, Source, SourceError};
use crate::pipeline::allot::{Demand, Item, Rank, State};
use crate::pipeline::arbiter::Ticket;
use crate::pipeline::budget::{Now, Told};
use crate::pipeline::partition::Opener;
use crate::pipeline::schedule::{self, View, Wanted};
use crate::time::{mono_ms, wall_ms};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Entries that a page is asked for with.
const PER_PAGE: u8 = 100;
/// Taken for the time of a request before one was measured, milliseconds.
const REQUEST_MS: i64 = 1000;

type Place = (Lane, u64);

/// A request that has ended.
pub(super) struct Done {
    pub(super) purpose: Purpose,
    /// Number of the credential.
    way: usize,
    /// Of the scheduler; the optional lane needs none.
    ticket: Option<Ticket>,
    pub(super) answer: Result<Page, SourceError>,
    took_ms: i64,
}

/// A slice whose pages do not come as they should.
#[derive(Debug)]
struct Trouble {
    per_page: u8,
    /// Digest of a page of one entry that could not be cut, to see whether it comes again.
    digest: Option<String>,
}

/// Requests under way, and what was learned from those before.
pub(super) struct Fetches {
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Slices with a request, and the number of its credential.
    places: BTreeMap<Place, usize>,
    troubles: BTreeMap<Place, Trouble>,
    /// Time of a request, milliseconds: a moving average.
    request_ms: Option<i64>,
}

impl Fetches {
    pub(super) fn new() -> Self {
        Self {
            running: FuturesUnordered::new(),
            places: BTreeMap::new(),
            troubles: BTreeMap::new(),
            request_ms: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether a request of this lane is under way.
    pub(super) fn has(&self, lane: Lane) -> bool {
        self.places.keys().any(|(of, _)| *of == lane)
    }

    /// The next one that ends; never, while none is under way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        self.running.next().await
    }

    /// Forgets all: their answers are not waited for.
    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.places.clear();
    }

    /// How many entries a slice's next page is asked for with.
    pub(super) fn per_page(&self, place: Place) -> u8 {
        self.troubles.get(&place).map_or(PER_PAGE, |it| it.per_page)
    }

    /// Asks a slice's next page with fewer entries.
    pub(super) fn ask_smaller(&mut self, place: Place) {
        let per_page = (self.per_page(place) / 2).max(1);
        self.troubles.insert(place, Trouble { per_page, digest: None });
    }

    /// Whether a page that cannot be cut is the same as the one before.
    pub(super) fn is_again(&mut self, place: Place, digest: &str) -> bool {
        let trouble =
            self.troubles.entry(place).or_insert(Trouble { per_page: PER_PAGE, digest: None });
        let again = trouble.digest.as_deref() == Some(digest);
        trouble.digest = Some(digest.to_owned());
        again
    }

    /// A slice's page came as it should.
    pub(super) fn is_well(&mut self, place: Place) {
        self.troubles.remove(&place);
    }

    fn measure(&mut self, took_ms: i64) {
        let before = self.request_ms.unwrap_or(took_ms);
        self.request_ms = Some(before.saturating_mul(7).saturating_add(took_ms) / 8);
    }
}

/// Where a request belongs; `None` for one that only asks for the time.
fn place_of(purpose: &Purpose) -> Option<Place> {
    match purpose {
        Purpose::Probe => None,
        // slices are numbered from 1
        Purpose::Offer => Some((Lane::GraphQl, 0)),
        Purpose::Page(wanted) => Some((wanted.lane, wanted.slice)),
    }
}

impl<S: Source, O: Opener> Collector<S, O> {
    /// Begins the requests that are due, or says at what monotonic time to look again.
    pub(super) fn start_fetches(&mut self) -> i64 {
        let now = mono_ms();
        let later = now.saturating_add(1000);
        self.try_changed_credentials(now);
        if !self.has_room() {
            self.seat.withdraw();
            return later;
        }
        if let Some(until) = self.source_pause.until(now) {
            self.seat.withdraw();
            return until.min(self.commit_wake(later));
        }
        if !self.clock.is_confirmed() {
            self.probe(now);
            return later;
        }
        let Some(now_s) = self.now_s(now) else { return later };
        let view = self.view(now_s, now);
        let wants = schedule::wants(&view);
        if wants.reshape || (wants.sweeps_due && self.fetches.is_empty()) {
            return self.reshape_first(now, later);
        }
        let settles = schedule::settles_mono_ms(&view);
        let optional = self.start_optional(now_s, now);
        if optional.reshape {
            return self.reshape_first(now, later);
        }
        let places: Vec<Place> =
            wants.demand.items.iter().map(|item| (item.lane, item.slice)).collect();
        let turn = self.seat.ask(wants.demand, Now { s: now_s, mono_ms: now });
        self.whys = places.into_iter().zip(turn.whys).collect();
        let idle = turn.granted.is_empty() && self.fetches.is_empty();
        for (item, ticket) in turn.granted {
            let wanted = wants.pages.get(item).cloned().flatten();
            // without a page the ticket goes back
            if let Some(wanted) = wanted {
                self.fetch(wanted, ticket);
            }
        }
        if idle {
            self.buffer.hurry();
            if !self.buffer.is_empty() && self.may_commit(now) && !self.must_wait() {
                return now;
            }
        }
        let aside = self.refusals.iter().any(|pause| pause.until(now).is_some());
        let wake = turn
            .wake_ms
            .into_iter()
            .chain(settles)
            .chain(optional.wake_ms)
            .filter(|at| *at > now)
            .min();
        let wake = wake.unwrap_or_else(|| now.saturating_add(10_000));
        // another token is noticed soon
        let wake = if aside { wake.min(later) } else { wake };
        wake.min(self.commit_wake(wake))
    }

    pub(super) fn view(&self, now_s: i64, mono_ms: i64) -> View<'_> {
        View {
            checkpoint: &self.state,
            rules: self.optional.rest(),
            ahead: self.buffer.ahead(),
            in_flight: &self.fetches.places,
            polls: &self.polls,
            last_was_tail: self.last_was_tail,
            credentials: self.parts.source.credentials().len(),
            request_ms: self.fetches.request_ms.unwrap_or(REQUEST_MS),
            now_s,
            mono_ms,
        }
    }

    /// Whether a further page may be fetched before a commit.
    fn has_room(&self) -> bool {
        let in_flight = self.fetches.running.len();
        // links that count pages: all that is under way must have come before the commit
        let held = self.buffer.counts_pages() && self.buffer.is_ready() && in_flight > 0;
        self.buffer.has_room(in_flight) && !held
    }

    fn may_commit(&self, now: i64) -> bool {
        self.committing.is_none() && !self.sink_pause.is_on(now)
    }

    fn reshape_first(&mut self, now: i64, later: i64) -> i64 {
        self.seat.withdraw();
        self.reshape_wanted = true;
        self.buffer.hurry();
        // a commit that may not begin yet changes nothing: no use in asking again at once
        if self.may_commit(now) && self.fetches.is_empty() { now } else { later }
    }

    /// What was refused with a token is tried again as soon as the operator has given another one.
    fn try_changed_credentials(&mut self, now: i64) {
        let slow = |pause: &crate::pipeline::pause::Pause| pause.is_slow() && pause.is_on(now);
        let optional = self.optional.pause.is_slow();
        if !self.source_pause.is_slow() && !optional && !self.refusals.iter().any(slow) {
            return;
        }
        let found = generations(&*self.parts.source);
        let tried = std::mem::replace(&mut self.tried, found.clone());
        for (way, (found, tried)) in found.iter().zip(&tried).enumerate() {
            if found != tried {
                self.reshape_wanted = true;
                self.source_pause.set(now);
                self.optional.pause.set(now);
                if let Some(pause) = self.refusals.get_mut(way) {
                    pause.set(now);
                }
                self.seat.take_back(way);
                self.seat.set_aside(way, now, "changed", false);
            }
        }
    }

    pub(super) fn now_s(&self, mono_ms: i64) -> Option<i64> {
        Some(self.clock.now_ms(mono_ms)?.div_euclid(1000))
    }

    /// By which time windows are reckoned: a clock restored after an outage lies behind, and by it none would ever end.
    fn budget_s(&self, now_s: i64) -> i64 {
        if self.clock.is_confirmed() { now_s } else { now_s.max(wall_ms().div_euclid(1000)) }
    }

    /// When what was fetched is to be committed; `later` while that may not begin: what ends that wakes the loop.
    fn commit_wake(&self, later: i64) -> i64 {
        let now = mono_ms();
        if self.buffer.is_empty() || self.committing.is_some() || self.must_wait() {
            return later;
        }
        if let Some(until) = self.sink_pause.until(now) {
            return until.min(later);
        }
        self.buffer.since_mono_ms().saturating_add(super::LINGER_MS).max(now)
    }

    /// Whether what was fetched may not be committed before more has come.
    pub(super) fn must_wait(&self) -> bool {
        (self.buffer.counts_pages() && !self.fetches.is_empty())
            || (self.buffer.is_stuck() && !self.buffer.is_full() && !self.reshape_wanted)
    }

    /// Asks for the time: nothing is decided before GitHub has said what time it is.
    fn probe(&mut self, now: i64) {
        if !self.fetches.is_empty() {
            return;
        }
        let lane = self.optional.rest().keys().next().copied().unwrap_or(Lane::Web);
        let from_s = self.clock.now_ms(now).unwrap_or_else(wall_ms).div_euclid(1000);
        let rank = Rank::Tail { due_ms: now, interval_ms: 1000, pages: 1, walking: true };
        let item = Item { lane, slice: 0, rank, from_s, state: State::Ready };
        let demand = Demand { items: vec![item], last_was_tail: false, request_ms: REQUEST_MS };
        let turn = self.seat.ask(demand, Now { s: self.budget_s(from_s), mono_ms: now });
        for (_, ticket) in turn.granted {
            let query = Query { from_s, to_s: None };
            let request = PageRequest { lane, query, cursor: None, per_page: 1 };
            self.ask(Purpose::Probe, request, None, ticket.way(), Some(ticket));
        }
    }

    fn fetch(&mut self, wanted: Wanted, ticket: Ticket) {
        let (cursor, page) = match wanted.next.clone() {
            Some(Next::Cursor(cursor)) => (Some(cursor), None),
            Some(Next::Page(page)) => (None, Some(page)),
            None => (None, None),
        };
        let place = (wanted.lane, wanted.slice);
        let per_page = self.fetches.per_page(place);
        let request = PageRequest { lane: wanted.lane, query: wanted.query, cursor, per_page };
        self.ask(Purpose::Page(wanted), request, page, ticket.way(), Some(ticket));
    }

    pub(super) fn ask(
        &mut self,
        purpose: Purpose,
        request: PageRequest,
        page: Option<u64>,
        way: usize,
        ticket: Option<Ticket>,
    ) {
        let source = Arc::clone(&self.parts.source);
        let Some(credential) = source.credentials().get(way).cloned() else { return };
        if let Some(place) = place_of(&purpose) {
            self.fetches.places.insert(place, way);
        }
        self.parts.health.named_wait(&self.name, "page", Duration::from_mins(5));
        let began = mono_ms();
        self.fetches.running.push(Box::pin(async move {
            let answer = source.fetch(request, page, &credential).await;
            Done { purpose, way, ticket, answer, took_ms: mono_ms().saturating_sub(began) }
        }));
    }

    /// Takes an answer.
    pub(super) fn fetched(&mut self, done: Done) {
        if let Some(place) = place_of(&done.purpose) {
            self.fetches.places.remove(&place);
        }
        let now = mono_ms();
        if let Ok(page) = &done.answer {
            self.clock.observe(page.date_ms.unwrap_or_else(wall_ms), now);
        }
        if done.purpose.is_optional() {
            return self.optional_fetched(done);
        }
        let Done { purpose, way, ticket, answer, took_ms } = done;
        if answer.is_ok() {
            self.fetches.measure(took_ms);
        }
        if let Some(ticket) = ticket {
            self.book(ticket, &answer, now);
        }
        match (answer, purpose) {
            (Ok(page), purpose) => {
                self.source_works(way);
                match purpose {
                    // asked again at once: two more answers decide what time it is, and what has expired by then
                    Purpose::Page(_) if self.clock.is_in_doubt() => {}
                    Purpose::Page(wanted) => self.accept(wanted, page, false),
                    Purpose::Probe | Purpose::Offer => {}
                }
            }
            (Err(error), purpose) => self.refused(error, purpose, way),
        }
    }

    /// Books what an answer told of the budget.
    fn book(&self, ticket: Ticket, answer: &Result<Page, SourceError>, now: i64) {
        let told = match answer {
            Ok(page) => page.budget.map_or(Told::Unlimited, Told::Budget),
            Err(SourceError::RateLimited { budget: Some(budget), .. }) => Told::Budget(*budget),
            Err(_) => Told::Nothing,
        };
        let s = self.now_s(now).unwrap_or_else(|| wall_ms().div_euclid(1000));
        let s = self.budget_s(s);
        let way = ticket.way();
        let foreign = ticket.answered(told, Now { s, mono_ms: now });
        if foreign > 0
            && let Some(credential) = self.parts.source.credentials().get(way)
        {
            self.parts.metrics.foreign_requests(credential.as_str(), foreign);
        }
    }

    /// Polls soon after news, less and less often without.
    pub(super) fn schedule_poll(&mut self, lane: Lane, entries: usize, is_last: bool) {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (min, max) =
            (ms(self.parts.settings.poll_interval_min), ms(self.parts.settings.poll_interval_max));
        let pages = self.poll_pages.entry(lane).or_default();
        *pages = pages.saturating_add(1);
        if !is_last {
            return;
        }
        let pages = std::mem::take(pages);
        let poll =
            self.polls.entry(lane).or_insert(schedule::Poll { due_ms: 0, interval_ms: min, pages });
        // the last second is read again each time, so one entry is no news
        poll.interval_ms = if entries > 1 || pages > 1 {
            min
        } else {
            poll.interval_ms.saturating_mul(3).saturating_div(2).clamp(min, max)
        };
        poll.pages = poll.pages.saturating_add(pages).div_ceil(2).max(1);
        poll.due_ms = mono_ms().saturating_add(poll.interval_ms);
    }

    /// Takes note of a page before it is taken.
    pub(super) fn is_well(&mut self, wanted: &Wanted, page: &Page) {
        if wanted.lane == Lane::GraphQl {
            self.optional_is_well(wanted);
        } else {
            self.last_was_tail = wanted.kind == SliceKind::Tail;
        }
        self.fetches.is_well((wanted.lane, wanted.slice));
        if wanted.kind == SliceKind::Tail {
            self.schedule_poll(wanted.lane, page.entries.len(), page.next.is_none());
        }
    }
}
