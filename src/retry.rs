//! Back-off with jitter: the one file that knows the crate `backoff`, so that it can be exchanged.

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use std::time::Duration;

/// Growing waits with jitter, without an end.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Waits from about `initial` growing by half each time to `max`, each varied by 50 %.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self(ExponentialBackoff {
            initial_interval: initial,
            current_interval: initial,
            max_interval: max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Back to the first wait: something went well.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}
