//! Entities and lanes: whose log is read, and which stream of it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An operator-chosen, never changed name of an entity: key of its checkpoint, its seen ids and its sequence.
///
/// 1 to 100 characters of `a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntityName(String);

/// A name that is not an entity name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "entity name {0:?} is not 1 to 100 characters of a-z 0-9 . _ - beginning with a letter or digit"
)]
pub struct EntityNameError(String);

impl EntityName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition that holds this entity's state, in each state topic: XXH3-64 of the name, modulo `count`.
    ///
    /// # Panics
    /// When `count` is not positive: topics always have at least one partition.
    pub fn partition(&self, count: i32) -> i32 {
        let count = u64::try_from(count).unwrap_or(0);
        assert!(count > 0, "a topic has at least one partition");
        i32::try_from(xxhash_rust::xxh3::xxh3_64(self.0.as_bytes()) % count).unwrap_or(0)
    }
}

impl TryFrom<String> for EntityName {
    type Error = EntityNameError;

    fn try_from(name: String) -> Result<Self, EntityNameError> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ok = name.len() <= 100
            && name.bytes().next().is_some_and(plain)
            && name.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'));
        if ok { Ok(Self(name)) } else { Err(EntityNameError(name)) }
    }
}

impl From<EntityName> for String {
    fn from(name: EntityName) -> Self {
        name.0
    }
}

impl fmt::Display for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an entity is at GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// An enterprise account.
    Enterprise,
    /// An organization.
    Organization,
}

impl EntityKind {
    /// The path segment of GitHub's REST API: `enterprises` or `orgs`.
    pub fn path_segment(self) -> &'static str {
        match self {
            Self::Enterprise => "enterprises",
            Self::Organization => "orgs",
        }
    }
}

/// One stream of one entity, with its own retention and request budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Everything but Git events (`include=web`); GitHub keeps it 180 days.
    Web,
    /// Git events (`include=git`); GitHub keeps them 7 days.
    Git,
}

impl Lane {
    /// Both lanes that are read over REST.
    pub const ALL: [Self; 2] = [Self::Web, Self::Git];

    /// `web` or `git`: also the value of GitHub's `include` parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Git => "git",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Result<EntityName, EntityNameError> {
        EntityName::try_from(text.to_owned())
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "7", "acme", "org-123", "a.b_c-d", &"x".repeat(100)] {
            assert_eq!(name(good).unwrap().as_str(), good);
        }
        for bad in
            ["", "A", "#genesis", "-a", ".a", "_a", "a/b", "a b", "\u{e4}", "a\0", &"x".repeat(101)]
        {
            assert_eq!(name(bad), Err(EntityNameError(bad.to_owned())));
            assert!(serde_json::from_value::<EntityName>(bad.into()).is_err());
        }
    }

    /// A name's partition is part of the format of the state topics: it must never change.
    #[test]
    fn golden_partitions() {
        let partitions = ["acme", "org-123", "a"].map(|it| name(it).unwrap().partition(12));
        assert_eq!(partitions, [1, 3, 7]);
        assert_eq!(name("acme").unwrap().partition(1), 0);
    }

    #[test]
    fn lanes_are_written_as_github_names_them() {
        for lane in Lane::ALL {
            assert_eq!(serde_json::to_value(lane).unwrap(), lane.as_str());
        }
        assert_eq!(EntityKind::Enterprise.path_segment(), "enterprises");
        assert_eq!(EntityKind::Organization.path_segment(), "orgs");
    }

    proptest! {
        #[test]
        fn a_partition_is_always_one_of_the_topic(text in "[a-z0-9][a-z0-9._-]{0,20}", count in 1_i32..=i32::MAX) {
            prop_assert!((0..count).contains(&name(&text).unwrap().partition(count)));
        }

        #[test]
        fn arbitrary_text_is_a_safe_folder_name_or_refused(text in any::<String>()) {
            if let Ok(name) = name(&text) {
                let path = std::path::Path::new("x").join(name.as_str());
                prop_assert_eq!(path.components().count(), 2);
                prop_assert_eq!(String::from(name), text);
            }
        }
    }
}
