//! Reads secrets (tokens, and the private keys of GitHub Apps): from a file, a systemd credential, or what the environment gave
//! when the configuration was loaded.
//!
//! A file is read again when it changes and when GitHub answers 401, so that a secret is exchanged without a restart.

use super::{SecretSource, SecretText};
use secrecy::zeroize::Zeroizing;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest token file, in bytes: GitHub's tokens have fewer than 300.
const TOKEN_BYTES_MAX: u64 = 4096;

/// What kind of secret is read: for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A token.
    Token,
    /// The private key of a GitHub App.
    PrivateKey,
}

impl SecretKind {
    /// The key of the configuration that names its file.
    fn file_key(self) -> &'static str {
        match self {
            Self::Token => "token_file",
            Self::PrivateKey => "private_key_file",
        }
    }

    /// How it must be written.
    fn form(self) -> &'static str {
        match self {
            Self::Token => "write the token alone, on one line",
            Self::PrivateKey => {
                "save there the .pem file that GitHub made in the App's settings (\"Generate a private key\")"
            }
        }
    }
}

impl std::fmt::Display for SecretKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::PrivateKey => "private key",
        })
    }
}

/// A secret that a [`Reader`] reads.
pub trait Secret: Sized + Send + Sync {
    /// What it is.
    const KIND: SecretKind;
    /// Most bytes of its file.
    const BYTES_MAX: u64;

    /// The secret in these bytes. The error is what is wrong, as a fragment after the place's name, without the bytes.
    fn parse(bytes: &[u8]) -> Result<Self, &'static str>;
}

/// A token: what stands between the white space around it, visible ASCII only, so that it is a header's value as it is.
impl Secret for SecretText {
    const KIND: SecretKind = SecretKind::Token;
    const BYTES_MAX: u64 = TOKEN_BYTES_MAX;

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Err("is empty");
        }
        if !text.is_ascii() {
            return Err("holds characters outside ASCII");
        }
        if !text.iter().all(u8::is_ascii_graphic) {
            return Err("holds white space or control characters");
        }
        let text = std::str::from_utf8(text).map_err(|_| "holds characters outside ASCII")?;
        Ok(Self::new(text.to_owned()))
    }
}

/// Why there is no secret. Says where it was looked for, never what was found there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{kind} file {path} cannot be read ({cause}): create it, or give the daemon's user read permission", path = .path.display())]
    Unreadable {
        /// What was to be read.
        kind: SecretKind,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// What is there is not such a secret.
    #[error("the {kind} in {place} {fault}: {form}", form = .kind.form())]
    Malformed {
        /// What was to be read.
        kind: SecretKind,
        /// File or variable.
        place: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// The credential was not handed over.
    #[error(
        "credential {name:?} was not handed over by systemd: add LoadCredential={name}:FILE to the unit, or use `{key}`", key = .kind.file_key()
    )]
    NoCredential {
        /// What was to be read.
        kind: SecretKind,
        /// Its name.
        name: String,
    },
    /// The variable is not set.
    #[error("environment variable {name} with the {kind} is not set: set it, or use `{key}`", key = .kind.file_key())]
    NoVariable {
        /// What was to be read.
        kind: SecretKind,
        /// Its name.
        name: String,
    },
}

/// A file as it was when it was read.
type Stamp = (i64, i64, u64, u64);

/// Hands out a secret, and reads it again when it changes.
#[derive(Debug)]
pub struct Reader<T> {
    source: SecretSource,
    cached: Mutex<Option<(Stamp, Arc<T>)>>,
}

/// Hands out a token.
pub type TokenReader = Reader<SecretText>;

impl<T: Secret> Reader<T> {
    /// A reader; nothing is read yet.
    pub fn new(source: SecretSource) -> Self {
        Self { source, cached: Mutex::new(None) }
    }

    /// The secret as it is now. A file is read only when it has changed.
    ///
    /// Reads some KiB of a local file: short enough to be called from a task.
    pub fn secret(&self) -> Result<Arc<T>, SecretError> {
        self.read(false)
    }

    /// The secret, read again whether or not the file seems to have changed: after a 401.
    pub fn reread(&self) -> Result<Arc<T>, SecretError> {
        self.read(true)
    }

    /// Where the secret comes from, for messages.
    pub fn place(&self) -> String {
        match &self.source {
            SecretSource::File(path) => path.display().to_string(),
            SecretSource::Credential { name, .. } => format!("systemd credential {name}"),
            SecretSource::Environment { name, .. } => format!("environment variable {name}"),
        }
    }

    fn read(&self, anew: bool) -> Result<Arc<T>, SecretError> {
        let kind = T::KIND;
        match &self.source {
            SecretSource::File(path) | SecretSource::Credential { path: Some(path), .. } => {
                self.file(path, anew)
            }
            SecretSource::Credential { name, path: None } => {
                Err(SecretError::NoCredential { kind, name: name.clone() })
            }
            SecretSource::Environment { name, value } => {
                let value = value
                    .as_ref()
                    .ok_or_else(|| SecretError::NoVariable { kind, name: name.clone() })?;
                parse(value.expose().as_bytes(), &format!("environment variable {name}"))
            }
        }
    }

    fn file(&self, path: &Path, anew: bool) -> Result<Arc<T>, SecretError> {
        let unreadable = |error: std::io::Error| SecretError::Unreadable {
            kind: T::KIND,
            path: path.to_owned(),
            cause: error.to_string(),
        };
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stamp(&std::fs::metadata(path).map_err(unreadable)?);
        if let Some((known, secret)) = cached.as_ref()
            && *known == seen
            && !anew
        {
            return Ok(Arc::clone(secret));
        }
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if cached.as_ref().is_none_or(|(known, _)| *known != stamp(&metadata)) {
            warn_when_readable_by_others(T::KIND, path, &metadata);
        }
        // room for all of it at once: a buffer that grows leaves copies behind
        let room = usize::try_from(T::BYTES_MAX + 1).unwrap_or(usize::MAX);
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        file.take(T::BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let secret = parse(&bytes, &path.display().to_string())?;
        *cached = Some((stamp(&metadata), Arc::clone(&secret)));
        Ok(secret)
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino())
}

fn warn_when_readable_by_others(kind: SecretKind, path: &Path, metadata: &Metadata) {
    if metadata.mode() & 0o004 != 0 {
        tracing::warn!(file = %path.display(), "the {kind} file is readable by every user of this host: chmod o-r it");
    }
}

fn parse<T: Secret>(bytes: &[u8], place: &str) -> Result<Arc<T>, SecretError> {
    let too_long = u64::try_from(bytes.len()).is_ok_and(|len| len > T::BYTES_MAX);
    let parsed = if too_long { Err("is too long") } else { T::parse(bytes) };
    let malformed =
        |fault| SecretError::Malformed { kind: T::KIND, place: place.to_owned(), fault };
    parsed.map(Arc::new).map_err(malformed)
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
        assert_eq!(reader.secret().unwrap().expose(), "ghp_first");
        let unchanged = reader.secret().unwrap();
        assert!(Arc::ptr_eq(&unchanged, &reader.secret().unwrap()), "not read again");
        let other = dir.path().join("other");
        fs::write(&other, "ghp_again\n").unwrap();
        fs::rename(&other, dir.path().join("token")).unwrap();
        assert_eq!(reader.secret().unwrap().expose(), "ghp_again");
        assert_eq!(reader.reread().unwrap().expose(), "ghp_again");
        fs::remove_file(dir.path().join("token")).unwrap();
        assert!(matches!(reader.secret(), Err(SecretError::Unreadable { .. })));
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
            let error = reader.secret().unwrap_err().to_string();
            assert!(error.contains("/token") && error.contains("write the token alone"), "{error}");
            assert!(!error.contains("ghp_"), "{error}");
        }
    }

    #[test]
    fn credentials_and_variables() {
        let none = TokenReader::new(SecretSource::Credential { name: "gh".into(), path: None });
        assert!(none.secret().unwrap_err().to_string().contains("LoadCredential=gh:FILE"));
        let unset = TokenReader::new(SecretSource::Environment { name: "GH".into(), value: None });
        assert!(unset.secret().unwrap_err().to_string().contains("GH"));
        let value = Some(Arc::new(SecretText::new("ghp_secret".into())));
        let set = TokenReader::new(SecretSource::Environment { name: "GH".into(), value });
        assert_eq!(set.secret().unwrap().expose(), "ghp_secret");
        assert!(!format!("{set:?}").contains("ghp_secret"));
        let (_dir, reader) = reader_of(b"ghp_secret");
        reader.secret().unwrap();
        assert!(!format!("{reader:?}").contains("ghp_secret"));
    }
}
