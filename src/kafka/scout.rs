//! Looks at the cluster: which topics there are, and where their partitions end. Changes nothing.

use super::client::{Context, Ears};
use super::consumer::{NextRecord, ReadError, TopicReader};
use super::settings::{Role, Settings};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that one question is repeated before the brokers count as out of reach.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same, when they refuse us: a wrong password is told early.
const PATIENCE_WHEN_REFUSED: Duration = Duration::from_secs(5);
/// One try.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the cluster cannot be looked at.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoutError {
    /// No answer in time; may be tried again.
    #[error("no answer from Kafka at {brokers}: {message}")]
    Unreachable {
        /// `kafka.brokers`.
        brokers: String,
        /// Why, with the remedy where it is known.
        message: String,
    },
    /// librdkafka refuses to make a client; trying again changes nothing.
    #[error("kafka client refused: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// A partition could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What metadata tells of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Partitions.
    pub partitions: i32,
    /// Replicas of the first partition.
    pub replication: i32,
    /// Whether every partition has a leader.
    pub has_leaders: bool,
}

/// Where a partition begins and ends. The end counts aborted records and those of open transactions too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Partition.
    pub partition: i32,
    /// First offset that is still there.
    pub low: i64,
    /// Offset that the next record will get.
    pub high: i64,
}

/// A client that only looks.
#[derive(Clone)]
pub struct Scout {
    inner: Arc<Inner>,
}

struct Inner {
    // a threaded client, because errors are heard only where somebody polls
    client: ThreadedProducer<Context>,
    ears: Arc<Ears>,
    settings: Settings,
}

impl Scout {
    /// Makes the client; the first question connects.
    pub async fn open(settings: &Settings) -> Result<Self, ScoutError> {
        let settings = settings.clone();
        blocking(move || {
            let ears = Arc::new(Ears::new(settings.contact.clone()));
            let context = Context::new(Arc::clone(&ears));
            let config = settings.client_config(Role::Scout);
            let client = ThreadedProducer::from_config_and_context(&config, context)
                .map_err(|error| ScoutError::Refused { message: error.to_string() })?;
            Ok(Self { inner: Arc::new(Inner { client, ears, settings }) })
        })
        .await
    }

    /// All topics that this user may see.
    pub async fn topics(&self) -> Result<BTreeMap<String, Seen>, ScoutError> {
        let metadata = self.ask(|client| {
            client.client().fetch_metadata(None, TRY_TIMEOUT).map(|metadata| {
                let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
                let seen = topics.map(|topic| {
                    let partitions = topic.partitions();
                    let seen = Seen {
                        partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
                        replication: partitions.first().map_or(0, |first| {
                            i32::try_from(first.replicas().len()).unwrap_or(i32::MAX)
                        }),
                        has_leaders: !partitions.is_empty()
                            && partitions.iter().all(|p| p.leader() >= 0),
                    };
                    (topic.name().to_owned(), seen)
                });
                seen.collect()
            })
        });
        metadata.await
    }

    /// How many brokers there are.
    pub async fn brokers(&self) -> Result<usize, ScoutError> {
        self.ask(|client| {
            client
                .client()
                .fetch_metadata(None, TRY_TIMEOUT)
                .map(|metadata| metadata.brokers().len())
        })
        .await
    }

    /// Where the partitions of a topic begin and end.
    pub async fn spans(&self, topic: &str) -> Result<Vec<Span>, ScoutError> {
        let partitions = self.topics().await?.get(topic).map_or(0, |seen| seen.partitions);
        let topic = topic.to_owned();
        let mut spans = Vec::new();
        for partition in 0..partitions {
            let topic = topic.clone();
            let (low, high) = self
                .ask(move |client| client.client().fetch_watermarks(&topic, partition, TRY_TIMEOUT))
                .await?;
            spans.push(Span { partition, low, high });
        }
        Ok(spans)
    }

    /// The first of some topics that holds records, or did before they were deleted by time.
    ///
    /// Aborted records and transaction markers take offsets too, so the end of a partition alone proves nothing.
    pub async fn first_with_records(
        &self,
        topics: Vec<String>,
    ) -> Result<Option<String>, ScoutError> {
        let mut filled = Vec::new();
        for topic in topics {
            for span in self.spans(&topic).await?.into_iter().filter(|span| span.high > 0) {
                if span.low > 0 {
                    return Ok(Some(topic));
                }
                filled.push((topic.clone(), span.partition));
            }
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let reader = TopicReader::new(&inner.settings)?;
            for (topic, partition) in filled {
                if let NextRecord::Record(()) = reader.next_record(&topic, partition, 0, |_| ())? {
                    return Ok(Some(topic));
                }
            }
            Ok(None)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&ThreadedProducer<Context>) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, ScoutError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.ask(&question)).await
    }
}

impl Inner {
    fn ask<T>(
        &self,
        question: &dyn Fn(&ThreadedProducer<Context>) -> KafkaResult<T>,
    ) -> Result<T, ScoutError> {
        let started = Instant::now();
        loop {
            let error = match question(&self.client) {
                Ok(answer) => {
                    self.ears.clear();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let refused = self.ears.heard_lasting_trouble();
            let patience = if refused { PATIENCE_WHEN_REFUSED } else { PATIENCE };
            if !may_pass(&error) || started.elapsed() >= patience {
                let brokers = self.settings.brokers.clone();
                return Err(ScoutError::Unreachable {
                    brokers,
                    message: self.ears.reason_or(error),
                });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether the same question may be answered later: brokers that start, or elect leaders.
fn may_pass(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::InvalidTopic
        )
    )
}

impl std::fmt::Debug for Scout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scout")
            .field("brokers", &self.inner.settings.brokers)
            .finish_non_exhaustive()
    }
}

/// Runs what blocks away from the event loop.
pub(super) async fn blocking<T: Send + 'static, E: From<Ended> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    // ends by the bounds of the calls inside; a stop of the runtime does not wait for it
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Ended.into()))
}

/// The thread of a blocking call ended without an answer: the runtime is stopping.
#[derive(Debug, Clone, Copy)]
pub struct Ended;

impl From<Ended> for ScoutError {
    fn from(Ended: Ended) -> Self {
        Self::Refused { message: "the program is stopping".to_owned() }
    }
}
