//! `[kafka]`: brokers, topics, and the properties that are passed through to librdkafka.

use super::super::reader::Table;
use super::super::units::show_duration;
use super::{days, read_small_file, seconds, world_readable};
use crate::audit::Topic;
use crate::kafka::properties::{SECRET_PROPERTIES, check_properties};
use crate::kafka::settings::Settings;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The key of each topic's name.
const TOPIC_KEYS: [(&str, Topic); 10] = [
    ("web", Topic::Web),
    ("git", Topic::Git),
    ("stream", Topic::Stream),
    ("dead_letter", Topic::DeadLetter),
    ("checkpoints", Topic::Checkpoints),
    ("seen_web", Topic::SeenWeb),
    ("seen_git", Topic::SeenGit),
    ("gaps", Topic::Gaps),
    ("operations", Topic::Operations),
    ("log_checkpoints", Topic::LogCheckpoints),
];

/// Least retention of the data topics that leaves time for an outage of the archive.
const DATA_RETENTION_WARNED: Duration = days(3);

/// Reads the section.
pub(in super::super) fn read(root: &mut Table<'_>) -> Settings {
    let mut table = root.table("kafka");
    let mut settings = Settings::default();
    match brokers(&mut table) {
        Some(brokers) => settings.brokers = brokers,
        None if table.has("brokers") => {}
        None => table.missing("brokers", "write \"HOST:PORT,HOST:PORT\""),
    }
    if let Some(prefix) = kafka_name(&mut table, "id_prefix") {
        settings.id_prefix = prefix;
    }
    settings.topic_names = topics(&mut table);
    counts(&mut table, &mut settings);
    retention(&mut table, &mut settings);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"].map(|codec| (codec, codec));
    if let Some(codec) = table.choice("compression", &codecs) {
        codec.clone_into(&mut settings.compression);
    }
    if let Some(timeout) = table.duration("transaction_timeout", seconds(10)..=seconds(900)) {
        settings.transaction_timeout = timeout;
    }
    settings.properties = properties(&mut table, "properties");
    settings.producer_properties = properties(&mut table, "producer_properties");
    settings.consumer_properties = properties(&mut table, "consumer_properties");
    from_files(&mut table, &mut settings);
    check(&table, &settings);
    table.finish();
    settings
}

fn brokers(table: &mut Table<'_>) -> Option<String> {
    let texts = table.texts("brokers")?;
    let brokers = texts.join(",");
    let is_address = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "9092"));
        !host.is_empty()
            && !host.contains(['/', ' '])
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if !texts.is_empty() && texts.iter().all(|text| is_address(text)) {
        return Some(brokers);
    }
    table.fault(
        "brokers",
        format!("{brokers:?} is not a list of brokers"),
        "write \"HOST:PORT,HOST:PORT\"",
    );
    None
}

/// A name that Kafka takes for topics; ids follow the same rule here.
fn kafka_name(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let name = table.text(key)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() <= 200 && name.chars().all(plain) && name != "." && name != ".." {
        return Some(name);
    }
    table.fault(
        key,
        format!("{name:?} is not a name that Kafka takes"),
        "write 1 to 200 characters of a-z A-Z 0-9 . _ -",
    );
    None
}

fn topics(table: &mut Table<'_>) -> BTreeMap<Topic, String> {
    let prefix = kafka_name(table, "topic_prefix").unwrap_or_default();
    let mut inner = table.table("topics");
    let mut names = BTreeMap::new();
    let mut roles: BTreeMap<String, &str> = BTreeMap::new();
    for (key, topic) in TOPIC_KEYS {
        let name = kafka_name(&mut inner, key)
            .unwrap_or_else(|| format!("{prefix}{}", topic.default_name()));
        if let Some(other) = roles.insert(name.clone(), key) {
            inner.fault(
                key,
                format!("{name:?} is the name of {other} too"),
                "give each topic a name of its own",
            );
        }
        names.insert(topic, name);
    }
    inner.finish();
    names
}

fn counts(table: &mut Table<'_>, settings: &mut Settings) {
    if let Some(count) = table.integer("data_partitions", 1..=1000) {
        settings.data_partitions = count;
    }
    if let Some(count) = table.integer("state_partitions", 1..=1000) {
        settings.state_partitions = count;
    }
    settings.replication = table.integer("replication", 1..=15);
}

fn retention(table: &mut Table<'_>, settings: &mut Settings) {
    let range = seconds(3600)..=days(3653);
    let kept = table.duration_or_unlimited("data_retention", range, settings.data_retention);
    settings.data_retention = kept;
    if let Some(kept) = kept.filter(|kept| *kept < DATA_RETENTION_WARNED) {
        table.report.warning(
            table.path_of("data_retention"),
            format!("{} is little time to mend an archive that has stopped", show_duration(kept)),
            format!("write at least {:?}", show_duration(DATA_RETENTION_WARNED)),
        );
    }
}

fn properties(table: &mut Table<'_>, key: &'static str) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for (name, value, from_environment) in table.free(key) {
        if SECRET_PROPERTIES.contains(&name.as_str()) && !from_environment {
            table.fault(
                &format!("{key}.{name:?}"),
                "a secret stands in the configuration",
                format!(
                    "put it into a file and write [kafka.properties_files] {name:?} = \"/path\""
                ),
            );
        }
        properties.insert(name, value);
    }
    properties
}

/// Properties whose values are the contents of files; the line's end is cut.
fn from_files(table: &mut Table<'_>, settings: &mut Settings) {
    for (name, path, _) in table.free("properties_files") {
        let key = format!("properties_files.{name:?}");
        let path = Path::new(&path);
        if settings.properties.contains_key(&name) {
            let problem = "the property stands under [kafka.properties] too";
            table.fault(&key, problem, "keep one of them");
        }
        match read_small_file(path) {
            Ok(text) => {
                let value = text.trim_end_matches(['\r', '\n']).to_owned();
                settings.properties.insert(name, value);
            }
            Err(problem) => {
                let remedy = "check the path, and that the service's user may read the file";
                table.fault(&key, problem, remedy);
                continue;
            }
        }
        if world_readable(path) == Some(true) {
            table.report.warning(
                table.path_of(&key),
                format!("{} can be read by everybody on this host", path.display()),
                format!("chmod o-r {}", path.display()),
            );
        }
    }
}

/// What librdkafka, and our promises, say about the properties.
fn check(table: &Table<'_>, settings: &Settings) {
    for (key, problem, remedy) in check_properties(settings) {
        table.report.fault(key, problem, remedy);
    }
    let protocol = settings.properties.get("security.protocol");
    if protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("sasl_plaintext")) {
        table.report.warning(
            table.path_of("properties.\"security.protocol\""),
            "is SASL_PLAINTEXT: entries, and with PLAIN the password, travel in the clear",
            "write SASL_SSL unless the network is yours alone",
        );
    }
}
