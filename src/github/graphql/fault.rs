//! What the `errors` of an answer mean. GitHub sends them with status 200, a rate limit too.
//!
//! Types and messages: docs.github.com, "Rate limits and query limits for the GraphQL API"; public issues quote
//! `RATE_LIMITED` (2018) and `RATE_LIMIT` (2026), both beside headers that still show requests left.

use crate::github::denial::printable;
use crate::github::rate_limit::{self, Denial, SECONDARY_WAIT_MIN};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// One element of `errors`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// `type`, for example `RATE_LIMITED`; empty where there is none.
    pub kind: String,
    /// `extensions.code`: names what the schema does not allow.
    pub code: String,
    /// `message`, printable and shortened.
    pub message: String,
    /// `extensions.saml_failure`.
    pub saml: bool,
}

/// The elements of `errors`. Something else than a list counts as one of which nothing is known; `null` as none.
pub fn read(errors: &[u8]) -> Vec<Fault> {
    match serde_json::from_slice(errors) {
        Ok(Value::Null) => Vec::new(),
        Ok(Value::Array(errors)) => errors.iter().map(one).collect(),
        Ok(other) => vec![one(&other)],
        Err(_) => vec![Fault::default()],
    }
}

fn one(error: &Value) -> Fault {
    let text = |value: Option<&Value>| printable(value.and_then(Value::as_str).unwrap_or_default());
    let extension = |name: &str| error.get("extensions").and_then(|it| it.get(name));
    Fault {
        kind: text(error.get("type")),
        code: text(extension("code")),
        message: text(error.get("message")),
        saml: extension("saml_failure").and_then(Value::as_bool).unwrap_or(false),
    }
}

/// What they mean together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Wait.
    RateLimited {
        /// `primary`, `secondary` or `retry_after`.
        reason: &'static str,
        /// How long.
        wait: Duration,
    },
    /// The operator has to do something.
    Denied(Denial),
    /// The server's schema has no such audit log.
    NotOffered,
    /// This cursor or argument is not taken.
    Refused,
    /// Try again.
    Failed,
}

/// Decides. `secondary_in_a_row`: secondary limits before this answer.
pub fn judge(
    faults: &[Fault],
    headers: &HeaderMap,
    now_s: i64,
    secondary_in_a_row: u32,
) -> Meaning {
    if let Some(fault) = faults.iter().find(|fault| is_rate(fault)) {
        return rate(fault, headers, now_s, secondary_in_a_row);
    }
    if faults.iter().any(is_of_schema) {
        return Meaning::NotOffered;
    }
    faults.iter().find_map(denial).unwrap_or_else(|| {
        if faults.iter().any(|fault| fault.kind == "INVALID_CURSOR_ARGUMENTS") {
            Meaning::Refused
        } else {
            Meaning::Failed
        }
    })
}

fn is_rate(fault: &Fault) -> bool {
    let message = fault.message.to_ascii_lowercase();
    fault.kind.starts_with("RATE_LIMIT")
        || message.contains("rate limit")
        || message.contains("abuse detection")
}

/// As REST means it with a 403: headers first.
fn rate(fault: &Fault, headers: &HeaderMap, now_s: i64, secondary_in_a_row: u32) -> Meaning {
    let verdict = rate_limit::judge(&rate_limit::Answer {
        status: StatusCode::FORBIDDEN,
        headers,
        message: &fault.message,
        documentation_url: "",
        now_s,
        secondary_in_a_row,
    });
    match verdict {
        rate_limit::Verdict::RateLimited { reason, wait } => Meaning::RateLimited { reason, wait },
        _ => Meaning::RateLimited { reason: "primary", wait: SECONDARY_WAIT_MIN },
    }
}

/// Faults found before anything is executed: a field, type or argument that this server's schema does not have.
fn is_of_schema(fault: &Fault) -> bool {
    const CODES: [&str; 8] = [
        "undefinedField",
        "undefinedType",
        "argumentNotAccepted",
        "argumentLiteralsIncompatible",
        "cannotSpreadFragment",
        "fragmentOnNonCompositeType",
        "variableMismatch",
        "variableRequiresValidType",
    ];
    CODES.contains(&fault.code.as_str())
}

fn denial(fault: &Fault) -> Option<Meaning> {
    Some(Meaning::Denied(match fault.kind.as_str() {
        "FORBIDDEN" if fault.saml => Denial::Sso,
        "FORBIDDEN" | "INSUFFICIENT_SCOPES" => Denial::Forbidden,
        "NOT_FOUND" => Denial::NotFound,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_S: i64 = 1_800_000_000;

    fn meaning(errors: &str, headers: &[(&'static str, &str)]) -> Meaning {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        judge(&read(errors.as_bytes()), &headers, NOW_S, 0)
    }

    fn limited(reason: &'static str, seconds: u64) -> Meaning {
        Meaning::RateLimited { reason, wait: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_rate_limit_with_status_200() {
        let exceeded =
            r#"[{"type":"RATE_LIMITED","message":"API rate limit exceeded for user ID 1."}]"#;
        let reset = (NOW_S + 120).to_string();
        let left = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
        assert_eq!(meaning(exceeded, &left), limited("primary", 121));
        // GitHub has been seen to show requests left
        let left = [("x-ratelimit-remaining", "4"), ("x-ratelimit-reset", reset.as_str())];
        assert_eq!(meaning(exceeded, &left), limited("primary", 121));
        let newer = r#"[{"type":"RATE_LIMIT","code":"graphql_rate_limit","message":"x"}]"#;
        assert_eq!(meaning(newer, &[]), limited("primary", 60));
        let secondary = r#"[{"message":"You have exceeded a secondary rate limit."}]"#;
        assert_eq!(meaning(secondary, &[]), limited("secondary", 60));
        assert_eq!(meaning(secondary, &[("retry-after", "7")]), limited("secondary", 7));
        // a limit hides everything else
        let both = r#"[{"type":"FORBIDDEN","message":"x"},{"type":"RATE_LIMITED","message":""}]"#;
        assert_eq!(meaning(both, &[]), limited("primary", 60));
    }

    #[test]
    fn what_the_operator_has_to_do() {
        for (errors, expected) in [
            (r#"[{"type":"NOT_FOUND","message":"Could not resolve"}]"#, Denial::NotFound),
            (
                r#"[{"type":"FORBIDDEN","message":"x","extensions":{"saml_failure":false}}]"#,
                Denial::Forbidden,
            ),
            (
                r#"[{"type":"FORBIDDEN","message":"x","extensions":{"saml_failure":true}}]"#,
                Denial::Sso,
            ),
            (
                r#"[{"message":"first"},{"type":"INSUFFICIENT_SCOPES","message":"x"}]"#,
                Denial::Forbidden,
            ),
        ] {
            assert_eq!(meaning(errors, &[]), Meaning::Denied(expected), "{errors}");
        }
    }

    #[test]
    fn a_dropped_field_a_bad_cursor_and_all_else() {
        let dropped = r#"[{"path":["query AuditLog","organization","auditLog"],"extensions":{"code":"undefinedField","typeName":"Organization","fieldName":"auditLog"},"message":"Field 'auditLog' doesn't exist on type 'Organization'"}]"#;
        assert_eq!(meaning(dropped, &[]), Meaning::NotOffered);
        let cursor = r#"[{"type":"INVALID_CURSOR_ARGUMENTS","message":"`x` does not appear to be a valid cursor."}]"#;
        assert_eq!(meaning(cursor, &[]), Meaning::Refused);
        for errors in [
            r#"[{"message":"Something went wrong while executing your query."}]"#,
            r#"[{"type":"RESOURCE_LIMITS_EXCEEDED","message":"x"}]"#,
            r#"[{"type":"SERVICE_UNAVAILABLE"}]"#,
            "[null]",
            "{",
        ] {
            assert_eq!(meaning(errors, &[]), Meaning::Failed, "{errors}");
        }
        assert_eq!(read(b"null"), []);
        assert_eq!(read(b"[]"), []);
        assert_eq!(read(b"{"), [Fault::default()]);
    }

    proptest! {
        #[test]
        fn arbitrary_errors_are_bounded(text in any::<String>(), kind in "[A-Z_]{0,12}", row in any::<u32>()) {
            let errors = serde_json::json!([{"message": text, "type": kind}]).to_string();
            let faults = read(errors.as_bytes());
            prop_assert_eq!(faults.len(), 1);
            if let Meaning::RateLimited { wait, .. } = judge(&faults, &HeaderMap::new(), NOW_S, row) {
                prop_assert!(wait >= Duration::from_secs(1) && wait <= rate_limit::WAIT_MAX);
            }
            drop(read(text.as_bytes()));
        }
    }
}
