//! Reads tokens: from a file, a systemd credential, or what the environment gave when the configuration was loaded.
//!
//! A file is read again when it changes and when GitHub answers 401, so that a token is exchanged without a restart.

use super::{SecretSource, SecretText};
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest token file, in bytes: GitHub's tokens have fewer than 300.
const FILE_BYTES_MAX: u64 = 4096;

/// Why there is no token. Says where it was looked for, never what was found there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("token file {path} cannot be read ({cause}): create it, or give the daemon's user read permission", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The text is not a token.
    #[error("the token in {place} {fault}: write the token alone, on one line")]
    Malformed {
        /// File or variable.
        place: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// The credential was not handed over.
    #[error(
        "credential {name:?} was not handed over by systemd: add LoadCredential={name}:FILE to the unit, or use `token_file`"
    )]
    NoCredential {
        /// Its name.
        name: String,
    },
    /// The variable is not set.
    #[error("environment variable {name} with the token is not set: set it, or use `token_file`")]
    NoVariable {
        /// Its name.
        name: String,
    },
}

/// A file as it was when it was read.
type Stamp = (i64, i64, u64, u64);

/// Hands out the token of one entity, and reads it again when it changes.
#[derive(Debug)]
pub struct TokenReader {
    source: SecretSource,
    cached: Mutex<Option<(Stamp, Arc<SecretText>)>>,
}

impl TokenReader {
    /// A reader; nothing is read yet.
    pub fn new(source: SecretSource) -> Self {
        Self { source, cached: Mutex::new(None) }
    }

    /// The token as it is now. A file is read only when it has changed.
    ///
    /// Reads at most 4 KiB of a local file: short enough to be called from a task.
    pub fn token(&self) -> Result<Arc<SecretText>, TokenError> {
        self.read(false)
    }

    /// The token, read again whether or not the file seems to have changed: after a 401.
    pub fn reread(&self) -> Result<Arc<SecretText>, TokenError> {
        self.read(true)
    }

    /// Where the token comes from, for messages.
    pub fn place(&self) -> String {
        match &self.source {
            SecretSource::File(path) => path.display().to_string(),
            SecretSource::Credential { name, .. } => format!("systemd credential {name}"),
            SecretSource::Environment { name, .. } => format!("environment variable {name}"),
        }
    }

    fn read(&self, anew: bool) -> Result<Arc<SecretText>, TokenError> {
        match &self.source {
            SecretSource::File(path) | SecretSource::Credential { path: Some(path), .. } => {
                self.file(path, anew)
            }
            SecretSource::Credential { name, path: None } => {
                Err(TokenError::NoCredential { name: name.clone() })
            }
            SecretSource::Environment { name, value } => {
                let value =
                    value.as_ref().ok_or_else(|| TokenError::NoVariable { name: name.clone() })?;
                check(value.expose().as_bytes(), &format!("environment variable {name}"))
            }
        }
    }

    fn file(&self, path: &Path, anew: bool) -> Result<Arc<SecretText>, TokenError> {
        let unreadable = |error: std::io::Error| TokenError::Unreadable {
            path: path.to_owned(),
            cause: error.to_string(),
        };
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stamp(&std::fs::metadata(path).map_err(unreadable)?);
        if let Some((known, token)) = cached.as_ref()
            && *known == seen
            && !anew
        {
            return Ok(Arc::clone(token));
        }
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if cached.as_ref().is_none_or(|(known, _)| *known != stamp(&metadata)) {
            warn_when_readable_by_others(path, &metadata);
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let token = check(&bytes, &path.display().to_string())?;
        *cached = Some((stamp(&metadata), Arc::clone(&token)));
        Ok(token)
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino())
}

fn warn_when_readable_by_others(path: &Path, metadata: &Metadata) {
    if metadata.mode() & 0o004 != 0 {
        tracing::warn!(file = %path.display(), "the token file is readable by every user of this host: chmod o-r it");
    }
}

/// The token in these bytes: what stands between the white space around it, visible ASCII only, so that it is a header's
/// value as it is.
fn check(bytes: &[u8], place: &str) -> Result<Arc<SecretText>, TokenError> {
    let fault = |fault| TokenError::Malformed { place: place.to_owned(), fault };
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(fault("is longer than 4096 bytes"));
    }
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err(fault("is empty"));
    }
    if !text.is_ascii() {
        return Err(fault("holds characters outside ASCII"));
    }
    if !text.iter().all(u8::is_ascii_graphic) {
        return Err(fault("holds white space or control characters"));
    }
    let text = std::str::from_utf8(text).map_err(|_| fault("holds characters outside ASCII"))?;
    Ok(Arc::new(SecretText::new(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn reader_of(bytes: &[u8]) -> (tempfile::TempDir, TokenReader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, bytes).unwrap();
        let reader = TokenReader::new(SecretSource::File(path));
        (dir, reader)
    }

    #[test]
    fn a_file_is_trimmed_and_read_again_when_it_changes() {
        let (dir, reader) = reader_of(b"  ghp_first\r\n");
        assert_eq!(reader.token().unwrap().expose(), "ghp_first");
        let unchanged = reader.token().unwrap();
        assert!(Arc::ptr_eq(&unchanged, &reader.token().unwrap()), "not read again");
        let other = dir.path().join("other");
        fs::write(&other, "ghp_again\n").unwrap();
        fs::rename(&other, dir.path().join("token")).unwrap();
        assert_eq!(reader.token().unwrap().expose(), "ghp_again");
        assert_eq!(reader.reread().unwrap().expose(), "ghp_again");
        fs::remove_file(dir.path().join("token")).unwrap();
        assert!(matches!(reader.token(), Err(TokenError::Unreadable { .. })));
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        for bytes in [
            &b""[..],
            b" \n",
            b"ghp_a b",
            b"ghp_a\nghp_b",
            b"ghp_\xc3\xa4",
            b"ghp_\x00",
            &[b'g'; 5000],
        ] {
            let (_dir, reader) = reader_of(bytes);
            let error = reader.token().unwrap_err().to_string();
            assert!(error.contains("/token") && error.contains("write the token alone"), "{error}");
            assert!(!error.contains("ghp_"), "{error}");
        }
    }

    #[test]
    fn credentials_and_variables() {
        let none = TokenReader::new(SecretSource::Credential { name: "gh".into(), path: None });
        assert!(none.token().unwrap_err().to_string().contains("LoadCredential=gh:FILE"));
        let unset = TokenReader::new(SecretSource::Environment { name: "GH".into(), value: None });
        assert!(unset.token().unwrap_err().to_string().contains("GH"));
        let value = Some(Arc::new(SecretText::new("ghp_secret".into())));
        let set = TokenReader::new(SecretSource::Environment { name: "GH".into(), value });
        assert_eq!(set.token().unwrap().expose(), "ghp_secret");
        assert!(!format!("{set:?}").contains("ghp_secret"));
        let (_dir, reader) = reader_of(b"ghp_secret");
        reader.token().unwrap();
        assert!(!format!("{reader:?}").contains("ghp_secret"));
    }
}
