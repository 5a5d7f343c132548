//! From archived records to the records of the seen topics: what is still needed, in batches. Pure.

use super::decide::EntityPlan;
use super::record::{Joiner, numbered};
use super::survey::{DAY_MS, Segment, Survey, verify};
use crate::archive::segment::{ReadLimits, SegmentError, SegmentReader, parse_line};
use crate::audit::{Batch, Bucket, EntityName, Fingerprint, Record, SeenLane, Topic, seen_record};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A batch is handed over at this many fingerprints.
const BATCH_FINGERPRINTS: usize = 100_000;
/// Most fingerprints of one record: 1 MB.
const RECORD_FINGERPRINTS: usize = 40_000;

/// Collects fingerprints, and makes batches of them.
#[derive(Debug)]
pub(super) struct Loader {
    floors: BTreeMap<(EntityName, SeenLane), i64>,
    state_partitions: i32,
    waiting: BTreeMap<(EntityName, SeenLane, Bucket), Vec<Fingerprint>>,
    waits: usize,
    joiner: Joiner,
    /// Fingerprints handed over, counted once for each bucket.
    pub(super) filed: u64,
}

impl Loader {
    pub(super) fn new(plans: &[EntityPlan], state_partitions: i32) -> Self {
        let floors = plans.iter().flat_map(|plan| {
            plan.floors_ms.iter().map(|(lane, floor)| ((plan.entity.clone(), *lane), *floor))
        });
        Self {
            floors: floors.collect(),
            state_partitions,
            waiting: BTreeMap::new(),
            waits: 0,
            joiner: Joiner::default(),
            filed: 0,
        }
    }

    /// Whether something of a segment is still needed.
    pub(super) fn needs(&self, segment: &Segment) -> bool {
        let needed = |(key, day): (&(EntityName, SeenLane), &i64)| {
            self.floors.get(key).is_some_and(|floor| *day >= floor.div_euclid(DAY_MS))
        };
        segment.pieces || segment.needed.iter().any(needed)
    }

    /// Takes a segment that was read whole before. What was told then is not told again.
    pub(super) fn take(
        &mut self,
        survey: &Survey,
        segment: &Segment,
        object: &[u8],
    ) -> Result<(), SegmentError> {
        verify(object, &segment.key)?;
        let mut reader = SegmentReader::open(object, ReadLimits::default())?;
        while let Some(line) = reader.next_line()? {
            let Ok(Some(record)) =
                parse_line(line).map_err(|error| error.to_string()).and_then(numbered)
            else {
                continue;
            };
            let Ok(Some(archived)) = self.joiner.take(&record) else { continue };
            let key = (record.entity.clone(), archived.lane);
            let Some(floor) = self.floors.get(&key).copied() else { continue };
            let retention = survey.retention(&record.entity, archived.lane);
            for bucket in archived.kept(record.ingest_ms, retention, floor) {
                let place = (record.entity.clone(), archived.lane, bucket);
                self.waiting.entry(place).or_default().push(archived.fingerprint);
                self.waits += 1;
            }
        }
        Ok(())
    }

    /// Whether there is enough for a batch.
    pub(super) fn is_full(&self) -> bool {
        self.waits >= BATCH_FINGERPRINTS
    }

    /// What waits, as one batch for each checkpoint partition.
    pub(super) fn batches(&mut self) -> Vec<(i32, Batch)> {
        let mut batches: BTreeMap<i32, Batch> = BTreeMap::new();
        for ((entity, lane, bucket), fingerprints) in std::mem::take(&mut self.waiting) {
            let partition = entity.partition(self.state_partitions);
            let records = &mut batches.entry(partition).or_default().records;
            let key = Bytes::copy_from_slice(entity.as_str().as_bytes());
            records.extend(fingerprints.chunks(RECORD_FINGERPRINTS).map(|some| Record {
                topic: lane.topic(),
                partition: Some(partition),
                key: key.clone(),
                value: Some(Bytes::from(seen_record::encode_value(lane, bucket, some))),
                headers: Vec::new(),
            }));
        }
        self.filed = self.filed.saturating_add(u64::try_from(self.waits).unwrap_or(u64::MAX));
        self.waits = 0;
        batches.into_iter().collect()
    }
}

/// The record that holds an entity's checkpoint.
pub(super) fn checkpoint_record(
    checkpoint: &crate::audit::Checkpoint,
    state_partitions: i32,
) -> Record {
    let name = checkpoint.entity.as_str();
    Record {
        topic: Topic::Checkpoints,
        partition: Some(checkpoint.entity.partition(state_partitions)),
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: Some(Bytes::from(checkpoint.encode())),
        headers: Vec::new(),
    }
}
