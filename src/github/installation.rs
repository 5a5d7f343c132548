//! What a GitHub App asks GitHub for, as itself: its installation on an entity, and a token of that.
//!
//! Docs: docs.github.com, "Authenticating as a GitHub App installation". All of it is asked with a JWT, for which the clock
//! matters: one that is refused with 401 by a server whose `Date` is another is made again with the server's time.

use super::denial::{Holder, kind_word, remedy};
use super::jwt::AppKey;
use super::rate_limit::{Denial, Verdict};
use super::wire::{Refusal, Wire, date_of};
use super::{EntitySettings, Next, SecretText, SourceError, link};
use crate::audit::EntityKind;
use crate::time::wall_ms;
use http::header::{HeaderValue, LINK};
use http::{Method, StatusCode};
use reqwest::Response;
use serde::Deserialize;
use std::sync::atomic::{AtomicI64, Ordering};
use url::Url;

/// From so many milliseconds on another clock is worth a second JWT: a JWT allows for a minute.
const SKEW_MS_MIN: i64 = 30_000;
/// Installations of an App that are looked through, in pages of 100.
const PAGES_MAX: u64 = 100;
/// Largest page of installations, and largest answer with a token, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// An App as far as one entity is concerned.
pub(super) struct App {
    /// Client id or app id.
    pub(super) id: String,
    /// How a message names entity and credential.
    pub(super) whose: String,
    /// Where its key is, for messages.
    key_place: String,
    kind: EntityKind,
    slug: String,
    /// The server's clock minus this host's, milliseconds; 0 until a JWT was refused for it.
    skew_ms: AtomicI64,
}

/// A token that was made.
pub(super) struct Made {
    /// The token.
    pub(super) token: SecretText,
    /// Its end, epoch milliseconds by the server's clock.
    pub(super) until_ms: i64,
    /// When it was made, by the same clock.
    pub(super) server_now_ms: i64,
}

/// Why no token was made.
pub(super) enum NotMade {
    /// There is no such installation.
    Gone(SourceError),
    /// Anything else.
    Other(SourceError),
}

impl From<NotMade> for SourceError {
    fn from(not_made: NotMade) -> Self {
        match not_made {
            NotMade::Gone(error) | NotMade::Other(error) => error,
        }
    }
}

/// An installation, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Installation {
    id: u64,
    #[serde(default)]
    target_type: Option<String>,
    #[serde(default)]
    account: Option<Account>,
    #[serde(default)]
    suspended_at: Option<String>,
}

/// Whose installation: an enterprise has a slug, an organization a login.
#[derive(Debug, Deserialize)]
struct Account {
    #[serde(default)]
    login: Option<String>,
    #[serde(default)]
    slug: Option<String>,
}

impl Installation {
    fn is_on(&self, kind: EntityKind, slug: &str) -> bool {
        let is = |name: &Option<String>| {
            name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(slug))
        };
        let type_is = |word: &str| self.target_type.as_deref() == Some(word);
        let Some(account) = &self.account else { return false };
        match kind {
            EntityKind::Enterprise => type_is("Enterprise") && is(&account.slug),
            EntityKind::Organization => type_is("Organization") && is(&account.login),
        }
    }
}

/// GitHub's answer with a token.
#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
    /// ISO 8601.
    expires_at: String,
}

/// What an answer to the App is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Which installations there are.
    Finding,
    /// A token of this installation.
    Making(u64),
}

/// Why a request of the App failed.
enum Failed {
    /// 404: the thing is not there, or the App is not known.
    NotFound(String),
    /// For the caller.
    Source(SourceError),
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl App {
    /// Nothing is asked for yet.
    pub(super) fn new(id: &str, whose: &str, entity: &EntitySettings, key_place: &str) -> Self {
        Self {
            id: id.to_owned(),
            whose: whose.to_owned(),
            key_place: key_place.to_owned(),
            kind: entity.kind,
            slug: entity.slug.clone(),
            skew_ms: AtomicI64::new(0),
        }
    }

    /// Has a token of this installation made.
    pub(super) async fn make(
        &self,
        wire: &Wire,
        key: &AppKey,
        installation: u64,
    ) -> Result<Made, NotMade> {
        let about = About::Making(installation);
        self.token_of(wire, key, installation).await.map_err(|failed| match failed {
            Failed::NotFound(_) => NotMade::Gone(self.error(failed, about)),
            Failed::Source(error) => NotMade::Other(error),
        })
    }

    async fn token_of(&self, wire: &Wire, key: &AppKey, installation: u64) -> Result<Made, Failed> {
        let url = wire.url(["app", "installations", &installation.to_string(), "access_tokens"]);
        let about = About::Making(installation);
        let (mut response, jwt) = self.ask(wire, &Method::POST, &url, key, about).await?;
        let server_now_ms = date_of(&response).unwrap_or_else(wall_ms);
        let body = wire.body(&mut response, BODY_BYTES_MAX, 1024, &jwt).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| wire.transport("not_json_array", "sends no token where one was made"))?;
        let until: jiff::Timestamp = answer
            .expires_at
            .parse()
            .map_err(|_| wire.transport("not_json_array", "sends a token without its end"))?;
        let token = SecretText::new(answer.token);
        if token.expose().is_empty() || !token.expose().bytes().all(|it| it.is_ascii_graphic()) {
            return Err(wire.transport("not_json_array", "sends a token that is none").into());
        }
        tracing::debug!(credential = %self.whose, installation, "a token was made");
        Ok(Made { token, until_ms: until.as_millisecond(), server_now_ms })
    }

    /// Finds the installation on the entity. Enterprises have an endpoint for it since May 2026; older servers are asked for
    /// all installations.
    pub(super) async fn find(&self, wire: &Wire, key: &AppKey) -> Result<u64, SourceError> {
        let found = self.find_directly(wire, key).await;
        let found = match (found, self.kind) {
            (Err(Failed::NotFound(_)), EntityKind::Enterprise) => {
                self.find_in_list(wire, key).await
            }
            (found, _) => found,
        };
        let found = found.map_err(|failed| self.error(failed, About::Finding))?;
        if found.suspended_at.is_some() {
            return Err(self.suspended(wire, found.id));
        }
        tracing::debug!(credential = %self.whose, installation = found.id, "found the App's installation");
        Ok(found.id)
    }

    async fn find_directly(&self, wire: &Wire, key: &AppKey) -> Result<Installation, Failed> {
        let url = wire.url([self.kind.path_segment(), &self.slug, "installation"]);
        let (mut response, jwt) = self.ask(wire, &Method::GET, &url, key, About::Finding).await?;
        let body = wire.body(&mut response, BODY_BYTES_MAX, 4096, &jwt).await?;
        Ok(serde_json::from_slice(&body)
            .map_err(|_| wire.transport("not_json_array", "sends no installation"))?)
    }

    async fn find_in_list(&self, wire: &Wire, key: &AppKey) -> Result<Installation, Failed> {
        let mut page = 1;
        loop {
            let mut url = wire.url(["app", "installations"]);
            url.set_query(Some(&format!("per_page=100&page={page}")));
            let (mut response, jwt) =
                self.ask(wire, &Method::GET, &url, key, About::Finding).await?;
            let next = next_page(wire, &response, &url)?;
            let body = wire.body(&mut response, BODY_BYTES_MAX, 64 << 10, &jwt).await?;
            let all: Vec<Installation> = serde_json::from_slice(&body)
                .map_err(|_| wire.transport("not_json_array", "sends no list of installations"))?;
            if let Some(found) = all.into_iter().find(|it| it.is_on(self.kind, &self.slug)) {
                return Ok(found);
            }
            match next {
                Some(next) if next > page && next <= PAGES_MAX => page = next,
                _ => return Err(Failed::NotFound(String::new())),
            }
        }
    }

    /// One request as the App, and the JWT that it was made with. Asked twice where the clocks differ.
    async fn ask(
        &self,
        wire: &Wire,
        method: &Method,
        url: &Url,
        key: &AppKey,
        about: About,
    ) -> Result<(Response, SecretText), Failed> {
        let mut again = true;
        loop {
            let now_ms = wall_ms().saturating_add(self.skew_ms.load(Ordering::Relaxed));
            let jwt = key.jwt(&self.id, now_ms / 1000).ok_or_else(|| {
                wire.transport("connection", "cannot be asked: the App's key makes no signature")
            })?;
            let response = wire.follow(method, url, &jwt).await?;
            if response.status().is_success() {
                return Ok((response, jwt));
            }
            let skew = date_of(&response).map_or(0, |date_ms| date_ms.saturating_sub(now_ms));
            if again && response.status() == StatusCode::UNAUTHORIZED && skew.abs() > SKEW_MS_MIN {
                again = false;
                self.adopt(skew);
                continue;
            }
            let refusal = wire.refusal(response, &jwt, 0).await;
            return Err(self.refused(wire, refusal, about));
        }
    }

    /// Takes the server's time for JWTs from now on.
    fn adopt(&self, skew_ms: i64) {
        let before = self.skew_ms.fetch_add(skew_ms, Ordering::Relaxed);
        let seconds = before.saturating_add(skew_ms) / 1000;
        tracing::warn!(
            credential = %self.whose, seconds,
            "the server's clock is so far ahead of this host's: its time is used to sign; set this host's clock by NTP"
        );
    }

    /// What a refusal of the App means.
    fn refused(&self, wire: &Wire, refusal: Refusal, about: About) -> Failed {
        let Refusal { status, message, verdict } = refusal;
        let denial = match verdict {
            Verdict::RateLimited { reason, wait } => {
                // another budget than that of the audit log: none is told
                return SourceError::RateLimited { reason, wait, budget: None }.into();
            }
            Verdict::Denied(Denial::NotFound) => return Failed::NotFound(message),
            Verdict::Denied(denial) => denial,
            Verdict::Refused => Denial::Forbidden,
            Verdict::Accepted => {
                return wire.transport("not_json_array", format!("answers {status}")).into();
            }
            Verdict::Transport(reason) => {
                let what = format!("answers {status} {message}");
                return wire.transport(reason, what.trim_end()).into();
            }
        };
        if let (Denial::Forbidden, About::Making(id)) = (denial, about)
            && message.contains("suspended")
        {
            return self.suspended(wire, id).into();
        }
        let app = &self.id;
        let remedy = match denial {
            Denial::Unauthorized => format!(
                "see that {app} is the client id or app id of the App whose private key is in {}, that the key still stands in \
                 the App's settings, and that this host's clock is right (GHES before 3.14 knows app ids only)",
                self.key_place
            ),
            _ => remedy(denial, self.kind, &Holder::App(app.clone()), &wire.server.api_version),
        };
        let said = if message.is_empty() {
            status.canonical_reason().unwrap_or_default()
        } else {
            &message
        };
        let message = format!(
            "{}: {} answers {} ({said}) to App {app}",
            self.whose,
            link::origin_text(&wire.server.base_url),
            status.as_u16(),
        );
        SourceError::Denied { reason: denial.label(), message, remedy }.into()
    }

    fn error(&self, failed: Failed, about: About) -> SourceError {
        let said = match failed {
            Failed::Source(error) => return error,
            Failed::NotFound(said) => said,
        };
        let (app, entity) = (&self.id, format!("{} {}", kind_word(self.kind), self.slug));
        // GitHub's word for an App
        let unknown = said.contains("Integration");
        let (message, remedy) = match about {
            _ if unknown => (
                format!("this server has no App {app}"),
                "write the client id or app id that stands in the App's settings at this server into `app`".to_owned(),
            ),
            About::Finding => (
                format!("App {app} is not installed on {entity}"),
                "have an owner install it there, or see that `slug` and `kind` are right; where the server does not tell, \
                     write the number of the installation into `installation`"
                    .to_owned(),
            ),
            About::Making(id) => (
                format!("App {app} has no installation {id}"),
                format!("take `installation` out to have the one on {entity} found, or write its number"),
            ),
        };
        let message = format!("{}: {message}", self.whose);
        SourceError::Denied { reason: Denial::NotFound.label(), message, remedy }
    }

    fn suspended(&self, wire: &Wire, installation: u64) -> SourceError {
        SourceError::Denied {
            reason: Denial::Forbidden.label(),
            message: format!(
                "{}: installation {installation} of App {} is suspended at {}",
                self.whose,
                self.id,
                link::origin_text(&wire.server.base_url),
            ),
            remedy: format!(
                "have an owner of {} {} unsuspend it (Settings, GitHub Apps, Configure)",
                kind_word(self.kind),
                self.slug
            ),
        }
    }
}

/// The number of the next page of a list.
fn next_page(wire: &Wire, response: &Response, url: &Url) -> Result<Option<u64>, Failed> {
    let values = response.headers().get_all(LINK).iter().map(HeaderValue::as_bytes);
    match link::next(values, url) {
        Ok(Some(Next::Page(next))) => Ok(Some(next)),
        Ok(_) => Ok(None),
        Err(error) => {
            Err(wire.transport("bad_link", super::denial::printable(&error.to_string())).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_known_by_kind_and_name() {
        let list = br#"[
            {"id": 1, "target_type": "User", "account": {"login": "acme"}},
            {"id": 2, "target_type": "Organization", "account": {"login": "Acme", "type": "Organization"}},
            {"id": 3, "target_type": "Enterprise", "account": {"slug": "acme", "name": "Acme Inc"},
             "suspended_at": "2026-01-01T00:00:00Z"},
            {"id": 4, "account": null}
        ]"#;
        let all: Vec<Installation> = serde_json::from_slice(list).unwrap();
        let found = |kind| -> Vec<u64> {
            all.iter().filter(|it| it.is_on(kind, "ACME")).map(|it| it.id).collect()
        };
        assert_eq!(found(EntityKind::Organization), [2]);
        assert_eq!(found(EntityKind::Enterprise), [3]);
        assert!(all[2].suspended_at.is_some() && all[1].suspended_at.is_none());
    }
}
