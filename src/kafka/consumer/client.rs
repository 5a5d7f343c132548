//! How consumers are made, and what librdkafka tells beside the data.

use crate::kafka::settings::Settings;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use std::sync::{Mutex, PoisonError};

/// Keeps the last connection error: librdkafka reports an unknown CA, a wrong password and a dead port all as "timed
/// out", and the reason only here.
#[derive(Debug, Default)]
pub(super) struct Context {
    last_error: Mutex<Option<String>>,
}

impl Context {
    /// The last connection error, for a message: `: reason`, or nothing.
    pub(super) fn because(&self) -> String {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
    }

    /// Forgets the last error: something went well since.
    pub(super) fn clear(&self) -> bool {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Whatever matters arrives as an error too, and is logged once where it is handled.
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let text = match error.rdkafka_error_code() {
            Some(code) if !reason.is_empty() => format!("{reason} ({code:?})"),
            _ => error.to_string(),
        };
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

impl ConsumerContext for Context {}

/// A consumer, with its context.
pub(super) type Consumer = BaseConsumer<Context>;

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Committed records only; `fetch_watermarks` then answers the last stable offset.
    Committed,
    /// Everything; `fetch_watermarks` then answers the true high watermark.
    Uncommitted,
}

/// A consumer whose every queue is bounded, and which never chooses an offset by itself.
pub(super) fn consumer(
    settings: &Settings,
    isolation: Isolation,
    group: &str,
    more: &[(&str, String)],
) -> KafkaResult<Consumer> {
    let mut config = base_config(settings);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .set(
            "isolation.level",
            match isolation {
                Isolation::Committed => "read_committed",
                Isolation::Uncommitted => "read_uncommitted",
            },
        );
    for (name, value) in more {
        config.set(*name, value);
    }
    config.create_with_context(Context::default())
}

/// What the operator says, with defaults that heal fast after an outage.
fn base_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", format!("{}-reader", settings.id_prefix))
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.timeout.ms", "10000");
    for (name, value) in settings.properties.iter().chain(&settings.consumer_properties) {
        config.set(name, value);
    }
    config
}
