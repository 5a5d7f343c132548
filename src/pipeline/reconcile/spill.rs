//! A list of items too long for memory: divided by id, kept in memory while it is short, in files of this run when not.
//!
//! Both lists are divided the same way, so that what belongs together is in the parts of one number, and one part at a
//! time is enough to compare.

use super::item::Item;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Parts of a list: memory holds one of each list at a time.
pub const PARTS: usize = 64;
/// Most entries of a list. A part of it then takes some 100 MB.
pub const ITEMS_MAX: u64 = 50_000_000;
/// A list is in memory up to so many bytes.
const MEMORY_BYTES: usize = 32 << 20;

/// Why a list cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The disk.
    #[error("{path}: {source}; name a folder with room with --work-dir", path = .path.display())]
    Disk {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too long.
    #[error(
        "more than {ITEMS_MAX} entries in the range: compare it in shorter pieces (--from, --to), or lane by lane (--lane)"
    )]
    TooMany,
    /// Somebody changed the files.
    #[error("a work file in {path} is damaged: run it again", path = .0.display())]
    Damaged(PathBuf),
}

/// A folder of this run: made when it is needed, removed when it is not.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A folder below `parent` that nobody else uses. Makes nothing yet.
    pub fn below(parent: &Path) -> Arc<Self> {
        let name = format!("ghauditd-reconcile-{:016x}", rand::random::<u64>());
        Arc::new(Self { path: parent.join(name) })
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(self.path.join(name))?;
        file.write_all(bytes)
    }

    fn failed(&self, source: io::Error) -> SpillError {
        SpillError::Disk { path: self.path.clone(), source }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), "work folder not removed: {error}");
        }
    }
}

/// One list.
#[derive(Debug)]
pub struct Spill {
    folder: Arc<Folder>,
    name: &'static str,
    memory_bytes: usize,
    parts: Vec<Part>,
    buffered: usize,
    items: u64,
}

#[derive(Debug, Default, Clone)]
struct Part {
    buffer: Vec<u8>,
    on_disk: bool,
}

impl Spill {
    /// An empty list. Its name is that of its files.
    pub fn new(folder: &Arc<Folder>, name: &'static str) -> Self {
        Self::with_memory(folder, name, MEMORY_BYTES)
    }

    fn with_memory(folder: &Arc<Folder>, name: &'static str, memory_bytes: usize) -> Self {
        let folder = Arc::clone(folder);
        let parts = vec![Part::default(); PARTS];
        Self { folder, name, memory_bytes, parts, buffered: 0, items: 0 }
    }

    /// How many items it has.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Appends an item.
    pub fn push(&mut self, item: &Item) -> Result<(), SpillError> {
        if self.items >= ITEMS_MAX {
            return Err(SpillError::TooMany);
        }
        let count = u64::try_from(PARTS).unwrap_or(1);
        let number = usize::try_from(item.fingerprint.id_hash() % count).unwrap_or(0);
        if let Some(part) = self.parts.get_mut(number) {
            let before = part.buffer.len();
            item.encode(&mut part.buffer);
            self.buffered += part.buffer.len() - before;
            self.items += 1;
        }
        if self.buffered > self.memory_bytes { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), SpillError> {
        for (number, part) in self.parts.iter_mut().enumerate() {
            let name = file_name(self.name, number);
            self.folder.append(&name, &part.buffer).map_err(|error| self.folder.failed(error))?;
            part.buffer.clear();
            part.on_disk = true;
        }
        self.buffered = 0;
        Ok(())
    }

    /// The items of a part, as often as one likes.
    pub fn part(&self, number: usize) -> Result<Vec<Item>, SpillError> {
        let Some(part) = self.parts.get(number) else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        if part.on_disk {
            let path = self.folder.path.join(file_name(self.name, number));
            File::open(path)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .map_err(|error| self.folder.failed(error))?;
        }
        bytes.extend_from_slice(&part.buffer);
        let (mut rest, mut items) = (bytes.as_slice(), Vec::new());
        while let Some((item, more)) = Item::decode(rest) {
            items.push(item);
            rest = more;
        }
        if rest.is_empty() { Ok(items) } else { Err(SpillError::Damaged(self.folder.path.clone())) }
    }
}

fn file_name(name: &str, number: usize) -> String {
    format!("{name}-{number:02}")
}

#[cfg(test)]
mod tests {
    use super::super::item::testing::items;
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use tempfile::TempDir;

    fn all(spill: &Spill) -> Vec<Item> {
        (0..PARTS).flat_map(|number| spill.part(number).unwrap()).collect()
    }

    #[test]
    fn a_short_list_touches_no_disk_and_a_folder_is_removed_with_its_lists() {
        let parent = TempDir::new().unwrap();
        let files = || std::fs::read_dir(parent.path()).unwrap().count();
        let folder = Folder::below(parent.path());
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let item = items().new_tree(&mut runner).unwrap().current();
        let mut spill = Spill::new(&folder, "a");
        spill.push(&item).unwrap();
        assert_eq!((all(&spill), files()), (vec![item.clone()], 0));
        let mut small = Spill::with_memory(&folder, "b", 10);
        small.push(&item).unwrap();
        assert_eq!(files(), 1);
        drop((folder, spill, small));
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_disk_that_fails_is_told_with_what_to_do() {
        let folder = Folder::below(Path::new("/proc"));
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let item = items().new_tree(&mut runner).unwrap().current();
        let told = Spill::with_memory(&folder, "a", 1).push(&item).unwrap_err().to_string();
        assert!(told.contains("--work-dir"), "{told}");
    }

    proptest! {
        /// Whatever goes to files, and however often it is read, all is there, and one id is in one part.
        #[test]
        fn a_list_is_read_back(list in proptest::collection::vec(items(), 0..60), memory in 1_usize..3000) {
            let parent = TempDir::new().unwrap();
            let folder = Folder::below(parent.path());
            let mut spill = Spill::with_memory(&folder, "x", memory);
            for item in &list {
                spill.push(item).unwrap();
            }
            let key = |item: &Item| { let mut bytes = Vec::new(); item.encode(&mut bytes); bytes };
            let sorted = |items: &[Item]| { let mut keys: Vec<_> = items.iter().map(key).collect(); keys.sort(); keys };
            prop_assert_eq!(sorted(&all(&spill)), sorted(&list));
            prop_assert_eq!(sorted(&all(&spill)), sorted(&list));
            prop_assert_eq!(usize::try_from(spill.items()).unwrap(), list.len());
            let mut home = std::collections::HashMap::new();
            for number in 0..PARTS {
                for item in spill.part(number).unwrap() {
                    prop_assert_eq!(*home.entry(item.id).or_insert(number), number);
                }
            }
        }
    }
}
