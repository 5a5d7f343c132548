//! The system calls behind [`super::DirStore`]: names are walked one part at a time, no link is followed.

use crate::archive::key::is_safe;
use crate::archive::store::{Lock, LockMode, StoreError};
use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const RETAIN_UNTIL: &str = "user.ghauditd.retain_until_s";
const LOCK_MODE: &str = "user.ghauditd.lock_mode";
/// What a file is called while it is written, on file systems that know no files without a name.
const UNFINISHED: &str = ".unfinished-";
/// Larger objects are not read into memory.
const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// A key's folder, open, and its file name.
pub(super) struct Place {
    key: String,
    path: PathBuf,
    folder: OwnedFd,
    name: String,
}

impl Place {
    /// The place of `key`; its folders are made, and synced, where they are missing.
    pub(super) fn make(root: &Path, key: &str) -> Result<Self, StoreError> {
        Self::walk(root, key, true)?.ok_or_else(|| StoreError::Refused {
            message: format!("folder {} vanished while it was made", root.display()),
        })
    }

    /// The place of `key`, if such a file is there.
    pub(super) fn find(root: &Path, key: &str) -> Result<Option<Self>, StoreError> {
        let Some(place) = Self::walk(root, key, false)? else {
            return Ok(None);
        };
        match rustix::fs::statat(&place.folder, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(place))
            }
            Ok(_) => Err(StoreError::Refused {
                message: format!("{} is not a plain file: remove it", place.display()),
            }),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(place.error("look for", error)),
        }
    }

    fn walk(root: &Path, key: &str, make: bool) -> Result<Option<Self>, StoreError> {
        if !is_safe(key) {
            return Err(StoreError::Refused {
                message: format!("{key:?} is no name for an object"),
            });
        }
        let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
        let Some(mut folder) = open_root(root, make)? else {
            return Ok(None);
        };
        let mut path = root.to_owned();
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            match open_folder(&folder, part, make)
                .map_err(|error| error_at(&path, "open", error))?
            {
                Some(next) => folder = next,
                None => return Ok(None),
            }
        }
        path.push(name);
        Ok(Some(Self { key: key.to_owned(), path, folder, name: name.to_owned() }))
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    pub(super) fn error(&self, verb: &str, error: Errno) -> StoreError {
        match error {
            // one text for all files, so that it is said once
            Errno::NOSPC | Errno::DQUOT => error_at(self.root(), "write to", error),
            _ => error_at(&self.path, verb, error),
        }
    }

    /// The store's folder.
    fn root(&self) -> &Path {
        self.path.ancestors().nth(self.key.split('/').count()).unwrap_or(&self.path)
    }

    /// Writes the file completely, then gives it its name; false when the name is taken. `before_link` may set
    /// attributes on it.
    pub(super) fn create(
        &self,
        bytes: &[u8],
        before_link: impl FnOnce(&OwnedFd) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let (fd, unfinished) = self.unnamed().map_err(|error| self.error("write", error))?;
        let outcome = self.fill(&fd, bytes).and_then(|()| before_link(&fd)).and_then(|()| {
            // Read-only before it has a name, and after its attributes: they need write permission.
            set_writable(&fd, false).map_err(|error| self.error("make read-only", error))?;
            rustix::fs::fsync(&fd).map_err(|error| self.error("sync", error))?;
            self.link(&fd, unfinished.as_deref()).map_err(|error| self.error("name", error))
        });
        if let Some(unfinished) = unfinished
            && !matches!(outcome, Ok(true))
            && let Err(error) = rustix::fs::unlinkat(&self.folder, unfinished, AtFlags::empty())
        {
            tracing::debug!(path = %self.display(), "unfinished file left behind: {error}");
        }
        outcome
    }

    fn fill(&self, fd: &OwnedFd, bytes: &[u8]) -> Result<(), StoreError> {
        let copy = fd.try_clone().map_err(|error| self.io_error("write", &error))?;
        std::fs::File::from(copy).write_all(bytes).map_err(|error| self.io_error("write", &error))
    }

    /// A file without a name, or, where the file system has none, one with a name of its own.
    fn unnamed(&self) -> Result<(OwnedFd, Option<String>), Errno> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.folder, ".", flags | OFlags::TMPFILE, mode) {
            Ok(fd) => return Ok((fd, None)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error),
        }
        let name = format!("{UNFINISHED}{:016x}", rand::random::<u64>());
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        Ok((rustix::fs::openat(&self.folder, &name, flags, mode)?, Some(name)))
    }

    fn link(&self, fd: &OwnedFd, unfinished: Option<&str>) -> Result<bool, Errno> {
        let outcome = match unfinished {
            None => {
                use std::os::fd::AsRawFd as _;
                let from = format!("/proc/self/fd/{}", fd.as_raw_fd());
                rustix::fs::linkat(
                    rustix::fs::CWD,
                    from,
                    &self.folder,
                    &self.name,
                    AtFlags::SYMLINK_FOLLOW,
                )
            }
            Some(unfinished) => self.rename(unfinished),
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str) -> Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.folder, from, &self.folder, &self.name, flags) {
            // NFS and others know no flags here, but links.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&self.folder, from, &self.folder, &self.name, AtFlags::empty())?;
                rustix::fs::unlinkat(&self.folder, from, AtFlags::empty())
            }
            outcome => outcome,
        }
    }

    pub(super) fn open(&self) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty())
            .map_err(|error| self.error("open", error))
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, StoreError> {
        let fd = self.open()?;
        let size = self.size(&fd)?;
        if size > OBJECT_BYTES_MAX {
            return Err(StoreError::Refused {
                message: format!("{} has {size} bytes: no object of ours", self.display()),
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        std::fs::File::from(fd)
            .take(OBJECT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io_error("read", &error))?;
        Ok(bytes)
    }

    pub(super) fn size(&self, fd: &OwnedFd) -> Result<u64, StoreError> {
        let stat = rustix::fs::fstat(fd).map_err(|error| self.error("look at", error))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    pub(super) fn sync_folder(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.folder).map_err(|error| self.error("sync the folder of", error))
    }

    pub(super) fn unlink(&self) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())
    }

    fn io_error(&self, verb: &str, error: &std::io::Error) -> StoreError {
        match Errno::from_io_error(error) {
            Some(errno) => self.error(verb, errno),
            None => StoreError::Retry {
                reason: "io",
                message: format!("{verb} {}: {error}", self.display()),
            },
        }
    }
}

/// What the caller can do about a failed call.
fn error_at(path: &Path, verb: &str, error: Errno) -> StoreError {
    let path = path.display();
    match error {
        Errno::NOSPC | Errno::DQUOT => StoreError::Retry {
            reason: "full",
            message: format!(
                "{verb} {path}: the file system is full ({error}); free space or enlarge it, nothing is lost meanwhile"
            ),
        },
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP | Errno::NOTDIR => {
            StoreError::Refused {
                message: format!(
                    "{verb} {path}: {error}; the daemon's user must own a writable folder there"
                ),
            }
        }
        _ => StoreError::Retry { reason: "io", message: format!("{verb} {path}: {error}") },
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_root(root: &Path, make: bool) -> Result<Option<OwnedFd>, StoreError> {
    match rustix::fs::open(root, FOLDER, Mode::empty()) {
        Ok(fd) => return Ok(Some(fd)),
        Err(Errno::NOENT) if make => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error_at(root, "open", error)),
    }
    // Only the last part is made: a mount that is missing must not be replaced by a new folder somewhere else.
    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let Some(name) = root.file_name() else {
        return Err(error_at(root, "make", Errno::INVAL));
    };
    let parent_fd = rustix::fs::open(parent, FOLDER, Mode::empty()).map_err(|error| {
        StoreError::Refused {
            message: format!(
                "the archive's folder {} cannot be made, {} is not there ({error}): mount or make it",
                root.display(),
                parent.display()
            ),
        }
    })?;
    open_folder(&parent_fd, name, true).map_err(|error| error_at(root, "make", error))
}

fn open_folder<P: rustix::path::Arg + Copy>(
    parent: &OwnedFd,
    name: P,
    make: bool,
) -> Result<Option<OwnedFd>, Errno> {
    let flags = FOLDER | OFlags::NOFOLLOW;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => return Ok(Some(fd)),
        Err(Errno::NOENT) if make => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    }
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => rustix::fs::fsync(parent)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(parent, name, flags, Mode::empty()).map(Some)
}

/// All keys that begin with `prefix`, in order.
pub(super) fn list(root: &Path, prefix: &str) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    // The deepest folder that the prefix names; below it, names are compared.
    let folders = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
    if !folders.is_empty() && !is_safe(folders) {
        return Err(StoreError::Refused { message: format!("{prefix:?} begins no name") });
    }
    let Some(mut folder) = open_root(root, false)? else {
        return Ok(found);
    };
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        match open_folder(&folder, part, false).map_err(|error| error_at(root, "open", error))? {
            Some(next) => folder = next,
            None => return Ok(found),
        }
    }
    let mut waiting = vec![(folder, folders.to_owned())];
    while let Some((folder, path)) = waiting.pop() {
        each(&folder, |name, kind| {
            let key = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            let related = key.starts_with(prefix) || prefix.starts_with(&key);
            if kind == FileType::Directory && related {
                if let Some(next) = open_folder(&folder, name, false)? {
                    waiting.push((next, key));
                }
            } else if kind == FileType::RegularFile
                && key.starts_with(prefix)
                && !name.starts_with(UNFINISHED)
                && is_safe(&key)
            {
                found.push(key);
            }
            Ok(())
        })
        .map_err(|error| error_at(&root.join(&path), "list", error))?;
    }
    found.sort();
    Ok(found)
}

/// Removes what a crash left under an unfinished name. Only for the one writer, before it writes.
pub(super) fn remove_leftovers(root: &Path) -> Result<(), StoreError> {
    let Some(folder) = open_root(root, true)? else {
        return Ok(());
    };
    let mut waiting = vec![folder];
    while let Some(folder) = waiting.pop() {
        each(&folder, |name, kind| {
            if kind == FileType::Directory {
                waiting.extend(open_folder(&folder, name, false)?);
            } else if name.starts_with(UNFINISHED) {
                rustix::fs::unlinkat(&folder, name, AtFlags::empty())?;
            }
            Ok(())
        })
        .map_err(|error| error_at(root, "clean", error))?;
    }
    Ok(())
}

fn each(
    folder: &OwnedFd,
    mut visit: impl FnMut(&str, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        visit(name, kind)?;
    }
    Ok(())
}

pub(super) fn is_immutable(fd: &OwnedFd) -> bool {
    rustix::fs::ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

pub(super) fn set_immutable(fd: &OwnedFd, on: bool) -> Result<(), Errno> {
    let mut flags = rustix::fs::ioctl_getflags(fd)?;
    flags.set(IFlags::IMMUTABLE, on);
    rustix::fs::ioctl_setflags(fd, flags)
}

pub(super) fn set_writable(fd: &OwnedFd, on: bool) -> Result<(), Errno> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(if on { 0o644 } else { 0o444 }))
}

pub(super) fn write_lock(fd: &OwnedFd, lock: Lock) -> Result<(), Errno> {
    let mode: &[u8] = match lock.mode {
        LockMode::Compliance => b"compliance",
        LockMode::Governance => b"governance",
        LockMode::None => return Ok(()),
    };
    rustix::fs::fsetxattr(fd, LOCK_MODE, mode, XattrFlags::empty())?;
    let until = lock.retain_until_s.to_string();
    rustix::fs::fsetxattr(fd, RETAIN_UNTIL, until.as_bytes(), XattrFlags::empty())
}

pub(super) fn read_lock(fd: &OwnedFd) -> Option<Lock> {
    let text = |name: &str| {
        let mut value = [0_u8; 32];
        let length = rustix::fs::fgetxattr(fd, name, &mut value[..]).ok()?;
        std::str::from_utf8(value.get(..length)?).ok().map(str::to_owned)
    };
    let mode = match text(LOCK_MODE)?.as_str() {
        "compliance" => LockMode::Compliance,
        "governance" => LockMode::Governance,
        _ => return None,
    };
    Some(Lock { mode, retain_until_s: text(RETAIN_UNTIL)?.parse().ok()? })
}
