//! Tokens of a GitHub App: made when they are needed, renewed early, one renewal at a time.
//!
//! A token lives as long as its `expires_at` says (an hour), by the server's clock. Here its life is counted from the `Date` of
//! the answer that brought it, so that this host's clock does not matter.

use super::auth::{Reader, SecretError};
use super::installation::{App, Made, NotMade};
use super::jwt::AppKey;
use super::rate_limit::Denial;
use super::wire::Wire;
use super::{AppSettings, EntitySettings, SecretText, SourceError};
use crate::time::mono_ms;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// How long before its end a token is renewed, milliseconds.
const RENEW_BEFORE_MS: i64 = 5 * 60_000;
/// After an early renewal that failed, the old token serves for so long before the next try, milliseconds.
const RENEW_PAUSE_MS: i64 = 30_000;
/// Longest life of a token that is believed, milliseconds: GitHub's is an hour.
const LIFE_MS_MAX: i64 = 24 * 3_600_000;

/// The tokens of one App for one entity.
pub(super) struct AppTokens {
    app: App,
    key: Reader<AppKey>,
    /// Set by the operator.
    installation: Option<u64>,
    state: Mutex<State>,
    /// Held by the one who renews: the others wait for what comes of it.
    renewing: tokio::sync::Mutex<()>,
}

/// What is known at the moment.
#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Found by itself.
    installation: Option<u64>,
    /// No early renewal before this, monotonic milliseconds.
    pause_until: i64,
}

/// A token and its end.
struct Held {
    token: Arc<SecretText>,
    /// Its whole life, milliseconds.
    life_ms: i64,
    /// Its end on the monotonic clock.
    until_mono_ms: i64,
    /// Its end on the server's clock, epoch milliseconds.
    until_server_ms: i64,
    /// The newest that the server's clock showed.
    server_now_ms: i64,
}

/// What a token is still good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Use it.
    Good,
    /// Use it, and renew it.
    Due,
    /// It has expired.
    Over,
}

impl Held {
    /// A token that was made at `now_mono_ms`.
    fn new(made: Made, now_mono_ms: i64) -> Self {
        let life_ms = made.until_ms.saturating_sub(made.server_now_ms).min(LIFE_MS_MAX);
        Self {
            token: Arc::new(made.token),
            life_ms,
            until_mono_ms: now_mono_ms.saturating_add(life_ms),
            until_server_ms: made.until_ms,
            server_now_ms: made.server_now_ms,
        }
    }

    /// Both clocks count: a host that slept has a monotonic clock that is late, and an idle one no newer `Date`.
    fn standing(&self, now_mono_ms: i64) -> Standing {
        let left_mono = self.until_mono_ms.saturating_sub(now_mono_ms);
        let left = left_mono.min(self.until_server_ms.saturating_sub(self.server_now_ms));
        // a life that is shorter than GitHub's is used for the most part all the same
        let early = RENEW_BEFORE_MS.min(self.life_ms / 4);
        match left {
            ..=0 => Standing::Over,
            _ if left <= early => Standing::Due,
            _ => Standing::Good,
        }
    }
}

impl AppTokens {
    /// Nothing is read or asked for yet.
    pub(super) fn new(settings: &AppSettings, whose: &str, entity: &EntitySettings) -> Self {
        let key = Reader::new(settings.key.clone());
        Self {
            app: App::new(&settings.app, whose, entity, &key.place()),
            key,
            installation: settings.installation,
            state: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        }
    }

    /// Client id or app id.
    pub(super) fn app(&self) -> &str {
        &self.app.id
    }

    /// Another value with another key.
    pub(super) fn generation(&self) -> u64 {
        self.key.secret().map_or(0, |key| xxh3_64(key.public_der()))
    }

    /// What the newest answer's `Date` says.
    pub(super) fn server_says_now(&self, date_ms: i64) {
        if let Some(held) = &mut self.state().held {
            held.server_now_ms = date_ms;
        }
    }

    /// Drops the token: the next one is made anew, with the permissions that the App has then.
    pub(super) fn forget(&self) {
        self.state().held = None;
    }

    /// A token that holds. One that ends soon is renewed; where that fails, it serves to its end.
    pub(super) async fn token(&self, wire: &Wire) -> Result<Arc<SecretText>, SourceError> {
        match self.known() {
            Some((token, Standing::Good)) => Ok(token),
            Some((token, Standing::Due)) => {
                // somebody renews it already, or it failed a moment ago
                let Ok(_guard) = self.renewing.try_lock() else { return Ok(token) };
                if mono_ms() < self.state().pause_until {
                    return Ok(token);
                }
                match self.make(wire).await {
                    Ok(fresh) => Ok(fresh),
                    Err(error) => {
                        tracing::warn!(
                            credential = %self.app.whose, %error,
                            "a token that ends soon could not be renewed: it serves to its end"
                        );
                        self.state().pause_until = mono_ms().saturating_add(RENEW_PAUSE_MS);
                        Ok(token)
                    }
                }
            }
            Some((_, Standing::Over)) | None => {
                let _guard = self.renewing.lock().await;
                match self.known() {
                    Some((token, Standing::Good | Standing::Due)) => Ok(token),
                    _ => self.make(wire).await,
                }
            }
        }
    }

    /// A token other than `refused`, which was answered with 401.
    pub(super) async fn renewed(
        &self,
        wire: &Wire,
        refused: &SecretText,
    ) -> Result<Arc<SecretText>, SourceError> {
        let _guard = self.renewing.lock().await;
        match self.known() {
            Some((token, Standing::Good | Standing::Due)) if *token != *refused => Ok(token),
            _ => {
                self.forget();
                self.make(wire).await
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> Option<(Arc<SecretText>, Standing)> {
        let state = self.state();
        state.held.as_ref().map(|held| (Arc::clone(&held.token), held.standing(mono_ms())))
    }

    /// Has a token made. To be called by the one who holds `renewing`.
    async fn make(&self, wire: &Wire) -> Result<Arc<SecretText>, SourceError> {
        let key = self.key.secret().map_err(|error| self.no_key(&error))?;
        let remembered = self.installation.or(self.state().installation);
        let installation = match remembered {
            Some(id) => id,
            None => self.find(wire, &key).await?,
        };
        let made = match self.app.make(wire, &key, installation).await {
            Err(NotMade::Gone(_)) if remembered.is_some() && self.installation.is_none() => {
                // installed anew since it was found: under another number
                let installation = self.find(wire, &key).await?;
                self.app.make(wire, &key, installation).await
            }
            made => made,
        };
        let held = Held::new(made.map_err(SourceError::from)?, mono_ms());
        let token = Arc::clone(&held.token);
        let mut state = self.state();
        state.pause_until = 0;
        state.held = Some(held);
        Ok(token)
    }

    async fn find(&self, wire: &Wire, key: &AppKey) -> Result<u64, SourceError> {
        self.state().installation = None;
        let id = self.app.find(wire, key).await?;
        self.state().installation = Some(id);
        Ok(id)
    }

    fn no_key(&self, error: &SecretError) -> SourceError {
        SourceError::Denied {
            reason: Denial::Unauthorized.label(),
            message: format!("{} has no private key", self.app.whose),
            remedy: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(life_ms: i64) -> Held {
        let token = SecretText::new("ghs_x".into());
        let made = Made { token, until_ms: 5_000_000 + life_ms, server_now_ms: 5_000_000 };
        Held::new(made, 1_000)
    }

    #[test]
    fn a_token_is_renewed_five_minutes_before_its_end_on_either_clock() {
        let hour = 3_600_000;
        let at = |after_ms| held(hour).standing(1_000 + after_ms);
        assert_eq!(at(0), Standing::Good);
        assert_eq!(at(hour - 300_001), Standing::Good);
        assert_eq!(at(hour - 300_000), Standing::Due);
        assert_eq!(at(hour - 1), Standing::Due);
        assert_eq!(at(hour), Standing::Over);
        // a host that slept: its monotonic clock stood still
        let slept =
            |after_ms| Held { server_now_ms: 5_000_000 + after_ms, ..held(hour) }.standing(1_000);
        assert_eq!(slept(hour - 300_001), Standing::Good);
        assert_eq!(slept(hour - 300_000), Standing::Due);
        assert_eq!(slept(hour), Standing::Over);
    }

    #[test]
    fn odd_lives_are_neither_believed_nor_fatal() {
        assert_eq!(held(60_000).standing(1_000 + 44_999), Standing::Good, "a short one is used");
        assert_eq!(held(60_000).standing(1_000 + 45_000), Standing::Due);
        assert_eq!(held(-5).standing(1_000), Standing::Over);
        assert_eq!(held(i64::MAX - 5_000_000).standing(1_000 + LIFE_MS_MAX), Standing::Over);
    }
}
