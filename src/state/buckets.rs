//! Buckets of seen ids: files by hour, and those in use as hash sets under a byte limit.
//!
//! Nothing is ever in here that is not in Kafka: [`Buckets::apply_record`] takes what a read-committed reader shows,
//! [`Buckets::commit`] what a transaction with a known outcome has committed. What could not be written (full disk) is owed
//! and written first at the next call; until then every look-up is refused, so no error can make an entry look new.

use super::disk::{self, Applied, ReadError, Vouched};
use super::error::StateError;
use super::opening::Lock;
use super::pending::Pending;
use super::set::FingerprintSet;
use super::shelf::{Loaded, Shelf, Slot};
use super::{Settings, opening};
use crate::audit::seen_record::SeenRecordError;
use crate::audit::{Bucket, EntityName, Fingerprint, SeenLane, SeenRecord, Topic, Verdict};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

/// Sets that stay in memory beside the one in use, whatever the limit.
const KEPT_BESIDES: usize = 2;

/// Fingerprints that could not be written yet.
#[derive(Debug)]
struct Owed {
    entity: EntityName,
    lane: SeenLane,
    bucket: Bucket,
    fingerprints: Vec<Fingerprint>,
}

/// The seen ids of all entities of this process. One owner; no file stays open between calls.
#[derive(Debug)]
pub struct Buckets {
    root: PathBuf,
    memory_bytes_max: usize,
    shelves: Vec<Shelf>,
    /// The shelf that was used last: pages of an entity come together.
    last_shelf: usize,
    /// Bytes of sets and slots in memory.
    memory_bytes: usize,
    tick: u64,
    applied: BTreeMap<(SeenLane, i32), i64>,
    applied_dirty: bool,
    owed: VecDeque<Owed>,
    /// Set when what is on disk is unknown: only opening again helps.
    broken: Option<PathBuf>,
    _lock: Lock,
}

impl Buckets {
    /// Opens the cache of an instance. What is not whole is wiped; [`Self::applied`] then says `None`, and catching
    /// up from the changelog's beginning rebuilds it.
    pub fn open(settings: &Settings, instance: &str) -> Result<Self, StateError> {
        Self::open_locked(settings, instance, &Lock::take(settings)?)
    }

    /// The same for who has taken the lock before.
    pub fn open_locked(
        settings: &Settings,
        instance: &str,
        lock: &Lock,
    ) -> Result<Self, StateError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        if instance.is_empty() || instance.len() > 64 || !instance.bytes().all(plain) {
            return Err(StateError::Instance { instance: instance.to_owned() });
        }
        let seen = settings.dir.join("seen");
        let found = opening::open(&seen, instance)?;
        let mut buckets = Self {
            root: seen.join(instance),
            memory_bytes_max: settings.memory_bytes_max,
            shelves: Vec::new(),
            last_shelf: 0,
            memory_bytes: 0,
            tick: 0,
            applied: applied_offsets(&found.applied),
            applied_dirty: false,
            owed: VecDeque::new(),
            broken: None,
            _lock: lock.clone_of(&seen)?,
        };
        for (entity, lane, index) in found.lanes {
            buckets.add_shelf(entity, lane, index);
        }
        Ok(buckets)
    }

    /// The offset from which a changelog partition is to be read; `None`: from its beginning, also for a topic that is
    /// no changelog of seen ids.
    pub fn applied(&self, topic: Topic, partition: i32) -> Option<i64> {
        let lane = SeenLane::of_topic(topic)?;
        self.applied.get(&(lane, partition)).copied()
    }

    /// Notes that all records of a changelog partition below `next_offset` have been applied. Never goes back.
    pub fn set_applied(&mut self, topic: Topic, partition: i32, next_offset: i64) {
        let Some(lane) = SeenLane::of_topic(topic) else {
            return;
        };
        let applied = self.applied.entry((lane, partition)).or_insert(0);
        if next_offset > *applied {
            *applied = next_offset;
            self.applied_dirty = true;
        }
    }

    /// Applies one changelog record that a read-committed reader has shown, and notes its offset: catching up is calling
    /// this for every record from [`Self::applied`] to the end. Applying twice is harmless.
    pub fn apply_record(
        &mut self,
        topic: Topic,
        partition: i32,
        offset: i64,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let refused = |source| StateError::Changelog { topic, partition, offset, source };
        let record = SeenRecord::decode(key, value.unwrap_or_default()).map_err(refused)?;
        if record.lane.topic() != topic {
            return Err(refused(SeenRecordError::Malformed("lane of the other topic")));
        }
        self.apply(&record.entity, record.lane, record.bucket, &record.fingerprints)?;
        self.set_applied(topic, partition, offset.saturating_add(1));
        Ok(())
    }

    /// Adds a committed batch's fingerprints and empties `pending`. On an error nothing is forgotten: what could not be
    /// written is owed, and written first at the next call.
    pub fn commit(&mut self, entity: &EntityName, pending: &mut Pending) -> Result<(), StateError> {
        let mut outcome = self.settle();
        for (lane, bucket, fingerprints) in pending.iter() {
            let applied = self.apply(entity, lane, bucket, fingerprints);
            outcome = outcome.and(applied);
        }
        pending.clear();
        outcome
    }

    /// Adds fingerprints that are committed. Idempotent. On an error they are owed, and written first at the next call.
    pub fn apply(
        &mut self,
        entity: &EntityName,
        lane: SeenLane,
        bucket: Bucket,
        fingerprints: &[Fingerprint],
    ) -> Result<(), StateError> {
        let applied = self.settle().and_then(|()| self.store(entity, lane, bucket, fingerprints));
        if applied.is_err() {
            let (entity, fingerprints) = (entity.clone(), fingerprints.to_vec());
            self.owed.push_back(Owed { entity, lane, bucket, fingerprints });
        }
        applied
    }

    /// What a fingerprint is beside all that is committed and beside `pending`, searched in `buckets`
    /// ([`crate::audit::seen::lookup`]) and always in [`Bucket::NONE`].
    pub fn verdict(
        &mut self,
        entity: &EntityName,
        lane: SeenLane,
        buckets: &[Bucket],
        fingerprint: &Fingerprint,
        pending: &Pending,
    ) -> Result<Verdict, StateError> {
        self.settle()?;
        let mut verdict = pending.verdict(lane, buckets, fingerprint);
        let Some(shelf) = self.find_shelf(entity, lane) else {
            return Ok(verdict);
        };
        let none = (!buckets.contains(&Bucket::NONE)).then_some(Bucket::NONE);
        for bucket in buckets.iter().copied().chain(none) {
            if verdict == Verdict::Known {
                break;
            }
            let beside = self.with_set(shelf, bucket, |set| set.verdict(fingerprint))?;
            verdict = verdict.max(beside.unwrap_or(Verdict::New));
        }
        Ok(verdict)
    }

    /// Makes durable what was applied, then how far: bucket files, indexes, offsets. Costs two fsyncs for each lane and one
    /// for each bucket that changed: to be called now and then, and at stop.
    pub fn flush(&mut self) -> Result<(), StateError> {
        self.settle()?;
        let changed = self.applied_dirty || self.shelves.iter().any(|shelf| shelf.dirty);
        if !changed {
            return Ok(());
        }
        for shelf in &mut self.shelves {
            if let Err(error) = shelf.sync_buckets() {
                // after a failed fsync the kernel may have dropped the bytes: only what is vouched for already is sure
                self.broken = Some(self.root.clone());
                return Err(error);
            }
            if shelf.dirty {
                shelf.write_index(&self.root)?;
            }
        }
        let bytes = self.applied_file().encode();
        disk::replace(&self.root, disk::APPLIED, &bytes)
            .map_err(StateError::io("write", &self.root.join(disk::APPLIED)))?;
        self.applied_dirty = false;
        Ok(())
    }

    /// Forgets a lane's buckets before an hour, for all entities: no slice reads there any more. [`Bucket::NONE`] stays.
    pub fn expire(&mut self, lane: SeenLane, before: Bucket) -> Result<(), StateError> {
        self.settle()?;
        let mut files = Vec::new();
        for shelf in self.shelves.iter_mut().filter(|shelf| shelf.lane == lane) {
            let expired = |slot: &Slot| slot.bucket != Bucket::NONE && slot.bucket < before;
            for slot in shelf.slots.iter().filter(|slot| expired(slot)) {
                files.push(shelf.dir.join(disk::bucket_file(slot.bucket)));
                self.memory_bytes -= slot.loaded.as_ref().map_or(0, |loaded| loaded.bytes());
            }
            let count = shelf.slots.len();
            shelf.slots.retain(|slot| !expired(slot));
            shelf.dirty |= shelf.slots.len() < count;
        }
        if files.is_empty() {
            return Ok(());
        }
        // the indexes first: a file that none of them vouches for is cut at the next start
        self.flush()?;
        files
            .iter()
            .try_for_each(|path| disk::remove_file(path).map_err(StateError::io("remove", path)))
    }

    /// Bytes of buckets in memory: hash sets and what is known of the files.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Writes what is owed; refuses while the files' state is unknown.
    fn settle(&mut self) -> Result<(), StateError> {
        if let Some(path) = &self.broken {
            return Err(StateError::Damaged { path: path.clone() });
        }
        while let Some(owed) = self.owed.pop_front() {
            let stored = self.store(&owed.entity, owed.lane, owed.bucket, &owed.fingerprints);
            if stored.is_err() {
                self.owed.push_front(owed);
                return stored;
            }
        }
        Ok(())
    }

    /// Writes the fingerprints that are new behind the bucket's file, then takes them into its set.
    fn store(
        &mut self,
        entity: &EntityName,
        lane: SeenLane,
        bucket: Bucket,
        fingerprints: &[Fingerprint],
    ) -> Result<(), StateError> {
        if fingerprints.is_empty() {
            return Ok(());
        }
        let at = match self.find_shelf(entity, lane) {
            Some(at) => at,
            None => self.add_shelf(entity.clone(), lane, Vec::new()),
        };
        let news = |set: &FingerprintSet| -> Vec<Fingerprint> {
            fingerprints.iter().filter(|it| !set.contains(it)).copied().collect()
        };
        let news = self.with_set(at, bucket, news)?.unwrap_or_else(|| fingerprints.to_vec());
        let Some(added) = u32::try_from(news.len()).ok().filter(|added| *added > 0) else {
            return Ok(());
        };
        let Some(shelf) = self.shelves.get_mut(at) else {
            return Ok(());
        };
        let vouched = match shelf.slot_mut(bucket) {
            Some(slot) => slot.vouched(),
            None => Vouched { bucket, count: 0, sum: 0 },
        };
        let path = shelf.path(bucket);
        let mut bytes = Vec::with_capacity(news.len() * Fingerprint::LEN);
        for fingerprint in &news {
            bytes.extend_from_slice(fingerprint.as_bytes());
        }
        if let Err(error) = disk::write_bucket(&path, vouched, &bytes) {
            // a file of this cache that has gone while it was in use
            let gone = vouched.count > 0 && error.kind() == io::ErrorKind::NotFound;
            return Err(if gone {
                self.damaged(path)
            } else {
                StateError::io("write", &path)(error)
            });
        }
        self.take(at, vouched, added, &news);
        Ok(())
    }

    /// Takes what has been written into slot and set.
    fn take(&mut self, at: usize, before: Vouched, added: u32, news: &[Fingerprint]) {
        self.tick += 1;
        let Some(shelf) = self.shelves.get_mut(at) else {
            return;
        };
        let capacity = shelf.slots.capacity();
        if let Err(place) = shelf.position(before.bucket) {
            let set = FingerprintSet::with_capacity(news.len());
            let loaded = Box::new(Loaded { set, used_at: self.tick });
            self.memory_bytes += loaded.bytes();
            let Vouched { bucket, count, sum } = before;
            shelf
                .slots
                .insert(place, Slot { bucket, sum, count, dirty: true, loaded: Some(loaded) });
        }
        self.memory_bytes += (shelf.slots.capacity() - capacity) * size_of::<Slot>();
        shelf.dirty = true;
        let Some(slot) = shelf.slot_mut(before.bucket) else {
            return;
        };
        slot.dirty = true;
        slot.count = slot.count.saturating_add(added);
        slot.sum = news.iter().map(disk::checksum).fold(slot.sum, u64::wrapping_add);
        if let Some(loaded) = &mut slot.loaded {
            let bytes = loaded.bytes();
            loaded.set.extend_new(news);
            loaded.used_at = self.tick;
            self.memory_bytes += loaded.bytes() - bytes;
        }
        self.evict();
    }

    /// Looks into a bucket's set, loading it when it is not in memory; `None` when there is no such bucket.
    fn with_set<T>(
        &mut self,
        shelf: usize,
        bucket: Bucket,
        look: impl FnOnce(&FingerprintSet) -> T,
    ) -> Result<Option<T>, StateError> {
        self.tick += 1;
        let tick = self.tick;
        let Some(shelf) = self.shelves.get_mut(shelf) else {
            return Ok(None);
        };
        let Ok(at) = shelf.position(bucket) else {
            return Ok(None);
        };
        let Some(slot) = shelf.slots.get_mut(at) else {
            return Ok(None);
        };
        if let Some(loaded) = &mut slot.loaded {
            loaded.used_at = tick;
            return Ok(Some(look(&loaded.set)));
        }
        let vouched = slot.vouched();
        let path = shelf.path(bucket);
        let mut set = FingerprintSet::with_capacity(usize::try_from(vouched.count).unwrap_or(0));
        let read = disk::read_bucket(&path, vouched, |it| set.insert(it));
        match read {
            Ok(()) => {}
            Err(ReadError::Damaged) => return Err(self.damaged(path)),
            Err(ReadError::Io(error)) => return Err(StateError::io("read", &path)(error)),
        }
        let seen = look(&set);
        let loaded = Box::new(Loaded { set, used_at: tick });
        self.memory_bytes += loaded.bytes();
        if let Some(slot) = shelf.slots.get_mut(at) {
            slot.loaded = Some(loaded);
        }
        self.evict();
        Ok(Some(seen))
    }

    /// Drops sets from memory, least recently used first, never the one in use nor those used just before it: pages of tail
    /// and backfill alternate, and two crowded hours must not push each other out at every entry. An eighth of the limit
    /// is freed at once, so that the search for the oldest is rare.
    fn evict(&mut self) {
        if self.memory_bytes <= self.memory_bytes_max {
            return;
        }
        let mut loaded: Vec<(u64, usize, usize)> = Vec::new();
        for (at, shelf) in self.shelves.iter().enumerate() {
            let slots = shelf.slots.iter().enumerate();
            let used = slots.filter_map(|(slot, it)| Some((it.loaded.as_ref()?.used_at, at, slot)));
            loaded.extend(used.filter(|(used_at, ..)| *used_at < self.tick));
        }
        loaded.sort_unstable();
        loaded.truncate(loaded.len().saturating_sub(KEPT_BESIDES));
        let goal = self.memory_bytes_max - self.memory_bytes_max / 8;
        for (_, shelf, slot) in loaded {
            if self.memory_bytes <= goal {
                break;
            }
            let slot = self.shelves.get_mut(shelf).and_then(|shelf| shelf.slots.get_mut(slot));
            if let Some(dropped) = slot.and_then(|slot| slot.loaded.take()) {
                self.memory_bytes -= dropped.bytes();
            }
        }
    }

    /// The files are not what was written: worthless from now on, also for the next start.
    fn damaged(&mut self, path: PathBuf) -> StateError {
        if let Err(error) = disk::remove_file(&self.root.join(disk::APPLIED)) {
            tracing::warn!(%error, dir = %self.root.display(), "cannot remove damaged seen ids: remove the folder by hand");
        }
        self.broken = Some(path.clone());
        StateError::Damaged { path }
    }

    fn find_shelf(&mut self, entity: &EntityName, lane: SeenLane) -> Option<usize> {
        let is_it = |shelf: &Shelf| shelf.lane == lane && shelf.entity == *entity;
        if self.shelves.get(self.last_shelf).is_some_and(is_it) {
            return Some(self.last_shelf);
        }
        self.last_shelf = self.shelves.iter().position(is_it)?;
        Some(self.last_shelf)
    }

    fn add_shelf(&mut self, entity: EntityName, lane: SeenLane, index: Vec<Vouched>) -> usize {
        let slot = |Vouched { bucket, count, sum }| Slot {
            bucket,
            sum,
            count,
            dirty: false,
            loaded: None,
        };
        let slots: Vec<Slot> = index.into_iter().map(slot).collect();
        self.memory_bytes += slots.capacity() * size_of::<Slot>() + size_of::<Shelf>();
        let dir = disk::lane_dir(&self.root, &entity, lane);
        self.shelves.push(Shelf { entity, lane, dir, slots, dirty: false });
        self.shelves.len() - 1
    }

    fn applied_file(&self) -> Applied {
        let mut file = Applied::default();
        for shelf in self.shelves.iter().filter(|shelf| !shelf.slots.is_empty()) {
            file.lanes.insert(format!("{}/{}", shelf.entity, shelf.lane.as_str()));
        }
        for (&(lane, partition), &next_offset) in &self.applied {
            let offsets = file.next_offsets.entry(lane.as_str().to_owned()).or_default();
            offsets.insert(partition, next_offset);
        }
        file
    }
}

fn applied_offsets(applied: &Applied) -> BTreeMap<(SeenLane, i32), i64> {
    let mut offsets = BTreeMap::new();
    for lane in SeenLane::ALL {
        let partitions = applied.next_offsets.get(lane.as_str());
        let each = partitions.into_iter().flatten();
        offsets.extend(each.map(|(&partition, &offset)| ((lane, partition), offset)));
    }
    offsets
}
