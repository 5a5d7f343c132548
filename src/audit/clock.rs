//! GitHub's clock as we know it: the greatest `Date` of an accepted answer, plus monotonic time since.

/// A jump ahead of more than this counts only when the next two answers say so too, in milliseconds.
pub const JUMP_MS: i64 = 3_600_000;

/// What "now" is for all reckoning about GitHub. Monotonic times are passed in, in milliseconds from any fixed point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerClock {
    /// Greatest accepted `Date` and the monotonic time at which it came.
    base: Option<(i64, i64)>,
    /// Least `Date` of answers in a row that jumped ahead, at what monotonic time it came, and how many there were.
    jump: Option<(i64, i64, u8)>,
    /// Whether an answer of this process has been accepted.
    confirmed: bool,
}

impl ServerClock {
    /// A clock restored from a checkpoint: a lower bound until answers arrive.
    pub fn restored(now_ms: Option<i64>, mono_ms: i64) -> Self {
        Self { base: now_ms.map(|now| (now, mono_ms)), jump: None, confirmed: false }
    }

    /// Whether an answer of this process has been accepted: before that, now may lie far behind.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether the last answer jumped ahead and is not believed yet. What it shows is of a time that is not known: it can
    /// be neither said nor denied that something expired before.
    pub fn is_in_doubt(&self) -> bool {
        self.jump.is_some()
    }

    /// GitHub's now at `mono_ms`; `None` before the first accepted answer ever.
    pub fn now_ms(&self, mono_ms: i64) -> Option<i64> {
        self.base.map(|(date, at)| date.saturating_add(mono_ms.saturating_sub(at).max(0)))
    }

    /// Takes the `Date` of an accepted audit-log answer. One that goes back is ignored.
    pub fn observe(&mut self, date_ms: i64, mono_ms: i64) {
        let Some(now) = self.now_ms(mono_ms) else {
            self.base = Some((date_ms, mono_ms));
            self.confirmed = true;
            return;
        };
        if date_ms.saturating_sub(now) <= JUMP_MS {
            self.jump = None;
            self.confirmed = true;
            if date_ms > now {
                self.base = Some((date_ms, mono_ms));
            }
            return;
        }
        // a wild or cached answer moves nothing: the least of three in a row is believed
        let (least, at, count) = match self.jump {
            Some((least, at, count)) if least <= date_ms => (least, at, count + 1),
            Some((_, _, count)) => (date_ms, mono_ms, count + 1),
            None => (date_ms, mono_ms, 1),
        };
        if count >= 3 {
            self.base = Some((least, at));
            self.jump = None;
            self.confirmed = true;
        } else {
            self.jump = Some((least, at, count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const HOUR: i64 = JUMP_MS;

    #[test]
    fn the_first_answer_is_believed_and_time_goes_on() {
        let mut clock = ServerClock::default();
        assert_eq!((clock.now_ms(0), clock.is_confirmed()), (None, false));
        clock.observe(5_000, 100);
        assert_eq!((clock.now_ms(100), clock.is_confirmed()), (Some(5_000), true));
        assert_eq!(clock.now_ms(350), Some(5_250));
        // the monotonic clock of a caller that is behind does not turn it back
        assert_eq!(clock.now_ms(0), Some(5_000));
    }

    #[test]
    fn a_restored_time_is_a_lower_bound_until_an_answer_comes() {
        let mut clock = ServerClock::restored(Some(5_000), 0);
        assert_eq!((clock.now_ms(10), clock.is_confirmed()), (Some(5_010), false));
        clock.observe(4_000, 20);
        assert_eq!((clock.now_ms(20), clock.is_confirmed()), (Some(5_020), true));
        assert_eq!(ServerClock::restored(None, 0), ServerClock::default());
    }

    #[test]
    fn a_jump_of_an_hour_counts_at_once_and_one_of_more_does_not() {
        let mut clock = ServerClock::restored(Some(0), 0);
        clock.observe(HOUR, 0);
        assert_eq!(clock.now_ms(0), Some(HOUR));
        clock.observe(2 * HOUR + 1, 0);
        assert_eq!(clock.now_ms(0), Some(HOUR));
        assert!(clock.is_confirmed());
    }

    #[test]
    fn one_or_two_wild_answers_move_nothing_not_even_once_each_while() {
        let mut clock = ServerClock::restored(Some(0), 0);
        for _ in 0..10 {
            clock.observe(50 * HOUR, 0);
            clock.observe(60 * HOUR, 0);
            assert!(clock.is_in_doubt());
            clock.observe(10, 0);
            assert!(!clock.is_in_doubt());
        }
        assert_eq!(clock.now_ms(0), Some(10));
    }

    #[test]
    fn three_in_a_row_move_to_the_least_of_them() {
        for order in [[9, 5, 7], [5, 7, 9], [7, 9, 5]] {
            let mut clock = ServerClock::restored(Some(0), 0);
            for (hours, mono_ms) in order.into_iter().zip([100, 200, 300]) {
                assert!(!clock.is_confirmed());
                assert_eq!(clock.is_in_doubt(), mono_ms > 100);
                clock.observe(hours * HOUR, mono_ms);
            }
            assert!(!clock.is_in_doubt());
            let came_ms =
                100 + 100 * order.into_iter().zip(0..).find(|(hours, _)| *hours == 5).unwrap().1;
            assert_eq!(clock.now_ms(300), Some(5 * HOUR + 300 - came_ms), "{order:?}");
            assert!(clock.is_confirmed());
        }
    }

    proptest! {
        /// Whatever `Date`s come, now never goes back; a jump needs three answers in a row that all lie beyond it.
        #[test]
        fn now_never_goes_back_nor_beyond_what_was_said(
            answers in vec((prop_oneof![0_i64..200, (0_i64..20).prop_map(|h| h * HOUR), any::<i64>()], 0_i64..1000), 1..40),
        ) {
            let mut clock = ServerClock::default();
            let (mut mono_ms, mut before, mut last_jumps) = (0, i64::MIN, 0);
            for (date_ms, later_ms) in answers {
                mono_ms += later_ms;
                let idle = clock.now_ms(mono_ms);
                let is_jump = idle.is_some_and(|idle| date_ms.saturating_sub(idle) > HOUR);
                last_jumps = if is_jump { last_jumps + 1 } else { 0 };
                clock.observe(date_ms, mono_ms);
                let now = clock.now_ms(mono_ms).unwrap();
                prop_assert!(now >= before);
                if last_jumps == 1 || last_jumps == 2 {
                    prop_assert_eq!(Some(now), idle);
                }
                if last_jumps == 3 {
                    prop_assert!(now > idle.unwrap().saturating_add(HOUR));
                    last_jumps = 0;
                }
                before = now;
            }
        }
    }
}
