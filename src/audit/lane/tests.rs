//! The rules of collecting, one by one; all of them together: `fuzz/lanes.rs`.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const NOW: i64 = 1_790_000_000;

fn rules(lane: Lane) -> LaneRules {
    let retention_s = if lane == Lane::Git { 7 * DAY_S } else { 180 * DAY_S };
    LaneRules {
        readers: 1,
        lane,
        retention_s: Some(retention_s),
        settling_s: 600,
        sweeps: SweepAges::default(),
    }
}

fn tail(lane: &LaneState) -> &Slice {
    lane.slices.iter().find(|slice| slice.kind == SliceKind::Tail).unwrap()
}

fn page(
    lane: &mut LaneState,
    rules: &LaneRules,
    id: u64,
    times: &[i64],
    new: u64,
    more: bool,
    now: i64,
) -> Option<Expired> {
    let slice = lane.slice(id).unwrap();
    if slice.walk.is_none() {
        let query = slice.next_query();
        lane.begin_walk(id, query, now);
    }
    let shown = Shown {
        times_s: times.iter().copied().map(Some).collect(),
        new_entries: new,
        cursor: more.then(|| Cursor::new("c".to_owned()).unwrap()),
        more,
    };
    lane.apply_page(rules, id, &shown, now)
}

/// What an outage left is read by several credentials side by side, without a second between them.
#[test]
fn each_credential_has_a_slice_of_what_an_outage_left() {
    for (readers, days, slices) in [(1, 5, 1), (4, 5, 4), (4, 0, 2), (3, 100, 4)] {
        let rules = LaneRules { readers, ..rules(Lane::Web) };
        let mut state = LaneState::begin(&rules, NOW);
        state.slices.retain(|slice| slice.kind == SliceKind::Tail);
        let (behind_s, later) = (tail(&state).start_s, NOW + days * DAY_S + 7_200);
        assert!(state.split_tail(&rules, later));
        let backfill: Vec<_> =
            state.slices.iter().filter(|slice| slice.kind == SliceKind::Backfill).collect();
        assert_eq!(backfill.len(), slices, "{readers} readers, {days} days");
        let mut at = behind_s;
        for slice in backfill {
            assert_eq!(slice.from_s, at);
            at = slice.to_s.unwrap();
        }
        assert_eq!(at, later - 600);
    }
}

#[test]
fn a_first_run_leaves_no_second_uncovered() {
    for lane in Lane::ALL {
        let rules = rules(lane);
        let state = LaneState::begin(&rules, NOW);
        let mut at = NOW - rules.retention_s.unwrap() - RETENTION_SLACK_S;
        for slice in state.slices.iter().filter(|slice| slice.kind == SliceKind::Backfill) {
            assert_eq!(slice.from_s, at, "slices follow each other, sharing the edge second");
            at = slice.to_s.unwrap();
        }
        assert_eq!(at, NOW - 600, "inclusive of T0");
        assert_eq!(tail(&state).from_s, NOW - 600);
    }
}

#[test]
fn unlimited_retention_is_one_slice_from_the_beginning() {
    let rules = LaneRules { retention_s: None, ..rules(Lane::Web) };
    let state = LaneState::begin(&rules, NOW);
    assert_eq!(state.slices.len(), 2);
    assert_eq!(state.slices.last().unwrap().from_s, OLDEST_S);
}

#[test]
fn a_slice_closes_only_after_a_walk_that_shows_nothing_new() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let id = state.slices.last().unwrap().id;
    let from = state.slices.last().unwrap().from_s;
    page(&mut state, &rules, id, &[from + 1, from + 5], 2, false, NOW);
    let slice = state.slice(id).unwrap();
    assert!(slice.confirming);
    assert_eq!(slice.start_s, from + 5, "in order: the confirming walk starts at the last second");
    page(&mut state, &rules, id, &[from + 5], 0, false, NOW);
    assert!(state.slice(id).is_none());
    assert!(state.collected.contains(from + 100));
}

#[test]
fn newest_first_restarts_at_the_slices_own_start() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let slice = state.slices.last().unwrap();
    let (id, from) = (slice.id, slice.from_s);
    page(&mut state, &rules, id, &[from + 9, from + 5], 2, true, NOW);
    state.drop_cursor(id);
    assert_eq!(state.slice(id).unwrap().next_query().from_s, from);
}

/// Found by the fuzz target `lanes_beside_a_list`: what was older than the first page was lost, or expired without a
/// gap.
#[test]
fn a_first_page_of_one_second_does_not_tell_the_order() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let slice = state.slices.last().unwrap();
    let (id, from) = (slice.id, slice.from_s);
    page(&mut state, &rules, id, &[from + 9, from + 9], 2, true, NOW);
    assert_eq!(state.slice(id).unwrap().unread_s(), from);
    let mut lost = state.clone();
    lost.drop_cursor(id);
    assert_eq!(lost.slice(id).unwrap().next_query().from_s, from);
    page(&mut state, &rules, id, &[from + 10], 1, true, NOW);
    state.drop_cursor(id);
    assert_eq!(state.slice(id).unwrap().next_query().from_s, from + 10, "the oldest come first");
}

#[test]
fn a_slice_does_not_close_before_its_upper_edge_has_settled() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let id = state.slices.last().unwrap().id;
    page(&mut state, &rules, id, &[], 0, false, NOW - 1);
    assert!(state.slice(id).is_some());
    page(&mut state, &rules, id, &[], 0, false, NOW);
    assert!(state.slice(id).is_none());
}

#[test]
fn the_tail_moves_to_the_newest_second_less_one_and_never_into_the_future() {
    let rules = rules(Lane::Web);
    let mut state = LaneState::begin(&rules, NOW);
    let id = tail(&state).id;
    page(&mut state, &rules, id, &[NOW - 90, NOW - 30], 2, false, NOW);
    assert_eq!(tail(&state).start_s, NOW - 31);
    let year_2099 = 4_070_908_800;
    page(&mut state, &rules, id, &[NOW - 20, year_2099], 2, false, NOW);
    assert_eq!(tail(&state).start_s, NOW - 21, "an entry dated 2099 moves nothing");
    page(&mut state, &rules, id, &[], 0, false, NOW + 1000);
    assert_eq!(tail(&state).start_s, NOW + 400, "nothing seen: now - settling");
}

/// Found by the fuzz target `lanes_beside_a_list`: a broker that was away for longer than settling lost entries.
#[test]
fn what_happened_since_a_walk_began_is_read_again_however_late_it_ends() {
    for query_ends in [None, Some(NOW - 600)] {
        let rules = rules(Lane::Git);
        let mut state = LaneState::begin(&rules, NOW);
        let is_it = |slice: &&Slice| slice.to_s == query_ends;
        let id = state.slices.iter().rfind(is_it).unwrap().id;
        let query = state.slice(id).unwrap().next_query();
        state.begin_walk(id, query, NOW - 5);
        let more = Shown { more: true, ..Shown::default() };
        state.apply_page(&rules, id, &more, NOW);
        state.apply_page(&rules, id, &Shown::default(), NOW + 3600);
        let slice = state.slice(id).unwrap();
        match query_ends {
            None => assert_eq!(slice.start_s, NOW - 600, "not NOW + 3000"),
            Some(_) => assert!(slice.confirming, "it began before its upper edge had settled"),
        }
    }
}

#[test]
fn a_tail_five_days_behind_becomes_backfill_and_is_live() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let id = tail(&state).id;
    page(&mut state, &rules, id, &[NOW - 30], 1, false, NOW);
    let later = NOW + 5 * DAY_S;
    assert!(!state.clone().split_tail(&rules, NOW + 1200 - 31));
    assert!(state.split_tail(&rules, later));
    assert_eq!(tail(&state).start_s, later - 600);
    let spans: Vec<_> = state
        .slices
        .iter()
        .filter(|slice| slice.backfill == Some(2))
        .map(|slice| (slice.from_s, slice.to_s.unwrap()))
        .collect();
    assert_eq!(spans.first().unwrap().0, NOW - 31);
    assert_eq!(spans.last().unwrap().1, later - 600);
    assert!(spans.windows(2).all(|pair| pair[0].1 == pair[1].0));
}

/// An organization without Git events: asked again each day, never told as a loss, and forgotten at last.
#[test]
fn a_lane_that_is_empty_for_ever_records_no_gap_and_does_not_grow() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let (mut most_backfills, mut now) = (0, NOW);
    for hour in 0..60 * 24 {
        now = NOW + hour * 3600;
        state.split_tail(&rules, now);
        state.ask_again(&rules, now, false);
        let ids: Vec<_> = state.slices.iter().map(|slice| slice.id).collect();
        for id in ids {
            assert_eq!(page(&mut state, &rules, id, &[], 0, false, now), None, "hour {hour}");
        }
        most_backfills = most_backfills.max(state.backfills.len());
    }
    assert!(state.lowest_edge_s().unwrap() > now - 3600, "{state:?}");
    let kept = usize::try_from((RETENTION_SLACK_S + 8 * DAY_S) / 3600).unwrap();
    assert!(most_backfills <= kept && state.backfills.iter().all(|it| it.id > 1), "{state:?}");
}

#[test]
fn a_wholly_empty_backfill_is_unconfirmed_and_asked_again_daily() {
    let rules = LaneRules { retention_s: None, ..rules(Lane::Web) };
    let mut state = LaneState::begin(&rules, NOW);
    let id = state.slices.last().unwrap().id;
    page(&mut state, &rules, id, &[], 0, false, NOW);
    assert_eq!(state.backfills.first().unwrap().empty_at_s, Some(NOW));
    assert!(!state.ask_again(&rules, NOW + DAY_S - 1, false));
    assert!(state.clone().ask_again(&rules, NOW + 1, true));
    assert!(state.ask_again(&rules, NOW + DAY_S, false));
    assert_eq!(state.slices.len(), 2);
}

#[test]
fn what_expired_unread_is_a_gap_once_and_what_was_old_at_the_start_is_none() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    let first = state.slices.iter().find(|slice| slice.kind == SliceKind::Backfill).unwrap().id;
    assert_eq!(page(&mut state, &rules, first, &[], 0, false, NOW), None);
    let tail_id = tail(&state).id;
    page(&mut state, &rules, tail_id, &[NOW - 30], 1, false, NOW);
    let later = NOW + 8 * DAY_S;
    state.split_tail(&rules, later);
    let slice = state.slices.iter().find(|slice| slice.backfill == Some(2)).unwrap();
    let (id, from, to) = (slice.id, slice.from_s, slice.to_s.unwrap());
    assert!(to < later - 7 * DAY_S, "wholly expired");
    let gap = page(&mut state, &rules, id, &[], 0, true, later);
    assert_eq!(gap, Some(Expired { from_s: from, to_s: to }));
    assert_eq!(page(&mut state, &rules, id, &[], 0, true, later), None, "recorded once");
}

#[test]
fn the_lowest_edge_follows_the_walk() {
    let rules = rules(Lane::Git);
    let mut state = LaneState::begin(&rules, NOW);
    assert_eq!(state.lowest_edge_s(), Some(NOW - 7 * DAY_S + 600));
    let ids: Vec<_> = state
        .slices
        .iter()
        .filter(|slice| slice.kind == SliceKind::Backfill)
        .map(|slice| slice.id)
        .collect();
    for id in ids {
        page(&mut state, &rules, id, &[], 0, false, NOW);
    }
    assert_eq!(state.lowest_edge_s(), Some(NOW - 600));
}

#[derive(Debug, Clone)]
enum Step {
    Page { slice: usize, times: Vec<Option<i64>>, new: u64, more: bool, late_s: i64 },
    Pass(i64),
    Kill,
    DropCursor(usize),
    AskAgain,
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![
        8 => (-40 * DAY_S..DAY_S).prop_map(|ago| Some(NOW + ago)),
        1 => Just(None),
        1 => any::<i64>().prop_map(Some),
    ];
    let seconds = prop_oneof![3 => 0..120_i64, 1 => 0..30 * DAY_S];
    prop_oneof![
        6 => (any::<usize>(), vec(time, 0..4), 0..3_u64, any::<bool>(), 0..3600_i64).prop_map(
            |(slice, times, new, more, late_s)| Step::Page { slice, times, new, more, late_s },
        ),
        2 => seconds.prop_map(Step::Pass),
        1 => Just(Step::Kill),
        1 => any::<usize>().prop_map(Step::DropCursor),
        1 => Just(Step::AskAgain),
    ]
}

fn run(state: &mut LaneState, rules: &LaneRules, now_s: &mut i64, step: &Step) {
    let pick = |state: &LaneState, number: usize| state.slices[number % state.slices.len()].id;
    match step {
        Step::Page { slice, times, new, more, late_s } => {
            let id = pick(state, *slice);
            if state.slice(id).unwrap().walk.is_none() {
                state.split_tail(rules, *now_s);
                let query = state.slice(id).unwrap().next_query();
                state.begin_walk(id, query, now_s.saturating_sub(*late_s));
            }
            let cursor = more.then(|| Cursor::new("c".to_owned())).flatten();
            let (times_s, new_entries) = (times.clone(), *new);
            let shown = Shown { times_s, new_entries, cursor, more: *more };
            if let Some(gap) = state.apply_page(rules, id, &shown, *now_s) {
                assert!(gap.from_s < gap.to_s && gap.to_s <= *now_s);
            }
        }
        Step::Pass(seconds) => *now_s += seconds,
        Step::Kill => {
            let json = serde_json::to_vec(state).unwrap();
            *state = serde_json::from_slice(&json).unwrap();
        }
        Step::DropCursor(slice) => state.drop_cursor(pick(state, *slice)),
        Step::AskAgain => drop(state.ask_again(rules, *now_s, false)),
    }
}

proptest! {
    /// Whatever pages show, from the oldest second on each one is collected or lies in an open slice.
    #[test]
    fn no_second_is_ever_left_uncovered(
        steps in vec(step(), 0..60), git in any::<bool>(), unlimited in any::<bool>(),
    ) {
        let mut rules = rules(if git { Lane::Git } else { Lane::Web });
        rules.retention_s = rules.retention_s.filter(|_| !unlimited);
        let (mut state, mut now_s) = (LaneState::begin(&rules, NOW), NOW);
        let oldest_s = state.slices.iter().map(|slice| slice.from_s).min().unwrap();
        for step in &steps {
            run(&mut state, &rules, &mut now_s, step);
            let mut covered = state.collected.clone();
            for slice in &state.slices {
                covered.insert(slice.from_s, slice.to_s.unwrap_or(i64::MAX));
                prop_assert!(slice.next_query().from_s >= slice.from_s);
                prop_assert!(slice.to_s.is_none_or(|to| slice.restart_s() <= to));
                prop_assert!(slice.id < state.next_slice);
                let known = |id| state.backfills.iter().any(|backfill| backfill.id == id);
                prop_assert!(slice.backfill.is_none_or(known));
            }
            prop_assert_eq!(covered.as_slice(), [(oldest_s, i64::MAX)]);
            let tails = state.slices.iter().filter(|slice| slice.kind == SliceKind::Tail);
            prop_assert_eq!(tails.count(), 1);
            prop_assert!(tail(&state).start_s <= now_s, "never into the future");
        }
    }
}
