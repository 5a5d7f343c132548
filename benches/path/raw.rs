//! Raw librdkafka: the same records with the same headers, keys, settings, in transactions of the same size. Their seen
//! ids and checkpoints are left out: those are the daemon's own matter.

use crate::installation::{Cost, Installation};
use crate::support::{cpu_seconds, number, reader, variable};
use ghauditd::kafka::settings::{Role, Settings};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const WAIT: Duration = Duration::from_mins(1);
const SHORT_PAUSE: Duration = Duration::from_micros(100);

/// Produces again what an installation has produced, in a process of its own.
pub(crate) fn measure(installation: &Installation, records: u32) -> Cost {
    let output = Command::new(std::env::current_exe().unwrap())
        .env("GHAUDITD_BENCH_PHASE", "raw")
        .env("GHAUDITD_BENCH_TOPIC", installation.topic())
        .env("GHAUDITD_BENCH_RECORDS", records.to_string())
        .env("GHAUDITD_BENCH_PAGES", installation.plan.pages.to_string())
        .env("GHAUDITD_BENCH_COMPRESSION", installation.plan.compression)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the raw producer");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut figures = text.split_whitespace().map(|figure| figure.parse::<f64>().unwrap());
    let mut figure = || figures.next().unwrap();
    Cost {
        cpu_us: figure(),
        entries_per_second: figure(),
        commit_ms: figure(),
        rss_mib: 0,
        entry_bytes: 0.0,
    }
}

/// The process of [`measure`].
pub(crate) fn run(brokers: &str) {
    let topic = variable("GHAUDITD_BENCH_TOPIC").unwrap();
    let count = number("GHAUDITD_BENCH_RECORDS", 0);
    let batch = usize::try_from(number("GHAUDITD_BENCH_PAGES", 1)).unwrap() * 100;
    let records = records(brokers, &topic, count);
    let topic = format!("{topic}.raw");
    create(brokers, &topic);
    let settings = Settings {
        brokers: brokers.to_owned(),
        id_prefix: topic.clone(),
        compression: variable("GHAUDITD_BENCH_COMPRESSION").unwrap(),
        ..Settings::default()
    };
    let producer: ThreadedProducer<DefaultProducerContext> =
        settings.client_config(Role::Producer { partition: 0 }).create().unwrap();
    producer.init_transactions(WAIT).unwrap();
    let (cpu, began) = (cpu_seconds("self"), Instant::now());
    for batch in records.chunks(batch) {
        producer.begin_transaction().unwrap();
        for record in batch {
            send(&producer, &topic, record);
        }
        // else the commit sleeps for 100 ms
        while producer.in_flight_count() > 0 {
            std::thread::sleep(SHORT_PAUSE);
        }
        producer.commit_transaction(WAIT).unwrap();
    }
    let (cpu, wall) = (cpu_seconds("self") - cpu, began.elapsed().as_secs_f64());
    let transactions = f64::from(u32::try_from(records.len().div_ceil(batch)).unwrap());
    let count = f64::from(count);
    println!("{} {} {}", cpu * 1e6 / count, count / wall, wall * 1e3 / transactions);
}

/// The first records of a topic in the order of their sequence.
fn records(brokers: &str, topic: &str, count: u32) -> Vec<OwnedMessage> {
    let consumer = reader(brokers, topic, PARTITIONS, &[]);
    let mut records: Vec<OwnedMessage> =
        (0..count).map(|_| consumer.poll(WAIT).unwrap().unwrap().detach()).collect();
    records.sort_by_cached_key(sequence);
    records
}

fn sequence(record: &OwnedMessage) -> u64 {
    let mut headers = record.headers().unwrap().iter();
    let sequence = headers.find(|header| header.key == "gh_seq").unwrap().value.unwrap();
    std::str::from_utf8(sequence).unwrap().parse().unwrap()
}

fn create(brokers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "LogAppendTime");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, record: &OwnedMessage) {
    let from = record.headers().unwrap();
    let headers = OwnedHeaders::new_with_capacity(from.count());
    let headers = from.iter().fold(headers, |headers, header| {
        headers.insert(Header { key: header.key, value: header.value })
    });
    let mut message = BaseRecord::to(topic)
        .key(record.key().unwrap())
        .payload(record.payload().unwrap())
        .headers(headers);
    while let Err((error, back)) = producer.send(message) {
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert!(error == full, "{error}");
        std::thread::sleep(SHORT_PAUSE);
        message = back;
    }
}
