//! The store that the config names.

use super::dir::DirStore;
use super::probe::Property;
use super::s3::{Options, S3Store};
use super::store::{Lock, PutOutcome, Store, StoreError, Stored};
use super::{Settings, StoreSettings};
use bytes::Bytes;

/// Either store.
#[derive(Debug, Clone)]
pub enum AnyStore {
    /// A folder.
    Dir(DirStore),
    /// A bucket.
    S3(S3Store),
}

impl AnyStore {
    /// Opens the store; writes nothing.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        match settings.store.clone() {
            StoreSettings::Dir { path, immutable } => Ok(Self::Dir(DirStore::new(path, immutable))),
            StoreSettings::S3 {
                bucket,
                prefix,
                region,
                endpoint,
                path_style,
                ca_file,
                content_md5,
            } => {
                let options =
                    Options { bucket, prefix, region, endpoint, path_style, ca_file, content_md5 };
                Ok(Self::S3(S3Store::open(options).await?))
            }
        }
    }

    /// Tries what the archive rests on. A property that is missing is [`StoreError::Refused`], with its name and the
    /// remedy. A bucket keeps one or two small objects for it, locked for a minute.
    pub async fn probe(&self, settings: &Settings) -> Result<Vec<Property>, StoreError> {
        let name = format!("probe/{:016x}", rand::random::<u64>());
        match self {
            Self::Dir(store) => store.probe(name).await,
            Self::S3(store) => store.probe(name, settings.lock_mode).await,
        }
    }
}

impl Store for AnyStore {
    fn describe(&self) -> String {
        match self {
            Self::Dir(store) => store.describe(),
            Self::S3(store) => store.describe(),
        }
    }

    async fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> Result<PutOutcome, StoreError> {
        match self {
            Self::Dir(store) => store.put_if_absent(key, bytes, lock).await,
            Self::S3(store) => store.put_if_absent(key, bytes, lock).await,
        }
    }

    async fn head(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Dir(store) => store.head(key).await,
            Self::S3(store) => store.head(key).await,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Dir(store) => store.get(key).await,
            Self::S3(store) => store.get(key).await,
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Dir(store) => store.list(prefix).await,
            Self::S3(store) => store.list(prefix).await,
        }
    }

    async fn last_key(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        match self {
            Self::Dir(store) => store.last_key(prefix).await,
            Self::S3(store) => store.last_key(prefix).await,
        }
    }

    async fn extend(&self, key: &str, lock: Lock) -> Result<Stored, StoreError> {
        match self {
            Self::Dir(store) => store.extend(key, lock).await,
            Self::S3(store) => store.extend(key, lock).await,
        }
    }
}
