//! One checkpoint partition: its producer, one batch in flight, and what happens when the producer is lost.

use crate::audit::{Batch, Checkpoint, EntityName};
use crate::kafka::{Committed, Sink, SinkError};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Why a partition could not be opened again, as what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Try again: the broker is away.
    #[error("{0}")]
    Retry(String),
    /// Another instance owns it: give it up.
    #[error("{0}")]
    OwnedByOther(String),
    /// What is there is not what this installation wrote: stop and tell the operator.
    #[error("{0}")]
    Refused(String),
}

/// Opens a partition: fences a predecessor, restores the checkpoints, brings the seen ids up to date.
/// A trait, because tests inject faults here.
pub trait Opener: Send + Sync + 'static {
    /// The producer.
    type Sink: Sink;

    /// Opens the partition after its producer was lost.
    fn open(
        &self,
        partition: i32,
    ) -> impl Future<Output = Result<Opened<Self::Sink>, OpenError>> + Send;
}

/// An open partition.
#[derive(Debug)]
pub struct Opened<S> {
    /// The producer.
    pub sink: Arc<S>,
    /// The checkpoints of the entities that live there.
    pub checkpoints: BTreeMap<EntityName, Checkpoint>,
}

/// A checkpoint partition, shared by the collectors of its entities.
pub struct Partition<O: Opener> {
    number: i32,
    opener: Arc<O>,
    slot: Mutex<Slot<O::Sink>>,
}

struct Slot<S> {
    /// `None`: lost, and not opened again yet.
    sink: Option<Arc<S>>,
    /// A commit whose caller went away: nobody has heard its outcome.
    in_flight: bool,
    checkpoints: BTreeMap<EntityName, Checkpoint>,
}

impl<O: Opener> Partition<O> {
    /// A partition that was just opened.
    pub fn new(number: i32, opener: Arc<O>, opened: Opened<O::Sink>) -> Self {
        let slot =
            Slot { sink: Some(opened.sink), in_flight: false, checkpoints: opened.checkpoints };
        Self { number, opener, slot: Mutex::new(slot) }
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Commits a batch; others wait meanwhile.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, SinkError> {
        let mut slot = self.slot.lock().await;
        if std::mem::take(&mut slot.in_flight) {
            slot.sink = None;
        }
        let Some(sink) = slot.sink.clone() else {
            return Err(SinkError::Lost {
                message: "the producer is being opened again".to_owned(),
            });
        };
        slot.in_flight = true;
        let result = sink.commit(batch).await;
        slot.in_flight = false;
        if let Err(SinkError::Lost { .. } | SinkError::Fenced { .. }) = &result {
            slot.sink = None;
        }
        result
    }

    /// After [`SinkError::Lost`] or [`SinkError::Fenced`]: opens the partition again unless another collector has, and
    /// returns the entity's checkpoint as it was committed last.
    pub async fn recover(&self, entity: &EntityName) -> Result<Option<Checkpoint>, OpenError> {
        let mut slot = self.slot.lock().await;
        if slot.sink.is_none() {
            let opened = self.opener.open(self.number).await?;
            slot.sink = Some(opened.sink);
            slot.checkpoints = opened.checkpoints;
        }
        Ok(slot.checkpoints.get(entity).cloned())
    }
}
