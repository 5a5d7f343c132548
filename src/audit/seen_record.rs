//! Records of the changelog topics of seen ids: `ghauditd.seen.web` and `ghauditd.seen.git`.
//!
//! Key: the entity's name. Value, version 1, all numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | lane: 0 web, 1 git |
//! | 8 | bucket: epoch hour, signed; the least number stands for "none" |
//! | 25 each | fingerprints: 16 bytes of the id's SHA-256, 8 bytes XXH3-64 of the body, 1 byte kind of source |

use super::entity::{EntityName, EntityNameError};
use super::seen::{Bucket, Fingerprint, SeenLane};

/// The only version so far.
pub const VERSION: u8 = 1;

const HEAD_LEN: usize = 10;

/// What one transaction added to one bucket of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRecord {
    /// The entity: the record's key.
    pub entity: EntityName,
    /// The set of files.
    pub lane: SeenLane,
    /// The bucket.
    pub bucket: Bucket,
    /// What was added.
    pub fingerprints: Vec<Fingerprint>,
}

/// A changelog record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeenRecordError {
    /// Written by a newer program.
    #[error(
        "seen record has version {0}, this program knows up to {VERSION}: start the newer ghauditd that wrote it"
    )]
    Newer(u8),
    /// Not the layout.
    #[error("seen record is not a version, a lane, a bucket and whole fingerprints: {0}")]
    Malformed(&'static str),
    /// The key is not the name of an entity.
    #[error("seen record's key: {0}")]
    Key(#[from] EntityNameError),
}

/// The value of a record.
pub fn encode_value(lane: SeenLane, bucket: Bucket, fingerprints: &[Fingerprint]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_LEN + fingerprints.len() * Fingerprint::LEN);
    value.push(VERSION);
    value.push(lane.as_byte());
    value.extend_from_slice(&bucket.0.to_be_bytes());
    for fingerprint in fingerprints {
        value.extend_from_slice(fingerprint.as_bytes());
    }
    value
}

impl SeenRecord {
    /// Reads a record. Arbitrary bytes are refused, never guessed.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, SeenRecordError> {
        use SeenRecordError::{Malformed, Newer};
        let (&version, rest) = value.split_first().ok_or(Malformed("empty"))?;
        if version > VERSION {
            return Err(Newer(version));
        }
        if version != VERSION {
            return Err(Malformed("version 0"));
        }
        let (&lane, rest) = rest.split_first().ok_or(Malformed("no lane"))?;
        let lane = SeenLane::ALL
            .into_iter()
            .find(|known| known.as_byte() == lane)
            .ok_or(Malformed("unknown lane"))?;
        let (bucket, rest) = rest.split_first_chunk::<8>().ok_or(Malformed("no bucket"))?;
        let (whole, torn) = rest.as_chunks::<{ Fingerprint::LEN }>();
        if !torn.is_empty() {
            return Err(Malformed("torn fingerprint"));
        }
        let fingerprints = whole.iter().map(|bytes| Fingerprint::from_bytes(*bytes)).collect();
        let entity = EntityName::try_from(String::from_utf8_lossy(key).into_owned())?;
        Ok(Self { entity, lane, bucket: Bucket(i64::from_be_bytes(*bucket)), fingerprints })
    }
}
