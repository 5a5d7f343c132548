//! The Kafka room on real brokers: exactly once, fencing, refusals, and what its messages say.

mod login;
mod outage;
mod refusals;
mod single_errors;
mod transactions;

use super::support::kafka::Broker;
use super::support::unique;
use bytes::Bytes;
use ghauditd::audit::{Batch, Checkpoint, EntityName, Record, Topic, header};
use ghauditd::kafka::ownership::{Acquired, Ownership, StartError};
use ghauditd::kafka::producer::Producer;
use ghauditd::kafka::settings::Settings;
use ghauditd::kafka::{Sink as _, SinkError};
use ghauditd::metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An installation of its own on a broker: topics and ids that no other test has.
fn settings(broker: &str) -> Settings {
    let prefix = unique("kafka");
    Settings {
        brokers: broker.to_owned(),
        topic_names: Topic::ALL
            .iter()
            .map(|topic| (*topic, format!("{prefix}.{}", topic.default_name())))
            .collect(),
        id_prefix: prefix,
        state_partitions: 4,
        data_partitions: 2,
        ..Settings::default()
    }
}

fn shared() -> Settings {
    settings(Broker::shared().address())
}

fn entity() -> EntityName {
    EntityName::try_from("acme".to_owned()).unwrap()
}

fn home(settings: &Settings) -> i32 {
    entity().partition(settings.state_partitions)
}

async fn acquire(settings: &Settings, init: bool) -> Result<Acquired, StartError> {
    let partitions = BTreeSet::from([home(settings)]);
    let metrics = Arc::new(Metrics::default());
    Ownership::acquire(Arc::new(settings.clone()), partitions, &[entity()], init, metrics).await
}

/// Records with the sequences after a checkpoint's, and the checkpoint that accounts for them.
fn batch(settings: &Settings, checkpoint: &mut Checkpoint, records: u64) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..records {
        checkpoint.sequence += 1;
        let sequence = checkpoint.sequence.to_string();
        batch.records.push(Record {
            topic: Topic::Web,
            partition: None,
            key: Bytes::from(format!("org-{}", checkpoint.sequence % 7)),
            value: Some(Bytes::from(format!("{{\"entry\":{sequence}}}"))),
            headers: vec![
                (header::ENTITY, Bytes::from("acme")),
                (header::SEQ, Bytes::from(sequence)),
            ],
        });
    }
    batch.records.push(Record {
        topic: Topic::Checkpoints,
        partition: Some(home(settings)),
        key: Bytes::from("acme"),
        value: Some(Bytes::from(checkpoint.encode())),
        headers: vec![],
    });
    batch
}

fn blank() -> Checkpoint {
    Checkpoint::empty(entity())
}

/// What the collector does with a sink, in its smallest form: the state moves only when a commit says so.
struct Writer {
    settings: Settings,
    ownership: Ownership,
    producer: Producer,
    checkpoint: Checkpoint,
    /// How each commit ended.
    outcomes: BTreeMap<&'static str, u64>,
    longest_commit: Duration,
}

impl Writer {
    async fn start(settings: &Settings) -> Self {
        let acquired = acquire(settings, false).await.unwrap();
        Self::of(settings, acquired)
    }

    fn of(settings: &Settings, mut acquired: Acquired) -> Self {
        Self {
            settings: settings.clone(),
            producer: acquired.producers.remove(&home(settings)).unwrap(),
            checkpoint: acquired
                .entities
                .remove(&entity())
                .and_then(|it| it.checkpoint)
                .unwrap_or_else(blank),
            ownership: acquired.ownership,
            outcomes: BTreeMap::new(),
            longest_commit: Duration::ZERO,
        }
    }

    /// One try.
    async fn try_write(&mut self, records: u64) -> Result<(), SinkError> {
        let mut next = self.checkpoint.clone();
        let batch = batch(&self.settings, &mut next, records);
        let begun = Instant::now();
        let result = self.producer.commit(batch).await;
        let outcome = match &result {
            Ok(_) => "committed",
            Err(SinkError::Aborted { .. }) => "aborted",
            Err(SinkError::Content { .. }) => "content",
            Err(SinkError::Lost { .. }) => "lost",
            Err(SinkError::Fenced { .. }) => "fenced",
        };
        *self.outcomes.entry(outcome).or_default() += 1;
        result.map(|_| {
            self.longest_commit = self.longest_commit.max(begun.elapsed());
            self.checkpoint = next;
        })
    }

    /// Tries until a batch is committed, recovering as the errors say.
    async fn write(&mut self, records: u64) {
        loop {
            match self.try_write(records).await {
                Ok(()) => return,
                Err(SinkError::Aborted { .. }) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(SinkError::Lost { .. } | SinkError::Fenced { .. }) => self.recover().await,
                Err(error @ SinkError::Content { .. }) => panic!("{error}"),
            }
        }
    }

    async fn recover(&mut self) {
        loop {
            match self.ownership.reopen(home(&self.settings)).await {
                Ok((producer, mut entities)) => {
                    self.producer = producer;
                    self.checkpoint = entities
                        .remove(&entity())
                        .and_then(|it| it.checkpoint)
                        .unwrap_or_else(blank);
                    return;
                }
                Err(error) if error.is_retriable() => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What a reader that is not ours finds: every sequence from 1 to `last` once, and the checkpoint at `last`.
async fn assert_exactly_once(settings: &Settings, last: u64) {
    use super::support::kafka::kcat_dump;
    let records = kcat_dump(&settings.brokers, settings.topic(Topic::Web)).await;
    let mut sequences: Vec<u64> =
        records.iter().map(|record| record.header(header::SEQ).unwrap().parse().unwrap()).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
    let checkpoints = kcat_dump(&settings.brokers, settings.topic(Topic::Checkpoints)).await;
    let checkpoint = checkpoints.iter().rfind(|record| record.key.as_deref() == Some(b"acme"));
    let checkpoint = Checkpoint::decode(checkpoint.unwrap().value.as_deref().unwrap()).unwrap();
    assert_eq!(checkpoint.sequence, last);
}
