//! Answering a request without a daemon: the fence is taken, what waits is answered by the daemon's own rules, and let go.

use super::{context, me};
use crate::audit::operation::{PARTITION, Request, RequestResult};
use crate::audit::{Checkpoint, EntityName, EntityState, OperationId, OperationRecord, Topic};
use crate::config::Config;
use crate::kafka::consumer::{ReadError, ReadFrom, TopicReader};
use crate::kafka::operations::{AppendError, append};
use crate::kafka::ownership::{Acquired, Ownership, StartError};
use crate::kafka::producer::Producer;
use crate::kafka::settings::Settings;
use crate::kafka::{Sink as _, SinkError};
use crate::metrics::Metrics;
use crate::pipeline::answer::{Delivered, Owned, answer};
use crate::pipeline::record::EntityContext;
use crate::state::{Lock, StateError};
use crate::time::wall_ms;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why a request was not answered without a daemon.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A daemon of this host has the state, or it cannot be locked.
    #[error("{0}; --offline is for when no daemon runs: leave it away, or stop the daemon first")]
    State(#[from] StateError),
    /// The fence was not taken.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The request could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The operations topic could not be read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The answer was not committed.
    #[error("{0}")]
    Commit(#[from] SinkError),
    /// What was written is not there.
    #[error("{0}")]
    Unexpected(String),
}

/// Writes a request and answers it, and those of the entity that wait before it, as the owner of its partition.
pub async fn execute(config: &Config, request: Request) -> Result<RequestResult, OfflineError> {
    let unknown =
        || OfflineError::Unexpected(format!("entity {} is not configured", request.entity));
    let entity = config.entities.iter().find(|it| it.name == request.entity).ok_or_else(unknown)?;
    // first: a daemon that runs here is not disturbed
    let _lock = Lock::take(&config.state)?;
    let kafka = Arc::new(config.kafka.clone());
    let partition = request.entity.partition(kafka.partitions(Topic::Checkpoints));
    let names: Vec<EntityName> = config.entities.iter().map(|it| it.name.clone()).collect();
    let (partitions, metrics) = (BTreeSet::from([partition]), Arc::new(Metrics::default()));
    let Acquired { producers, mut entities, .. } =
        Ownership::acquire(Arc::clone(&kafka), partitions, &names, false, metrics).await?;
    let producer = producers.into_values().find(|it| it.partition() == partition);
    let producer =
        producer.ok_or_else(|| OfflineError::Unexpected("no producer was opened".to_owned()))?;
    let state = entities.remove(&request.entity).unwrap_or_default();
    let (id, name) = (request.id.clone(), request.entity.clone());
    append(Arc::clone(&kafka), &OperationRecord::Request(request)).await?;
    let from = state.checkpoint.as_ref().and_then(|checkpoint| checkpoint.operations_next);
    let waiting = waiting(kafka, name, from).await?;
    let answered =
        answer_all(&producer, &context(config, entity, partition), state, waiting, &id).await;
    producer.close().await;
    answered
}

/// The requests of an entity that are not answered, in their order. An offset outside of the topic: it was recreated.
pub async fn waiting(
    kafka: Arc<Settings>,
    entity: EntityName,
    from: Option<i64>,
) -> Result<Vec<Delivered>, OfflineError> {
    let read = tokio::task::spawn_blocking(move || {
        let topic = kafka.topic(Topic::Operations);
        let reader = TopicReader::new(&kafka)?;
        let ends = reader.watermarks(topic, PARTITION)?;
        let from = from.filter(|from| (ends.low..=ends.high).contains(from)).unwrap_or(ends.low);
        let mut waiting = Vec::new();
        reader.read_to_end(topic, PARTITION, ReadFrom::Offset(from), |record| {
            let value = record.value.unwrap_or_default();
            if let Ok(OperationRecord::Request(request)) = OperationRecord::decode(value)
                && request.entity == entity
            {
                waiting.push(Delivered { next_offset: record.offset.saturating_add(1), request });
            }
        })?;
        Ok::<_, ReadError>(waiting)
    });
    let read = read.await.map_err(|error| OfflineError::Unexpected(error.to_string()))?;
    Ok(read?)
}

async fn answer_all(
    producer: &Producer,
    context: &EntityContext,
    state: EntityState,
    waiting: Vec<Delivered>,
    wanted: &OperationId,
) -> Result<RequestResult, OfflineError> {
    let EntityState { checkpoint, mut saved } = state;
    let mut checkpoint = checkpoint.unwrap_or_else(|| Checkpoint::empty(context.name.clone()));
    let me = me();
    for delivered in waiting {
        let owned = Owned {
            context,
            checkpoint: &checkpoint,
            saved: &saved,
            me: &me,
            github_now_s: checkpoint.github_now_ms.map(|ms| ms.div_euclid(1000)),
            wall_ms: wall_ms(),
        };
        let planned = answer(&owned, &delivered);
        producer.commit(planned.batch).await?;
        checkpoint = planned.next;
        let Some(answer) = planned.answer else { continue };
        answer.apply(&mut saved);
        if answer.result.request == *wanted {
            return Ok(answer.result);
        }
    }
    Err(OfflineError::Unexpected(
        "the request was written, and is not on the operations topic: is it the topic of this installation?"
            .to_owned(),
    ))
}
