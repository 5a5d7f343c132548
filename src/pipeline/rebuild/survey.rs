//! What an archive holds, taken segment by segment: numbers, times, and how much of it is still needed. Pure.

use super::record::{Joiner, Numbered, numbered};
use super::sequence::Sequences;
use crate::archive::key::SegmentKey;
use crate::archive::segment::{
    Footer, Header, ReadLimits, SegmentError, SegmentReader, parse_line,
};
use crate::audit::{EntityName, Lane, SeenLane};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const DAY_MS: i64 = 86_400_000;
/// Most problems of one kind that are named one by one.
const NAMED_MAX: usize = 100;

/// How long GitHub keeps what is filed under a lane of an entity; `None`: unlimited.
pub type Retentions = BTreeMap<(EntityName, SeenLane), Option<Duration>>;

/// Something that the archive lacks, or that cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A segment cannot be read.
    Damaged {
        /// Its name.
        key: String,
        /// Why.
        why: String,
    },
    /// There is no segment for a range of positions, and no archive gap.
    Missing {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// First position.
        from: i64,
        /// Position after the last.
        to: i64,
    },
    /// Kafka's retention deleted them before they were archived.
    Gap {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// First position.
        from: i64,
        /// Position after the last.
        to: i64,
    },
    /// Two segments hold the same positions.
    Overlap {
        /// The second of them.
        key: String,
        /// Where the one before it ends.
        ends: i64,
    },
    /// What came before the first segment is not there, and may still be needed.
    Beginning {
        /// The first segment.
        key: String,
    },
    /// A record is not what ghauditd writes.
    Strange {
        /// The segment.
        key: String,
        /// The record's offset.
        offset: i64,
        /// Why.
        why: String,
    },
    /// The archive began with a rebuild itself, and what that read is not read now.
    Older {
        /// The older archive.
        place: String,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged { key, why } => write!(f, "{key} cannot be used: {why}"),
            Self::Missing { topic, partition, from, to } => {
                write!(f, "no segment holds {topic}/{partition} from offset {from} to {to}")
            }
            Self::Gap { topic, partition, from, to } => write!(
                f,
                "{topic}/{partition} from offset {from} to {to} was never archived: Kafka's retention was faster"
            ),
            Self::Overlap { key, ends } => {
                write!(f, "{key} begins before the segment before it ends ({ends})")
            }
            Self::Beginning { key } => {
                write!(
                    f,
                    "{key} is the first of its partition, and what came before it is not there"
                )
            }
            Self::Strange { key, offset, why } => write!(f, "{key}, offset {offset}: {why}"),
            Self::Older { place } => write!(
                f,
                "this archive began with a rebuild from {place}, which is not read now: name both behind --from-archive"
            ),
        }
    }
}

/// What is known of one lane of an entity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LaneSurvey {
    pub(super) entries: u64,
    pub(super) oldest_ms: Option<i64>,
    pub(super) newest_ms: Option<i64>,
    /// Entries by the day of their time.
    pub(super) days: BTreeMap<i64, u64>,
}

/// What is known of one entity.
#[derive(Debug, Default)]
pub(super) struct EntitySurvey {
    pub(super) sequences: Sequences,
    /// Numbers that an earlier rebuild says were lost: ascending when [`Survey::end`] was called.
    pub(super) lost: Vec<(u64, u64)>,
    /// Some numbers, with the time of their commit.
    pub(super) points: Vec<(u64, i64)>,
    /// From this number on all must be there: partitions may begin late.
    pub(super) from: u64,
    pub(super) records: u64,
    pub(super) lanes: BTreeMap<Lane, LaneSurvey>,
    /// Fingerprints by the day up to which they are needed.
    pub(super) needed: BTreeMap<(SeenLane, i64), u64>,
}

/// A segment, with what of it is still needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Which of the archives.
    pub(super) archive: usize,
    pub(super) key: SegmentKey,
    /// The latest day up to which something of it is needed.
    pub(super) needed: BTreeMap<(EntityName, SeenLane), i64>,
    /// Whether it holds pieces: the next one may complete them.
    pub(super) pieces: bool,
}

/// What the archives hold.
#[derive(Debug, Default)]
pub struct Survey {
    /// Where they are.
    pub archives: Vec<String>,
    /// Segments read.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Records of gaps, statements and other programs.
    pub other_records: u64,
    /// Large entries whose last pieces are not archived.
    pub torn: u64,
    pub(super) problems: Vec<Problem>,
    pub(super) problems_more: u64,
    pub(super) entities: BTreeMap<EntityName, EntitySurvey>,
    pub(super) order: Vec<Segment>,
    now_ms: i64,
    retentions: Retentions,
    /// What is kept of entities that the configuration does not name.
    default: BTreeMap<SeenLane, Option<Duration>>,
    rebuilt_from: Vec<String>,
    joiner: Joiner,
    place: Option<Place>,
}

/// Where the reading of a partition stands.
#[derive(Debug)]
struct Place {
    archive: usize,
    topic: String,
    partition: i32,
    /// Where the next segment has to begin; `None` after one that could not be read.
    next: Option<i64>,
    /// Whether its first segment has been met.
    begun: bool,
    /// Whether records that came before may not be there.
    late: bool,
    /// The first number of each entity, where it begins late.
    first: BTreeMap<EntityName, u64>,
}

/// Of a gap record of ours, what concerns a rebuild.
#[derive(Deserialize)]
struct LostNumbers {
    entity: EntityName,
    cause: String,
    sequence_holes: Vec<(u64, u64)>,
}

/// Of a statement of ours, what concerns a rebuild.
#[derive(Deserialize)]
struct RebuildStatement {
    what: String,
    details: RebuildDetails,
}

#[derive(Deserialize)]
struct RebuildDetails {
    archives: Vec<String>,
}

impl Survey {
    /// Nothing read yet. `now_ms` is the machine's clock, `default` for entities that `retentions` does not name.
    pub(super) fn new(
        archives: Vec<String>,
        retentions: Retentions,
        default: BTreeMap<SeenLane, Option<Duration>>,
        now_ms: i64,
    ) -> Self {
        Self { archives, now_ms, retentions, default, ..Self::default() }
    }

    /// How long GitHub keeps what is filed under a lane of an entity.
    pub(super) fn retention(&self, entity: &EntityName, lane: SeenLane) -> Option<Duration> {
        let configured = self.retentions.get(&(entity.clone(), lane)).copied();
        configured.or_else(|| self.default.get(&lane).copied()).flatten()
    }

    /// Takes the next segment of an archive, in the order of names. `gaps`: the archive gaps of its partition.
    pub(super) fn take(
        &mut self,
        archive: usize,
        key: &SegmentKey,
        object: Result<&[u8], String>,
        gaps: &[(i64, i64)],
    ) -> Result<(), SegmentError> {
        self.enter(archive, key);
        self.segments += 1;
        let object = match object {
            Ok(object) => object,
            Err(why) => {
                self.damaged(key, why);
                return Ok(());
            }
        };
        self.bytes = self.bytes.saturating_add(u64::try_from(object.len()).unwrap_or(u64::MAX));
        let (header, footer) = match verify(object, key) {
            Ok(ends) => ends,
            Err(newer @ SegmentError::Newer { .. }) => return Err(newer),
            Err(error) => {
                self.damaged(key, error.to_string());
                return Ok(());
            }
        };
        self.follow(key, &header, &footer, gaps);
        self.read(archive, key, object)
    }

    /// All segments have been taken.
    pub(super) fn end(&mut self) {
        self.leave();
        for entity in self.entities.values_mut() {
            entity.lost.sort_unstable();
            entity.points.sort_unstable();
            entity.from = entity.from.max(1);
        }
        let older: Vec<_> = self
            .rebuilt_from
            .iter()
            .filter(|place| !self.archives.contains(place))
            .cloned()
            .collect();
        for place in older {
            self.problem(Problem::Older { place });
        }
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < NAMED_MAX {
            self.problems.push(problem);
        } else {
            self.problems_more = self.problems_more.saturating_add(1);
        }
    }

    fn damaged(&mut self, key: &SegmentKey, why: String) {
        if let Some(place) = &mut self.place {
            place.next = None;
            place.late |= !place.begun;
            place.begun = true;
        }
        self.problem(Problem::Damaged { key: key.name(), why });
    }

    fn enter(&mut self, archive: usize, key: &SegmentKey) {
        let same = self.place.as_ref().is_some_and(|place| {
            place.archive == archive && place.topic == key.topic && place.partition == key.partition
        });
        if same {
            return;
        }
        self.leave();
        self.place = Some(Place {
            archive,
            topic: key.topic.clone(),
            partition: key.partition,
            next: None,
            begun: false,
            late: false,
            first: BTreeMap::new(),
        });
    }

    fn leave(&mut self) {
        let torn = u64::try_from(self.joiner.end()).unwrap_or(u64::MAX);
        self.torn = self.torn.saturating_add(torn);
        let Some(place) = self.place.take() else { return };
        for (entity, first) in place.first.into_iter().filter(|_| place.late) {
            let entity = self.entities.entry(entity).or_default();
            entity.from = entity.from.max(first);
        }
    }

    /// Each segment begins where the one before it ended.
    fn follow(&mut self, key: &SegmentKey, header: &Header, footer: &Footer, gaps: &[(i64, i64)]) {
        let Some(place) = &mut self.place else { return };
        let (before, from) = (place.next.replace(footer.to), header.from);
        let is_first = !std::mem::replace(&mut place.begun, true);
        let (topic, partition) = (key.topic.clone(), key.partition);
        match before {
            Some(ends) if from < ends => self.problem(Problem::Overlap { key: key.name(), ends }),
            Some(ends) if from > ends && gaps.contains(&(ends, from)) => {
                self.problem(Problem::Gap { topic, partition, from: ends, to: from });
            }
            Some(ends) if from > ends => {
                self.problem(Problem::Missing { topic, partition, from: ends, to: from });
            }
            None if is_first && from > 0 => {
                place.late = true;
                if self.needs_before(footer) {
                    self.problem(Problem::Beginning { key: key.name() });
                }
            }
            _ => {}
        }
    }

    /// Whether what was committed before a segment may still be needed.
    fn needs_before(&self, footer: &Footer) -> bool {
        let floor_ms =
            |kept: &Option<Duration>| Some(self.now_ms.saturating_sub(window_ms((*kept)?)));
        let mut floors = self.retentions.values().chain(self.default.values()).map(floor_ms);
        let first = footer.first_timestamp.unwrap_or(i64::MAX);
        floors.any(|floor| floor.is_none_or(|floor| first > floor))
    }

    fn read(
        &mut self,
        archive: usize,
        key: &SegmentKey,
        object: &[u8],
    ) -> Result<(), SegmentError> {
        let mut segment =
            Segment { archive, key: key.clone(), needed: BTreeMap::new(), pieces: false };
        let mut ends: BTreeMap<EntityName, [(u64, i64); 2]> = BTreeMap::new();
        let mut reader = SegmentReader::open(object, ReadLimits::default())?;
        while let Some(line) = reader.next_line()? {
            self.records += 1;
            let record = parse_line(line).map_err(|error| error.to_string());
            let taken = record.and_then(|record| self.record(record, &mut segment, &mut ends));
            if let Err(why) = taken {
                let offset = reader.last_offset();
                self.problem(Problem::Strange { key: key.name(), offset, why });
            }
        }
        for (entity, points) in ends {
            self.entities.entry(entity).or_default().points.extend(points);
        }
        self.order.push(segment);
        Ok(())
    }

    fn record(
        &mut self,
        record: crate::archive::segment::ArchivedRecord,
        segment: &mut Segment,
        ends: &mut BTreeMap<EntityName, [(u64, i64); 2]>,
    ) -> Result<(), String> {
        let value = record.value.clone().filter(|value| value.len() < 1 << 20);
        let Some(record) = numbered(record)? else {
            self.other_records += 1;
            if let Some(value) = value {
                self.said(&value);
            }
            return Ok(());
        };
        let point = (record.sequence, record.ingest_ms);
        let [first, last] = ends.entry(record.entity.clone()).or_insert([point; 2]);
        (*first, *last) = ((*first).min(point), (*last).max(point));
        if let Some(place) = self.place.as_mut().filter(|place| place.late)
            && !place.first.contains_key(&record.entity)
        {
            place.first.insert(record.entity.clone(), record.sequence);
        }
        let entity = self.entities.entry(record.entity.clone()).or_default();
        entity.records += 1;
        entity.sequences.insert(record.sequence);
        self.entry(&record, segment)
    }

    fn entry(&mut self, record: &Numbered, segment: &mut Segment) -> Result<(), String> {
        let Some(archived) = self.joiner.take(record)? else {
            segment.pieces = true;
            return Ok(());
        };
        let retention = self.retention(&record.entity, archived.lane);
        let day = archived.needed_until_ms(record.ingest_ms, retention).div_euclid(DAY_MS);
        let needed = segment.needed.entry((record.entity.clone(), archived.lane)).or_insert(day);
        *needed = day.max(*needed);
        let entity = self.entities.entry(record.entity.clone()).or_default();
        *entity.needed.entry((archived.lane, day)).or_default() += 1;
        let lane = entity.lanes.entry(record.lane).or_default();
        lane.entries += 1;
        // a time that is not sane would make any number of days
        let sane = crate::audit::seen::EARLIEST_MS..=record.ingest_ms.saturating_add(DAY_MS);
        let time_ms = archived.entry.time_ms().filter(|ms| sane.contains(ms));
        lane.oldest_ms = lane.oldest_ms.into_iter().chain(time_ms).min();
        lane.newest_ms = lane.newest_ms.max(time_ms);
        let day = time_ms.unwrap_or(record.ingest_ms).div_euclid(DAY_MS);
        *lane.days.entry(day).or_default() += 1;
        Ok(())
    }

    /// What gap records and statements say of earlier rebuilds.
    fn said(&mut self, value: &[u8]) {
        if let Ok(lost) = serde_json::from_slice::<LostNumbers>(value)
            && lost.cause == super::decide::CAUSE
        {
            self.entities.entry(lost.entity).or_default().lost.extend(lost.sequence_holes);
        }
        if let Ok(statement) = serde_json::from_slice::<RebuildStatement>(value)
            && statement.what == super::decide::WHAT
        {
            self.rebuilt_from.extend(statement.details.archives);
        }
    }
}

/// How long after its commit a fingerprint is needed: as long as no slice reads what is older, milliseconds.
pub(super) fn window_ms(retention: Duration) -> i64 {
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    retention_ms.saturating_add(crate::audit::seen::WINDOW_BEHIND_MS)
}

/// Reads a segment through: zstd's checksums, its shape, its footer. Only then is anything in it believed.
pub(super) fn verify(object: &[u8], key: &SegmentKey) -> Result<(Header, Footer), SegmentError> {
    let mut reader = SegmentReader::open(object, ReadLimits::default())?;
    while reader.next_line()?.is_some() {}
    let header = reader.header().clone();
    let damaged = |what: &str| SegmentError::Damaged { line: 1, what: what.to_owned() };
    let says = (header.topic.as_str(), header.partition, header.from);
    if says != (key.topic.as_str(), key.partition, key.from) {
        return Err(damaged("its header is that of another segment"));
    }
    let footer = reader.footer().cloned().ok_or_else(|| damaged("no footer"))?;
    Ok((header, footer))
}
