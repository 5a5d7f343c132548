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

/// What librdkafka marks an error of a transactional call with; the first that fits, because fatal wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The client instance is no longer usable.
    Fatal,
    /// The transaction has to be aborted.
    RequiresAbort,
    /// The same call may be made again.
    Retriable,
    /// Nothing: what librdkafka does not explain counts as fatal.
    Unmarked,
    /// Not from a transactional call, but from the flush inside of a commit.
    Flush,
    /// Not from a transactional call, but from handing a record over, before anything was sent.
    Production,
}

/// What librdkafka says of an error, taken apart so that each row of the table can be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its code; `None` where it has none.
    pub code: Option<Code>,
    /// Its mark.
    pub mark: Mark,
}

impl Facts {
    /// Takes an error apart.
    pub fn of(error: &KafkaError) -> Self {
        let mark = match error {
            KafkaError::Transaction(error) if error.is_fatal() => Mark::Fatal,
            KafkaError::Transaction(error) if error.txn_requires_abort() => Mark::RequiresAbort,
            KafkaError::Transaction(error) if error.is_retriable() => Mark::Retriable,
            KafkaError::Flush(_) => Mark::Flush,
            KafkaError::MessageProduction(_) => Mark::Production,
            _ => Mark::Unmarked,
        };
        Self { code: error.rdkafka_error_code(), mark }
    }

    /// The table. What it does not name counts as fatal.
    pub fn action(self) -> Action {
        let fenced = self.code.is_some_and(is_fence);
        match (self.mark, self.code) {
            (Mark::RequiresAbort, _) => Action::Abort,
            (Mark::Retriable, _) => Action::Again,
            (Mark::Flush, _) | (Mark::Production, Some(Code::QueueFull)) => Action::Drain,
            (Mark::Production, code) if !fenced && code != Some(Code::Fatal) => Action::Abort,
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
            | Code::GroupAuthorizationFailed
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

    #[test]
    fn each_row_of_the_table() {
        let recreate = Action::Recreate { fenced: false };
        let fenced = Action::Recreate { fenced: true };
        let rows = [
            (Mark::Fatal, Some(Code::Fenced), fenced),
            (Mark::Fatal, Some(Code::InvalidProducerEpoch), fenced),
            (Mark::Fatal, Some(Code::ProducerFenced), fenced),
            (Mark::Fatal, Some(Code::OutOfOrderSequenceNumber), recreate),
            (Mark::Fatal, Some(Code::InvalidTransactionalState), recreate),
            (Mark::Fatal, Some(Code::TransactionalIdAuthorizationFailed), recreate),
            (Mark::RequiresAbort, Some(Code::TopicAuthorizationFailed), Action::Abort),
            (Mark::RequiresAbort, Some(Code::MessageSizeTooLarge), Action::Abort),
            (Mark::RequiresAbort, Some(Code::MessageTimedOut), Action::Abort),
            (Mark::Retriable, Some(Code::OperationTimedOut), Action::Again),
            (Mark::Flush, Some(Code::OperationTimedOut), Action::Drain),
            (Mark::Production, Some(Code::QueueFull), Action::Drain),
            (Mark::Production, Some(Code::MessageSizeTooLarge), Action::Abort),
            (Mark::Production, Some(Code::UnknownTopic), Action::Abort),
            (Mark::Production, Some(Code::State), Action::Abort),
            (Mark::Production, Some(Code::Fatal), recreate),
            (Mark::Production, Some(Code::Fenced), fenced),
            (Mark::Unmarked, Some(Code::State), recreate),
            (Mark::Unmarked, Some(Code::OperationTimedOut), recreate),
            (Mark::Unmarked, None, recreate),
        ];
        for (mark, code, action) in rows {
            assert_eq!(Facts { code, mark }.action(), action, "{mark:?} {code:?}");
        }
    }

    #[test]
    fn errors_are_taken_apart() {
        let flush = Facts::of(&KafkaError::Flush(Code::OperationTimedOut));
        assert_eq!((flush.mark, flush.code), (Mark::Flush, Some(Code::OperationTimedOut)));
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
