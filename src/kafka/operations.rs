//! The operations topic: how a command puts a record there.
//!
//! Results go there with the owner's transactions. What a command writes stands alone, so an idempotent producer
//! without a transaction does: it fences nobody, and a record is there once or not at all.

use super::client::{Context, Ears, SILENT};
use super::scout::{Ended, blocking};
use super::settings::{Role, Settings};
use crate::audit::operation::{OperationRecord, TooLarge};
use crate::audit::{Record, Topic};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that the brokers are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a record was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// More than a record may have.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// librdkafka refuses to make a client.
    #[error("kafka client for writing not made: {message}; correct [kafka] in the config")]
    Client {
        /// Its words.
        message: String,
    },
    /// The brokers did not take it in time, or refused it.
    #[error("nothing could be written to topic {topic}: {message}")]
    NotWritten {
        /// The topic.
        topic: String,
        /// Why, with the remedy where it is known.
        message: String,
    },
    /// The runtime is stopping.
    #[error("the program is stopping")]
    Stopping,
}

impl From<Ended> for AppendError {
    fn from(Ended: Ended) -> Self {
        Self::Stopping
    }
}

/// Writes one record, and returns when the brokers have it.
///
/// After [`AppendError::NotWritten`] it may have been written all the same: a time-out is not a "no".
pub async fn append(settings: Arc<Settings>, record: &OperationRecord) -> Result<(), AppendError> {
    let record = record.to_record()?;
    blocking(move || write(&settings, &record)).await
}

fn write(settings: &Settings, record: &Record) -> Result<(), AppendError> {
    let deadline = Instant::now() + PATIENCE;
    let ears = Arc::new(Ears::new(settings.contact.clone()));
    let topic = settings.topic(Topic::Operations);
    let config = settings.client_config(Role::Writer);
    let client = |message: String| AppendError::Client { message };
    let context = Context::new(Arc::clone(&ears));
    let producer: ThreadedProducer<Context> =
        ThreadedProducer::from_config_and_context(&config, context)
            .map_err(|error| client(error.to_string()))?;
    let failed = |message: String| AppendError::NotWritten { topic: topic.to_owned(), message };
    let index = Topic::ALL.iter().position(|it| *it == Topic::Operations).unwrap_or_default();
    let mut message: BaseRecord<'_, [u8], [u8], usize> =
        BaseRecord::with_opaque_to(topic, index).key(record.key.as_ref());
    message.payload = record.value.as_deref();
    message.partition = record.partition;
    message.headers = super::producer::headers(record);
    producer.send(message).map_err(|(error, _)| failed(ears.with_reason(error)))?;
    let context = producer.client().context();
    if !context.wait_ended(1, deadline) {
        return Err(failed(ears.reason_or(SILENT)));
    }
    match context.failed() {
        None => Ok(()),
        Some((_, code)) => Err(failed(ears.with_reason(format_args!(
            "{code}; it needs the right to write there, and the topic is made by the first `ghauditd run`"
        )))),
    }
}
