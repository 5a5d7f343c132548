//! What reading costs: requests an hour, for the traffic of a lane and the ages at which it is read again.

use super::Settings;
use crate::audit::LaneState;
use crate::audit::lane::LaneRules;

/// Entries in a page.
const PER_PAGE: u64 = 100;
const HOUR_S: i64 = 3600;

/// Requests an hour that one lane needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The tail: its polls, and the further pages of each.
    pub tail: u64,
    /// Each age, seconds, with what reading all at it costs.
    pub again: Vec<(i64, u64)>,
}

impl Cost {
    /// What a lane needs at this many entries an hour, polled as often as it may be.
    pub fn of(rules: &LaneRules, settings: &Settings, entries_per_hour: u64) -> Self {
        let poll_s = settings.poll_interval_min.as_secs().max(1);
        let polls = u64::try_from(HOUR_S).unwrap_or(0).div_ceil(poll_s);
        let pages_per_poll = entries_per_hour.div_ceil(polls).div_ceil(PER_PAGE).max(1);
        let again = |&age_s: &i64| {
            let sweeps = HOUR_S / rules.sweeps.span_s(age_s).clamp(1, HOUR_S);
            let pages = entries_per_hour.div_ceil(PER_PAGE);
            (age_s, pages.saturating_add(u64::try_from(sweeps).unwrap_or(0)))
        };
        Self {
            tail: polls.saturating_mul(pages_per_poll),
            again: rules.sweeps.as_slice().iter().map(again).collect(),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.again.iter().fold(self.tail, |sum, (_, requests)| sum.saturating_add(*requests))
    }
}

/// Most entries an hour in the first of the lanes, the others idle, that fit into `limit` requests an hour; `None`: not
/// even idle lanes do.
pub fn capacity(rules: &[&LaneRules], settings: &Settings, limit: u64) -> Option<u64> {
    let needs = |entries: u64| -> u64 {
        let each = rules.iter().enumerate().map(|(number, rules)| {
            Cost::of(rules, settings, if number == 0 { entries } else { 0 }).total()
        });
        each.fold(0, u64::saturating_add)
    };
    if needs(0) > limit {
        return None;
    }
    // what fits: below limit pages of entries it does not, so the search is bounded by the limit itself
    let (mut fits, mut over) = (0, limit.saturating_mul(PER_PAGE).saturating_add(1));
    while over.saturating_sub(fits) > 1 {
        let middle = fits.midpoint(over);
        if needs(middle) <= limit { fits = middle } else { over = middle }
    }
    Some(fits)
}

/// Entries an hour that a lane has shown on average, over what it has read of the time that GitHub keeps; `None` before it
/// has read an hour.
pub fn entries_per_hour(state: &LaneState, rules: &LaneRules, now_s: i64) -> Option<u64> {
    let oldest_s = rules.retention_s.map_or(i64::MIN, |kept| now_s.saturating_sub(kept));
    let read = |&(from_s, to_s): &(i64, i64)| to_s.saturating_sub(from_s.max(oldest_s)).max(0);
    let read_s: i64 = state.collected.as_slice().iter().map(read).sum();
    let hours = u64::try_from(read_s / HOUR_S).ok().filter(|&hours| hours > 0)?;
    Some(state.entries / hours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Lane;
    use proptest::prelude::*;
    use std::time::Duration;

    const DAY: Duration = Duration::from_hours(24);

    fn rules(settings: &Settings) -> [LaneRules; 2] {
        [settings.rules(Lane::Web, Some(180 * DAY)), settings.rules(Lane::Git, Some(7 * DAY))]
    }

    #[test]
    fn each_age_costs_one_reading_of_everything() {
        let settings = Settings::default();
        let [web, _] = rules(&settings);
        let cost = Cost::of(&web, &settings, 36_000);
        assert_eq!(cost.tail, 480, "a poll every 15 s shows 150 entries: two pages");
        let ages: Vec<i64> = cost.again.iter().map(|(age, _)| *age).collect();
        assert_eq!(ages, [600, 86_400, 179 * 86_400]);
        let requests: Vec<u64> = cost.again.iter().map(|(_, requests)| *requests).collect();
        assert_eq!(requests, [366, 361, 361], "360 pages, and a last one for each sweep");
        assert_eq!(cost.total(), 480 + 366 + 361 + 361);
    }

    #[test]
    fn what_a_lane_has_shown_on_average() {
        let settings = Settings::default();
        let [_, git] = rules(&settings);
        let mut state = LaneState::begin(&git, 1_790_000_000);
        assert_eq!(entries_per_hour(&state, &git, 1_790_000_000), None);
        state.collected.insert(1_790_000_000 - 40 * 86_400, 1_790_000_000);
        state.entries = 168_000;
        assert_eq!(entries_per_hour(&state, &git, 1_790_000_000), Some(1_000), "over its 7 days");
    }

    proptest! {
        #[test]
        fn the_capacity_fits_and_one_page_an_hour_more_does_not(limit in 300_u64..20_000, poll_s in 5_u64..60) {
            let settings = Settings { poll_interval_min: Duration::from_secs(poll_s), ..Settings::default() };
            let [web, git] = rules(&settings);
            let needs = |entries| {
                Cost::of(&web, &settings, entries).total() + Cost::of(&git, &settings, 0).total()
            };
            match capacity(&[&web, &git], &settings, limit) {
                Some(most) => {
                    prop_assert!(needs(most) <= limit);
                    prop_assert!(needs(most + 1) > limit);
                }
                None => prop_assert!(needs(0) > limit),
            }
        }
    }
}
