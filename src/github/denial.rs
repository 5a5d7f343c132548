//! What the operator is told when GitHub refuses: what happened, with the entity's name, and the remedy.

use super::rate_limit::Denial;
use crate::audit::EntityKind;

/// Longest text of GitHub's that is passed on, in characters.
const SAID_CHARS_MAX: usize = 300;

/// Who was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A token, from this place.
    Token(String),
    /// An installation of the GitHub App with this client id or app id.
    App(String),
}

/// What the operator can do about a denial.
///
/// Scopes and permissions: docs.github.com, "REST API endpoints for enterprise audit logs" and "Permissions required for
/// fine-grained personal access tokens".
pub fn remedy(denial: Denial, kind: EntityKind, holder: &Holder, api_version: &str) -> String {
    let what_it_needs = match holder {
        Holder::Token(_) => permission(kind).to_owned(),
        Holder::App(app) => format!(
            "give App {app} the {} in its settings, and have an owner accept that in the installation's",
            app_permission(kind)
        ),
    };
    match (denial, holder) {
        (Denial::Unauthorized, Holder::Token(place)) => {
            // systemd hands a copy to the process: the original is another file
            let renew = if place.starts_with("systemd credential") {
                "write a valid one to the file that LoadCredential= names, and restart the unit"
            } else if place.starts_with("environment variable") {
                "set a valid one, and restart"
            } else {
                "write a valid one there, it is read again by itself"
            };
            format!("the token from {place} is wrong, expired or revoked; {renew}")
        }
        (Denial::Unauthorized, Holder::App(app)) => format!(
            "GitHub refuses a token that it has just made for App {app}; see in the settings of the {} that the App is \
             installed and not suspended",
            kind_word(kind)
        ),
        (Denial::Forbidden, _) => what_it_needs,
        (Denial::Sso, Holder::Token(place)) => format!(
            "authorize the token from {place} for single sign-on of this organization (GitHub: Settings, Developer \
             settings, the token, Configure SSO)"
        ),
        (Denial::Sso, Holder::App(app)) => format!(
            "see in the settings of the {} that its single sign-on lets App {app} in",
            kind_word(kind)
        ),
        (Denial::NotFound, _) => format!(
            "check `slug`, `kind` and the server's `base_url` (GHES: https://HOST/api/v3/); GitHub says 404 also where the \
             permission is missing: {what_it_needs}"
        ),
        (Denial::Gone, _) => format!(
            "this server no longer speaks API version {api_version}; set the server's `api_version` to one that it does"
        ),
    }
}

/// `enterprise` or `organization`.
pub fn kind_word(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Enterprise => "enterprise",
        EntityKind::Organization => "organization",
    }
}

fn app_permission(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Enterprise => "enterprise permission \"Enterprise administration\" read",
        EntityKind::Organization => "organization permission \"Administration\" read",
    }
}

fn permission(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Enterprise => {
            "the token's user must own the enterprise, and the token be a classic one with scope read:audit_log (older GHES: \
             admin:enterprise) or a GitHub App's with enterprise permission \"Enterprise administration\" read; fine-grained \
             tokens cannot read an enterprise's audit log"
        }
        EntityKind::Organization => {
            "the token's user must own the organization, and the token be a classic one with scope read:audit_log, or a \
             fine-grained or GitHub App's one with organization permission \"Administration\" read"
        }
    }
}

/// The server's `message` and `documentation_url`, without a secret that it echoes; empty where the body is not JSON that
/// has them.
pub fn said(body: &[u8], secret: &str) -> (String, String) {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| {
        let text = value.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        // the secret before the length: half of it at the cut would not be recognised any more
        let plain: String = text.chars().filter(|symbol| !symbol.is_control()).collect();
        printable(&without_secret(&plain, secret))
    };
    (text("message"), text("documentation_url"))
}

/// Text from outside, fit for a log line: without control characters, shortened.
pub fn printable(text: &str) -> String {
    text.chars().filter(|symbol| !symbol.is_control()).take(SAID_CHARS_MAX).collect()
}

/// `text` without a secret that somebody echoed into it.
pub fn without_secret(text: &str, secret: &str) -> String {
    if secret.is_empty() { text.to_owned() } else { text.replace(secret, "[secret]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_remedy_names_what_to_change() {
        for kind in [EntityKind::Enterprise, EntityKind::Organization] {
            for (denial, part) in [
                (Denial::Unauthorized, "/run/token"),
                (Denial::Forbidden, "read:audit_log"),
                (Denial::Sso, "Configure SSO"),
                (Denial::NotFound, "`slug`"),
                (Denial::Gone, "2022-11-28"),
            ] {
                let token = Holder::Token("/run/token".into());
                let text = remedy(denial, kind, &token, "2022-11-28");
                assert!(text.contains(part), "{text}");
                let text = remedy(denial, kind, &Holder::App("Iv1".into()), "2022-11-28");
                assert!(text.contains("Iv1") || denial == Denial::Gone, "{text}");
                assert!(!text.contains("token's user"), "{text}");
            }
        }
    }

    #[test]
    fn what_a_server_says_is_made_printable_and_short() {
        let body = format!(r#"{{"message":"a\u0007\n\u001b[31m{}"}}"#, "b".repeat(1000));
        let (message, url) = said(body.as_bytes(), "tok");
        assert!(message.starts_with("a[31mbbb") && message.len() == SAID_CHARS_MAX, "{message}");
        assert_eq!(url, "");
        assert_eq!(said(b"<html>", "tok"), Default::default());
        assert_eq!(said(br#"{"message":7}"#, "tok"), Default::default());
        assert_eq!(without_secret("a tok b tok", "tok"), "a [secret] b [secret]");
    }

    #[test]
    fn a_token_is_renewed_where_it_comes_from() {
        let told = |place: &str| {
            let token = Holder::Token(place.into());
            remedy(Denial::Unauthorized, EntityKind::Enterprise, &token, "v")
        };
        assert!(told("/etc/token").ends_with("it is read again by itself"));
        assert!(told("systemd credential t").ends_with("restart the unit"));
        assert!(told("environment variable T").ends_with("and restart"));
    }

    /// Found by the fuzz target `answer_message`.
    #[test]
    fn no_part_of_an_echoed_secret_is_left_at_the_cut() {
        let secret = "ghp_0123456789";
        for before in SAID_CHARS_MAX - secret.len()..=SAID_CHARS_MAX {
            for echoed in [secret, r"ghp_\u000001234\n56789"] {
                let body = format!(r#"{{"message":"{}{echoed}"}}"#, "b".repeat(before));
                let (message, _) = said(body.as_bytes(), secret);
                assert!(!message.contains("gh"), "{message}");
            }
        }
    }
}
