//! When an operator is told that time is running out: once for each level, with the date. Pure.

use std::time::Duration;

/// A level counts when the runway has been below it for so long, milliseconds: a catch-up that goes well is no news.
const HOLD_MS: i64 = 120_000;

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The runway is below a level that was not told of.
    Short {
        /// The level, seconds.
        level_s: i64,
        /// Whether there is none below it.
        is_last: bool,
    },
    /// It is above the last level again, and below others still.
    NotLast,
    /// It is above all levels again.
    Recovered,
}

/// The levels of a lane, seconds, falling. Those that half of the retention does not reach are of no use.
pub fn levels_s(warnings: &[Duration], retention_s: Option<i64>) -> Vec<i64> {
    let Some(retention_s) = retention_s else { return Vec::new() };
    let seconds = |level: &Duration| i64::try_from(level.as_secs()).unwrap_or(i64::MAX);
    let mut levels: Vec<i64> =
        warnings.iter().map(seconds).filter(|level| *level <= retention_s / 2).collect();
    levels.sort_unstable_by(|a, b| b.cmp(a));
    levels.dedup();
    levels
}

/// What was told of one lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// How many levels it is below, and since when, monotonic milliseconds.
    below: usize,
    since_ms: i64,
    /// How many of them were told.
    told: usize,
}

impl Watch {
    /// Takes a runway; says what is to be told now.
    pub fn observe(&mut self, levels_s: &[i64], runway_s: i64, mono_ms: i64) -> Option<News> {
        let below = levels_s.iter().filter(|level| runway_s < **level).count();
        if below > self.below {
            self.since_ms = mono_ms;
        }
        self.below = below;
        let was_last = self.told > 0 && self.told == levels_s.len();
        if below == 0 && self.told > 0 {
            self.told = 0;
            return Some(News::Recovered);
        }
        if below < self.told {
            // worse again is told again
            self.told = below;
            return was_last.then_some(News::NotLast);
        }
        if below > self.told && mono_ms.saturating_sub(self.since_ms) >= HOLD_MS {
            self.told = below;
            let level_s = below.checked_sub(1).and_then(|at| levels_s.get(at)).copied()?;
            return Some(News::Short { level_s, is_last: below == levels_s.len() });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: i64 = 3600;
    const DAY_S: i64 = 24 * HOUR_S;

    fn levels() -> Vec<i64> {
        let warnings = [6, 24, 72].map(Duration::from_hours);
        levels_s(&warnings, Some(7 * DAY_S))
    }

    #[test]
    fn levels_fall_and_only_those_within_half_of_the_retention_count() {
        assert_eq!(levels(), [3 * DAY_S, DAY_S, 6 * HOUR_S]);
        let warnings = [6, 24, 72].map(Duration::from_hours);
        assert_eq!(levels_s(&warnings, Some(2 * DAY_S)), [DAY_S, 6 * HOUR_S]);
        assert_eq!(levels_s(&warnings, None), [0_i64; 0]);
    }

    #[test]
    fn each_level_is_told_once_worse_again_and_recovered_once() {
        let (levels, mut watch, mut now_ms) = (levels(), Watch::default(), 0);
        let mut held = |runway_s| {
            let first = watch.observe(&levels, runway_s, now_ms);
            now_ms += HOLD_MS;
            let second = watch.observe(&levels, runway_s, now_ms);
            let third = watch.observe(&levels, runway_s, now_ms + 1);
            assert_eq!(third, None, "told once");
            (first, second)
        };
        let short = |level_s, is_last| Some(News::Short { level_s, is_last });
        assert_eq!(held(4 * DAY_S), (None, None));
        assert_eq!(held(2 * DAY_S), (None, short(3 * DAY_S, false)));
        assert_eq!(held(2 * DAY_S - 1), (None, None));
        assert_eq!(held(HOUR_S), (None, short(6 * HOUR_S, true)));
        assert_eq!(held(-HOUR_S), (None, None), "expired already: the gap is told elsewhere");
        assert_eq!(held(12 * HOUR_S), (Some(News::NotLast), None));
        assert_eq!(held(HOUR_S), (None, short(6 * HOUR_S, true)), "worse again");
        assert_eq!(held(6 * DAY_S), (Some(News::Recovered), None));
        assert_eq!(held(6 * DAY_S), (None, None));
    }

    #[test]
    fn a_catch_up_that_goes_well_is_no_news() {
        let (levels, mut watch) = (levels(), Watch::default());
        for second in 0..100 {
            let runway_s = 600 + second * DAY_S / 20;
            assert_eq!(watch.observe(&levels, runway_s, second * 1000), None);
        }
    }
}
