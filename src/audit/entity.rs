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
#[error("entity name {0:?} is not 1 to 100 characters of a-z 0-9 . _ - beginning with a letter or digit")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
