//! `[[entity]]`: whose log is read, with which credentials.

use super::super::reader::Table;
use super::credential::Pool;
use super::secret::token;
use super::{Surroundings, days, seconds};
use crate::audit::{EntityKind, EntityName, Lane};
use crate::github::{
    Access, CredentialId, CredentialSettings, EntitySettings, LaneSettings, ServerSettings,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long GitHub keeps a lane unless the operator says otherwise.
const fn default_retention(lane: Lane) -> Duration {
    match lane {
        Lane::Web | Lane::GraphQl => days(180),
        Lane::Git => days(7),
    }
}

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
    pool: &Pool,
    around: &Surroundings<'_>,
) -> Vec<Read> {
    let mut entities = Vec::new();
    let mut names = BTreeSet::new();
    let tables = root.list("entity");
    if tables.as_ref().is_some_and(Vec::is_empty) {
        root.missing("entity", "add an [[entity]] with name, kind, slug and a token");
    }
    for mut table in tables.into_iter().flatten() {
        let entity = read_one(&mut table, servers, pool, around);
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
    pool: &Pool,
    around: &Surroundings<'_>,
) -> Option<(EntitySettings, bool)> {
    let name = name(table);
    let kind = kind(table);
    let slug = slug(table);
    let server = super::server::chosen(table, servers);
    let who = (name.as_ref(), server.as_deref());
    let credentials = credentials(table, who, pool, around);
    let lanes = lanes(table, kind);
    let allow_overlap = table.boolean("allow_overlap", false);
    let settings = EntitySettings {
        name: name?,
        kind: kind?,
        slug: slug?,
        server: server?,
        credentials: credentials?,
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

/// Its credentials: exactly one way. Its own token is the simple form, and a credential that bears the entity's name.
fn credentials(
    table: &mut Table<'_>,
    (name, server): (Option<&EntityName>, Option<&str>),
    pool: &Pool,
    around: &Surroundings<'_>,
) -> Option<Vec<CredentialSettings>> {
    let chosen = pool.choose(table, server);
    let token = token(table, ("credentials", "credentials = [\"NAME\"]"), around);
    if table.has("credentials") {
        return chosen;
    }
    let id = CredentialId::of_entity(name?);
    Some(vec![CredentialSettings { id, server: server?.to_owned(), access: Access::Token(token?) }])
}
