//! One file per section of the configuration: reads the tree, collects faults, fills the settings of a room.

pub(super) mod archive;
pub(super) mod credential;
pub(super) mod daemon;
pub(super) mod entity;
pub(super) mod kafka;
pub(super) mod overlap;
mod secret;
pub(super) mod server;
pub(super) mod sweeps;

use super::environment::Environment;
use std::path::Path;
use std::time::Duration;
use url::{Host, Url};

/// What the sections may look at besides the tree.
pub(super) struct Surroundings<'a> {
    /// The process's variables.
    pub(super) environment: &'a Environment,
}

/// A URL's host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether a URL carries a user name or a password.
pub(super) fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Most bytes of a small file that the configuration names (certificates, secrets).
const SMALL_FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads a small file whole. The error is a fragment after the file's key, without its content.
pub(super) fn read_small_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let meta =
        std::fs::metadata(path).map_err(|error| format!("{shown} {}", unreadable(&error)))?;
    if !meta.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if meta.len() > SMALL_FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {} MiB", SMALL_FILE_BYTES_MAX >> 20));
    }
    std::fs::read_to_string(path).map_err(|error| format!("{shown} {}", unreadable(&error)))
}

/// Whether there is a file. The error is a fragment after its key.
pub(super) fn is_file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(format!("{shown} is not a file")),
        Err(error) => Err(format!("{shown} {}", unreadable(&error))),
    }
}

/// Why a file cannot be read, in the operator's words: the standard library's "entity not found" means another thing here.
pub(super) fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        kind => format!("cannot be read ({kind})"),
    }
}

/// Whether others than the owner's group can read a file: `None` where it cannot be looked at.
pub(super) fn world_readable(path: &Path) -> Option<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o004 != 0)
}

/// Seconds, for ranges.
pub(super) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Days of 24 hours, for ranges.
pub(super) const fn days(count: u64) -> Duration {
    Duration::from_hours(24 * count)
}
