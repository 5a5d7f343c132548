//! The only place that reads the machine's clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The machine's wall clock, epoch milliseconds.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn wall_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Monotonic milliseconds since the first call in this process.
pub fn mono_ms() -> i64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// `2026-11-21T13:00:00.123Z` of an epoch time in milliseconds; the number itself where no date fits.
pub fn rfc3339_ms(epoch_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(epoch_ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => epoch_ms.to_string(),
    }
}

/// `2026-11-21T13:00:00Z` of an epoch time in seconds; the number itself where no date fits.
pub fn rfc3339_s(epoch_s: i64) -> String {
    match jiff::Timestamp::from_second(epoch_s) {
        Ok(time) => time.to_string(),
        Err(_) => epoch_s.to_string(),
    }
}
