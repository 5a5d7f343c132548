//! The cache's files: layout, formats, and the few things that are done to them.
//!
//! ```text
//! <dir>/seen/_lock                              held by the process that uses the cache
//! <dir>/seen/<genesis instance>/_applied.json   how far the changelog topics are applied, and which lanes there are
//! <dir>/seen/<genesis instance>/<entity>/<web|git>/index          what the lane's bucket files hold, as flushed
//! <dir>/seen/<genesis instance>/<entity>/<web|git>/<hour>.seen    one bucket: fingerprints of 25 bytes, nothing else
//! <dir>/seen/<genesis instance>/<entity>/<web|git>/none.seen      the bucket of entries without a sane time
//! ```
//!
//! A flush writes in this order, each step made durable before the next: bucket files, indexes, `_applied.json`.
//! So an index never vouches for bytes that are not on disk, and `_applied.json` never for a record that no index
//! knows. What an index does not vouch for (a torn tail, a file made after the last flush) is cut: the changelog brings it
//! back. What it vouches for and is not there makes the whole cache worthless: it is wiped and rebuilt.

use crate::audit::{Bucket, EntityName, Fingerprint, SeenLane};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// The file that says how far the changelog is applied. Entity names cannot begin with `_`.
pub(super) const APPLIED: &str = "_applied.json";

/// The file in a lane's folder that says what its bucket files hold.
pub(super) const INDEX: &str = "index";

/// Version of `_applied.json` and of the indexes. Another one is not read: the cache is rebuilt.
const VERSION: u8 = 1;

const INDEX_ENTRY_LEN: usize = 20;

/// What a bucket file must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vouched {
    /// The bucket.
    pub(super) bucket: Bucket,
    /// How many fingerprints, from the file's beginning.
    pub(super) count: u32,
    /// Wrapping sum of [`checksum`] over them.
    pub(super) sum: u64,
}

impl Vouched {
    /// Bytes that the file must have.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.count) * FINGERPRINT_BYTES
    }
}

const FINGERPRINT_BYTES: u64 = 25;

/// A fingerprint's share in the checksum of its bucket.
pub(super) fn checksum(fingerprint: &Fingerprint) -> u64 {
    xxh3_64(fingerprint.as_bytes())
}

/// The folder of a lane.
pub(super) fn lane_dir(root: &Path, entity: &EntityName, lane: SeenLane) -> PathBuf {
    root.join(entity.as_str()).join(lane.as_str())
}

/// The file name of a bucket.
pub(super) fn bucket_file(bucket: Bucket) -> String {
    if bucket == Bucket::NONE { "none.seen".to_owned() } else { format!("{}.seen", bucket.0) }
}

/// Version byte; per bucket, ascending: hour 8, count 4, sum 8 bytes, big-endian; XXH3-64 of all that, 8 bytes.
pub(super) fn encode_index(entries: impl Iterator<Item = Vouched>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for entry in entries {
        bytes.extend_from_slice(&entry.bucket.0.to_be_bytes());
        bytes.extend_from_slice(&entry.count.to_be_bytes());
        bytes.extend_from_slice(&entry.sum.to_be_bytes());
    }
    bytes.extend_from_slice(&xxh3_64(&bytes).to_be_bytes());
    bytes
}

/// Reads an index; `None` when it is not exactly what [`encode_index`] writes.
pub(super) fn decode_index(bytes: &[u8]) -> Option<Vec<Vouched>> {
    let (body, hash) = bytes.split_last_chunk::<8>()?;
    let (version, body_entries) = body.split_first()?;
    if u64::from_be_bytes(*hash) != xxh3_64(body) || *version != VERSION {
        return None;
    }
    let (entries, rest) = body_entries.as_chunks::<INDEX_ENTRY_LEN>();
    let entries: Vec<Vouched> = entries.iter().map(decode_vouched).collect::<Option<_>>()?;
    let ascending = entries.iter().zip(entries.iter().skip(1)).all(|(a, b)| a.bucket < b.bucket);
    (rest.is_empty() && ascending).then_some(entries)
}

fn decode_vouched(bytes: &[u8; INDEX_ENTRY_LEN]) -> Option<Vouched> {
    let (bucket, rest) = bytes.split_first_chunk::<8>()?;
    let (count, sum) = rest.split_first_chunk::<4>()?;
    Some(Vouched {
        bucket: Bucket(i64::from_be_bytes(*bucket)),
        count: u32::from_be_bytes(*count),
        sum: u64::from_be_bytes(*sum.first_chunk::<8>()?),
    })
}

/// Contents of `_applied.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Applied {
    version: u8,
    /// Lanes that have an index, as `<entity>/<lane>`.
    pub(super) lanes: BTreeSet<String>,
    /// For each lane (`web`, `git`) and partition: the offset after the last changelog record applied.
    pub(super) next_offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    /// XXH3-64 of this object written with an empty `check`, in hex.
    check: String,
}

impl Applied {
    /// The file's bytes.
    pub(super) fn encode(mut self) -> Vec<u8> {
        self.version = VERSION;
        self.check = self.checked();
        self.json()
    }

    /// Reads the file; `None` when it is not exactly what [`Self::encode`] writes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        (read.version == VERSION && read.check == read.checked()).then_some(read)
    }

    fn checked(&self) -> String {
        let bare = Self { check: String::new(), ..self.clone() };
        format!("{:016x}", xxh3_64(&bare.json()))
    }

    fn json(&self) -> Vec<u8> {
        // strings, integers and maps with string or integer keys: cannot fail
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Why a bucket file could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is not there, too short, or holds other bytes than were written.
    Damaged,
    /// The disk refused.
    Io(io::Error),
}

/// Reads what is vouched for, fingerprint by fingerprint; bytes beyond that are not looked at.
pub(super) fn read_bucket(
    path: &Path,
    vouched: Vouched,
    mut each: impl FnMut(Fingerprint),
) -> Result<(), ReadError> {
    let file = File::open(path).map_err(missing_is_damage)?;
    let mut reader = io::BufReader::with_capacity(64 << 10, file);
    let (mut bytes, mut sum) = ([0; Fingerprint::LEN], 0_u64);
    for _ in 0..vouched.count {
        reader.read_exact(&mut bytes).map_err(missing_is_damage)?;
        let fingerprint = Fingerprint::from_bytes(bytes);
        sum = sum.wrapping_add(checksum(&fingerprint));
        each(fingerprint);
    }
    if sum == vouched.sum { Ok(()) } else { Err(ReadError::Damaged) }
}

fn missing_is_damage(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => ReadError::Damaged,
        _ => ReadError::Io(error),
    }
}

/// Writes fingerprints behind those that are vouched for: never behind the file's end, so that what a write that failed
/// halfway has left is overwritten, and every fingerprint stays aligned.
pub(super) fn write_bucket(path: &Path, vouched: Vouched, added: &[u8]) -> io::Result<()> {
    let new = vouched.count == 0;
    let open = || OpenOptions::new().write(true).create(new).truncate(new).open(path);
    let file = match (open(), path.parent()) {
        (Err(error), Some(dir)) if new && error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            open()
        }
        (opened, _) => opened,
    }?;
    file.write_all_at(added, vouched.bytes())
}

/// Makes a file's or folder's contents durable.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything durable that was written to the file system of `path`; errors of its files are reported.
pub(super) fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Puts a whole file in place of another: after a crash it is the old or the new one. The folder is made durable too.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    sync(dir)
}

/// Removes a file; one that is not there is removed already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes a file or folder with all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { remove_file(path) }
}

/// Names in a folder; names that are not UTF-8 are not ours and come out mangled, hence as unknown ones.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied() -> Applied {
        Applied {
            lanes: BTreeSet::from(["acme/web".to_owned()]),
            next_offsets: BTreeMap::from([("web".to_owned(), BTreeMap::from([(3, 30)]))]),
            ..Applied::default()
        }
    }

    #[test]
    fn golden_bytes() {
        let entries = [
            Vouched { bucket: Bucket::NONE, count: 1, sum: 2 },
            Vouched { bucket: Bucket(500_000), count: 0x0102_0304, sum: u64::MAX },
        ];
        let index = encode_index(entries.into_iter());
        let hex = index.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(
            hex,
            "018000000000000000000000010000000000000002\
             000000000007a12001020304ffffffffffffffff6f3554b6077014a9"
        );
        assert_eq!(
            String::from_utf8(applied().encode()).unwrap(),
            r#"{"version":1,"lanes":["acme/web"],"next_offsets":{"web":{"3":30}},"check":"a410a496ddc37dfb"}"#
        );
    }

    #[test]
    fn applied_is_read_back_and_refused_when_changed() {
        let bytes = applied().encode();
        let read = Applied::decode(&bytes).unwrap();
        assert_eq!((read.lanes, read.next_offsets), (applied().lanes, applied().next_offsets));
        let text = String::from_utf8(bytes).unwrap();
        for changed in [text.replace("30", "31"), text.replace("\"version\":1", "\"version\":2")] {
            assert_ne!(changed, text);
            assert_eq!(Applied::decode(changed.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn indexes_are_read_back(entries in prop::collection::btree_map(any::<i64>(), any::<(u32, u64)>(), 0..20)) {
            let entries: Vec<Vouched> = entries
                .into_iter()
                .map(|(hour, (count, sum))| Vouched { bucket: Bucket(hour), count, sum })
                .collect();
            let bytes = encode_index(entries.iter().copied());
            prop_assert_eq!(decode_index(&bytes), Some(entries));
        }

        #[test]
        fn arbitrary_bytes_are_no_index(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode_index(&bytes), None);
            prop_assert_eq!(Applied::decode(&bytes), None);
        }
    }
}
