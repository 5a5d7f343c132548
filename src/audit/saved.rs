//! Copies of a checkpoint: under a name in the checkpoint topic, and in a file.
//!
//! In the topic: key `#saved/<entity>/<name>` in the entity's partition, value a [`Saved`]. In a file: an [`Export`], which
//! says whose it is and carries a digest, so that a damaged one, or that of another installation, is not taken.

use super::checkpoint::{Checkpoint, DecodeError};
use super::entity::EntityName;
use super::operation::{Actor, SavedName, embedded};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The only version of both layouts so far.
pub const VERSION: u32 = 1;
/// Most copies that an entity may have: each is read at every start.
pub const SAVED_MAX: usize = 100;
/// Largest file that is read, bytes.
pub const EXPORT_BYTES_MAX: u64 = 1 << 20;

const KEY_PREFIX: &str = "#saved/";

/// A named copy of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Layout version.
    pub version: u32,
    /// When it was saved, by the owner's clock, epoch milliseconds.
    pub at_ms: i64,
    /// Who wanted it.
    pub by: Actor,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it came from a file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// The copy.
    #[serde(with = "embedded")]
    pub checkpoint: Box<Checkpoint>,
}

/// The copies of one entity.
pub type SavedCopies = BTreeMap<SavedName, Saved>;

/// What is saved of an entity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntityState {
    /// Its checkpoint; `None`: it never committed.
    pub checkpoint: Option<Checkpoint>,
    /// Named copies of it.
    pub saved: SavedCopies,
}

/// The key of a copy.
pub fn saved_key(entity: &EntityName, name: &SavedName) -> String {
    format!("{KEY_PREFIX}{entity}/{name}")
}

/// The entity and the name in a key; `None`: not the key of a copy.
pub fn parse_saved_key(key: &str) -> Option<(EntityName, SavedName)> {
    let (entity, name) = key.strip_prefix(KEY_PREFIX)?.split_once('/')?;
    Some((EntityName::try_from(entity.to_owned()).ok()?, name.parse().ok()?))
}

impl Saved {
    /// Reads the record's value.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        super::checkpoint::decode("saved checkpoint", VERSION, bytes)
    }

    /// The record's value.
    pub fn encode(&self) -> Vec<u8> {
        // strings, integers and maps with string keys: cannot fail
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A checkpoint in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Layout version; its name tells what the file is.
    #[serde(rename = "ghauditd_checkpoint")]
    pub version: u32,
    /// Which installation it is of: the genesis' instance.
    pub instance: String,
    /// The entity.
    pub entity: EntityName,
    /// The name of the copy, or `current`.
    pub name: String,
    /// When it was exported, epoch milliseconds.
    pub exported_ms: i64,
    /// The checkpoint, as JSON: its own version says how it is read.
    pub checkpoint: serde_json::Value,
    /// SHA-256 over all of the above, 64 hex digits.
    pub sha256: String,
}

/// A file that is no exported checkpoint, or a damaged one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Written by a newer program.
    #[error(
        "the file has version {0}, this program knows up to {VERSION}: use the ghauditd that wrote it"
    )]
    Newer(u64),
    /// Not the layout.
    #[error("the file is no checkpoint that `ghauditd checkpoint export` wrote: {0}")]
    Malformed(String),
    /// Changed since it was written.
    #[error(
        "the file is damaged: its checksum is {found}, written was {written}; take another copy of it"
    )]
    Checksum {
        /// Of what it holds.
        found: String,
        /// As it says.
        written: String,
    },
    /// The checkpoint within.
    #[error(transparent)]
    Checkpoint(#[from] DecodeError),
    /// The file names another entity than the checkpoint within.
    #[error("the file says that it is of entity {file}, the checkpoint in it is of {checkpoint}")]
    Entity {
        /// In the file.
        file: EntityName,
        /// In the checkpoint.
        checkpoint: EntityName,
    },
}

impl Export {
    /// What is written for a checkpoint.
    pub fn new(instance: String, name: String, exported_ms: i64, checkpoint: &Checkpoint) -> Self {
        let mut export = Self {
            version: VERSION,
            instance,
            entity: checkpoint.entity.clone(),
            name,
            exported_ms,
            // strings, integers and maps with string keys: cannot fail
            checkpoint: serde_json::to_value(checkpoint).unwrap_or_default(),
            sha256: String::new(),
        };
        export.sha256 = export.digest();
        export
    }

    /// Reads a file: layout, digest and the checkpoint within.
    pub fn read(bytes: &[u8]) -> Result<(Self, Checkpoint), ExportError> {
        let malformed = |error: serde_json::Error| ExportError::Malformed(error.to_string());
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
        match value.get("ghauditd_checkpoint").and_then(serde_json::Value::as_u64) {
            Some(version) if version > u64::from(VERSION) => {
                return Err(ExportError::Newer(version));
            }
            Some(1) => {}
            _ => return Err(ExportError::Malformed("it has no version".to_owned())),
        }
        let export: Self = serde_json::from_value(value).map_err(malformed)?;
        let found = export.digest();
        if found != export.sha256 {
            return Err(ExportError::Checksum { found, written: export.sha256 });
        }
        let inner = serde_json::to_vec(&export.checkpoint).map_err(malformed)?;
        let checkpoint = Checkpoint::decode(&inner)?;
        if checkpoint.entity != export.entity {
            return Err(ExportError::Entity { file: export.entity, checkpoint: checkpoint.entity });
        }
        Ok((export, checkpoint))
    }

    /// Over compact JSON with sorted members, so that a file may be indented or its members turned about.
    fn digest(&self) -> String {
        let parts = serde_json::json!([
            self.version,
            self.instance,
            self.entity,
            self.name,
            self.exported_ms,
            sorted(&self.checkpoint)
        ]);
        let digest = Sha256::digest(parts.to_string());
        digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

/// The same JSON with the members of its objects in the order of their names, whatever order a map keeps.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            let members: BTreeMap<&String, Value> =
                members.iter().map(|(name, value)| (name, sorted(value))).collect();
            members.into_iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entity(name: &str) -> EntityName {
        EntityName::try_from(name.to_owned()).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { sequence: 7, ..Checkpoint::empty(entity("acme")) }
    }

    fn saved() -> Saved {
        Saved {
            version: VERSION,
            at_ms: 1_790_000_000_000,
            by: Actor { user: "alice".to_owned(), host: "ops1".to_owned(), pid: 4711 },
            reason: Some("before the move".to_owned()),
            imported: false,
            checkpoint: Box::new(checkpoint()),
        }
    }

    const GOLDEN_SAVED: &str = concat!(
        r#"{"version":1,"at_ms":1790000000000,"by":{"user":"alice","host":"ops1","pid":4711},"reason":"#,
        r#""before the move","checkpoint":{"version":3,"entity":"acme","sequence":7,"github_now_ms":null"#,
        r#","lanes":{}}}"#,
    );
    const GOLDEN_EXPORT: &str = concat!(
        r#"{"ghauditd_checkpoint":1,"instance":"i","entity":"acme","name":"before","exported_ms":5,"c"#,
        r#"heckpoint":{"entity":"acme","github_now_ms":null,"lanes":{},"sequence":7,"version":3},"sha2"#,
        r#"56":"SHA"}"#,
    );

    /// The topic holds these bytes for years: a change of the layout needs a new version.
    #[test]
    fn golden_bytes() {
        assert_eq!(String::from_utf8(saved().encode()).unwrap(), GOLDEN_SAVED);
        assert_eq!(Saved::decode(GOLDEN_SAVED.as_bytes()).unwrap(), saved());
        let name = "before".parse().unwrap();
        assert_eq!(saved_key(&entity("acme"), &name), "#saved/acme/before");
        assert_eq!(parse_saved_key("#saved/acme/before"), Some((entity("acme"), name)));
    }

    #[test]
    fn golden_file() {
        let export = Export::new("i".to_owned(), "before".to_owned(), 5, &checkpoint());
        let golden = GOLDEN_EXPORT.replace("SHA", &export.sha256);
        assert_eq!(serde_json::to_string(&export).unwrap(), golden);
        let digest = "3562ecbc1d2432a9c3ef29019e7c8a3f5a9d55eca485dc4c34d70d4478c35e81";
        assert_eq!(export.sha256, digest);
        assert_eq!(Export::read(golden.as_bytes()).unwrap(), (export, checkpoint()));
    }

    #[test]
    fn what_is_not_a_copy_is_refused() {
        for key in ["#saved/acme", "#saved//x", "#saved/acme/current", "#saved/ACME/x", "acme"] {
            assert_eq!(parse_saved_key(key), None, "{key}");
        }
        for wrong in [
            GOLDEN_SAVED.replace(r#""version":3"#, r#""version":99"#),
            GOLDEN_SAVED.replace("at_ms", "when_ms"),
            String::new(),
        ] {
            assert!(matches!(Saved::decode(wrong.as_bytes()), Err(DecodeError::Malformed { .. })));
        }
        let newer = Saved::decode(br#"{"version":2}"#);
        assert!(matches!(newer, Err(DecodeError::Newer { found: 2, .. })));
    }

    #[test]
    fn a_file_that_is_indented_is_the_same_and_one_that_is_changed_is_not() {
        let export = Export::new("i".to_owned(), "before".to_owned(), 5, &checkpoint());
        let pretty = serde_json::to_string_pretty(&export).unwrap();
        assert!(Export::read(pretty.as_bytes()).is_ok());
        let told = |text: &str| Export::read(text.as_bytes()).unwrap_err().to_string();
        assert!(told(&pretty.replace(": 7", ": 8")).contains("damaged"), "sequence");
        assert!(told(&pretty.replace("\"i\"", "\"j\"")).contains("damaged"), "instance");
        assert!(
            told(&pretty.replace("_checkpoint\": 1", "_checkpoint\": 2")).contains("version 2")
        );
        assert!(told("{}").contains("no version"));
        assert!(told("not JSON").contains("no checkpoint that"));
        let mut other = export.clone();
        other.entity = entity("other");
        other.sha256 = other.digest();
        let told = told(&serde_json::to_string(&other).unwrap());
        assert!(told.contains("of entity other"), "{told}");
        let mut newer = export;
        newer.checkpoint["version"] = 99.into();
        newer.sha256 = newer.digest();
        let told = Export::read(&serde_json::to_vec(&newer).unwrap()).unwrap_err().to_string();
        assert!(told.contains("checkpoint has version 99"), "{told}");
    }

    proptest! {
        #[test]
        fn a_copy_is_read_back(
            at_ms in any::<i64>(), user in any::<String>(), host in any::<String>(), pid in any::<u32>(),
            reason in proptest::option::of(any::<String>()), imported in any::<bool>(), sequence in any::<u64>(),
            instance in any::<String>(), name in any::<String>(),
        ) {
            let checkpoint = Checkpoint { sequence, ..checkpoint() };
            let export = Export::new(instance, name, at_ms, &checkpoint);
            let bytes = serde_json::to_vec(&export).unwrap();
            prop_assert_eq!(Export::read(&bytes).unwrap(), (export, checkpoint.clone()));
            let by = Actor { user, host, pid };
            let saved = Saved { version: VERSION, at_ms, by, reason, imported, checkpoint: Box::new(checkpoint) };
            prop_assert_eq!(Saved::decode(&saved.encode()).unwrap(), saved);
        }

        #[test]
        fn arbitrary_bytes_never_panic(at in 0..GOLDEN_EXPORT.len(), byte in any::<u8>(), key in ".{0,20}") {
            let mut bytes = GOLDEN_EXPORT.as_bytes().to_vec();
            bytes[at] = byte;
            prop_assert!(Export::read(&bytes).is_err());
            if let Some((entity, name)) = parse_saved_key(&format!("#saved/{key}")) {
                prop_assert_eq!(saved_key(&entity, &name), format!("#saved/{key}"));
            }
        }
    }
}
