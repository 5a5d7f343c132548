//! Which page is fetched next. Pure; nothing else ever decides to fetch.
//!
//! The tail goes first when it is due, in turn with backfill while both have work; backfill goes by earliest deadline
//! (lower edge + retention), across lanes.

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
    // the tail that has waited longest
    let tail = lanes(view)
        .filter_map(|(_, lane, state)| Some((due_mono_ms(view, lane), tail(view, lane, state)?)))
        .min_by_key(|(due, _)| *due)
        .map(|(_, tail)| tail);
    let backfill = backfill(view);
    match (tail, backfill) {
        (Some(Tail::Behind), _) => Decision::Reshape,
        (Some(Tail::Ready(tail)), None) => Decision::Fetch(tail),
        (Some(Tail::Ready(tail)), Some(_)) if !view.last_was_tail => Decision::Fetch(tail),
        (_, Some(backfill)) => Decision::Fetch(backfill),
        (None, None) => Decision::Wait(wake_mono_ms(view)),
    }
}

/// The state with lanes begun, tails that fell behind split, and unconfirmed backfills asked again; `None`: no change.
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

fn backfill(view: &View<'_>) -> Option<Wanted> {
    lanes(view)
        .flat_map(|(rules, lane, state)| {
            state.slices.iter().filter(|slice| slice.kind != SliceKind::Tail).filter_map(
                move |slice| {
                    let settled = slice.to_s.is_none_or(|to| {
                        view.now_s >= to.saturating_add(rules.settling_s) || !slice.confirming
                    });
                    let wanted = if settled { wanted(view, lane, slice) } else { None };
                    let deadline = rules
                        .retention_s
                        .map_or(i64::MAX, |retention| slice.unread_s().saturating_add(retention));
                    wanted.map(|wanted| ((deadline, slice.from_s, slice.id), wanted))
                },
            )
        })
        .min_by_key(|(deadline, _)| *deadline)
        .map(|(_, wanted)| wanted)
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
