//! Kafka: transactional producer, read-committed consumer, topics, error triage.
//!
//! Speakers: [`producer`], [`consumer`], [`operations`], [`topics`], [`restore`]. Pure: [`settings`], [`triage`].

pub mod client;
pub mod consumer;
pub mod operations;
pub mod ownership;
pub mod producer;
pub mod properties;
pub mod restore;
pub mod scout;
pub mod settings;
pub mod topics;
pub mod triage;

use crate::audit::{Batch, Topic};
use std::future::Future;

/// What a committed transaction says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// For each state topic written: the offset after the last record of ours.
    pub next_offsets: Vec<(Topic, i64)>,
}

/// Why a batch was not committed, as what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// Nothing of the batch is visible; it may be planned and committed again after a back-off. Not this batch's fault.
    #[error("transaction aborted: {message}")]
    Aborted {
        /// `timeout`, `broker`, `queue_full`: a metric's label.
        reason: &'static str,
        /// What librdkafka said, with the last connection error.
        message: String,
    },
    /// Nothing of the batch is visible; its content or its topic caused that (too large, topic authorization, topic gone).
    #[error("transaction aborted because of its content: {message}")]
    Content {
        /// The topic, where known.
        topic: Option<Topic>,
        /// Whether a record was too large for its topic.
        too_large: bool,
        /// What and the remedy.
        message: String,
    },
    /// The producer is gone; the outcome of the batch is unknown until the checkpoint has been read again.
    #[error("producer lost, outcome unknown until the checkpoint is read: {message}")]
    Lost {
        /// Why.
        message: String,
    },
    /// Another instance owns the partition.
    #[error("fenced: {message}")]
    Fenced {
        /// Who, where known, and the remedy.
        message: String,
    },
}

/// Where batches go. A trait, because tests inject faults here.
pub trait Sink: Send + Sync + 'static {
    /// Commits a batch in one transaction.
    ///
    /// Returns when the outcome is known. Cancelling the future does not cancel the transaction.
    fn commit(&self, batch: Batch) -> impl Future<Output = Result<Committed, SinkError>> + Send;

    /// Who does not answer, why as far as it is known, and what to do: for a commit that takes long.
    fn silence(&self) -> String;
}
