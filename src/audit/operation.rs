//! Records of the operations topic: what operators asked for, what became of it, and what they did by themselves.
//!
//! JSON objects with `kind` and `version`. Three kinds:
//! - a **request** asks the owner of an entity's state to change it; it is executed once or refused, never later than
//!   `expires_ms`;
//! - a **result** says what became of a request; it commits together with the change that it tells of;
//! - a **statement** tells of an act that needed no owner (a replay, a reconciliation, a rebuild).
//!
//! Key: the entity's name, or [`KEY_OF_ALL`] for what concerns no single one. All go to partition 0: an owner reads the
//! whole topic and takes what bears the names of its entities, so there is one order of all acts, and moving an entity
//! to another host moves nothing here. The topic is kept for good and archived.

use super::checkpoint::{Checkpoint, DecodeError};
use super::entity::{EntityName, Lane};
use super::header;
use super::record::{Record, Topic};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The only version so far.
pub const VERSION: u32 = 1;
/// The partition that all of these records go to.
pub const PARTITION: i32 = 0;
/// Key of what concerns no single entity: no entity can have this name.
pub const KEY_OF_ALL: &str = "#all";
/// Largest record, bytes: these records are for people and kept for good.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Longest reason, bytes.
pub const REASON_BYTES_MAX: usize = 1_000;

/// A record of the operations topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OperationRecord {
    /// Somebody wants something done.
    Request(Request),
    /// What became of it.
    Result(RequestResult),
    /// Somebody did something.
    Statement(Statement),
}

/// A change that the owner of the entity's state is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Layout version.
    pub version: u32,
    /// Random, names this request for ever.
    pub id: OperationId,
    /// Whose state is to be changed.
    pub entity: EntityName,
    /// Who asks.
    pub by: Actor,
    /// When, by the asker's clock, epoch milliseconds.
    pub at_ms: i64,
    /// From then on nobody waits for it and it is refused, epoch milliseconds.
    pub expires_ms: i64,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is to be done.
    pub operation: Operation,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestResult {
    /// Layout version.
    pub version: u32,
    /// The request.
    pub request: OperationId,
    /// Its entity.
    pub entity: EntityName,
    /// Who executed or refused it.
    pub by: Actor,
    /// When, by the owner's clock, epoch milliseconds.
    pub at_ms: i64,
    /// Whether it was done.
    pub outcome: Outcome,
    /// What was done, or why not, in words.
    pub message: String,
    /// The same for programs: depends on the operation.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Executed.
    Done,
    /// Nothing was changed.
    Refused,
}

/// An act that needed no owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Layout version.
    pub version: u32,
    /// Random, names this act for ever.
    pub id: OperationId,
    /// The entity, where it concerns a single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<EntityName>,
    /// Who did it.
    pub by: Actor,
    /// When, by the actor's clock, epoch milliseconds.
    pub at_ms: i64,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The act, as a word: `replay`, `reconcile`, `rebuild`, ...
    pub what: String,
    /// What the act wants to be remembered of it.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

/// What an owner can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Keeps a copy of the checkpoint under a name.
    SaveCheckpoint {
        /// The name.
        name: SavedName,
    },
    /// Keeps a checkpoint from a file under a name.
    ImportCheckpoint {
        /// The name.
        name: SavedName,
        /// The checkpoint.
        #[serde(with = "embedded")]
        checkpoint: Box<Checkpoint>,
    },
    /// Forgets a saved copy.
    DeleteCheckpoint {
        /// Its name.
        name: SavedName,
    },
    /// Makes slices and cursors those of a saved copy.
    RestoreCheckpoint {
        /// Its name.
        name: SavedName,
        /// Digest of the copy that the operator was shown: see [`Checkpoint::digest`].
        digest: String,
    },
    /// Reads time again.
    Reread {
        /// The lane.
        lane: Lane,
        /// First second.
        from_s: i64,
        /// Last second.
        to_s: i64,
    },
    /// What a newer command asks for: to be refused.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Who did something, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Login name, as the host says it: a hint for people, no proof.
    pub user: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} (pid {})", self.user, self.host, self.pid)
    }
}

/// Names a request or a statement: 32 lower-case hex digits, random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(String);

impl OperationId {
    /// From 128 random bits.
    pub fn new(random: u128) -> Self {
        Self(format!("{random:032x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an operation's id is 32 lower-case hex digits, not {0:?}")]
pub struct OperationIdError(String);

impl TryFrom<String> for OperationId {
    type Error = OperationIdError;

    fn try_from(text: String) -> Result<Self, OperationIdError> {
        let ok = text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if ok { Ok(Self(text)) } else { Err(OperationIdError(text)) }
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.0
    }
}

/// The name of a saved checkpoint: as an entity's name, and not `current`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SavedName(String);

impl SavedName {
    /// What stands for the checkpoint itself where a saved one may be named too.
    pub const CURRENT: &'static str = "current";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SavedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that no saved checkpoint can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "name {0:?} of a checkpoint is not 1 to 100 characters of a-z 0-9 . _ - beginning with a letter or digit, or \
     it is \"current\", which stands for the checkpoint itself"
)]
pub struct SavedNameError(String);

impl TryFrom<String> for SavedName {
    type Error = SavedNameError;

    fn try_from(name: String) -> Result<Self, SavedNameError> {
        if name == Self::CURRENT || EntityName::try_from(name.clone()).is_err() {
            return Err(SavedNameError(name));
        }
        Ok(Self(name))
    }
}

impl std::str::FromStr for SavedName {
    type Err = SavedNameError;

    fn from_str(name: &str) -> Result<Self, SavedNameError> {
        Self::try_from(name.to_owned())
    }
}

impl From<SavedName> for String {
    fn from(name: SavedName) -> Self {
        name.0
    }
}

/// A checkpoint within another record: read by its own rules, so that a newer one is refused by name.
pub(super) mod embedded {
    use super::Checkpoint;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(it: &Checkpoint, to: S) -> Result<S::Ok, S::Error> {
        it.serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Box<Checkpoint>, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        let bytes = serde_json::to_vec(&value).map_err(de::Error::custom)?;
        Checkpoint::decode(&bytes).map(Box::new).map_err(de::Error::custom)
    }
}

/// A record that is too large to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the operations topic of {0} bytes: more than {RECORD_BYTES_MAX}")]
pub struct TooLarge(usize);

impl OperationRecord {
    /// Reads a record's value. Arbitrary bytes are refused, never guessed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let what = "operation record";
        let malformed = |source| DecodeError::Malformed { what, source };
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(malformed(serde::de::Error::custom(TooLarge(bytes.len()))));
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version > VERSION {
            return Err(DecodeError::Newer { what, found: version, known: VERSION });
        }
        if version == 0 {
            return Err(malformed(serde::de::Error::custom("there is no version 0")));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// The record's value.
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        // strings, integers and maps with string keys: cannot fail, but for what is never written
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() > RECORD_BYTES_MAX { Err(TooLarge(bytes.len())) } else { Ok(bytes) }
    }

    /// The record, for whoever writes it.
    pub fn to_record(&self) -> Result<Record, TooLarge> {
        let key = Bytes::copy_from_slice(self.key().as_bytes());
        let json = Bytes::from_static(header::CONTENT_TYPE_JSON.as_bytes());
        let mut headers = vec![(header::CONTENT_TYPE, json)];
        if key != KEY_OF_ALL.as_bytes() {
            headers.insert(0, (header::ENTITY, key.clone()));
        }
        let (topic, partition) = (Topic::Operations, Some(PARTITION));
        Ok(Record { topic, partition, key, value: Some(Bytes::from(self.encode()?)), headers })
    }

    /// The record's key.
    pub fn key(&self) -> &str {
        match self {
            Self::Request(request) => request.entity.as_str(),
            Self::Result(result) => result.entity.as_str(),
            Self::Statement(statement) => {
                statement.entity.as_ref().map_or(KEY_OF_ALL, EntityName::as_str)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::json;

    fn entity() -> EntityName {
        EntityName::try_from("acme".to_owned()).unwrap()
    }

    fn name(text: &str) -> SavedName {
        text.parse().unwrap()
    }

    fn actor() -> Actor {
        Actor { user: "alice".to_owned(), host: "ops1".to_owned(), pid: 4711 }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { sequence: 7, ..Checkpoint::empty(entity()) }
    }

    fn request(operation: Operation) -> OperationRecord {
        OperationRecord::Request(Request {
            version: VERSION,
            id: OperationId::new(0xA1),
            entity: entity(),
            by: actor(),
            at_ms: 1_790_000_000_000,
            expires_ms: 1_790_000_120_000,
            reason: Some("ticket 42".to_owned()),
            operation,
        })
    }

    fn result(outcome: Outcome, details: serde_json::Value) -> OperationRecord {
        OperationRecord::Result(RequestResult {
            version: VERSION,
            request: OperationId::new(0xA1),
            entity: entity(),
            by: actor(),
            at_ms: 1_790_000_000_500,
            outcome,
            message: "saved".to_owned(),
            details,
        })
    }

    fn statement(entity: Option<EntityName>, details: serde_json::Value) -> OperationRecord {
        OperationRecord::Statement(Statement {
            version: VERSION,
            id: OperationId::new(u128::MAX),
            entity,
            by: actor(),
            at_ms: -1,
            reason: None,
            what: "replay".to_owned(),
            details,
        })
    }

    const GOLDEN_REQUEST: &str = concat!(
        r#"{"kind":"request","version":1,"id":"000000000000000000000000000000a1","entity":"acme","by":{"#,
        r#""user":"alice","host":"ops1","pid":4711},"at_ms":1790000000000,"expires_ms":1790000120000,"#,
        r#""reason":"ticket 42","operation":"#,
    );
    const GOLDEN_RESULT: &str = concat!(
        r#"{"kind":"result","version":1,"request":"000000000000000000000000000000a1","entity":"acme","b"#,
        r#"y":{"user":"alice","host":"ops1","pid":4711},"at_ms":1790000000500,"outcome":"done","message"#,
        r#"":"saved","details":{"entries":3}}"#,
    );
    const GOLDEN_STATEMENT: &str = concat!(
        r#"{"kind":"statement","version":1,"id":"ffffffffffffffffffffffffffffffff","by":{"user":"alice"#,
        r#"","host":"ops1","pid":4711},"at_ms":-1,"what":"replay","details":{"records":12}}"#,
    );

    /// The topic is kept for good and archived: a change of the layout needs a new version.
    #[test]
    fn golden_bytes() {
        let digest = "ab".to_owned();
        let operations = [
            (
                Operation::SaveCheckpoint { name: name("before") },
                r#"{"do":"save_checkpoint","name":"before"}"#,
            ),
            (
                Operation::DeleteCheckpoint { name: name("before") },
                r#"{"do":"delete_checkpoint","name":"before"}"#,
            ),
            (
                Operation::RestoreCheckpoint { name: name("before"), digest },
                r#"{"do":"restore_checkpoint","name":"before","digest":"ab"}"#,
            ),
            (
                Operation::Reread { lane: Lane::Git, from_s: 1, to_s: 2 },
                r#"{"do":"reread","lane":"git","from_s":1,"to_s":2}"#,
            ),
        ];
        for (operation, golden) in operations {
            golden_one(&request(operation), &format!("{GOLDEN_REQUEST}{golden}}}"));
        }
        golden_one(&result(Outcome::Done, json!({"entries": 3})), GOLDEN_RESULT);
        golden_one(&statement(None, json!({"records": 12})), GOLDEN_STATEMENT);
    }

    fn golden_one(record: &OperationRecord, golden: &str) {
        assert_eq!(String::from_utf8(record.encode().unwrap()).unwrap(), golden);
        assert_eq!(OperationRecord::decode(golden.as_bytes()).unwrap(), *record);
    }

    /// An imported checkpoint is written in the layout of the program that asks.
    #[test]
    fn a_checkpoint_within_a_request_keeps_its_own_version() {
        let record = request(Operation::ImportCheckpoint {
            name: name("before"),
            checkpoint: Box::new(checkpoint()),
        });
        let bytes = record.encode().unwrap();
        assert_eq!(OperationRecord::decode(&bytes).unwrap(), record);
        let newer = String::from_utf8(bytes).unwrap().replace(
            &format!(r#""checkpoint":{{"version":{}"#, crate::audit::checkpoint::VERSION),
            r#""checkpoint":{"version":99"#,
        );
        let refused = OperationRecord::decode(newer.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains("checkpoint has version 99"), "{refused}");
    }

    #[test]
    fn keys_are_names_of_entities_or_of_none() {
        assert_eq!(request(Operation::SaveCheckpoint { name: name("x") }).key(), "acme");
        assert_eq!(result(Outcome::Refused, json!(null)).key(), "acme");
        assert_eq!(statement(Some(entity()), json!(null)).key(), "acme");
        assert_eq!(statement(None, json!(null)).key(), "#all");
        assert!(EntityName::try_from(KEY_OF_ALL.to_owned()).is_err());
        let record = statement(None, json!(null)).to_record().unwrap();
        assert_eq!((record.partition, record.headers.len()), (Some(0), 1));
        let record = statement(Some(entity()), json!(null)).to_record().unwrap();
        assert_eq!(record.headers[0], (header::ENTITY, Bytes::from_static(b"acme")));
    }

    #[test]
    fn what_a_newer_command_asks_for_is_known_as_unknown() {
        let bytes = format!(r#"{GOLDEN_REQUEST}{{"do":"fly","to":"the moon"}}}}"#);
        let read = OperationRecord::decode(bytes.as_bytes()).unwrap();
        assert_eq!(read, request(Operation::Unknown));
    }

    #[test]
    fn what_is_not_the_layout_is_refused() {
        for wrong in [
            GOLDEN_RESULT.replace("done", "maybe"),
            GOLDEN_RESULT.replace("\"pid\"", "\"pod\""),
            GOLDEN_RESULT.replace(r#""kind":"result""#, r#""kind":"rumour""#),
            GOLDEN_RESULT.replace("00a1", "00A1"),
            GOLDEN_RESULT.replace("acme", "#all"),
            GOLDEN_RESULT.replace(r#""version":1"#, r#""version":0"#),
            GOLDEN_RESULT.replace(r#""at_ms""#, r#""more":1,"at_ms""#),
            String::new(),
            "[]".to_owned(),
            format!("{{\"a\":\"{}\"}}", "x".repeat(RECORD_BYTES_MAX)),
        ] {
            let refused = OperationRecord::decode(wrong.as_bytes());
            assert!(matches!(refused, Err(DecodeError::Malformed { .. })), "{wrong:.200}");
        }
        let newer = OperationRecord::decode(br#"{"kind":"dream","version":2}"#);
        assert!(matches!(newer, Err(DecodeError::Newer { found: 2, known: 1, .. })));
        let large = statement(None, json!("x".repeat(RECORD_BYTES_MAX)));
        assert!(large.encode().is_err());
    }

    #[test]
    fn names_of_saved_checkpoints_are_plain_and_not_current() {
        for good in ["before-upgrade", "7", "current-2"] {
            assert_eq!(name(good).as_str(), good);
        }
        for bad in ["", "current", "a/b", "A", "#x"] {
            let told = bad.parse::<SavedName>().unwrap_err().to_string();
            assert!(told.contains("a-z 0-9"), "{told}");
        }
    }

    fn details() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|it| json!(it)),
            any::<String>().prop_map(|it| json!(it)),
            any::<bool>().prop_map(|it| json!(it)),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(|it| json!(it)),
                proptest::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|it| json!(it)),
            ]
        })
    }

    fn operations() -> impl Strategy<Value = Operation> {
        let names = "[a-z0-9][a-z0-9._-]{0,9}x".prop_map(|it| name(&it));
        (names, any::<String>(), any::<(i64, i64)>(), 0..5).prop_map(
            |(name, digest, (from_s, to_s), which)| match which {
                0 => Operation::SaveCheckpoint { name },
                1 => Operation::DeleteCheckpoint { name },
                2 => Operation::RestoreCheckpoint { name, digest },
                3 => Operation::ImportCheckpoint { name, checkpoint: Box::new(checkpoint()) },
                _ => Operation::Reread { lane: Lane::Web, from_s, to_s },
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_is_read_back(
            id in any::<u128>(), user in any::<String>(), host in any::<String>(), pid in any::<u32>(),
            times in any::<(i64, i64)>(), reason in option::of(any::<String>()), which in 0..3,
            operation in operations(), details in details(), what in any::<String>(), whole in any::<bool>(),
        ) {
            let (id, by) = (OperationId::new(id), Actor { user, host, pid });
            let (at_ms, expires_ms) = times;
            let (version, entity) = (VERSION, entity());
            let record = match which {
                0 => OperationRecord::Request(
                    Request { version, id, entity, by, at_ms, expires_ms, reason, operation }),
                1 => OperationRecord::Result(RequestResult {
                    version, request: id, entity, by, at_ms, details, message: what,
                    outcome: if whole { Outcome::Done } else { Outcome::Refused },
                }),
                _ => OperationRecord::Statement(
                    Statement { version, id, entity: whole.then_some(entity), by, at_ms, reason, what, details }),
            };
            let bytes = record.encode().unwrap();
            prop_assert_eq!(OperationRecord::decode(&bytes).unwrap(), record);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop_oneof![
                vec(any::<u8>(), 0..100),
                (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
                    let mut bytes = GOLDEN_RESULT.as_bytes().to_vec();
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                    bytes
                }),
            ],
        ) {
            if let Ok(read) = OperationRecord::decode(&bytes) {
                let again = read.encode().unwrap();
                prop_assert_eq!(OperationRecord::decode(&again).unwrap(), read);
            }
        }
    }
}
