//! A real S3 server with Object Lock.

use super::{env, env_of_make_test, script, script_in_drop, unique};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use std::path::Path;
use tempfile::TempDir;

/// A running S3 server and how to reach it.
pub(crate) struct S3 {
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) region: String,
    /// The folder of `scripts/minio`, when the server is this test's own.
    own: Option<TempDir>,
}

impl S3 {
    /// The server of the whole test run: use buckets of [`unique`] names, never stop it.
    pub(crate) fn shared() -> Self {
        Self::at(env_of_make_test("GHAUDITD_TEST_S3_ENDPOINT"))
    }

    /// A server that `make torture` started beside it: `ceph_rgw` or `versitygw`, both with gaps that the probe has to
    /// find. `None` in `make test`.
    pub(crate) fn negative(name: &str) -> Option<Self> {
        env(&format!("GHAUDITD_TEST_{}_ENDPOINT", name.to_uppercase())).map(Self::at)
    }

    fn at(endpoint: String) -> Self {
        Self {
            endpoint,
            access_key: env_of_make_test("AWS_ACCESS_KEY_ID"),
            secret_key: env_of_make_test("AWS_SECRET_ACCESS_KEY"),
            region: env_of_make_test("AWS_REGION"),
            own: None,
        }
    }

    /// A server for this test alone, in a folder of its own on a free port; gone when dropped.
    pub(crate) async fn own(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&unique(name)).tempdir().unwrap();
        let printed = script("minio", &["start", dir.path().to_str().unwrap()]).await;
        let value = |key: &str| {
            let value = printed
                .split_whitespace()
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            value
                .unwrap_or_else(|| panic!("scripts/minio did not print {key}: {printed}"))
                .to_owned()
        };
        Self {
            endpoint: value("S3_ENDPOINT"),
            access_key: value("AWS_ACCESS_KEY_ID"),
            secret_key: value("AWS_SECRET_ACCESS_KEY"),
            region: value("AWS_REGION"),
            own: Some(dir),
        }
    }

    /// Starts an own server again, on the same port and data; nothing when it runs.
    pub(crate) async fn start(&self) {
        script("minio", &["start", self.dir().to_str().unwrap()]).await;
    }

    /// SIGKILL to an own server.
    pub(crate) async fn kill(&self) {
        script("minio", &["kill", self.dir().to_str().unwrap()]).await;
    }

    /// A client of the vendor's own library, not of ours.
    pub(crate) fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new(self.region.clone()))
            .credentials_provider(Credentials::new(
                &self.access_key,
                &self.secret_key,
                None,
                None,
                "test",
            ))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    /// Creates a bucket of a [`unique`] name that begins with `name`, and gives that name. Object Lock brings versioning
    /// with it; `versioning` alone makes a bucket that keeps versions and locks nothing.
    pub(crate) async fn create_bucket(
        &self,
        name: &str,
        object_lock: bool,
        versioning: bool,
    ) -> String {
        let bucket = unique(name);
        let client = self.client();
        client
            .create_bucket()
            .bucket(&bucket)
            .object_lock_enabled_for_bucket(object_lock)
            .send()
            .await
            .unwrap_or_else(|error| panic!("create bucket {bucket}: {error:?}"));
        if versioning && !object_lock {
            let enabled =
                VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let request =
                client.put_bucket_versioning().bucket(&bucket).versioning_configuration(enabled);
            request
                .send()
                .await
                .unwrap_or_else(|error| panic!("versioning of {bucket}: {error:?}"));
        }
        bucket
    }

    /// All versions and delete markers below `prefix`, as `(key, version id)` sorted by key: what a second object for
    /// one range would show up in.
    pub(crate) async fn versions(&self, bucket: &str, prefix: &str) -> Vec<(String, String)> {
        let client = self.client();
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = client
                .list_object_versions()
                .bucket(bucket)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_version_id_marker(id_marker)
                .send()
                .await
                .unwrap_or_else(|error| panic!("versions of {bucket}/{prefix}: {error:?}"));
            let versions = page.versions().iter().map(|v| (v.key(), v.version_id()));
            let markers = page.delete_markers().iter().map(|m| (m.key(), m.version_id()));
            found.extend(
                versions
                    .chain(markers)
                    .map(|(k, v)| (k.unwrap_or("").to_owned(), v.unwrap_or("").to_owned())),
            );
            if page.is_truncated() != Some(true) {
                break;
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            id_marker = page.next_version_id_marker().map(str::to_owned);
        }
        found.sort();
        found
    }

    fn dir(&self) -> &Path {
        self.own.as_ref().expect("only an own server can be stopped").path()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(dir) = &self.own {
            script_in_drop("minio", &["kill", dir.path().to_str().unwrap()]);
        }
    }
}

mod tests {
    use super::*;
    use aws_sdk_s3::primitives::ByteStream;

    async fn put(s3: &S3, bucket: &str, key: &str) {
        let request =
            s3.client().put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"x"));
        request.send().await.unwrap();
    }

    #[tokio::test]
    async fn buckets_have_the_properties_that_were_asked_for() {
        let s3 = S3::shared();
        for (lock, versioning) in [(true, true), (false, true), (false, false)] {
            let bucket = s3.create_bucket("support", lock, versioning).await;
            let client = s3.client();
            let locked =
                client.get_object_lock_configuration().bucket(&bucket).send().await.is_ok();
            assert_eq!(locked, lock);
            put(&s3, &bucket, "a").await;
            put(&s3, &bucket, "a").await;
            put(&s3, &bucket, "b").await;
            assert_eq!(s3.versions(&bucket, "a").await.len(), if versioning { 2 } else { 1 });
        }
    }

    #[tokio::test]
    async fn an_own_server_keeps_its_data_over_a_kill() {
        let s3 = S3::own("support").await;
        let bucket = s3.create_bucket("kept", true, true).await;
        put(&s3, &bucket, "a").await;
        s3.kill().await;
        assert!(s3.client().list_buckets().send().await.is_err());
        s3.start().await;
        assert_eq!(s3.versions(&bucket, "").await.len(), 1);
    }

    #[tokio::test]
    #[ignore = "needs the servers that only `make torture` starts"]
    async fn negative_servers_answer() {
        for name in ["ceph_rgw", "versitygw"] {
            let s3 = S3::negative(name).unwrap_or_else(|| panic!("{name}: run `make torture`"));
            let bucket = s3.create_bucket("support", true, true).await;
            put(&s3, &bucket, "a").await;
        }
    }
}
