//! What an answer that is not a page means: decided from status, headers and message, without IO.
//!
//! A 403 may mean a rate, a secondary limit, SSO or a missing permission; a 404 may mean a missing permission. Headers
//! are asked first, the message last. Source: docs.github.com, "Rate limits for the REST API", "Best practices".

use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// A credential's budget at one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// `x-ratelimit-limit`: requests per window.
    pub limit: u64,
    /// `x-ratelimit-remaining`.
    pub remaining: u64,
    /// `x-ratelimit-reset`, epoch seconds.
    pub reset_s: i64,
}

impl Budget {
    /// The budget that an answer's headers speak of; `None` where one of the three is missing (GHES without limits).
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        Some(Self {
            limit: number(headers, "x-ratelimit-limit")?,
            remaining: number(headers, "x-ratelimit-remaining")?,
            reset_s: i64::try_from(number(headers, "x-ratelimit-reset")?).ok()?,
        })
    }
}

/// Least wait after a secondary limit: GitHub asks for a minute.
pub const SECONDARY_WAIT_MIN: Duration = Duration::from_mins(1);
/// Longest wait between two tries under a secondary limit.
const SECONDARY_WAIT_MAX: Duration = Duration::from_mins(16);
/// Longest wait that a header can order: GitHub's window is an hour.
pub const WAIT_MAX: Duration = Duration::from_secs(3_700);

/// What refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// 401.
    Unauthorized,
    /// 403 without any sign of a rate.
    Forbidden,
    /// 403 with `X-GitHub-SSO`.
    Sso,
    /// 404: the slug, or a permission.
    NotFound,
    /// 410: the API version.
    Gone,
}

impl Denial {
    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Sso => "sso",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
        }
    }
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 200: read the page.
    Accepted,
    /// Wait.
    RateLimited {
        /// `primary`, `secondary` or `retry_after`.
        reason: &'static str,
        /// How long.
        wait: Duration,
    },
    /// The operator has to do something.
    Denied(Denial),
    /// This request is not liked.
    Refused,
    /// Try again: the reason is the label of metrics.
    Transport(&'static str),
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: StatusCode,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// `message` of the body, where it is JSON.
    pub message: &'a str,
    /// `documentation_url` of the body.
    pub documentation_url: &'a str,
    /// Now, epoch seconds: the answer's `Date`, else our own clock.
    pub now_s: i64,
    /// Secondary limits in a row before this answer.
    pub secondary_in_a_row: u32,
}

/// Decides what an answer means.
pub fn judge(answer: &Answer<'_>) -> Verdict {
    match answer.status.as_u16() {
        200 => Verdict::Accepted,
        401 => Verdict::Denied(Denial::Unauthorized),
        403 | 429 => limited_or_denied(answer),
        404 => Verdict::Denied(Denial::NotFound),
        407 => Verdict::Transport("connection"),
        408 => Verdict::Transport("timeout"),
        410 => Verdict::Denied(Denial::Gone),
        400..=499 => Verdict::Refused,
        206 => Verdict::Transport("truncated"),
        300..=399 => Verdict::Transport("redirect"),
        500..=599 => match retry_after(answer) {
            Some(wait) => Verdict::RateLimited { reason: "retry_after", wait },
            None => Verdict::Transport("server_error"),
        },
        _ => Verdict::Transport("not_json_array"),
    }
}

fn limited_or_denied(answer: &Answer<'_>) -> Verdict {
    let secondary = is_secondary(answer);
    if let Some(wait) = retry_after(answer) {
        let reason = if secondary { "secondary" } else { "retry_after" };
        return Verdict::RateLimited { reason, wait };
    }
    if answer.status == StatusCode::FORBIDDEN && answer.headers.contains_key("x-github-sso") {
        return Verdict::Denied(Denial::Sso);
    }
    if number(answer.headers, "x-ratelimit-remaining") == Some(0) {
        return Verdict::RateLimited { reason: "primary", wait: until_reset(answer) };
    }
    if secondary || answer.status == StatusCode::TOO_MANY_REQUESTS {
        return Verdict::RateLimited {
            reason: "secondary",
            wait: secondary_wait(answer.secondary_in_a_row),
        };
    }
    if contains(answer.message, "rate limit") {
        return Verdict::RateLimited { reason: "primary", wait: until_reset(answer) };
    }
    Verdict::Denied(Denial::Forbidden)
}

/// GitHub says so in the message and, more lastingly, in the link to its documentation.
fn is_secondary(answer: &Answer<'_>) -> bool {
    contains(answer.documentation_url, "secondary-rate-limits")
        || contains(answer.documentation_url, "#abuse-rate-limits")
        || contains(answer.message, "secondary rate limit")
        || contains(answer.message, "abuse detection")
}

fn contains(text: &str, part: &str) -> bool {
    text.to_ascii_lowercase().contains(part)
}

/// A minute, doubled for each limit in a row before this one.
fn secondary_wait(in_a_row: u32) -> Duration {
    SECONDARY_WAIT_MIN.saturating_mul(2_u32.saturating_pow(in_a_row)).min(SECONDARY_WAIT_MAX)
}

/// Until the window ends by the server's own clock, and a second more; a minute where it does not say.
fn until_reset(answer: &Answer<'_>) -> Duration {
    match number(answer.headers, "x-ratelimit-reset").and_then(|reset| i64::try_from(reset).ok()) {
        Some(reset_s) => bounded(
            u64::try_from(reset_s.saturating_sub(answer.now_s)).unwrap_or(0).saturating_add(1),
        ),
        None => SECONDARY_WAIT_MIN,
    }
}

/// `retry-after`: seconds, or a date.
fn retry_after(answer: &Answer<'_>) -> Option<Duration> {
    let text = answer.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(bounded(seconds));
    }
    let at_s = date_ms(text)? / 1000;
    Some(bounded(u64::try_from(at_s.saturating_sub(answer.now_s)).unwrap_or(0)))
}

/// At least a second, so that no answer makes a hot loop; at most [`WAIT_MAX`], so that no answer stops us for good.
fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds).clamp(Duration::from_secs(1), WAIT_MAX)
}

/// An HTTP date, epoch milliseconds.
pub fn date_ms(text: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_S: i64 = 1_800_000_000;

    fn verdict(
        status: u16,
        headers: &[(&'static str, &str)],
        message: &str,
        url: &str,
        in_a_row: u32,
    ) -> Verdict {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        judge(&Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            message,
            documentation_url: url,
            now_s: NOW_S,
            secondary_in_a_row: in_a_row,
        })
    }

    fn limited(reason: &'static str, seconds: u64) -> Verdict {
        Verdict::RateLimited { reason, wait: Duration::from_secs(seconds) }
    }

    #[test]
    fn statuses() {
        for (status, expected) in [
            (200, Verdict::Accepted),
            (204, Verdict::Transport("not_json_array")),
            (206, Verdict::Transport("truncated")),
            (304, Verdict::Transport("redirect")),
            (400, Verdict::Refused),
            (401, Verdict::Denied(Denial::Unauthorized)),
            (403, Verdict::Denied(Denial::Forbidden)),
            (404, Verdict::Denied(Denial::NotFound)),
            (407, Verdict::Transport("connection")),
            (408, Verdict::Transport("timeout")),
            (410, Verdict::Denied(Denial::Gone)),
            (422, Verdict::Refused),
            (429, limited("secondary", 60)),
            (500, Verdict::Transport("server_error")),
            (503, Verdict::Transport("server_error")),
        ] {
            assert_eq!(verdict(status, &[], "", "", 0), expected, "{status}");
        }
    }

    #[test]
    fn rates_are_told_by_headers_first() {
        let reset = (NOW_S + 120).to_string();
        let primary = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
        let docs = "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits";
        for status in [403, 429] {
            assert_eq!(verdict(status, &primary, "", "", 0), limited("primary", 121));
            assert_eq!(
                verdict(status, &[("retry-after", "17")], "", "", 5),
                limited("retry_after", 17)
            );
            assert_eq!(
                verdict(status, &[("retry-after", "17")], "", docs, 5),
                limited("secondary", 17)
            );
            assert_eq!(verdict(status, &[], "", docs, 0), limited("secondary", 60));
            assert_eq!(
                verdict(status, &[], "You have exceeded a secondary rate limit.", "", 2),
                limited("secondary", 240)
            );
            assert_eq!(
                verdict(status, &[], "", "https://x/#abuse-rate-limits", 40),
                limited("secondary", 960)
            );
        }
        assert_eq!(
            verdict(403, &[], "API rate limit exceeded for user ID 1.", "", 0),
            limited("primary", 60)
        );
        assert_eq!(verdict(503, &[("retry-after", "5")], "", "", 0), limited("retry_after", 5));
    }

    #[test]
    fn no_header_stops_us_for_good_or_makes_a_hot_loop() {
        let past = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "5")];
        assert_eq!(verdict(429, &past, "", "", 0), limited("primary", 1));
        let far = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "9999999999999")];
        assert_eq!(verdict(429, &far, "", "", 0), limited("primary", 3700));
        assert_eq!(verdict(429, &[("retry-after", "0")], "", "", 0), limited("retry_after", 1));
        assert_eq!(
            verdict(429, &[("retry-after", "18446744073709551615")], "", "", 0),
            limited("retry_after", 3700)
        );
        assert_eq!(verdict(429, &[("retry-after", "soon")], "", "", 0), limited("secondary", 60));
        let date = httpdate::fmt_http_date(
            std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(NOW_S).unwrap() + 30),
        );
        assert_eq!(verdict(429, &[("retry-after", &date)], "", "", 0), limited("retry_after", 30));
    }

    #[test]
    fn permission_is_not_a_rate() {
        let left = [("x-ratelimit-remaining", "100")];
        let message = "Must have admin rights to Repository.";
        assert_eq!(verdict(403, &left, message, "", 0), Verdict::Denied(Denial::Forbidden));
        let sso = [
            ("x-github-sso", "required; url=https://github.com/orgs/o/sso"),
            ("x-ratelimit-remaining", "0"),
        ];
        assert_eq!(verdict(403, &sso, "", "", 0), Verdict::Denied(Denial::Sso));
    }

    #[test]
    fn budgets() {
        let mut headers = HeaderMap::new();
        assert_eq!(Budget::from_headers(&headers), None);
        headers.insert("x-ratelimit-limit", "1750".parse().unwrap());
        headers.insert("x-ratelimit-remaining", "1749".parse().unwrap());
        assert_eq!(Budget::from_headers(&headers), None);
        headers.insert("x-ratelimit-reset", "1800000000".parse().unwrap());
        let expected = Budget { limit: 1750, remaining: 1749, reset_s: 1_800_000_000 };
        assert_eq!(Budget::from_headers(&headers), Some(expected));
        headers.insert("x-ratelimit-remaining", "-1".parse().unwrap());
        assert_eq!(Budget::from_headers(&headers), None);
    }

    proptest! {
        /// Whatever an answer says, it makes a bounded wait or a clear word; a page only with 200.
        #[test]
        fn any_answer_is_judged(
            status in prop_oneof![100_u16..1000, Just(403), Just(429)],
            values in prop::collection::vec((0_usize..5, "[ -~]{0,30}|[0-9]{1,21}"), 0..6),
            texts in any::<[String; 2]>(), now_s in any::<i64>(), secondary_in_a_row in any::<u32>(),
        ) {
            const NAMES: [&str; 5] =
                ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-github-sso"];
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(http::HeaderName::from_static(NAMES[name]), value.parse().unwrap());
            }
            prop_assert!(Budget::from_headers(&headers).is_none_or(|budget| budget.reset_s >= 0));
            let [message, documentation_url] = &texts;
            let verdict = judge(&Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: &headers, message, documentation_url, now_s, secondary_in_a_row,
            });
            prop_assert_eq!(verdict == Verdict::Accepted, status == 200);
            if let Verdict::RateLimited { wait, .. } = verdict {
                prop_assert!((Duration::from_secs(1)..=WAIT_MAX).contains(&wait));
            }
        }

        #[test]
        fn dates_are_read_back(seconds in 0_u64..253_402_300_800, text in any::<String>()) {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            let expected = i64::try_from(seconds * 1000).ok();
            prop_assert_eq!(date_ms(&httpdate::fmt_http_date(time)), expected);
            prop_assert!(date_ms(&text).is_none_or(|ms| ms >= 0));
        }
    }
}
