//! Whether a bucket keeps what Object Lock promises: tried, not believed. Leaves objects that are locked for a minute.

use super::S3Store;
use super::error::Failure;
use crate::archive::probe::{Property, Verdict};
use crate::archive::store::{Lock, LockMode, StoreError};
use crate::time::wall_ms;
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};
use bytes::Bytes;
use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};

/// Puts of one name at the same time. A smoke test: a server that breaks one race in many passes it.
const RACERS: u8 = 8;
const LOCK_S: i64 = 60;

impl S3Store {
    /// Tries every property that the archive rests on; the first that is missing is an error that names it.
    pub async fn probe(&self, name: String, mode: LockMode) -> Result<Vec<Property>, StoreError> {
        let full = self.full(&name)?;
        let mut properties = Vec::new();
        if mode == LockMode::None {
            let detail = "archive.lock_mode is \"none\": objects can be deleted and replaced";
            properties.push(property("object lock", Verdict::NotWanted, detail));
        } else {
            // Versioning first: some servers say of a bucket that is not there only that it has no lock.
            let versioning = self.versioning().await?;
            properties.push(self.probe_lock_configuration().await?);
            properties.push(versioning?);
        }
        let lock = Lock { mode, retain_until_s: wall_ms() / 1000 + LOCK_S };
        let (version, property) = self.probe_race(&full, lock).await?;
        properties.push(property);
        properties.push(self.probe_create_only(&full, lock).await?);
        properties.push(self.probe_checksum(&format!("{full}-wrong"), lock).await?);
        if mode != LockMode::None {
            let version = version.ok_or_else(|| {
                self.missing("versioning", "a put returned no version", VERSIONING_REMEDY)
            })?;
            properties.push(self.probe_shortening(&full, &version, lock).await?);
            properties.push(self.probe_deletion(&full, &version).await?);
        }
        Ok(properties)
    }

    fn missing(&self, what: &str, seen: &str, remedy: &str) -> StoreError {
        StoreError::Refused {
            message: format!(
                "{} cannot hold an archive, {what} is missing: {seen}; {remedy}",
                self.place
            ),
        }
    }

    async fn probe_lock_configuration(&self) -> Result<Property, StoreError> {
        const NAME: &str = "object lock";
        let answer = self.client.get_object_lock_configuration().bucket(&self.bucket).send().await;
        let answer = answer
            .map_err(|error| self.failed("read the lock configuration of", &self.bucket, &error));
        match answer {
            Ok(found) => {
                let enabled = found
                    .object_lock_configuration
                    .and_then(|configuration| configuration.object_lock_enabled);
                if enabled == Some(ObjectLockEnabled::Enabled) {
                    return Ok(property(NAME, Verdict::Held, ""));
                }
                Err(self.missing("Object Lock", "it is not enabled", LOCK_REMEDY))
            }
            Err(Failure::NotFound) => {
                Err(self.missing("Object Lock", "the bucket was made without it", LOCK_REMEDY))
            }
            Err(Failure::Denied(error)) => Ok(denied(NAME, &error)),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Whether versioning is on: the outer error is one of the call, the inner one says that it is not.
    async fn versioning(&self) -> Result<Result<Property, StoreError>, StoreError> {
        const NAME: &str = "versioning";
        let answer = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        match answer.map_err(|error| self.failed("read the versioning of", &self.bucket, &error)) {
            Ok(found) if found.status == Some(BucketVersioningStatus::Enabled) => {
                Ok(Ok(property(NAME, Verdict::Held, "")))
            }
            Ok(found) => {
                let seen = found.status.map_or("it was never enabled".to_owned(), |status| {
                    format!("it is {}", status.as_str())
                });
                Ok(Err(self.missing("versioning", &seen, VERSIONING_REMEDY)))
            }
            Err(Failure::Denied(error)) => Ok(Ok(denied(NAME, &error))),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Several puts of one name at once: one may win, and what it wrote must be read back as it was sent.
    async fn probe_race(
        &self,
        key: &str,
        lock: Lock,
    ) -> Result<(Option<String>, Property), StoreError> {
        let puts = (0..RACERS).map(|racer| async move {
            let bytes = Bytes::from(format!("ghauditd probe {racer}\n"));
            let sha256 = Sha256::digest(&bytes).into();
            (self.put(key, &bytes, lock, sha256).await, bytes, sha256)
        });
        let mut winners = Vec::new();
        for (outcome, bytes, sha256) in join_all(puts).await {
            match outcome {
                Ok(version) => winners.push((version, bytes, sha256)),
                Err(Failure::Taken | Failure::No(StoreError::Retry { reason: "conflict", .. })) => {
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        let count = winners.len();
        let Some((version, bytes, sha256)) = winners.pop() else {
            return Err(StoreError::Retry {
                reason: "conflict",
                message: format!("{}: of {RACERS} puts of one name none was taken", self.place),
            });
        };
        if count > 1 {
            return Err(self.missing(
                "create-only writing (If-None-Match)",
                &format!("{count} of {RACERS} puts of one name won"),
                SERVER_REMEDY,
            ));
        }
        let stored = self.head_version(key, version.as_deref()).await?;
        self.verify(key, stored, &bytes, lock, sha256)?;
        Ok((
            version,
            property("written and read back with its lock and checksum", Verdict::Held, ""),
        ))
    }

    async fn probe_create_only(&self, key: &str, lock: Lock) -> Result<Property, StoreError> {
        let bytes = Bytes::from_static(b"another\n");
        match self.put(key, &bytes, lock, Sha256::digest(&bytes).into()).await {
            Err(Failure::Taken) => Ok(property("create-only writing", Verdict::Held, "")),
            Ok(_) => Err(self.missing(
                "create-only writing (If-None-Match)",
                "a name that was taken was written again",
                SERVER_REMEDY,
            )),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn probe_checksum(&self, key: &str, lock: Lock) -> Result<Property, StoreError> {
        let bytes = Bytes::from_static(b"one\n");
        match self.put(key, &bytes, lock, Sha256::digest(b"another\n").into()).await {
            Ok(_) => Err(self.missing(
                "checking of SHA-256",
                "an object with a wrong checksum was accepted",
                SERVER_REMEDY,
            )),
            // Nothing there says "wrong digest" alike on all servers; what counts is that it was not taken.
            Err(Failure::Unknown(StoreError::Retry {
                reason: "timeout" | "connection",
                message,
            })) => Err(StoreError::Retry { reason: "connection", message }),
            Err(_) => Ok(property("checking of SHA-256", Verdict::Held, "")),
        }
    }

    /// Lengthening must work and shortening must not: then it is the lock that refuses, and not a policy.
    async fn probe_shortening(
        &self,
        key: &str,
        version: &str,
        lock: Lock,
    ) -> Result<Property, StoreError> {
        const NAME: &str = "locks cannot be shortened";
        let longer = Lock { retain_until_s: lock.retain_until_s + 5, ..lock };
        if let Err(Failure::Denied(error)) = self.retain(key, version, longer).await {
            return Ok(denied(NAME, &error));
        }
        match self
            .retain(key, version, Lock { retain_until_s: longer.retain_until_s - 30, ..lock })
            .await
        {
            Ok(()) => {
                Err(self.missing("refusal to shorten locks", "a lock was shortened", SERVER_REMEDY))
            }
            Err(Failure::Unknown(error)) => Err(error),
            Err(_) => {
                let stored = self.head_version(key, Some(version)).await?;
                let kept = stored
                    .and_then(|stored| stored.lock)
                    .is_some_and(|held| held.retain_until_s >= lock.retain_until_s);
                if kept {
                    return Ok(property(NAME, Verdict::Held, ""));
                }
                Err(self.missing(
                    "refusal to shorten locks",
                    "the lock is shorter now",
                    SERVER_REMEDY,
                ))
            }
        }
    }

    async fn probe_deletion(&self, key: &str, version: &str) -> Result<Property, StoreError> {
        const NAME: &str = "locked versions cannot be deleted";
        let answer = self.delete(key, version).await;
        let Err(failure) = answer else {
            return Err(self.missing(
                "refusal to delete locked versions",
                "a locked version was deleted",
                SERVER_REMEDY,
            ));
        };
        if let Failure::Unknown(error) = failure {
            return Err(error);
        }
        if self.head_version(key, Some(version)).await?.is_none() {
            return Err(self.missing(
                "refusal to delete locked versions",
                "a locked version is gone",
                SERVER_REMEDY,
            ));
        }
        // Whoever may not delete at all learns nothing from a refusal: ask for something that is not there.
        match self.delete(&format!("{key}-none"), version).await {
            Err(Failure::Denied(error)) => Ok(denied(NAME, &error)),
            _ => Ok(property(NAME, Verdict::Held, "")),
        }
    }

    async fn delete(&self, key: &str, version: &str) -> Result<(), Failure> {
        self.client
            .delete_object()
            .bucket(&self.bucket)
            .key(key)
            .version_id(version)
            .send()
            .await
            .map_err(|error| self.failed("delete", key, &error))?;
        Ok(())
    }
}

const LOCK_REMEDY: &str =
    "make a new bucket with Object Lock enabled, and set archive.bucket to it";
const VERSIONING_REMEDY: &str = "enable versioning, or make a new bucket with Object Lock enabled";
const SERVER_REMEDY: &str =
    "use another server or version: this one does not keep Object Lock's promises";

fn property(name: &'static str, verdict: Verdict, detail: &str) -> Property {
    Property { name, verdict, detail: detail.to_owned() }
}

fn denied(name: &'static str, error: &StoreError) -> Property {
    let detail = format!("refused by policy, so not provable: {error}");
    Property { name, verdict: Verdict::NotProvable, detail }
}
