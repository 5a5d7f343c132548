//! Times as an operator writes them: one reader for all commands.

use crate::config::units::parse_duration;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// What [`parse_when`] takes, for help texts.
pub(super) const TAKES: &str =
    "a time (2026-11-20T00:00:00Z), a day (2026-11-20), a month (2026-11), or how long ago (36h)";

/// A time as it was given. Days and months are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Epoch milliseconds.
    Time(i64),
    /// A day or a month: its first millisecond, and the one after its last.
    Span(i64, i64),
    /// Milliseconds before now.
    Ago(i64),
}

impl When {
    /// Where a range begins that is given as from this, epoch milliseconds.
    pub(super) fn start_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::Time(ms) | Self::Span(ms, _) => ms,
            Self::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }

    /// Where a range ends, exclusive, that is given as to this: a day or a month belongs to it whole.
    pub(super) fn end_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::Span(_, end_ms) => end_ms,
            other => other.start_ms(now_ms),
        }
    }
}

/// Reads a time. The error says what may be written.
pub(super) fn parse_when(text: &str) -> Result<When, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(When::Time(time.as_millisecond()));
    }
    if let Some(span) = span(text) {
        return Ok(span);
    }
    if let Ok(ago) = parse_duration(text) {
        return Ok(When::Ago(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)));
    }
    Err(format!("write {TAKES}; a time needs its zone, days and months are those of UTC"))
}

/// `2026-11-20` or `2026-11`, and nothing that only looks like it.
fn span(text: &str) -> Option<When> {
    let (day, length) = match text.len() {
        10 => (text.to_owned(), Span::new().days(1)),
        7 => (format!("{text}-01"), Span::new().months(1)),
        _ => return None,
    };
    let first: Date = day.parse().ok()?;
    let ms = |date: Date| Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond());
    Some(When::Span(ms(first)?, ms(first.checked_add(length).ok()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOV_20_MS: i64 = 1_795_132_800_000;
    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn times_days_months_and_how_long_ago() {
        for (text, when) in [
            ("2026-11-20T01:00:00+01:00", When::Time(NOV_20_MS)),
            ("2026-11-20", When::Span(NOV_20_MS, NOV_20_MS + DAY_MS)),
            ("2026-11", When::Span(NOV_20_MS - 19 * DAY_MS, NOV_20_MS + 11 * DAY_MS)),
            ("36h", When::Ago(36 * 3_600_000)),
            ("7d", When::Ago(7 * DAY_MS)),
        ] {
            assert_eq!(parse_when(text), Ok(when), "{text}");
        }
    }

    #[test]
    fn a_day_is_whole_at_both_ends() {
        let day = parse_when("2026-11-20").unwrap();
        assert_eq!((day.start_ms(0), day.end_ms(0)), (NOV_20_MS, NOV_20_MS + DAY_MS));
        let ago = parse_when("1d").unwrap();
        assert_eq!(
            (ago.start_ms(NOV_20_MS), ago.end_ms(NOV_20_MS)),
            (NOV_20_MS - DAY_MS, NOV_20_MS - DAY_MS)
        );
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for wrong in [
            "",
            "yesterday",
            "2026-11-20T00:00:00",
            "5",
            "-3h",
            "2026-13",
            "2026-02-30",
            "20261120",
            "October",
        ] {
            let told = parse_when(wrong).unwrap_err();
            assert!(told.contains("2026-11-20T00:00:00Z"), "{wrong}: {told}");
        }
    }
}
