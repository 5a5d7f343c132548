//! Records of the checkpoint topic: an entity's checkpoint, the owner of a partition, the genesis.
//!
//! All three are JSON objects with a `version`. Keys: the entity's name for a checkpoint, `#owner/<partition>` for an
//! owner record, `#genesis` for the genesis, `#saved/<entity>/<name>` for a copy ([`super::saved`]); entity names cannot
//! begin with `#`.
//! A version that is newer than the program is refused, never guessed.

use super::entity::{EntityName, Lane};
use super::interval::Intervals;
use super::slice::Slice;
use super::sweep::Swept;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The version of the checkpoint's layout that this program writes. It reads version 1 too, which knew no sweeps, and
/// version 2, which knew no requests.
pub const VERSION: u32 = 3;
/// The only version of the layouts of owner record and genesis so far.
pub const STATE_VERSION: u32 = 1;

/// An entity's saved state. One record per transaction of that entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Layout version.
    pub version: u32,
    /// The entity.
    pub entity: EntityName,
    /// Sequence of the last record committed; the first record gets 1.
    pub sequence: u64,
    /// GitHub's clock at the last commit, epoch milliseconds.
    pub github_now_ms: Option<i64>,
    /// The lanes that have begun.
    pub lanes: BTreeMap<Lane, LaneState>,
    /// Offset on the operations topic after the last request of this entity that was executed or refused (version 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations_next: Option<i64>,
}

/// A lane's saved state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneState {
    /// GitHub's now when the lane began (T0 + settling), epoch seconds.
    pub began_s: i64,
    /// Time that has been read once.
    pub collected: Intervals,
    /// Open slices, by id. Exactly one is a tail.
    pub slices: Vec<Slice>,
    /// Id of the next slice.
    pub next_slice: u64,
    /// Backfills that are being read, or were wholly empty and are asked again.
    pub backfills: Vec<Backfill>,
    /// Id of the next backfill.
    pub next_backfill: u64,
    /// Entries committed.
    pub entries: u64,
    /// What was read again at each age, in rising order of age (version 2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swept: Vec<Swept>,
}

/// A span that was not read when it was new, read in one or more closed slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// Number within the lane.
    pub id: u64,
    /// First second.
    pub from_s: i64,
    /// Last second.
    pub to_s: i64,
    /// Second before which loss is no gap: the retention edge when the lane began.
    pub gap_floor_s: i64,
    /// Entries that its slices showed.
    pub entries: u64,
    /// When it was last found wholly empty (GitHub's now, epoch seconds): unconfirmed, asked again daily.
    pub empty_at_s: Option<i64>,
}

/// Who owns a checkpoint partition. Committed first, before anything else is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Layout version.
    pub version: u32,
    /// Random id of this process's run.
    pub run: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Local time of the start, epoch milliseconds.
    pub started_ms: i64,
}

/// The record that proves that a state topic is the one that this installation began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Layout version.
    pub version: u32,
    /// Random id of this installation.
    pub instance: String,
    /// Names of all topics at the first run, with their partition counts.
    pub topics: BTreeMap<String, i32>,
    /// Local time of the first run, epoch milliseconds.
    pub created_ms: i64,
}

/// Key of the genesis record.
pub const GENESIS_KEY: &str = "#genesis";

/// Key of the owner record of a checkpoint partition.
pub fn owner_key(partition: i32) -> String {
    format!("#owner/{partition}")
}

/// A state record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error(
        "{what} has version {found}, this program knows up to {known}: start the newer ghauditd that wrote it"
    )]
    Newer {
        /// What was read.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// Not the layout.
    #[error("{what} cannot be read: {source}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a versioned record.
pub(super) fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    known: u32,
    bytes: &'a [u8],
) -> Result<T, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let malformed = |source| DecodeError::Malformed { what, source };
    let Version { version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if version > known {
        return Err(DecodeError::Newer { what, found: version, known });
    }
    if version == 0 {
        return Err(malformed(serde::de::Error::custom("there is no version 0")));
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

macro_rules! json_record {
    ($type:ty, $what:literal, $version:expr) => {
        impl $type {
            /// Reads the record's value. What an older program wrote is of this program's version when it is read.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let read: Self = decode($what, $version, bytes)?;
                Ok(Self { version: $version, ..read })
            }

            /// The record's value.
            pub fn encode(&self) -> Vec<u8> {
                // strings, integers and maps with string keys: cannot fail
                serde_json::to_vec(self).unwrap_or_default()
            }
        }
    };
}
impl Checkpoint {
    /// The checkpoint of an entity of which nothing was collected.
    pub fn empty(entity: EntityName) -> Self {
        Self {
            version: VERSION,
            entity,
            sequence: 0,
            github_now_ms: None,
            lanes: BTreeMap::new(),
            operations_next: None,
        }
    }

    /// SHA-256 of the record's value, 64 hex digits: tells one checkpoint from another.
    pub fn digest(&self) -> String {
        Sha256::digest(self.encode())
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

json_record!(Checkpoint, "checkpoint", VERSION);
json_record!(Owner, "owner record", STATE_VERSION);
json_record!(Genesis, "genesis", STATE_VERSION);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::cursor::Cursor;
    use crate::audit::slice::{Query, SliceKind, Walk};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn example() -> Checkpoint {
        let query = Query { from_s: 1_790_000_000, to_s: None };
        let walk = Walk {
            query,
            began_s: None,
            cursor: Cursor::new("MS43OWUxMnxh".to_owned()),
            new_entries: 7,
            newest_s: Some(1_790_000_100),
            first_s: None,
            last_s: Some(1_790_000_099),
            in_order: true,
        };
        let tail = Slice {
            id: 1,
            kind: SliceKind::Tail,
            from_s: 1_790_000_000,
            to_s: None,
            backfill: None,
            start_s: 1_790_000_000,
            walk: Some(walk),
            confirming: false,
            gap_to_s: None,
            entries: 7,
            opened_s: None,
            sweep_age_s: None,
        };
        let closed = Slice {
            id: 0,
            kind: SliceKind::Backfill,
            from_s: 1_771_424_000,
            to_s: Some(1_790_000_000),
            backfill: Some(0),
            start_s: 1_771_424_000,
            walk: None,
            confirming: true,
            gap_to_s: None,
            entries: 0,
            opened_s: Some(1_790_000_600),
            sweep_age_s: None,
        };
        let sweep = Slice {
            sweep_age_s: Some(600),
            ..Slice::new(
                2,
                SliceKind::Sweep,
                1_789_999_000,
                Some(1_790_000_000),
                Some(1_790_000_600),
            )
        };
        let mut collected = Intervals::default();
        collected.insert(1_790_000_000, 1_790_000_100);
        let mut swept = Intervals::default();
        swept.insert(1_771_424_000, 1_789_999_000);
        let lane = LaneState {
            began_s: 1_790_000_600,
            collected,
            slices: vec![closed, tail, sweep],
            next_slice: 3,
            backfills: vec![Backfill {
                id: 0,
                from_s: 1_771_424_000,
                to_s: 1_790_000_000,
                gap_floor_s: 1_774_448_600,
                entries: 0,
                empty_at_s: None,
            }],
            next_backfill: 1,
            entries: 7,
            swept: vec![Swept { age_s: 600, spans: swept }],
        };
        Checkpoint {
            version: VERSION,
            entity: EntityName::try_from("acme".to_owned()).unwrap(),
            sequence: 7,
            github_now_ms: Some(1_790_000_700_000),
            lanes: BTreeMap::from([(Lane::Web, lane)]),
            operations_next: Some(42),
        }
    }

    /// As the program before sweeps wrote it: read for ever.
    const GOLDEN_VERSION_1: &str = concat!(
        r#"{"version":1,"entity":"acme","sequence":7,"github_now_ms":1790000700000,"lanes":{"web":{"b"#,
        r#"egan_s":1790000600,"collected":[[1790000000,1790000100]],"slices":[{"id":0,"kind":"backfil"#,
        r#"l","from_s":1771424000,"to_s":1790000000,"backfill":0,"start_s":1771424000,"walk":null,"co"#,
        r#"nfirming":true,"entries":0},{"id":1,"kind":"tail","from_s":1790000000,"to_s":null,"backfil"#,
        r#"l":null,"start_s":1790000000,"walk":{"query":{"from_s":1790000000,"to_s":null},"cursor":"M"#,
        r#"S43OWUxMnxh","new_entries":7,"newest_s":1790000100,"last_s":1790000099,"in_order":true},"c"#,
        r#"onfirming":false,"entries":7}],"next_slice":2,"backfills":[{"id":0,"from_s":1771424000,"to"#,
        r#"_s":1790000000,"gap_floor_s":1774448600,"entries":0,"empty_at_s":null}],"next_backfill":1,"#,
        r#""entries":7}}}"#,
    );
    /// As the program before requests wrote it.
    const GOLDEN_VERSION_2: &str = concat!(
        r#"{"version":2,"entity":"acme","sequence":7,"github_now_ms":1790000700000,"lanes":{"web":{"beg"#,
        r#"an_s":1790000600,"collected":[[1790000000,1790000100]],"slices":[{"id":0,"kind":"backfill",""#,
        r#"from_s":1771424000,"to_s":1790000000,"backfill":0,"start_s":1771424000,"walk":null,"confirmi"#,
        r#"ng":true,"entries":0,"opened_s":1790000600},{"id":1,"kind":"tail","from_s":1790000000,"to_s""#,
        r#":null,"backfill":null,"start_s":1790000000,"walk":{"query":{"from_s":1790000000,"to_s":null}"#,
        r#","cursor":"MS43OWUxMnxh","new_entries":7,"newest_s":1790000100,"last_s":1790000099,"in_order"#,
        r#"":true},"confirming":false,"entries":7},{"id":2,"kind":"sweep","from_s":1789999000,"to_s":17"#,
        r#"90000000,"backfill":null,"start_s":1789999000,"walk":null,"confirming":false,"entries":0,"op"#,
        r#"ened_s":1790000600,"sweep_age_s":600}],"next_slice":3,"backfills":[{"id":0,"from_s":17714240"#,
        r#"00,"to_s":1790000000,"gap_floor_s":1774448600,"entries":0,"empty_at_s":null}],"next_backfill"#,
        r#"":1,"entries":7,"swept":[{"age_s":600,"spans":[[1771424000,1789999000]]}]}}}"#,
    );
    /// What version 3 writes: version 2, and how far the operations topic is done.
    fn golden_checkpoint() -> String {
        let body = GOLDEN_VERSION_2.strip_suffix('}').unwrap();
        format!("{},\"operations_next\":42}}", body.replacen(":2,", ":3,", 1))
    }

    const GOLDEN_OWNER: &str = r#"{"version":1,"run":"r","host":"h","pid":42,"started_ms":-1}"#;
    const GOLDEN_GENESIS: &str =
        r#"{"version":1,"instance":"i","topics":{"a":1,"b":12},"created_ms":1790000000000}"#;

    fn owner() -> Owner {
        Owner { version: 1, run: "r".to_owned(), host: "h".to_owned(), pid: 42, started_ms: -1 }
    }

    fn genesis() -> Genesis {
        Genesis {
            version: 1,
            instance: "i".to_owned(),
            topics: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 12)]),
            created_ms: 1_790_000_000_000,
        }
    }

    /// Topics hold these bytes for years: a change of the layout needs a new version.
    #[test]
    fn golden_bytes() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(example().encode()), golden_checkpoint());
        assert_eq!(text(owner().encode()), GOLDEN_OWNER);
        assert_eq!(text(genesis().encode()), GOLDEN_GENESIS);
        assert_eq!(Checkpoint::decode(golden_checkpoint().as_bytes()).unwrap(), example());
        assert_eq!(Owner::decode(GOLDEN_OWNER.as_bytes()).unwrap(), owner());
        assert_eq!(Genesis::decode(GOLDEN_GENESIS.as_bytes()).unwrap(), genesis());
        assert_eq!(owner_key(11), "#owner/11");
    }

    /// An installation that ran before sweeps goes on: nothing was read again yet.
    #[test]
    fn version_1_is_read_as_what_knew_no_sweeps() {
        let read = Checkpoint::decode(GOLDEN_VERSION_1.as_bytes()).unwrap();
        let mut expected = example();
        let lane = expected.lanes.get_mut(&Lane::Web).unwrap();
        lane.swept.clear();
        lane.slices.truncate(2);
        lane.slices[0].opened_s = None;
        lane.next_slice = 2;
        expected.operations_next = None;
        assert_eq!(read, expected);
        assert_eq!(read.version, 3);
    }

    #[test]
    fn version_2_is_read_as_what_knew_no_requests() {
        let read = Checkpoint::decode(GOLDEN_VERSION_2.as_bytes()).unwrap();
        assert_eq!(read, Checkpoint { operations_next: None, ..example() });
        assert_eq!(read.version, 3);
    }

    #[test]
    fn a_newer_version_is_refused_by_name_even_when_its_layout_is_another() {
        for bytes in [&b"{\"version\":4}"[..], b"{\"new\":[1],\"version\":99}"] {
            let refused = Checkpoint::decode(bytes).unwrap_err();
            assert!(matches!(refused, DecodeError::Newer { what: "checkpoint", .. }), "{refused}");
            assert!(matches!(Owner::decode(bytes), Err(DecodeError::Newer { .. })));
            assert!(matches!(Genesis::decode(bytes), Err(DecodeError::Newer { .. })));
        }
    }

    #[test]
    fn what_is_not_the_layout_is_refused() {
        for wrong in [
            GOLDEN_OWNER.replace(":1,", ":0,"),
            GOLDEN_OWNER.replace("pid", "pud"),
            GOLDEN_OWNER.replace('}', ",\"more\":1}"),
            GOLDEN_OWNER.replace("42", "-42"),
            GOLDEN_OWNER.replace("\"version\":1,", ""),
            GOLDEN_OWNER.replace("\"version\":1", "\"version\":1,\"version\":1"),
            String::new(),
        ] {
            let refused = Owner::decode(wrong.as_bytes());
            assert!(matches!(refused, Err(DecodeError::Malformed { .. })), "{wrong}");
        }
    }

    /// Found by the fuzz target `checkpoint_of_fields`: a query's were ignored.
    #[test]
    fn an_unknown_member_is_refused_wherever_it_stands() {
        for (at, _) in GOLDEN_VERSION_2.match_indices('{') {
            let (before, after) = GOLDEN_VERSION_2.split_at(at + 1);
            let more = Checkpoint::decode(format!("{before}\"more\":1,{after}").as_bytes());
            assert!(matches!(more, Err(DecodeError::Malformed { .. })), "{before}");
        }
    }

    prop_compose! {
        fn any_walk()(
            from_s in any::<i64>(), to_s in option::of(any::<i64>()), cursor in option::of(".{1,40}"),
            new_entries in any::<u64>(), newest_s in option::of(any::<i64>()), last_s in option::of(any::<i64>()),
            in_order in any::<bool>(), began_s in option::of(any::<i64>()),
            first_s in option::of(any::<i64>()),
        ) -> Walk {
            let (query, cursor) = (Query { from_s, to_s }, cursor.and_then(Cursor::new));
            Walk { query, began_s, cursor, new_entries, newest_s, first_s, last_s, in_order }
        }
    }

    prop_compose! {
        fn any_slice()(
            id in any::<u64>(), from_s in any::<i64>(), to_s in option::of(any::<i64>()),
            backfill in option::of(any::<u64>()), start_s in any::<i64>(), walk in option::of(any_walk()),
            confirming in any::<bool>(), gap_to_s in option::of(any::<i64>()), entries in any::<u64>(),
            kind in prop_oneof![Just(SliceKind::Tail), Just(SliceKind::Backfill), Just(SliceKind::Sweep)],
            ages in any::<(Option<i64>, Option<i64>)>(),
        ) -> Slice {
            let (opened_s, sweep_age_s) = ages;
            Slice {
                id, kind, from_s, to_s, backfill, start_s, walk, confirming, entries, gap_to_s, opened_s, sweep_age_s,
            }
        }
    }

    prop_compose! {
        fn any_backfill()(
            id in any::<u64>(), from_s in any::<i64>(), to_s in any::<i64>(), gap_floor_s in any::<i64>(),
            entries in any::<u64>(), empty_at_s in option::of(any::<i64>()),
        ) -> Backfill {
            Backfill { id, from_s, to_s, gap_floor_s, entries, empty_at_s }
        }
    }

    prop_compose! {
        fn any_lane()(
            began_s in any::<i64>(), spans in vec(any::<(i64, i64)>(), 0..5), slices in vec(any_slice(), 0..4),
            next_slice in any::<u64>(), backfills in vec(any_backfill(), 0..3), next_backfill in any::<u64>(),
            entries in any::<u64>(), ages in vec(any::<i64>(), 0..3),
        ) -> LaneState {
            let mut collected = Intervals::default();
            for (from, to) in spans {
                collected.insert(from, to);
            }
            let swept = ages.into_iter().map(|age_s| Swept { age_s, spans: collected.clone() }).collect();
            LaneState { began_s, collected, slices, next_slice, backfills, next_backfill, entries, swept }
        }
    }

    proptest! {
        #[test]
        fn a_checkpoint_is_read_back(
            sequence in any::<u64>(),
            github_now_ms in option::of(any::<i64>()),
            web in option::of(any_lane()),
            git in option::of(any_lane()),
            operations_next in option::of(any::<i64>()),
        ) {
            let lanes = [(Lane::Web, web), (Lane::Git, git)];
            let lanes = lanes.into_iter().filter_map(|(lane, state)| Some((lane, state?))).collect();
            let entity = EntityName::try_from("acme".to_owned()).unwrap();
            let checkpoint = Checkpoint {
                version: VERSION, entity, sequence, github_now_ms, lanes, operations_next,
            };
            prop_assert_eq!(Checkpoint::decode(&checkpoint.encode()).unwrap(), checkpoint);
        }

        #[test]
        fn owner_and_genesis_are_read_back(
            texts in any::<[String; 2]>(), pid in any::<u32>(), at_ms in any::<i64>(),
            topics in prop::collection::btree_map(any::<String>(), any::<i32>(), 0..5),
        ) {
            let [run, host] = texts;
            let genesis = Genesis { version: STATE_VERSION, instance: run.clone(), topics, created_ms: at_ms };
            prop_assert_eq!(Genesis::decode(&genesis.encode()).unwrap(), genesis);
            let owner = Owner { version: STATE_VERSION, run, host, pid, started_ms: at_ms };
            prop_assert_eq!(Owner::decode(&owner.encode()).unwrap(), owner);
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(Checkpoint::decode(&bytes).is_err());
            prop_assert!(Owner::decode(&bytes).is_err());
            prop_assert!(Genesis::decode(&bytes).is_err());
        }

        /// A damaged record is refused or read as another one of the same layout: it never panics.
        #[test]
        fn changed_bytes_never_panic(at in 0..GOLDEN_VERSION_2.len(), byte in any::<u8>()) {
            let mut bytes = GOLDEN_VERSION_2.as_bytes().to_vec();
            bytes[at] = byte;
            if let Ok(read) = Checkpoint::decode(&bytes) {
                prop_assert_eq!(Checkpoint::decode(&read.encode()).unwrap(), read);
            }
        }
    }
}
