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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::seen::SourceKind;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// The changelog holds these bytes for as long as GitHub's retention: a change needs a new version.
    #[test]
    fn golden_bytes() {
        let fingerprint =
            Fingerprint::new(b"AYnMi1bVDSx", br#"{"action":"repo.create"}"#, SourceKind::Push);
        assert_eq!(
            hex(fingerprint.as_bytes()),
            "7ebf8af159758f57544a83f40ac37e30bcdcd7f7eea29e5a02"
        );
        let value = encode_value(SeenLane::Git, Bucket(497_222), &[fingerprint; 2]);
        let expected = format!("01010000000000079646{0}{0}", hex(fingerprint.as_bytes()));
        assert_eq!(hex(&value), expected);
        assert_eq!(hex(&encode_value(SeenLane::Web, Bucket::NONE, &[])), "01008000000000000000");
        assert_eq!(hex(&encode_value(SeenLane::Web, Bucket(-1), &[])), "0100ffffffffffffffff");
    }

    #[test]
    fn what_is_not_the_layout_is_refused() {
        let good = encode_value(
            SeenLane::Web,
            Bucket(1),
            &[Fingerprint::new(b"a", b"b", SourceKind::Rest)],
        );
        assert!(SeenRecord::decode(b"acme", &good).is_ok());
        for len in (0..good.len()).filter(|len| *len != HEAD_LEN) {
            let torn = SeenRecord::decode(b"acme", &good[..len]);
            assert!(matches!(torn, Err(SeenRecordError::Malformed(_))), "{len}");
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            SeenRecord::decode(b"acme", &bytes)
        };
        assert_eq!(changed(0, 2), Err(SeenRecordError::Newer(2)));
        assert!(matches!(changed(0, 0), Err(SeenRecordError::Malformed(_))));
        assert!(matches!(changed(1, 2), Err(SeenRecordError::Malformed(_))));
        for key in [&b""[..], b"#genesis", b"ACME", b"a\xFF"] {
            assert!(matches!(SeenRecord::decode(key, &good), Err(SeenRecordError::Key(_))));
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_back(
            name in "[a-z0-9][a-z0-9._-]{0,20}", git in any::<bool>(), hour in any::<i64>(),
            bytes in vec(any::<[u8; 25]>(), 0..20),
        ) {
            let record = SeenRecord {
                entity: EntityName::try_from(name).unwrap(),
                lane: if git { SeenLane::Git } else { SeenLane::Web },
                bucket: Bucket(hour),
                fingerprints: bytes.into_iter().map(Fingerprint::from_bytes).collect(),
            };
            let value = encode_value(record.lane, record.bucket, &record.fingerprints);
            prop_assert_eq!(SeenRecord::decode(record.entity.as_str().as_bytes(), &value), Ok(record));
        }

        /// Arbitrary bytes are refused, or were written by the encoder.
        #[test]
        fn arbitrary_bytes_never_panic(
            key in vec(any::<u8>(), 0..10),
            value in prop_oneof![vec(any::<u8>(), 0..100), vec(0_u8..2, 0..100)],
        ) {
            if let Ok(read) = SeenRecord::decode(&key, &value) {
                prop_assert_eq!(encode_value(read.lane, read.bucket, &read.fingerprints), value);
            }
        }
    }
}
