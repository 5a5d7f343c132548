//! What an entity is given, from what the archive proves: the number that it goes on after, the time from which its lanes
//! begin, and which fingerprints are still needed. Pure. Why: `docs/decisions/0021-rebuild-from-the-archive.md`.

use super::survey::{DAY_MS, EntitySurvey, Survey, window_ms};
use crate::audit::lane::{LaneRules, RETENTION_SLACK_S};
use crate::audit::{Checkpoint, EntityName, Lane, LaneState, Record, SeenLane, Topic, header};
use crate::time::{rfc3339_ms, rfc3339_s};
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

/// The cause in the gap record of the numbers that were lost.
pub(super) const CAUSE: &str = "cluster_lost";
/// The act in the statement on the operations topic.
pub const WHAT: &str = "rebuild";

/// The first number after a rebuild is one above a multiple of this: seen at a glance, and below 2^53 for 900,000 rebuilds,
/// so that every JSON reader tells the numbers apart.
pub(super) const SEQUENCE_STEP: u64 = 10_000_000_000;
/// At least so many numbers are left to what was in Kafka only: at GitHub's 175,000 entries an hour, more than 200 days of
/// collecting without the archive, with a single credential.
pub(super) const SEQUENCE_MARGIN: u64 = 1_000_000_000;

/// So much before the last proven commit the lanes begin: clocks differ, and a page waits for its commit.
const CLOCK_SLACK_S: i64 = 3_600;

/// Entries of a page.
const PER_REQUEST: u64 = 100;

/// What is rebuilt for one entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntityPlan {
    /// Its name.
    pub entity: EntityName,
    /// Whether the configuration names it.
    pub configured: bool,
    /// Its records in the archive: entries, and pieces of large ones.
    pub records: u64,
    /// The greatest number in the archive.
    pub sequence: u64,
    /// The number that it goes on after.
    pub goes_on_after: u64,
    /// Numbers up to the greatest that are not in the archive.
    pub missing: u64,
    /// All numbers that were given or may have been, and are not in the archive: first and last of each span.
    pub lost: Vec<(u64, u64)>,
    /// Numbers that are in the archive more than once.
    pub doubled: u64,
    /// Up to here (the collecting host's clock, epoch seconds) every commit is in the archive.
    pub proven_s: Option<i64>,
    /// Fingerprints that are still needed.
    pub fingerprints: u64,
    /// Its lanes.
    pub lanes: BTreeMap<Lane, LanePlan>,
    /// From when its lanes begin, epoch milliseconds.
    #[serde(skip)]
    pub(super) begins_ms: i64,
    #[serde(skip)]
    pub(super) floors_ms: BTreeMap<SeenLane, i64>,
}

/// What is known of one lane, and what to read it again costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LanePlan {
    /// Entries in the archive.
    pub entries: u64,
    /// Time of the oldest, epoch milliseconds, as far as it is sane.
    pub oldest_ms: Option<i64>,
    /// Time of the newest, epoch milliseconds, as far as it is sane.
    pub newest_ms: Option<i64>,
    /// Entries in the archive that GitHub still shows.
    pub shown_again: u64,
    /// Requests that reading them again costs, at least.
    pub requests: u64,
}

/// The number that the sequence goes on after, when the greatest one known is `highest`.
pub(super) fn goes_on_after(highest: u64) -> u64 {
    let least = highest.saturating_add(SEQUENCE_MARGIN);
    least.div_ceil(SEQUENCE_STEP).saturating_mul(SEQUENCE_STEP)
}

/// What is to be rebuilt. `rules`: the lanes of the entities that the configuration names.
pub(super) fn decide(
    survey: &Survey,
    rules: &BTreeMap<EntityName, BTreeMap<Lane, LaneRules>>,
    now_ms: i64,
) -> Vec<EntityPlan> {
    let plan = |(entity, found): (&EntityName, &EntitySurvey)| {
        let known = rules.get(entity);
        plan(survey, entity, found, known, now_ms)
    };
    survey.entities.iter().filter(|(_, found)| found.records > 0).map(plan).collect()
}

fn plan(
    survey: &Survey,
    entity: &EntityName,
    found: &EntitySurvey,
    rules: Option<&BTreeMap<Lane, LaneRules>>,
    now_ms: i64,
) -> EntityPlan {
    let sequence = found.sequences.highest();
    let goes_on_after = goes_on_after(sequence);
    let missing = found.sequences.missing(found.from, &found.lost);
    let proven_ms = proven_ms(found, now_ms);
    let mut lost = missing.clone();
    lost.push(sequence.saturating_add(1), goes_on_after);
    // where nothing is proven, all that was ever committed may be shown again
    let begins_ms = proven_ms.or_else(|| first_ms(found)).unwrap_or(now_ms).min(now_ms);
    let floor_ms = |lane| {
        survey.retention(entity, lane).map_or(i64::MIN, |retention| {
            begins_ms.saturating_sub(window_ms(retention)).div_euclid(DAY_MS).saturating_mul(DAY_MS)
        })
    };
    let floors_ms: BTreeMap<_, _> =
        SeenLane::ALL.into_iter().map(|lane| (lane, floor_ms(lane))).collect();
    let is_needed = |lane: SeenLane, day: i64| {
        floors_ms.get(&lane).is_none_or(|floor| day >= floor.div_euclid(DAY_MS))
    };
    let needed = found.needed.iter().filter(|&(&(lane, day), _)| is_needed(lane, day));
    EntityPlan {
        entity: entity.clone(),
        configured: rules.is_some(),
        records: found.records,
        sequence,
        goes_on_after,
        missing: missing.count,
        lost: lost.spans,
        doubled: found.sequences.doubled(),
        proven_s: proven_ms.map(|ms| ms.div_euclid(1000)),
        fingerprints: needed.map(|(_, count)| count).sum(),
        lanes: lanes(found, rules, begins_ms),
        begins_ms,
        floors_ms,
    }
}

/// The latest commit that is known to lie before anything that is missing, by the collecting host's clock.
fn proven_ms(found: &EntitySurvey, now_ms: i64) -> Option<i64> {
    let whole = found.sequences.whole_up_to(found.from, &found.lost);
    let proven = found.points.iter().filter(|(number, _)| *number <= whole);
    proven.map(|(_, ingest_ms)| *ingest_ms).max().map(|ms| ms.min(now_ms))
}

fn first_ms(found: &EntitySurvey) -> Option<i64> {
    found.points.iter().map(|(_, ingest_ms)| *ingest_ms).min()
}

fn lanes(
    found: &EntitySurvey,
    rules: Option<&BTreeMap<Lane, LaneRules>>,
    from_ms: i64,
) -> BTreeMap<Lane, LanePlan> {
    let lane = |(lane, survey): (&Lane, &super::survey::LaneSurvey)| {
        let rules = rules.and_then(|rules| rules.get(lane));
        let from_day = rules.and_then(|rules| rules.retention_s).map_or(i64::MIN, |retention| {
            let asked_s = from_ms.div_euclid(1000).saturating_sub(retention);
            asked_s.saturating_sub(RETENTION_SLACK_S).div_euclid(DAY_MS / 1000)
        });
        let shown_again: u64 = match rules {
            Some(_) => survey.days.range(from_day..).map(|(_, count)| count).sum(),
            None => 0,
        };
        let slices = rules.map_or(0, |rules| slices(&begun(rules, from_ms)));
        let plan = LanePlan {
            entries: survey.entries,
            oldest_ms: survey.oldest_ms,
            newest_ms: survey.newest_ms,
            shown_again,
            requests: shown_again.div_ceil(PER_REQUEST).saturating_add(slices),
        };
        (*lane, plan)
    };
    found.lanes.iter().map(lane).collect()
}

fn slices(lane: &LaneState) -> u64 {
    u64::try_from(lane.slices.len()).unwrap_or(u64::MAX)
}

/// A lane that nothing is claimed of, as an installation left it that was switched off at `from_ms` before it had read
/// anything: what has expired since is recorded as a gap by the collector, with GitHub's own clock.
fn begun(rules: &LaneRules, from_ms: i64) -> LaneState {
    // a beginning allows settling for what expires while the first pages are fetched: that must not shorten a gap
    let slack_s = rules.settling_s.saturating_add(CLOCK_SLACK_S);
    LaneState::begin(rules, from_ms.div_euclid(1000).saturating_sub(slack_s))
}

impl EntityPlan {
    /// The checkpoint that it goes on from. Lanes of an entity that is not configured begin when it is.
    pub(super) fn checkpoint(&self, rules: Option<&BTreeMap<Lane, LaneRules>>) -> Checkpoint {
        let lanes = rules.into_iter().flatten();
        Checkpoint {
            sequence: self.goes_on_after,
            lanes: lanes.map(|(lane, rules)| (*lane, begun(rules, self.begins_ms))).collect(),
            ..Checkpoint::empty(self.entity.clone())
        }
    }

    /// The record of the numbers that will never be seen again.
    pub(super) fn gap_record(&self, now_ms: i64) -> Record {
        let from_s = self.begins_ms.div_euclid(1000);
        let value = serde_json::json!({
            "version": 1,
            "entity": self.entity,
            "from": rfc3339_s(from_s),
            "to": rfc3339_s(now_ms.div_euclid(1000)),
            "cause": CAUSE,
            "noticed": rfc3339_ms(now_ms),
            "sequence_holes": self.lost,
            "sequence_missing": self.missing,
        });
        let key = Bytes::copy_from_slice(self.entity.as_str().as_bytes());
        Record {
            topic: Topic::Gaps,
            partition: None,
            key: key.clone(),
            value: Some(Bytes::from(value.to_string())),
            headers: vec![
                (header::ENTITY, key),
                (header::CONTENT_TYPE, Bytes::from_static(header::CONTENT_TYPE_JSON.as_bytes())),
            ],
        }
    }
}

/// Names of those that look like one entity under two names: in the archive and not configured, configured and not archived.
pub(super) fn strangers(
    plans: &[EntityPlan],
    rules: &BTreeMap<EntityName, BTreeMap<Lane, LaneRules>>,
) -> (Vec<EntityName>, Vec<EntityName>) {
    let archived = plans.iter().filter(|plan| !plan.configured).map(|plan| plan.entity.clone());
    let is_archived = |name: &&EntityName| plans.iter().any(|plan| plan.entity == **name);
    let configured = rules.keys().filter(|name| !is_archived(name)).cloned();
    (archived.collect(), configured.collect())
}
