//! What is wrong right now, and whether the loops make progress.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Shared by every loop; read by the admin server and the watchdog.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<BTreeMap<String, String>>,
}

impl Health {
    /// Says that a part does not do its work, why, and the remedy.
    pub fn set_degraded(&self, part: &str, reason: String) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.insert(part.to_owned(), reason);
        }
    }
    /// A part works again.
    pub fn clear(&self, part: &str) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.remove(part);
        }
    }
    /// A loop has made a turn.
    pub fn beat(&self, _loop_name: &str) {}
    /// A loop waits for something by name, at most this long.
    pub fn named_wait(&self, _loop_name: &str, _what: &str, _deadline: Duration) {}
}
