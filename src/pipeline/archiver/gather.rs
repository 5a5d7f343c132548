//! Records become segments: when a segment opens, when it closes, and how little memory all of them may hold.
//!
//! No IO and no clock: decisions about bytes, counts and the times that are handed in.

use crate::archive::segment::{Compressor, Header, OpenSegment, Sealed, VERSION};
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// Number of an assignment of a partition.
pub(super) type Slot = u32;

/// When segments are sealed.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "they are limits, and say so")]
pub(super) struct SealRules {
    pub(super) bytes_max: usize,
    pub(super) records_max: u64,
    pub(super) age_ms_max: i64,
    /// Most bytes that open segments and those that wait for the store hold together.
    pub(super) buffer_bytes_max: usize,
}

/// One partition under one assignment.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) number: i32,
    /// End of what is stored.
    pub(super) position: i64,
    /// Where the next segment to be opened begins.
    next_from: i64,
    /// For the header of the next segment, when it is the first of a partition.
    log_start: Option<i64>,
    /// For the header of the next segment, when it follows an archive gap.
    gap_from: Option<i64>,
    open: Option<Open>,
    /// Sealed, not stored yet, in order. The first may be on its way.
    waiting: VecDeque<Sealed>,
    pub(super) storing: bool,
}

#[derive(Debug)]
struct Open {
    segment: OpenSegment,
    since_ms: i64,
    /// Full or old: it ends where the next record begins, or where the partition ends.
    closing_since_ms: Option<i64>,
}

/// Where a partition starts to be gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) position: i64,
    pub(super) log_start: Option<i64>,
    pub(super) gap_from: Option<i64>,
}

/// A partition whose segment waits for its end to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndWanted {
    pub(super) slot: Slot,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) last_offset: i64,
}

/// All partitions of an archive.
#[derive(Debug)]
pub(super) struct Gatherer {
    rules: SealRules,
    compressor: Compressor,
    partitions: BTreeMap<Slot, Partition>,
    next_slot: Slot,
    /// Sum of what all segments hold.
    held_bytes: usize,
    waiting_bytes: usize,
}

impl Gatherer {
    pub(super) fn new(rules: SealRules, zstd_level: i32) -> io::Result<Self> {
        Ok(Self {
            rules,
            compressor: Compressor::new(zstd_level)?,
            partitions: BTreeMap::new(),
            next_slot: 0,
            held_bytes: 0,
            waiting_bytes: 0,
        })
    }

    /// Begins a partition; one that is there already is forgotten, with all that was gathered and not stored.
    pub(super) fn begin(&mut self, start: Beginning) -> Slot {
        let same = |p: &Partition| p.topic == start.topic && p.number == start.partition;
        let known = self.partitions.iter().find(|(_, p)| same(p)).map(|(slot, _)| *slot);
        if let Some(gone) = known.and_then(|slot| self.partitions.remove(&slot)) {
            self.held_bytes -= gone.open.map_or(0, |open| open.segment.held_bytes());
            self.waiting_bytes -=
                gone.waiting.iter().map(|sealed| sealed.bytes.len()).sum::<usize>();
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        let partition = Partition {
            topic: start.topic,
            number: start.partition,
            position: start.position,
            next_from: start.position,
            log_start: start.log_start,
            gap_from: start.gap_from,
            open: None,
            waiting: VecDeque::new(),
            storing: false,
        };
        self.partitions.insert(slot, partition);
        slot
    }

    /// Takes a record's line. A record of a slot that is no more is dropped: its partition is read again elsewhere.
    ///
    /// A record below what was taken already is an error of kind `InvalidData`: places must be found again.
    pub(super) fn push(
        &mut self,
        slot: Slot,
        offset: i64,
        timestamp_ms: i64,
        line: &[u8],
        now: Now,
    ) -> io::Result<()> {
        let Some(partition) = self.partitions.get_mut(&slot) else { return Ok(()) };
        let expected = partition
            .open
            .as_ref()
            .map_or(partition.next_from, |open| open.segment.last_offset().saturating_add(1));
        if offset < expected {
            let what = format!(
                "{}/{} gave offset {offset} where {expected} or more was due",
                partition.topic, partition.number
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if let Some(open) = &partition.open
            && (open.closing_since_ms.is_some() || open.age_ms(now) >= self.rules.age_ms_max)
        {
            self.seal(slot, offset, now)?;
        }
        let Some(partition) = self.partitions.get_mut(&slot) else { return Ok(()) };
        let mut open = if let Some(open) = partition.open.take() {
            open
        } else {
            let segment = OpenSegment::new(partition.header())?;
            Open { segment, since_ms: now.mono_ms, closing_since_ms: None }
        };
        let before = open.held_before();
        open.segment.push_line(offset, timestamp_ms, line, &mut self.compressor)?;
        let full = open.segment.compressed_bytes() >= self.rules.bytes_max
            || open.segment.count() >= self.rules.records_max;
        if full {
            open.closing_since_ms = Some(now.mono_ms);
        }
        self.held_bytes = self.held_bytes + open.segment.held_bytes() - before;
        partition.open = Some(open);
        Ok(())
    }

    /// Ends the open segment of a partition at `to`.
    fn seal(&mut self, slot: Slot, to: i64, now: Now) -> io::Result<()> {
        let Some(partition) = self.partitions.get_mut(&slot) else { return Ok(()) };
        let Some(open) = partition.open.take() else { return Ok(()) };
        self.held_bytes -= open.segment.held_bytes();
        let sealed = open.segment.seal(to, now.wall_ms, &mut self.compressor)?;
        self.waiting_bytes += sealed.bytes.len();
        partition.next_from = to;
        partition.log_start = None;
        partition.gap_from = None;
        partition.waiting.push_back(sealed);
        Ok(())
    }

    /// Seals with an end that was looked up, unless records came in since.
    pub(super) fn seal_at(&mut self, looked: &EndWanted, to: i64, now: Now) -> io::Result<()> {
        let unchanged = self
            .partitions
            .get(&looked.slot)
            .and_then(|partition| partition.open.as_ref())
            .is_some_and(|open| open.segment.last_offset() == looked.last_offset);
        if unchanged { self.seal(looked.slot, to, now) } else { Ok(()) }
    }

    /// Marks old segments, and frees memory: many slow partitions are compressed early, then the largest is closed.
    pub(super) fn tend(&mut self, now: Now) -> io::Result<()> {
        let age_ms_max = self.rules.age_ms_max;
        for open in self.partitions.values_mut().filter_map(|partition| partition.open.as_mut()) {
            if open.age_ms(now) >= age_ms_max {
                open.closing_since_ms.get_or_insert(now.mono_ms);
            }
        }
        self.relieve(now)
    }

    fn relieve(&mut self, now: Now) -> io::Result<()> {
        // A quarter stays for what is sealed and waits.
        let open_bytes_max = self.rules.buffer_bytes_max / 4 * 3;
        while self.held_bytes > open_bytes_max {
            let largest = self
                .partitions
                .values_mut()
                .filter_map(|partition| partition.open.as_mut())
                .filter(|open| open.closing_since_ms.is_none())
                .max_by_key(|open| open.segment.held_bytes());
            let Some(open) = largest else { return Ok(()) };
            let before = open.segment.held_bytes();
            open.segment.compact(&mut self.compressor)?;
            let after = open.segment.held_bytes();
            self.held_bytes = self.held_bytes + after - before;
            if before - after < before / 4 {
                open.closing_since_ms = Some(now.mono_ms);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Closing segments for which no next record came by itself. With `at_once` also those that began to close now.
    pub(super) fn ends_wanted(&self, now: Now, at_once: bool) -> Option<EndWanted> {
        let patience_ms = if at_once { 0 } else { 200 };
        self.partitions
            .iter()
            .filter_map(|(slot, partition)| Some((slot, partition, partition.open.as_ref()?)))
            .filter_map(|(slot, partition, open)| {
                let since = open.closing_since_ms?;
                (now.mono_ms - since >= patience_ms).then_some((since, slot, partition, open))
            })
            .min_by_key(|(since, ..)| *since)
            .map(|(_, slot, partition, open)| EndWanted {
                slot: *slot,
                topic: partition.topic.clone(),
                partition: partition.number,
                last_offset: open.segment.last_offset(),
            })
    }

    /// All open segments, with their last offsets.
    pub(super) fn open_ends(&self) -> Vec<EndWanted> {
        let open = |(slot, partition): (&Slot, &Partition)| {
            Some(EndWanted {
                slot: *slot,
                topic: partition.topic.clone(),
                partition: partition.number,
                last_offset: partition.open.as_ref()?.segment.last_offset(),
            })
        };
        self.partitions.iter().filter_map(open).collect()
    }

    /// Starts its patience anew: the look-up failed.
    pub(super) fn postpone(&mut self, looked: &EndWanted, now: Now) {
        let open = self.partitions.get_mut(&looked.slot).and_then(|p| p.open.as_mut());
        if let Some(open) = open {
            open.closing_since_ms = Some(now.mono_ms);
        }
    }

    /// The next segment to be stored: of each partition only the first, so that they are put one after another.
    pub(super) fn next_to_store(&mut self) -> Option<(Slot, Sealed)> {
        let (slot, partition) = self
            .partitions
            .iter_mut()
            .find(|(_, partition)| !partition.storing && !partition.waiting.is_empty())?;
        partition.storing = true;
        Some((*slot, partition.waiting.front()?.clone()))
    }

    /// The first waiting segment of a partition is stored.
    pub(super) fn stored(&mut self, slot: Slot) -> Option<&Partition> {
        let partition = self.partitions.get_mut(&slot)?;
        partition.storing = false;
        let sealed = partition.waiting.pop_front()?;
        partition.position = sealed.footer.to;
        self.waiting_bytes -= sealed.bytes.len();
        Some(partition)
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.buffered_bytes() < self.rules.buffer_bytes_max
    }

    /// Bytes held by segments that are not stored.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.held_bytes + self.waiting_bytes
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.values()
    }
}

/// Both clocks, read once for a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) mono_ms: i64,
    pub(super) wall_ms: i64,
}

impl Open {
    fn age_ms(&self, now: Now) -> i64 {
        now.mono_ms - self.since_ms
    }

    /// What was counted for it already: nothing for one that is new.
    fn held_before(&self) -> usize {
        if self.segment.count() == 0 { 0 } else { self.segment.held_bytes() }
    }
}

impl Partition {
    fn header(&self) -> Header {
        Header {
            version: VERSION,
            topic: self.topic.clone(),
            partition: self.number,
            from: self.next_from,
            log_start: self.log_start,
            gap_from: self.gap_from,
        }
    }

    /// Kafka's time of the oldest record that is gathered and not stored.
    pub(super) fn oldest_timestamp(&self) -> Option<i64> {
        self.waiting
            .front()
            .and_then(|sealed| sealed.footer.first_timestamp)
            .or_else(|| self.open.as_ref().and_then(|open| open.segment.first_timestamp()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gatherer(rules: SealRules) -> (Gatherer, Slot) {
        let mut gatherer = Gatherer::new(rules, 1).unwrap();
        let slot = gatherer.begin(beginning(0, 10));
        (gatherer, slot)
    }

    fn beginning(partition: i32, position: i64) -> Beginning {
        Beginning {
            topic: "t".to_owned(),
            partition,
            position,
            log_start: Some(position),
            gap_from: None,
        }
    }

    const RULES: SealRules = SealRules {
        bytes_max: 1 << 20,
        records_max: 3,
        age_ms_max: 1_000,
        buffer_bytes_max: 64 << 20,
    };

    fn at(mono_ms: i64) -> Now {
        Now { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms }
    }

    fn push(gatherer: &mut Gatherer, slot: Slot, offset: i64, now: Now) {
        let line = format!("{{\"offset\":{offset},\"value\":null}}\n");
        gatherer.push(slot, offset, 5, line.as_bytes(), now).unwrap();
    }

    #[test]
    fn a_full_segment_ends_where_the_next_record_begins() {
        let (mut gatherer, slot) = gatherer(RULES);
        for offset in [10, 11, 15] {
            push(&mut gatherer, slot, offset, at(0));
        }
        assert!(gatherer.next_to_store().is_none(), "its end is not known yet");
        push(&mut gatherer, slot, 20, at(0));
        let (_, sealed) = gatherer.next_to_store().unwrap();
        assert_eq!((sealed.header.from, sealed.footer.to, sealed.footer.count), (10, 20, 3));
        assert!(gatherer.next_to_store().is_none(), "of a partition only one at a time");
        assert_eq!(gatherer.stored(slot).unwrap().position, 20);
        // The next one begins there, and says nothing of the log's start.
        gatherer.tend(at(1_000)).unwrap();
        let wanted = gatherer.ends_wanted(at(1_300), false).unwrap();
        gatherer.seal_at(&wanted, 22, at(1_300)).unwrap();
        let (_, sealed) = gatherer.next_to_store().unwrap();
        assert_eq!((sealed.header.from, sealed.header.log_start, sealed.footer.to), (20, None, 22));
    }

    #[test]
    fn an_old_segment_asks_for_its_end_and_a_record_that_comes_meanwhile_gives_it() {
        let (mut gatherer, slot) = gatherer(RULES);
        push(&mut gatherer, slot, 10, at(0));
        gatherer.tend(at(999)).unwrap();
        assert_eq!(gatherer.ends_wanted(at(999), true), None);
        gatherer.tend(at(1_000)).unwrap();
        assert_eq!(gatherer.ends_wanted(at(1_000), false), None, "the next record may come");
        let wanted = gatherer.ends_wanted(at(1_200), false).unwrap();
        assert_eq!((wanted.slot, wanted.last_offset), (slot, 10));
        push(&mut gatherer, slot, 12, at(1_201));
        // The answer to the question comes late: it must not end the new segment.
        gatherer.seal_at(&wanted, 11, at(1_202)).unwrap();
        let (_, sealed) = gatherer.next_to_store().unwrap();
        assert_eq!(sealed.footer.to, 12);
        gatherer.stored(slot);
        assert!(gatherer.next_to_store().is_none());
    }

    #[test]
    fn records_that_come_twice_or_under_an_old_slot_are_not_taken() {
        let (mut gatherer, slot) = gatherer(RULES);
        push(&mut gatherer, slot, 10, at(0));
        for offset in [9, 10] {
            let error = gatherer.push(slot, offset, 5, b"x\n", at(0)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let again = gatherer.begin(beginning(0, 10));
        assert_ne!(again, slot);
        gatherer.push(slot, 11, 5, b"x\n", at(0)).unwrap();
        assert_eq!(gatherer.buffered_bytes(), 0);
        push(&mut gatherer, again, 10, at(0));
        assert!(gatherer.buffered_bytes() > 0);
    }

    #[test]
    fn memory_is_counted_to_the_byte_and_given_back() {
        let rules = SealRules { buffer_bytes_max: 300 << 10, records_max: u64::MAX, ..RULES };
        let mut gatherer = Gatherer::new(rules, 1).unwrap();
        let slots: Vec<_> = (0..20).map(|n| gatherer.begin(beginning(n, 0))).collect();
        let mut closing = false;
        for offset in 0..400 {
            for slot in &slots {
                if !gatherer.has_room() {
                    break;
                }
                let noise: Vec<u8> = (0..500).map(|_| rand::random::<u8>() | 0x80).collect();
                gatherer.push(*slot, offset, 5, &noise, at(0)).unwrap();
                gatherer.tend(at(0)).unwrap();
                let open = gatherer.partitions().filter_map(|p| p.open.as_ref());
                let held: usize = open.map(|open| open.segment.held_bytes()).sum();
                assert_eq!(gatherer.held_bytes, held);
            }
            closing |= gatherer.ends_wanted(at(0), true).is_some();
        }
        assert!(closing, "the largest is closed early");
        assert!(gatherer.buffered_bytes() < (300 << 10) + (64 << 10));
        while let Some(wanted) = gatherer.ends_wanted(at(0), true) {
            gatherer.seal_at(&wanted, 1_000, at(0)).unwrap();
        }
        gatherer.tend(at(5_000)).unwrap();
        while let Some(wanted) = gatherer.ends_wanted(at(9_000), true) {
            gatherer.seal_at(&wanted, 1_000, at(9_000)).unwrap();
        }
        while let Some((slot, _)) = gatherer.next_to_store() {
            gatherer.stored(slot);
        }
        assert_eq!(gatherer.buffered_bytes(), 0);
    }
}
