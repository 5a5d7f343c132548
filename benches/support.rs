//! What the benches share: their environment, a reader, and what a process has cost so far (Linux, `proc(5)`).

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// A variable of the environment, unless it is empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The number in a variable, or `default`.
pub(crate) fn number(name: &str, default: u32) -> u32 {
    variable(name).map_or(default, |text| text.parse().unwrap())
}

/// A reader that stands at the beginning of every partition of a topic.
pub(crate) fn reader(
    brokers: &str,
    topic: &str,
    partitions: i32,
    properties: &[(&str, &str)],
) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bench");
    config.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
    for (key, value) in properties {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Offset(0)).unwrap();
    }
    consumer.assign(&list).unwrap();
    consumer
}

/// User and system time of a process with all its threads so far, in seconds (hundredths are the unit of the kernel).
pub(crate) fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).unwrap().parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// The most memory that a process has had resident so far, in MiB.
pub(crate) fn peak_rss_mib(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib >> 10
}
