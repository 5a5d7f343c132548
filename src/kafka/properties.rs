//! librdkafka's properties as the operator may set them: which are refused, which belong elsewhere, which are secret.
//!
//! librdkafka itself refuses unknown names and impossible values; its words are passed on. Names:
//! <https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md>.

use super::settings::{Role, Settings};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use std::collections::BTreeMap;

/// The key, what is wrong with it, and the remedy.
pub type PropertyFault = (String, String, String);

/// Properties whose values are never shown, and may come from a file.
pub const SECRET_PROPERTIES: &[&str] = &[
    "sasl.password",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
];

/// Refused wherever they stand, with the reason and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("acks", "exactly once needs acks=all, which transactions set"),
    ("allow.auto.create.topics", "topics are created by their owner, with their settings"),
    ("auto.commit.enable", "offsets are committed only after the archive has the records"),
    ("auto.commit.interval.ms", "offsets are committed only after the archive has the records"),
    ("auto.offset.reset", "an offset that is gone is recorded as a gap, never jumped over"),
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("compression.codec", "set kafka.compression instead"),
    ("compression.type", "set kafka.compression instead"),
    ("delivery.report.only.error", "every delivery is counted"),
    ("enable.auto.commit", "offsets are committed only after the archive has the records"),
    ("enable.auto.offset.store", "offsets are committed only after the archive has the records"),
    ("enable.gapless.guarantee", "transactions already guarantee it"),
    ("enable.idempotence", "exactly once needs it, and transactions set it"),
    ("enable.partition.eof", "the end of a partition tells when a restore is complete"),
    ("enabled_events", "events are chosen by the program"),
    ("group.id", "set kafka.id_prefix instead"),
    ("group.instance.id", "set kafka.id_prefix instead"),
    ("group.protocol", "partitions are assigned by the program, not by a group"),
    ("internal.termination.signal", "signals are handled by the program"),
    ("isolation.level", "readers must not see what was aborted"),
    ("log.queue", "librdkafka's log goes to ours"),
    ("log_level", "use --log-level; for librdkafka's own contexts set the property debug"),
    ("max.in.flight", "exactly once needs at most 5, which transactions set"),
    (
        "max.in.flight.requests.per.connection",
        "exactly once needs at most 5, which transactions set",
    ),
    ("message.max.bytes", "fixed to 8 MiB: larger entries travel in pieces"),
    (
        "message.send.max.retries",
        "a bounded number of retries turns a short outage into lost transactions",
    ),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("offset.store.method", "offsets are committed only after the archive has the records"),
    (
        "partitioner",
        "records of one organization stay in one partition, as Java clients compute it",
    ),
    ("plugin.library.paths", "foreign code in this process could change what is sent"),
    ("produce.offset.report", "every delivery reports its offset"),
    ("queuing.strategy", "the order of an entity's records would be lost"),
    ("request.required.acks", "exactly once needs acks=all, which transactions set"),
    ("retries", "a bounded number of retries turns a short outage into lost transactions"),
    ("statistics.interval.ms", "nobody reads librdkafka's statistics; see /metrics"),
    ("transaction.timeout.ms", "set kafka.transaction_timeout instead"),
    ("transactional.id", "it is the fence between instances; set kafka.id_prefix instead"),
];

/// Callbacks and pointers of the C interface: no text can be their value.
const POINTERS: &[&str] = &[
    "background_event_cb",
    "closesocket_cb",
    "connect_cb",
    "consume_cb",
    "default_topic_conf",
    "dr_cb",
    "dr_msg_cb",
    "error_cb",
    "interceptors",
    "log_cb",
    "msg_order_cmp",
    "oauthbearer_token_refresh_cb",
    "offset_commit_cb",
    "opaque",
    "open_cb",
    "partitioner_cb",
    "rebalance_cb",
    "resolve_cb",
    "socket_cb",
    "ssl.certificate.verify_cb",
    "ssl_ca",
    "ssl_certificate",
    "ssl_engine_callback_data",
    "ssl_key",
    "stats_cb",
    "throttle_cb",
];

/// Java's names, which librdkafka does not know, and its own.
const JAVA: &[(&str, &str)] = &[
    ("sasl.jaas.config", "sasl.username and sasl.password"),
    ("sasl.login.callback.handler.class", "sasl.oauthbearer.method=oidc"),
    ("sasl.oauthbearer.token.endpoint", "sasl.oauthbearer.token.endpoint.url"),
    ("ssl.keystore.key", "ssl.key.pem"),
    ("ssl.keystore.certificate.chain", "ssl.certificate.pem"),
    ("ssl.truststore.certificates", "ssl.ca.pem"),
    ("ssl.truststore.location", "ssl.ca.location, a PEM file"),
    ("ssl.truststore.password", "ssl.ca.location, a PEM file without a password"),
    ("max.request.size", "nothing: requests are bounded by 8 MiB"),
    ("buffer.memory", "queue.buffering.max.kbytes"),
];

/// Properties that only producers have.
const PRODUCER_ONLY: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "delivery.timeout.ms",
    "linger.ms",
    "message.timeout.ms",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
];

/// Properties that only consumers have.
const CONSUMER_ONLY: &[&str] = &[
    "check.crcs",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
];

/// Why a property is not passed through, whatever its value; `None`: it may be.
pub fn refused(property: &str) -> Option<&'static str> {
    if property.starts_with("test.mock.") {
        return Some("it replaces the brokers by a mock that keeps nothing");
    }
    if POINTERS.contains(&property) {
        return Some("its value is a pointer of the C interface, not a text");
    }
    REFUSED.iter().find(|(name, _)| *name == property).map(|(_, reason)| *reason)
}

/// Checks everything that the operator passes through, without a network. All faults at once.
pub fn check_properties(settings: &Settings) -> Vec<PropertyFault> {
    let mut faults = Vec::new();
    let tables = [
        ("properties", &settings.properties),
        ("producer_properties", &settings.producer_properties),
        ("consumer_properties", &settings.consumer_properties),
    ];
    for (table, properties) in tables {
        for (key, value) in properties {
            if let Some((problem, remedy)) = check_one(table, key, value) {
                faults.push((format!("kafka.{table}.{key:?}"), problem, remedy));
            }
        }
    }
    check_together(settings, &mut faults);
    if faults.is_empty() {
        check_creation(settings, &mut faults);
    }
    faults
}

fn check_one(table: &str, key: &str, value: &str) -> Option<(String, String)> {
    let remove = || "remove it".to_owned();
    if let Some(reason) = refused(key) {
        return Some((format!("refused: {reason}"), remove()));
    }
    if let Some((_, instead)) = JAVA.iter().find(|(name, _)| *name == key) {
        return Some(("is a name of the Java client".to_owned(), format!("use {instead}")));
    }
    if table != "producer_properties" && PRODUCER_ONLY.contains(&key) {
        return Some((
            "only producers have it".to_owned(),
            "move it to [kafka.producer_properties]".to_owned(),
        ));
    }
    if table != "consumer_properties" && CONSUMER_ONLY.contains(&key) {
        return Some((
            "only consumers have it".to_owned(),
            "move it to [kafka.consumer_properties]".to_owned(),
        ));
    }
    let mut alone = ClientConfig::new();
    alone.set(key, value);
    alone.create_native_config().err().map(|error| (words(&error), remedy(&error)))
}

/// What librdkafka says of a property, without its value, which may be a secret.
fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, words, ..) => {
            format!("refused by librdkafka: {}", words.trim())
        }
        other => format!("refused by librdkafka: {other}"),
    }
}

fn remedy(error: &KafkaError) -> String {
    let unknown = matches!(
        error,
        KafkaError::ClientConfig(rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)
    );
    if unknown {
        "see CONFIGURATION.md of librdkafka 2.12 for the names"
    } else {
        "give a value that it takes"
    }
    .to_owned()
}

fn check_together(settings: &Settings, faults: &mut Vec<PropertyFault>) {
    let mut fault = |key: &str, problem: &str, remedy: &str| {
        faults.push((format!("kafka.properties.{key:?}"), problem.to_owned(), remedy.to_owned()));
    };
    let get = |key: &str| settings.properties.get(key).map(String::as_str);
    let mechanism = get("sasl.mechanism").or_else(|| get("sasl.mechanisms"));
    if settings.uses_sasl() && mechanism.is_none() {
        let remedy = "set it to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";
        fault("sasl.mechanism", "is missing although security.protocol is SASL", remedy);
    }
    if mechanism.is_some() && !settings.uses_sasl() {
        let remedy = "set it to sasl_ssl (or sasl_plaintext)";
        fault(
            "security.protocol",
            "is not SASL although sasl.mechanism is set: nobody would log in",
            remedy,
        );
    }
    if get("ssl.ca.location").or_else(|| get("ssl.ca.pem")).is_some() && !settings.uses_tls() {
        let remedy = "set it to ssl or sasl_ssl";
        fault(
            "security.protocol",
            "is not TLS although an authority is set: all would travel in the clear",
            remedy,
        );
    }
    if get("enable.ssl.certificate.verification").is_some_and(|value| value != "true") {
        let remedy = "remove it, and set ssl.ca.location to the authority that signed the brokers' certificates";
        fault(
            "enable.ssl.certificate.verification",
            "refused: anyone could pose as the broker",
            remedy,
        );
    }
    check_delivery_timeout(settings, faults);
}

/// A record that may wait for longer than its transaction would be lost to a fence instead of an abort.
fn check_delivery_timeout(settings: &Settings, faults: &mut Vec<PropertyFault>) {
    let transaction_ms = settings.transaction_timeout.as_millis();
    for key in ["message.timeout.ms", "delivery.timeout.ms"] {
        let Some(value) = settings.producer_properties.get(key) else {
            continue;
        };
        let fits = value.parse::<u128>().is_ok_and(|ms| ms > 0 && ms <= transaction_ms);
        if !fits {
            faults.push((
                format!("kafka.producer_properties.{key:?}"),
                format!("must be 1 to {transaction_ms} (kafka.transaction_timeout)"),
                "lower it, or raise kafka.transaction_timeout".to_owned(),
            ));
        }
    }
}

/// Creates one client of each kind without a broker to connect to: librdkafka then checks what belongs together.
fn check_creation(settings: &Settings, faults: &mut Vec<PropertyFault>) {
    let mut refusals = BTreeMap::new();
    for (role, table) in [
        (Role::Producer { partition: 0 }, "producer_properties"),
        (Role::Consumer, "consumer_properties"),
    ] {
        let mut config = settings.client_config(role);
        config.remove("bootstrap.servers");
        without_token_endpoint(&mut config);
        let created = match role {
            Role::Consumer => BaseConsumer::from_config(&config).err(),
            _ => BaseProducer::<rdkafka::producer::DefaultProducerContext>::from_config(&config)
                .err(),
        };
        if let Some(error) = created {
            refusals.entry(words(&error)).or_insert_with(Vec::new).push(table);
        }
    }
    for (problem, tables) in refusals {
        // what both refuse comes from what both share
        let table = if let [one] = tables.as_slice() { one } else { "properties" };
        let remedy = "correct the properties that it names".to_owned();
        faults.push((format!("kafka.{table}"), problem, remedy));
    }
}

/// A client with OIDC asks for a token as soon as it exists: not while only its properties are looked at.
fn without_token_endpoint(config: &mut ClientConfig) {
    let url = "sasl.oauthbearer.token.endpoint.url";
    if config.get(url).or(config.get("sasl.oauthbearer.metadata.authentication.type")).is_some() {
        config.set(url, "http://127.0.0.1:0/");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settings(properties: &[(&str, &str)]) -> Settings {
        let owned = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Settings { properties: owned.collect(), ..Settings::default() }
    }

    fn problems(settings: &Settings) -> Vec<String> {
        check_properties(settings).into_iter().map(|(k, p, r)| format!("{k}: {p} -> {r}")).collect()
    }

    #[test]
    fn defaults_are_clean() {
        assert_eq!(problems(&Settings::default()), Vec::<String>::new());
        for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let settings = Settings { compression: compression.to_owned(), ..Settings::default() };
            assert_eq!(problems(&settings), Vec::<String>::new(), "{compression}");
        }
    }

    #[test]
    fn every_refused_name_is_known_to_librdkafka_or_an_alias() {
        for (name, _) in REFUSED {
            let found = problems(&settings(&[(name, "1")]));
            assert!(found.iter().any(|p| p.contains("refused: ")), "{name}: {found:?}");
        }
        assert!(refused("test.mock.num.brokers").is_some());
        assert!(refused("dr_msg_cb").is_some());
        assert!(refused("sasl.password").is_none());
    }

    #[test]
    fn tables_hold_only_names_that_librdkafka_knows() {
        for name in PRODUCER_ONLY.iter().chain(CONSUMER_ONLY).chain(SECRET_PROPERTIES) {
            let mut config = ClientConfig::new();
            config.set(*name, "");
            let error = config.create_native_config().err();
            let unknown =
                error.is_some_and(|e| words(&e).contains("No such configuration property"));
            assert!(!unknown, "{name}");
        }
    }

    #[test]
    fn every_fault_is_told_at_once_and_no_value_of_a_secret() {
        let mut settings = settings(&[
            ("acks", "1"),
            ("ssl.truststore.location", "/x.jks"),
            ("no.such.property", "hunter2"),
            ("linger.ms", "5"),
            ("socket.timeout.ms", "soon"),
            ("security.protocol", "SASL_SSL"),
            ("enable.ssl.certificate.verification", "false"),
        ]);
        settings.producer_properties.insert("message.timeout.ms".to_owned(), "90000".to_owned());
        settings.transaction_timeout = Duration::from_mins(1);
        let found = problems(&settings);
        assert_eq!(found.len(), 8, "{found:#?}");
        assert!(!found.join(" ").contains("hunter2"), "{found:#?}");
    }

    #[test]
    fn librdkafka_judges_what_belongs_together() {
        let found = problems(&settings(&[
            ("security.protocol", "ssl"),
            ("ssl.ca.location", "/no/such/file"),
        ]));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found.concat().contains("ssl.ca.location failed"), "{found:#?}");
        assert!(found.concat().starts_with("kafka.properties:"), "{found:#?}");
    }

    #[test]
    fn tls_and_sasl_need_each_other_said() {
        let found = problems(&settings(&[("sasl.mechanism", "PLAIN")]));
        assert!(found.concat().contains("nobody would log in"), "{found:#?}");
        let found = problems(&settings(&[("ssl.ca.location", "/etc/ca.pem")]));
        assert!(found.concat().contains("in the clear"), "{found:#?}");
        let scram = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "u"),
            ("sasl.password", "p"),
        ];
        assert_eq!(problems(&settings(&scram)), Vec::<String>::new());
    }

    #[test]
    fn oidc_is_in_the_build_and_no_token_is_fetched_by_a_check() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let oidc = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.client.id", "u"),
            ("sasl.oauthbearer.client.secret", "hunter2"),
            ("sasl.oauthbearer.token.endpoint.url", &url),
        ];
        assert_eq!(problems(&settings(&oidc)), Vec::<String>::new());
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let without_url = problems(&settings(&oidc[..5]));
        assert!(without_url.concat().contains("token.endpoint.url"), "{without_url:?}");
    }
}
