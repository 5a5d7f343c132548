//! Request budgets per user and entity, in windows of simulated time.

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

/// One budget.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    /// Its end, epoch milliseconds.
    reset_ms: i64,
    /// Requests made in it through us, and by others at once.
    used: u64,
    /// Whether nobody has asked yet.
    begun: bool,
}

/// All budgets.
#[derive(Debug)]
pub(crate) struct Limits {
    window_ms: i64,
    /// One budget of a user for all entities.
    pub(crate) shared: bool,
    /// Requests of each window that others make, evenly.
    pub(crate) foreign_per_window: u64,
    /// By user and entity.
    windows: HashMap<(String, Option<usize>), Window>,
}

impl Limits {
    /// Budgets for windows of this length.
    pub(crate) fn new(window_s: u64) -> Self {
        let window_ms = super::rng::i64_of(window_s.max(1).saturating_mul(1000));
        Self { window_ms, shared: false, foreign_per_window: 0, windows: HashMap::new() }
    }

    fn key(&self, user: &str, entity: usize) -> (String, Option<usize>) {
        (user.to_owned(), (!self.shared).then_some(entity))
    }

    fn window(&mut self, user: &str, entity: usize, now_ms: i64) -> &mut Window {
        let length = self.window_ms;
        let window = self.windows.entry(self.key(user, entity)).or_default();
        if now_ms >= window.reset_ms || !window.begun {
            let reset_ms = now_ms / 1000 * 1000 + length;
            *window = Window { reset_ms, used: 0, begun: true };
        }
        window
    }

    /// Takes a request back.
    pub(crate) fn refund(&mut self, user: &str, entity: usize) {
        let key = self.key(user, entity);
        if let Some(window) = self.windows.get_mut(&key) {
            window.used = window.used.saturating_sub(1);
        }
    }

    /// Requests that others make with the same user.
    pub(crate) fn take(&mut self, user: &str, entity: usize, requests: u64, now_ms: i64) {
        let window = self.window(user, entity, now_ms);
        window.used = window.used.saturating_add(requests);
    }

    /// Counts a request. `None` where there is no limit.
    pub(crate) fn count(
        &mut self,
        user: &str,
        entity: usize,
        limit: u64,
        now_ms: i64,
    ) -> Option<Standing> {
        if limit == 0 {
            return None;
        }
        let (length, foreign) = (self.window_ms, self.foreign_per_window);
        let window = self.window(user, entity, now_ms);
        let gone = super::rng::u64_from(length - (window.reset_ms - now_ms));
        let others = foreign.saturating_mul(gone) / super::rng::u64_from(length).max(1);
        let exceeded = window.used.saturating_add(others) >= limit;
        if !exceeded {
            window.used += 1;
        }
        let used = window.used.saturating_add(others).min(limit);
        Some(Standing { limit, used, reset_s: window.reset_ms / 1000, exceeded })
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
    fn users_and_entities_have_budgets_of_their_own() {
        let mut limits = Limits::new(3_600);
        for (token, entity) in [("a", 0), ("b", 0), ("a", 1)] {
            assert!(!limits.count(token, entity, 1, 0).unwrap().exceeded);
        }
        assert!(limits.count("a", 0, 1, 0).unwrap().exceeded);
        assert_eq!(limits.count("a", 0, 0, 0), None);
        limits.refund("a", 0);
        assert!(!limits.count("a", 0, 1, 0).unwrap().exceeded);
    }

    #[test]
    fn others_use_up_the_same_budget() {
        let mut limits = Limits::new(3_600);
        assert_eq!(limits.count("u", 0, 100, 0).unwrap().used, 1);
        limits.take("u", 0, 50, 1);
        assert_eq!(limits.count("u", 0, 100, 2).unwrap().used, 52);
        limits.foreign_per_window = 60;
        assert_eq!(limits.count("u", 0, 100, 1_800_000).unwrap().used, 83, "30 in half an hour");
        assert!(limits.count("u", 0, 100, 3_540_000).unwrap().exceeded);
        limits.shared = true;
        assert_eq!(limits.count("u", 0, 100, 0).unwrap().used, 1);
        assert_eq!(limits.count("u", 1, 100, 0).unwrap().used, 2);
    }
}
