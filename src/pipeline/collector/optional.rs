//! The optional lane beside the others: one request at a time, with a budget, a pause and troubles of its own.

use super::fetches::Done;
use super::{Collector, EVERYDAY_FAILURES, Purpose};
use crate::audit::slice::Query;
use crate::audit::{Lane, SliceKind};
use crate::github::{Page, PageRequest, Source, SourceError};
use crate::pipeline::partition::Opener;
use crate::pipeline::schedule::{self, Decision, Wanted};
use crate::time::{mono_ms, wall_ms};
use tracing::{debug, info, warn};

/// What the lane wants besides the request that it has made.
#[derive(Debug, Default)]
pub(super) struct OptionalTurn {
    /// A change of state first.
    pub(super) reshape: bool,
    /// When to look again, monotonic milliseconds.
    pub(super) wake_ms: Option<i64>,
}

impl<S: Source, O: Opener> Collector<S, O> {
    /// Makes the lane's next request, if one is due. Asks first whether there is such a lane.
    pub(super) fn start_optional(&mut self, now_s: i64, now: i64) -> OptionalTurn {
        let mut turn = OptionalTurn::default();
        if self.fetches.has(Lane::GraphQl) {
            return turn;
        }
        if let Some(until) = self.seat.limited_until(self.optional.way, now) {
            turn.wake_ms = Some(until);
            return turn;
        }
        if self.optional.is_to_ask(now) {
            let query = Query { from_s: now_s, to_s: None };
            let request = PageRequest { lane: Lane::GraphQl, query, cursor: None, per_page: 1 };
            self.ask_optional(Purpose::Offer, request);
            return turn;
        }
        if !self.optional.is_read(now) {
            turn.wake_ms = self.optional.pause.until(now);
            return turn;
        }
        let mut view = self.view(now_s, now);
        view.rules = self.optional.own();
        view.last_was_tail = self.optional.last_was_tail;
        view.credentials = 1;
        match schedule::next(&view) {
            Decision::Fetch(wanted) => self.fetch_optional(wanted),
            Decision::Reshape => turn.reshape = true,
            Decision::Wait(until) => turn.wake_ms = until,
        }
        turn
    }

    fn fetch_optional(&mut self, wanted: Wanted) {
        // its cursors are never links that count pages
        let cursor = match wanted.next.clone() {
            Some(crate::github::Next::Cursor(cursor)) => Some(cursor),
            _ => None,
        };
        let per_page = self.fetches.per_page((wanted.lane, wanted.slice));
        let request = PageRequest { lane: wanted.lane, query: wanted.query, cursor, per_page };
        self.ask_optional(Purpose::Page(wanted), request);
    }

    fn ask_optional(&mut self, purpose: Purpose, request: PageRequest) {
        self.ask(purpose, request, None, self.optional.way, None);
    }

    /// Takes an answer about the lane.
    pub(super) fn optional_fetched(&mut self, done: Done) {
        let Done { purpose, answer, .. } = done;
        match answer {
            Ok(page) => {
                self.optional_works();
                self.keep_points(&page);
                match purpose {
                    Purpose::Page(wanted) if !self.clock.is_in_doubt() => {
                        self.accept(wanted, page, false);
                    }
                    Purpose::Page(_) | Purpose::Probe | Purpose::Offer => {}
                }
            }
            Err(error) => self.optional_refused(error, purpose),
        }
    }

    fn optional_works(&mut self) {
        self.optional.offered();
        if self.optional.pause.succeed() {
            info!(entity = %self.parts.context.name, lane = %Lane::GraphQl, "GitHub answers again");
        }
        self.parts.health.clear(&self.optional_part());
    }

    /// Its points run down to the reserve: it waits until there are more.
    fn keep_points(&mut self, page: &Page) {
        let Some(budget) = page.budget else { return };
        if budget.remaining > self.parts.settings.budget_reserve {
            return;
        }
        let now = mono_ms();
        let now_ms = self.clock.now_ms(now).unwrap_or_else(wall_ms);
        let left_ms = budget.reset_s.saturating_mul(1000).saturating_sub(now_ms);
        self.optional.pause.set(now.saturating_add(left_ms.clamp(1000, 3_600_000)));
    }

    fn optional_part(&self) -> String {
        format!("{}/{}", self.source_part(), Lane::GraphQl)
    }

    /// No page of the lane: it alone waits, or is left alone. Its cursor does not move.
    pub(super) fn optional_refused(&mut self, error: SourceError, purpose: Purpose) {
        let (now, lane, part) = (mono_ms(), Lane::GraphQl, self.optional_part());
        let entity = self.parts.context.name.clone();
        self.parts.metrics.retry("github", error.label());
        let ways = self.parts.source.credentials().len();
        let pause = &mut self.optional.pause;
        match error {
            SourceError::NotOffered { message } => {
                warn!(%entity, %lane, "the lane is not read, the others are; take it out of `lanes`: {message}");
                self.parts.metrics.runway(&entity, lane, None);
                self.parts.health.clear(&part);
                self.parts.health.clear(&format!("runway/{entity}/{lane}"));
                self.optional.missing();
            }
            SourceError::RateLimited { reason, wait, .. } => {
                let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                pause.set(now.saturating_add(wait_ms));
                if reason == "secondary" {
                    let until_ms = now.saturating_add(wait_ms);
                    self.seat.set_aside(self.optional.way, until_ms, reason, true);
                }
                if pause.is_news(reason) {
                    warn!(%entity, %lane, reason, wait_s = wait.as_secs(), "rate limited, waiting");
                }
                self.optional.next_way(ways);
            }
            SourceError::Denied { reason, message, remedy } => {
                pause.fail_slowly(now);
                if pause.is_news(&format!("{reason} {message}")) {
                    warn!(%entity, %lane, reason, remedy, "GitHub refuses: {message}");
                    self.parts.health.set_degraded(&part, format!("{message}: {remedy}"));
                }
                self.optional.next_way(ways);
            }
            SourceError::Refused { status, message } => {
                pause.fail(now);
                if pause.is_news("refused") {
                    warn!(%entity, %lane, status, "query or cursor refused, the slice restarts: {message}");
                }
                self.drop_cursor_of(&purpose);
            }
            SourceError::Transport { reason, message } => {
                if let ("too_large", Purpose::Page(wanted)) = (reason, &purpose)
                    && self.fetches.per_page((wanted.lane, wanted.slice)) > 1
                {
                    return self.fetches.ask_smaller((wanted.lane, wanted.slice));
                }
                pause.fail(now);
                if pause.failures() < EVERYDAY_FAILURES {
                    debug!(%entity, %lane, reason, "no page, trying again: {message}");
                } else if pause.is_news(reason) {
                    warn!(%entity, %lane, reason, "still no page, trying again: {message}");
                }
                if reason == "endless" {
                    self.drop_cursor_of(&purpose);
                }
            }
            SourceError::Uncuttable { body, next, date_ms } => match purpose {
                Purpose::Page(wanted) => self.uncuttable(wanted, body, next, date_ms),
                Purpose::Probe | Purpose::Offer => pause.fail(now),
            },
        }
    }

    fn drop_cursor_of(&mut self, purpose: &Purpose) {
        if let Purpose::Page(wanted) = purpose
            && wanted.next.is_some()
        {
            self.drop_cursor(wanted.lane, wanted.slice);
        }
    }

    /// Takes note of a page of the lane before it is taken.
    pub(super) fn optional_is_well(&mut self, wanted: &Wanted) {
        self.optional.last_was_tail = wanted.kind == SliceKind::Tail;
    }
}
