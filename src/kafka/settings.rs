//! How Kafka is spoken to: names, counts, and the properties that each kind of client gets.
//!
//! What the operator may pass through, and what not, stands in [`super::properties`].

pub use super::properties::{SECRET_PROPERTIES, check_properties, refused};

use super::client::Contact;
use crate::audit::Topic;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest batch that our topics take (`max.message.bytes`) and our producers send, bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Largest record (key, value and headers) that is sent whole, bytes: leaves room for the batch around it.
pub const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

/// Longest that a client waits for one answer of a broker; no call of ours blocks for longer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest that a record waits for its delivery before its transaction is aborted.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The transactional producer of a checkpoint partition.
    Producer {
        /// The checkpoint partition; part of the transactional id, which is the fence.
        partition: i32,
    },
    /// The producer of `check --connect`, whose transactions are only ever aborted.
    Probe,
    /// The producer of a command that writes single records: without a transaction, so that it fences nobody.
    Writer,
    /// A `read_committed` consumer that is told its offsets and commits none by itself.
    Consumer,
    /// Looks at metadata and at the true ends of partitions; neither produces nor consumes.
    Scout,
}

/// From `[kafka]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// librdkafka properties for every client (TLS, SASL, ...). May hold secrets: not in Debug.
    pub properties: BTreeMap<String, String>,
    /// librdkafka properties for producers only.
    pub producer_properties: BTreeMap<String, String>,
    /// librdkafka properties for consumers only.
    pub consumer_properties: BTreeMap<String, String>,
    /// Prefix of transactional ids and group ids.
    pub id_prefix: String,
    /// Names of the topics by role.
    pub topic_names: BTreeMap<Topic, String>,
    /// Partitions of each data topic.
    pub data_partitions: i32,
    /// Partitions of each state topic.
    pub state_partitions: i32,
    /// Replication factor; `None`: 3 or as many as there are brokers.
    pub replication: Option<i32>,
    /// Retention of the data topics; `None`: unlimited.
    pub data_retention: Option<Duration>,
    /// Retention of the seen ids of web and stream entries: GitHub's and 45 days more.
    pub seen_web_retention: Duration,
    /// Retention of the seen ids of Git entries: GitHub's and 14 days more.
    pub seen_git_retention: Duration,
    /// Compression of the producer: `none`, `lz4`, `zstd`, `gzip`, `snappy`.
    pub compression: String,
    /// `transaction.timeout.ms`.
    pub transaction_timeout: Duration,
    /// Not from the configuration: whether a client made from it ever got through.
    pub contact: Contact,
}

impl Settings {
    /// The name of a topic.
    pub fn topic(&self, topic: Topic) -> &str {
        self.topic_names.get(&topic).map_or(topic.default_name(), String::as_str)
    }

    /// Partitions of a topic, where we create it. Gaps, operations and log checkpoints have one.
    pub fn partitions(&self, topic: Topic) -> i32 {
        match topic {
            Topic::Gaps | Topic::Operations | Topic::LogCheckpoints => 1,
            other if other.is_state() => self.state_partitions,
            _ => self.data_partitions,
        }
    }

    /// The configuration of a client: our own properties, then the operator's on top.
    ///
    /// [`check_properties`] has refused the operator's properties that would break a promise.
    pub fn client_config(&self, role: Role) -> ClientConfig {
        let mut config = ClientConfig::new();
        // the operator's own choice of librdkafka's debug contexts is the only way to its chatter
        config.set_log_level(if self.properties.contains_key("debug") {
            RDKafkaLogLevel::Debug
        } else {
            RDKafkaLogLevel::Info
        });
        self.set_common(&mut config);
        match role {
            Role::Producer { partition } => self.set_producer(&mut config, &partition.to_string()),
            Role::Probe => self.set_producer(&mut config, "probe"),
            Role::Writer => {
                self.set_producer(&mut config, "writer");
                config.remove("transactional.id");
                config.remove("transaction.timeout.ms");
                config.set("enable.idempotence", "true");
            }
            Role::Consumer => self.set_consumer(&mut config),
            // only this isolation shows the true end of a partition
            Role::Scout => set_all(&mut config, &[("isolation.level", "read_uncommitted")]),
        }
        config
    }

    fn set_common(&self, config: &mut ClientConfig) {
        config.set("bootstrap.servers", &self.brokers);
        set_all(config, COMMON);
        if self.uses_tls() {
            // OpenSSL is linked in and does not find the system's authorities by itself
            config.set("ssl.ca.location", "probe");
        }
        extend(config, &self.properties);
        if config.get("ssl.ca.pem").is_some() && !self.properties.contains_key("ssl.ca.location") {
            config.remove("ssl.ca.location");
        }
    }

    fn set_producer(&self, config: &mut ClientConfig, suffix: &str) {
        config.set("transactional.id", format!("{}-{suffix}", self.id_prefix));
        config.set("transaction.timeout.ms", self.transaction_timeout.as_millis().to_string());
        let delivery = DELIVERY_TIMEOUT.min(self.transaction_timeout);
        config.set("message.timeout.ms", delivery.as_millis().to_string());
        if !self.properties.contains_key("socket.timeout.ms") {
            // librdkafka wants it within the transaction's time
            let answer = CALL_TIMEOUT.min(self.transaction_timeout);
            config.set("socket.timeout.ms", answer.as_millis().to_string());
        }
        // of producers only: a consumer's fetches may be smaller than it and still bring what is larger
        config.set("message.max.bytes", MESSAGE_BYTES_MAX.to_string());
        config.set("compression.type", &self.compression);
        set_all(config, PRODUCER);
        extend(config, &self.producer_properties);
    }

    fn set_consumer(&self, config: &mut ClientConfig) {
        set_all(config, CONSUMER);
        extend(config, &self.consumer_properties);
    }

    /// Whether connections are encrypted.
    pub fn uses_tls(&self) -> bool {
        self.security_protocol().ends_with("ssl")
    }

    /// Whether clients authenticate themselves by SASL.
    pub fn uses_sasl(&self) -> bool {
        self.security_protocol().starts_with("sasl_")
    }

    fn security_protocol(&self) -> String {
        self.properties
            .get("security.protocol")
            .map_or_else(String::new, |p| p.to_ascii_lowercase())
    }
}

/// For every client.
const COMMON: &[(&str, &str)] = &[
    ("client.id", "ghauditd"),
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    // the default of 10 s makes a short outage of the broker a long one
    ("reconnect.backoff.max.ms", "1000"),
    // topics are created by their owner, with their settings; a typo must not create one
    ("allow.auto.create.topics", "false"),
];

/// For transactional producers. Idempotence, `acks=all` and the rest follow from the transactional id.
const PRODUCER: &[(&str, &str)] = &[
    // each batch is drained at once: waiting for more gains nothing
    ("linger.ms", "0"),
    ("batch.size", "1000000"),
    ("queue.buffering.max.kbytes", "32768"),
    ("partitioner", "murmur2_random"),
];

/// For consumers: bounded whatever the backlog.
const CONSUMER: &[(&str, &str)] = &[
    ("isolation.level", "read_committed"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    // an offset that is gone is a gap to be recorded, never to be jumped over
    ("auto.offset.reset", "error"),
    ("check.crcs", "true"),
    ("queued.min.messages", "10000"),
    ("queued.max.messages.kbytes", "8192"),
    ("fetch.message.max.bytes", "1048576"),
    ("fetch.max.bytes", "8388608"),
];

fn set_all(config: &mut ClientConfig, properties: &[(&str, &str)]) {
    for (key, value) in properties {
        config.set(*key, *value);
    }
}

fn extend(config: &mut ClientConfig, properties: &BTreeMap<String, String>) {
    for (key, value) in properties {
        // two names for one thing: the operator's must not meet our own
        if let Some((_, ours)) = ALIASES.iter().find(|(alias, _)| alias == key) {
            config.remove(ours);
        }
        config.set(key, value);
    }
}

/// librdkafka's other names of properties that we set.
const ALIASES: &[(&str, &str)] = &[
    ("queue.buffering.max.ms", "linger.ms"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".to_owned(),
            properties: BTreeMap::new(),
            producer_properties: BTreeMap::new(),
            consumer_properties: BTreeMap::new(),
            id_prefix: "ghauditd".to_owned(),
            topic_names: BTreeMap::new(),
            data_partitions: 6,
            state_partitions: 12,
            replication: None,
            data_retention: Some(Duration::from_hours(24 * 30)),
            seen_web_retention: Duration::from_hours(24 * 225),
            seen_git_retention: Duration::from_hours(24 * 21),
            compression: "zstd".to_owned(),
            transaction_timeout: Duration::from_mins(1),
            contact: Contact::default(),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("Settings")
            .field("brokers", &self.brokers)
            .field("properties", &keys(&self.properties))
            .field("producer_properties", &keys(&self.producer_properties))
            .field("consumer_properties", &keys(&self.consumer_properties))
            .field("id_prefix", &self.id_prefix)
            .field("data_partitions", &self.data_partitions)
            .field("state_partitions", &self.state_partitions)
            .finish_non_exhaustive()
    }
}
