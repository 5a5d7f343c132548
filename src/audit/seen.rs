//! Seen ids: what "once" means, as 25 bytes an entry, filed by hour.

use super::entry::Entry;
use super::record::Topic;
use sha2::{Digest, Sha256};

/// The way in. Bodies always differ between kinds, so revisions are told only within one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// REST audit log.
    Rest,
    /// GraphQL audit log.
    GraphQl,
    /// GitHub's own stream.
    Push,
}

impl SourceKind {
    /// The byte in a fingerprint.
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Rest => 0,
            Self::GraphQl => 1,
            Self::Push => 2,
        }
    }
}

/// Which changelog and which set of files: by the entry's kind, never by the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SeenLane {
    /// Web and stream-only entries.
    Web,
    /// Git entries.
    Git,
}

impl SeenLane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Web, Self::Git];

    /// The changelog topic.
    pub fn topic(self) -> Topic {
        match self {
            Self::Web => Topic::SeenWeb,
            Self::Git => Topic::SeenGit,
        }
    }

    /// `web` or `git`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Git => "git",
        }
    }

    /// The lane that an entry is filed in.
    pub fn of(entry: &Entry) -> Self {
        match entry.topic() {
            Topic::Git => Self::Git,
            _ => Self::Web,
        }
    }
}

/// 16 bytes of the id's SHA-256, 8 bytes (big-endian) of XXH3-64 over the body, 1 byte for the kind of source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    /// Bytes of one fingerprint.
    pub const LEN: usize = 25;

    /// The fingerprint of an id and a body that came by `kind`.
    pub fn new(id: &[u8], body: &[u8], kind: SourceKind) -> Self {
        let mut bytes = [0; Self::LEN];
        let digest = Sha256::digest(id);
        let hash = xxhash_rust::xxh3::xxh3_64(body).to_be_bytes();
        let all = digest.iter().take(16).chain(hash.iter()).copied().chain([kind.as_byte()]);
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    /// From its stored form.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its stored form.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The part that stands for the id.
    pub fn id(&self) -> &[u8] {
        self.0.get(..16).unwrap_or_default()
    }

    /// The part that stands for the body.
    pub fn body(&self) -> &[u8] {
        self.0.get(16..24).unwrap_or_default()
    }

    /// The kind of source, as stored.
    pub fn kind(&self) -> u8 {
        self.0.last().copied().unwrap_or_default()
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a fingerprint is filed: the epoch hour of a time field, or [`Bucket::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(pub i64);

impl Bucket {
    /// Entries without any time, or with one that is not sane.
    pub const NONE: Self = Self(i64::MIN);

    /// The bucket of an epoch time in milliseconds.
    pub fn of_ms(time_ms: i64) -> Self {
        Self(time_ms.div_euclid(3_600_000))
    }
}
