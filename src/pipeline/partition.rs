//! One checkpoint partition: its producer, one batch in flight, and what happens when the producer is lost.

use crate::audit::{Batch, EntityName, EntityState};
use crate::kafka::{Committed, Sink, SinkError};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A commit that takes longer than this is told, again and again until it ends. The brokers give it minutes.
const SLOW_COMMIT: Duration = Duration::from_secs(10);

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
    /// The state of the entities that live there.
    pub entities: BTreeMap<EntityName, EntityState>,
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
    entities: BTreeMap<EntityName, EntityState>,
}

impl<O: Opener> Partition<O> {
    /// A partition that was just opened.
    pub fn new(number: i32, opener: Arc<O>, opened: Opened<O::Sink>) -> Self {
        let slot = Slot { sink: Some(opened.sink), in_flight: false, entities: opened.entities };
        Self { number, opener, slot: Mutex::new(slot) }
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Commits a batch; others wait meanwhile. `slow` hears why, while it takes unusually long.
    pub async fn commit(
        &self,
        batch: Batch,
        slow: impl FnMut(String),
    ) -> Result<Committed, SinkError> {
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
        let result = commit_aloud(&*sink, batch, SLOW_COMMIT, slow).await;
        slot.in_flight = false;
        if let Err(SinkError::Lost { .. } | SinkError::Fenced { .. }) = &result {
            slot.sink = None;
        }
        result
    }

    /// After [`SinkError::Lost`] or [`SinkError::Fenced`]: opens the partition again unless another collector has, and
    /// returns the entity's state as it was committed last.
    pub async fn recover(&self, entity: &EntityName) -> Result<EntityState, OpenError> {
        let mut slot = self.slot.lock().await;
        if slot.sink.is_none() {
            let opened = self.opener.open(self.number).await?;
            slot.sink = Some(opened.sink);
            slot.entities = opened.entities;
        }
        Ok(slot.entities.get(entity).cloned().unwrap_or_default())
    }
}

async fn commit_aloud<S: Sink>(
    sink: &S,
    batch: Batch,
    slow_after: Duration,
    mut slow: impl FnMut(String),
) -> Result<Committed, SinkError> {
    let began = Instant::now();
    let mut committing = pin!(sink.commit(batch));
    loop {
        tokio::select! {
            result = &mut committing => return result,
            () = tokio::time::sleep(slow_after) => {
                let seconds = began.elapsed().as_secs();
                slow(format!("a commit is under way for {seconds} s, {}", sink.silence()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after a while.
    struct Sluggish(Duration);

    impl Sink for Sluggish {
        async fn commit(&self, _: Batch) -> Result<Committed, SinkError> {
            tokio::time::sleep(self.0).await;
            Ok(Committed::default())
        }

        fn silence(&self) -> String {
            "no answer from Kafka at kafka:9092: see that it runs".to_owned()
        }
    }

    async fn told(takes: Duration, slow_after: Duration) -> Vec<String> {
        let mut told = Vec::new();
        let (sink, batch) = (Sluggish(takes), Batch::default());
        commit_aloud(&sink, batch, slow_after, |why| told.push(why)).await.unwrap();
        told
    }

    #[tokio::test]
    async fn a_commit_that_takes_long_is_told_with_the_broker() {
        let ms = Duration::from_millis;
        assert_eq!(told(ms(5), ms(60_000)).await, Vec::<String>::new());
        let told = told(ms(200), ms(30)).await;
        assert!((2..=6).contains(&told.len()), "{told:?}");
        assert!(told.iter().all(|it| it.ends_with("kafka:9092: see that it runs")), "{told:?}");
    }
}
