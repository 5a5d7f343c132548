//! The same entries as GraphQL shows them: 60 of the actions, as nodes.

use super::body::{COUNTRIES, LOGINS, OPERATIONS, Who, text_of};
use super::catalogue::{Action, actions};
use super::timeline::LaneLog;
use crate::audit::Lane;
use crate::github::graphql::id::node_id;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// The types that there are, as the client's own schema names them.
const SCHEMA: &str = include_str!("../../graphql/schema.graphql");

/// The names of the 60 types.
fn types() -> &'static BTreeSet<&'static str> {
    static TYPES: OnceLock<BTreeSet<&'static str>> = OnceLock::new();
    TYPES.get_or_init(|| {
        let names = SCHEMA.lines().filter_map(|line| line.strip_prefix("type "));
        let names = names.filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.ends_with("AuditEntry")).collect()
    })
}

/// The type of an action: `repo.config.disable_x` is `RepoConfigDisableXAuditEntry`. `None`: GraphQL does not show it.
fn type_of(action: &str) -> Option<&'static str> {
    let mut name = String::with_capacity(48);
    for word in action.split(['.', '_']) {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name.push_str("AuditEntry");
    types().get(name.as_str()).copied()
}

fn action_of(log: &LaneLog, index: u64) -> Option<&'static Action> {
    actions(log.lane).pick(log.body_rng(index).next())
}

/// Whether GraphQL shows an entry.
pub(crate) fn is_shown(log: &LaneLog, index: u64) -> bool {
    log.lane == Lane::Web
        && action_of(log, index).is_some_and(|action| type_of(action.name).is_some())
}

/// The node of an entry; `None` where GraphQL does not show it.
pub(crate) fn node(who: &Who, log: &LaneLog, index: u64) -> Option<String> {
    let action = action_of(log, index)?.name;
    let name = type_of(action)?;
    let prefix: String = name.chars().filter(char::is_ascii_uppercase).collect();
    let mut rng = log.body_rng(index);
    // the draws of action and actor, in this order as in REST
    let (_, actor) = (rng.next(), rng.pick(&LOGINS));
    let ip = format!("203.0.{}.{}", rng.below(250), rng.below(250));
    let at = crate::time::rfc3339_ms(log.ts(index));
    let mut node = json!({
        "__typename": name,
        "id": node_id(&prefix, text_of(&log.id(index)).as_bytes()),
        "action": action,
        "createdAt": at,
        "operationType": rng.pick(&OPERATIONS).to_uppercase(),
        "actorLogin": actor,
        "actorIp": (rng.below(3) == 0).then_some(ip),
        "actorLocation": {"countryCode": rng.pick(&COUNTRIES), "country": null, "regionCode": null, "region": null, "city": null},
        "userLogin": (rng.below(3) == 0).then(|| rng.pick(&LOGINS)),
        "organizationName": who.slug,
    });
    let named = [("Repo", "repositoryName"), ("Team", "teamName")];
    if let (Some((_, field)), Value::Object(members)) =
        (named.iter().find(|(begin, _)| name.starts_with(begin)), &mut node)
    {
        members.insert((*field).to_owned(), format!("{}/n-{}", who.slug, rng.below(50)).into());
    }
    Some(node.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::config::Traffic;
    use super::super::faults::Faults;
    use super::*;
    use crate::audit::EntityKind;

    #[test]
    fn the_schema_has_sixty_types_and_their_actions_are_found() {
        assert_eq!(types().len(), 60);
        assert_eq!(
            type_of("repo.config.disable_sockpuppet_disallowed"),
            Some("RepoConfigDisableSockpuppetDisallowedAuditEntry")
        );
        assert_eq!(
            type_of("org.oauth_app_access_approved"),
            Some("OrgOauthAppAccessApprovedAuditEntry")
        );
        for action in [
            "git.push",
            "workflows.completed_workflow_run",
            "protected_branch.create",
            "repo.rename",
        ] {
            assert_eq!(type_of(action), None, "{action}");
        }
    }

    #[test]
    fn a_node_has_the_id_and_the_time_of_its_entry() {
        let traffic = Traffic { history_entries: 2_000, ..Traffic::web() };
        let log =
            LaneLog::new(3, "octo", Lane::Web, 1_750_000_000_000, &traffic, &Faults::default());
        let who = Who::new(3, EntityKind::Organization, "octo");
        let shown: Vec<u64> = (0..2_000).filter(|index| is_shown(&log, *index)).collect();
        assert!((40..200).contains(&shown.len()), "{}", shown.len());
        for index in shown {
            let node: Value = serde_json::from_str(&node(&who, &log, index).unwrap()).unwrap();
            let id = crate::github::graphql::id::document_id(node["id"].as_str().unwrap()).unwrap();
            assert_eq!(id, text_of(&log.id(index)));
            let at: jiff::Timestamp = node["createdAt"].as_str().unwrap().parse().unwrap();
            assert_eq!(at.as_millisecond(), log.ts(index));
        }
    }
}
