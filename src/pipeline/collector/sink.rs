//! What a collector does with the outcome of a transaction.

use super::{Collector, CollectorError};
use crate::audit::EntityState;
use crate::audit::entry::derived_id;
use crate::github::Source;
use crate::kafka::{Committed, SinkError};
use crate::pipeline::partition::{OpenError, Opener};
use crate::pipeline::plan::{Fetched, Planned};
use crate::retry::Backoff;
use crate::time::{mono_ms, rfc3339_s};
use std::sync::PoisonError;
use std::time::Duration;
use tracing::{debug, info, warn};

impl<S: Source, O: Opener> Collector<S, O> {
    pub(super) async fn committed(
        &mut self,
        planned: Planned,
        result: Result<Committed, SinkError>,
    ) -> Result<(), CollectorError> {
        match result {
            Ok(committed) => self.apply(planned, &committed),
            Err(SinkError::Content { message, .. }) if planned.answer.is_some() => {
                self.cannot_answer(&message);
            }
            Err(SinkError::Aborted { reason, message }) => {
                self.parts.metrics.retry("kafka", reason);
                self.again(&message);
            }
            Err(SinkError::Content { too_large: true, message, .. }) => {
                let smaller = (self.parts.context.value_bytes_max / 2).max(64 << 10);
                warn!(entity = %self.parts.context.name, value_bytes_max = smaller, "a record is too large for its topic, larger entries go in pieces: {message}");
                self.parts.context.value_bytes_max = smaller;
                self.again(&message);
            }
            Err(SinkError::Content { message, .. }) => {
                self.parts.metrics.retry("kafka", "content");
                self.again(&message);
            }
            Err(SinkError::Lost { message } | SinkError::Fenced { message }) => {
                self.parts.metrics.retry("kafka", "lost");
                self.recover(&message).await?;
            }
        }
        Ok(())
    }

    /// Nothing of the batch is visible: the same pages are planned again after a while.
    pub(super) fn again(&mut self, message: &str) {
        self.buffer.failed();
        self.sink_pause.fail(mono_ms());
        if self.sink_pause.is_news("aborted") {
            warn!(entity = %self.parts.context.name, "transaction aborted, trying again: {message}");
        }
        self.degrade(message);
    }

    pub(super) fn degrade(&self, message: &str) {
        self.parts.health.set_degraded(&self.sink_part(), message.to_owned());
    }

    pub(super) fn sink_part(&self) -> String {
        format!("kafka/{}", self.parts.context.name)
    }

    /// The outcome is unknown until the checkpoint is read: it says what was committed.
    pub(super) async fn recover(&mut self, message: &str) -> Result<(), CollectorError> {
        warn!(entity = %self.parts.context.name, "producer lost, opening it again: {message}");
        self.seat.withdraw();
        self.degrade(message);
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
        loop {
            self.parts.health.named_wait(&self.name, "producer", Duration::from_mins(5));
            let recovered = tokio::select! {
                () = self.cancel.cancelled() => return Ok(()),
                recovered = self.parts.partition.recover(&self.parts.context.name) => recovered,
            };
            match recovered {
                Ok(EntityState { checkpoint, saved }) => {
                    if let Some(checkpoint) = checkpoint {
                        self.state = checkpoint;
                    }
                    self.saved = saved;
                    self.settle_request();
                    // what was fetched ahead rests on a state that may not be: it is fetched again
                    self.buffer.clear();
                    self.fetches.clear();
                    self.sink_works();
                    return Ok(());
                }
                Err(OpenError::Retry(reason)) => {
                    let wait = backoff.next_wait();
                    debug!(entity = %self.parts.context.name, wait_ms = wait.as_millis(), "cannot open: {reason}");
                    self.degrade(&reason);
                    tokio::select! {
                        () = self.cancel.cancelled() => return Ok(()),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Err(OpenError::OwnedByOther(reason)) => {
                    return Err(CollectorError::OwnedByOther(reason));
                }
                Err(OpenError::Refused(reason)) => return Err(CollectorError::Refused(reason)),
            }
        }
    }

    pub(super) fn sink_works(&mut self) {
        if self.sink_pause.succeed() {
            info!(entity = %self.parts.context.name, "transactions commit again");
        }
        self.parts.health.clear(&self.sink_part());
    }

    /// The planned state becomes the state.
    pub(super) fn apply(&mut self, mut planned: Planned, committed: &Committed) {
        let name = &self.parts.context.name;
        let partition = self.parts.partition.number();
        let filed = {
            let mut buckets = self.parts.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            for &(topic, next_offset) in &committed.next_offsets {
                buckets.set_applied(topic, partition, next_offset);
            }
            buckets.commit(name, &mut planned.pending)
        };
        self.sink_works();
        self.count(&planned);
        self.state = planned.next;
        self.report_due = 0;
        for (lane, slice) in self.buffer.succeeded() {
            if let Some(state) = self.state.lanes.get_mut(&lane) {
                state.drop_cursor(slice);
            }
        }
        if let Some(answer) = planned.answer {
            self.answered(&answer);
        }
        if let Err(error) = filed {
            // they are in Kafka, and owed to the files: nothing is planned before they are written
            warn!(entity = %self.parts.context.name, "seen ids cannot be written: {error}");
            self.degrade(&format!("seen ids cannot be written: {error}"));
        }
    }

    pub(super) fn count(&self, planned: &Planned) {
        let (name, metrics) = (&self.parts.context.name, &self.parts.metrics);
        for (&(lane, kind), counts) in &planned.counts {
            metrics.committed(name, lane, kind, counts.committed);
            metrics.known(name, lane, counts.known);
            metrics.revisions(name, lane, counts.revisions);
            metrics.dead_letters(name, counts.dead_letters);
        }
        for (lane, span, cause) in &planned.gaps {
            metrics.gap(name, *lane);
            let (from, to) = (rfc3339_s(span.from_s), rfc3339_s(span.to_s));
            warn!(entity = %name, %lane, cause, from, to, "a gap was recorded: this time cannot be claimed to be complete");
        }
        for late in &planned.late {
            let late_s = i32::try_from(late.late_s).unwrap_or(i32::MAX);
            metrics.late(name, late.lane, &late.action, f64::from(late_s));
        }
        if planned.counts.values().any(|counts| counts.dead_letters > 0) {
            for letter in self.buffer.staged().iter().filter(|fetched| fetched.dead_letter) {
                let id = letter.page.entries.first().map(|entry| derived_id(&entry.body));
                warn!(entity = %name, lane = %letter.lane, id, "a page cannot be cut: it is in the dead-letter topic whole");
            }
        }
        let live = |fetched: &&Fetched| fetched.page.next.is_none();
        if let Some(since) = self.buffer.staged().iter().find(live).map(|live| live.fetched_mono_ms)
        {
            let ms = i32::try_from(mono_ms().saturating_sub(since)).unwrap_or(i32::MAX);
            metrics.live_latency(name, f64::from(ms) / 1000.0);
        }
    }
}
