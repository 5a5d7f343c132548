//! The cache of seen ids on disk, beside a model: commits, aborts, crashes, and files that anything may have been done to.

use crate::decisions::Decisions;
use ghauditd::audit::seen_record::encode_value;
use ghauditd::audit::{Bucket, EntityName, Fingerprint, SeenLane, SourceKind, Verdict};
use ghauditd::state::{Buckets, Pending, Settings, StateError};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

const INSTANCE: &str = "0f1e";
const PARTITION: i32 = 3;

/// Whatever happens, a verdict is the model's: nothing new is ever taken for known (lost), nothing known for new
/// (doubled).
#[test]
fn buckets_beside_a_model() {
    bolero::check!().with_max_len(256_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut world = World::new(&mut decisions);
        while !decisions.is_empty() {
            world.step(&mut decisions);
        }
        world.restart();
        for filed in world.known.clone() {
            assert_eq!(world.look(filed, &Pending::default()).unwrap(), Verdict::Known);
        }
        world.buckets().flush().unwrap();
        world.restart();
        for filed in world.known.clone() {
            assert_eq!(world.look(filed, &Pending::default()).unwrap(), Verdict::Known);
        }
    });
}

/// Entity, lane, bucket, fingerprint.
type Filed = (usize, SeenLane, Bucket, Fingerprint);

struct World {
    dir: TempDir,
    memory_bytes_max: usize,
    buckets: Option<Buckets>,
    /// What Kafka holds: the topic's lane, key and value of each record.
    changelog: Vec<(SeenLane, usize, Vec<u8>)>,
    known: BTreeSet<Filed>,
}

fn entity(number: usize) -> EntityName {
    EntityName::try_from(["acme", "org-1"][number % 2].to_owned()).unwrap()
}

impl World {
    fn new(decisions: &mut Decisions<'_>) -> Self {
        let memory_bytes_max = [0, 2000, 1 << 20][decisions.below(3)];
        let dir = TempDir::new().unwrap();
        let (changelog, known) = (Vec::new(), BTreeSet::new());
        let mut world = Self { dir, memory_bytes_max, buckets: None, changelog, known };
        world.restart();
        world
    }

    fn buckets(&mut self) -> &mut Buckets {
        self.buckets.as_mut().unwrap()
    }

    /// A process ends, without a flush, and the next one begins and catches up.
    fn restart(&mut self) {
        self.buckets = None;
        let dir = self.dir.path().to_owned();
        let settings = Settings { dir, memory_bytes_max: self.memory_bytes_max };
        // damage that is found while catching up wipes the cache at the next start: two starts are enough
        for _ in 0..3 {
            let mut buckets = Buckets::open(&settings, INSTANCE).unwrap();
            match catch_up(&mut buckets, &self.changelog) {
                Ok(()) => {
                    self.buckets = Some(buckets);
                    return;
                }
                Err(StateError::Damaged { .. }) => drop(buckets),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the cache stays damaged");
    }

    fn step(&mut self, decisions: &mut Decisions<'_>) {
        match decisions.byte() {
            0..=127 => self.batch(decisions),
            128..=159 => {
                if self.buckets().flush().is_err() {
                    self.restart();
                }
            }
            160..=175 => self.restart(),
            176..=191 => self.expire(decisions),
            192..=223 => {
                self.buckets = None;
                damage(self.dir.path(), decisions);
                self.restart();
            }
            _ => damage(self.dir.path(), decisions),
        }
    }

    fn look(&mut self, it: Filed, pending: &Pending) -> Result<Verdict, StateError> {
        let (of, lane, bucket, fingerprint) = it;
        self.buckets().verdict(&entity(of), lane, &[bucket], &fingerprint, pending)
    }

    /// Plans, compares and commits some entries of one entity, as the collector does.
    fn batch(&mut self, decisions: &mut Decisions<'_>) {
        let of = decisions.below(2);
        let looks: Vec<Filed> = (0..=decisions.below(6))
            .map(|_| {
                let lane = SeenLane::ALL[decisions.below(2)];
                let bucket = match decisions.below(6) {
                    0 => Bucket::NONE,
                    hour => Bucket(i64::try_from(hour).unwrap() - 3),
                };
                let kind = [SourceKind::Rest, SourceKind::Rest, SourceKind::Push];
                let (id, body) = (decisions.byte() % 12, decisions.byte() % 3);
                (of, lane, bucket, Fingerprint::new(&[id], &[body], kind[decisions.below(3)]))
            })
            .collect();
        let outcome = decisions.byte();
        // damage to files in use is noticed at last when the cache is opened again
        for _ in 0..2 {
            let (mut pending, mut planned) = (Pending::default(), BTreeSet::new());
            let mut damaged = false;
            for &look in &looks {
                match self.look(look, &pending) {
                    Ok(verdict) => {
                        assert_eq!(verdict, self.expected(look, &planned), "{look:?}");
                        if verdict.is_stored() {
                            pending.insert(look.1, look.2, look.3);
                            planned.insert(look);
                        }
                    }
                    // or a folder stands where a file was: what an operator must mend, here by a new start
                    Err(StateError::Damaged { .. } | StateError::Io { .. }) => damaged = true,
                    Err(error) => panic!("{error}"),
                }
                if damaged {
                    break;
                }
            }
            if damaged {
                self.restart();
                continue;
            }
            if outcome > 40 {
                self.commit(of, pending, planned, outcome);
            }
            return;
        }
        panic!("the cache stays damaged");
    }

    fn expected(&self, look: Filed, planned: &BTreeSet<Filed>) -> Verdict {
        let beside = self.known.iter().chain(planned).filter(|it| {
            (it.0, it.1) == (look.0, look.1) && (it.2 == look.2 || it.2 == Bucket::NONE)
        });
        beside.map(|it| Verdict::beside(&it.3, &look.3)).max().unwrap_or(Verdict::New)
    }

    fn commit(&mut self, of: usize, mut pending: Pending, planned: BTreeSet<Filed>, outcome: u8) {
        for (lane, bucket, added) in pending.iter() {
            self.changelog.push((lane, of, encode_value(lane, bucket, added)));
        }
        self.known.extend(planned);
        if outcome > 230 {
            // killed between the commit and its filing
            return self.restart();
        }
        let next_offset = i64::try_from(self.changelog.len()).unwrap();
        match self.buckets().commit(&entity(of), &mut pending) {
            Ok(()) if outcome > 100 => {
                let buckets = self.buckets();
                for lane in SeenLane::ALL {
                    buckets.set_applied(lane.topic(), PARTITION, next_offset);
                }
            }
            Ok(()) => {}
            Err(_) => self.restart(),
        }
        assert!(pending.is_empty());
    }

    /// What is expired is forgotten here and, by its own retention, in Kafka.
    fn expire(&mut self, decisions: &mut Decisions<'_>) {
        let (lane, before) = (SeenLane::ALL[decisions.below(2)], Bucket(-1));
        if self.buckets().expire(lane, before).is_err() {
            self.restart();
        }
        let gone = |bucket: Bucket| bucket != Bucket::NONE && bucket < before;
        self.known.retain(|it| it.1 != lane || !gone(it.2));
        for record in self.changelog.iter_mut().filter(|record| record.0 == lane) {
            let bucket = record.2.get(2..10).and_then(|hour| hour.first_chunk::<8>());
            if gone(Bucket(i64::from_be_bytes(*bucket.unwrap()))) {
                record.2.truncate(10);
            }
        }
        // a start that failed halfway may have read them before
        if self.buckets().expire(lane, before).is_err() {
            self.restart();
        }
    }
}

fn catch_up(
    buckets: &mut Buckets,
    changelog: &[(SeenLane, usize, Vec<u8>)],
) -> Result<(), StateError> {
    for lane in SeenLane::ALL {
        let from = buckets.applied(lane.topic(), PARTITION).unwrap_or(0);
        assert!(usize::try_from(from).unwrap() <= changelog.len(), "offsets out of thin air");
        for (offset, (of_lane, of, value)) in (0_i64..).zip(changelog) {
            if *of_lane == lane && offset >= from {
                let key = entity(*of);
                let key = key.as_str().as_bytes();
                buckets.apply_record(lane.topic(), PARTITION, offset, key, Some(value))?;
            }
        }
    }
    Ok(())
}

/// Something happens to one of the files, or a file appears.
fn damage(dir: &Path, decisions: &mut Decisions<'_>) {
    let mut files = Vec::new();
    files_below(&dir.join("seen"), &mut files);
    files.sort();
    if files.is_empty() {
        return;
    }
    let path = files[decisions.below(files.len())].clone();
    let Ok(mut bytes) = std::fs::read(&path) else { return };
    let content = |decisions: &mut Decisions<'_>| -> Vec<u8> {
        (0..decisions.below(80)).map(|_| decisions.byte()).collect()
    };
    match decisions.byte() {
        0..=31 => return std::fs::remove_file(&path).unwrap(),
        32..=63 => bytes.truncate(decisions.below(bytes.len().clamp(1, 256))),
        64..=111 => {
            let at = usize::from(decisions.byte()) * 8 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= decisions.byte().max(1);
            }
        }
        112..=143 => bytes.extend(content(decisions)),
        144..=175 => bytes = content(decisions),
        176..=207 => {
            // the contents of another file, whole
            let other = &files[decisions.below(files.len())];
            bytes = std::fs::read(other).unwrap_or_default();
        }
        208..=231 => {
            let names = ["9.seen", "none.seen", "x.seen", "index", "-1.seen", "_applied.json"];
            let name = decisions.pick(&names).to_owned();
            let beside = path.with_file_name(name);
            if !beside.exists() {
                std::fs::write(beside, not_ours(content(decisions))).unwrap();
            }
            return;
        }
        _ => {
            std::fs::remove_file(&path).unwrap();
            return std::fs::create_dir(&path).unwrap();
        }
    }
    std::fs::write(&path, not_ours(bytes)).unwrap();
}

/// The checksums are there against accidents: a fuzzer that looks at comparisons could write a file that is right by
/// them and says something else, an accident cannot. What is right because it was copied from a right file is taken out
/// too: one file from another time or place is what no file system does by itself.
fn not_ours(mut bytes: Vec<u8>) -> Vec<u8> {
    let is_index = bytes
        .split_last_chunk::<8>()
        .is_some_and(|(body, hash)| u64::from_be_bytes(*hash) == xxh3_64(body));
    if is_index || bytes.windows(8).any(|part| part == b"\"check\":") {
        let last = bytes.len() - 1;
        bytes[last] ^= 0x55;
    }
    bytes
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, files);
        } else if path.file_name().is_some_and(|name| name != "_lock") {
            files.push(path);
        }
    }
}
