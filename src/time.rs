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

/// A span in the largest unit that shows it exactly: `10m`, `1d`; days of 24 hours.
pub fn span_s(seconds: i64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let fits = units.into_iter().find(|(unit, _)| seconds > 0 && seconds % unit == 0);
    fits.map_or_else(|| format!("{seconds}s"), |(unit, word)| format!("{}{word}", seconds / unit))
}
