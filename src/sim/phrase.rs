//! The search phrase: `created:` in whole seconds, everything else tolerated.

use super::config::DAY_S;

/// Without `created:` this many days are shown: "the past three months".
pub(crate) const DEFAULT_WINDOW_DAYS: i64 = 92;

/// A span of time in epoch milliseconds, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

/// A `created:` that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadPhrase(pub(crate) String);

/// The window of a phrase: the meet of its `created:` terms, else the last three months before `now_ms`.
pub(crate) fn window(phrase: &str, now_ms: i64) -> Result<Window, BadPhrase> {
    let mut window = Window { from_ms: i64::MIN, to_ms: i64::MAX };
    let mut given = false;
    for term in phrase.split_whitespace().filter_map(|term| term.strip_prefix("created:")) {
        let one = term_window(term.trim_matches('"')).ok_or_else(|| BadPhrase(term.to_owned()))?;
        window.from_ms = window.from_ms.max(one.from_ms);
        window.to_ms = window.to_ms.min(one.to_ms);
        given = true;
    }
    if !given {
        window.from_ms = default_from(now_ms);
    }
    Ok(window)
}

/// Where the default window begins.
pub(crate) fn default_from(now_ms: i64) -> i64 {
    now_ms.saturating_sub(DEFAULT_WINDOW_DAYS * DAY_S * 1000)
}

fn term_window(term: &str) -> Option<Window> {
    let open = Window { from_ms: i64::MIN, to_ms: i64::MAX };
    if let Some(text) = term.strip_prefix(">=") {
        return Some(Window { from_ms: instant(text)?.from_ms, ..open });
    }
    if let Some(text) = term.strip_prefix("<=") {
        return Some(Window { to_ms: instant(text)?.to_ms, ..open });
    }
    if let Some(text) = term.strip_prefix('>') {
        return Some(Window { from_ms: instant(text)?.to_ms + 1, ..open });
    }
    if let Some(text) = term.strip_prefix('<') {
        return Some(Window { to_ms: instant(text)?.from_ms - 1, ..open });
    }
    let Some((from, to)) = term.split_once("..") else {
        return instant(term);
    };
    let end = |text: &str| {
        if text == "*" { Some(open) } else { instant(text) }
    };
    Some(Window { from_ms: end(from)?.from_ms, to_ms: end(to)?.to_ms })
}

/// A date (its whole day) or a date-time (its whole second), `Z` or with an offset.
fn instant(text: &str) -> Option<Window> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        let second = time.as_second();
        return Some(Window { from_ms: second * 1000, to_ms: second * 1000 + 999 });
    }
    let zoned = |civil: jiff::civil::DateTime| civil.to_zoned(jiff::tz::TimeZone::UTC).ok();
    if let (10, Ok(date)) = (text.len(), text.parse::<jiff::civil::Date>()) {
        let second = zoned(date.at(0, 0, 0, 0))?.timestamp().as_second();
        return Some(Window { from_ms: second * 1000, to_ms: (second + DAY_S) * 1000 - 1 });
    }
    let second = zoned(text.parse::<jiff::civil::DateTime>().ok()?)?.timestamp().as_second();
    Some(Window { from_ms: second * 1000, to_ms: second * 1000 + 999 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_404_777_600_000; // 2014-07-08T00:00:00Z

    fn of(phrase: &str) -> (i64, i64) {
        let window = window(phrase, 0).unwrap();
        (window.from_ms, window.to_ms)
    }

    #[test]
    fn operators_work_in_whole_seconds() {
        assert_eq!(of("created:>=2014-07-08T00:00:00Z"), (SECOND, i64::MAX));
        assert_eq!(of("created:>=2014-07-08T02:00:00+02:00"), (SECOND, i64::MAX));
        assert_eq!(of("created:>=2014-07-08T00:00:00.750Z"), (SECOND, i64::MAX));
        assert_eq!(of("created:>2014-07-08T00:00:00Z"), (SECOND + 1000, i64::MAX));
        assert_eq!(of("created:<=2014-07-08T00:00:00Z"), (i64::MIN, SECOND + 999));
        assert_eq!(of("created:<2014-07-08T00:00:00Z"), (i64::MIN, SECOND - 1));
    }

    #[test]
    fn dates_are_whole_days_and_terms_meet() {
        let day = 86_400_000;
        assert_eq!(of("created:2014-07-08"), (SECOND, SECOND + day - 1));
        assert_eq!(of("created:2014-07-08..2014-07-09"), (SECOND, SECOND + 2 * day - 1));
        assert_eq!(of("created:2014-07-08T00:00:00Z..*"), (SECOND, i64::MAX));
        assert_eq!(
            of("action:repo -actor:mona created:>=2014-07-08 created:<=2014-07-08"),
            (SECOND, SECOND + day - 1)
        );
    }

    #[test]
    fn without_created_three_months_are_shown() {
        assert_eq!(of("action:team"), (-DEFAULT_WINDOW_DAYS * 86_400_000, i64::MAX));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for phrase in ["created:", "created:yesterday", "created:>=2014", "created:2014-07-08.."] {
            assert!(window(phrase, 0).is_err(), "{phrase}");
        }
    }
}
