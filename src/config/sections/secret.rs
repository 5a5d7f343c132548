//! Where tokens and private keys are: never in the configuration itself.

use super::super::reader::Table;
use super::{Surroundings, is_file, read_small_file, world_readable};
use crate::github::auth::{Reader, SecretError};
use crate::github::jwt::AppKey;
use crate::github::{SecretSource, SecretText};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a token begins that stands where a path or a name belongs.
const TOKEN_PREFIXES: [&str; 5] = ["ghp_", "gho_", "ghs_", "ghu_", "github_pat_"];

/// The keys that say where a token is.
pub(super) const TOKEN_KEYS: [&str; 3] = ["token_file", "token_credential", "token_env"];

/// What to do about a token that stands in the configuration.
pub(super) const TOKEN_REMEDY: &str = "put the token into a file that only the service can read and name that file; \
                            have GitHub revoke this one";

pub(super) fn looks_like_a_token(text: &str) -> bool {
    TOKEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// A token's place, of which there is exactly one; `other` is a key that may stand in their place, and how it is written.
pub(super) fn token(
    table: &mut Table<'_>,
    (other, written): (&'static str, &str),
    around: &Surroundings<'_>,
) -> Option<SecretSource> {
    table.refuse(
        "token",
        "a token stands in the configuration",
        "put it into a file that only the service can read and write token_file = \"/path\"; \
         have GitHub revoke this one",
    );
    let inline = table.has("token");
    let keys = TOKEN_KEYS.into_iter().chain([other]);
    let present: Vec<_> = keys.filter(|key| table.has(key)).collect();
    if present.len() > 1 {
        table.fault(
            "token_file",
            format!("{} exclude each other", present.join(", ")),
            "keep one of them",
        );
    } else if present.is_empty() && !inline {
        table.missing(
            "token_file",
            format!(
                "write token_file = \"/path\", token_credential = \"NAME\" (systemd) or token_env = \"NAME\", or {written}"
            ),
        );
    }
    let file = token_text(table, "token_file").and_then(|_| from_file(table));
    let credential = token_text(table, "token_credential").and_then(|name| {
        from_credential(table, "token_credential", name, around, check_token_file)
    });
    let variable =
        token_text(table, "token_env").and_then(|name| from_variable(table, name, around));
    file.or(credential).or(variable)
}

/// The text of a key about a token, unless it is itself a token.
fn token_text(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let text = table.text(key)?;
    if looks_like_a_token(&text) {
        table.fault(key, "is a token itself, not the place where one is", TOKEN_REMEDY);
        return None;
    }
    Some(text)
}

fn from_file(table: &mut Table<'_>) -> Option<SecretSource> {
    let path = table.path("token_file")?;
    check_token_file(table, "token_file", &path).then_some(SecretSource::File(path))
}

/// Whether a file holds something that can be a token. The daemon reads it again whenever it changes.
fn check_token_file(table: &Table<'_>, key: &str, path: &Path) -> bool {
    let text = match read_small_file(path) {
        Ok(text) => text,
        Err(problem) => {
            table.fault(
                key,
                problem,
                "check the path, and that the service's user may read the file",
            );
            return false;
        }
    };
    if !check_token(table, key, &text, &format!("{}", path.display())) {
        return false;
    }
    warn_when_world_readable(table, key, path);
    true
}

fn warn_when_world_readable(table: &Table<'_>, key: &str, path: &Path) {
    if world_readable(path) == Some(true) {
        table.report.warning(
            table.path_of(key),
            format!("{} can be read by everybody on this host", path.display()),
            format!("chmod o-r {}", path.display()),
        );
    }
}

fn check_token(table: &Table<'_>, key: &str, text: &str, place: &str) -> bool {
    let token = text.trim();
    if token.is_empty() {
        table.fault(key, format!("{place} holds no token"), "write the token into it");
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        table.fault(
            key,
            format!(
                "{place} holds more than a token (spaces, several lines or strange characters)"
            ),
            "write the token alone into it",
        );
    } else {
        return true;
    }
    false
}

fn from_credential(
    table: &Table<'_>,
    key: &str,
    name: String,
    around: &Surroundings<'_>,
    check: fn(&Table<'_>, &str, &Path) -> bool,
) -> Option<SecretSource> {
    if name.contains('/') || name.starts_with('.') {
        table.fault(
            key,
            format!("{name:?} is not the name of a credential"),
            "write the NAME of LoadCredential=NAME:/path",
        );
        return None;
    }
    let Some(folder) = around.environment.get("CREDENTIALS_DIRECTORY") else {
        table.report.warning(
            table.path_of(key),
            format!("the credential {name:?} cannot be looked at: this process was not started by systemd"),
            "see that the unit has LoadCredential= for it",
        );
        return Some(SecretSource::Credential { name, path: None });
    };
    let path = PathBuf::from(folder).join(&name);
    if !path.exists() {
        table.fault(
            key,
            format!("systemd passed no credential {name:?}"),
            format!("add LoadCredential={name}:/path/of/the/secret to the unit"),
        );
        return None;
    }
    check(table, key, &path).then_some(SecretSource::Credential { name, path: Some(path) })
}

fn from_variable(
    table: &Table<'_>,
    name: String,
    around: &Surroundings<'_>,
) -> Option<SecretSource> {
    let Some(value) = around.environment.get(&name) else {
        table.fault(
            "token_env",
            format!("the environment variable {name:?} is not set"),
            "set it for the service, or use token_file",
        );
        return None;
    };
    let place = format!("the environment variable {name:?}");
    check_token(table, "token_env", value, &place).then(|| SecretSource::Environment {
        value: Some(Arc::new(SecretText::new(value.trim().to_owned()))),
        name,
    })
}

pub(super) fn private_key(
    table: &mut Table<'_>,
    around: &Surroundings<'_>,
) -> Option<SecretSource> {
    let both = table.has("private_key_file") && table.has("private_key_credential");
    let neither = !table.has("private_key_file") && !table.has("private_key_credential");
    if both {
        table.fault(
            "private_key_file",
            "private_key_file, private_key_credential exclude each other",
            "keep one of them",
        );
    } else if neither && !table.has("private_key") {
        table.missing(
            "private_key_file",
            "write private_key_file = \"/path\" or private_key_credential = \"NAME\" (systemd)",
        );
    }
    let file = key_text(table, "private_key_file").and_then(|_| {
        let path = table.path("private_key_file")?;
        check_key_file(table, "private_key_file", &path).then_some(SecretSource::File(path))
    });
    let name = key_text(table, "private_key_credential");
    let credential = name.and_then(|name| {
        from_credential(table, "private_key_credential", name, around, check_key_file)
    });
    file.or(credential)
}

/// The text of a key about a private key, unless it is itself one.
fn key_text(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let text = table.text(key)?;
    if text.contains("PRIVATE KEY") {
        table.fault(
            key,
            "is a private key itself, not the place where one is",
            "put it into a file that only the service can read and name that file; delete this one in the App's settings",
        );
        return None;
    }
    Some(text)
}

/// Whether a file holds the private key of an App. The daemon reads it again whenever it changes.
fn check_key_file(table: &Table<'_>, key: &str, path: &Path) -> bool {
    let reader = Reader::<AppKey>::new(SecretSource::File(path.to_owned()));
    if let Err(problem) = is_file(path) {
        table.fault(key, problem, "check the path, and that the service's user may read the file");
        return false;
    }
    match reader.secret() {
        Ok(_) => {}
        Err(SecretError::Malformed { fault, .. }) => {
            table.fault(
                key,
                format!("{} {fault}", path.display()),
                "name the .pem file that GitHub made in the App's settings (\"Generate a private key\"): RSA, not encrypted",
            );
            return false;
        }
        Err(_) => {
            table.fault(
                key,
                format!("{} cannot be read", path.display()),
                "see that the service's user may read the file",
            );
            return false;
        }
    }
    warn_when_world_readable(table, key, path);
    true
}
