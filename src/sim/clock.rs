//! The simulated clock: starts where the configuration says, may run faster, may be moved ahead.

use super::config::SimClock;
use super::rng::{i64_of, scaled};
use crate::time::mono_ms;
use std::sync::atomic::{AtomicI64, Ordering};

/// A running simulated clock.
#[derive(Debug)]
pub(crate) struct Clock {
    start_ms: i64,
    started_mono_ms: i64,
    speed_thousandths: i64,
    ahead_ms: AtomicI64,
}

impl Clock {
    /// Starts it.
    pub(crate) fn start(settings: SimClock) -> Self {
        Self {
            start_ms: settings.start_ms,
            started_mono_ms: mono_ms(),
            speed_thousandths: i64_of(scaled(settings.speed.max(1.0), 1000.0)),
            ahead_ms: AtomicI64::new(0),
        }
    }

    /// Simulated now, epoch milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        let real_ms = mono_ms().saturating_sub(self.started_mono_ms);
        self.start_ms
            .saturating_add(real_ms.saturating_mul(self.speed_thousandths) / 1000)
            .saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Moves it ahead at once.
    pub(crate) fn advance(&self, ms: u64) {
        self.ahead_ms.fetch_add(i64_of(ms), Ordering::Relaxed);
    }
}
