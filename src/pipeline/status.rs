//! How an entity stands, from its committed state: for `ghauditd status`. Pure.

use super::schedule;
use crate::audit::lane::LaneRules;
use crate::audit::{Checkpoint, Lane, LaneState, Slice, SliceKind};
use crate::status::{CredentialStatus, EntityStatus, LaneStatus, SliceStatus, SpanStatus};
use crate::time::{rfc3339_ms, rfc3339_s};
use std::collections::BTreeMap;

/// How an entity stands at GitHub's now. `why` says of a slice why its next request was or was not made.
pub fn entity(
    checkpoint: &Checkpoint,
    rules: &BTreeMap<Lane, LaneRules>,
    github_now_ms: Option<i64>,
    credentials: Vec<CredentialStatus>,
    why: impl Fn(Lane, u64) -> Option<String>,
) -> EntityStatus {
    let now_ms = github_now_ms.or(checkpoint.github_now_ms);
    let lane = |(&lane, rules): (&Lane, &LaneRules)| {
        let state = checkpoint.lanes.get(&lane)?;
        Some(lane_status(state, rules, now_ms.unwrap_or(0).div_euclid(1000), |id| why(lane, id)))
    };
    EntityStatus {
        entity: checkpoint.entity.to_string(),
        github_now: now_ms.map(rfc3339_ms),
        sequence: checkpoint.sequence,
        lanes: rules.iter().filter_map(lane).collect(),
        credentials,
    }
}

fn lane_status(
    state: &LaneState,
    rules: &LaneRules,
    now_s: i64,
    why: impl Fn(u64) -> Option<String>,
) -> LaneStatus {
    let tail = state.slices.iter().find(|slice| slice.kind == SliceKind::Tail);
    let runway_s = schedule::runway_s(state, rules, now_s);
    let unconfirmed = state.backfills.iter().filter(|backfill| backfill.empty_at_s.is_some());
    LaneStatus {
        lane: rules.lane.to_string(),
        entries: state.entries,
        complete_up_to: state.frontier_s(rules, now_s).map(rfc3339_s),
        tail_from: tail.map(|tail| rfc3339_s(tail.start_s)),
        behind_s: state.lowest_edge_s().map(|edge| now_s.saturating_sub(edge)),
        runway_s,
        lost_from: runway_s.map(|runway| rfc3339_s(now_s.saturating_add(runway))),
        slices: state.slices.iter().map(|slice| slice_status(slice, why(slice.id))).collect(),
        unconfirmed: unconfirmed
            .map(|it| SpanStatus { from: rfc3339_s(it.from_s), to: rfc3339_s(it.to_s) })
            .collect(),
    }
}

fn slice_status(slice: &Slice, why: Option<String>) -> SliceStatus {
    SliceStatus {
        id: slice.id,
        kind: slice.kind.as_str().to_owned(),
        age_s: slice.sweep_age_s,
        from: rfc3339_s(slice.from_s),
        to: slice.to_s.map(rfc3339_s),
        percent: slice.to_s.and_then(|to_s| percent(slice, to_s)),
        entries: slice.entries,
        why,
    }
}

/// How much of a closed slice's time was read, as far as its order tells.
fn percent(slice: &Slice, to_s: i64) -> Option<u8> {
    let whole = to_s.saturating_sub(slice.from_s);
    let read = slice.unread_s().saturating_sub(slice.from_s).clamp(0, whole.max(0));
    let percent = read.saturating_mul(100).checked_div(whole).unwrap_or(0);
    u8::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{EntityName, SweepAges};

    #[test]
    fn a_lane_that_fell_behind_says_when_data_will_be_lost() {
        let (now_s, day_s) = (1_795_176_000, 86_400);
        let sweeps = SweepAges::default();
        let rules = LaneRules {
            readers: 1,
            lane: Lane::Git,
            retention_s: Some(7 * day_s),
            settling_s: 600,
            sweeps,
        };
        let mut state = LaneState::begin(&rules, now_s);
        state.slices.retain(|slice| slice.kind == SliceKind::Tail);
        state.backfills.clear();
        state.split_tail(&rules, now_s + 2 * day_s);
        let checkpoint = Checkpoint {
            sequence: 9,
            github_now_ms: Some(now_s * 1000),
            lanes: BTreeMap::from([(Lane::Git, state)]),
            ..Checkpoint::empty(EntityName::try_from("acme".to_owned()).unwrap())
        };
        let rules = BTreeMap::from([(Lane::Git, rules)]);
        let now_ms = Some((now_s + 2 * day_s) * 1000);
        let why = |_, id| (id == 1).then(|| "between polls".to_owned());
        let status = entity(&checkpoint, &rules, now_ms, Vec::new(), why);
        let lane = &status.lanes[0];
        assert_eq!(lane.runway_s, Some(5 * day_s - 600));
        assert_eq!(lane.lost_from.as_deref(), Some("2026-11-27T11:50:00Z"));
        assert_eq!(lane.behind_s, Some(2 * day_s + 600));
        assert!(lane.slices.iter().all(|slice| slice.kind == "tail" || slice.percent == Some(0)));
        assert_eq!(lane.slices[0].why.as_deref(), Some("between polls"));
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<EntityStatus>(&text).unwrap(), status);
    }
}
