//! Which page is fetched next. Pure; nothing else ever decides to fetch.
//!
//! The tail goes first when it is due, in turn with other work while there is any. That which has a deadline goes by
//! the earliest (lower edge + retention), across lanes: backfill, and the last look before expiry. The other sweeps get what
//! is left, the youngest age first.

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

/// What is known when the next page is chosen.
#[derive(Debug)]
pub struct View<'a> {
    /// The committed state.
    pub checkpoint: &'a Checkpoint,
    /// The rules of the lanes that are read.
    pub rules: &'a BTreeMap<Lane, LaneRules>,
    /// Fetched and not committed.
    pub ahead: &'a BTreeMap<(Lane, u64), Ahead>,
    /// Monotonic time at which each lane's tail is polled again, milliseconds.
    pub tail_due_mono_ms: &'a BTreeMap<Lane, i64>,
    /// Whether the last page was a tail's.
    pub last_was_tail: bool,
    /// Whether there are requests left for sweeps that may wait.
    pub has_leisure: bool,
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

/// Chooses.
pub fn next(view: &View<'_>) -> Decision {
    if view.rules.keys().any(|lane| !view.checkpoint.lanes.contains_key(lane)) {
        return Decision::Reshape;
    }
    if lanes(view).any(|(rules, _, state)| state.is_last_look_due(rules, view.now_s)) {
        return Decision::Reshape;
    }
    // the tail that has waited longest
    let tail = lanes(view)
        .filter_map(|(_, lane, state)| Some((due_mono_ms(view, lane), tail(view, lane, state)?)))
        .min_by_key(|(due, _)| *due)
        .map(|(_, tail)| tail);
    let closed = closed(view);
    match (tail, closed) {
        (Some(Tail::Behind), _) => Decision::Reshape,
        (Some(Tail::Ready(tail)), None) => Decision::Fetch(tail),
        (Some(Tail::Ready(tail)), Some(_)) if !view.last_was_tail => Decision::Fetch(tail),
        (_, Some(closed)) => Decision::Fetch(closed),
        (None, None) if is_sweep_due(view) => Decision::Reshape,
        (None, None) => Decision::Wait(wake_mono_ms(view)),
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

enum Tail {
    Ready(Wanted),
    Behind,
}

fn lanes<'a>(
    view: &View<'a>,
) -> impl Iterator<Item = (&'a LaneRules, Lane, &'a LaneState)> + use<'a> {
    let (rules, checkpoint) = (view.rules, view.checkpoint);
    rules.iter().filter_map(move |(&lane, rules)| {
        checkpoint.lanes.get(&lane).map(|state| (rules, lane, state))
    })
}

fn tail(view: &View<'_>, lane: Lane, state: &LaneState) -> Option<Tail> {
    let rules = view.rules.get(&lane)?;
    let slice = state.slices.iter().find(|slice| slice.kind == SliceKind::Tail)?;
    let wanted = wanted(view, lane, slice)?;
    if wanted.began && wanted.next.is_none() {
        let walking = slice.walk.is_some();
        if !walking && view.mono_ms < due_mono_ms(view, lane) {
            return None;
        }
        let behind_s =
            view.now_s.saturating_sub(rules.settling_s).saturating_sub(slice.restart_s());
        if behind_s > TAIL_SLACK_S {
            return Some(Tail::Behind);
        }
    }
    Some(Tail::Ready(wanted))
}

/// What a closed slice is chosen by, the lowest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Gone at this second.
    Deadline(i64, i64, u64),
    /// A sweep that may wait, by age.
    Leisure(i64, i64, u64),
}

fn closed(view: &View<'_>) -> Option<Wanted> {
    lanes(view)
        .flat_map(|(rules, lane, state)| {
            state.slices.iter().filter(|slice| slice.kind != SliceKind::Tail).filter_map(
                move |slice| {
                    let settled = slice.to_s.is_none_or(|to| {
                        view.now_s >= to.saturating_add(rules.settling_s) || !slice.confirming
                    });
                    let wanted = if settled { wanted(view, lane, slice) } else { None };
                    let rank = rank(rules, slice);
                    let may = view.has_leisure || !matches!(rank, Rank::Leisure(..));
                    wanted.filter(|_| may).map(|wanted| (rank, wanted))
                },
            )
        })
        .min_by(|(a, _), (b, _)| a.cmp(b))
        .map(|(_, wanted)| wanted)
}

fn rank(rules: &LaneRules, slice: &Slice) -> Rank {
    if let Some(age_s) = slice.sweep_age_s.filter(|&age| !rules.sweeps.has_deadline(age)) {
        return Rank::Leisure(age_s, slice.from_s, slice.id);
    }
    let unread_s = slice.unread_s();
    let deadline_s = rules.retention_s.map_or(i64::MAX, |kept| unread_s.saturating_add(kept));
    Rank::Deadline(deadline_s, slice.from_s, slice.id)
}

fn is_sweep_due(view: &View<'_>) -> bool {
    lanes(view).any(|(rules, _, state)| state.is_sweep_due(rules, view.now_s))
}

fn due_mono_ms(view: &View<'_>, lane: Lane) -> i64 {
    view.tail_due_mono_ms.get(&lane).copied().unwrap_or(i64::MIN)
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
        let due = view.tail_due_mono_ms.get(&lane).copied().unwrap_or(view.mono_ms);
        (!blocked).then_some(due)
    });
    let settling = lanes(view).flat_map(|(rules, _, state)| {
        state.slices.iter().filter(|slice| slice.confirming).filter_map(|slice| {
            let left_s = slice.to_s?.saturating_add(rules.settling_s).saturating_sub(view.now_s);
            (left_s > 0).then(|| view.mono_ms.saturating_add(left_s.min(60).saturating_mul(1000)))
        })
    });
    polls.chain(settling).min()
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
        due: BTreeMap<Lane, i64>,
        last_was_tail: bool,
        has_leisure: bool,
    }

    impl World {
        fn new() -> Self {
            let rules = |lane, days: i64| {
                let sweeps = SweepAges::default();
                let retention_s = Some(days * DAY_S);
                (lane, LaneRules { lane, retention_s, settling_s: 600, sweeps })
            };
            let rules = BTreeMap::from([rules(Lane::Web, 180), rules(Lane::Git, 7)]);
            let empty = Checkpoint::empty(EntityName::try_from("acme".to_owned()).unwrap());
            let checkpoint = reshape(&empty, &rules, NOW_S, false).unwrap();
            let due = BTreeMap::from([(Lane::Web, 5000), (Lane::Git, 4000)]);
            Self {
                checkpoint,
                rules,
                ahead: BTreeMap::new(),
                due,
                last_was_tail: false,
                has_leisure: true,
            }
        }

        fn next(&self, now_s: i64, mono_ms: i64) -> Decision {
            next(&View {
                checkpoint: &self.checkpoint,
                rules: &self.rules,
                ahead: &self.ahead,
                tail_due_mono_ms: &self.due,
                last_was_tail: self.last_was_tail,
                has_leisure: self.has_leisure,
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
        world.has_leisure = false;
        assert_eq!(world.next(NOW_S, 0), Decision::Wait(Some(4000)));
        world.has_leisure = true;
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
        world.has_leisure = false;
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
