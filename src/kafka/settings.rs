//! How Kafka is spoken to: names, counts, and the properties that are passed through to librdkafka.

use crate::audit::Topic;
use std::collections::BTreeMap;
use std::time::Duration;

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
    /// Compression of the producer: `none`, `lz4`, `zstd`, `gzip`, `snappy`.
    pub compression: String,
    /// `transaction.timeout.ms`.
    pub transaction_timeout: Duration,
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
}

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
            compression: "zstd".to_owned(),
            transaction_timeout: Duration::from_mins(1),
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
