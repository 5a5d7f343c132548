//! When something may be tried again, and whether the reason is news.

use crate::retry::Backoff;
use std::time::Duration;

/// Waits of one thing that fails: quick ones with jitter, slow ones for what only an operator can mend.
#[derive(Debug)]
pub struct Pause {
    until_mono_ms: Option<i64>,
    quick: Backoff,
    slow: Backoff,
    told: Option<String>,
    failures: u32,
    is_slow: bool,
}

impl Pause {
    /// No pause; quick waits grow from `initial` to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            until_mono_ms: None,
            quick: Backoff::new(initial, max),
            slow: Backoff::new(Duration::from_secs(30), Duration::from_mins(15)),
            told: None,
            failures: 0,
            is_slow: false,
        }
    }

    /// Whether the pause lasts at `mono_ms`.
    pub fn is_on(&self, mono_ms: i64) -> bool {
        self.until(mono_ms).is_some()
    }

    /// When the pause ends, if it lasts at `mono_ms`.
    pub fn until(&self, mono_ms: i64) -> Option<i64> {
        self.until_mono_ms.filter(|&until| mono_ms < until)
    }

    /// Whether it waits for an operator: something that changed may end the wait.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// A pause until a time that somebody else decided; it is no failure.
    pub fn set(&mut self, until_mono_ms: i64) {
        self.is_slow = false;
        self.until_mono_ms = Some(until_mono_ms);
    }

    /// It failed: a quick, growing pause.
    pub fn fail(&mut self, mono_ms: i64) {
        self.failures = self.failures.saturating_add(1);
        self.is_slow = false;
        self.until_mono_ms = Some(mono_ms.saturating_add(ms(self.quick.next_wait())));
    }

    /// It failed for a reason that only an operator can mend: a slow, growing pause.
    pub fn fail_slowly(&mut self, mono_ms: i64) {
        self.failures = self.failures.saturating_add(1);
        self.is_slow = true;
        self.until_mono_ms = Some(mono_ms.saturating_add(ms(self.slow.next_wait())));
    }

    /// It works; whether somebody was told that it does not.
    pub fn succeed(&mut self) -> bool {
        self.quick.reset();
        self.slow.reset();
        self.failures = 0;
        self.is_slow = false;
        self.until_mono_ms = None;
        self.told.take().is_some()
    }

    /// Failures in a row: one or two are everyday, and nobody is told.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What was last told, while it does not work.
    pub fn told(&self) -> Option<&str> {
        self.told.as_deref()
    }

    /// Whether this reason has not been told since it last worked.
    pub fn is_news(&mut self, reason: &str) -> bool {
        if self.told.as_deref() == Some(reason) {
            return false;
        }
        self.told = Some(reason.to_owned());
        true
    }
}

fn ms(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
