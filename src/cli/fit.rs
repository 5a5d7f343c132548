//! Whether the ages at which everything is read again fit the request budget: for `check`.

use super::connect::{Try, Verdict};
use crate::audit::lane::LaneRules;
use crate::audit::{Checkpoint, EntityName, Lane};
use crate::config::Config;
use crate::github::EntitySettings;
use crate::pipeline::cost::{Cost, capacity, entries_per_hour};
use crate::time::{span_s, wall_ms};
use std::collections::BTreeMap;

/// Queries an hour for each user, address and audit-log endpoint.
/// Source: docs.github.com, "Using the audit log API for your enterprise", rate limit.
pub(super) const DOCUMENTED_LIMIT: u64 = 1_750;
/// Where more tenths of a budget than this are needed on average, busy hours do not fit.
const COMFORTABLE_TENTHS: u64 = 7;

/// What an entity's configuration can carry, as a line for people.
pub(super) fn line(config: &Config, entity: &EntitySettings) -> String {
    let rules = rules(config, entity);
    let lanes: Vec<String> = rules
        .iter()
        .map(|rules| {
            let ages: Vec<String> =
                rules.sweeps.as_slice().iter().map(|&age| span_s(age)).collect();
            format!("{} at {}", rules.lane, ages.join(", "))
        })
        .collect();
    let credentials = u64::try_from(entity.credentials.len()).unwrap_or(1).max(1);
    let each = DOCUMENTED_LIMIT.saturating_sub(config.collect.budget_reserve);
    let limit = each.saturating_mul(credentials);
    let carries = match capacity(&rules.iter().collect::<Vec<_>>(), &config.collect, limit) {
        Some(entries) => format!("carry up to {entries} entries an hour"),
        None => "do not even carry the polls of idle lanes".to_owned(),
    };
    format!("read again: {}; {limit} requests an hour {carries}", lanes.join("; "))
}

/// Whether what each entity has shown so far fits `limits`, requests an hour.
pub(super) fn tries(
    config: &Config,
    checkpoints: &BTreeMap<EntityName, Checkpoint>,
    limits: &BTreeMap<EntityName, u64>,
) -> Vec<Try> {
    config
        .entities
        .iter()
        .map(|entity| {
            let what = format!("entity {}, request budget", entity.name);
            let limit = limits.get(&entity.name).copied().unwrap_or(DOCUMENTED_LIMIT);
            let limit = if limit == u64::MAX {
                limit
            } else {
                let credentials = u64::try_from(entity.credentials.len()).unwrap_or(1);
                limit.saturating_sub(config.collect.budget_reserve.saturating_mul(credentials))
            };
            let seen = checkpoints.get(&entity.name).map(|it| seen(it, &rules(config, entity)));
            let (verdict, message) = judge(config, &seen.unwrap_or_default(), limit);
            Try::new(what, verdict, message)
        })
        .collect()
}

/// The lanes that have read enough to tell, with their entries an hour.
fn seen(checkpoint: &Checkpoint, rules: &[LaneRules]) -> Vec<(LaneRules, u64)> {
    let now_s = checkpoint.github_now_ms.unwrap_or_else(wall_ms).div_euclid(1000);
    let lane = |rules: &LaneRules| {
        let state = checkpoint.lanes.get(&rules.lane)?;
        Some((rules.clone(), entries_per_hour(state, rules, now_s)?))
    };
    rules.iter().filter_map(lane).collect()
}

fn judge(config: &Config, seen: &[(LaneRules, u64)], limit: u64) -> (Verdict, String) {
    if seen.is_empty() {
        return (Verdict::Skipped, "nothing has been read yet to reckon with".to_owned());
    }
    let mut total = 0_u64;
    let mut parts: BTreeMap<Option<i64>, u64> = BTreeMap::new();
    let mut traffic = Vec::new();
    for (rules, entries) in seen {
        let cost = Cost::of(rules, &config.collect, *entries);
        total = total.saturating_add(cost.total());
        *parts.entry(None).or_default() += cost.tail;
        for (age_s, requests) in cost.again {
            *parts.entry(Some(age_s)).or_default() += requests;
        }
        traffic.push(format!("{} entries an hour in lane {}", entries, rules.lane));
    }
    let part = |(age, requests): (&Option<i64>, &u64)| match age {
        None => format!("{requests} for the tail"),
        Some(age_s) => format!("{requests} at {}", span_s(*age_s)),
    };
    let parts: Vec<String> = parts.iter().map(part).collect();
    let of = if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    let sum = format!(
        "{total} of {of} requests an hour ({}) for what was seen on average: {}",
        parts.join(", "),
        traffic.join(", ")
    );
    let comfortable = limit / 10 * COMFORTABLE_TENTHS;
    if total > limit {
        let remedy = "write fewer collect.sweep_ages, or give the entity more credentials";
        (Verdict::Warning, format!("{sum}: that does not fit; {remedy}"))
    } else if total > comfortable {
        (Verdict::Warning, format!("{sum}: busy hours will not fit, sweeps will be late then"))
    } else {
        (Verdict::Ok, sum)
    }
}

fn rules(config: &Config, entity: &EntitySettings) -> Vec<LaneRules> {
    let rest = entity.lanes.iter().filter(|lane| lane.lane != Lane::GraphQl);
    rest.map(|lane| config.collect.rules(lane.lane, lane.retention)).collect()
}
