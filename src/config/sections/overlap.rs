//! Whether two entities may show the same entries (protocols 1.2).

use super::super::reader::Report;
use super::entity::Read;
use crate::audit::EntityKind;
use crate::github::{EntitySettings, ServerSettings};
use std::collections::BTreeMap;

/// Reports pairs that would bring entries twice without the operator having said that this is meant.
pub(in super::super) fn check(
    report: &Report,
    servers: &BTreeMap<String, Option<ServerSettings>>,
    entities: &[Read],
    allowed_for_all: bool,
) {
    let address = |entity: &EntitySettings| {
        servers.get(&entity.server)?.as_ref().map(|server| &server.base_url)
    };
    for (number, later) in entities.iter().enumerate() {
        for earlier in entities.iter().take(number) {
            let (a, b) = (&earlier.settings, &later.settings);
            if address(a).is_none() || address(a) != address(b) {
                continue;
            }
            let name = a.name.as_str();
            if a.kind == b.kind && a.slug.eq_ignore_ascii_case(&b.slug) {
                report.fault(
                    format!("{}.slug", later.path),
                    format!("is the same log as that of entity {name:?}"),
                    "take one of the two entities out",
                );
            } else if one_of_each_kind(a, b)
                && !allowed_for_all
                && !(earlier.allow_overlap && later.allow_overlap)
            {
                report.fault(
                    format!("{}.allow_overlap", later.path),
                    format!(
                        "an enterprise and an organization on one server may show the same entries, \
                         and entity {name:?} is the other one"
                    ),
                    "take one out, or write allow_overlap = true in both (or under [collect]) \
                     if entries may come twice, with different ce_source",
                );
            }
        }
    }
}

fn one_of_each_kind(a: &EntitySettings, b: &EntitySettings) -> bool {
    matches!(
        (a.kind, b.kind),
        (EntityKind::Enterprise, EntityKind::Organization)
            | (EntityKind::Organization, EntityKind::Enterprise)
    )
}
