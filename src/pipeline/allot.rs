//! Which slice gets the next request of which credential. Pure: demands, budgets and time in, grants and reasons out.
//!
//! 1. A tail goes first when it is due, in turn with the entity's other work. As much of each window as the polls until
//!    its end need, at most half, is kept for tails; where that is not enough, tails are polled less often.
//! 2. Then what has a deadline, the earliest first, across the entities and lanes that share a credential. A slice can use
//!    at most as many requests as its requests take time; what it could use until the window ends is kept for it, and
//!    only what is left beyond goes to a later deadline.
//! 3. Sweeps that may wait get what is left then.
//!
//! Unit requests with deadlines: that the earliest goes first loses the least (Glover's matching in convex bipartite
//! graphs). The credential that is taken is the one with the most requests for the time that is left to it.

use super::budget::Purse;
use crate::audit::Lane;
use std::fmt;

/// Requests in flight with one credential. GitHub asks for few; its secondary limits begin at 100.
pub const IN_FLIGHT_MAX: u32 = 8;

/// What a slice is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A tail.
    Tail {
        /// Monotonic time of its next poll, milliseconds.
        due_ms: i64,
        /// Time between two polls, milliseconds.
        interval_ms: i64,
        /// Requests of one poll.
        pages: u32,
        /// Whether a walk is going on: it goes on at once.
        walking: bool,
    },
    /// Gone at this second.
    Deadline(i64),
    /// A sweep that may wait, by its age.
    Leisure(i64),
}

/// How a slice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It may be asked for.
    Ready,
    /// A request is in flight with this one of the entity's ways.
    InFlight(usize),
    /// It may not be asked for.
    Waits(Why),
}

/// A slice that wants requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The lane.
    pub lane: Lane,
    /// The slice.
    pub slice: u64,
    /// What it is chosen by.
    pub rank: Rank,
    /// Its first second: the older goes first.
    pub from_s: i64,
    /// How it stands.
    pub state: State,
}

/// A credential that an entity may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Number of the credential.
    pub credential: usize,
    /// Number of the purse that pays.
    pub purse: usize,
    /// Whether the entity has a request in flight with it.
    pub busy: bool,
    /// Monotonic time until which it is set aside, milliseconds; past: it has not been tried again yet.
    pub aside_until_ms: Option<i64>,
}

/// What an entity wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Its slices.
    pub items: Vec<Item>,
    /// Whether its last page was a tail's.
    pub last_was_tail: bool,
    /// Time of one request, milliseconds.
    pub request_ms: i64,
}

/// An entity in a decision.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// What it wants.
    pub demand: &'a Demand,
    /// Its credentials.
    pub ways: &'a [Way],
}

/// All that a decision rests on.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The entities.
    pub parties: Vec<Party<'a>>,
    /// Budgets.
    pub purses: Vec<Purse>,
    /// Requests in flight by credential, of all entities, also of those that are not among the parties.
    pub in_flight: Vec<u32>,
    /// Monotonic now, milliseconds.
    pub mono_ms: i64,
}

/// Why a slice gets no request, or that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It gets one.
    Granted,
    /// It has one.
    InFlight,
    /// Nothing before what was fetched is committed.
    Uncommitted,
    /// Its confirmation waits until its upper edge has settled.
    Settling,
    /// The entity's state is changed first.
    Reshaping,
    /// The tail is polled at this monotonic time, milliseconds; later than usual where the budget is short.
    NotDue(i64),
    /// Other slices of the entity go first.
    OwnTurn,
    /// The entity has a request in flight with each of its credentials.
    Busy,
    /// The credentials have as many requests in flight as they may.
    Crowded,
    /// The budget is used up to the reserve; the window ends in so many of our milliseconds.
    Budget(i64),
    /// What is left is kept for tails and for earlier deadlines; the window ends in so many of our milliseconds.
    Kept(i64),
    /// All credentials are set aside until this monotonic time, milliseconds.
    Aside(i64),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted => f.write_str("is asked for now"),
            Self::InFlight => f.write_str("a request is under way"),
            Self::Uncommitted => f.write_str("what was fetched is being committed"),
            Self::Settling => f.write_str("its upper edge is not settled yet"),
            Self::Reshaping => f.write_str("slices are being opened or split first"),
            Self::NotDue(_) => f.write_str("not due yet"),
            Self::OwnTurn => f.write_str("other slices of the entity go first"),
            Self::Busy => f.write_str("each credential has a request under way for the entity"),
            Self::Crowded => {
                f.write_str("the credentials have as many requests under way as they may")
            }
            Self::Budget(ms) => {
                write!(f, "the request budget is used up to the reserve, for {} s", ms / 1000)
            }
            Self::Kept(_) => {
                f.write_str("what is left of the budget is for tails and earlier deadlines")
            }
            Self::Aside(_) => f.write_str("every credential is set aside"),
        }
    }
}

/// A request to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Number of the party.
    pub party: usize,
    /// Number of the item among its items.
    pub item: usize,
    /// Number of the way among its ways.
    pub way: usize,
}

/// The decision.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Allotment {
    /// What is asked for now.
    pub grants: Vec<Grant>,
    /// For each party, for each of its items: why.
    pub whys: Vec<Vec<Why>>,
}

/// Decides.
pub fn allot(scene: &Scene<'_>) -> Allotment {
    let mut desk = Desk::new(scene);
    let order = desk.order();
    for (_, _, _, party, item) in order {
        desk.decide(party, item);
    }
    desk.out
}

/// When a way is used: the entity has one request in flight with a credential.
struct Desk<'a> {
    scene: &'a Scene<'a>,
    tills: Vec<Till>,
    in_flight: Vec<u32>,
    /// By party and way.
    busy: Vec<Vec<bool>>,
    /// Streams of requests that a party's slices with a deadline can still make.
    streams: Vec<usize>,
    out: Allotment,
}

/// A purse in the course of a decision.
#[derive(Debug, Clone, Copy)]
struct Till {
    /// What may be spent at all.
    raw: u64,
    /// What may be spent on deadlines: less what is kept for tails, and for those that came before.
    free: u64,
    /// What sweeps that may wait must leave besides.
    leisure_keep: u64,
    /// What tails may spend.
    tail: u64,
    /// Requests that tails need until the window ends.
    need: u64,
    left_ms: i64,
}

/// Turn, then rank, then age, party and item.
type Place = (u8, (i64, i64), u64, usize, usize);

impl<'a> Desk<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        let busy =
            scene.parties.iter().map(|party| party.ways.iter().map(|way| way.busy).collect());
        let whys = scene.parties.iter().map(|party| {
            let why = |item: &Item| match item.state {
                State::Ready => Why::OwnTurn,
                State::InFlight(_) => Why::InFlight,
                State::Waits(why) => why,
            };
            party.demand.items.iter().map(why).collect()
        });
        Self {
            tills: tills(scene),
            in_flight: scene.in_flight.clone(),
            busy: busy.collect(),
            streams: scene.parties.iter().map(|party| party.ways.len()).collect(),
            out: Allotment { grants: Vec::new(), whys: whys.collect() },
            scene,
        }
    }

    /// Who is asked first.
    fn order(&self) -> Vec<Place> {
        let mut order = Vec::new();
        for (number, party) in self.scene.parties.iter().enumerate() {
            // in turn with the entity's own work, never with that of others
            let alternates = party.demand.last_was_tail
                && party.demand.items.iter().any(|item| {
                    !matches!(item.rank, Rank::Tail { .. }) && item.state == State::Ready
                });
            for (at, item) in party.demand.items.iter().enumerate() {
                if matches!(item.state, State::Waits(_)) {
                    continue;
                }
                let (turn, rank) = match item.rank {
                    Rank::Tail { due_ms, .. } if alternates => (3, due_ms),
                    Rank::Tail { due_ms, .. } => (0, due_ms),
                    Rank::Deadline(at_s) => (1, at_s),
                    Rank::Leisure(age_s) => (2, age_s),
                };
                order.push((turn, (rank, item.from_s), item.slice, number, at));
            }
        }
        order.sort_unstable();
        order
    }

    fn decide(&mut self, party: usize, at: usize) {
        let Some(&Party { demand, ways }) = self.scene.parties.get(party) else { return };
        let Some(item) = demand.items.get(at) else { return };
        if item.state == State::Ready {
            let chosen = match item.rank {
                Rank::Tail { .. } => self.tail(party, ways, item.rank),
                Rank::Deadline(_) => self.best(party, ways, |till| till.free),
                Rank::Leisure(_) => {
                    self.best(party, ways, |till| till.free.saturating_sub(till.leisure_keep))
                }
            };
            let why = chosen.map_or_else(|why| why, |_| Why::Granted);
            self.tell(party, at, why);
            if let Ok(way) = chosen {
                self.grant(Grant { party, item: at, way }, ways, item.rank);
            }
        }
        if matches!(item.rank, Rank::Deadline(_)) {
            self.claim(party, at, ways, demand.request_ms);
        }
    }

    fn tell(&mut self, party: usize, at: usize, why: Why) {
        if let Some(told) = self.out.whys.get_mut(party).and_then(|whys| whys.get_mut(at)) {
            *told = why;
        }
    }

    fn grant(&mut self, grant: Grant, ways: &[Way], rank: Rank) {
        let Some(way) = ways.get(grant.way) else { return };
        if let Some(till) = self.tills.get_mut(way.purse) {
            till.raw = less(till.raw, 1);
            match rank {
                Rank::Tail { .. } => till.tail = less(till.tail, 1),
                // what it can use until the window ends is taken with its claim
                Rank::Deadline(_) => {}
                Rank::Leisure(_) => till.free = less(till.free, 1),
            }
        }
        if let Some(in_flight) = self.in_flight.get_mut(way.credential) {
            *in_flight = in_flight.saturating_add(1);
        }
        let busy = self.busy.get_mut(grant.party).and_then(|busy| busy.get_mut(grant.way));
        if let Some(busy) = busy {
            *busy = true;
        }
        self.out.grants.push(grant);
    }

    /// A tail's way, when it is due.
    fn tail(&self, party: usize, ways: &[Way], rank: Rank) -> Result<usize, Why> {
        let Rank::Tail { due_ms, interval_ms, walking, .. } = rank else {
            return Err(Why::OwnTurn);
        };
        let now = self.scene.mono_ms;
        if !walking && due_ms <= now {
            // with less than the polls need, the time between them grows by as much
            let later = |way: &Way| {
                let till = self.tills.get(way.purse)?;
                (till.need > till.tail && till.tail > 0).then(|| {
                    let more = u128::from(till.need - till.tail);
                    let interval = u128::try_from(interval_ms.max(1)).unwrap_or(1);
                    let more = interval.saturating_mul(more) / u128::from(till.tail);
                    i64::try_from(more).unwrap_or(i64::MAX).min(till.left_ms)
                })
            };
            let more_ms = ways.iter().map(|way| later(way).unwrap_or(0)).min().unwrap_or(0);
            let due_ms = due_ms.saturating_add(more_ms);
            if due_ms > now {
                return Err(Why::NotDue(due_ms));
            }
        } else if !walking {
            return Err(Why::NotDue(due_ms));
        }
        self.best(party, ways, |till| till.tail.min(till.raw))
    }

    /// The richest way that is not in use: most requests for the time that is left.
    fn best(
        &self,
        party: usize,
        ways: &[Way],
        spendable: impl Fn(&Till) -> u64,
    ) -> Result<usize, Why> {
        let mut why = Why::Aside(i64::MAX);
        let mut best: Option<(u128, usize)> = None;
        for (number, way) in ways.iter().enumerate() {
            let Some(till) = self.tills.get(way.purse) else { continue };
            let spendable = spendable(till).min(till.raw);
            let busy = self.busy.get(party).and_then(|busy| busy.get(number)) == Some(&true);
            let crowded = self.in_flight.get(way.credential).is_some_and(|n| *n >= IN_FLIGHT_MAX);
            let aside = way.aside_until_ms.filter(|until| *until > self.scene.mono_ms);
            let refused = match aside {
                Some(until) => Some(Why::Aside(until)),
                None if busy => Some(Why::Busy),
                None if till.raw == 0 => Some(Why::Budget(till.left_ms)),
                None if spendable == 0 => Some(Why::Kept(till.left_ms)),
                None if crowded => Some(Why::Crowded),
                None => None,
            };
            if let Some(refused) = refused {
                why = sooner(why, refused);
                continue;
            }
            let left_ms = u128::try_from(till.left_ms.max(1)).unwrap_or(1);
            // one that was refused is tried again as soon as it may be: else nobody would learn that it works
            let on_trial = way.aside_until_ms.is_some();
            let rich = if on_trial {
                u128::MAX
            } else {
                u128::from(till.raw).saturating_mul(1 << 40) / left_ms
            };
            if best.is_none_or(|(most, _)| rich > most) {
                best = Some((rich, number));
            }
        }
        best.map(|(_, number)| number).ok_or(why)
    }

    /// Keeps for a slice what it can use until the windows end: one request after the other, first where it runs.
    fn claim(&mut self, party: usize, at: usize, ways: &[Way], request_ms: i64) {
        let Some(streams) = self.streams.get_mut(party).filter(|left| **left > 0) else { return };
        *streams -= 1;
        let runs = self.runs_on(party, at);
        let order = runs.into_iter().chain((0..ways.len()).filter(|way| Some(*way) != runs));
        let mut used: Option<u64> = None;
        for number in order {
            let Some(way) = ways.get(number) else { continue };
            if way.aside_until_ms.is_some_and(|until| until > self.scene.mono_ms) {
                continue;
            }
            let Some(till) = self.tills.get_mut(way.purse) else { continue };
            let most = u64::try_from(till.left_ms / request_ms.max(1)).unwrap_or(0).max(1);
            let take = till.free.min(most.saturating_sub(used.unwrap_or(0)));
            till.free = less(till.free, take);
            used = Some(used.unwrap_or(0).saturating_add(take));
        }
    }

    fn runs_on(&self, party: usize, at: usize) -> Option<usize> {
        let item = self.scene.parties.get(party)?.demand.items.get(at)?;
        match item.state {
            State::InFlight(way) => Some(way),
            State::Ready => {
                let granted = |grant: &&Grant| (grant.party, grant.item) == (party, at);
                self.out.grants.iter().rev().find(granted).map(|grant| grant.way)
            }
            State::Waits(_) => None,
        }
    }
}

/// Of two refusals the one that ends sooner, as far as that can be said: a turn comes before a window's end, and that before
/// a credential that was set aside.
fn sooner(a: Why, b: Why) -> Why {
    let rank = |why: &Why| match *why {
        Why::Aside(until_ms) => (2, until_ms),
        Why::Budget(left_ms) => (1, left_ms),
        _ => (0, 0),
    };
    if rank(&a) < rank(&b) { a } else { b }
}

/// No limit stays none.
fn less(from: u64, taken: u64) -> u64 {
    if from == u64::MAX { from } else { from.saturating_sub(taken) }
}

/// What each purse holds for whom.
fn tills(scene: &Scene<'_>) -> Vec<Till> {
    let mut needs = vec![0_u64; scene.purses.len()];
    let mut pressed = vec![false; scene.purses.len()];
    for party in &scene.parties {
        let demand = party.demand;
        let presses = |item: &Item| {
            matches!(item.rank, Rank::Deadline(_)) && !matches!(item.state, State::Waits(_))
        };
        let has_deadline = demand.items.iter().any(presses);
        let usable = |way: &&Way| way.aside_until_ms.is_none_or(|until| until <= scene.mono_ms);
        let ways = u64::try_from(party.ways.iter().filter(usable).count().max(1)).unwrap_or(1);
        for way in party.ways.iter().filter(usable) {
            let Some(purse) = scene.purses.get(way.purse) else { continue };
            let polls = |item: &Item| polls(item.rank, scene.mono_ms, purse.left_ms);
            let need = demand.items.iter().map(polls).fold(0_u64, u64::saturating_add);
            if let Some(all) = needs.get_mut(way.purse) {
                *all = all.saturating_add(need.div_ceil(ways));
            }
            if let Some(pressed) = pressed.get_mut(way.purse) {
                *pressed |= has_deadline;
            }
        }
    }
    let each = scene.purses.iter().zip(needs).zip(pressed);
    each.map(|((purse, need), pressed)| till(purse, need, pressed)).collect()
}

fn till(purse: &Purse, need: u64, pressed: bool) -> Till {
    let Purse { spendable, whole, tail_spent, foreign, left_ms } = *purse;
    if whole == u64::MAX {
        let free = spendable;
        return Till { raw: free, free, leisure_keep: 0, tail: free, need: 0, left_ms };
    }
    // tails and the rest go halves where there is too little for both
    let share = whole.div_ceil(2).saturating_sub(tail_spent);
    let kept = need.min(share);
    Till {
        raw: spendable,
        // others may go on as they did; a burst of theirs stops nobody
        free: spendable.saturating_sub(kept).saturating_sub(foreign.min(spendable / 2)),
        leisure_keep: need - kept,
        tail: if pressed { spendable.min(share) } else { spendable },
        need,
        left_ms,
    }
}

/// Requests that a tail needs until a window ends.
fn polls(rank: Rank, mono_ms: i64, left_ms: i64) -> u64 {
    let Rank::Tail { due_ms, interval_ms, pages, .. } = rank else { return 0 };
    let after_ms = left_ms.saturating_sub(due_ms.saturating_sub(mono_ms).max(0));
    if after_ms <= 0 {
        return 0;
    }
    let polls = u64::try_from(after_ms / interval_ms.max(1)).unwrap_or(0).saturating_add(1);
    polls.saturating_mul(u64::from(pages.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn item(slice: u64, rank: Rank, state: State) -> Item {
        Item { lane: Lane::Web, slice, rank, from_s: 0, state }
    }

    fn ready(slice: u64, deadline_s: i64) -> Item {
        item(slice, Rank::Deadline(deadline_s), State::Ready)
    }

    fn tail(due_ms: i64) -> Item {
        let rank = Rank::Tail { due_ms, interval_ms: MINUTE_MS, pages: 1, walking: false };
        item(0, rank, State::Ready)
    }

    fn demand(items: Vec<Item>) -> Demand {
        Demand { items, last_was_tail: false, request_ms: 1000 }
    }

    fn purse(spendable: u64, left_ms: i64) -> Purse {
        Purse { spendable, whole: 100, tail_spent: 0, foreign: 0, left_ms }
    }

    fn way(credential: usize) -> Way {
        Way { credential, purse: credential, busy: false, aside_until_ms: None }
    }

    fn decide(demands: &[Demand], ways: &[Vec<Way>], purses: &[Purse]) -> Allotment {
        let parties = demands.iter().zip(ways).map(|(demand, ways)| Party { demand, ways });
        allot(&Scene {
            parties: parties.collect(),
            purses: purses.to_vec(),
            in_flight: vec![0; purses.len()],
            mono_ms: 0,
        })
    }

    fn is_kept(why: Why) -> bool {
        matches!(why, Why::Kept(_))
    }

    /// Entity and slice of each grant.
    fn granted(demands: &[Demand], allotment: &Allotment) -> Vec<(usize, u64, usize)> {
        let each = allotment.grants.iter();
        each.map(|it| (it.party, demands[it.party].items[it.item].slice, it.way)).collect()
    }

    #[test]
    fn the_earliest_deadline_goes_first_across_entities_and_the_rest_gets_the_surplus() {
        let demands = [demand(vec![ready(1, 200)]), demand(vec![ready(2, 100)])];
        let ways = [vec![way(0)], vec![way(0)]];
        // in the minute that is left, 60 requests of a second each: all 50 are the earlier one's
        let allotment = decide(&demands, &ways, &[purse(50, MINUTE_MS)]);
        assert_eq!(granted(&demands, &allotment), [(1, 2, 0)]);
        assert_eq!(allotment.whys, [[Why::Kept(MINUTE_MS)], [Why::Granted]]);
        let allotment = decide(&demands, &ways, &[purse(70, MINUTE_MS)]);
        assert_eq!(granted(&demands, &allotment), [(1, 2, 0), (0, 1, 0)]);
        let flying = [
            demand(vec![ready(1, 200)]),
            demand(vec![item(2, Rank::Deadline(100), State::InFlight(0))]),
        ];
        let allotment = decide(&flying, &ways, &[purse(50, MINUTE_MS)]);
        assert_eq!(allotment.whys, [[Why::Kept(MINUTE_MS)], [Why::InFlight]]);
    }

    #[test]
    fn each_credential_of_an_entity_carries_one_request_and_the_richest_goes_first() {
        let demands = [demand(vec![ready(1, 100), ready(2, 200), ready(3, 300)])];
        let ways = [vec![way(0), way(1)]];
        let purses = [purse(70, MINUTE_MS), purse(90, MINUTE_MS)];
        let allotment = decide(&demands, &ways, &purses);
        assert_eq!(granted(&demands, &allotment), [(0, 1, 1), (0, 2, 0)]);
        assert_eq!(allotment.whys[0][2], Why::Busy);
        let aside = [vec![way(0), Way { aside_until_ms: Some(5), ..way(1) }]];
        let allotment = decide(&demands, &aside, &purses);
        assert_eq!(granted(&demands, &allotment), [(0, 1, 0)]);
        let on_trial = [vec![Way { aside_until_ms: Some(0), ..way(0) }, way(1)]];
        let allotment = decide(&demands, &on_trial, &purses);
        assert_eq!(granted(&demands, &allotment), [(0, 1, 0), (0, 2, 1)]);
    }

    #[test]
    fn a_due_tail_goes_first_in_turn_with_the_rest() {
        let mut demands = [demand(vec![ready(1, 100), tail(0)])];
        let ways = [vec![way(0)]];
        let purses = [purse(90, MINUTE_MS)];
        assert_eq!(granted(&demands, &decide(&demands, &ways, &purses)), [(0, 0, 0)]);
        demands[0].last_was_tail = true;
        assert_eq!(granted(&demands, &decide(&demands, &ways, &purses)), [(0, 1, 0)]);
        demands[0].items[1] = tail(1);
        demands[0].last_was_tail = false;
        let allotment = decide(&demands, &ways, &purses);
        assert_eq!(allotment.whys, [[Why::Granted, Why::NotDue(1)]]);
    }

    #[test]
    fn the_window_keeps_what_the_tails_need_until_its_end_and_no_more_than_half() {
        let ways = [vec![way(0)]];
        let whys = |items, purse| decide(&[demand(items)], &ways, &[purse]).whys[0].clone();
        // polls in one minute and in two are to come
        let items = || vec![ready(1, 100), tail(MINUTE_MS)];
        assert!(is_kept(whys(items(), purse(2, 2 * MINUTE_MS + 1))[0]));
        assert_eq!(whys(items(), purse(3, 2 * MINUTE_MS + 1))[0], Why::Granted);
        // a hundred polls are needed, and half of the window is theirs
        let long_ms = 100 * MINUTE_MS;
        assert!(is_kept(whys(items(), purse(50, long_ms))[0]));
        assert_eq!(whys(items(), purse(51, long_ms))[0], Why::Granted);
        let used = Purse { tail_spent: 50, ..purse(10, long_ms) };
        assert_eq!(whys(items(), used)[0], Why::Granted);
        let due = whys(vec![ready(1, 100), tail(0)], used);
        assert_eq!(due, [Why::Granted, Why::Kept(long_ms)], "the tail had its half");
        // with half of what the polls need, they come half as often
        let scarce = whys(vec![tail(0)], purse(50, long_ms - 1));
        assert_eq!(scarce, [Why::NotDue(MINUTE_MS)]);
        let others = Purse { foreign: 5, ..purse(8, MINUTE_MS) };
        assert_eq!(whys(vec![ready(1, 100)], others)[0], Why::Granted);
        let sweep = || item(9, Rank::Leisure(600), State::Ready);
        let sweeping = vec![sweep(), tail(MINUTE_MS)];
        assert!(is_kept(whys(sweeping, purse(60, 99 * MINUTE_MS))[0]));
        assert_eq!(whys(vec![sweep()], purse(1, MINUTE_MS))[0], Why::Granted);
    }

    #[test]
    fn sweeps_that_may_wait_get_what_no_deadline_can_use() {
        let sweep = item(9, Rank::Leisure(600), State::Ready);
        let demands = [demand(vec![sweep]), demand(vec![ready(1, 100)])];
        let ways = [vec![way(0)], vec![way(0)]];
        let allotment = decide(&demands, &ways, &[purse(60, MINUTE_MS)]);
        assert_eq!(allotment.whys, [[Why::Kept(MINUTE_MS)], [Why::Granted]]);
        let allotment = decide(&demands, &ways, &[purse(61, MINUTE_MS)]);
        assert_eq!(allotment.whys, [[Why::Granted], [Why::Granted]]);
        let unlimited = decide(&demands, &ways, &[Purse::UNLIMITED]);
        assert_eq!(unlimited.grants.len(), 2);
    }

    #[test]
    fn a_credential_carries_at_most_eight_requests_and_none_beyond_its_budget() {
        let demands: Vec<Demand> = (0..12).map(|at| demand(vec![ready(1, at)])).collect();
        let ways = vec![vec![way(0)]; 12];
        let allotment = decide(&demands, &ways, &[Purse::UNLIMITED]);
        assert_eq!(allotment.grants.len(), 8);
        assert_eq!(allotment.whys[8], [Why::Crowded]);
        let short = purse(3, 10);
        let allotment = decide(&demands, &ways, &[short]);
        assert_eq!(allotment.grants.len(), 3);
        assert_eq!(allotment.whys[3], [Why::Budget(10)]);
    }
}
