//! What a collector does when GitHub answers with something else than a page.

use super::{Collector, EVERYDAY_FAILURES, Purpose};
use crate::audit::{Entry, Lane};
use crate::github::{Next, Page, Source, SourceError};
use crate::pipeline::partition::Opener;
use crate::pipeline::pause::Pause;
use crate::pipeline::schedule::Wanted;
use crate::time::{mono_ms, wall_ms};
use tracing::{debug, info, warn};

impl<S: Source, O: Opener> Collector<S, O> {
    /// GraphQL has a budget of its own: its points say nothing of the requests that are left to the other lanes.
    pub(super) fn keep_reserve(&mut self, page: &Page, lane: Lane, now: i64) {
        if lane != Lane::GraphQl {
            self.budget = page.budget;
        }
        let Some(budget) = page.budget else { return };
        if budget.remaining > self.parts.settings.budget_reserve {
            return;
        }
        let now_ms = self.clock.now_ms(now).unwrap_or_else(wall_ms);
        let wait_ms =
            budget.reset_s.saturating_mul(1000).saturating_sub(now_ms).clamp(1000, 3_600_000);
        debug!(entity = %self.parts.context.name, wait_ms, "request budget used up to the reserve");
        self.pause_of(lane).set(now.saturating_add(wait_ms));
    }

    /// What pauses when an answer about this lane is no page: the optional lane alone, or all others.
    fn pause_of(&mut self, lane: Lane) -> &mut Pause {
        if lane == Lane::GraphQl { &mut self.optional.pause } else { &mut self.source_pause }
    }

    /// Whether requests are left for what may wait, when each tail is polled as often as it may be until the window ends.
    pub(super) fn has_leisure(&self, now_s: i64) -> bool {
        let Some(budget) = self.budget else { return true };
        let left_s = budget.reset_s.saturating_sub(now_s);
        let every_s = i64::try_from(self.parts.settings.poll_interval_min.as_secs()).unwrap_or(1);
        let lanes = i64::try_from(self.rules.len()).unwrap_or(2);
        let polls = left_s.max(0).saturating_mul(lanes) / every_s.max(1);
        let spare = budget.remaining.saturating_sub(self.parts.settings.budget_reserve);
        left_s <= 0 || i64::try_from(spare).is_ok_and(|spare| spare > polls)
    }

    pub(super) fn source_works(&mut self, lane: Lane) {
        if lane == Lane::GraphQl {
            self.optional.offered();
        }
        if self.pause_of(lane).succeed() {
            info!(entity = %self.parts.context.name, %lane, "GitHub answers again");
            self.parts.health.clear(&self.source_part(lane));
        }
    }

    pub(super) fn source_part(&self, lane: Lane) -> String {
        let entity = &self.parts.context.name;
        match lane {
            Lane::Web | Lane::Git => format!("github/{entity}"),
            Lane::GraphQl => format!("github/{entity}/graphql"),
        }
    }

    /// The server has dropped the optional lane: a note, and the others go on.
    fn not_offered(&mut self, lane: Lane, message: &str) {
        let entity = &self.parts.context.name;
        warn!(%entity, %lane, "the lane is not read, the others are; take it out of `lanes`: {message}");
        self.parts.metrics.runway(entity, lane, None);
        self.parts.health.clear(&self.source_part(lane));
        self.optional.missing();
    }

    /// No page: says so once, decides what to do instead and when. The cursor does not move.
    pub(super) fn refused(&mut self, error: SourceError, purpose: Purpose) {
        let now = mono_ms();
        let (lane, part) = (purpose.lane(), self.source_part(purpose.lane()));
        let entity = &self.parts.context.name.clone();
        match error {
            SourceError::NotOffered { message } => self.not_offered(lane, &message),
            SourceError::RateLimited { reason, wait, .. } => {
                self.parts.metrics.retry("github", reason);
                let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                self.pause_of(lane).set(now.saturating_add(wait_ms));
                if self.pause_of(lane).is_news(reason) {
                    warn!(%entity, %lane, reason, wait_s = wait.as_secs(), "rate limited, waiting");
                }
            }
            SourceError::Denied { reason, message, remedy } => {
                self.parts.metrics.retry("github", reason);
                self.pause_of(lane).fail_slowly(now);
                if self.pause_of(lane).is_news(&format!("{reason} {message}")) {
                    warn!(%entity, reason, remedy, "GitHub refuses: {message}");
                    self.parts.health.set_degraded(&part, format!("{message}: {remedy}"));
                }
            }
            SourceError::Refused { status, message } => {
                self.parts.metrics.retry("github", "refused");
                match purpose {
                    Purpose::Page(wanted) if wanted.next.is_some() => {
                        warn!(%entity, lane = %wanted.lane, status, "cursor refused, the slice restarts: {message}");
                        self.drop_cursor(wanted.lane, wanted.slice);
                        // a server that takes no cursor at all is not asked again and again at full speed
                        self.pause_of(lane).fail(now);
                    }
                    _ => self.fails_slowly(
                        (now, lane),
                        &format!("query refused with status {status}: {message}"),
                    ),
                }
            }
            SourceError::Transport { reason, message } => {
                self.parts.metrics.retry("github", reason);
                if reason == "too_large" && self.per_page > 1 {
                    self.per_page = self.per_page.div_ceil(2).min(self.per_page.saturating_sub(1));
                    return;
                }
                self.pause_of(lane).fail(now);
                if let ("endless", Purpose::Page(wanted)) = (reason, purpose) {
                    self.drop_cursor(wanted.lane, wanted.slice);
                }
                if self.pause_of(lane).failures() < EVERYDAY_FAILURES {
                    debug!(%entity, %lane, reason, "no page, trying again: {message}");
                } else if self.pause_of(lane).is_news(reason) {
                    warn!(%entity, %lane, reason, "still no page, trying again: {message}");
                }
            }
            SourceError::Uncuttable { body, next, date_ms } => {
                self.parts.metrics.retry("github", "uncuttable");
                let Purpose::Page(wanted) = purpose else { return self.pause_of(lane).fail(now) };
                self.uncuttable(wanted, body, next, date_ms);
            }
        }
    }

    pub(super) fn fails_slowly(&mut self, (now, lane): (i64, Lane), message: &str) {
        self.pause_of(lane).fail_slowly(now);
        if self.pause_of(lane).is_news(message) {
            warn!(entity = %self.parts.context.name, %lane, "{message}");
            self.parts.health.set_degraded(&self.source_part(lane), message.to_owned());
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
        if self.per_page > 1 {
            self.per_page /= 2;
            return;
        }
        let digest = crate::audit::entry::derived_id(&body);
        if self.uncuttable.as_deref() != Some(digest.as_str()) {
            self.uncuttable = Some(digest);
            self.pause_of(wanted.lane).fail(mono_ms());
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
