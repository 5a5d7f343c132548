//! Request budgets per token and entity, in windows of simulated time.

use std::collections::HashMap;

/// What the `x-ratelimit-*` headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Requests per window.
    pub(crate) limit: u64,
    /// Requests made in this window.
    pub(crate) used: u64,
    /// End of the window, epoch seconds.
    pub(crate) reset_s: i64,
    /// This request is over the limit.
    pub(crate) exceeded: bool,
}

/// All budgets.
#[derive(Debug)]
pub(crate) struct Limits {
    window_ms: i64,
    /// End of the window and requests made in it, by token and entity.
    used: HashMap<(String, usize), (i64, u64)>,
}

impl Limits {
    /// Budgets for windows of this length.
    pub(crate) fn new(window_s: u64) -> Self {
        let window_ms = super::rng::i64_of(window_s.max(1).saturating_mul(1000));
        Self { window_ms, used: HashMap::new() }
    }

    /// Takes a request back.
    pub(crate) fn refund(&mut self, token: &str, entity: usize) {
        if let Some((_, used)) = self.used.get_mut(&(token.to_owned(), entity)) {
            *used = used.saturating_sub(1);
        }
    }

    /// Counts a request. `None` where there is no limit.
    pub(crate) fn count(
        &mut self,
        token: &str,
        entity: usize,
        limit: u64,
        now_ms: i64,
    ) -> Option<Standing> {
        if limit == 0 {
            return None;
        }
        let (reset_ms, used) = self.used.entry((token.to_owned(), entity)).or_default();
        if now_ms >= *reset_ms {
            (*reset_ms, *used) = (now_ms / 1000 * 1000 + self.window_ms, 0);
        }
        let exceeded = *used >= limit;
        if !exceeded {
            *used += 1;
        }
        Some(Standing { limit, used: *used, reset_s: *reset_ms / 1000, exceeded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_and_comes_back_after_an_hour() {
        let mut limits = Limits::new(3_600);
        let mut ask = |now| limits.count("t", 0, 2, now).unwrap();
        assert_eq!((ask(5).used, ask(6).exceeded, ask(7).exceeded), (1, false, true));
        let standing = ask(3_600_000);
        assert_eq!((standing.used, standing.exceeded, standing.reset_s), (1, false, 7_200));
    }

    #[test]
    fn tokens_and_entities_have_budgets_of_their_own() {
        let mut limits = Limits::new(3_600);
        for (token, entity) in [("a", 0), ("b", 0), ("a", 1)] {
            assert!(!limits.count(token, entity, 1, 0).unwrap().exceeded);
        }
        assert!(limits.count("a", 0, 1, 0).unwrap().exceeded);
        assert_eq!(limits.count("a", 0, 0, 0), None);
        limits.refund("a", 0);
        assert!(!limits.count("a", 0, 1, 0).unwrap().exceeded);
    }
}
