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
