//! What a collector does when GitHub answers with something else than a page.

use super::{Collector, EVERYDAY_FAILURES, Purpose};
use crate::audit::{Entry, Lane};
use crate::github::{Next, Page, Source, SourceError};
use crate::pipeline::partition::Opener;
use crate::pipeline::schedule::Wanted;
use crate::time::mono_ms;
use tracing::{debug, info, warn};

impl<S: Source, O: Opener> Collector<S, O> {
    /// An answer with this credential was a page.
    pub(super) fn source_works(&mut self, way: usize) {
        let entity = &self.parts.context.name;
        let (part, whose) = (self.source_part(), self.credential_part(way));
        let worked = self.source_pause.succeed();
        let refusal = self.refusals.get_mut(way);
        let was_refused = refusal.map(|pause| {
            let was_on = pause.failures() > 0;
            (pause.succeed(), was_on)
        });
        let (was_told, was_refused) = was_refused.unwrap_or_default();
        if worked || was_told {
            info!(%entity, credential = %whose, "GitHub answers again");
        }
        self.seat.prove(way, mono_ms());
        if was_refused {
            self.seat.take_back(way);
        }
        if worked || was_refused {
            self.parts.health.clear(&part);
            self.parts.health.clear(&whose);
        }
    }

    /// The part of a credential: the entity's, where it has no other.
    fn credential_part(&self, way: usize) -> String {
        let credentials = self.parts.source.credentials();
        match credentials.get(way) {
            Some(credential) if credentials.len() > 1 => {
                format!("{}/{credential}", self.source_part())
            }
            _ => self.source_part(),
        }
    }

    pub(super) fn source_part(&self) -> String {
        format!("github/{}", self.parts.context.name)
    }

    /// No page: the credential is set aside where it is to blame, and another one takes over.
    pub(super) fn refused(&mut self, error: SourceError, purpose: Purpose, way: usize) {
        let now = mono_ms();
        let part = self.credential_part(way);
        let others = self.parts.source.credentials().len() > 1;
        let entity = &self.parts.context.name;
        let Some(refusal) = self.refusals.get_mut(way) else { return };
        match error {
            SourceError::RateLimited { reason, wait, budget } => {
                self.parts.metrics.retry("github", reason);
                let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                let until_ms = now.saturating_add(wait_ms);
                refusal.set(until_ms);
                // a budget that is used up may be this entity's alone: the ledger knows
                let for_all = budget.is_none() || reason != "primary";
                self.seat.set_aside(way, until_ms, reason, for_all);
                if refusal.is_news(reason) {
                    warn!(%entity, credential = %part, reason, wait_s = wait.as_secs(), "rate limited, waiting");
                }
            }
            SourceError::Denied { reason, message, remedy } => {
                self.parts.metrics.retry("github", reason);
                refusal.fail_slowly(now);
                let until_ms = refusal.until(now).unwrap_or(now);
                self.seat.set_aside(way, until_ms, reason, reason == "unauthorized");
                if refusal.is_news(&format!("{reason} {message}")) {
                    warn!(%entity, credential = %part, reason, remedy, others, "GitHub refuses: {message}");
                    self.parts.health.set_degraded(&part, format!("{message}: {remedy}"));
                }
            }
            error => self.not_taken(error, purpose),
        }
    }

    /// No page, and no credential is to blame: says so once, decides what to do instead and when. The cursor does not move.
    pub(super) fn not_taken(&mut self, error: SourceError, purpose: Purpose) {
        if purpose.is_optional() {
            return self.optional_refused(error, purpose);
        }
        let now = mono_ms();
        let entity = &self.parts.context.name;
        match error {
            // the credential's, see `refused`; and the optional lane's
            SourceError::RateLimited { .. }
            | SourceError::Denied { .. }
            | SourceError::NotOffered { .. } => {}
            SourceError::Refused { status, message } => {
                self.parts.metrics.retry("github", "refused");
                match purpose {
                    Purpose::Page(wanted) if wanted.next.is_some() => {
                        warn!(%entity, lane = %wanted.lane, status, "cursor refused, the slice restarts: {message}");
                        self.drop_cursor(wanted.lane, wanted.slice);
                        // a server that takes no cursor at all is not asked again and again at full speed
                        self.source_pause.fail(now);
                    }
                    _ => self.fails_slowly(
                        now,
                        &format!("query refused with status {status}: {message}"),
                    ),
                }
            }
            SourceError::Transport { reason, message } => {
                self.parts.metrics.retry("github", reason);
                if let ("too_large", Purpose::Page(wanted)) = (reason, &purpose) {
                    let place = (wanted.lane, wanted.slice);
                    if self.fetches.per_page(place) > 1 {
                        return self.fetches.ask_smaller(place);
                    }
                }
                self.source_pause.fail(now);
                if let ("endless", Purpose::Page(wanted)) = (reason, purpose) {
                    self.drop_cursor(wanted.lane, wanted.slice);
                }
                let entity = &self.parts.context.name;
                if self.source_pause.failures() < EVERYDAY_FAILURES {
                    debug!(%entity, reason, "no page, trying again: {message}");
                } else if self.source_pause.is_news(reason) {
                    warn!(%entity, reason, "still no page, trying again: {message}");
                }
            }
            SourceError::Uncuttable { body, next, date_ms } => {
                self.parts.metrics.retry("github", "uncuttable");
                let Purpose::Page(wanted) = purpose else { return self.source_pause.fail(now) };
                self.uncuttable(wanted, body, next, date_ms);
            }
        }
    }

    pub(super) fn fails_slowly(&mut self, now: i64, message: &str) {
        self.source_pause.fail_slowly(now);
        if self.source_pause.is_news(message) {
            warn!(entity = %self.parts.context.name, "{message}");
            self.parts.health.set_degraded(&self.source_part(), message.to_owned());
        }
    }

    /// A page that cannot be cut: asked again with fewer entries; what comes twice alone goes whole to the dead letters.
    pub(super) fn uncuttable(
        &mut self,
        wanted: Wanted,
        body: bytes::Bytes,
        next: Option<Next>,
        date_ms: Option<i64>,
    ) {
        let place = (wanted.lane, wanted.slice);
        if self.fetches.per_page(place) > 1 {
            return self.fetches.ask_smaller(place);
        }
        let digest = crate::audit::entry::derived_id(&body);
        if !self.fetches.is_again(place, &digest) {
            let optional = wanted.lane == Lane::GraphQl;
            let pause = if optional { &mut self.optional.pause } else { &mut self.source_pause };
            pause.fail(mono_ms());
            return;
        }
        // warned about when it is committed: a letter that is known already is no news
        debug!(entity = %self.parts.context.name, id = digest, "taking a page that cannot be cut as a dead letter");
        let body_bytes = body.len();
        let entries = vec![Entry::opaque(body)];
        let page = Page { entries, next, date_ms, body_bytes, budget: None };
        self.accept(wanted, page, true);
    }

    /// The walk's pages that are fetched already are committed; then it restarts where nothing can be missed.
    pub(super) fn drop_cursor(&mut self, lane: Lane, slice: u64) {
        if self.buffer.holds(lane, slice) || self.committing.is_some() {
            self.buffer.lose_cursor(lane, slice);
        } else if let Some(state) = self.state.lanes.get_mut(&lane) {
            state.drop_cursor(slice);
        }
    }
}
