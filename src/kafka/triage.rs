//! What an error of the producer means for the transaction: librdkafka's contract as one table, without any IO.
//!
//! <https://github.com/confluentinc/librdkafka/blob/v2.12.1/INTRODUCTION.md#transactional-producer>.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What is left to do after an error of begin, send, commit, abort or init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Call the same function again, within a bound; then as [`Action::Recreate`].
    Again,
    /// Let the deliveries in flight end, then call the same function again.
    Drain,
    /// Abort the transaction; nothing of it is visible then.
    Abort,
    /// This producer can do nothing more: drop it, initialise a new one, read the checkpoint.
    Recreate {
        /// Whether a newer producer with the same transactional id may be the reason.
        fenced: bool,
    },
}

/// Whose fault an aborted transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The batch, or the topic it goes to: the same batch would fail again.
    Content {
        /// Whether a record was too large for its topic.
        too_large: bool,
    },
    /// Anything else: the same batch may be committed later.
    Circumstance {
        /// A metric's label: `timeout`, `broker`, `queue_full`.
        reason: &'static str,
    },
}

/// What librdkafka says of an error, taken apart so that each row of the table can be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its code; `None` where it has none.
    pub code: Option<Code>,
    /// The client instance is no longer usable.
    pub fatal: bool,
    /// The transaction has to be aborted.
    pub requires_abort: bool,
    /// The same call may be made again.
    pub retriable: bool,
    /// It comes from the flush inside of a commit.
    pub flush: bool,
    /// It comes from handing a record over, before anything was sent.
    pub production: bool,
}

impl Facts {
    /// Takes an error apart.
    pub fn of(error: &KafkaError) -> Self {
        let mut facts = Self {
            code: error.rdkafka_error_code(),
            fatal: false,
            requires_abort: false,
            retriable: false,
            flush: matches!(error, KafkaError::Flush(_)),
            production: matches!(error, KafkaError::MessageProduction(_)),
        };
        if let KafkaError::Transaction(error) = error {
            facts.fatal = error.is_fatal();
            facts.requires_abort = error.txn_requires_abort();
            facts.retriable = error.is_retriable();
        }
        facts
    }

    /// The table. What it does not name counts as fatal.
    pub fn action(self) -> Action {
        let fenced = self.code.is_some_and(is_fence);
        match self {
            Self { fatal: true, .. } => Action::Recreate { fenced },
            Self { requires_abort: true, .. } => Action::Abort,
            Self { retriable: true, .. } => Action::Again,
            Self { flush: true, .. } => Action::Drain,
            Self { production: true, code: Some(Code::QueueFull), .. } => Action::Drain,
            // a record was refused before it was sent: by its size, its topic, or a transaction that has to end
            Self { production: true, .. } if !fenced && self.code != Some(Code::Fatal) => {
                Action::Abort
            }
            _ => Action::Recreate { fenced },
        }
    }
}

/// Whether a code tells of a newer producer with the same transactional id, or of a transaction that outlived its time.
fn is_fence(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced)
}

/// Whose fault it is that a transaction was aborted.
pub fn blame(code: Option<Code>) -> Blame {
    match code {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
            Blame::Content { too_large: true }
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::InvalidTopic
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation,
        ) => Blame::Content { too_large: false },
        Some(Code::QueueFull) => Blame::Circumstance { reason: "queue_full" },
        Some(
            Code::MessageTimedOut
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue,
        ) => Blame::Circumstance { reason: "timeout" },
        _ => Blame::Circumstance { reason: "broker" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Facts = Facts {
        code: None,
        fatal: false,
        requires_abort: false,
        retriable: false,
        flush: false,
        production: false,
    };

    #[test]
    fn each_row_of_the_table() {
        let code = |code| Facts { code: Some(code), ..PLAIN };
        let rows = [
            (Facts { fatal: true, ..code(Code::Fenced) }, Action::Recreate { fenced: true }),
            (
                Facts { fatal: true, ..code(Code::InvalidProducerEpoch) },
                Action::Recreate { fenced: true },
            ),
            (
                Facts { fatal: true, ..code(Code::OutOfOrderSequenceNumber) },
                Action::Recreate { fenced: false },
            ),
            (
                Facts { fatal: true, ..code(Code::InvalidTransactionalState) },
                Action::Recreate { fenced: false },
            ),
            (
                Facts { fatal: true, ..code(Code::TransactionalIdAuthorizationFailed) },
                Action::Recreate { fenced: false },
            ),
            // fatal wins over everything that is said beside it
            (
                Facts { fatal: true, retriable: true, requires_abort: true, ..PLAIN },
                Action::Recreate { fenced: false },
            ),
            (Facts { requires_abort: true, ..code(Code::TopicAuthorizationFailed) }, Action::Abort),
            (Facts { requires_abort: true, ..code(Code::MessageTimedOut) }, Action::Abort),
            (Facts { requires_abort: true, retriable: true, ..PLAIN }, Action::Abort),
            (Facts { retriable: true, ..code(Code::OperationTimedOut) }, Action::Again),
            (Facts { flush: true, ..code(Code::OperationTimedOut) }, Action::Drain),
            (Facts { production: true, ..code(Code::QueueFull) }, Action::Drain),
            (Facts { production: true, ..code(Code::MessageSizeTooLarge) }, Action::Abort),
            (Facts { production: true, ..code(Code::UnknownTopic) }, Action::Abort),
            (Facts { production: true, ..code(Code::State) }, Action::Abort),
            (Facts { production: true, ..code(Code::Fatal) }, Action::Recreate { fenced: false }),
            (Facts { production: true, ..code(Code::Fenced) }, Action::Recreate { fenced: true }),
            (code(Code::State), Action::Recreate { fenced: false }),
            (PLAIN, Action::Recreate { fenced: false }),
        ];
        for (facts, action) in rows {
            assert_eq!(facts.action(), action, "{facts:?}");
        }
    }

    #[test]
    fn errors_are_taken_apart() {
        let flush = Facts::of(&KafkaError::Flush(Code::OperationTimedOut));
        assert_eq!((flush.flush, flush.code), (true, Some(Code::OperationTimedOut)));
        let full = Facts::of(&KafkaError::MessageProduction(Code::QueueFull));
        assert_eq!(full.action(), Action::Drain);
        assert_eq!(Facts::of(&KafkaError::Canceled).action(), Action::Recreate { fenced: false });
    }

    #[test]
    fn blame_tells_the_batch_from_the_circumstances() {
        assert_eq!(blame(Some(Code::MessageSizeTooLarge)), Blame::Content { too_large: true });
        assert_eq!(
            blame(Some(Code::TopicAuthorizationFailed)),
            Blame::Content { too_large: false }
        );
        assert_eq!(blame(Some(Code::MessageTimedOut)), Blame::Circumstance { reason: "timeout" });
        assert_eq!(blame(Some(Code::QueueFull)), Blame::Circumstance { reason: "queue_full" });
        assert_eq!(blame(Some(Code::NotEnoughReplicas)), Blame::Circumstance { reason: "broker" });
        assert_eq!(blame(None), Blame::Circumstance { reason: "broker" });
    }
}
