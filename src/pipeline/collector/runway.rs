//! What a collector tells of itself: the time that is left, and how it stands with its slices and credentials.

use super::Collector;
use crate::audit::Lane;
use crate::audit::lane::LaneRules;
use crate::github::Source;
use crate::pipeline::arbiter::Credit;
use crate::pipeline::budget::Now;
use crate::pipeline::partition::Opener;
use crate::pipeline::runway::{News, levels_s};
use crate::pipeline::status;
use crate::status::CredentialStatus;
use crate::time::{mono_ms, rfc3339_s};
use tracing::{info, warn};

/// What an operator can do about it.
const REMEDY: &str = "give the entity another credential, lower collect.budget_reserve, or see what keeps it from reading: ghauditd status";

impl<S: Source, O: Opener> Collector<S, O> {
    /// Tells once when the oldest entries that are not collected come near their end at GitHub.
    pub(super) fn tell_runway(&mut self, lane: Lane, rules: &LaneRules, runway_s: i64, now_s: i64) {
        let levels = levels_s(&self.parts.settings.runway_warnings, rules.retention_s);
        let watch = self.watches.entry(lane).or_default();
        let Some(news) = watch.observe(&levels, runway_s, mono_ms()) else { return };
        let entity = &self.parts.context.name;
        let part = format!("runway/{entity}/{lane}");
        match news {
            News::Short { is_last, .. } => {
                let lost = rfc3339_s(now_s.saturating_add(runway_s));
                let hours_left = runway_s / 3600;
                warn!(%entity, %lane, lost, hours_left, remedy = REMEDY, "entries that are not collected will be deleted by GitHub");
                if is_last {
                    let reason = format!(
                        "entries that are not collected will be deleted by GitHub from {lost} on: {REMEDY}"
                    );
                    self.parts.health.set_degraded(&part, reason);
                }
            }
            News::NotLast => self.parts.health.clear(&part),
            News::Recovered => {
                info!(%entity, %lane, "nothing is near its end at GitHub any more");
                self.parts.health.clear(&part);
            }
        }
    }

    /// Puts how it stands where `ghauditd status` reads it.
    pub(super) fn post_status(&self, now_ms: i64) {
        let now = Now { s: now_ms.div_euclid(1000), mono_ms: mono_ms() };
        let credits = self.seat.credits(now);
        let credentials = credits.iter().enumerate().map(|(way, it)| self.credential(way, it, now));
        let why = |lane, slice| self.whys.get(&(lane, slice)).map(ToString::to_string);
        let rules = &self.parts.context.rules;
        let status = status::entity(&self.state, rules, Some(now_ms), credentials.collect(), why);
        self.parts.board.post_entity(status);
    }

    fn credential(&self, way: usize, credit: &Credit, now: Now) -> CredentialStatus {
        let standing = credit.standing.as_ref();
        let set_aside = credit.aside.map(|(until_ms, reason)| {
            let told = self.refusals.get(way).and_then(|pause| pause.told());
            let left_s = until_ms.saturating_sub(now.mono_ms) / 1000;
            let again = rfc3339_s(now.s.saturating_add(left_s));
            let why = told.or(reason).unwrap_or("refused");
            format!("{why}, tried again at {again}")
        });
        CredentialStatus {
            credential: credit.credential.to_string(),
            limit: standing.map(|it| it.limit),
            remaining: standing.map(|it| it.remaining),
            resets: standing.map(|it| rfc3339_s(it.reset_s)),
            set_aside,
        }
    }
}
