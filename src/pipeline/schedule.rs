//! What an entity's slices want: which may be asked for, where each goes on, and by what it is chosen. Pure.
//!
//! Which of them gets the next request is decided by [`super::allot`], together with the slices of all entities that share
//! a credential.

use super::allot::{Demand, Item, Party, Rank, Scene, State, Way, Why, allot};
use super::budget::Purse;
use crate::audit::checkpoint::{Checkpoint, LaneState};
use crate::audit::lane::{LaneRules, TAIL_SLACK_S};
use crate::audit::slice::{Query, Slice, SliceKind};
use crate::audit::{Cursor, Lane};
use crate::github::Next;
use std::collections::BTreeMap;

/// Where a slice's walk stands beyond the committed state: pages that are fetched and not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ahead {
    /// More to fetch, here.
    At(Query, Next),
    /// Nothing to fetch before what was fetched is committed.
    Blocked,
}

/// How a lane's tail is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// Monotonic time of the next poll, milliseconds.
    pub due_ms: i64,
    /// Time between two polls, milliseconds.
    pub interval_ms: i64,
    /// Requests of a poll.
    pub pages: u32,
}

impl Default for Poll {
    fn default() -> Self {
        Self { due_ms: i64::MIN, interval_ms: 1, pages: 1 }
    }
}

/// What is known when the next page is chosen.
#[derive(Debug)]
pub struct View<'a> {
    /// The committed state.
    pub checkpoint: &'a Checkpoint,
    /// The rules of the lanes that are read.
    pub rules: &'a BTreeMap<Lane, LaneRules>,
    /// Fetched and not committed.
    pub ahead: &'a BTreeMap<(Lane, u64), Ahead>,
    /// Slices with a request in flight, and the number of its credential among the entity's.
    pub in_flight: &'a BTreeMap<(Lane, u64), usize>,
    /// When each lane's tail is polled.
    pub polls: &'a BTreeMap<Lane, Poll>,
    /// Whether the last page was a tail's.
    pub last_was_tail: bool,
    /// How many credentials the entity has.
    pub credentials: usize,
    /// Time of one request, milliseconds.
    pub request_ms: i64,
    /// GitHub's now, epoch seconds.
    pub now_s: i64,
    /// Monotonic now, milliseconds.
    pub mono_ms: i64,
}

/// A page to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The lane.
    pub lane: Lane,
    /// The slice.
    pub slice: u64,
    /// Its kind.
    pub kind: SliceKind,
    /// The query of the walk.
    pub query: Query,
    /// Where to go on; `None`: a new walk begins.
    pub next: Option<Next>,
    /// Whether it is the first page of a new walk.
    pub began: bool,
    /// GitHub's now when it was chosen, epoch seconds.
    pub asked_s: i64,
}

/// What an entity wants.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Its slices, as the scheduler looks at them.
    pub demand: Demand,
    /// For each of its items: the page.
    pub pages: Vec<Option<Wanted>>,
    /// Whether a change of state ([`reshape`]) is committed before anything else is asked for.
    pub reshape: bool,
    /// Whether one would open sweeps: when nothing else is to be done.
    pub sweeps_due: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Fetch this page.
    Fetch(Wanted),
    /// Commit a change of state first ([`reshape`]).
    Reshape,
    /// Nothing before this monotonic time (milliseconds); `None`: nothing before something is committed.
    Wait(Option<i64>),
}

/// What an entity's slices want.
pub fn wants(view: &View<'_>) -> Wants {
    let mut wants = Wants::default();
    wants.demand.last_was_tail = view.last_was_tail;
    wants.demand.request_ms = view.request_ms.max(1);
    wants.reshape = view.rules.keys().any(|lane| !view.checkpoint.lanes.contains_key(lane))
        || lanes(view).any(|(rules, _, state)| state.is_last_look_due(rules, view.now_s));
    for (rules, lane, state) in lanes(view) {
        for slice in &state.slices {
            let (item, page) = item(view, rules, lane, slice);
            wants.reshape |= item.state == State::Waits(Why::Reshaping);
            wants.demand.items.push(item);
            wants.pages.push(page);
        }
    }
    let busy = |item: &Item| match item.rank {
        Rank::Tail { due_ms, walking, .. } => {
            item.state == State::Ready && (walking || due_ms <= view.mono_ms)
        }
        _ => !matches!(item.state, State::Waits(_)),
    };
    wants.sweeps_due = !wants.reshape
        && !wants.demand.items.iter().any(busy)
        && lanes(view).any(|(rules, _, state)| state.is_sweep_due(rules, view.now_s));
    hold_back(&mut wants.demand.items, view.credentials);
    wants
}

/// Slices that could get a request only after as many others of the entity as it has credentials: not looked at.
fn hold_back(items: &mut [Item], credentials: usize) {
    let mut order: Vec<usize> = (0..items.len()).collect();
    let key = |at: &usize| items.get(*at).map(|it| (it.rank, it.from_s, it.slice));
    order.sort_by_key(key);
    let mut left = credentials;
    for at in order {
        let Some(item) = items.get_mut(at) else { continue };
        if matches!(item.rank, Rank::Tail { .. }) || item.state != State::Ready {
            continue;
        }
        if left == 0 {
            item.state = State::Waits(Why::OwnTurn);
        }
        left = left.saturating_sub(1);
    }
}

/// What an entity does that shares its credential with nobody and knows no limit.
pub fn next(view: &View<'_>) -> Decision {
    let wants = wants(view);
    if wants.reshape {
        return Decision::Reshape;
    }
    let ways = [Way { credential: 0, purse: 0, busy: false, aside_until_ms: None }];
    let allotment = allot(&Scene {
        parties: vec![Party { demand: &wants.demand, ways: &ways }],
        purses: vec![Purse::UNLIMITED],
        in_flight: vec![0],
        mono_ms: view.mono_ms,
    });
    let granted = allotment.grants.first().and_then(|grant| wants.pages.get(grant.item));
    match granted {
        Some(Some(page)) => Decision::Fetch(page.clone()),
        _ if wants.sweeps_due => Decision::Reshape,
        _ => Decision::Wait(wake_mono_ms(view)),
    }
}

/// The state with lanes begun, tails that fell behind split, unconfirmed backfills asked again, and sweeps opened that are
/// due; `None`: no change.
pub fn reshape(
    checkpoint: &Checkpoint,
    rules: &BTreeMap<Lane, LaneRules>,
    now_s: i64,
    credentials_changed: bool,
) -> Option<Checkpoint> {
    let mut next = checkpoint.clone();
    let mut changed = false;
    for (&lane, rules) in rules {
        if let Some(state) = next.lanes.get_mut(&lane) {
            changed |= state.split_tail(rules, now_s);
            changed |= state.ask_again(rules, now_s, credentials_changed);
            changed |= state.open_sweeps(rules, now_s);
        } else {
            next.lanes.insert(lane, LaneState::begin(rules, now_s));
            changed = true;
        }
    }
    changed.then_some(next)
}

/// Seconds until the oldest entry that is not collected expires; negative: it has. `None`: unlimited retention.
pub fn runway_s(state: &LaneState, rules: &LaneRules, now_s: i64) -> Option<i64> {
    let deadline_s = state.lowest_edge_s()?.saturating_add(rules.retention_s?);
    Some(deadline_s.saturating_sub(now_s))
}

fn lanes<'a>(
    view: &View<'a>,
) -> impl Iterator<Item = (&'a LaneRules, Lane, &'a LaneState)> + use<'a> {
    let (rules, checkpoint) = (view.rules, view.checkpoint);
    rules.iter().filter_map(move |(&lane, rules)| {
        checkpoint.lanes.get(&lane).map(|state| (rules, lane, state))
    })
}

/// How a slice stands, and its next page when it may be asked for.
fn item(view: &View<'_>, rules: &LaneRules, lane: Lane, slice: &Slice) -> (Item, Option<Wanted>) {
    let page = wanted(view, lane, slice);
    let is_new = page.as_ref().is_some_and(|page| page.began && page.next.is_none());
    let rank = match slice.kind {
        SliceKind::Tail => {
            let Poll { due_ms, interval_ms, pages } =
                view.polls.get(&lane).copied().unwrap_or_default();
            let walking = !is_new || slice.walk.is_some();
            Rank::Tail { due_ms, interval_ms, pages, walking }
        }
        SliceKind::Backfill | SliceKind::Sweep => rank(rules, slice),
    };
    let state = if let Some(&way) = view.in_flight.get(&(lane, slice.id)) {
        State::InFlight(way)
    } else if page.is_none() {
        State::Waits(Why::Uncommitted)
    } else if is_new && is_behind(view, rules, slice, rank) {
        State::Waits(Why::Reshaping)
    } else if slice.confirming
        && slice.to_s.is_some_and(|to| view.now_s < to.saturating_add(rules.settling_s))
    {
        State::Waits(Why::Settling)
    } else {
        State::Ready
    };
    let item = Item { lane, slice: slice.id, rank, from_s: slice.from_s, state };
    (item, page.filter(|_| state == State::Ready))
}

/// Whether a tail that is about to be walked has fallen behind.
fn is_behind(view: &View<'_>, rules: &LaneRules, slice: &Slice, rank: Rank) -> bool {
    let Rank::Tail { due_ms, walking, .. } = rank else { return false };
    let behind_s = view.now_s.saturating_sub(rules.settling_s).saturating_sub(slice.restart_s());
    (walking || due_ms <= view.mono_ms) && behind_s > TAIL_SLACK_S
}

fn rank(rules: &LaneRules, slice: &Slice) -> Rank {
    if let Some(age_s) = slice.sweep_age_s.filter(|&age| !rules.sweeps.has_deadline(age)) {
        return Rank::Leisure(age_s);
    }
    let unread_s = slice.unread_s();
    Rank::Deadline(rules.retention_s.map_or(i64::MAX, |kept| unread_s.saturating_add(kept)))
}

/// The next page of a slice: on from what is fetched, else from the committed cursor, else a new walk.
fn wanted(view: &View<'_>, lane: Lane, slice: &Slice) -> Option<Wanted> {
    let at = |query, next: Option<Next>, began| Wanted {
        lane,
        slice: slice.id,
        kind: slice.kind,
        query,
        next,
        began,
        asked_s: view.now_s,
    };
    match view.ahead.get(&(lane, slice.id)) {
        Some(Ahead::Blocked) => return None,
        Some(Ahead::At(query, next)) => return Some(at(*query, Some(next.clone()), false)),
        None => {}
    }
    let committed = slice.walk.as_ref().and_then(|walk| {
        walk.cursor.clone().map(|cursor: Cursor| (walk.query, Next::Cursor(cursor)))
    });
    Some(match committed {
        Some((query, next)) => at(query, Some(next), false),
        None => at(Query { from_s: slice.restart_s(), to_s: slice.to_s }, None, true),
    })
}

/// When there may be something to do again: the next poll of a tail, or a slice whose upper edge settles.
fn wake_mono_ms(view: &View<'_>) -> Option<i64> {
    let polls = lanes(view).filter_map(|(_, lane, state)| {
        let tail = state.slices.iter().find(|slice| slice.kind == SliceKind::Tail)?;
        let blocked = view.ahead.get(&(lane, tail.id)) == Some(&Ahead::Blocked);
        let due = view.polls.get(&lane).map_or(view.mono_ms, |poll| poll.due_ms);
        (!blocked).then_some(due)
    });
    polls.chain(settles_mono_ms(view)).min()
}

/// When the upper edge of a slice that waits for it settles, monotonic milliseconds.
pub fn settles_mono_ms(view: &View<'_>) -> Option<i64> {
    let settling = lanes(view).flat_map(|(rules, _, state)| {
        state.slices.iter().filter(|slice| slice.confirming).filter_map(|slice| {
            let left_s = slice.to_s?.saturating_add(rules.settling_s).saturating_sub(view.now_s);
            (left_s > 0).then(|| view.mono_ms.saturating_add(left_s.min(60).saturating_mul(1000)))
        })
    });
    settling.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{EntityName, SweepAges};

    const NOW_S: i64 = 1_790_000_000;
    const DAY_S: i64 = 86_400;

    struct World {
        checkpoint: Checkpoint,
        rules: BTreeMap<Lane, LaneRules>,
        ahead: BTreeMap<(Lane, u64), Ahead>,
        polls: BTreeMap<Lane, Poll>,
        last_was_tail: bool,
    }

    impl World {
        fn new() -> Self {
            let rules = |lane, days: i64| {
                let sweeps = SweepAges::default();
                let retention_s = Some(days * DAY_S);
                (lane, LaneRules { readers: 1, lane, retention_s, settling_s: 600, sweeps })
            };
            let rules = BTreeMap::from([rules(Lane::Web, 180), rules(Lane::Git, 7)]);
            let empty = Checkpoint::empty(EntityName::try_from("acme".to_owned()).unwrap());
            let checkpoint = reshape(&empty, &rules, NOW_S, false).unwrap();
            let poll = |due_ms| Poll { due_ms, ..Poll::default() };
            let polls = BTreeMap::from([(Lane::Web, poll(5000)), (Lane::Git, poll(4000))]);
            Self { checkpoint, rules, ahead: BTreeMap::new(), polls, last_was_tail: false }
        }

        fn next(&self, now_s: i64, mono_ms: i64) -> Decision {
            next(&View {
                checkpoint: &self.checkpoint,
                rules: &self.rules,
                ahead: &self.ahead,
                in_flight: &BTreeMap::new(),
                polls: &self.polls,
                last_was_tail: self.last_was_tail,
                credentials: 1,
                request_ms: 1,
                now_s,
                mono_ms,
            })
        }

        fn fetch(&self, now_s: i64, mono_ms: i64) -> (Lane, SliceKind) {
            match self.next(now_s, mono_ms) {
                Decision::Fetch(wanted) => (wanted.lane, wanted.kind),
                other => panic!("{other:?}"),
            }
        }

        fn block_backfill(&mut self) {
            for (&lane, state) in &self.checkpoint.lanes {
                for slice in state.slices.iter().filter(|slice| slice.kind != SliceKind::Tail) {
                    self.ahead.insert((lane, slice.id), Ahead::Blocked);
                }
            }
        }
    }

    #[test]
    fn a_lane_that_has_not_begun_is_begun_first() {
        let mut world = World::new();
        world.checkpoint.lanes.remove(&Lane::Git);
        assert_eq!(world.next(NOW_S, 0), Decision::Reshape);
    }

    #[test]
    fn the_earliest_deadline_goes_first_across_lanes() {
        let world = World::new();
        let Decision::Fetch(first) = world.next(NOW_S, 0) else { panic!() };
        assert_eq!(first.kind, SliceKind::Backfill);
        let oldest = |lane: Lane| world.checkpoint.lanes[&lane].slices[1].from_s;
        let deadline = |lane: Lane| oldest(lane) + world.rules[&lane].retention_s.unwrap();
        assert_eq!(deadline(first.lane), deadline(Lane::Git).min(deadline(Lane::Web)));
        assert!(first.began);
    }

    #[test]
    fn a_due_tail_takes_turns_with_backfill() {
        let mut world = World::new();
        assert_eq!(world.fetch(NOW_S, 4500), (Lane::Git, SliceKind::Tail));
        world.last_was_tail = true;
        assert_eq!(world.fetch(NOW_S, 4500).1, SliceKind::Backfill);
        world.last_was_tail = false;
        assert_eq!(
            world.fetch(NOW_S, 9000),
            (Lane::Git, SliceKind::Tail),
            "the one that waited longest"
        );
    }

    #[test]
    fn without_work_it_waits_for_the_next_poll() {
        let mut world = World::new();
        world.block_backfill();
        assert_eq!(world.next(NOW_S, 0), Decision::Wait(Some(4000)));
    }

    #[test]
    fn a_walk_goes_on_where_the_fetched_pages_end_and_not_past_its_end() {
        let mut world = World::new();
        world.block_backfill();
        let tail = world.checkpoint.lanes[&Lane::Web].slices[0].clone();
        let at = Next::Cursor(Cursor::new("next".to_owned()).unwrap());
        world.ahead.insert((Lane::Web, tail.id), Ahead::At(tail.next_query(), at.clone()));
        let Decision::Fetch(wanted) = world.next(NOW_S, 0) else { panic!() };
        assert_eq!((wanted.next, wanted.began), (Some(at), false));
        world.ahead.insert((Lane::Web, tail.id), Ahead::Blocked);
        assert_eq!(world.next(NOW_S, 0), Decision::Wait(Some(4000)));
    }

    #[test]
    fn a_tail_that_fell_behind_is_split_before_its_next_walk() {
        let mut world = World::new();
        let later = NOW_S + 5 * DAY_S;
        assert_eq!(world.next(later, 9000), Decision::Reshape);
        world.checkpoint = reshape(&world.checkpoint, &world.rules, later, false).unwrap();
        assert_eq!(world.fetch(later, 9000).1, SliceKind::Tail);
        assert_eq!(reshape(&world.checkpoint, &world.rules, later, false), None);
    }

    #[test]
    fn sweeps_wait_for_backfill_and_for_requests_that_are_left() {
        let mut world = World::new();
        let rules = world.rules.get_mut(&Lane::Git).unwrap();
        rules.sweeps = SweepAges::new(600, &[], rules.retention_s, None);
        let git = world.checkpoint.lanes.get_mut(&Lane::Git).unwrap();
        git.collected.insert(NOW_S - 3 * DAY_S, NOW_S - 2 * DAY_S);
        assert_eq!(world.fetch(NOW_S, 0).1, SliceKind::Backfill);
        world.block_backfill();
        assert_eq!(world.next(NOW_S, 0), Decision::Reshape, "one is due");
        world.checkpoint = reshape(&world.checkpoint, &world.rules, NOW_S, false).unwrap();
        assert_eq!(world.fetch(NOW_S, 0), (Lane::Git, SliceKind::Sweep));
        world.ahead.clear();
        assert_eq!(world.fetch(NOW_S, 0).1, SliceKind::Backfill);
    }

    #[test]
    fn a_last_look_is_opened_at_once_and_goes_by_its_deadline() {
        let mut world = World::new();
        let rules = world.rules.get_mut(&Lane::Git).unwrap();
        rules.sweeps = SweepAges::new(600, &[], rules.retention_s, Some(DAY_S / 2));
        let git = world.checkpoint.lanes.get_mut(&Lane::Git).unwrap();
        git.slices.retain(|slice| slice.kind == SliceKind::Tail);
        git.collected.insert(NOW_S - 6 * DAY_S, NOW_S - 600);
        git.open_sweeps(&world.rules[&Lane::Git], NOW_S);
        let later = NOW_S + DAY_S;
        let tail = git.slices.iter_mut().find(|slice| slice.kind == SliceKind::Tail).unwrap();
        (tail.from_s, tail.start_s) = (later, later);
        let web = world.checkpoint.lanes.get_mut(&Lane::Web).unwrap();
        web.split_tail(&world.rules[&Lane::Web], later);
        assert_eq!(world.next(later, 0), Decision::Reshape, "before any backfill");
        world.checkpoint = reshape(&world.checkpoint, &world.rules, later, false).unwrap();
        let git = &world.checkpoint.lanes[&Lane::Git];
        let last_look = |slice: &&Slice| slice.sweep_age_s == Some(7 * DAY_S - DAY_S / 2);
        let last_look = git.slices.iter().find(last_look).unwrap();
        // the web lane's oldest backfill is due earlier, all others later
        let web = world.checkpoint.lanes[&Lane::Web].slices.iter();
        let oldest = web.filter(|slice| slice.kind == SliceKind::Backfill).map(|slice| slice.id);
        for id in oldest.take(2).collect::<Vec<_>>() {
            world.ahead.insert((Lane::Web, id), Ahead::Blocked);
        }
        let Decision::Fetch(wanted) = world.next(later, 0) else { panic!() };
        assert_eq!((wanted.lane, wanted.slice), (Lane::Git, last_look.id));
    }

    #[test]
    fn runway_is_what_is_left_until_the_lowest_edge_expires() {
        let world = World::new();
        let (state, rules) = (&world.checkpoint.lanes[&Lane::Git], &world.rules[&Lane::Git]);
        assert_eq!(runway_s(state, rules, NOW_S), Some(600));
        assert_eq!(runway_s(state, rules, NOW_S + 1000), Some(-400));
    }
}
