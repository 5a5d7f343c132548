//! What the archive's tests share: real topics with real transactions, stores, a running archiver, and a reader that
//! checks the chain of segments.

use crate::support::kafka::Broker;
use crate::support::s3::S3;
use crate::support::{unique, wait_until};
use bytes::Bytes;
use ghauditd::archive::key::{GapKey, SegmentKey, segments_prefix};
use ghauditd::archive::segment::{ArchivedRecord, ReadLimits, SegmentReader, parse_line};
use ghauditd::archive::{
    AnyStore, Lock, LockMode, PutOutcome, Settings, Store, StoreError, StoreSettings, Stored,
};
use ghauditd::health::Health;
use ghauditd::kafka::settings::Settings as KafkaSettings;
use ghauditd::metrics::Metrics;
use ghauditd::pipeline::archiver::{self, ArchiverError, ArchiverSnapshot, ArchiverStatus};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(super) const SOON: Duration = Duration::from_secs(30);

/// A topic and an archive of it.
pub(super) struct Rig {
    pub(super) broker: Broker,
    pub(super) topic: String,
    pub(super) settings: Settings,
    _folder: TempDir,
    pub(super) bucket: Option<(S3, String)>,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    S3,
}

/// What goes wrong with a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It failed, and nothing was written.
    NotWritten,
    /// It failed, but it was written.
    ButWritten,
    /// It was written, and written again.
    Twice,
}

/// A store whose first puts of segments go wrong.
pub(super) struct Faulty {
    inner: AnyStore,
    fault: Fault,
    left: AtomicUsize,
}

impl Faulty {
    pub(super) fn new(inner: AnyStore, fault: Fault, times: usize) -> Self {
        Self { inner, fault, left: AtomicUsize::new(times) }
    }
}

impl Store for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> Result<PutOutcome, StoreError> {
        let hit = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if hit.is_err() {
            return self.inner.put_if_absent(key, bytes, lock).await;
        }
        let failed = || StoreError::Retry { reason: "timeout", message: "injected".to_owned() };
        match self.fault {
            Fault::NotWritten => Err(failed()),
            Fault::ButWritten => {
                self.inner.put_if_absent(key, bytes, lock).await?;
                Err(failed())
            }
            Fault::Twice => {
                self.inner.put_if_absent(key, bytes.clone(), lock).await?;
                self.inner.put_if_absent(key, bytes, lock).await
            }
        }
    }

    async fn head(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn last_key(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        self.inner.last_key(prefix).await
    }

    async fn extend(&self, key: &str, lock: Lock) -> Result<Stored, StoreError> {
        self.inner.extend(key, lock).await
    }
}

/// An archiver that runs.
pub(super) struct Running {
    pub(super) status: Arc<ArchiverStatus>,
    pub(super) health: Arc<Health>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ArchiverError>>,
}

impl Running {
    pub(super) fn snapshot(&self) -> ArchiverSnapshot {
        self.status.snapshot()
    }

    pub(super) async fn until(&self, what: &str, mut check: impl FnMut(&ArchiverSnapshot) -> bool) {
        wait_until(SOON, what, async || {
            assert!(!self.task.is_finished(), "{what}: the archiver ended: {:?}", self.snapshot());
            check(&self.snapshot())
        })
        .await;
    }

    /// As SIGTERM does.
    pub(super) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As far as a task can be killed: it never runs again.
    pub(super) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    /// Its own end, with the reason.
    pub(super) async fn end(self) -> String {
        let ended = tokio::time::timeout(SOON, self.task).await;
        ended.expect("the archiver goes on").unwrap().unwrap_err().to_string()
    }
}

impl Rig {
    /// A new topic with `partitions`, and an empty archive.
    pub(super) async fn new(kind: Kind, partitions: i32) -> Self {
        Self::with(kind, Broker::shared(), partitions).await
    }

    pub(super) async fn with(kind: Kind, broker: Broker, partitions: i32) -> Self {
        let topic = unique("arch");
        broker.create_topic(&topic, partitions, &[("max.message.bytes", "9000000")]).await;
        let folder = tempfile::tempdir().unwrap();
        let (store, bucket) = match kind {
            Kind::Dir => {
                (StoreSettings::Dir { path: folder.path().join("a"), immutable: false }, None)
            }
            Kind::S3 => {
                let s3 = S3::shared();
                let bucket = s3.create_bucket("arch", true, true).await;
                (s3_settings(&s3, &bucket), Some((s3, bucket)))
            }
        };
        let settings = Settings {
            name: "test".to_owned(),
            store,
            lock_mode: LockMode::Governance,
            retention: Duration::from_hours(24),
            segment_bytes_max: 8 << 20,
            segment_records_max: 100_000,
            segment_age_max: Duration::from_millis(700),
            zstd_level: 1,
            buffer_bytes_max: 32 << 20,
        };
        Self { broker, topic, settings, _folder: folder, bucket }
    }

    pub(super) fn kafka(&self) -> KafkaSettings {
        KafkaSettings {
            brokers: self.broker.address().to_owned(),
            id_prefix: unique("arch"),
            ..KafkaSettings::default()
        }
    }

    pub(super) async fn store(&self) -> AnyStore {
        AnyStore::open(&self.settings).await.unwrap()
    }

    /// Starts an archiver on a store.
    #[expect(clippy::disallowed_methods, reason = "Running owns the task, and ends it")]
    pub(super) fn run_on<S: Store>(&self, store: S) -> Running {
        let health = Arc::new(Health::new());
        let status = Arc::new(ArchiverStatus::new(Arc::clone(&health)));
        let cancel = CancellationToken::new();
        let run = archiver::run(
            Arc::new(store),
            self.settings.clone(),
            self.kafka(),
            vec![self.topic.clone()],
            Arc::new(Metrics::default()),
            Arc::clone(&status),
            cancel.clone(),
        );
        Running { status, health, cancel, task: tokio::task::spawn(run) }
    }

    pub(super) async fn run(&self) -> Running {
        self.run_on(self.store().await)
    }

    /// Waits until so many records are in the store, whoever put them there.
    pub(super) async fn until_archived(&self, records: usize) {
        wait_until(SOON, &format!("{records} records archived"), async || {
            self.archived().await.len() >= records
        })
        .await;
    }

    /// Every record in the archive, after checking that segments follow one another without hole or overlap, but for
    /// recorded gaps.
    pub(super) async fn archived(&self) -> Vec<(i32, ArchivedRecord)> {
        let store = self.store().await;
        let names = store.list(&format!("segments/{}/", self.topic)).await.unwrap();
        let gaps = store.list(&format!("gaps/{}/", self.topic)).await.unwrap();
        let gaps: Vec<_> = gaps.iter().filter_map(|name| GapKey::parse(name)).collect();
        let mut ends = BTreeMap::<i32, i64>::new();
        let mut records = Vec::new();
        for key in names.iter().map(|name| SegmentKey::parse(name).unwrap()) {
            let object = store.get(&key.name()).await.unwrap().unwrap();
            let mut reader = SegmentReader::open(&object, ReadLimits::default()).unwrap();
            assert_eq!(
                (reader.header().partition, reader.header().from),
                (key.partition, key.from)
            );
            if let Some(end) = ends.get(&key.partition) {
                let follows = *end == key.from
                    || gaps.iter().any(|gap| {
                        gap.partition == key.partition && gap.from == *end && gap.to == key.from
                    });
                assert!(follows, "{key:?} does not follow {end}");
            } else {
                assert!(reader.header().log_start.is_some() || reader.header().gap_from.is_some());
            }
            while let Some(line) = reader.next_line().unwrap() {
                records.push((key.partition, parse_line(line).unwrap()));
            }
            ends.insert(key.partition, reader.footer().unwrap().to);
        }
        records.sort_by_key(|(partition, record)| (*partition, record.offset));
        records
    }

    /// The archive holds exactly what a reader that is not ours sees in Kafka.
    pub(super) async fn assert_equals_kafka(&self) {
        let kafka = crate::support::kafka::kcat_dump(self.broker.address(), &self.topic).await;
        let archived = self.archived().await;
        assert_eq!(archived.len(), kafka.len());
        for ((partition, ours), theirs) in archived.iter().zip(&kafka) {
            assert_eq!((*partition, ours.offset), (theirs.partition, theirs.offset));
            assert_eq!(ours.timestamp_ms, Some(theirs.timestamp));
            assert_eq!(ours.key, theirs.key);
            assert_eq!(ours.value, theirs.value, "offset {}", ours.offset);
        }
    }

    /// Names of the segments of a partition.
    pub(super) async fn segments(&self, partition: i32) -> Vec<String> {
        self.store().await.list(&segments_prefix(&self.topic, partition)).await.unwrap()
    }

    /// No name was written more than once, and nothing lies beside segments, gaps and probes.
    pub(super) async fn assert_one_version_each(&self) {
        if let Some((s3, bucket)) = &self.bucket {
            let mut names: Vec<_> =
                s3.versions(bucket, "p/segments/").await.into_iter().map(|(key, _)| key).collect();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "a second version of a segment");
        }
        for name in self.store().await.list("").await.unwrap() {
            let known = ["segments/", "gaps/", "probe/"];
            assert!(known.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        }
    }

    /// Commits (or aborts) one transaction with these values in a partition.
    pub(super) async fn transaction(
        &self,
        partition: i32,
        values: Vec<Option<Vec<u8>>>,
        commit: bool,
    ) {
        let (brokers, topic) = (self.broker.address().to_owned(), self.topic.clone());
        let send = move || transaction(&brokers, &topic, partition, &values, commit);
        tokio::task::spawn_blocking(send).await.unwrap();
    }

    /// Commits simple JSON values, one transaction.
    pub(super) async fn produce(&self, partition: i32, numbers: std::ops::Range<usize>) {
        let values = numbers.map(|n| Some(format!("{{\"n\":{n}}}").into_bytes())).collect();
        self.transaction(partition, values, true).await;
    }
}

pub(super) fn s3_settings(s3: &S3, bucket: &str) -> StoreSettings {
    StoreSettings::S3 {
        bucket: bucket.to_owned(),
        prefix: "p/".to_owned(),
        region: s3.region.clone(),
        endpoint: Some(Url::parse(&s3.endpoint).unwrap()),
        path_style: true,
        ca_file: None,
        content_md5: false,
    }
}

fn transaction(
    brokers: &str,
    topic: &str,
    partition: i32,
    values: &[Option<Vec<u8>>],
    commit: bool,
) {
    let wait = Duration::from_secs(20);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", unique("archtx"))
        .set("message.max.bytes", "9000000")
        .set("compression.type", "zstd")
        .create()
        .unwrap();
    producer.init_transactions(wait).unwrap();
    producer.begin_transaction().unwrap();
    for value in values {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "ce_id", value: Some("a\"b\u{fc}") })
            .insert(Header { key: "raw", value: Some(&b"\xff\x00"[..]) })
            .insert(Header { key: "none", value: None::<&[u8]> });
        let mut record = BaseRecord::to(topic).partition(partition).key("acme").headers(headers);
        if let Some(value) = value {
            record = record.payload(value);
        }
        let mut record = Some(record);
        while let Some(next) = record.take() {
            if let Err((error, back)) = producer.send::<str, Vec<u8>>(next) {
                assert!(format!("{error:?}").contains("QueueFull"), "{error}");
                producer.poll(Duration::from_millis(50));
                record = Some(back);
            }
        }
    }
    producer.flush(wait).unwrap();
    if commit {
        producer.commit_transaction(wait).unwrap();
    } else {
        producer.abort_transaction(wait).unwrap();
    }
}
