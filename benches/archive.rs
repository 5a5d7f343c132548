//! Kafka to the archive, beside what it cannot do without: a bare `read_committed` read of the topic, `zstd -1` and
//! SHA-256 over the same bytes. Ratios within one run; each measurement is a process of its own.
//!
//! `scripts/bench --bench archive` (needs a broker and an S3 server; `GHAUDITD_BENCH_RECORDS`, default 1,000,000).

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot run must stop")]
#![expect(clippy::disallowed_methods, reason = "a bench is told by its environment what to do")]

mod support;

use ghauditd::archive::{AnyStore, LockMode, Settings, StoreSettings};
use ghauditd::health::Health;
use ghauditd::kafka::settings::Settings as KafkaSettings;
use ghauditd::metrics::Metrics;
use ghauditd::pipeline::archiver::{self, ArchiverStatus};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use sha2::{Digest as _, Sha256};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{cpu_seconds, number, peak_rss_mib, reader, variable};
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 6;
const WAIT: Duration = Duration::from_mins(1);

fn main() {
    // `cargo test --benches` and the like: nothing to measure against.
    let Some(brokers) = variable("GHAUDITD_TEST_BROKERS") else {
        println!("not run: GHAUDITD_TEST_BROKERS is not set, use scripts/bench");
        return;
    };
    let records = number("GHAUDITD_BENCH_RECORDS", 1_000_000);
    if let Some(phase) = variable("GHAUDITD_BENCH_PHASE") {
        let topic = variable("GHAUDITD_BENCH_TOPIC").unwrap();
        measured(&phase, records, || match phase.as_str() {
            "read" => read(&brokers, &topic, records, false),
            "limit" => read(&brokers, &topic, records, true),
            "dir" => archive(&brokers, &topic, records, false),
            "s3" => archive(&brokers, &topic, records, true),
            other => panic!("no phase {other}"),
        });
        return;
    }
    let topic = format!("bench-{:08x}", rand::random::<u32>());
    produce(&brokers, &topic, records);
    println!(
        "{records} records of 700-byte entries with our headers, {PARTITIONS} partitions, zstd"
    );
    for phase in ["read", "limit", "dir", "s3", "limit", "dir", "s3"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .env("GHAUDITD_BENCH_PHASE", phase)
            .env("GHAUDITD_BENCH_TOPIC", &topic)
            .status();
        assert!(status.unwrap().success(), "{phase}");
    }
}

/// Runs a phase, and prints what it cost the process.
fn measured(phase: &str, records: u32, work: impl FnOnce()) {
    let (before, began) = (cpu_seconds("self"), Instant::now());
    work();
    let (cpu, wall) = (cpu_seconds("self") - before, began.elapsed().as_secs_f64());
    let records = f64::from(records);
    println!(
        "{phase:<6} {:>6.2} us CPU a record, {:>8.0} records/s, peak RSS {} MiB",
        cpu * 1e6 / records,
        records / wall,
        peak_rss_mib("self")
    );
}

/// Fills the topic as the collector does: transactions of 1,000 records.
fn produce(brokers: &str, topic: &str, records: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", topic)
        .set("compression.type", "zstd")
        .set("queue.buffering.max.messages", "10000")
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    for batch in 0..records.div_ceil(1000) {
        producer.begin_transaction().unwrap();
        for number in (batch * 1000)..((batch + 1) * 1000).min(records) {
            send(&producer, topic, number);
        }
        producer.flush(WAIT).unwrap();
        producer.commit_transaction(WAIT).unwrap();
    }
}

fn send(
    producer: &ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    topic: &str,
    n: u32,
) {
    let id = format!("{:016x}", u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let time = 1_795_267_200_000_u64 + u64::from(n);
    let value = entry(&id, time, n);
    let text = time.to_string();
    let sequence = n.to_string();
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", id.as_str()),
        ("ce_source", "https://api.github.com/enterprises/acme"),
        ("ce_type", "repo.access"),
        ("ce_time", "2026-11-21T13:00:00.123Z"),
        ("content-type", "application/json"),
        ("entity", "acme"),
        ("lane", "web"),
        ("slice", "backfill"),
        ("ingest_ms", text.as_str()),
        ("sequence", sequence.as_str()),
    ];
    let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value.as_bytes()) })
    });
    let partition = i32::try_from(n / 100).unwrap() % PARTITIONS;
    let record = BaseRecord::to(topic).partition(partition).key("acme").payload(&value);
    producer.send::<str, String>(record.headers(headers)).map_err(|(error, _)| error).unwrap();
}

/// An entry of about 700 bytes, of the kind that GitHub gives.
fn entry(id: &str, time: u64, n: u32) -> String {
    let user = n.wrapping_mul(2_654_435_761) % 4_000;
    let noise =
        format!("{:032x}", u128::from(n).wrapping_mul(0x0123_4567_89ab_cdef_1357_9bdf_0246_8ace));
    format!(
        r#"{{"@timestamp":{time},"_document_id":"{id}","action":"repo.access","actor":"user-{user}","actor_id":{user},"actor_ip":"10.{}.{}.{}","actor_is_bot":false,"actor_location":{{"country_code":"DE"}},"business":"acme","business_id":1234,"created_at":{time},"external_identity_nameid":"user-{user}@example.com","hashed_token":"{noise}=","operation_type":"modify","org":"acme-{}","org_id":{},"permission":"admin","public_repo":false,"programmatic_access_type":"Personal access token (classic)","repo":"acme-{}/service-{}","repo_id":{},"request_id":"{noise}","token_id":{},"token_scopes":"admin:org,repo,workflow","user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36","visibility":"private"}}"#,
        n % 251,
        n % 241,
        n % 239,
        n % 17,
        n % 17,
        n % 17,
        n % 900,
        n % 900,
        n % 5_003,
    )
}

/// Reads the whole topic; with `work`, also compresses and hashes it in pieces of the archive's size.
fn read(brokers: &str, topic: &str, records: u32, work: bool) {
    let consumer = reader(brokers, topic, PARTITIONS, &[("check.crcs", "true")]);
    let mut zstd = zstd::bulk::Compressor::new(1).unwrap();
    let (mut raw, mut frame) = (Vec::with_capacity(300 << 10), Vec::with_capacity(400 << 10));
    let mut hash = Sha256::new();
    let mut seen = 0;
    while seen < records {
        let Some(message) = consumer.poll(WAIT) else { panic!("no more after {seen}") };
        let message = message.unwrap();
        seen += 1;
        if !work {
            continue;
        }
        raw.extend_from_slice(message.key().unwrap());
        for header in message.headers().unwrap().iter() {
            raw.extend_from_slice(header.key.as_bytes());
            raw.extend_from_slice(header.value.unwrap());
        }
        raw.extend_from_slice(message.payload().unwrap());
        if raw.len() >= 256 << 10 || seen == records {
            hash.update(&raw);
            zstd.compress_to_buffer(&raw, &mut frame).unwrap();
            raw.clear();
        }
    }
    std::hint::black_box(hash.finalize());
}

fn archive(brokers: &str, topic: &str, records: u32, s3: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(archive_until(brokers, topic, records, s3));
    runtime.shutdown_background();
}

async fn archive_until(brokers: &str, topic: &str, records: u32, s3: bool) {
    let folder = tempfile::tempdir().unwrap();
    let store = if s3 {
        s3_store().await
    } else {
        StoreSettings::Dir { path: folder.path().join("archive"), immutable: false }
    };
    let settings = Settings {
        name: "bench".to_owned(),
        store,
        lock_mode: LockMode::Governance,
        retention: Duration::from_hours(24),
        segment_bytes_max: 8 << 20,
        segment_records_max: 200_000,
        segment_age_max: Duration::from_secs(5),
        zstd_level: 1,
        buffer_bytes_max: 32 << 20,
    };
    let store = AnyStore::open(&settings).await.unwrap();
    let kafka = KafkaSettings { brokers: brokers.to_owned(), ..KafkaSettings::default() };
    let status = Arc::new(ArchiverStatus::new(Arc::new(Health::new())));
    let cancel = CancellationToken::new();
    let watch = async {
        while status.snapshot().records < u64::from(records) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cancel.cancel();
    };
    let run = archiver::run(
        Arc::new(store),
        settings,
        kafka,
        vec![topic.to_owned()],
        Arc::new(Metrics::default()),
        Arc::clone(&status),
        cancel.clone(),
    );
    let (ended, ()) = tokio::join!(run, watch);
    ended.unwrap();
}

/// A new bucket with Object Lock on the S3 server of the run.
async fn s3_store() -> StoreSettings {
    let endpoint = std::env::var("GHAUDITD_TEST_S3_ENDPOINT").unwrap();
    let region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
    let bucket = format!("bench-{:08x}", rand::random::<u32>());
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .endpoint_url(&endpoint)
        .region(aws_sdk_s3::config::Region::new(region.clone()))
        .credentials_provider(aws_sdk_s3::config::Credentials::new(
            std::env::var("AWS_ACCESS_KEY_ID").unwrap(),
            std::env::var("AWS_SECRET_ACCESS_KEY").unwrap(),
            None,
            None,
            "bench",
        ))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
        .create_bucket()
        .bucket(&bucket)
        .object_lock_enabled_for_bucket(true)
        .send()
        .await
        .unwrap();
    StoreSettings::S3 {
        bucket,
        prefix: String::new(),
        region,
        endpoint: Some(endpoint.parse().unwrap()),
        path_style: true,
        ca_file: None,
        content_md5: false,
    }
}
