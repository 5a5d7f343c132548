//! What is kept of an entry while two lists are compared: some 80 bytes, never its body.

use crate::audit::header::CE_TYPE_UNKNOWN;
use crate::audit::{Entry, Fingerprint, Lane, SourceKind, Text};
use std::collections::HashMap;

/// Longest id that is shown whole, bytes: GitHub's have 22.
const ID_BYTES_MAX: usize = 200;
/// Longest action that is counted by itself, bytes.
const ACTION_BYTES_MAX: usize = 100;
/// Most actions that are counted by themselves: GitHub documents about 1,200.
const ACTIONS_MAX: usize = 20_000;
/// What further actions are counted under.
const OTHER_ACTIONS: &str = "(other actions)";

/// An entry of either list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its id and body.
    pub fingerprint: Fingerprint,
    /// Entry time, epoch milliseconds; `None` where it carries none.
    pub time_ms: Option<i64>,
    /// The lane that it is counted in.
    pub lane: Lane,
    /// Its action, by its number in [`Actions`].
    pub action: u32,
    /// Its id, for people: shortened when it is long.
    pub id: String,
    /// Of ours: when it was planned, host's clock, epoch milliseconds; 0 for GitHub's.
    pub ingest_ms: i64,
    /// More about ours; all false for GitHub's.
    pub marks: Marks,
}

/// What is known of an entry of ours besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// A sweep found it.
    pub swept: bool,
    /// One of its times lies outside of the range: GitHub may rightly list it elsewhere.
    pub also_outside: bool,
    /// It is in Kafka behind the end of the archive: not archived yet.
    pub behind_archive: bool,
}

/// Bytes of an encoded item before its id.
const HEAD_BYTES: usize = Fingerprint::LEN + 8 + 8 + 1 + 1 + 4 + 2;

impl Item {
    /// An entry as GitHub's list shows it.
    pub fn of_github(entry: &Entry, lane: Lane, actions: &mut Actions) -> Self {
        let (id, _) = entry.id_or_derived();
        let action = entry.action.as_ref().map_or(CE_TYPE_UNKNOWN, Text::as_str);
        Self {
            fingerprint: Fingerprint::new(&id, &entry.body, SourceKind::Rest),
            time_ms: entry.time_ms(),
            lane,
            action: actions.number(action),
            id: shown(&id),
            ingest_ms: 0,
            marks: Marks::default(),
        }
    }

    /// Epoch second of its time.
    pub fn time_s(&self) -> Option<i64> {
        self.time_ms.map(|ms| ms.div_euclid(1000))
    }

    /// Appends it. Read back by [`Self::decode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let marks = u8::from(self.marks.swept)
            | u8::from(self.marks.also_outside) << 1
            | u8::from(self.marks.behind_archive) << 2
            | u8::from(self.time_ms.is_some()) << 3;
        let lane = match self.lane {
            Lane::Web => 0,
            Lane::Git => 1,
            Lane::GraphQl => 2,
        };
        out.extend_from_slice(self.fingerprint.as_bytes());
        out.extend_from_slice(&self.time_ms.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.ingest_ms.to_le_bytes());
        out.extend_from_slice(&[lane, marks]);
        out.extend_from_slice(&self.action.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.id.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(self.id.as_bytes());
    }

    /// The first item of these bytes, and the bytes behind it; `None` where they end.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let (fingerprint, head) = head.split_first_chunk::<{ Fingerprint::LEN }>()?;
        let (time, head) = head.split_first_chunk::<8>()?;
        let (ingest, head) = head.split_first_chunk::<8>()?;
        let (&[lane, marks], head) = head.split_first_chunk::<2>()?;
        let (action, head) = head.split_first_chunk::<4>()?;
        let id_bytes = u16::from_le_bytes(*head.first_chunk::<2>()?);
        let (id, rest) = rest.split_at_checked(usize::from(id_bytes))?;
        let item = Self {
            fingerprint: Fingerprint::from_bytes(*fingerprint),
            time_ms: (marks & 8 > 0).then_some(i64::from_le_bytes(*time)),
            lane: match lane {
                0 => Lane::Web,
                1 => Lane::Git,
                2 => Lane::GraphQl,
                _ => return None,
            },
            action: u32::from_le_bytes(*action),
            id: std::str::from_utf8(id).ok()?.to_owned(),
            ingest_ms: i64::from_le_bytes(*ingest),
            marks: Marks {
                swept: marks & 1 > 0,
                also_outside: marks & 2 > 0,
                behind_archive: marks & 4 > 0,
            },
        };
        Some((item, rest))
    }
}

/// An id for people.
pub(super) fn shown(id: &[u8]) -> String {
    shortened(&String::from_utf8_lossy(id), ID_BYTES_MAX)
}

fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max);
    format!("{}...", text.get(..end).unwrap_or_default())
}

/// The actions that were met, by number.
#[derive(Debug, Clone, Default)]
pub struct Actions {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Actions {
    /// The number of an action.
    pub fn number(&mut self, action: &str) -> u32 {
        if let Some(&number) = self.numbers.get(action) {
            return number;
        }
        let name = if self.names.len() < ACTIONS_MAX {
            shortened(action, ACTION_BYTES_MAX)
        } else {
            OTHER_ACTIONS.to_owned()
        };
        if let Some(&number) = self.numbers.get(&name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    /// The name of a number.
    pub fn name(&self, number: u32) -> &str {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        self.names.get(at).map_or(OTHER_ACTIONS, String::as_str)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use proptest::prelude::*;

    /// Any item.
    pub(crate) fn items() -> impl Strategy<Value = Item> {
        (
            ("[a-c]{1,2}", 0..3_u8, any::<bool>()),
            (proptest::option::of(-5_i64..200_000), any::<i64>()),
            (any::<bool>(), 0..4_u32),
            any::<[bool; 3]>(),
        )
            .prop_map(|((id, body, rest), (time_ms, ingest_ms), (web, action), marks)| {
                let kind = if rest { SourceKind::Rest } else { SourceKind::Push };
                Item {
                    fingerprint: Fingerprint::new(id.as_bytes(), &[body], kind),
                    time_ms,
                    lane: if web { Lane::Web } else { Lane::Git },
                    action,
                    id,
                    ingest_ms,
                    marks: Marks {
                        swept: marks[0],
                        also_outside: marks[1],
                        behind_archive: marks[2],
                    },
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::items;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_ids_are_shortened_and_actions_numbered_once() {
        let id = shown("ü".repeat(300).as_bytes());
        assert!(id.ends_with("...") && id.len() <= ID_BYTES_MAX + 3);
        let mut actions = Actions::default();
        let (one, two) = (actions.number("repo.create"), actions.number("org.add"));
        assert_eq!((one, two, actions.number("repo.create")), (0, 1, 0));
        assert_eq!((actions.name(1), actions.name(9)), ("org.add", OTHER_ACTIONS));
    }

    #[test]
    fn more_actions_than_there_can_be_cost_no_more_memory() {
        let mut actions = Actions::default();
        for n in 0..ACTIONS_MAX + 100 {
            actions.number(&format!("a{n}"));
        }
        assert_eq!(actions.names.len(), ACTIONS_MAX + 1);
        let further = actions.number("further");
        assert_eq!(actions.name(further), OTHER_ACTIONS);
    }

    proptest! {
        #[test]
        fn items_are_read_back(items in proptest::collection::vec(items(), 0..20)) {
            let mut bytes = Vec::new();
            for item in &items {
                item.encode(&mut bytes);
            }
            let (mut rest, mut read) = (bytes.as_slice(), Vec::new());
            while let Some((item, more)) = Item::decode(rest) {
                read.push(item);
                rest = more;
            }
            prop_assert_eq!(read, items);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Item::decode(&bytes));
        }
    }
}
