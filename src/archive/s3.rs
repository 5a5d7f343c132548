//! A write-once store in a bucket with Object Lock, over the S3 protocol.
//!
//! Writing keeps to what every good server honours: one `PutObject` with the bytes in memory, its SHA-256 computed
//! first and sent, lock mode and date on every put, `If-None-Match: *`; then a `HeadObject` of the version that was
//! returned, and mode, date, length and checksum compared. After a time-out or a broken connection the store is looked
//! at first. Reading lists versions, ignores delete markers and takes the earliest version of a key: a lock protects
//! versions, so that is the one that nobody could change.
//!
//! Credentials come from AWS's chain: environment variables, the shared profile (also with roles and web identities),
//! container and instance metadata. Single sign-on and external credential processes are not built in.

mod client;
mod error;
mod probe;

use super::store::{Lock, LockMode, PutOutcome, Store, StoreError, Stored};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumMode, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
pub use client::Options;
use error::Failure;
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// Larger objects are not read into memory.
const OBJECT_BYTES_MAX: i64 = 256 << 20;
/// Positions are counted in 63 bits.
const POSITION_DIGITS: usize = 20;

/// A bucket, and a prefix in it, that holds an archive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: aws_sdk_s3::Client,
    bucket: String,
    prefix: String,
    content_md5: bool,
    place: String,
}

/// A page of names.
struct Page {
    keys: Vec<String>,
    next: Option<(String, Option<String>)>,
}

impl S3Store {
    /// Makes the client; connects to nothing but, for credentials, the host's metadata service.
    pub async fn open(options: Options) -> Result<Self, StoreError> {
        let client = client::client(&options).await?;
        let place = match &options.endpoint {
            Some(endpoint) => {
                format!("bucket {} at {endpoint}, prefix {:?}", options.bucket, options.prefix)
            }
            None => format!("s3://{}/{}", options.bucket, options.prefix),
        };
        let Options { bucket, prefix, content_md5, .. } = options;
        Ok(Self { client, bucket, prefix, content_md5, place })
    }

    fn full(&self, key: &str) -> Result<String, StoreError> {
        if super::key::is_safe(key) {
            return Ok(format!("{}{key}", self.prefix));
        }
        Err(StoreError::Refused { message: format!("{key:?} is no name for an object") })
    }

    /// One put; the version that it made, where the bucket has versions.
    async fn put(
        &self,
        key: &str,
        bytes: &Bytes,
        lock: Lock,
        sha256: [u8; 32],
    ) -> Result<Option<String>, Failure> {
        let kind = if key.rsplit('.').next() == Some("zst") {
            "application/zstd"
        } else {
            "application/json"
        };
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type(kind)
            .content_length(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
            .checksum_sha256(BASE64.encode(sha256))
            .if_none_match("*")
            .body(ByteStream::from(bytes.clone()));
        if self.content_md5 {
            request = request.content_md5(BASE64.encode(Md5::digest(bytes)));
        }
        if let Some(mode) = mode_of(lock.mode) {
            request = request
                .object_lock_mode(mode)
                .object_lock_retain_until_date(DateTime::from_secs(lock.retain_until_s));
        }
        let done = request.send().await.map_err(|error| self.failed("put", key, &error))?;
        Ok(done.version_id)
    }

    /// What the store says of a version; `None` when it is not there.
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
    ) -> Result<Option<Stored>, Failure> {
        let head = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .set_version_id(version.map(str::to_owned))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let head = match head.map_err(|error| self.failed("look at", key, &error)) {
            Ok(head) => head,
            Err(Failure::NotFound) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let mode = match head.object_lock_mode {
            Some(ObjectLockMode::Compliance) => Some(LockMode::Compliance),
            Some(ObjectLockMode::Governance) => Some(LockMode::Governance),
            _ => None,
        };
        let lock = mode.zip(head.object_lock_retain_until_date.map(|date| date.secs()));
        let sha256 = head.checksum_sha256.and_then(|text| BASE64.decode(text).ok());
        Ok(Some(Stored {
            key: key.strip_prefix(&self.prefix).unwrap_or(key).to_owned(),
            version: version.map(str::to_owned),
            size_bytes: head.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            sha256: sha256.and_then(|bytes| bytes.try_into().ok()),
            lock: lock.map(|(mode, retain_until_s)| Lock { mode, retain_until_s }),
        }))
    }

    /// The version of `key` that was there first; `None` when there is none. The bucket may have no versions: then its
    /// id is `null`.
    async fn earliest(&self, key: &str) -> Result<Option<String>, Failure> {
        let (mut earliest, mut next) = (None, None::<(String, Option<String>)>);
        loop {
            let (key_marker, version_marker) = next.take().unzip();
            let page = self
                .client
                .list_object_versions()
                .bucket(&self.bucket)
                .prefix(key)
                .set_key_marker(key_marker)
                .set_version_id_marker(version_marker.flatten())
                .send()
                .await
                .map_err(|error| self.failed("list the versions of", key, &error))?;
            for version in page.versions.unwrap_or_default() {
                // Within a key versions come newest first; names that only begin alike come after it.
                if version.key.as_deref() == Some(key) {
                    earliest = Some(version.version_id.unwrap_or_else(|| "null".to_owned()));
                }
            }
            match page.next_key_marker {
                Some(marker) if page.is_truncated == Some(true) && marker == key => {
                    next = Some((marker, page.next_version_id_marker));
                }
                _ => return Ok(earliest),
            }
        }
    }

    /// Names under a full prefix, behind a marker; each once, also with several versions.
    async fn page(
        &self,
        prefix: &str,
        behind: Option<(String, Option<String>)>,
    ) -> Result<Page, Failure> {
        let (key_marker, version_marker) = behind.unzip();
        let page = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_key_marker(key_marker)
            .set_version_id_marker(version_marker.flatten())
            .send()
            .await
            .map_err(|error| self.failed("list", prefix, &error))?;
        let strip = |key: String| key.strip_prefix(&self.prefix).map(str::to_owned);
        let mut keys: Vec<_> = page
            .versions
            .unwrap_or_default()
            .into_iter()
            .filter_map(|version| version.key.and_then(strip))
            .collect();
        keys.dedup();
        let next = page.next_key_marker.filter(|_| page.is_truncated == Some(true));
        Ok(Page { keys, next: next.map(|marker| (marker, page.next_version_id_marker)) })
    }

    /// Compares what was asked for with what is there.
    fn verify(
        &self,
        key: &str,
        stored: Option<Stored>,
        bytes: &Bytes,
        lock: Lock,
        sha256: [u8; 32],
    ) -> Result<Stored, StoreError> {
        let refused = |what: String| StoreError::Refused {
            message: format!("{} does not keep {key} as it was written: {what}", self.place),
        };
        let Some(stored) = stored else {
            return Err(refused("the version that it acknowledged is not there".to_owned()));
        };
        if stored.size_bytes != u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
            return Err(refused(format!("{} bytes instead of {}", stored.size_bytes, bytes.len())));
        }
        match stored.sha256 {
            Some(found) if found == sha256 => {}
            Some(_) => return Err(refused("its SHA-256 is another".to_owned())),
            None => {
                return Err(refused(
                    "it gives no SHA-256 back; use a server that supports x-amz-checksum-sha256"
                        .to_owned(),
                ));
            }
        }
        let wanted = (lock.mode != LockMode::None).then_some(lock);
        if wanted.is_some() && stored.lock != wanted {
            return Err(refused(format!("its lock is {:?} instead of {lock:?}", stored.lock)));
        }
        Ok(stored)
    }
}

impl Store for S3Store {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> Result<PutOutcome, StoreError> {
        let full = self.full(key)?;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        let version = match self.put(&full, &bytes, lock, sha256).await {
            Ok(version) => version,
            Err(Failure::Taken) => return Ok(PutOutcome::Exists),
            Err(Failure::Unknown(error)) => {
                // Neither yes nor no: it may have been written, so look before anything else.
                return match self.earliest(&full).await {
                    Ok(Some(_)) => Ok(PutOutcome::Exists),
                    _ => Err(error),
                };
            }
            Err(failure) => return Err(failure.into()),
        };
        let stored = self.head_version(&full, version.as_deref()).await?;
        self.verify(key, stored, &bytes, lock, sha256).map(PutOutcome::Written)
    }

    async fn head(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let full = self.full(key)?;
        let Some(version) = self.earliest(&full).await? else { return Ok(None) };
        Ok(self.head_version(&full, Some(&version)).await?)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let full = self.full(key)?;
        let Some(version) = self.earliest(&full).await? else { return Ok(None) };
        let object = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(&full)
            .version_id(version)
            .send()
            .await
            .map_err(|error| self.failed("read", &full, &error))?;
        let size = object.content_length.unwrap_or(0);
        if size > OBJECT_BYTES_MAX {
            return Err(StoreError::Refused {
                message: format!("{key} in {} has {size} bytes: no object of ours", self.place),
            });
        }
        let bytes = object.body.collect().await.map_err(|error| StoreError::Retry {
            reason: "connection",
            message: format!("read {key} from {}: {error}", self.place),
        })?;
        Ok(Some(bytes.into_bytes()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let full = format!("{}{prefix}", self.prefix);
        let (mut keys, mut behind) = (Vec::new(), None);
        loop {
            let page = self.page(&full, behind).await?;
            keys.extend(page.keys);
            // A key whose versions fill more than a page shows up twice.
            keys.dedup();
            match page.next {
                Some(next) => behind = Some(next),
                None => return Ok(keys),
            }
        }
    }

    async fn last_key(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        let full = format!("{}{prefix}", self.prefix);
        let first = self.page(&full, None).await?;
        if first.next.is_none() {
            return Ok(first.keys.last().cloned());
        }
        // Names go on with positions: halve the range of positions until the page behind the middle is the last.
        let mut best = first.keys.last().cloned();
        let (mut low, mut high) = (0_i64, i64::MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            let marker = format!("{full}{middle:0POSITION_DIGITS$}~");
            let page = self.page(&full, Some((marker, None))).await?;
            match page.keys.last() {
                None => high = middle,
                Some(last) => {
                    best = Some(last.clone());
                    if page.next.is_none() {
                        break;
                    }
                    low = middle.saturating_add(1);
                }
            }
        }
        Ok(best)
    }

    async fn extend(&self, key: &str, lock: Lock) -> Result<Stored, StoreError> {
        let full = self.full(key)?;
        let version = self.earliest(&full).await?.ok_or_else(|| StoreError::Refused {
            message: format!("{key} is gone from {}", self.place),
        })?;
        let gone = || StoreError::Refused { message: format!("{key} is gone from {}", self.place) };
        let now = self.head_version(&full, Some(&version)).await?.ok_or_else(gone)?;
        let long_enough = |stored: &Stored| {
            stored.lock.is_some_and(|held| held.retain_until_s >= lock.retain_until_s)
        };
        if lock.mode == LockMode::None || long_enough(&now) {
            return Ok(now);
        }
        // A lock is never weakened: one in compliance mode stays there.
        let mode = now.lock.map_or(lock.mode, |held| held.mode);
        self.retain(&full, &version, Lock { mode, ..lock }).await?;
        let stored = self.head_version(&full, Some(&version)).await?.ok_or_else(gone)?;
        if long_enough(&stored) {
            return Ok(stored);
        }
        Err(StoreError::Refused {
            message: format!("{} did not extend the lock of {key}: {:?}", self.place, stored.lock),
        })
    }
}

impl S3Store {
    /// Sets the lock of a version.
    async fn retain(&self, key: &str, version: &str, lock: Lock) -> Result<(), Failure> {
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
            _ => ObjectLockRetentionMode::Governance,
        };
        let retention = ObjectLockRetention::builder()
            .mode(mode)
            .retain_until_date(DateTime::from_secs(lock.retain_until_s))
            .build();
        self.client
            .put_object_retention()
            .bucket(&self.bucket)
            .key(key)
            .version_id(version)
            .retention(retention)
            .send()
            .await
            .map_err(|error| self.failed("set the lock of", key, &error))?;
        Ok(())
    }
}

fn mode_of(mode: LockMode) -> Option<ObjectLockMode> {
    match mode {
        LockMode::Compliance => Some(ObjectLockMode::Compliance),
        LockMode::Governance => Some(ObjectLockMode::Governance),
        LockMode::None => None,
    }
}
