//! The archive on real brokers and real stores: everything once, byte for byte, whatever goes wrong.

mod rig;
mod stores;

use crate::support::kafka::Broker;
use crate::support::s3::S3;
use crate::support::{unique, wait_until};
use bytes::Bytes;
use ghauditd::archive::key::SegmentKey;
use ghauditd::archive::probe::Verdict;
use ghauditd::archive::segment::{Compressor, Header, OpenSegment, RecordRef, VERSION};
use ghauditd::archive::{AnyStore, Lock, LockMode, PutOutcome, Store, StoreError, lock_until};
use ghauditd::kafka::consumer::{NextRecord, ReadError, ReadFrom, TopicReader, read_to_end};
use ghauditd::time::wall_ms;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rig::{Fault, Faulty, Kind, Rig, SOON, s3_settings};
use std::time::Duration;

/// Values that a careless archive would change.
fn hostile_values() -> Vec<Option<Vec<u8>>> {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut values: Vec<Option<Vec<u8>>> = [
        &b"{\"a\":1}"[..],
        b" {\"a\" : 1.0e400} ",
        b"{\"a\":\"\\ud800\"}",
        b"{\"a\":1,\"a\":2}",
        b"{\"a\":9223372036854775808}",
        b"{\"a\":\"\xff\xfe\"}",
        b"{\n\"a\":1}",
        b"null",
        b"",
        b"\x00\x01",
        b"not json",
        b"}\"value\":{",
        deep.as_bytes(),
    ]
    .iter()
    .map(|value| Some(value.to_vec()))
    .collect();
    values.push(None);
    values.push(Some(format!("{{\"big\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes()));
    values
}

async fn everything_once(kind: Kind) {
    let rig = Rig::new(kind, 3).await;
    rig.transaction(0, hostile_values(), true).await;
    rig.transaction(0, vec![Some(b"{\"aborted\":1}".to_vec())], false).await;
    rig.transaction(1, hostile_values(), false).await;
    rig.produce(1, 0..20).await;
    let running = rig.run().await;
    rig.until_archived(15 + 20).await;
    rig.produce(0, 0..5).await;
    rig.until_archived(40).await;
    assert_eq!(running.status.degraded(), None);
    assert!(running.health.ready(), "{:?}", running.health.reasons());
    running.stop().await;
    // A second life adds what is new, and nothing else.
    rig.produce(2, 0..7).await;
    let running = rig.run().await;
    rig.until_archived(47).await;
    running.until("no lag", |now| now.lag_records == 0 && now.placed).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
    rig.assert_one_version_each().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_archived_once_byte_for_byte_dir() {
    everything_once(Kind::Dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_archived_once_byte_for_byte_s3() {
    everything_once(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_locked_to_a_whole_day_and_carry_their_checksum() {
    let rig = Rig::new(Kind::S3, 1).await;
    rig.produce(0, 0..3).await;
    let running = rig.run().await;
    rig.until_archived(3).await;
    running.stop().await;
    let store = rig.store().await;
    let name = rig.segments(0).await.remove(0);
    let stored = store.head(&name).await.unwrap().unwrap();
    let lock = stored.lock.unwrap();
    assert_eq!(lock.mode, LockMode::Governance);
    assert_eq!(lock.retain_until_s % 86_400, 0);
    assert!(lock.retain_until_s >= wall_ms() / 1000 + 86_400 - 60);
    assert!(stored.sha256.is_some() && stored.version.is_some());
    let longer = Lock { retain_until_s: lock.retain_until_s + 86_400, ..lock };
    assert_eq!(store.extend(&name, longer).await.unwrap().lock, Some(longer));
    assert_eq!(store.extend(&name, lock).await.unwrap().lock, Some(longer), "never shortened");
}

/// One row of the fault table: a put goes wrong, and the archiver goes on, or is killed and started again.
async fn fault_row(kind: Kind, fault: Fault, restart: bool) {
    let rig = Rig::new(kind, 2).await;
    rig.produce(0, 0..30).await;
    rig.produce(1, 0..30).await;
    let times = if restart { usize::MAX } else { 3 };
    let running = rig.run_on(Faulty::new(rig.store().await, fault, times));
    if restart {
        let hit = async || match fault {
            Fault::NotWritten => running.snapshot().store_trouble.is_some(),
            Fault::ButWritten | Fault::Twice => !rig.segments(0).await.is_empty(),
        };
        wait_until(SOON, "the fault", hit).await;
        running.kill().await;
        let running = rig.run().await;
        rig.produce(0, 30..40).await;
        rig.until_archived(70).await;
        running.stop().await;
    } else {
        rig.until_archived(60).await;
        rig.produce(0, 30..40).await;
        rig.until_archived(70).await;
        running.until("well again", |now| now.store_trouble.is_none()).await;
        running.stop().await;
    }
    rig.assert_equals_kafka().await;
    rig.assert_one_version_each().await;
}

macro_rules! fault_rows {
    ($($name:ident: $kind:ident, $fault:ident, $restart:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                fault_row(Kind::$kind, Fault::$fault, $restart).await;
            }
        )*
    };
}

fault_rows! {
    segment_put_failed_and_not_written_dir: Dir, NotWritten, false;
    segment_put_failed_and_not_written_then_restart_dir: Dir, NotWritten, true;
    segment_put_failed_but_written_dir: Dir, ButWritten, false;
    segment_put_failed_but_written_then_restart_dir: Dir, ButWritten, true;
    segment_put_written_twice_dir: Dir, Twice, false;
    segment_put_written_twice_then_restart_dir: Dir, Twice, true;
    segment_put_failed_and_not_written_s3: S3, NotWritten, false;
    segment_put_failed_and_not_written_then_restart_s3: S3, NotWritten, true;
    segment_put_failed_but_written_s3: S3, ButWritten, false;
    segment_put_failed_but_written_then_restart_s3: S3, ButWritten, true;
    segment_put_written_twice_s3: S3, Twice, false;
    segment_put_written_twice_then_restart_s3: S3, Twice, true;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_nothing_is_lost_or_doubled() {
    let mut rig = Rig::new(Kind::S3, 4).await;
    rig.settings.segment_age_max = Duration::from_secs(2);
    rig.settings.segment_records_max = 150;
    let mut seed = crate::support::seed();
    for round in 0..6_usize {
        let running = rig.run().await;
        for partition in 0..4 {
            rig.produce(partition, round * 200..(round + 1) * 200).await;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        tokio::time::sleep(Duration::from_millis((seed >> 40) % 1200)).await;
        running.kill().await;
    }
    let running = rig.run().await;
    rig.until_archived(4 * 6 * 200).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
    rig.assert_one_version_each().await;
}

/// A segment as another writer would have left it.
fn foreign_segment(rig: &Rig, from: i64, to: i64, values: &[(i64, &str, i64)]) -> (String, Bytes) {
    let mut compressor = Compressor::new(3).unwrap();
    let header = Header {
        version: VERSION,
        topic: rig.topic.clone(),
        partition: 0,
        from,
        log_start: Some(0),
        gap_from: None,
    };
    let mut open = OpenSegment::new(header).unwrap();
    for (offset, value, timestamp_ms) in values {
        let record = RecordRef {
            offset: *offset,
            timestamp_ms: *timestamp_ms,
            key: Some(&b"acme"[..]),
            headers: [
                ("ce_id", Some("a\"b\u{fc}".as_bytes())),
                ("raw", Some(&b"\xff\x00"[..])),
                ("none", None),
            ],
            value: Some(value.as_bytes()),
        };
        open.push(record, &mut compressor).unwrap();
    }
    let sealed = open.seal(to, 1_700_000_000_000, &mut compressor).unwrap();
    let key = SegmentKey { topic: rig.topic.clone(), partition: 0, from };
    (key.name(), sealed.bytes)
}

async fn timestamps(rig: &Rig) -> Vec<i64> {
    let records = crate::support::kafka::kcat_dump(rig.broker.address(), &rig.topic).await;
    records.iter().map(|record| record.timestamp).collect()
}

/// A store that shows nothing until the first put: as if another writer came between the look and the put.
struct Late {
    inner: AnyStore,
    put: std::sync::atomic::AtomicBool,
}

impl Store for Late {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> Result<PutOutcome, StoreError> {
        self.put.store(true, std::sync::atomic::Ordering::SeqCst);
        self.inner.put_if_absent(key, bytes, lock).await
    }

    async fn head(&self, key: &str) -> Result<Option<ghauditd::archive::Stored>, StoreError> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn last_key(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        if self.put.load(std::sync::atomic::Ordering::SeqCst) {
            return self.inner.last_key(prefix).await;
        }
        Ok(None)
    }

    async fn extend(&self, key: &str, lock: Lock) -> Result<ghauditd::archive::Stored, StoreError> {
        self.inner.extend(key, lock).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writers_segment_with_the_same_records_is_adopted_and_its_end_wins() {
    for kind in [Kind::Dir, Kind::S3] {
        let rig = Rig::new(kind, 1).await;
        rig.produce(0, 0..3).await;
        let times = timestamps(&rig).await;
        // Two of the three records, and a lock that is too short.
        let values = [(0, "{\"n\":0}", times[0]), (1, "{\"n\":1}", times[1])];
        let (name, bytes) = foreign_segment(&rig, 0, 2, &values);
        let short = Lock { mode: LockMode::Governance, retain_until_s: wall_ms() / 1000 + 100 };
        let put = rig.store().await.put_if_absent(&name, bytes, short).await.unwrap();
        assert!(matches!(put, PutOutcome::Written(_)));
        let running = rig.run_on(Late { inner: rig.store().await, put: false.into() });
        rig.until_archived(3).await;
        assert_eq!(running.snapshot().adopted, 1);
        running.stop().await;
        rig.assert_equals_kafka().await;
        assert_eq!(rig.segments(0).await.len(), 2);
        let held = rig.store().await.head(&name).await.unwrap().unwrap().lock.unwrap();
        let wanted = lock_until(LockMode::Governance, rig.settings.retention, wall_ms() - 60_000);
        assert!(
            held.retain_until_s >= wanted.retain_until_s,
            "{kind:?}: the lock was not extended"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writers_segment_with_other_records_stops_the_archive_with_both_hashes() {
    let rig = Rig::new(Kind::S3, 1).await;
    rig.produce(0, 0..3).await;
    let times = timestamps(&rig).await;
    let values = [(0, "{\"n\":0}", times[0]), (1, "{\"n\":9}", times[1])];
    let (name, bytes) = foreign_segment(&rig, 0, 2, &values);
    let lock = lock_until(LockMode::Governance, rig.settings.retention, wall_ms());
    rig.store().await.put_if_absent(&name, bytes, lock).await.unwrap();
    let running = rig.run_on(Late { inner: rig.store().await, put: false.into() });
    let status = std::sync::Arc::clone(&running.status);
    let message = running.end().await;
    assert!(message.contains(&name) && message.contains("other records"), "{message}");
    let hashes = message
        .split(|c: char| !c.is_ascii_hexdigit())
        .filter(|word| word.len() == 64)
        .collect::<std::collections::BTreeSet<_>>();
    assert!(hashes.len() >= 2, "{message}");
    assert!(status.degraded().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_kafka_no_longer_has_is_adopted_unchecked() {
    let rig = Rig::new(Kind::Dir, 1).await;
    rig.produce(0, 0..3).await;
    let times = timestamps(&rig).await;
    let values = [(0, "{\"n\":0}", times[0]), (1, "{\"n\":1}", times[1])];
    let (name, bytes) = foreign_segment(&rig, 0, 2, &values);
    let lock = lock_until(LockMode::Governance, rig.settings.retention, wall_ms());
    rig.store().await.put_if_absent(&name, bytes, lock).await.unwrap();
    // The archiver has read everything, and cannot store; meanwhile retention deletes the first record.
    let late = Late { inner: rig.store().await, put: false.into() };
    let running = rig.run_on(Stuck { inner: late, go: std::sync::Arc::clone(&GO) });
    running.until("a segment is sealed", |now| now.buffered_bytes > 0).await;
    delete_before(&rig, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    GO.add_permits(1_000);
    running.until("adopted", |now| now.adopted_unchecked == 1).await;
    rig.until_archived(3).await;
    running.stop().await;
}

static GO: std::sync::LazyLock<std::sync::Arc<tokio::sync::Semaphore>> =
    std::sync::LazyLock::new(|| std::sync::Arc::new(tokio::sync::Semaphore::new(0)));

/// A store whose puts wait.
struct Stuck<S> {
    inner: S,
    go: std::sync::Arc<tokio::sync::Semaphore>,
}

impl<S: Store> Store for Stuck<S> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put_if_absent(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Lock,
    ) -> Result<PutOutcome, StoreError> {
        self.go.acquire().await.unwrap().forget();
        self.inner.put_if_absent(key, bytes, lock).await
    }

    async fn head(&self, key: &str) -> Result<Option<ghauditd::archive::Stored>, StoreError> {
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

    async fn extend(&self, key: &str, lock: Lock) -> Result<ghauditd::archive::Stored, StoreError> {
        self.inner.extend(key, lock).await
    }
}

/// As retention does: deletes a partition's records below an offset.
async fn delete_before(rig: &Rig, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", rig.broker.address()).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&rig.topic, 0, Offset::Offset(offset)).unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_kafkas_retention_a_gap_is_recorded_once_and_the_archive_goes_on() {
    let rig = Rig::new(Kind::Dir, 1).await;
    rig.produce(0, 0..10).await;
    let running = rig.run().await;
    rig.until_archived(10).await;
    running.stop().await;
    rig.produce(0, 10..20).await;
    delete_before(&rig, 15).await;
    let running = rig.run().await;
    rig.until_archived(10 + 6).await;
    let gaps = running.snapshot().gaps;
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].from, gaps[0].to), (11, 15));
    assert!(running.status.degraded().unwrap().contains("gap"));
    assert!(!running.health.ready());
    running.stop().await;
    // Started again: the same gap, still waiting to be acknowledged, not a second one.
    let running = rig.run().await;
    running.until("placed", |now| now.placed).await;
    assert_eq!(running.snapshot().gaps, gaps);
    running.stop().await;
    let listed = rig.store().await.list("gaps/").await.unwrap();
    assert_eq!(listed.len(), 1);
    let mut out = ghauditd::cli::Output::new(Box::new(std::io::sink()), Box::new(std::io::sink()));
    ghauditd::cli::archive::acknowledge(&rig.settings, &mut out).await.unwrap();
    let running = rig.run().await;
    running.until("placed", |now| now.placed).await;
    assert_eq!(running.status.degraded(), None);
    running.stop().await;
    assert_eq!(rig.archived().await.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_passes_a_running_archive_is_a_gap_too() {
    let mut rig = Rig::new(Kind::Dir, 1).await;
    rig.settings.buffer_bytes_max = 1 << 20;
    rig.settings.segment_bytes_max = 256 << 10;
    let go = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let running = rig.run_on(Stuck { inner: rig.store().await, go: std::sync::Arc::clone(&go) });
    // More than the archiver and its client hold while the store does not answer.
    for _ in 0..5 {
        let value = || Some((0..800_000).map(|_| rand::random()).collect());
        rig.transaction(0, std::iter::repeat_with(value).take(8).collect(), true).await;
    }
    running.until("memory is full", |now| now.buffered_bytes > 1 << 20).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    delete_before(&rig, 40).await;
    go.add_permits(1_000);
    running.until("the gap", |now| now.gaps.len() == 1).await;
    let gap = running.snapshot().gaps.remove(0);
    assert_eq!(gap.to, 40);
    assert!(gap.from > 0 && gap.from < 40, "{gap:?}");
    wait_until(SOON, "what is left is archived", async || {
        rig.archived().await.last().is_some_and(|(_, record)| record.offset == 43)
    })
    .await;
    running.stop().await;
    let missing =
        rig.archived().await.iter().filter(|(_, r)| r.offset >= gap.from && r.offset < 40).count();
    assert_eq!(missing, 0);
}

async fn recreate(rig: &Rig) {
    rig.broker.delete_topics(&[&rig.topic]).await;
    wait_until(SOON, "the topic can be made again", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", rig.broker.address()).create().unwrap();
        let topic = rdkafka::admin::NewTopic::new(
            &rig.topic,
            1,
            rdkafka::admin::TopicReplication::Fixed(1),
        );
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
        made.into_iter().all(|result| result.is_ok())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_is_refused() {
    let rig = Rig::new(Kind::Dir, 1).await;
    rig.produce(0, 0..10).await;
    let running = rig.run().await;
    rig.until_archived(10).await;
    running.stop().await;
    recreate(&rig).await;
    let message = rig.run().await.end().await;
    assert!(message.contains("recreated") && message.contains("new name and prefix"), "{message}");
    // Grown past the archive's position, with other records.
    rig.produce(0, 100..130).await;
    let message = rig.run().await.end().await;
    assert!(message.contains("recreated") && message.contains("offset 9"), "{message}");
    assert_eq!(rig.archived().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_under_a_running_archive_is_refused() {
    let rig = Rig::new(Kind::Dir, 1).await;
    rig.produce(0, 0..10).await;
    let running = rig.run().await;
    rig.until_archived(10).await;
    recreate(&rig).await;
    let message = running.end().await;
    assert!(message.contains("recreated"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_inside_its_bound_whatever_the_number_of_partitions() {
    let mut rig = Rig::new(Kind::Dir, 24).await;
    rig.settings.buffer_bytes_max = 2 << 20;
    rig.settings.segment_age_max = Duration::from_mins(5);
    let noise: Vec<u8> = (0..700).map(|_| rand::random_range(b'0'..=b'z')).collect();
    for partition in 0..24 {
        let values = (0..1500)
            .map(|n| {
                let mut value = format!("{n} ").into_bytes();
                value.extend(&noise[n % 600..]);
                value.extend((0..300).map(|_| rand::random::<u8>()));
                Some(value)
            })
            .collect();
        rig.transaction(partition, values, true).await;
    }
    let running = rig.run().await;
    let mut most = 0;
    wait_until(Duration::from_mins(1), "most is stored", async || {
        most = most.max(running.snapshot().buffered_bytes);
        tokio::time::sleep(Duration::from_millis(10)).await;
        running.snapshot().records >= 24 * 1000
    })
    .await;
    running.stop().await;
    // One batch, one chunk and the growth of one buffer may come on top.
    assert!(most > 1 << 20 && most <= (2 << 20) + (1 << 20), "{most}");
    let mut rig = rig;
    rig.settings.segment_age_max = Duration::from_millis(500);
    let running = rig.run().await;
    rig.until_archived(24 * 1500).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_costs_only_time() {
    let broker = Broker::own("archb").await;
    let rig = Rig::with(Kind::Dir, broker, 2).await;
    rig.produce(0, 0..10).await;
    let running = rig.run().await;
    rig.until_archived(10).await;
    rig.broker.kill().await;
    running.until("it says so", |now| now.kafka_trouble.is_some()).await;
    rig.broker.start().await;
    rig.produce(1, 0..10).await;
    rig.until_archived(20).await;
    running.until("well again", |now| now.kafka_trouble.is_none()).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_only_time() {
    let s3 = S3::own("archs").await;
    let bucket = s3.create_bucket("away", true, true).await;
    let mut rig = Rig::new(Kind::Dir, 1).await;
    rig.settings.store = s3_settings(&s3, &bucket);
    rig.produce(0, 0..10).await;
    let running = rig.run().await;
    rig.until_archived(10).await;
    s3.kill().await;
    rig.produce(0, 10..20).await;
    running.until("it says so", |now| now.store_trouble.is_some()).await;
    s3.start().await;
    rig.until_archived(20).await;
    running.until("well again", |now| now.store_trouble.is_none()).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_comes_later_and_grows_partitions_is_archived_from_its_start() {
    let mut rig = Rig::new(Kind::Dir, 1).await;
    rig.topic = unique("later");
    let running = rig.run().await;
    running.until("placed", |now| now.placed && now.partitions == 0).await;
    rig.broker.create_topic(&rig.topic, 2, &[]).await;
    rig.produce(1, 0..5).await;
    rig.until_archived(5).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_to_the_end_is_everything_or_an_error() {
    let rig = Rig::new(Kind::Dir, 2).await;
    rig.produce(0, 0..10).await;
    rig.transaction(0, vec![Some(b"aborted".to_vec())], false).await;
    let (kafka, topic) = (rig.kafka(), rig.topic.clone());
    tokio::task::spawn_blocking(move || {
        let read = |topic: &str, partition, from| {
            let mut seen = Vec::new();
            read_to_end(&kafka, topic, partition, from, |record| {
                assert_eq!(record.header("ce_id"), Some("a\"b\u{fc}".as_bytes()));
                seen.push(record.offset);
            })
            .map(|next| (next, seen))
        };
        let all: Vec<i64> = (0..10).collect();
        // ten records and a marker, one aborted record and its marker
        assert_eq!(read(&topic, 0, ReadFrom::Beginning).unwrap(), (13, all.clone()));
        assert_eq!(read(&topic, 0, ReadFrom::Offset(7)).unwrap(), (13, all[7..].to_vec()));
        assert_eq!(read(&topic, 0, ReadFrom::Offset(13)).unwrap(), (13, vec![]));
        assert_eq!(read(&topic, 1, ReadFrom::Beginning).unwrap(), (0, vec![]));
        let beyond = read(&topic, 0, ReadFrom::Offset(14));
        assert!(matches!(beyond, Err(ReadError::OutOfRange { high: 13, .. })), "{beyond:?}");
        let nowhere = read("no-such-topic", 0, ReadFrom::Beginning);
        assert!(matches!(nowhere, Err(ReadError::NoTopic { .. })), "{nowhere:?}");
        let nothing = read(&topic, 2, ReadFrom::Beginning);
        assert!(matches!(nothing, Err(ReadError::NoPartition { .. })), "{nothing:?}");
        let reader = TopicReader::new(&kafka).unwrap();
        let next = |from| reader.next_record(&topic, 0, from, |record| record.offset).unwrap();
        assert_eq!(next(9), NextRecord::Record(9));
        assert_eq!(next(10), NextRecord::End(13));
        assert_eq!(next(0), NextRecord::Record(0));
    })
    .await
    .unwrap();
}
