//! What every step of the archiver uses: the store with its retries, and Kafka's single look-ups off the loop.

use super::status::{ArchiverStatus, Side};
use super::{ArchiverError, Settings};
use crate::archive::store::{Store, StoreError};
use crate::kafka::consumer::{NextRecord, ReadError, RecordView, TopicReader, Watermarks};
use crate::kafka::settings::Settings as KafkaSettings;
use crate::metrics::Metrics;
use crate::retry::Backoff;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The parts of one archiver.
pub(super) struct Parts<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: Settings,
    pub(super) kafka: KafkaSettings,
    pub(super) topics: Vec<String>,
    pub(super) reader: Reader,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Arc<ArchiverStatus>,
    pub(super) cancel: CancellationToken,
}

impl<S: Store> Parts<S> {
    /// Does a thing with the store until it succeeds, is refused, or the archiver is to stop.
    pub(super) async fn again<T, F>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ArchiverError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut failed = false;
        loop {
            match attempt().await {
                Ok(value) => {
                    if failed {
                        self.status.well(Side::Store);
                    }
                    return Ok(value);
                }
                Err(StoreError::Refused { message }) => {
                    return Err(ArchiverError::Refused(message));
                }
                Err(StoreError::Retry { reason, message }) => {
                    failed = true;
                    self.metrics.retry("archive", reason);
                    self.status.trouble(Side::Store, &format!("failed to {what}: {message}"));
                }
            }
            let wait = backoff.next_wait();
            tokio::select! {
                () = self.cancel.cancelled() => return Err(ArchiverError::Cancelled),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Kafka's answers to single questions, asked on threads that may block, one at a time.
#[derive(Clone)]
pub(super) struct Reader {
    settings: Arc<KafkaSettings>,
    clients: Arc<Mutex<Option<TopicReader>>>,
}

impl Reader {
    pub(super) fn new(settings: &KafkaSettings) -> Self {
        Self { settings: Arc::new(settings.clone()), clients: Arc::default() }
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&TopicReader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ArchiverError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut clients = this.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let reader = match clients.take() {
                Some(reader) => reader,
                None => TopicReader::new(&this.settings)?,
            };
            let outcome = work(&reader);
            *clients = Some(reader);
            outcome
        });
        match done.await {
            Ok(outcome) => outcome.map_err(ArchiverError::Kafka),
            Err(error) => Err(ArchiverError::Ended(format!("look-up in Kafka ended: {error}"))),
        }
    }

    pub(super) async fn watermarks(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<Watermarks, ArchiverError> {
        let topic = topic.to_owned();
        self.blocking(move |reader| reader.watermarks(&topic, partition)).await
    }

    pub(super) async fn next_record<T: Send + 'static>(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        take: impl FnOnce(RecordView<'_>) -> T + Send + 'static,
    ) -> Result<NextRecord<T>, ArchiverError> {
        let topic = topic.to_owned();
        self.blocking(move |reader| reader.next_record(&topic, partition, from, take)).await
    }
}
