//! GitHub's opaque place in its log, within one query.

use serde::{Deserialize, Serialize};

/// The `after` value of a `next` link, percent-decoded. Valid only with the exact query that produced it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// Longest cursor that is accepted, in bytes: GitHub's own are about 60.
    pub const LEN_MAX: usize = 4096;

    /// A cursor, or `None` when it is empty or longer than [`Self::LEN_MAX`].
    pub fn new(text: String) -> Option<Self> {
        (!text.is_empty() && text.len() <= Self::LEN_MAX).then_some(Self(text))
    }

    /// The cursor's text, to be percent-encoded into a URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cursor({:?})", self.0)
    }
}
