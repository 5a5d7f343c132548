//! `[[entity]]`: whose log is read, with which token.

use super::super::reader::Table;
use super::{Surroundings, days, read_small_file, seconds, world_readable};
use crate::audit::{EntityKind, EntityName, Lane};
use crate::github::{EntitySettings, LaneSettings, SecretText, ServerSettings, TokenSource};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long GitHub keeps a lane unless the operator says otherwise.
const fn default_retention(lane: Lane) -> Duration {
    match lane {
        Lane::Web | Lane::GraphQl => days(180),
        Lane::Git => days(7),
    }
}

/// How a token begins that stands where a path or a name belongs.
const TOKEN_PREFIXES: [&str; 5] = ["ghp_", "gho_", "ghs_", "ghu_", "github_pat_"];

/// An entity and what only the checks need.
pub(in super::super) struct Read {
    /// The settings.
    pub(in super::super) settings: EntitySettings,
    /// Where messages about it point.
    pub(in super::super) path: String,
    /// Whether it may show the same entries as another entity.
    pub(in super::super) allow_overlap: bool,
}

/// Reads all entities.
pub(in super::super) fn read(
    root: &mut Table<'_>,
    servers: &BTreeMap<String, Option<ServerSettings>>,
    around: &Surroundings<'_>,
) -> Vec<Read> {
    let mut entities = Vec::new();
    let mut names = BTreeSet::new();
    let tables = root.list("entity");
    if tables.as_ref().is_some_and(Vec::is_empty) {
        root.missing("entity", "add an [[entity]] with name, kind, slug and a token");
    }
    for mut table in tables.into_iter().flatten() {
        let entity = read_one(&mut table, servers, around);
        let path = table.path_of("").trim_end_matches('.').to_owned();
        if let Some((settings, allow_overlap)) = entity {
            if !names.insert(settings.name.clone()) {
                table.fault(
                    "name",
                    format!("{:?} is the name of two entities", settings.name.as_str()),
                    "give each a name of its own: it is the key of the saved state",
                );
            }
            entities.push(Read { settings, path, allow_overlap });
        }
        table.finish();
    }
    entities
}

fn read_one(
    table: &mut Table<'_>,
    servers: &BTreeMap<String, Option<ServerSettings>>,
    around: &Surroundings<'_>,
) -> Option<(EntitySettings, bool)> {
    let name = name(table);
    let kind = kind(table);
    let slug = slug(table);
    let server = server(table, servers);
    let token = token(table, around);
    let lanes = lanes(table, kind);
    let allow_overlap = table.boolean("allow_overlap", false);
    let settings = EntitySettings {
        name: name?,
        kind: kind?,
        slug: slug?,
        server: server?,
        token: token?,
        lanes,
    };
    Some((settings, allow_overlap))
}

fn name(table: &mut Table<'_>) -> Option<EntityName> {
    let Some(text) = table.text("name") else {
        if !table.has("name") {
            table.missing(
                "name",
                "choose one and never change it: it is the key of the saved state",
            );
        }
        return None;
    };
    let name = EntityName::try_from(text.clone()).ok();
    if name.is_none() {
        table.fault(
            "name",
            format!("{text:?} is not a name for an entity"),
            "write 1 to 100 characters of a-z 0-9 . _ - that begin with a letter or digit",
        );
    }
    name
}

fn kind(table: &mut Table<'_>) -> Option<EntityKind> {
    if !table.has("kind") {
        table.missing("kind", "write \"enterprise\" or \"organization\"");
    }
    table.choice(
        "kind",
        &[("enterprise", EntityKind::Enterprise), ("organization", EntityKind::Organization)],
    )
}

fn slug(table: &mut Table<'_>) -> Option<String> {
    if !table.has("slug") {
        table.missing("slug", "write the name that stands in the entity's URL at GitHub");
    }
    let slug = table.text("slug")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if slug.chars().all(plain) && slug.len() <= 100 && !matches!(slug.as_str(), "." | "..") {
        return Some(slug);
    }
    table.fault(
        "slug",
        format!("{slug:?} is not a slug"),
        "write only the name from the URL, without https:// and slashes",
    );
    None
}

fn server(
    table: &mut Table<'_>,
    servers: &BTreeMap<String, Option<ServerSettings>>,
) -> Option<String> {
    let name = table.text("server").unwrap_or_else(|| super::server::DEFAULT_SERVER.to_owned());
    if servers.contains_key(&name) {
        return Some(name);
    }
    let known: Vec<_> = servers.keys().cloned().collect();
    table.fault(
        "server",
        format!("there is no server {name:?}"),
        format!("add [server.{name}] with its base_url, or write one of: {}", known.join(", ")),
    );
    None
}

fn lanes(table: &mut Table<'_>, kind: Option<EntityKind>) -> Vec<LaneSettings> {
    let chosen = chosen_lanes(table);
    check_graphql(table, &chosen, kind);
    let mut retention = table.table("retention");
    let mut lanes = Vec::new();
    let mut web = None;
    for lane in Lane::ALL {
        let range = seconds(3600)..=days(3653);
        let default = match lane {
            // two views of one log
            Lane::GraphQl => web,
            Lane::Web | Lane::Git => Some(default_retention(lane)),
        };
        let kept = retention.duration_or_unlimited(lane.as_str(), range, default);
        if lane == Lane::Web {
            web = kept;
        }
        if chosen.contains(&lane) {
            lanes.push(LaneSettings { lane, retention: kept });
        }
    }
    retention.finish();
    lanes
}

fn chosen_lanes(table: &mut Table<'_>) -> BTreeSet<Lane> {
    let Some(texts) = table.texts("lanes") else { return Lane::REST.into() };
    if texts.is_empty() {
        table.fault("lanes", "is empty, so nothing would be read", "write [\"web\", \"git\"]");
    }
    let mut lanes = BTreeSet::new();
    for text in texts {
        match Lane::ALL.into_iter().find(|lane| lane.as_str() == text) {
            Some(lane) => {
                lanes.insert(lane);
            }
            None => table.fault(
                "lanes",
                format!("{text:?} is not a lane"),
                "write a list of \"web\", \"git\" and, for an organization, \"graphql\"",
            ),
        }
    }
    lanes
}

/// GraphQL shows an organization's log alone, and of that 60 actions: it cannot stand for the others.
fn check_graphql(table: &Table<'_>, chosen: &BTreeSet<Lane>, kind: Option<EntityKind>) {
    if !chosen.contains(&Lane::GraphQl) {
        return;
    }
    if kind == Some(EntityKind::Enterprise) {
        table.fault(
            "lanes",
            "\"graphql\" is for organizations: GitHub's GraphQL has no audit log of an enterprise",
            "remove \"graphql\", or name the organizations as entities of their own",
        );
    }
    if !chosen.contains(&Lane::Web) {
        table.fault(
            "lanes",
            "\"graphql\" without \"web\" would miss most entries: GraphQL shows 60 of the actions",
            "add \"web\"",
        );
    }
}

fn token(table: &mut Table<'_>, around: &Surroundings<'_>) -> Option<TokenSource> {
    table.refuse(
        "token",
        "a token stands in the configuration",
        "put it into a file that only the service can read and write token_file = \"/path\"; \
         have GitHub revoke this one",
    );
    let inline = table.has("token");
    let present: Vec<_> = ["token_file", "token_credential", "token_env"]
        .into_iter()
        .filter(|key| table.has(key))
        .collect();
    if present.len() > 1 {
        table.fault(
            "token_file",
            format!("{} exclude each other", present.join(", ")),
            "keep one of them",
        );
    } else if present.is_empty() && !inline {
        table.missing(
            "token_file",
            "write token_file = \"/path\", token_credential = \"NAME\" (systemd) or token_env = \"NAME\"",
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
    if TOKEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        table.fault(
            key,
            "is a token itself, not the place where one is",
            "put the token into a file that only the service can read and name that file; \
             have GitHub revoke this one",
        );
        return None;
    }
    Some(text)
}

fn from_file(table: &mut Table<'_>) -> Option<TokenSource> {
    let path = table.path("token_file")?;
    check_token_file(table, "token_file", &path).then_some(TokenSource::File(path))
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
) -> Option<TokenSource> {
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
        return Some(TokenSource::Credential { name, path: None });
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
        .then_some(TokenSource::Credential { name, path: Some(path) })
}

fn from_variable(
    table: &Table<'_>,
    name: String,
    around: &Surroundings<'_>,
) -> Option<TokenSource> {
    let Some(value) = around.environment.get(&name) else {
        table.fault(
            "token_env",
            format!("the environment variable {name:?} is not set"),
            "set it for the service, or use token_file",
        );
        return None;
    };
    let place = format!("the environment variable {name:?}");
    check_token(table, "token_env", value, &place).then(|| TokenSource::Environment {
        value: Some(Arc::new(SecretText::new(value.trim().to_owned()))),
        name,
    })
}
