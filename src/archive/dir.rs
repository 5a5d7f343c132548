//! A write-once store in a folder, local or on a NAS.
//!
//! An object is written to a file without a name, synced, and only then linked to its name: a half-written name is
//! never visible, and a name that is taken is never written over. Then the folder is synced. Files are read-only, and
//! immutable (`chattr +i`) where that is wanted and the host allows it. Who holds `CAP_LINUX_IMMUTABLE` can take that
//! flag away again: it guards against accidents, not against root. The end of the retention is kept in the extended
//! attributes `user.ghauditd.retain_until_s` and `user.ghauditd.lock_mode`.

mod file;

use super::probe::{Property, Verdict};
use super::store::{Lock, LockMode, PutOutcome, Store, StoreError, Stored};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A folder that holds an archive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DirStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    immutable: bool,
    warned_immutable: AtomicBool,
    warned_attributes: AtomicBool,
}

impl DirStore {
    /// A store in `root`, which is made when its parent exists. `immutable`: files get the immutable flag.
    pub fn new(root: PathBuf, immutable: bool) -> Self {
        let inner = Inner {
            root,
            immutable,
            warned_immutable: AtomicBool::new(false),
            warned_attributes: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Runs file work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(StoreError::Retry {
                reason: "io",
                message: format!("file work ended: {error}"),
            }),
        }
    }

    /// Whether the folder can be written, never overwrites, syncs, and seals; leaves nothing behind.
    pub async fn probe(&self, name: String) -> Result<Vec<Property>, StoreError> {
        self.blocking(move |inner| inner.probe(&name)).await
    }
}

impl Store for DirStore {
    fn describe(&self) -> String {
        format!("folder {}", self.inner.root.display())
    }

    async fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> Result<PutOutcome, StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.put(&key, &bytes, lock)).await
    }

    async fn head(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.head(&key)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |inner| inner.list(&prefix)).await
    }

    async fn last_key(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        Ok(self.list(prefix).await?.pop())
    }

    async fn extend(&self, key: &str, lock: Lock) -> Result<Stored, StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.extend(&key, lock)).await
    }
}

impl Inner {
    fn put(&self, key: &str, bytes: &[u8], lock: Lock) -> Result<PutOutcome, StoreError> {
        let at = file::Place::make(&self.root, key)?;
        let written = at.create(bytes, |fd| self.write_lock(fd, lock, &at))?;
        // Also when the name was taken: an earlier attempt of ours may have been cut off before these two.
        self.seal(&at)?;
        at.sync_folder()?;
        if !written {
            return Ok(PutOutcome::Exists);
        }
        let stored = stored(&at)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if stored.size_bytes != size {
            return Err(StoreError::Refused {
                message: format!(
                    "{} holds {} bytes after {size} were written: check the file system",
                    at.display(),
                    stored.size_bytes
                ),
            });
        }
        Ok(PutOutcome::Written(stored))
    }

    fn head(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        file::Place::find(&self.root, key)?.map(|at| stored(&at)).transpose()
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        file::Place::find(&self.root, key)?.map(|at| at.read().map(Bytes::from)).transpose()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        file::list(&self.root, prefix)
    }

    fn extend(&self, key: &str, lock: Lock) -> Result<Stored, StoreError> {
        let Some(at) = file::Place::find(&self.root, key)? else {
            return Err(StoreError::Refused {
                message: format!("{key} is gone from {}", self.root.display()),
            });
        };
        let now = stored(&at)?;
        let long_enough = now.lock.is_some_and(|held| held.retain_until_s >= lock.retain_until_s);
        if lock.mode == LockMode::None || long_enough {
            return Ok(now);
        }
        let fd = at.open()?;
        // Attributes of an immutable file cannot be changed: the flag comes off for a moment.
        let sealed = file::is_immutable(&fd);
        if sealed {
            file::set_immutable(&fd, false).map_err(|error| at.error("unseal", error))?;
        }
        file::set_writable(&fd, true).map_err(|error| at.error("unseal", error))?;
        self.write_lock(&fd, lock, &at)?;
        file::set_writable(&fd, false).map_err(|error| at.error("seal", error))?;
        rustix::fs::fsync(&fd).map_err(|error| at.error("sync", error))?;
        if sealed {
            file::set_immutable(&fd, true).map_err(|error| at.error("seal", error))?;
        }
        stored(&at)
    }

    /// Keeps the lock beside the data. Where the file system takes no attributes this is said once, and that is all:
    /// a file of its own for it would be one more thing to lose.
    fn write_lock(
        &self,
        fd: &std::os::fd::OwnedFd,
        lock: Lock,
        at: &file::Place,
    ) -> Result<(), StoreError> {
        if lock.mode == LockMode::None {
            return Ok(());
        }
        match file::write_lock(fd, lock) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if !self.warned_attributes.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        folder = %self.root.display(),
                        "the file system takes no extended attributes: retain-until dates are not kept with the files"
                    );
                }
                Ok(())
            }
            Err(error) => Err(at.error("keep the retention of", error)),
        }
    }

    fn seal(&self, at: &file::Place) -> Result<(), StoreError> {
        if !self.immutable {
            return Ok(());
        }
        let fd = at.open()?;
        if file::is_immutable(&fd) {
            return Ok(());
        }
        if let Err(error) = file::set_immutable(&fd, true)
            && !self.warned_immutable.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                folder = %self.root.display(),
                "archive files stay deletable, the immutable flag is not allowed here: {error}"
            );
        }
        Ok(())
    }

    fn probe(&self, name: &str) -> Result<Vec<Property>, StoreError> {
        file::remove_leftovers(&self.root)?;
        let at = file::Place::make(&self.root, name)?;
        let mut properties = Vec::new();
        let mut say = |name, verdict, detail: &str| {
            properties.push(Property { name, verdict, detail: detail.to_owned() });
        };
        let lock = Lock { mode: LockMode::Governance, retain_until_s: 4_102_444_800 };
        at.create(b"ghauditd probe\n", |fd| match file::write_lock(fd, lock) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(at.error("keep the retention of", error)),
        })?;
        let outcome = (|| {
            at.sync_folder()?;
            say("writable and synced", Verdict::Held, "");
            let again = at.create(b"another\n", |_| Ok(()))?;
            let kept = at.read()? == b"ghauditd probe\n";
            if again || !kept {
                return Err(StoreError::Refused {
                    message: format!(
                        "{} lets a name be written over: not a write-once store; use another file system",
                        self.root.display()
                    ),
                });
            }
            say("create-only", Verdict::Held, "");
            let fd = at.open()?;
            match file::read_lock(&fd) {
                Some(found) if found == lock => {
                    say("retention kept in attributes", Verdict::Held, "");
                }
                _ => say(
                    "retention kept in attributes",
                    Verdict::Absent,
                    "the file system takes no extended attributes: dates are not kept with the files",
                ),
            }
            if !self.immutable {
                say("immutable flag", Verdict::NotWanted, "");
                return Ok(());
            }
            match file::set_immutable(&fd, true) {
                Ok(()) => {
                    let removed = at.unlink().is_ok();
                    file::set_immutable(&fd, false).map_err(|error| at.error("unseal", error))?;
                    let verdict = if removed { Verdict::Absent } else { Verdict::Held };
                    say("immutable flag", verdict, "advisory: root can take it away");
                }
                Err(error) => say(
                    "immutable flag",
                    Verdict::Absent,
                    &format!(
                        "not allowed here ({error}): files stay deletable; give the daemon CAP_LINUX_IMMUTABLE, or set archive.immutable = false"
                    ),
                ),
            }
            Ok(())
        })();
        let removed = at.unlink();
        outcome?;
        match removed {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(properties),
            Err(error) => Err(at.error("remove", error)),
        }
    }
}

/// What the file says of itself.
fn stored(at: &file::Place) -> Result<Stored, StoreError> {
    let fd = at.open()?;
    let lock = file::read_lock(&fd);
    Ok(Stored {
        key: at.key().to_owned(),
        version: None,
        size_bytes: at.size(&fd)?,
        sha256: None,
        lock,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: Lock = Lock { mode: LockMode::Governance, retain_until_s: 1_800_000_000 };

    fn store() -> (tempfile::TempDir, DirStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path().join("archive"), false);
        (dir, store)
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_never_written_over() {
        let (_dir, store) = store();
        let key = "segments/t/00001/00000000000000000000.jsonl.zst";
        assert_eq!(store.head(key).await.unwrap(), None);
        assert_eq!(store.get(key).await.unwrap(), None);
        let first = store.put_if_absent(key, Bytes::from_static(b"one"), LOCK).await.unwrap();
        let PutOutcome::Written(stored) = first else { panic!("{first:?}") };
        assert_eq!((stored.size_bytes, stored.lock), (3, Some(LOCK)));
        let second = store.put_if_absent(key, Bytes::from_static(b"two"), LOCK).await.unwrap();
        assert_eq!(second, PutOutcome::Exists);
        assert_eq!(store.get(key).await.unwrap().unwrap(), &b"one"[..]);
        assert_eq!(store.head(key).await.unwrap(), Some(stored));
    }

    #[tokio::test]
    async fn names_are_listed_in_order_and_only_under_the_prefix() {
        let (_dir, store) = store();
        for key in ["a/2", "a/10", "a/1", "ab/1", "b/1", "a/sub/1"] {
            store.put_if_absent(key, Bytes::new(), LOCK).await.unwrap();
        }
        assert_eq!(store.list("a/").await.unwrap(), ["a/1", "a/10", "a/2", "a/sub/1"]);
        assert_eq!(store.list("a/1").await.unwrap(), ["a/1", "a/10"]);
        assert_eq!(store.list("").await.unwrap().len(), 6);
        assert_eq!(store.last_key("a/").await.unwrap().unwrap(), "a/sub/1");
        assert_eq!(store.list("none/").await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn files_are_read_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, store) = store();
        store.put_if_absent("a/1", Bytes::from_static(b"x"), LOCK).await.unwrap();
        let mode = std::fs::metadata(dir.path().join("archive/a/1")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
    }

    #[tokio::test]
    async fn a_lock_grows_and_never_shrinks() {
        let (_dir, store) = store();
        store.put_if_absent("a/1", Bytes::from_static(b"x"), LOCK).await.unwrap();
        let longer = Lock { retain_until_s: LOCK.retain_until_s + 5, ..LOCK };
        assert_eq!(store.extend("a/1", longer).await.unwrap().lock, Some(longer));
        assert_eq!(store.extend("a/1", LOCK).await.unwrap().lock, Some(longer));
        assert!(matches!(store.extend("a/2", LOCK).await, Err(StoreError::Refused { .. })));
    }

    #[tokio::test]
    async fn nothing_escapes_the_folder() {
        let (dir, store) = store();
        for key in ["../out", "a/../../out", "/etc/x", "a//b", ""] {
            let outcome = store.put_if_absent(key, Bytes::new(), LOCK).await;
            assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{key}");
            assert!(store.get(key).await.is_err(), "{key}");
        }
        store.put_if_absent("a/1", Bytes::new(), LOCK).await.unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("archive/link")).unwrap();
        let outcome = store.put_if_absent("link/out", Bytes::new(), LOCK).await;
        assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
        assert!(!dir.path().join("out").exists());
    }

    #[tokio::test]
    async fn racing_writers_have_one_winner() {
        let (_dir, store) = store();
        let puts = (0..16_u8).map(|i| {
            let store = store.clone();
            async move {
                store
                    .put_if_absent("a/b/1", Bytes::from(vec![i; 9]), LOCK)
                    .await
                    .unwrap()
            }
        });
        let outcomes = futures_util::future::join_all(puts).await;
        let winners = outcomes.iter().filter(|o| matches!(o, PutOutcome::Written(_))).count();
        assert_eq!(winners, 1);
    }

    #[tokio::test]
    async fn the_probe_leaves_nothing_behind() {
        let (dir, store) = store();
        let properties = store.probe("probe/x".to_owned()).await.unwrap();
        assert!(properties.iter().any(|p| p.name == "create-only" && p.verdict == Verdict::Held));
        assert_eq!(store.list("").await.unwrap(), Vec::<String>::new());
        let lost = DirStore::new(dir.path().join("no/such/parent"), false);
        let Err(StoreError::Refused { message }) = lost.probe("probe/x".to_owned()).await else {
            panic!("a folder without a parent was made")
        };
        assert!(message.contains("no/such"), "{message}");
    }

    #[tokio::test]
    async fn a_full_disk_is_said_and_leaves_no_name() {
        // A file system of one page needs the right to mount; without it this test proves nothing and says so.
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|out| out.status.success());
        if !mounted {
            eprintln!("not run: mounting a small file system is not allowed here");
            return;
        }
        let store = DirStore::new(dir.path().join("archive"), false);
        let outcome = store.put_if_absent("a/1", Bytes::from(vec![1; 1 << 20]), LOCK).await;
        let listed = store.list("").await;
        let small = store.put_if_absent("a/2", Bytes::from_static(b"x"), LOCK).await;
        drop(std::process::Command::new("umount").arg(dir.path()).output());
        let Err(StoreError::Retry { reason, message }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, "full");
        assert!(message.contains("archive: the file system is full"), "{message}");
        assert_eq!(listed.unwrap(), Vec::<String>::new());
        assert!(matches!(small, Ok(PutOutcome::Written(_))), "{small:?}");
    }
}
