//! What is done with the cache's files when they are opened: kept when they are whole, else wiped.

use super::Settings;
use super::disk::{self, Applied, ReadError, Vouched};
use super::error::StateError;
use crate::audit::{Bucket, EntityName, SeenLane};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How many bytes of bucket files are compared with their checksums at start, newest hours first: those that are likely
/// to be looked up. The others are compared when they are first used.
const CHECKED_AT_START_BYTES: u64 = 64 << 20;

/// What was found on disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// How far the changelog is applied.
    pub(super) applied: Applied,
    /// The lanes and what their files hold.
    pub(super) lanes: Vec<(EntityName, SeenLane, Vec<Vouched>)>,
}

/// The state folder is this process's own as long as this lives.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock, or says that another process has it. To be done before anything is taken from that process.
    pub fn take(settings: &Settings) -> Result<Self, StateError> {
        let seen = settings.dir.join("seen");
        fs::create_dir_all(&seen).map_err(StateError::io("create", &seen))?;
        let path = seen.join("_lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StateError::Busy { dir: seen }),
            Err(TryLockError::Error(error)) => Err(StateError::io("lock", &path)(error)),
        }
    }

    /// The same for whoever only wants no daemon beside it: `None` where no daemon has ever been; makes nothing.
    pub fn take_where_there(settings: &Settings) -> Result<Option<Self>, StateError> {
        let is_there = settings.dir.join("seen").join("_lock").exists();
        if is_there { Self::take(settings).map(Some) } else { Ok(None) }
    }

    /// The same lock once more.
    pub(super) fn clone_of(&self, seen: &Path) -> Result<Self, StateError> {
        self.0.try_clone().map(Self).map_err(StateError::io("lock", seen))
    }
}

/// Opens `<seen>/<instance>`: other instances' folders go, and so does this one's content when it is not whole.
pub(super) fn open(seen: &Path, instance: &str) -> Result<Found, StateError> {
    let root = seen.join(instance);
    for name in disk::names(seen).map_err(StateError::io("list", seen))? {
        if name != instance && name != "_lock" {
            tracing::warn!(folder = %name, "removing seen ids of another instance");
            remove(&seen.join(name))?;
        }
    }
    fs::create_dir_all(&root).map_err(StateError::io("create", &root))?;
    match examine(&root) {
        Ok(found) => Ok(found),
        Err(flaw) => {
            wipe(&root)?;
            let dir = root.display();
            match flaw {
                Flaw::NeverFlushed => tracing::info!(
                    %dir,
                    "the last run ended before it had made its seen ids durable: reading them from Kafka"
                ),
                Flaw::Damaged(what) => tracing::warn!(
                    %dir, %what,
                    "local seen ids are damaged: rebuilding them from Kafka, nothing is lost"
                ),
            }
            Ok(Found::default())
        }
    }
}

/// Why a cache is wiped.
#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    /// Nothing in it is vouched for: what a kill in the first minute leaves, or one while it was wiped.
    NeverFlushed,
    /// What is vouched for is not there, and what.
    Damaged(String),
}

impl From<String> for Flaw {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

/// Makes the cache worthless at once, then empties it. A crash in between leaves a cache that is wiped at the next start.
pub(super) fn wipe(root: &Path) -> Result<(), StateError> {
    remove(&root.join(disk::APPLIED))?;
    disk::sync(root).map_err(StateError::io("sync", root))?;
    for name in disk::names(root).map_err(StateError::io("list", root))? {
        remove(&root.join(name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), StateError> {
    disk::remove(path).map_err(StateError::io("remove", path))
}

/// Reads and checks what is there.
fn examine(root: &Path) -> Result<Found, Flaw> {
    let path = root.join(disk::APPLIED);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(_) if disk::names(root).is_ok_and(|names| names.is_empty()) => {
            return Ok(Found::default());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Flaw::NeverFlushed),
        Err(error) => return Err(format!("{}: {error}", path.display()).into()),
    };
    let applied = Applied::decode(&bytes).ok_or_else(|| damaged(&path))?;
    let mut lanes = Vec::new();
    for name in &applied.lanes {
        let (entity, lane) = parse_lane(name).ok_or_else(|| damaged(&path))?;
        let dir = disk::lane_dir(root, &entity, lane);
        lanes.push((entity, lane, examine_lane(&dir)?));
    }
    cut_unknown_lanes(root, &applied.lanes).map_err(|error| error.to_string())?;
    check_contents(root, &lanes)?;
    Ok(Found { applied, lanes })
}

fn damaged(path: &Path) -> String {
    format!("{} is missing, cut or changed", path.display())
}

fn parse_lane(name: &str) -> Option<(EntityName, SeenLane)> {
    let (entity, lane) = name.split_once('/')?;
    let lane = SeenLane::ALL.into_iter().find(|known| known.as_str() == lane)?;
    Some((EntityName::try_from(entity.to_owned()).ok()?, lane))
}

/// The index, with every file at least as long as it says; what it does not vouch for is cut.
fn examine_lane(dir: &Path) -> Result<Vec<Vouched>, String> {
    let path = dir.join(disk::INDEX);
    let bytes = fs::read(&path).map_err(|_| damaged(&path))?;
    let index = disk::decode_index(&bytes).ok_or_else(|| damaged(&path))?;
    let mut known = BTreeSet::from([disk::INDEX.to_owned()]);
    for vouched in &index {
        let name = disk::bucket_file(vouched.bucket);
        cut(&dir.join(&name), vouched.bytes())?;
        known.insert(name);
    }
    remove_all_but(dir, &known).map_err(|error| error.to_string())?;
    Ok(index)
}

fn cut(path: &Path, bytes: u64) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|_| damaged(path))?.len();
    if found < bytes {
        return Err(damaged(path));
    }
    if found > bytes {
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(bytes)).map_err(|_| damaged(path))?;
    }
    Ok(())
}

fn remove_all_but(dir: &Path, known: &BTreeSet<String>) -> std::io::Result<()> {
    disk::names(dir)?
        .into_iter()
        .filter(|name| !known.contains(name))
        .try_for_each(|name| disk::remove(&dir.join(name)))
}

fn cut_unknown_lanes(root: &Path, lanes: &BTreeSet<String>) -> std::io::Result<()> {
    for entity in disk::names(root)? {
        let path = root.join(&entity);
        if entity == disk::APPLIED {
            continue;
        }
        let known = |lane: SeenLane| lanes.contains(&format!("{entity}/{}", lane.as_str()));
        let kept: BTreeSet<String> = SeenLane::ALL
            .into_iter()
            .filter(|lane| known(*lane))
            .map(|lane| lane.as_str().to_owned())
            .collect();
        if kept.is_empty() {
            disk::remove(&path)?;
        } else {
            remove_all_but(&path, &kept)?;
        }
    }
    Ok(())
}

fn check_contents(
    root: &Path,
    lanes: &[(EntityName, SeenLane, Vec<Vouched>)],
) -> Result<(), String> {
    let mut files: Vec<(PathBuf, Vouched)> = Vec::new();
    for (entity, lane, index) in lanes {
        let dir = disk::lane_dir(root, entity, *lane);
        files.extend(index.iter().map(|it| (dir.join(disk::bucket_file(it.bucket)), *it)));
    }
    // "none" is always looked up: first, then from the newest hour backwards
    files.sort_by_key(|(_, it)| (it.bucket != Bucket::NONE, std::cmp::Reverse(it.bucket)));
    let mut budget_bytes = CHECKED_AT_START_BYTES;
    for (path, vouched) in files {
        let Some(left) = budget_bytes.checked_sub(vouched.bytes()) else {
            break;
        };
        budget_bytes = left;
        disk::read_bucket(&path, vouched, |_| ()).map_err(|error| match error {
            ReadError::Damaged => damaged(&path),
            ReadError::Io(error) => format!("{}: {error}", path.display()),
        })?;
    }
    Ok(())
}
