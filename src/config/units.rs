//! Durations and sizes as an operator writes them: `"10m"`, `"180d"`, `"8MiB"`. Pure.

use std::time::Duration;

/// Reads a duration: a number and a unit, or several of them (`"1h 30m"`). Days are 24 hours.
///
/// The error is what is wrong with it, as a fragment after "is".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err("a number without a unit".to_owned());
    }
    let span: jiff::Span = text.trim().parse().map_err(|_| "not a duration".to_owned())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err("given in years or months, which differ in length".to_owned());
    }
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| "too long for a duration".to_owned())?;
    Duration::try_from(duration).map_err(|_| "negative".to_owned())
}

/// A duration in the largest unit that shows it exactly.
pub fn show_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if millis != 0 {
        return format!("{}ms", duration.as_millis());
    }
    crate::time::span_s(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Units of sizes, in bytes.
const SIZES: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads a size: a whole number and a unit (`"8MiB"`, `"500 kB"`). The error is a fragment after "is".
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err("a number without a unit".to_owned());
    }
    let (number, size) = SIZES
        .iter()
        .find_map(|(unit, size)| text.strip_suffix(unit).map(|number| (number, *size)))
        .ok_or("not a size")?;
    let number: u64 = number.trim().parse().map_err(|_| "not a size".to_owned())?;
    number.checked_mul(size).ok_or_else(|| "too large".to_owned())
}

/// A size in the largest binary unit that shows it exactly.
pub fn show_bytes(bytes: u64) -> String {
    for (unit, size) in SIZES.iter().take(3) {
        if bytes >= *size && bytes.is_multiple_of(*size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let cases = [
            ("10m", 600),
            ("180d", 180 * 86_400),
            ("1h 30m", 5400),
            ("2 weeks", 14 * 86_400),
            ("PT15S", 15),
            (" 90s ", 90),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn durations_refused() {
        for text in ["600", "", "10", "10 parsecs", "-5m", "1y", "2mo", "1.5", "d"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_duration("600"), Err("a number without a unit".to_owned()));
    }

    #[test]
    fn sizes() {
        let cases = [("8MiB", 8 << 20), ("1 GiB", 1 << 30), ("500kB", 500_000), ("12B", 12)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["8", "8M", "MiB", "-1B", "1.5MiB", "99999999999999GiB", ""] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn shown_values_are_read_back() {
        for seconds in [1, 59, 60, 61, 3600, 86_400, 90_000] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [1, 1023, 1024, 8 << 20, 3 << 30] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }
    }

    proptest! {
        #[test]
        fn any_value_shown_is_read_back(millis in 0_u64..400_000_000_000, bytes in 1_u64..) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), like in "[-0-9 .dhmsywKMGiB]{0,24}") {
            for text in [text, like] {
                drop((parse_duration(&text), parse_bytes(&text)));
            }
        }
    }
}
