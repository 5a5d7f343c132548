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
    pub(super) fn push(
        &mut self,
        slot: Slot,
        offset: i64,
        timestamp_ms: i64,
        line: &[u8],
        now: Now,
    ) -> io::Result<()> {
        let Some(partition) = self.partitions.get_mut(&slot) else { return Ok(()) };
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
            .is_some_and(|open| {
                open.closing_since_ms.is_some() && open.segment.last_offset() == looked.last_offset
            });
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
