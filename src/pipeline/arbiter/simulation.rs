//! The real scheduler and ledger beside a simulated GitHub, and beside an oracle that knows the future.
//!
//! The oracle is a largest matching of pages (each with the time at which it appears and the time at which GitHub deletes
//! it) to requests (as many for each window and credential as the limit, less the reserve, what others used, what failed and
//! what the tails got). For unit requests that is the most that any schedule can save.

use super::{Arbiter, Seat, Ticket};
use crate::audit::{EntityKind, EntityName, Lane};
use crate::github::CredentialId;
use crate::github::rate_limit::Budget;
use crate::pipeline::allot::{Demand, Item, Rank, State};
use crate::pipeline::budget::{Now, Told};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const WINDOW_S: i64 = 3600;
/// All windows end at full hours; the simulation begins at one.
const BEGIN_S: i64 = 1_790_000_000 / WINDOW_S * WINDOW_S;
/// Pages that expire while the one before them is read: one for each slice.
const SLACK_PAGES: usize = 1;

#[derive(Debug, Clone)]
struct CredentialCase {
    limit: u64,
    /// When others make a request with it, seconds from the beginning.
    foreign_s: Vec<i64>,
}

#[derive(Debug, Clone)]
struct SliceCase {
    /// Waits until the daemon has begun, or is back; else it appears at this second and lives for two windows or more.
    released_s: Option<i64>,
    first_life_s: i64,
    spacing_s: i64,
    pages: usize,
}

#[derive(Debug, Clone)]
struct EntityCase {
    /// Bits: its credentials. None: all.
    ways: u8,
    request_s: i64,
    tail_interval_s: i64,
    slices: Vec<SliceCase>,
    leisure_pages: usize,
}

#[derive(Debug, Clone)]
struct Case {
    reserve: u64,
    windows: i64,
    credentials: Vec<CredentialCase>,
    entities: Vec<EntityCase>,
    /// GitHub keeps a budget for each entity.
    separate: bool,
    /// From when to when the host is down.
    outage_s: Option<(i64, i64)>,
    /// Every so manieth request fails without a header.
    fails: Option<u32>,
}

#[derive(Debug)]
struct Page {
    released_s: i64,
    deadline_s: i64,
    read: bool,
}

struct Running {
    ends_s: i64,
    slice: u64,
    told: Told,
    ticket: Option<Ticket>,
    rank: Rank,
}

#[derive(Debug, Default, Clone)]
struct Window {
    used: u64,
    ours: u64,
    foreign: u64,
    tails: u64,
    failed: u64,
    leisure: u64,
    foreign_unseen: u64,
}

struct Entity {
    name: EntityName,
    ways: Vec<usize>,
    request_s: i64,
    interval_s: i64,
    /// By slice: its pages, in the order in which they expire.
    slices: Vec<Vec<Page>>,
    leisure_left: usize,
    tail_due_s: i64,
    polls_s: Vec<i64>,
    last_was_tail: bool,
    running: Vec<Running>,
}

struct World {
    case: Case,
    now_s: i64,
    arbiter: Arc<Arbiter>,
    seats: Vec<Seat>,
    entities: Vec<Entity>,
    /// By credential, entity (where budgets are separate) and window.
    windows: BTreeMap<(usize, usize, i64), Window>,
    /// Credentials (and entities, where budgets are separate) of whose budget this process has been told.
    told: BTreeSet<(usize, usize)>,
    requests: u32,
    faults: Vec<String>,
}

impl World {
    fn new(case: Case) -> Self {
        let entities = case.entities.iter().enumerate().map(|(number, it)| {
            let all = 0..case.credentials.len();
            let mut ways: Vec<usize> = all.clone().filter(|way| it.ways >> way & 1 == 1).collect();
            if ways.is_empty() {
                ways = all.collect();
            }
            let back_s = case.outage_s.map_or(0, |(_, to)| to);
            let slices = it.slices.iter().enumerate().map(|(at, slice)| {
                let start_s = if at % 2 == 0 { 0 } else { back_s };
                let (released_s, least_s) = match slice.released_s {
                    Some(released_s) => (released_s, 2 * WINDOW_S + back_s),
                    None => (start_s, 0),
                };
                let first_s = released_s + least_s + slice.first_life_s;
                let page = |n: usize| Page {
                    released_s: BEGIN_S + released_s,
                    deadline_s: BEGIN_S + first_s + slice.spacing_s * i64::try_from(n).unwrap(),
                    read: false,
                };
                (0..slice.pages).map(page).collect()
            });
            Entity {
                name: EntityName::try_from(format!("e{number}")).unwrap(),
                ways,
                request_s: it.request_s,
                interval_s: it.tail_interval_s,
                slices: slices.collect(),
                leisure_left: it.leisure_pages,
                tail_due_s: BEGIN_S,
                polls_s: Vec::new(),
                last_was_tail: false,
                running: Vec::new(),
            }
        });
        let mut world = Self {
            now_s: BEGIN_S,
            arbiter: Arc::new(Arbiter::new(case.reserve)),
            seats: Vec::new(),
            entities: entities.collect(),
            windows: BTreeMap::new(),
            told: BTreeSet::new(),
            requests: 0,
            faults: Vec::new(),
            case,
        };
        world.start();
        world
    }

    /// The process begins: it knows nothing of budgets.
    fn start(&mut self) {
        self.seats.clear();
        self.told.clear();
        for entity in &mut self.entities {
            entity.running.clear();
            entity.tail_due_s = self.now_s;
        }
        self.arbiter = Arc::new(Arbiter::new(self.case.reserve));
        for entity in &self.entities {
            let ids: Vec<_> =
                entity.ways.iter().map(|way| CredentialId::new(&format!("c{way}"))).collect();
            self.seats.push(self.arbiter.seat(&entity.name, EntityKind::Organization, &ids));
        }
    }

    fn now(&self) -> Now {
        Now { s: self.now_s, mono_ms: self.now_s * 1000 }
    }

    fn window(&mut self, credential: usize, entity: usize) -> &mut Window {
        let entity = if self.case.separate { entity } else { 0 };
        self.windows.entry((credential, entity, self.now_s / WINDOW_S)).or_default()
    }

    /// What GitHub does with a request.
    fn serve(&mut self, credential: usize, entity: usize, rank: Rank) -> Told {
        self.requests += 1;
        let fails = self.case.fails.is_some_and(|every| self.requests.is_multiple_of(every));
        let (limit, reserve) = (self.case.credentials[credential].limit, self.case.reserve);
        // the first request of a process finds out
        let account = (credential, if self.case.separate { entity } else { 0 });
        let is_told = self.told.contains(&account);
        if !fails {
            self.told.insert(account);
        }
        let reset_s = (self.now_s / WINDOW_S + 1) * WINDOW_S;
        let window = self.window(credential, entity);
        // what others took since an answer told of it cannot be known
        let known = window.used - window.foreign_unseen.min(window.used);
        let over = known + reserve >= limit;
        window.used += 1;
        window.ours += 1;
        match rank {
            _ if fails => window.failed += 1,
            Rank::Tail { .. } => window.tails += 1,
            Rank::Leisure(_) => window.leisure += 1,
            Rank::Deadline(_) => {}
        }
        let remaining = limit.saturating_sub(window.used);
        if !fails {
            window.foreign_unseen = 0;
        }
        if over && is_told {
            self.faults.push(format!("over the limit of c{credential} at {}", self.now_s));
        }
        if fails { Told::Nothing } else { Told::Budget(Budget { limit, remaining, reset_s }) }
    }

    fn others(&mut self, gone_s: i64) {
        for credential in 0..self.case.credentials.len() {
            let foreign = &self.case.credentials[credential].foreign_s;
            let count = foreign.iter().filter(|at| **at == gone_s).count();
            let limit = self.case.credentials[credential].limit;
            for _ in 0..count {
                let window = self.window(credential, 0);
                if window.used < limit {
                    window.used += 1;
                    window.foreign += 1;
                    window.foreign_unseen += 1;
                }
            }
        }
    }

    fn answers(&mut self) {
        let now = self.now();
        for entity in &mut self.entities {
            let (ended, running): (Vec<_>, Vec<_>) =
                entity.running.drain(..).partition(|it| it.ends_s <= now.s);
            entity.running = running;
            for it in ended {
                it.ticket.unwrap().answered(it.told, now);
                let is_tail = matches!(it.rank, Rank::Tail { .. });
                if it.told == Told::Nothing {
                    continue;
                }
                entity.last_was_tail = is_tail;
                if is_tail {
                    entity.tail_due_s = now.s + entity.interval_s;
                }
            }
        }
    }

    fn demand(&self, number: usize) -> Demand {
        let (entity, now_s) = (&self.entities[number], self.now_s);
        let state = |slice: u64| {
            let running = entity.running.iter().find(|it| it.slice == slice);
            running.map_or(State::Ready, |it| State::InFlight(it.ticket.as_ref().unwrap().way()))
        };
        let item =
            |slice: u64, rank, state| Item { lane: Lane::Web, slice, rank, from_s: 0, state };
        let tail = Rank::Tail {
            due_ms: entity.tail_due_s * 1000,
            interval_ms: entity.interval_s * 1000,
            pages: 1,
            walking: false,
        };
        let mut items = vec![item(0, tail, state(0))];
        for (at, pages) in entity.slices.iter().enumerate() {
            let id = u64::try_from(at).unwrap() + 1;
            let open =
                |page: &&Page| !page.read && page.released_s <= now_s && now_s < page.deadline_s;
            if let Some(page) = pages.iter().find(open) {
                items.push(item(id, Rank::Deadline(page.deadline_s), state(id)));
            }
        }
        if entity.leisure_left > 0 {
            items.push(item(99, Rank::Leisure(86_400), state(99)));
        }
        let last_was_tail = entity.last_was_tail;
        Demand { items, last_was_tail, request_ms: entity.request_s * 1000 }
    }

    /// Every collector asks, until nobody gets anything more.
    fn ask(&mut self) {
        let now = self.now();
        for round in 0..20 {
            let mut granted = 0;
            for offset in 0..self.entities.len() {
                let number =
                    (offset + round + usize::try_from(now.s).unwrap()) % self.entities.len();
                let demand = self.demand(number);
                let items = demand.items.clone();
                let turn = self.seats[number].ask(demand, now);
                for (item, ticket) in turn.granted {
                    granted += 1;
                    self.send(number, items[item], ticket);
                }
            }
            if granted == 0 {
                return;
            }
        }
        self.faults.push(format!("no end of asking at {}", now.s));
    }

    fn send(&mut self, number: usize, item: Item, ticket: Ticket) {
        let credential = self.entities[number].ways[ticket.way()];
        let told = self.serve(credential, number, item.rank);
        let entity = &mut self.entities[number];
        let busy = |it: &Running| it.ticket.as_ref().is_some_and(|t| t.way() == ticket.way());
        if entity.running.iter().any(|it| busy(it) || it.slice == item.slice) {
            self.faults.push(format!("two at once for {} at {}", entity.name, self.now_s));
        }
        let now_s = self.now_s;
        let is_page = told != Told::Nothing;
        match item.rank {
            Rank::Deadline(_) if is_page => {
                let at = usize::try_from(item.slice).unwrap() - 1;
                let open = |page: &&mut Page| !page.read && now_s < page.deadline_s;
                entity.slices[at].iter_mut().find(open).unwrap().read = true;
            }
            Rank::Leisure(_) if is_page => entity.leisure_left -= 1,
            Rank::Tail { .. } => entity.polls_s.push(now_s),
            _ => {}
        }
        let ends_s = now_s + entity.request_s;
        let (slice, rank) = (item.slice, item.rank);
        entity.running.push(Running { ends_s, slice, told, ticket: Some(ticket), rank });
        let in_flight = self.entities.iter().flat_map(|entity| {
            entity.running.iter().map(|it| entity.ways[it.ticket.as_ref().unwrap().way()])
        });
        if in_flight.filter(|it| *it == credential).count() > 8 {
            self.faults.push(format!("more than eight in flight at {now_s}"));
        }
    }

    fn run(&mut self) {
        for gone_s in 0..self.case.windows * WINDOW_S {
            self.now_s = BEGIN_S + gone_s;
            self.others(gone_s);
            if self.case.outage_s.is_some_and(|(from, to)| (from..to).contains(&gone_s)) {
                continue;
            }
            if self.case.outage_s.is_some_and(|(_, to)| to == gone_s) {
                self.start();
            }
            self.answers();
            if self.may_change(gone_s) {
                self.ask();
            }
        }
    }

    /// Seconds at which nothing can have changed are passed over, all but every tenth.
    fn may_change(&self, gone_s: i64) -> bool {
        let now_s = self.now_s;
        gone_s % 10 == 0
            || now_s % WINDOW_S == 0
            || self.entities.iter().any(|entity| {
                entity.tail_due_s == now_s
                    || entity.running.len() < entity.ways.len() && gone_s % 2 == 0
            })
    }

    fn pages(&self) -> impl Iterator<Item = (usize, &Page)> {
        let end_s = BEGIN_S + self.case.windows * WINDOW_S;
        let each = self.entities.iter().enumerate();
        each.flat_map(|(number, entity)| entity.slices.iter().flatten().map(move |it| (number, it)))
            .filter(move |(_, page)| page.deadline_s <= end_s)
    }

    /// Pages that expired unread within the time.
    fn lost(&self) -> usize {
        self.pages().filter(|(_, page)| !page.read).count()
    }

    /// What the oracle loses of those that expire within the time. Those that expire later, and were read all the same,
    /// took nothing away that it could have used for them: the earliest deadline goes first there too.
    fn lost_by_oracle(&self, least_life_s: i64) -> usize {
        let mut slots: Vec<(usize, i64, u64)> = Vec::new();
        for (credential, case) in self.case.credentials.iter().enumerate() {
            for window in 0..self.case.windows {
                let number = BEGIN_S / WINDOW_S + window;
                let used = self.windows.get(&(credential, 0, number)).cloned().unwrap_or_default();
                let whole = case.limit.saturating_sub(self.case.reserve);
                let cut = self.case.outage_s.is_some_and(|(from, to)| {
                    from < (window + 1) * WINDOW_S && window * WINDOW_S < to
                });
                // nobody knows that the polls for which it was kept will not be made
                let share = if cut { self.needed_by_tails() } else { 0 };
                let tails = used.tails.max(share).min(whole.div_ceil(2));
                let kept = used.foreign + used.failed + tails + self.case.reserve;
                slots.push((credential, number * WINDOW_S, case.limit.saturating_sub(kept)));
            }
        }
        let outage = self.case.outage_s.map(|(from, to)| (BEGIN_S + from, BEGIN_S + to));
        let pages: Vec<_> = self.pages().collect();
        let edges: Vec<Vec<usize>> = pages
            .iter()
            .map(|(entity, page)| {
                let may = |&&(credential, from_s, _): &&(usize, i64, u64)| {
                    let a = from_s.max(page.released_s);
                    let b = (from_s + WINDOW_S).min(page.deadline_s);
                    let down_s = outage.map_or(0, |(from, to)| (b.min(to) - a.max(from)).max(0));
                    self.entities[*entity].ways.contains(&credential)
                        && b - a - down_s > least_life_s
                };
                let each = slots.iter().enumerate();
                each.filter(|(_, slot)| may(slot)).map(|(number, _)| number).collect()
            })
            .collect();
        let capacities: Vec<u64> = slots.iter().map(|slot| slot.2).collect();
        pages.len() - matching(&edges, &capacities)
    }

    /// Polls of a whole window, for each credential.
    fn needed_by_tails(&self) -> u64 {
        let polls: i64 = self.entities.iter().map(|it| WINDOW_S / it.interval_s + 1).sum();
        u64::try_from(polls).unwrap().div_ceil(u64::try_from(self.case.credentials.len()).unwrap())
    }

    fn check_tails(&mut self) {
        if self.case.fails.is_some() || self.case.outage_s.is_some() {
            return;
        }
        for window in 0..self.case.windows {
            let number = BEGIN_S / WINDOW_S + window;
            for (at, case) in self.case.credentials.iter().enumerate() {
                let used = self.windows.get(&(at, 0, number)).cloned().unwrap_or_default();
                let users: Vec<_> = self.entities.iter().filter(|it| it.ways == [at]).collect();
                let alone =
                    self.entities.iter().all(|it| it.ways == [at] || !it.ways.contains(&at));
                if used.foreign > 0 || self.case.separate || !alone || users.is_empty() {
                    continue;
                }
                let polls = |it: &&Entity| WINDOW_S / (it.interval_s + it.request_s + 10);
                let needed: i64 = users.iter().map(polls).sum();
                let share = case.limit.saturating_sub(self.case.reserve) / 2;
                let tails = i64::try_from(users.len()).unwrap();
                let least = needed.min(i64::try_from(share).unwrap()) * 7 / 10 - 2 * tails;
                if i64::try_from(used.tails).unwrap() < least {
                    let fault = format!("c{at} window {window}: {} polls of {least}", used.tails);
                    self.faults.push(fault);
                }
            }
        }
    }
}

/// The largest number of pages that can be given a slot each, slots holding several.
fn matching(edges: &[Vec<usize>], capacities: &[u64]) -> usize {
    fn place(
        page: usize,
        edges: &[Vec<usize>],
        capacities: &[u64],
        held: &mut [Vec<usize>],
        tried: &mut BTreeSet<usize>,
    ) -> bool {
        for &slot in &edges[page] {
            if !tried.insert(slot) {
                continue;
            }
            if u64::try_from(held[slot].len()).unwrap() < capacities[slot] {
                held[slot].push(page);
                return true;
            }
            for at in 0..held[slot].len() {
                let other = held[slot][at];
                if place(other, edges, capacities, held, tried) {
                    held[slot][at] = page;
                    return true;
                }
            }
        }
        false
    }
    let mut held = vec![Vec::new(); capacities.len()];
    let placed = |page: &usize| place(*page, edges, capacities, &mut held, &mut BTreeSet::new());
    (0..edges.len()).filter(placed).count()
}

prop_compose! {
    fn any_credential()(
        limit in 8_u64..60, foreign_s in vec(0_i64..6 * WINDOW_S, 0..30), alone in any::<bool>(),
    ) -> CredentialCase {
        CredentialCase { limit, foreign_s: if alone { Vec::new() } else { foreign_s } }
    }
}

prop_compose! {
    fn any_slice()(
        released_s in prop::option::weighted(0.3, 0..3 * WINDOW_S), first_life_s in 300_i64..3 * WINDOW_S,
        spacing_s in 60_i64..600, pages in 1_usize..60,
    ) -> SliceCase {
        SliceCase { released_s, first_life_s, spacing_s, pages }
    }
}

prop_compose! {
    fn any_entity()(
        ways in any::<u8>(), request_s in 1_i64..6, tail_interval_s in 60_i64..900,
        slices in vec(any_slice(), 0..4), leisure_pages in 0_usize..200,
    ) -> EntityCase {
        EntityCase { ways, request_s, tail_interval_s, slices, leisure_pages }
    }
}

prop_compose! {
    fn any_case()(
        reserve in 0_u64..6, windows in 3_i64..7, credentials in vec(any_credential(), 1..4),
        entities in vec(any_entity(), 1..4), separate in any::<bool>(),
        outage_s in prop::option::of((600..2 * WINDOW_S, 600..2 * WINDOW_S)), fails in prop::option::of(5_u32..40),
    ) -> Case {
        let outage_s = outage_s.map(|(from, long)| (from, from + long));
        Case { reserve, windows, credentials, entities, separate, outage_s, fails }
    }
}

/// A case for the oracle: budgets as the scheduler takes them first, and every entity with every credential.
fn comparable(mut case: Case) -> Case {
    case.separate = false;
    for entity in &mut case.entities {
        entity.ways = 0;
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the credentials, failures, other users and outages.
    #[test]
    fn no_budget_is_exceeded_and_no_tail_is_starved(case in any_case()) {
        let mut world = World::new(case);
        world.run();
        world.check_tails();
        prop_assert!(world.faults.is_empty(), "{:?}", world.faults);
    }

    #[test]
    fn nothing_expires_that_the_oracle_saves_and_little_more_in_overload(case in any_case()) {
        let mut world = World::new(comparable(case));
        world.run();
        prop_assert!(world.faults.is_empty(), "{:?}", world.faults);
        let (lost, strict) = (world.lost(), world.lost_by_oracle(240));
        if strict == 0 {
            prop_assert_eq!(lost, 0, "the oracle saves everything");
        }
        let slices: usize = world.entities.iter().map(|entity| entity.slices.len()).sum();
        let most = world.lost_by_oracle(60) * 11 / 10 + slices * SLACK_PAGES;
        prop_assert!(lost <= most, "{lost} lost, the oracle loses {most} tenths more included");
    }
}

/// The oracle is one only if it finds what needs an exchange.
#[test]
fn the_oracle_finds_the_largest_matching() {
    assert_eq!(matching(&[vec![0, 1], vec![0]], &[1, 1]), 2);
    assert_eq!(matching(&[vec![0, 1], vec![0], vec![0, 2], vec![2]], &[1, 1, 1]), 3);
    assert_eq!(matching(&[vec![0], vec![0], vec![0]], &[2]), 2);
}
