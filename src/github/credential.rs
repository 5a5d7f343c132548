//! Credentials as the configuration names them: what a request may be made with. Never a secret that can be printed.

use super::SecretText;
use crate::audit::EntityName;
use std::path::PathBuf;
use std::sync::Arc;

/// A credential as the configuration names it: the key of its request budget. Never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    /// A credential by its name: that of `[credential.NAME]`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The token that an entity names itself: `entity/NAME`. No `[credential.NAME]` can be called so.
    pub fn of_entity(entity: &EntityName) -> Self {
        Self(format!("entity/{entity}").into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for CredentialId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One credential: from `[credential.NAME]`, or the token that an entity names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSettings {
    /// Its name.
    pub id: CredentialId,
    /// Name of the server that it is for: it is sent to no other.
    pub server: String,
    /// What it is.
    pub access: Access,
}

/// What a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// A personal access token.
    Token(SecretSource),
    /// A GitHub App: short-lived tokens of its installation on the entity.
    App(AppSettings),
}

/// A GitHub App that is installed on the entities which it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSettings {
    /// Client id (recommended by GitHub) or app id: who signs.
    pub app: String,
    /// Its private key, PEM.
    pub key: SecretSource,
    /// The installation; `None`: found by itself.
    pub installation: Option<u64>,
}

impl CredentialSettings {
    /// Where its secret comes from.
    pub fn secret(&self) -> &SecretSource {
        match &self.access {
            Access::Token(source) => source,
            Access::App(app) => &app.key,
        }
    }
}

/// Where a secret comes from: a token, or the private key of an App. Never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// A file. Of a token's, surrounding white space is cut.
    File(PathBuf),
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`, resolved when the configuration is loaded.
    Credential {
        /// Name of the credential.
        name: String,
        /// The file; `None` when the process was started without credentials.
        path: Option<PathBuf>,
    },
    /// An environment variable, read once when the configuration is loaded.
    Environment {
        /// Name of the variable.
        name: String,
        /// Its value.
        value: Option<Arc<SecretText>>,
    },
}

impl std::fmt::Display for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential { name, .. } => write!(f, "systemd credential {name}"),
            Self::Environment { name, .. } => write!(f, "variable {name}"),
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(source) => write!(f, "token from {source}"),
            Self::App(AppSettings { app, key, installation: None }) => {
                write!(f, "App {app}, key from {key}")
            }
            Self::App(AppSettings { app, key, installation: Some(id) }) => {
                write!(f, "App {app}, installation {id}, key from {key}")
            }
        }
    }
}
