//! Reads state back: checkpoints, owners and genesis from the checkpoint topic, and how far the data topics are.
//!
//! An error, a missing topic or a time-out is never "an empty checkpoint".

use super::consumer::{ReadError, ReadFrom, RecordView, TopicReader};
use super::scout::{Ended, blocking};
use super::settings::Settings;
use crate::audit::checkpoint::{DecodeError, GENESIS_KEY, owner_key};
use crate::audit::saved::{Saved, SavedCopies, parse_saved_key};
use crate::audit::{Checkpoint, EntityName, EntityState, Genesis, Owner, Topic, header};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Offsets at the end of a data partition that are searched for an entity's last sequence at first.
const TAIL_OFFSETS: i64 = 200;
/// Tombstones and transaction markers may fill a tail: it grows by this factor until a record is found.
const TAIL_GROWTH: i64 = 10;

/// Why state could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Kafka did not give it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record was written by a newer program, or is damaged.
    #[error("{topic}/{partition}, key {key:?}: {source}")]
    Decode {
        /// The checkpoint topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// The record's key.
        key: String,
        /// Why.
        source: DecodeError,
    },
    /// A record that this program does not know.
    #[error(
        "{topic}/{partition} holds a record with key {key:?}, which this ghauditd does not know: a newer one or \
         another program wrote it"
    )]
    UnknownKey {
        /// The checkpoint topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// The record's key.
        key: String,
    },
    /// State in a place where nobody would look for it.
    #[error(
        "{key:?} stands in {topic}/{partition}, it belongs in partition {right}: the topic was recreated or grown \
         with another partition count; restore it as it was"
    )]
    WrongPartition {
        /// The checkpoint topic.
        topic: String,
        /// Where it was found.
        partition: i32,
        /// Where it belongs.
        right: i32,
        /// The record's key.
        key: String,
    },
    /// The runtime is stopping.
    #[error("the program is stopping")]
    Stopping,
}

impl RestoreError {
    /// Whether trying again can help without anyone doing anything.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_retriable())
    }
}

impl From<Ended> for RestoreError {
    fn from(Ended: Ended) -> Self {
        Self::Stopping
    }
}

/// What the checkpoint topic holds, or some of its partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The genesis; `None`: this installation has not begun, or the topic is not the one that it began with.
    pub genesis: Option<Genesis>,
    /// The last owner of each partition.
    pub owners: BTreeMap<i32, Owner>,
    /// The last checkpoint of each entity.
    pub checkpoints: BTreeMap<EntityName, Checkpoint>,
    /// The named copies of each entity's checkpoint.
    pub saved: BTreeMap<EntityName, SavedCopies>,
}

impl Restored {
    /// The state of each entity.
    pub fn into_entities(mut self) -> BTreeMap<EntityName, EntityState> {
        let of = |(name, checkpoint): (EntityName, Checkpoint)| {
            let saved = self.saved.remove(&name).unwrap_or_default();
            (name, EntityState { checkpoint: Some(checkpoint), saved })
        };
        self.checkpoints.into_iter().map(of).collect()
    }
}

/// Reads all checkpoints, owners and the genesis; writes nothing and fences nobody.
pub async fn read_checkpoints(settings: Arc<Settings>) -> Result<Restored, RestoreError> {
    blocking(move || {
        let reader = TopicReader::new(&settings)?;
        let count = reader.partition_count(settings.topic(Topic::Checkpoints))?;
        read_partitions(&reader, &settings, 0..count, Until::Now)
    })
    .await
}

/// How far a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// To the proven end: whatever open transaction stands before it has ended. After a fence, that is at once.
    End,
    /// What is committed by now: waits for no open transaction, which may be that of a process that was killed.
    Now,
}

/// Reads some partitions of the checkpoint topic.
pub(super) fn read_partitions(
    reader: &TopicReader,
    settings: &Settings,
    partitions: impl IntoIterator<Item = i32>,
    until: Until,
) -> Result<Restored, RestoreError> {
    let topic = settings.topic(Topic::Checkpoints);
    let count = reader.partition_count(topic)?;
    let mut restored = Restored::default();
    for partition in partitions {
        let mut latest = Latest::default();
        match until {
            Until::End => {
                reader.read_to_end(topic, partition, ReadFrom::Beginning, |record| {
                    latest.take(&record);
                })?;
            }
            Until::Now => {
                let ends = reader.watermarks(topic, partition)?;
                reader.read_range(topic, partition, ends.low, ends.stable, |record| {
                    latest.take(&record);
                    true
                })?;
            }
        }
        latest.decode_into(&mut restored, Place { topic, partition, count })?;
    }
    Ok(restored)
}

/// Where a record was found, in a topic of how many partitions.
#[derive(Clone, Copy)]
struct Place<'a> {
    topic: &'a str,
    partition: i32,
    count: i32,
}

/// The last value of each key of one partition, as compaction will leave it.
#[derive(Debug, Default)]
struct Latest(BTreeMap<Vec<u8>, Vec<u8>>);

impl Latest {
    fn take(&mut self, record: &RecordView<'_>) {
        let key = record.key.unwrap_or_default().to_vec();
        match record.value {
            Some(value) => drop(self.0.insert(key, value.to_vec())),
            None => drop(self.0.remove(&key)),
        }
    }

    fn decode_into(self, restored: &mut Restored, place: Place<'_>) -> Result<(), RestoreError> {
        let partition = place.partition;
        for (key, value) in self.0 {
            let key = String::from_utf8_lossy(&key).into_owned();
            if key == GENESIS_KEY {
                let genesis =
                    Genesis::decode(&value).map_err(|source| place.damaged(&key, source))?;
                place.check(&key, 0)?;
                restored.genesis = Some(genesis);
            } else if let Some(number) = key.strip_prefix("#owner/") {
                let owner = Owner::decode(&value).map_err(|source| place.damaged(&key, source))?;
                let right = number.parse().map_err(|_| place.unknown(&key))?;
                if owner_key(right) != key {
                    return Err(place.unknown(&key));
                }
                place.check(&key, right)?;
                restored.owners.insert(partition, owner);
            } else if let Some((entity, name)) = parse_saved_key(&key) {
                let saved = Saved::decode(&value).map_err(|source| place.damaged(&key, source))?;
                place.check(&key, entity.partition(place.count))?;
                restored.saved.entry(entity).or_default().insert(name, saved);
            } else {
                let entity = EntityName::try_from(key.clone()).map_err(|_| place.unknown(&key))?;
                let checkpoint =
                    Checkpoint::decode(&value).map_err(|source| place.damaged(&key, source))?;
                place.check(&key, entity.partition(place.count))?;
                restored.checkpoints.insert(entity, checkpoint);
            }
        }
        Ok(())
    }
}

impl Place<'_> {
    fn check(self, key: &str, right: i32) -> Result<(), RestoreError> {
        if self.partition == right {
            return Ok(());
        }
        let (topic, key) = (self.topic.to_owned(), key.to_owned());
        Err(RestoreError::WrongPartition { topic, partition: self.partition, right, key })
    }

    fn damaged(self, key: &str, source: DecodeError) -> RestoreError {
        let (topic, key) = (self.topic.to_owned(), key.to_owned());
        RestoreError::Decode { topic, partition: self.partition, key, source }
    }

    fn unknown(self, key: &str) -> RestoreError {
        let (topic, key) = (self.topic.to_owned(), key.to_owned());
        RestoreError::UnknownKey { topic, partition: self.partition, key }
    }
}

/// The highest sequence of an entity that was found in a data or dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The sequence.
    pub sequence: u64,
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
}

/// How far each entity's data goes: the last records of every data and dead-letter partition.
pub(super) fn read_reached(
    reader: &TopicReader,
    settings: &Settings,
) -> Result<BTreeMap<EntityName, Reached>, RestoreError> {
    let mut reached = BTreeMap::new();
    for topic in [Topic::Web, Topic::Git, Topic::Stream, Topic::DeadLetter] {
        let topic = settings.topic(topic);
        for partition in 0..reader.partition_count(topic)? {
            read_tail(reader, topic, partition, &mut reached)?;
        }
    }
    Ok(reached)
}

fn read_tail(
    reader: &TopicReader,
    topic: &str,
    partition: i32,
    reached: &mut BTreeMap<EntityName, Reached>,
) -> Result<(), RestoreError> {
    let ends = reader.watermarks(topic, partition)?;
    let mut offsets = TAIL_OFFSETS;
    let mut to = ends.stable;
    while to > ends.low {
        let from = ends.stable.saturating_sub(offsets).max(ends.low);
        let mut records = 0_u64;
        reader.read_range(topic, partition, from, to, |record| {
            records += 1;
            note(reached, topic, partition, &record);
            true
        })?;
        if records > 0 {
            break;
        }
        to = from;
        offsets = offsets.saturating_mul(TAIL_GROWTH);
    }
    Ok(())
}

fn note(
    reached: &mut BTreeMap<EntityName, Reached>,
    topic: &str,
    partition: i32,
    record: &RecordView<'_>,
) {
    let text = |name| record.header(name).and_then(|value| std::str::from_utf8(value).ok());
    let entity = text(header::ENTITY).and_then(|name| EntityName::try_from(name.to_owned()).ok());
    let sequence = text(header::SEQ).and_then(|number| number.parse::<u64>().ok());
    // records of another program in our topic carry neither, and say nothing about us
    let (Some(entity), Some(sequence)) = (entity, sequence) else {
        return;
    };
    if reached.get(&entity).is_none_or(|known| known.sequence < sequence) {
        let (topic, offset) = (topic.to_owned(), record.offset);
        reached.insert(entity, Reached { sequence, topic, partition, offset });
    }
}

/// The genesis, where the checkpoint topic has one by now.
pub(super) fn read_genesis(
    reader: &TopicReader,
    settings: &Settings,
) -> Result<Option<Genesis>, RestoreError> {
    Ok(read_partitions(reader, settings, [0], Until::Now)?.genesis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::saved::saved_key;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn place(partition: i32) -> Place<'static> {
        Place { topic: "t", partition, count: 12 }
    }

    fn restored(
        partition: i32,
        records: &[(&str, Option<Vec<u8>>)],
    ) -> Result<Restored, RestoreError> {
        let mut latest = Latest::default();
        for (offset, (key, value)) in records.iter().enumerate() {
            let offset = i64::try_from(offset).unwrap();
            let (key, value) = (Some(key.as_bytes()), value.as_deref());
            latest.take(&RecordView { offset, timestamp_ms: 0, key, value, headers: vec![] });
        }
        let mut restored = Restored::default();
        latest.decode_into(&mut restored, place(partition)).map(|()| restored)
    }

    fn checkpoint(entity: &str, sequence: u64) -> Vec<u8> {
        let entity = EntityName::try_from(entity.to_owned()).unwrap();
        Checkpoint { sequence, ..Checkpoint::empty(entity) }.encode()
    }

    fn owner(run: &str) -> Vec<u8> {
        Owner { version: 1, run: run.to_owned(), host: "h".to_owned(), pid: 1, started_ms: 0 }
            .encode()
    }

    fn saved() -> Vec<u8> {
        let entity = EntityName::try_from("acme".to_owned()).unwrap();
        let by = crate::audit::Actor { user: String::new(), host: String::new(), pid: 1 };
        let checkpoint = Box::new(Checkpoint::empty(entity));
        Saved { version: 1, at_ms: 0, by, reason: None, imported: false, checkpoint }.encode()
    }

    #[test]
    fn saved_copies_are_the_entitys_own_and_can_be_removed() {
        let name = EntityName::try_from("acme".to_owned()).unwrap();
        let home = name.partition(12);
        let (kept, gone) = ("#saved/acme/kept", "#saved/acme/gone");
        let records = [(kept, Some(saved())), (gone, Some(saved())), (gone, None)];
        let state = restored(home, &records).unwrap();
        let names: Vec<_> =
            state.saved[&name].keys().map(crate::audit::SavedName::as_str).collect();
        assert_eq!(names, ["kept"]);
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_a_tombstone_removes() {
        let name = EntityName::try_from("acme".to_owned()).unwrap();
        let home = name.partition(12);
        let key = owner_key(home);
        let state = restored(
            home,
            &[
                ("acme", Some(checkpoint("acme", 1))),
                (&key, Some(owner("a"))),
                ("acme", Some(checkpoint("acme", 7))),
                (&key, Some(owner("b"))),
            ],
        )
        .unwrap();
        assert_eq!(state.checkpoints[&name].sequence, 7);
        assert_eq!(state.owners[&home].run, "b");
        let gone =
            restored(home, &[("acme", Some(checkpoint("acme", 1))), ("acme", None)]).unwrap();
        assert_eq!(gone, Restored::default());
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        let home = EntityName::try_from("acme".to_owned()).unwrap().partition(12);
        let away = (home + 1) % 12;
        let newer = br#"{"version":99,"anything":true}"#.to_vec();
        let rows = [
            (restored(away, &[("acme", Some(checkpoint("acme", 1)))]), "belongs in partition"),
            (restored(home, &[("acme", Some(newer.clone()))]), "start the newer ghauditd"),
            (restored(0, &[(GENESIS_KEY, Some(newer.clone()))]), "start the newer ghauditd"),
            (restored(3, &[("#owner/3", Some(newer))]), "start the newer ghauditd"),
            (restored(3, &[("#owner/4", Some(owner("a")))]), "belongs in partition 4"),
            (restored(home, &[("acme", Some(b"{".to_vec()))]), "cannot be read"),
            (restored(away, &[("#saved/acme/x", Some(saved()))]), "belongs in partition"),
            (restored(home, &[("#saved/acme/x", Some(b"{}".to_vec()))]), "saved checkpoint"),
            (restored(home, &[("#saved/acme/current", Some(saved()))]), "does not know"),
            (restored(3, &[("#owner/03", Some(owner("a")))]), "does not know"),
            (restored(0, &[("#lease/1", Some(b"{}".to_vec()))]), "does not know"),
            (restored(0, &[("Not An Entity", Some(b"{}".to_vec()))]), "does not know"),
        ];
        for (result, words) in rows {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..60),
            Just(checkpoint("acme", 3)),
            Just(owner("a")),
            Just(saved()),
            Just(br#"{"version":1,"instance":"i","topics":{},"created_ms":0}"#.to_vec()),
        ]
    }

    proptest! {
        /// Whatever stands in the topic is refused, or is exactly the last record of each key.
        #[test]
        fn arbitrary_records_are_refused_or_are_what_they_say(
            partition in 0..12_i32,
            records in vec((prop_oneof![
                Just("acme".to_owned()), Just(GENESIS_KEY.to_owned()), (0..12).prop_map(owner_key),
                Just("#saved/acme/x".to_owned()),
                "#owner/.{0,5}", any::<String>(),
            ], option::of(bytes())), 0..4),
        ) {
            let borrowed: Vec<_> =
                records.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            let last: BTreeMap<_, _> = borrowed.iter().cloned().collect();
            let Ok(restored) = restored(partition, &borrowed) else { return Ok(()) };
            let mut found = BTreeMap::new();
            for (name, checkpoint) in &restored.checkpoints {
                prop_assert_eq!(name.partition(12), partition);
                found.insert(name.as_str().to_owned(), checkpoint.encode());
            }
            for (number, owner) in &restored.owners {
                prop_assert_eq!(*number, partition);
                found.insert(owner_key(*number), owner.encode());
            }
            for (name, copies) in &restored.saved {
                prop_assert_eq!(name.partition(12), partition);
                for (copy, saved) in copies {
                    found.insert(saved_key(name, copy), saved.encode());
                }
            }
            if let Some(genesis) = &restored.genesis {
                prop_assert_eq!(partition, 0);
                found.insert(GENESIS_KEY.to_owned(), genesis.encode());
            }
            let expected: BTreeMap<_, _> = last
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
