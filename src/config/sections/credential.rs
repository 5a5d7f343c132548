//! `[credential.NAME]`: what requests may be made with, each with a budget of its own; and where a token is.

use super::super::reader::{Report, Table, nearest};
use super::Surroundings;
use super::secret::{TOKEN_KEYS, TOKEN_REMEDY, looks_like_a_token, private_key, token};
use crate::audit::EntityName;
use crate::github::{Access, AppSettings, CredentialId, CredentialSettings, ServerSettings};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Keys that make a credential that of an App.
const APP_KEYS: [&str; 4] = ["app", "private_key_file", "private_key_credential", "installation"];

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
    let of_app = table.has("private_key") || APP_KEYS.iter().any(|key| table.has(key));
    let access = if of_app {
        app(table, around).map(Access::App)
    } else {
        for key in APP_KEYS {
            // asked for all the same: the keys are known
            drop(table.text(key));
        }
        token(table, ("app", "app = \"ID\""), around).map(Access::Token)
    };
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
                format!("add [credential.{name}] with its token or App")
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

/// A GitHub App, of which the table names anything.
fn app(table: &mut Table<'_>, around: &Surroundings<'_>) -> Option<AppSettings> {
    table.refuse(
        "private_key",
        "a private key stands in the configuration",
        "put it into a file that only the service can read and write private_key_file = \"/path\"; \
         delete this one in the App's settings",
    );
    let beside: Vec<_> = TOKEN_KEYS.into_iter().filter(|key| table.has(key)).collect();
    for key in &beside {
        // known, but not here
        drop(table.text(key));
    }
    if !beside.is_empty() {
        table.fault(
            "app",
            format!("an App makes its tokens itself, and there is also {}", beside.join(", ")),
            "keep the App's keys or the token's, or make two credentials of them",
        );
    }
    let id = app_id(table);
    let installation = table.integer("installation", 1..=i64::MAX);
    let key = private_key(table, around);
    let installation = installation.and_then(|id| u64::try_from(id).ok());
    let settings = AppSettings { app: id?, key: key?, installation };
    beside.is_empty().then_some(settings)
}

fn app_id(table: &mut Table<'_>) -> Option<String> {
    if !table.has("app") {
        table.missing(
            "app",
            "write the client id (\"Iv23...\") or the app id from the App's settings",
        );
    }
    let id = table.text_or_number("app")?;
    if looks_like_a_token(&id) || id.contains("PRIVATE KEY") {
        table.fault("app", "is a secret itself, not the id of an App", TOKEN_REMEDY);
        return None;
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if id.len() <= 100 && id.bytes().all(plain) {
        return Some(id);
    }
    table.fault(
        "app",
        format!("{id:?} is neither a client id nor an app id"),
        "write what stands in the App's settings: \"Iv23...\", or a number",
    );
    None
}
