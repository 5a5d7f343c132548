//! `[credential.NAME]`: what requests may be made with, each with a budget of its own; and where a token is.

use super::super::reader::{Report, Table, nearest};
use super::{Surroundings, read_small_file, world_readable};
use crate::audit::EntityName;
use crate::github::{
    Access, CredentialId, CredentialSettings, SecretSource, SecretText, ServerSettings,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a token begins that stands where a path or a name belongs.
const TOKEN_PREFIXES: [&str; 5] = ["ghp_", "gho_", "ghs_", "ghu_", "github_pat_"];

/// All credentials, and which of them an entity has asked for.
pub(in super::super) struct Pool {
    /// One that is at fault is `None`: it is named, and unusable.
    credentials: BTreeMap<String, Option<CredentialSettings>>,
    used: RefCell<BTreeSet<String>>,
}

/// Reads all credentials.
pub(in super::super) fn read(
    root: &mut Table<'_>,
    servers: &BTreeMap<String, Option<ServerSettings>>,
    around: &Surroundings<'_>,
) -> Pool {
    let mut credentials = BTreeMap::new();
    for (name, mut table) in root.named("credential") {
        let settings = read_one(&name, &mut table, servers, around);
        table.finish();
        credentials.insert(name, settings);
    }
    Pool { credentials, used: RefCell::default() }
}

fn read_one(
    name: &str,
    table: &mut Table<'_>,
    servers: &BTreeMap<String, Option<ServerSettings>>,
    around: &Surroundings<'_>,
) -> Option<CredentialSettings> {
    let named = EntityName::try_from(name.to_owned()).is_ok();
    if !named {
        table.report.fault(
            format!("credential.{name:?}"),
            "is not a name for a credential",
            "write 1 to 100 characters of a-z 0-9 . _ - that begin with a letter or digit",
        );
    }
    let server = super::server::chosen(table, servers);
    let access = token(table, None, around).map(Access::Token);
    let settings =
        CredentialSettings { id: CredentialId::new(name), server: server?, access: access? };
    named.then_some(settings)
}

impl Pool {
    /// The credentials that an entity names; `None` where it names none, or one of them is at fault.
    pub(super) fn choose(
        &self,
        table: &mut Table<'_>,
        server: Option<&str>,
    ) -> Option<Vec<CredentialSettings>> {
        const KEY: &str = "credentials";
        let names = table.texts(KEY)?;
        if names.is_empty() {
            table.fault(KEY, "is empty", "name at least one [credential.NAME]");
            return None;
        }
        let mut seen = BTreeSet::new();
        let each = names.iter().map(|name| {
            if !seen.insert(name) {
                table.fault(KEY, format!("names {name:?} twice"), "keep one of them");
            }
            self.one(table, KEY, name, server)
        });
        // every fault is told, so none ends the list
        let chosen: Vec<_> = each.collect();
        chosen.into_iter().collect()
    }

    fn one(
        &self,
        table: &Table<'_>,
        key: &str,
        name: &str,
        server: Option<&str>,
    ) -> Option<CredentialSettings> {
        self.used.borrow_mut().insert(name.to_owned());
        let Some(credential) = self.credentials.get(name) else {
            self.unknown(table, key, name);
            return None;
        };
        let credential = credential.as_ref()?;
        if let Some(server) = server
            && server != credential.server
        {
            table.fault(
                key,
                format!(
                    "credential {name:?} is for server {:?}, and this entity is on {server:?}",
                    credential.server
                ),
                format!("write server = {server:?} in [credential.{name}], or name another one"),
            );
            return None;
        }
        Some(credential.clone())
    }

    fn unknown(&self, table: &Table<'_>, key: &str, name: &str) {
        if looks_like_a_token(name) {
            table.fault(key, "holds a token itself, not the name of a credential", TOKEN_REMEDY);
            return;
        }
        let remedy = match nearest(name, self.credentials.keys()) {
            Some(known) => format!("did you mean {known:?}?"),
            None if self.credentials.is_empty() => {
                format!("add [credential.{name}] with its token")
            }
            None => {
                let known: Vec<_> = self.credentials.keys().cloned().collect();
                format!("add [credential.{name}], or write one of: {}", known.join(", "))
            }
        };
        table.fault(key, format!("there is no credential {name:?}"), remedy);
    }

    /// Says what is unwise about all of them together: to be called when all entities have been read.
    pub(in super::super) fn finish(&self, report: &Report) {
        let used = self.used.borrow();
        for name in self.credentials.keys().filter(|name| !used.contains(*name)) {
            report.warning(
                format!("credential.{name}"),
                "no entity uses it",
                "name it in the `credentials` of an entity, or take it out",
            );
        }
        let mut known: Vec<&CredentialSettings> = Vec::new();
        for credential in self.credentials.values().flatten() {
            let same = |it: &&&CredentialSettings| {
                it.access == credential.access && it.server == credential.server
            };
            match known.iter().find(same) {
                Some(other) => report.warning(
                    format!("credential.{}", credential.id),
                    format!(
                        "is the same as credential {:?}, so both have one budget",
                        other.id.as_str()
                    ),
                    "take one of the two out: GitHub counts by user, not by name",
                ),
                None => known.push(credential),
            }
        }
    }
}

/// What to do about a token that stands in the configuration.
const TOKEN_REMEDY: &str = "put the token into a file that only the service can read and name that file; \
                            have GitHub revoke this one";

fn looks_like_a_token(text: &str) -> bool {
    TOKEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// A token's place, of which there is exactly one; `other` is a key that may stand in their place.
pub(super) fn token(
    table: &mut Table<'_>,
    other: Option<&'static str>,
    around: &Surroundings<'_>,
) -> Option<SecretSource> {
    table.refuse(
        "token",
        "a token stands in the configuration",
        "put it into a file that only the service can read and write token_file = \"/path\"; \
         have GitHub revoke this one",
    );
    let inline = table.has("token");
    let keys = ["token_file", "token_credential", "token_env"].into_iter().chain(other);
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
                "write token_file = \"/path\", token_credential = \"NAME\" (systemd) or token_env = \"NAME\"{}",
                other.map_or_else(String::new, |key| format!(", or {key} = [\"NAME\"]"))
            ),
        );
    }
    let file = token_text(table, "token_file").and_then(|_| from_file(table));
    let credential =
        token_text(table, "token_credential").and_then(|name| from_credential(table, name, around));
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
    if world_readable(path) == Some(true) {
        table.report.warning(
            table.path_of(key),
            format!("{} can be read by everybody on this host", path.display()),
            format!("chmod o-r {}", path.display()),
        );
    }
    true
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
    name: String,
    around: &Surroundings<'_>,
) -> Option<SecretSource> {
    let key = "token_credential";
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
            format!("add LoadCredential={name}:/path/of/the/token to the unit"),
        );
        return None;
    }
    check_token_file(table, key, &path)
        .then_some(SecretSource::Credential { name, path: Some(path) })
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
