//! What a collector does with requests: each is answered between two batches, in a transaction of its own.

use super::Collector;
use crate::audit::operation::Outcome;
use crate::github::Source;
use crate::pipeline::answer::{self, Answer, Delivered, Owned};
use crate::pipeline::partition::Opener;
use crate::pipeline::plan::Planned;
use crate::time::{mono_ms, wall_ms};
use tracing::{info, warn};

impl<S: Source, O: Opener> Collector<S, O> {
    /// The answer to the request that waits, planned against committed state. Pages that are fetched ahead stay: slices
    /// keep their ids, and what belongs to none any more is dropped when it is planned.
    pub(super) fn plan_answer(&self) -> Option<Planned> {
        let delivered = self.request.as_ref()?;
        let owned = Owned {
            context: &self.parts.context,
            checkpoint: &self.state,
            saved: &self.saved,
            me: &self.parts.me,
            github_now_s: self.clock.now_ms(mono_ms()).map(|ms| ms.div_euclid(1000)),
            wall_ms: wall_ms(),
        };
        Some(answer::answer(&owned, delivered))
    }

    /// The answer is committed.
    pub(super) fn answered(&mut self, answer: &Answer) {
        self.request = None;
        self.reshape_wanted = true;
        answer.apply(&mut self.saved);
        let (entity, request) = (&self.parts.context.name, &answer.result.request);
        let message = &answer.result.message;
        match answer.result.outcome {
            Outcome::Done => info!(%entity, %request, "a request was executed: {message}"),
            Outcome::Refused => warn!(%entity, %request, "a request was refused: {message}"),
        }
    }

    /// Its records are not taken: collecting must not wait for that.
    pub(super) fn cannot_answer(&mut self, message: &str) {
        self.request = None;
        self.parts.metrics.retry("kafka", "content");
        warn!(entity = %self.parts.context.name, "a request is left unanswered: {message}");
    }

    /// After the producer was lost: the checkpoint tells whether the answer was committed.
    pub(super) fn settle_request(&mut self) {
        let is_done = |it: &mut Delivered| self.state.operations_next == Some(it.next_offset);
        if let Some(done) = self.request.take_if(is_done) {
            let request = &done.request.id;
            info!(entity = %self.parts.context.name, %request, "a request was answered before the producer was lost");
        }
    }
}
