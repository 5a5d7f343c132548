//! GitHub's opaque place in its log, within one query.

use serde::{Deserialize, Serialize};

/// The `after` value of a `next` link, percent-decoded. Valid only with the exact query that produced it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor(String);

/// A text that is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cursor of {0} bytes: it must have 1 to {max}", max = Cursor::LEN_MAX)]
pub struct CursorError(usize);

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

impl TryFrom<String> for Cursor {
    type Error = CursorError;

    fn try_from(text: String) -> Result<Self, CursorError> {
        let len = text.len();
        Self::new(text).ok_or(CursorError(len))
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_and_endless_cursors_are_none_on_both_ways_in() {
        let longest = "x".repeat(Cursor::LEN_MAX);
        for (text, ok) in [
            ("", false),
            ("MS42ZTEyfGFiYw", true),
            (&longest, true),
            (&format!("{longest}y"), false),
        ] {
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(Cursor::new(text.to_owned()).is_some(), ok);
            assert_eq!(serde_json::from_str::<Cursor>(&json).is_ok(), ok);
        }
    }

    proptest! {
        #[test]
        fn json_is_read_back(text in ".{1,80}") {
            let cursor = Cursor::new(text.clone()).unwrap();
            let json = serde_json::to_string(&cursor).unwrap();
            let read: Cursor = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.as_str(), text.as_str());
            prop_assert_eq!(read, cursor);
        }
    }
}
