//! Tests of the whole room: the cache beside a model, with crashes and damage.

use super::{Buckets, Pending, Settings, StateError, disk};
use crate::audit::seen_record::encode_value;
use crate::audit::{Bucket, EntityName, Fingerprint, SeenLane, SourceKind, Topic, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const INSTANCE: &str = "0f1e-instance";
const PARTITION: i32 = 3;

fn entity(name: &str) -> EntityName {
    EntityName::try_from(name.to_owned()).unwrap()
}

fn settings(dir: &Path, memory_bytes_max: usize) -> Settings {
    Settings { dir: dir.to_owned(), memory_bytes_max }
}

fn open(dir: &Path) -> Buckets {
    Buckets::open(&settings(dir, 1 << 20), INSTANCE).unwrap()
}

fn rest(id: u32, body: u32) -> Fingerprint {
    Fingerprint::new(&id.to_be_bytes(), &body.to_be_bytes(), SourceKind::Rest)
}

fn verdict(buckets: &mut Buckets, bucket: Bucket, fingerprint: Fingerprint) -> Verdict {
    buckets
        .verdict(&entity("acme"), SeenLane::Web, &[bucket], &fingerprint, &Pending::default())
        .unwrap()
}

fn apply(buckets: &mut Buckets, bucket: Bucket, fingerprints: &[Fingerprint]) {
    buckets.apply(&entity("acme"), SeenLane::Web, bucket, fingerprints).unwrap();
}

fn acme_file(dir: &Path, name: &str) -> PathBuf {
    dir.join("seen").join(INSTANCE).join("acme").join("web").join(name)
}

fn applied_file(dir: &Path) -> PathBuf {
    dir.join("seen").join(INSTANCE).join(disk::APPLIED)
}

/// A cache with two hours and "none" of 100 fingerprints each, flushed at offset 30.
fn filled(dir: &Path) {
    let mut buckets = open(dir);
    for bucket in [Bucket(100), Bucket(101), Bucket::NONE] {
        apply(&mut buckets, bucket, &(0..100).map(|id| rest(id, 0)).collect::<Vec<_>>());
    }
    buckets.set_applied(Topic::SeenWeb, PARTITION, 30);
    buckets.flush().unwrap();
}

/// What a changelog partition holds.
#[derive(Default)]
struct Changelog {
    records: Vec<(Topic, EntityName, Vec<u8>)>,
}

impl Changelog {
    fn catch_up(&self, buckets: &mut Buckets) -> Result<(), StateError> {
        for lane in SeenLane::ALL {
            let from = buckets.applied(lane.topic(), PARTITION).unwrap_or(0);
            for (offset, (topic, key, value)) in (0_i64..).zip(&self.records) {
                if *topic == lane.topic() && offset >= from {
                    let key = key.as_str().as_bytes();
                    buckets.apply_record(*topic, PARTITION, offset, key, Some(value))?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Look {
    entity: usize,
    lane: SeenLane,
    filed: Bucket,
    looked_up: [Bucket; 2],
    fingerprint: Fingerprint,
}

#[derive(Debug, Clone)]
enum Damage {
    Delete,
    Truncate(usize),
    Flip(usize),
    Append(Vec<u8>),
}

#[derive(Debug, Clone)]
enum Step {
    Batch { looks: Vec<Look>, committed: bool, told: bool },
    Flush,
    Stop,
    Crash,
    Damage { file: usize, how: Damage, while_open: bool },
}

fn bucket() -> impl Strategy<Value = Bucket> {
    prop_oneof![1 => Just(Bucket::NONE), 6 => (-2_i64..4).prop_map(Bucket)]
}

fn look() -> impl Strategy<Value = Look> {
    let lane = prop_oneof![Just(SeenLane::Web), Just(SeenLane::Git)];
    let kind = prop_oneof![3 => Just(SourceKind::Rest), 1 => Just(SourceKind::Push)];
    let fingerprint = (0_u32..12, 0_u32..3, kind).prop_map(|(id, body, kind)| {
        Fingerprint::new(&id.to_be_bytes(), &body.to_be_bytes(), kind)
    });
    (0_usize..2, lane, bucket(), bucket(), fingerprint).prop_map(
        |(entity, lane, filed, other, fingerprint)| Look {
            entity,
            lane,
            filed,
            looked_up: [filed, other],
            fingerprint,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        Just(Damage::Delete),
        (0_usize..2000).prop_map(Damage::Truncate),
        (0_usize..2000).prop_map(Damage::Flip),
        vec(any::<u8>(), 1..60).prop_map(Damage::Append),
    ];
    let batch = (vec(look(), 1..30), prop::bool::weighted(0.8), any::<bool>())
        .prop_map(|(looks, committed, told)| Step::Batch { looks, committed, told });
    prop_oneof![
        8 => batch,
        2 => Just(Step::Flush),
        1 => Just(Step::Stop),
        2 => Just(Step::Crash),
        2 => (0_usize..64, how, any::<bool>())
            .prop_map(|(file, how, while_open)| Step::Damage { file, how, while_open }),
    ]
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.file_name().unwrap() != "_lock" {
            found.push(path);
        }
    }
    found.sort();
}

fn damage(dir: &Path, file: usize, how: &Damage) {
    let mut files = Vec::new();
    files_below(&dir.join("seen"), &mut files);
    let Some(path) = files.get(file % files.len().max(1)) else {
        return;
    };
    let mut bytes = fs::read(path).unwrap();
    match how {
        Damage::Delete => return fs::remove_file(path).unwrap(),
        Damage::Truncate(len) => bytes.truncate(*len % (bytes.len() + 1)),
        Damage::Flip(at) if !bytes.is_empty() => {
            let at = at % bytes.len();
            bytes[at] ^= 0x10;
        }
        Damage::Flip(_) => {}
        Damage::Append(garbage) => bytes.extend_from_slice(garbage),
    }
    fs::write(path, bytes).unwrap();
}

/// The real cache and what it must say.
struct World {
    dir: TempDir,
    memory_bytes_max: usize,
    entities: [EntityName; 2],
    buckets: Option<Buckets>,
    changelog: Changelog,
    known: Vec<(usize, SeenLane, Bucket, Fingerprint)>,
}

impl World {
    fn new(memory_bytes_max: usize) -> Self {
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            memory_bytes_max,
            entities: [entity("acme"), entity("applied.json")],
            buckets: None,
            changelog: Changelog::default(),
            known: Vec::new(),
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.buckets = None;
        let settings = settings(self.dir.path(), self.memory_bytes_max);
        let mut buckets = Buckets::open(&settings, INSTANCE).unwrap();
        match self.changelog.catch_up(&mut buckets) {
            Ok(()) => self.buckets = Some(buckets),
            // an old hour is compared with its checksum only when it is first used
            Err(StateError::Damaged { .. }) => {
                drop(buckets);
                self.start();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn expected(&self, look: &Look, planned: &[Look]) -> Verdict {
        let searched = |bucket: Bucket| bucket == Bucket::NONE || look.looked_up.contains(&bucket);
        let known = self.known.iter().copied();
        let planned = planned.iter().map(|it| (it.entity, it.lane, it.filed, it.fingerprint));
        let beside: Vec<Fingerprint> = known
            .chain(planned)
            .filter(|(entity, lane, bucket, _)| {
                *entity == look.entity && *lane == look.lane && searched(*bucket)
            })
            .map(|(.., fingerprint)| fingerprint)
            .filter(|fingerprint| fingerprint.id() == look.fingerprint.id())
            .collect();
        if beside.contains(&look.fingerprint) {
            Verdict::Known
        } else if let Some(before) = beside
            .iter()
            .filter(|it| it.kind() == look.fingerprint.kind())
            .map(Fingerprint::body)
            .max()
        {
            Verdict::Revision(before)
        } else if beside.is_empty() {
            Verdict::New
        } else {
            Verdict::KnownOtherKind
        }
    }

    /// Plans, compares and commits one entity's entries, as the collector does.
    fn batch(&mut self, looks: &[Look], committed: bool, told: bool) -> Result<(), TestCaseError> {
        let of = looks[0].entity;
        loop {
            let (mut pending, mut planned, mut damaged) = (Pending::default(), Vec::new(), false);
            for look in looks.iter().map(|look| Look { entity: of, ..*look }) {
                let buckets = self.buckets.as_mut().unwrap();
                let (name, at) = (&self.entities[of], look.looked_up);
                match buckets.verdict(name, look.lane, &at, &look.fingerprint, &pending) {
                    Ok(verdict) => {
                        prop_assert_eq!(verdict, self.expected(&look, &planned), "{:?}", look);
                        if verdict.is_stored() {
                            pending.insert(look.lane, look.filed, look.fingerprint);
                            planned.push(look);
                        }
                    }
                    Err(StateError::Damaged { .. }) => {
                        damaged = true;
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            if !damaged {
                if committed {
                    self.commit(of, pending, &planned, told);
                }
                return Ok(());
            }
            self.start();
        }
    }

    fn commit(&mut self, of: usize, mut pending: Pending, planned: &[Look], told: bool) {
        for (lane, bucket, added) in pending.iter() {
            let value = encode_value(lane, bucket, added);
            self.changelog.records.push((lane.topic(), self.entities[of].clone(), value));
        }
        self.known.extend(planned.iter().map(|it| (of, it.lane, it.filed, it.fingerprint)));
        let next_offset = i64::try_from(self.changelog.records.len()).unwrap();
        let buckets = self.buckets.as_mut().unwrap();
        match buckets.commit(&self.entities[of], &mut pending) {
            Ok(()) if told => SeenLane::ALL
                .into_iter()
                .for_each(|lane| buckets.set_applied(lane.topic(), PARTITION, next_offset)),
            Ok(()) => {}
            Err(StateError::Damaged { .. }) => self.start(),
            Err(error) => panic!("{error}"),
        }
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Batch { looks, committed, told } => self.batch(looks, *committed, *told)?,
            Step::Flush | Step::Stop => {
                let flushed = self.buckets.as_mut().unwrap().flush();
                if flushed.is_err() || matches!(step, Step::Stop) {
                    self.start();
                }
            }
            Step::Crash => self.start(),
            Step::Damage { file, how, while_open } => {
                if *while_open {
                    damage(self.dir.path(), *file, how);
                } else {
                    self.buckets = None;
                    damage(self.dir.path(), *file, how);
                    self.start();
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is committed, aborted, flushed, crashed and damaged: a verdict is always the model's, so nothing is ever
    /// lost (dropped as known when it is new) or doubled.
    #[test]
    fn verdicts_agree_with_a_model(
        steps in vec(step(), 1..30),
        memory_bytes_max in prop_oneof![Just(0_usize), Just(3_000), Just(1 << 20)],
    ) {
        let mut world = World::new(memory_bytes_max);
        for step in &steps {
            world.run(step)?;
        }
        // in the end everything known is known
        world.start();
        for (of, lane, bucket, fingerprint) in world.known.clone() {
            let buckets = world.buckets.as_mut().unwrap();
            let (name, pending) = (&world.entities[of], Pending::default());
            let verdict = buckets.verdict(name, lane, &[bucket], &fingerprint, &pending).unwrap();
            prop_assert_eq!(verdict, Verdict::Known);
        }
    }
}

#[test]
fn a_flushed_cache_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut buckets = open(dir.path());
    assert_eq!(buckets.applied(Topic::SeenWeb, PARTITION), Some(30));
    assert_eq!(buckets.applied(Topic::SeenGit, PARTITION), None);
    assert_eq!(buckets.applied(Topic::Web, PARTITION), None);
    assert_eq!(verdict(&mut buckets, Bucket(100), rest(7, 0)), Verdict::Known);
    assert_eq!(
        verdict(&mut buckets, Bucket(100), rest(7, 1)),
        Verdict::Revision(rest(7, 0).body())
    );
    assert_eq!(verdict(&mut buckets, Bucket(100), rest(1000, 0)), Verdict::New);
    // nothing in the hour itself, but "none" is always searched
    assert_eq!(verdict(&mut buckets, Bucket(555), rest(7, 0)), Verdict::Known);
    let other_lane = buckets.verdict(
        &entity("acme"),
        SeenLane::Git,
        &[Bucket(100)],
        &rest(7, 0),
        &Pending::default(),
    );
    assert_eq!(other_lane.unwrap(), Verdict::New);
}

/// Each damage to files at rest makes the next start rebuild everything, before the first look-up.
#[test]
fn damage_at_rest_wipes_the_cache() {
    let flip = |at: usize| Damage::Flip(at);
    for (name, how) in [
        ("100.seen", Damage::Delete),
        ("none.seen", Damage::Delete),
        ("101.seen", Damage::Truncate(2499)),
        ("101.seen", Damage::Truncate(0)),
        ("100.seen", flip(1234)),
        ("index", Damage::Delete),
        ("index", flip(3)),
        ("index", Damage::Truncate(29)),
        ("../../_applied.json", Damage::Delete),
        ("../../_applied.json", flip(60)),
        ("../../_applied.json", Damage::Append(b"{}".to_vec())),
    ] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let path = fs::canonicalize(acme_file(dir.path(), name)).unwrap();
        let mut files = Vec::new();
        files_below(&dir.path().join("seen"), &mut files);
        let at = files.iter().position(|it| fs::canonicalize(it).unwrap() == path).unwrap();
        damage(dir.path(), at, &how);
        let mut buckets = open(dir.path());
        assert_eq!(buckets.applied(Topic::SeenWeb, PARTITION), None, "{name} {how:?}");
        assert_eq!(verdict(&mut buckets, Bucket(100), rest(7, 0)), Verdict::New, "{name} {how:?}");
        assert!(!acme_file(dir.path(), "100.seen").exists(), "{name} {how:?}");
    }
}

#[test]
fn a_torn_or_foreign_tail_is_cut_and_the_rest_kept() {
    for garbage in [1, 24, 25, 60] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let path = acme_file(dir.path(), "100.seen");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&vec![0xAB; garbage]).unwrap();
        fs::write(acme_file(dir.path(), "7.seen"), [1; 25]).unwrap();
        let mut buckets = open(dir.path());
        assert_eq!(buckets.applied(Topic::SeenWeb, PARTITION), Some(30));
        assert_eq!(fs::metadata(&path).unwrap().len(), 2500);
        assert!(!acme_file(dir.path(), "7.seen").exists());
        apply(&mut buckets, Bucket(100), &[rest(500, 0)]);
        buckets.flush().unwrap();
        drop(buckets);
        assert_eq!(verdict(&mut open(dir.path()), Bucket(100), rest(500, 0)), Verdict::Known);
    }
}

#[test]
fn what_a_short_write_left_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut buckets = Buckets::open(&settings(dir.path(), 0), INSTANCE).unwrap();
    apply(&mut buckets, Bucket(1), &[rest(1, 0)]);
    // a full disk took 7 bytes of the next fingerprint
    let mut file = OpenOptions::new().append(true).open(acme_file(dir.path(), "1.seen")).unwrap();
    file.write_all(&[9; 7]).unwrap();
    apply(&mut buckets, Bucket(1), &[rest(2, 0)]);
    // with no memory at all another bucket drives the first one out: it is read from the file again
    apply(&mut buckets, Bucket(2), &[rest(3, 0)]);
    for id in [1, 2] {
        assert_eq!(verdict(&mut buckets, Bucket(1), rest(id, 0)), Verdict::Known);
    }
    assert_eq!(fs::metadata(acme_file(dir.path(), "1.seen")).unwrap().len(), 50);
}

#[test]
fn a_file_lost_while_running_stops_the_look_ups() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut buckets = open(dir.path());
    fs::remove_file(acme_file(dir.path(), "100.seen")).unwrap();
    let lost = buckets.verdict(
        &entity("acme"),
        SeenLane::Web,
        &[Bucket(100)],
        &rest(7, 0),
        &Pending::default(),
    );
    assert!(lost.is_err_and(|error| !error.is_retryable()));
    let applied = buckets.apply(&entity("acme"), SeenLane::Web, Bucket(5), &[rest(1, 0)]);
    assert!(matches!(applied, Err(StateError::Damaged { .. })));
    assert!(matches!(buckets.flush(), Err(StateError::Damaged { .. })));
    drop(buckets);
    assert!(!applied_file(dir.path()).exists());
    assert_eq!(open(dir.path()).applied(Topic::SeenWeb, PARTITION), None);
}

/// A disk that is full (the kernel's own ENOSPC): the batch is committed in Kafka but cannot be filed.
#[test]
fn a_full_disk_refuses_look_ups_until_all_is_filed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut buckets = open(dir.path());
    let full = acme_file(dir.path(), "102.seen");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let mut pending = Pending::default();
    for bucket in [Bucket(102), Bucket(103)] {
        pending.insert(SeenLane::Web, bucket, rest(42, 42));
    }
    let failed = buckets.commit(&entity("acme"), &mut pending);
    let Err(StateError::Io { source, .. }) = failed else { panic!("{failed:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(pending.is_empty());
    let again = buckets.commit(&entity("acme"), &mut pending);
    assert!(again.is_err_and(|error| error.is_retryable()), "still owed");
    for _ in 0..2 {
        let refused = buckets.verdict(
            &entity("acme"),
            SeenLane::Web,
            &[Bucket(100)],
            &rest(7, 0),
            &Pending::default(),
        );
        assert!(matches!(refused, Err(StateError::Io { .. })));
        assert!(matches!(buckets.flush(), Err(StateError::Io { .. })));
    }
    fs::remove_file(&full).unwrap();
    for bucket in [Bucket(102), Bucket(103)] {
        assert_eq!(verdict(&mut buckets, bucket, rest(42, 42)), Verdict::Known);
    }
    buckets.flush().unwrap();
}

#[test]
fn another_instance_starts_with_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut other = Buckets::open(&settings(dir.path(), 1 << 20), "another").unwrap();
    assert_eq!(other.applied(Topic::SeenWeb, PARTITION), None);
    assert_eq!(verdict(&mut other, Bucket(100), rest(7, 0)), Verdict::New);
    drop(other);
    assert!(!dir.path().join("seen").join(INSTANCE).exists());
    for wild in ["", ".", "../x", "a/b", &"x".repeat(65)] {
        let refused = Buckets::open(&settings(dir.path(), 0), wild);
        assert!(matches!(refused, Err(StateError::Instance { .. })), "{wild}");
    }
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = Buckets::open(&settings(dir.path(), 0), INSTANCE);
    assert!(matches!(second, Err(StateError::Busy { .. })));
    drop(first);
    open(dir.path());
}

#[test]
fn expired_hours_are_unlinked_and_stay_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut buckets = open(dir.path());
    buckets.expire(SeenLane::Git, Bucket(200)).unwrap();
    buckets.expire(SeenLane::Web, Bucket(101)).unwrap();
    assert!(!acme_file(dir.path(), "100.seen").exists());
    assert!(acme_file(dir.path(), "101.seen").exists());
    assert!(acme_file(dir.path(), "none.seen").exists());
    drop(buckets);
    let mut buckets = open(dir.path());
    assert_eq!(buckets.applied(Topic::SeenWeb, PARTITION), Some(30));
    assert_eq!(verdict(&mut buckets, Bucket(101), rest(7, 0)), Verdict::Known);
    buckets.expire(SeenLane::Web, Bucket(1000)).unwrap();
    drop(buckets);
    assert_eq!(open(dir.path()).applied(Topic::SeenWeb, PARTITION), Some(30));
}

#[test]
fn memory_stays_below_the_limit_and_no_file_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 256 << 10;
    let mut buckets = Buckets::open(&settings(dir.path(), limit), INSTANCE).unwrap();
    for hour in 0..300 {
        let added: Vec<Fingerprint> = (0..100).map(|id| rest(id, 0)).collect();
        apply(&mut buckets, Bucket(hour), &added);
        assert!(buckets.memory_bytes() <= limit, "{} bytes", buckets.memory_bytes());
    }
    for hour in 0..300 {
        assert_eq!(verdict(&mut buckets, Bucket(hour), rest(99, 0)), Verdict::Known);
        assert!(buckets.memory_bytes() <= limit, "{} bytes", buckets.memory_bytes());
    }
    let ours = |path: &PathBuf| path.starts_with(dir.path());
    let handles = fs::read_dir("/proc/self/fd").unwrap();
    let open: Vec<PathBuf> =
        handles.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).filter(ours).collect();
    assert_eq!(open, [dir.path().join("seen").join("_lock")]);
}

#[test]
fn changelog_records_that_are_none_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut buckets = open(dir.path());
    let good = encode_value(SeenLane::Web, Bucket(1), &[rest(1, 1)]);
    for (topic, key, value) in [
        (Topic::SeenWeb, "acme", None),
        (Topic::SeenWeb, "acme", Some(&good[..20])),
        (Topic::SeenWeb, "#genesis", Some(&good[..])),
        (Topic::SeenGit, "acme", Some(&good[..])),
    ] {
        let refused = buckets.apply_record(topic, 5, 77, key.as_bytes(), value);
        let Err(StateError::Changelog { partition: 5, offset: 77, .. }) = refused else {
            panic!("{refused:?}")
        };
    }
    assert_eq!(buckets.applied(Topic::SeenWeb, 5), None);
    buckets.apply_record(Topic::SeenWeb, 5, 77, b"acme", Some(&good)).unwrap();
    assert_eq!(buckets.applied(Topic::SeenWeb, 5), Some(78));
    assert_eq!(verdict(&mut buckets, Bucket(1), rest(1, 1)), Verdict::Known);
}
