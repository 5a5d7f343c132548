//! Which token a credential has for a request: one that is read, or one that GitHub makes for an App.

use super::app::AppTokens;
use super::auth::TokenReader;
use super::denial::Holder;
use super::rate_limit::Denial;
use super::wire::Wire;
use super::{Access, CredentialId, CredentialSettings, EntitySettings, SecretText, SourceError};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The tokens of one credential for one entity.
pub(super) struct Tokens {
    /// How a message names credential and entity.
    whose: String,
    kind: Kind,
}

enum Kind {
    Read(TokenReader),
    App(Box<AppTokens>),
}

impl Tokens {
    /// Nothing is read or asked for yet.
    pub(super) fn new(settings: &CredentialSettings, entity: &EntitySettings) -> Self {
        let whose = if settings.id == CredentialId::of_entity(&entity.name) {
            format!("entity {}", entity.name)
        } else {
            format!("entity {}: credential {}", entity.name, settings.id)
        };
        let kind = match &settings.access {
            Access::Token(source) => Kind::Read(TokenReader::new(source.clone())),
            Access::App(app) => Kind::App(Box::new(AppTokens::new(app, &whose, entity))),
        };
        Self { whose, kind }
    }

    /// The token for the next request.
    pub(super) async fn token(&self, wire: &Wire) -> Result<Arc<SecretText>, SourceError> {
        match &self.kind {
            Kind::Read(reader) => reader.secret().map_err(|error| self.none(&error)),
            Kind::App(app) => app.token(wire).await,
        }
    }

    /// The token after `refused` was answered with 401; the same one where there is no other.
    pub(super) async fn renewed(
        &self,
        wire: &Wire,
        refused: &SecretText,
    ) -> Result<Arc<SecretText>, SourceError> {
        match &self.kind {
            Kind::Read(reader) => reader.reread().map_err(|error| self.none(&error)),
            Kind::App(app) => app.renewed(wire, refused).await,
        }
    }

    /// A page was denied. The token of an App has the permissions that the App had when it was made.
    pub(super) fn denied(&self) {
        if let Kind::App(app) = &self.kind {
            app.forget();
        }
    }

    /// What the newest answer's `Date` says, epoch milliseconds.
    pub(super) fn server_says_now(&self, date_ms: i64) {
        if let Kind::App(app) = &self.kind {
            app.server_says_now(date_ms);
        }
    }

    /// Who is refused, for the remedy.
    pub(super) fn holder(&self) -> Holder {
        match &self.kind {
            Kind::Read(reader) => Holder::Token(reader.place()),
            Kind::App(app) => Holder::App(app.app().to_owned()),
        }
    }

    /// Another value each time the operator changes something. A token that is merely renewed changes nothing.
    pub(super) fn generation(&self) -> u64 {
        match &self.kind {
            Kind::Read(reader) => {
                reader.secret().map_or(0, |token| xxh3_64(token.expose().as_bytes()))
            }
            Kind::App(app) => app.generation(),
        }
    }

    fn none(&self, error: &super::auth::SecretError) -> SourceError {
        SourceError::Denied {
            reason: Denial::Unauthorized.label(),
            message: format!("{} has no token", self.whose),
            remedy: error.to_string(),
        }
    }
}
