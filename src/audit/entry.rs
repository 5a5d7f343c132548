//! One audit log entry: GitHub's bytes, verbatim, and the few facts read from them.

use super::record::Topic;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// UTF-8 text that shares the page's buffer where it can (no escapes), else owns its bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// Text from bytes; `None` when they are not UTF-8.
    pub fn new(bytes: Bytes) -> Option<Self> {
        (bytes.is_ascii() || std::str::from_utf8(&bytes).is_ok()).then_some(Self(bytes))
    }

    /// The UTF-8 bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text. Always the whole of it: [`Text::new`] has checked the bytes.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One audit log event. A fact that is missing, of another type, or not decodable is `None`: it never costs the entry.
///
/// Duplicate member names: the last one wins, as for most readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// GitHub's bytes of this entry, unchanged: from the first to the last byte of the array element.
    pub body: Bytes,
    /// `_document_id`: a non-empty JSON string, decoded.
    pub id: Option<Text>,
    /// `@timestamp`, epoch milliseconds: when it occurred.
    pub timestamp_ms: Option<i64>,
    /// `created_at`, epoch milliseconds: when it was recorded.
    pub created_at_ms: Option<i64>,
    /// `action`, for example `repo.create`.
    pub action: Option<Text>,
    /// `actor`.
    pub actor: Option<Text>,
    /// `org`: the string, or the first string of an array.
    pub org: Option<Text>,
    /// `repo`.
    pub repo: Option<Text>,
}

impl Entry {
    /// An entry of which nothing but the bytes is known.
    pub fn opaque(body: Bytes) -> Self {
        Self {
            body,
            id: None,
            timestamp_ms: None,
            created_at_ms: None,
            action: None,
            actor: None,
            org: None,
            repo: None,
        }
    }

    /// Entry time: `@timestamp`, else `created_at`, else none. Never assumed to be sane.
    pub fn time_ms(&self) -> Option<i64> {
        self.timestamp_ms.or(self.created_at_ms)
    }

    /// The id, or `sha256:` and the hex digest of the body when GitHub gave none. The flag says "derived".
    pub fn id_or_derived(&self) -> (Cow<'_, [u8]>, bool) {
        match &self.id {
            Some(id) => (Cow::Borrowed(id.as_bytes().as_ref()), false),
            None => (Cow::Owned(derived_id(&self.body).into_bytes()), true),
        }
    }

    /// The data topic that this entry belongs to: by its kind, never by the way in.
    pub fn topic(&self) -> Topic {
        match self.action.as_ref().map(|action| action.as_bytes().as_ref()) {
            Some(action) if action.starts_with(b"git.") => Topic::Git,
            Some(b"api.request") => Topic::Stream,
            _ => Topic::Web,
        }
    }
}

/// `sha256:` and 64 hex digits: the id of something that has none of its own.
pub fn derived_id(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut id = String::with_capacity(71);
    id.push_str("sha256:");
    for byte in Sha256::digest(bytes) {
        // writing to a String cannot fail
        write!(id, "{byte:02x}").unwrap_or_default();
    }
    id
}
