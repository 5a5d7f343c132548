//! The contract of a write-once store: a few verbs.

use bytes::Bytes;
use std::future::Future;

/// How an object is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody can delete or shorten.
    Compliance,
    /// Deletion needs a special permission.
    Governance,
    /// No lock; must be written out to be allowed.
    None,
}

/// The lock that an object gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Mode.
    pub mode: LockMode,
    /// Kept until this epoch second (a whole day, UTC).
    pub retain_until_s: i64,
}

/// What the store says about an object that it holds: read back, never assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its key, relative to the archive's prefix.
    pub key: String,
    /// Version, where the store has versions.
    pub version: Option<String>,
    /// Bytes.
    pub size_bytes: u64,
    /// SHA-256 of the bytes, where the store keeps it.
    pub sha256: Option<[u8; 32]>,
    /// Its lock, where there is one.
    pub lock: Option<Lock>,
}

/// What a put did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// Written now, and read back.
    Written(Stored),
    /// The name was taken: read it and compare.
    Exists,
}

/// Why a store did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Try again; whether it was written is unknown.
    #[error("{message}")]
    Retry {
        /// `timeout`, `connection`, `credentials`, `clock`, `slow_down`, `server_error`, `conflict`, `full`, `io`: a metric's label.
        reason: &'static str,
        /// What and where.
        message: String,
    },
    /// The store does not keep the contract, or refuses us: stop the archive and tell the operator.
    #[error("{message}")]
    Refused {
        /// What, where and the remedy.
        message: String,
    },
}

/// A write-once store. A trait, because tests inject faults here.
pub trait Store: Send + Sync + 'static {
    /// Where it is, for messages.
    fn describe(&self) -> String;

    /// Writes `bytes` under `key` with `lock`, only if no object has that name; then reads version, lock, size and
    /// checksum back and compares them.
    fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> impl Future<Output = Result<PutOutcome, StoreError>> + Send;

    /// What is known of the earliest version of `key`, delete markers ignored; `None` when there is none.
    fn head(&self, key: &str) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// The bytes of the earliest version of `key`.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Keys under `prefix`, ascending, delete markers ignored.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// The greatest key under `prefix`, delete markers ignored, found without listing them all where the store can.
    /// The keys under `prefix` continue with 20 digits: a position (see [`super::key`]).
    fn last_key(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;

    /// Lengthens the lock of `key` to at least `lock`, and reads it back. Never shortens.
    fn extend(
        &self,
        key: &str,
        lock: Lock,
    ) -> impl Future<Output = Result<Stored, StoreError>> + Send;
}
