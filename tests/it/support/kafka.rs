//! Real brokers, and a reader of topics that is not ours: kcat.

use super::{env_of_make_test, script, script_in_drop, unique, wait_until};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

/// A running Apache Kafka, one node.
pub(crate) struct Broker {
    /// `HOST:PORT`, plaintext.
    address: String,
    /// The folder of `scripts/kafka`, when the broker is this test's own.
    own: Option<TempDir>,
}

/// How to reach an own broker over TLS with SCRAM-SHA-512.
pub(crate) struct Tls {
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) ca: PathBuf,
}

impl Broker {
    /// The broker of the whole test run: use topics of [`unique`] names, never stop it.
    pub(crate) fn shared() -> Self {
        Self { address: env_of_make_test("GHAUDITD_TEST_BROKERS"), own: None }
    }

    /// A broker for this test alone, in a folder of its own on free ports; gone when dropped.
    pub(crate) async fn own(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&unique(name)).tempdir().unwrap();
        let mut broker = Self { address: String::new(), own: Some(dir) };
        broker.start().await;
        broker.address = format!("127.0.0.1:{}", broker.port());
        broker
    }

    /// `HOST:PORT` of the plaintext listener: what goes into `bootstrap.servers`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The TLS listener of an own broker.
    pub(crate) fn tls(&self) -> Tls {
        let tls = self.dir().join("tls");
        let read = |name: &str| std::fs::read_to_string(tls.join(name)).unwrap().trim().to_owned();
        Tls {
            address: format!("127.0.0.1:{}", self.port() + 2),
            user: read("user"),
            password: read("password"),
            ca: tls.join("ca.crt"),
        }
    }

    /// Starts an own broker again, on the same ports and data; nothing when it runs.
    pub(crate) async fn start(&self) {
        script("kafka", &["start", self.dir_text()]).await;
    }

    /// Stops it in good order.
    pub(crate) async fn stop(&self) {
        script("kafka", &["stop", self.dir_text()]).await;
    }

    /// SIGKILL.
    pub(crate) async fn kill(&self) {
        script("kafka", &["kill", self.dir_text()]).await;
    }

    /// Sends a signal to an own broker: `STOP` freezes it, `CONT` lets it go on.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = std::fs::read_to_string(self.dir().join("pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it in good order, and starts it with more properties.
    pub(crate) async fn restart_with(&self, properties: &str) {
        self.stop().await;
        std::fs::write(self.dir().join("extra.properties"), properties).unwrap();
        self.start().await;
    }

    /// SIGKILL, and start.
    pub(crate) async fn restart(&self) {
        self.kill().await;
        self.start().await;
    }

    /// Creates a topic with one replica and `settings`.
    pub(crate) async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) {
        let topic = settings.iter().fold(
            NewTopic::new(name, partitions, TopicReplication::Fixed(1)),
            |topic, (key, value)| topic.set(key, value),
        );
        let results = self.admin().create_topics([&topic], &AdminOptions::new()).await.unwrap();
        for result in results {
            result.unwrap_or_else(|(topic, error)| panic!("create {topic}: {error}"));
        }
    }

    /// Deletes topics.
    pub(crate) async fn delete_topics(&self, names: &[&str]) {
        let results = self.admin().delete_topics(names, &AdminOptions::new()).await.unwrap();
        for result in results {
            result.unwrap_or_else(|(topic, error)| panic!("delete {topic}: {error}"));
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.address).create().unwrap()
    }

    fn dir(&self) -> &Path {
        self.own.as_ref().expect("only an own broker can be stopped or asked for its folder").path()
    }

    fn dir_text(&self) -> &str {
        self.dir().to_str().unwrap()
    }

    fn port(&self) -> u16 {
        std::fs::read_to_string(self.dir().join("port")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.own {
            drop(std::fs::copy(
                dir.path().join("broker.log"),
                super::logs()
                    .join(format!("{}-broker.log", dir.path().file_name().unwrap().display())),
            ));
            script_in_drop("kafka", &["kill", dir.path().to_str().unwrap()]);
        }
    }
}

/// A record as kcat shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KcatRecord {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: i64,
    /// `None`: a null key.
    pub(crate) key: Option<Vec<u8>>,
    /// `None`: a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    /// `name=value,name=value` in the order of the record, as kcat prints them.
    pub(crate) headers: Vec<u8>,
}

impl KcatRecord {
    /// A header's value up to the next comma (kcat does not quote); `None` when there is no such header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = std::str::from_utf8(&self.headers).ok()?;
        headers.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What kcat, reading `read_committed` from the beginning, finds in a topic; in the order of partitions and offsets.
/// A topic that does not exist is empty.
pub(crate) async fn kcat_dump(brokers: &str, topic: &str) -> Vec<KcatRecord> {
    kcat_read(brokers, topic, "read_committed").await
}

/// The same without regard to transactions: aborted and open ones are shown too.
pub(crate) async fn kcat_dump_uncommitted(brokers: &str, topic: &str) -> Vec<KcatRecord> {
    kcat_read(brokers, topic, "read_uncommitted").await
}

async fn kcat_read(brokers: &str, topic: &str, isolation: &str) -> Vec<KcatRecord> {
    // lengths first, so that any bytes come through; headers have none and end with a byte that ours never hold
    let format = r"%p %o %T %K %S\n%k%s%h\x1e\n";
    let output = tokio::process::Command::new("kcat")
        .args(["-C", "-q", "-e", "-b", brokers, "-t", topic, "-o", "beginning", "-f", format])
        .args(["-X", &format!("isolation.level={isolation}")])
        .args(["-X", "check.crcs=true", "-X", "fetch.message.max.bytes=16777216"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("kcat runs: `scripts/setup test` installs it");
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("Unknown topic or partition"), "kcat {topic}: {error}");
        return Vec::new();
    }
    let mut records = parse(&output.stdout);
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn parse(mut bytes: &[u8]) -> Vec<KcatRecord> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|&b| b == b'\n').expect("a line of lengths");
        let line = std::str::from_utf8(&bytes[..end]).expect("lengths are digits");
        let numbers: Vec<i64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let &[partition, offset, timestamp, key, value] = numbers.as_slice() else {
            panic!("kcat printed {line:?}");
        };
        bytes = &bytes[end + 1..];
        let key = take(&mut bytes, key);
        let value = take(&mut bytes, value);
        let end = bytes.windows(2).position(|pair| pair == b"\x1e\n").expect("an end of headers");
        let headers = bytes[..end].to_vec();
        bytes = &bytes[end + 2..];
        let partition = i32::try_from(partition).unwrap();
        records.push(KcatRecord { partition, offset, timestamp, key, value, headers });
    }
    records
}

/// Cuts a field of `length` bytes off; a negative length is null, which kcat prints as `NULL`.
fn take(bytes: &mut &[u8], length: i64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok();
    let printed = length.unwrap_or(if bytes.starts_with(b"NULL") { 4 } else { 0 });
    let (field, rest) = bytes.split_at(printed);
    *bytes = rest;
    length.map(|_| field.to_vec())
}

mod tests {
    use super::*;
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
    use std::time::Duration;

    fn producer(
        broker: &Broker,
        id: &str,
    ) -> ThreadedProducer<rdkafka::producer::DefaultProducerContext> {
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", broker.address())
            .set("transactional.id", id)
            .create()
            .unwrap();
        producer.init_transactions(Duration::from_secs(20)).unwrap();
        producer
    }

    fn send(
        producer: &ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
        topic: &str,
        value: &[u8],
    ) {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "a", value: Some("1") })
            .insert(Header { key: "b", value: Some("two") });
        let record = BaseRecord::to(topic)
            .partition(0)
            .key(b"k\n".as_slice())
            .payload(value)
            .headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    #[tokio::test]
    async fn kcat_shows_committed_bytes_as_they_are() {
        let broker = Broker::shared();
        let topic = unique("support");
        assert_eq!(kcat_dump(broker.address(), &topic).await, []);
        broker.create_topic(&topic, 2, &[("max.message.bytes", "8388608")]).await;
        let hostile: Vec<u8> = (0..=255).chain(*b"\x1e\n%s NULL").collect();
        let producer = producer(&broker, &topic);
        producer.begin_transaction().unwrap();
        send(&producer, &topic, &hostile);
        send(&producer, &topic, b"");
        let tombstone: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic).partition(1);
        producer.send(tombstone).map_err(|(error, _)| error).unwrap();
        producer.commit_transaction(Duration::from_secs(20)).unwrap();
        producer.begin_transaction().unwrap();
        send(&producer, &topic, b"aborted");
        producer.abort_transaction(Duration::from_secs(20)).unwrap();

        let records = kcat_dump(broker.address(), &topic).await;
        let values: Vec<_> = records.iter().map(|record| record.value.as_deref()).collect();
        assert_eq!(values, [Some(hostile.as_slice()), Some(b"".as_slice()), None]);
        assert_eq!(records[0].key.as_deref(), Some(b"k\n".as_slice()));
        assert_eq!((records[0].header("b"), records[0].header("c")), (Some("two"), None));
        assert_eq!((records[2].partition, records[2].key.as_deref()), (1, None));
        assert_eq!(kcat_dump_uncommitted(broker.address(), &topic).await.len(), 4);
        broker.delete_topics(&[&topic]).await;
    }

    #[tokio::test]
    async fn an_own_broker_keeps_its_data_over_a_kill() {
        let broker = Broker::own("support").await;
        broker.create_topic("kept", 1, &[]).await;
        let writer = producer(&broker, "writer");
        writer.begin_transaction().unwrap();
        send(&writer, "kept", b"kept");
        writer.commit_transaction(Duration::from_secs(20)).unwrap();
        broker.restart().await;
        // a broker that has just started may not know its topics yet
        wait_until(Duration::from_secs(30), "the record is there again", async || {
            kcat_dump(broker.address(), "kept").await.len() == 1
        })
        .await;
        broker.stop().await;
        broker.start().await;
        // a broker that has just started may not know its topics yet
        wait_until(Duration::from_secs(30), "the record is there again", async || {
            kcat_dump(broker.address(), "kept").await.len() == 1
        })
        .await;

        let tls = broker.tls();
        let client: AdminClient<_> = ClientConfig::new()
            .set("bootstrap.servers", &tls.address)
            .set("security.protocol", "SASL_SSL")
            .set("sasl.mechanism", "SCRAM-SHA-512")
            .set("sasl.username", &tls.user)
            .set("sasl.password", &tls.password)
            .set("ssl.ca.location", tls.ca.to_str().unwrap())
            .create()
            .unwrap();
        let metadata = client.inner().fetch_metadata(None, Duration::from_secs(20)).unwrap();
        assert!(metadata.topics().iter().any(|topic| topic.name() == "kept"));
    }
}
