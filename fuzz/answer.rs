//! What an answer that is no page means: any status, headers and body make a bounded wait or a clear refusal.

use crate::decisions::Decisions;
use ghauditd::github::denial::{printable, said, without_secret};
use ghauditd::github::rate_limit::{
    Answer, Budget, Denial, SECONDARY_WAIT_MIN, Verdict, WAIT_MAX, date_ms, judge,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

const NAMES: [&str; 6] = [
    "retry-after",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-github-sso",
    "date",
];

const VALUES: &[&str] = &[
    "0",
    "1",
    "60",
    "3700",
    "3701",
    "-1",
    "+5",
    " 7 ",
    "1.5",
    "1e3",
    "0x10",
    "",
    "soon",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "9223372036854775808",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Wednesday, 21-Oct-15 07:28:00 GMT",
    "Wed Oct 21 07:28:00 2015",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Wed, 31 Dec 1969 23:59:59 GMT",
    "Wed, 21 Oct 2015 07:28:60 GMT",
    "Wed, 30 Feb 2022 07:28:00 GMT",
    "required; url=https://github.com/orgs/o/sso",
];

const MESSAGES: &[&str] = &[
    "",
    "You have exceeded a secondary rate limit.",
    "API Rate Limit exceeded for user ID 1.",
    "You have triggered an abuse detection mechanism.",
    "Must have admin rights to Repository.",
    "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits",
    "https://developer.github.com/v3/#abuse-rate-limits",
];

#[test]
fn answer_of_headers() {
    bolero::check!().with_max_len(512_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let statuses = [200, 200, 206, 301, 304, 401, 403, 403, 403, 404, 410, 422, 429, 429, 503];
        let status = match decisions.byte() {
            picked @ 0..=223 => statuses[usize::from(picked) % statuses.len()],
            _ => 100 + u16::from(decisions.byte()) * 3,
        };
        let now_s = match decisions.byte() {
            0..=31 => decisions.number(),
            later => 1_790_000_000 + i64::from(later),
        };
        let message = decisions.pick(MESSAGES).to_owned();
        let documentation_url = decisions.pick(MESSAGES).to_owned();
        let secondary_in_a_row = match decisions.byte() {
            255 => u32::MAX,
            few => u32::from(few % 40),
        };
        let headers = headers(&mut decisions, now_s);
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            message: &message,
            documentation_url: &documentation_url,
            now_s,
            secondary_in_a_row,
        };
        let verdict = judge(&answer);
        check(&answer, verdict);
        budget(&headers);
        // the same answer means the same, and more limits in a row never a shorter wait
        assert_eq!(judge(&answer), verdict);
        let again = Answer { secondary_in_a_row: secondary_in_a_row.saturating_add(1), ..answer };
        if let (Verdict::RateLimited { wait, .. }, Verdict::RateLimited { wait: longer, .. }) =
            (verdict, judge(&again))
        {
            assert!(longer >= wait);
        }
    });
}

fn headers(decisions: &mut Decisions<'_>, now_s: i64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    while !decisions.is_empty() && headers.len() < 12 {
        let name = HeaderName::from_static(NAMES[decisions.below(NAMES.len())]);
        let value = match decisions.byte() {
            0..=63 => {
                let len = decisions.below(12);
                (0..len).map(|_| decisions.byte()).collect()
            }
            64..=127 => {
                let near = now_s.saturating_add(i64::from(decisions.byte()) * 32 - 1000);
                near.to_string().into_bytes()
            }
            _ => decisions.pick(VALUES).as_bytes().to_vec(),
        };
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(name, value);
        }
    }
    headers
}

fn check(answer: &Answer<'_>, verdict: Verdict) {
    let status = answer.status.as_u16();
    assert_eq!(verdict == Verdict::Accepted, status == 200);
    match verdict {
        Verdict::RateLimited { reason, wait } => {
            assert!(matches!(status, 403 | 429 | 500..=599));
            assert!((Duration::from_secs(1)..=WAIT_MAX).contains(&wait), "{wait:?}");
            let asked = first(answer.headers, "retry-after").and_then(|text| whole(&text));
            match asked {
                Some(seconds) => {
                    let seconds = Duration::from_secs(seconds);
                    assert_eq!(wait, seconds.clamp(Duration::from_secs(1), WAIT_MAX));
                }
                None if reason == "secondary" && !answer.headers.contains_key("retry-after") => {
                    assert!(wait >= SECONDARY_WAIT_MIN);
                }
                None => {}
            }
        }
        Verdict::Denied(denial) => {
            let expected = match status {
                401 => Denial::Unauthorized,
                404 => Denial::NotFound,
                410 => Denial::Gone,
                // a permission that is missing is never taken for a rate, nor a rate for it
                403 if denial == Denial::Sso => {
                    assert!(answer.headers.contains_key("x-github-sso"));
                    Denial::Sso
                }
                403 => {
                    let left = first(answer.headers, "x-ratelimit-remaining");
                    assert_ne!(left.and_then(|text| whole(&text)), Some(0));
                    assert!(!answer.message.to_lowercase().contains("rate limit"));
                    Denial::Forbidden
                }
                other => panic!("{other} is denied: {denial:?}"),
            };
            assert_eq!(denial, expected);
        }
        // for a cursor this means that it is dropped: a rate or a permission must not look like it
        Verdict::Refused => assert!((400..500).contains(&status) && status != 403 && status != 429),
        Verdict::Transport(reason) => assert!(!reason.is_empty()),
        Verdict::Accepted => {}
    }
}

fn first(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

/// A whole number without a sign, by hand.
fn whole(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.bytes().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
    });
    number.filter(|_| digits)
}

fn budget(headers: &HeaderMap) {
    let number = |name: &str| first(headers, name).and_then(|text| whole(&text));
    let expected = || {
        Some(Budget {
            limit: number("x-ratelimit-limit")?,
            remaining: number("x-ratelimit-remaining")?,
            reset_s: number("x-ratelimit-reset").and_then(|reset| reset.try_into().ok())?,
        })
    };
    assert_eq!(Budget::from_headers(headers), expected());
}

/// Dates: any text; those that another reader understands too mean the same; our own come back.
#[test]
fn answer_date() {
    const DAYS: &[&str] = &["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: &[&str] =
        &["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    bolero::check!().with_max_len(64_usize).for_each(|bytes: &[u8]| {
        assert!(date_ms(&String::from_utf8_lossy(bytes)).is_none_or(|ms| ms >= 0));
        let mut decisions = Decisions::new(bytes);
        let at_s = decisions.number().unsigned_abs() % 253_402_300_800;
        let time = std::time::UNIX_EPOCH + Duration::from_secs(at_s);
        let text = httpdate::fmt_http_date(time);
        assert_eq!(date_ms(&text), i64::try_from(at_s * 1000).ok());
        let (day, month) = (decisions.below(34), decisions.pick(MONTHS).to_owned());
        let year = 1960 + decisions.below(120);
        let clock = (decisions.below(26), decisions.below(62), decisions.below(62));
        let weekday = decisions.pick(DAYS);
        let text = format!(
            "{weekday}, {day:02} {month} {year} {:02}:{:02}:{:02} GMT",
            clock.0, clock.1, clock.2
        );
        let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
        if let (Some(ms), Ok(other)) = (date_ms(&text), parser.parse_timestamp(&text)) {
            // a leap second is another second for one of them
            assert!((ms - other.as_millisecond()).abs() <= 1000, "{text}");
            assert!(clock.2 == 60 || ms == other.as_millisecond(), "{text}");
        }
    });
}

/// What a server says, fit for a log: short, printable, and without the token that somebody echoed into it.
#[test]
fn answer_message() {
    const TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
    bolero::check!().with_max_len(512_usize).for_each(|bytes: &[u8]| {
        drop(said(bytes, TOKEN));
        let mut decisions = Decisions::new(bytes);
        let mut message = String::new();
        while !decisions.is_empty() && message.len() < 4000 {
            match decisions.byte() {
                0..=31 => message.push_str(TOKEN),
                32..=63 => message.push_str(&"x".repeat(decisions.below(256))),
                64..=95 => message.push(char::from(decisions.byte())),
                96..=111 => {
                    // in two halves, with something between them that is taken out
                    let (one, other) = TOKEN.split_at(decisions.below(TOKEN.len()));
                    message.push_str(one);
                    message.push_str(decisions.pick(&["\0", "\n", "\u{1b}", "\u{85}"]));
                    message.push_str(other);
                }
                _ => {
                    message.push_str(decisions.pick(&["a", "\u{e9}", "[", "]", "secret", "\u{7}"]));
                }
            }
        }
        let body = serde_json::json!({ "message": message, "documentation_url": 7 }).to_string();
        let (shown, url) = said(body.as_bytes(), TOKEN);
        assert_eq!(url, "");
        assert!(!shown.chars().any(char::is_control));
        assert!(shown.chars().count() <= 300);
        assert_eq!(
            (printable(&shown), without_secret(&shown, TOKEN)),
            (shown.clone(), shown.clone())
        );
        assert!(!shown.contains(TOKEN), "{shown}");
        // nor a part of it that would make guessing the rest easy
        assert!(!shown.contains("ghp_0123456789abcdef"), "{shown}");
    });
}
