//! How many requests may be taken from a budget that the daemon lives on too. Pure.

use crate::github::rate_limit::Budget;
use std::time::Duration;

/// Longest wait for a new window: GitHub's is an hour.
const WAIT_MAX_S: i64 = 3_700;

/// What may be taken of a credential's budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Requests of a window that are left to others; `None`: half of what is left when the window is first seen.
    wanted: Option<u64>,
    /// What the configuration says that is left to others, always.
    least: u64,
    /// End of the window that is known, epoch seconds, and what is left to others in it.
    window: Option<(i64, u64)>,
}

impl Allowance {
    /// Leaves `reserve` requests of each window to others, and never fewer than `least`.
    pub fn new(reserve: Option<u64>, least: u64) -> Self {
        Self { wanted: reserve, least, window: None }
    }

    /// What is left to others in the window that is known.
    pub fn reserve(&self) -> Option<u64> {
        self.window.map(|(_, reserve)| reserve)
    }

    /// Takes what an answer said at GitHub's `now_s`; returns how long nothing more may be asked, if it may not.
    pub fn after(&mut self, budget: Option<Budget>, now_s: i64) -> Option<Duration> {
        let budget = budget?;
        let known = self.window.filter(|(reset_s, _)| *reset_s == budget.reset_s);
        let reserve = known.map_or_else(|| self.of_window(budget), |(_, reserve)| reserve);
        self.window = Some((budget.reset_s, reserve));
        if budget.remaining > reserve {
            return None;
        }
        let wait_s = budget.reset_s.saturating_sub(now_s).saturating_add(1).clamp(1, WAIT_MAX_S);
        Some(Duration::from_secs(u64::try_from(wait_s).unwrap_or(1)))
    }

    fn of_window(&self, budget: Budget) -> u64 {
        // a reserve of the whole limit would wait for ever
        let most = budget.limit.saturating_sub(1);
        self.wanted.unwrap_or(budget.remaining / 2).max(self.least).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(limit: u64, remaining: u64, reset_s: i64) -> Budget {
        Budget { limit, remaining, reset_s }
    }

    #[test]
    fn half_of_what_is_left_is_left_until_the_window_ends() {
        let mut allowance = Allowance::new(None, 0);
        assert_eq!(allowance.after(None, 0), None, "no limit on this server");
        assert_eq!(allowance.after(Some(budget(1750, 1000, 3600)), 100), None);
        assert_eq!(allowance.after(Some(budget(1750, 501, 3600)), 100), None);
        let wait = allowance.after(Some(budget(1750, 500, 3600)), 100);
        assert_eq!((wait, allowance.reserve()), (Some(Duration::from_secs(3501)), Some(500)));
        assert_eq!(allowance.after(Some(budget(1750, 1749, 7200)), 3601), None);
        assert_eq!(allowance.reserve(), Some(874));
    }

    #[test]
    fn a_reserve_of_everything_still_lets_one_request_pass() {
        let mut allowance = Allowance::new(Some(9_999), 3);
        assert_eq!(allowance.after(Some(budget(100, 100, 60)), 0), None);
        assert!(allowance.after(Some(budget(100, 99, 60)), 0).is_some());
    }

    proptest! {
        /// However many others take, we never take the request that leaves fewer than the reserve.
        #[test]
        fn the_reserve_is_kept(
            limit in 1_u64..200, wanted in proptest::option::of(0_u64..300), least in 0_u64..50,
            others in proptest::collection::vec(0_u64..4, 1..300),
        ) {
            let mut allowance = Allowance::new(wanted, least);
            let (mut remaining, mut now_s) = (limit, 0);
            for taken in others {
                remaining = remaining.saturating_sub(taken).saturating_sub(1);
                let wait = allowance.after(Some(budget(limit, remaining, 3600)), now_s);
                now_s += 1;
                if remaining <= least.min(limit - 1) {
                    prop_assert!(wait.is_some(), "{remaining} of {limit} are left");
                    break;
                }
            }
        }
    }
}
