//! What the daemon's parts say about themselves: ready or not, degraded or not, and whether the loops still turn.

use crate::time::{mono_ms, wall_ms};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A loop that announces nothing must turn again within this time.
pub const TURN_MAX: Duration = Duration::from_secs(30);
/// So many troubles that are over are remembered.
const PAST_MAX: usize = 20;
/// Longest text of a trouble that is remembered, bytes.
const PAST_BYTES_MAX: usize = 2048;

/// Why a part is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// The part: `kafka`, `archive`, `entity/acme/web`.
    pub part: String,
    /// `starting` or `degraded`.
    pub state: &'static str,
    /// What is the matter, with the remedy where there is one.
    pub reason: String,
}

/// What was the matter with a part, or still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The part.
    pub part: String,
    /// What, with the remedy where there is one.
    pub reason: String,
    /// Since when, epoch milliseconds of the host's clock.
    pub since_ms: i64,
    /// Until when; `None`: still.
    pub until_ms: Option<i64>,
}

/// A loop that has not turned in time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stalled {
    /// Name of the loop.
    pub name: String,
    /// What it was last known to do.
    pub doing: String,
    /// By how many milliseconds it is late.
    pub late_ms: i64,
}

/// What a loop promised last.
#[derive(Debug)]
struct Turn {
    doing: String,
    due_ms: i64,
}

#[derive(Debug, Default)]
struct State {
    reasons: BTreeMap<String, Reason>,
    turns: BTreeMap<String, Turn>,
    /// The latest last.
    troubles: VecDeque<Trouble>,
}

impl State {
    fn begin_trouble(&mut self, part: &str, reason: &str) {
        let mut open = self.troubles.iter().filter(|it| it.until_ms.is_none() && it.part == part);
        if open.any(|it| it.reason == cut(reason)) {
            return;
        }
        self.end_trouble(part);
        if self.troubles.len() >= PAST_MAX {
            let oldest_past = self.troubles.iter().position(|it| it.until_ms.is_some());
            self.troubles.remove(oldest_past.unwrap_or(0));
        }
        self.troubles.push_back(Trouble {
            part: part.to_owned(),
            reason: cut(reason).to_owned(),
            since_ms: wall_ms(),
            until_ms: None,
        });
    }

    fn end_trouble(&mut self, part: &str) {
        let open = |it: &&mut Trouble| it.until_ms.is_none() && it.part == part;
        self.troubles.iter_mut().filter(open).for_each(|it| it.until_ms = Some(wall_ms()));
    }
}

/// The beginning of a text, at a character's edge.
fn cut(text: &str) -> &str {
    let end = (0..=PAST_BYTES_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// The health of one process. Cheap to share behind an `Arc`; no call blocks.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

impl Health {
    /// Health without parts: ready.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // a poisoned lock means that a holder panicked between two assignments of plain values
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, part: &str, state: &'static str, reason: String) {
        let reason = Reason { part: part.to_owned(), state, reason };
        self.state().reasons.insert(part.to_owned(), reason);
    }

    /// A part is still on its way to being ready.
    pub fn set_starting(&self, part: &str, reason: impl Into<String>) {
        self.set(part, "starting", reason.into());
    }

    /// A part works, but not as it should: the reason stays until [`Self::clear`].
    pub fn set_degraded(&self, part: &str, reason: impl Into<String>) {
        let reason = reason.into();
        self.state().begin_trouble(part, &reason);
        self.set(part, "degraded", reason);
    }

    /// A part is as it should be.
    pub fn clear(&self, part: &str) {
        let mut state = self.state();
        if state.reasons.remove(part).is_some() {
            state.end_trouble(part);
        }
    }

    /// What is and was the matter, the latest first.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.state().troubles.iter().rev().cloned().collect()
    }

    /// Whether no part is starting or degraded.
    pub fn ready(&self) -> bool {
        self.state().reasons.is_empty()
    }

    /// Why the daemon is not ready, by part.
    pub fn reasons(&self) -> Vec<Reason> {
        self.state().reasons.values().cloned().collect()
    }

    /// A loop has turned, and will again within [`TURN_MAX`].
    pub fn beat(&self, name: &str) {
        self.promise(name, "a turn", TURN_MAX);
    }

    /// A loop waits for `what`, and will turn again within `deadline`.
    pub fn named_wait(&self, name: &str, what: &str, deadline: Duration) {
        self.promise(name, what, deadline);
    }

    fn promise(&self, name: &str, doing: &str, within: Duration) {
        let within_ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let due_ms = mono_ms().saturating_add(within_ms);
        let mut state = self.state();
        if let Some(turn) = state.turns.get_mut(name) {
            turn.due_ms = due_ms;
            if turn.doing != doing {
                doing.clone_into(&mut turn.doing);
            }
            return;
        }
        state.turns.insert(name.to_owned(), Turn { doing: doing.to_owned(), due_ms });
    }

    /// What a loop was last known to do.
    pub fn doing(&self, name: &str) -> Option<String> {
        self.state().turns.get(name).map(|turn| turn.doing.clone())
    }

    /// A loop has ended as it should: nothing more is expected of it.
    pub fn ended(&self, name: &str) {
        self.state().turns.remove(name);
    }

    /// The loops that have not turned in time.
    pub fn stalled(&self) -> Vec<Stalled> {
        self.stalled_at(mono_ms())
    }

    fn stalled_at(&self, now_ms: i64) -> Vec<Stalled> {
        let late = |(name, turn): (&String, &Turn)| {
            let late_ms = now_ms.saturating_sub(turn.due_ms);
            (late_ms > 0).then(|| Stalled {
                name: name.clone(),
                doing: turn.doing.clone(),
                late_ms,
            })
        };
        self.state().turns.iter().filter_map(late).collect()
    }

    /// `Ok` when every loop makes progress, else which ones do not: for the watchdog.
    ///
    /// # Errors
    /// The loops that are late, with what they were doing.
    pub fn progress(&self) -> Result<(), String> {
        let stalled = self.stalled();
        if stalled.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = stalled
            .iter()
            .map(|late| format!("{} is {} ms late in {}", late.name, late.late_ms, late.doing))
            .collect();
        Err(shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_ready_when_its_reason_is_cleared() {
        let health = Health::new();
        health.set_starting("kafka", "topics are not looked at yet");
        health.set_degraded("archive", "2 gaps are not acknowledged");
        assert!(!health.ready());
        health.clear("kafka");
        assert_eq!(health.reasons().len(), 1);
        health.clear("archive");
        assert!(health.ready());
    }

    #[test]
    fn what_was_the_matter_is_remembered_for_a_while() {
        let health = Health::new();
        for number in 0..PAST_MAX + 5 {
            health.set_degraded("kafka", format!("away {number}, for long"));
            health.set_degraded("kafka", format!("away {number}, for long"));
        }
        health.clear("kafka");
        health.clear("kafka");
        let troubles = health.troubles();
        assert_eq!(troubles.len(), PAST_MAX);
        assert!(troubles.iter().all(|it| it.until_ms.is_some()));
        assert_eq!(troubles[0].reason, format!("away {}, for long", PAST_MAX + 4));
        health.set_degraded("archive", "full");
        assert_eq!(
            (health.troubles()[0].part.as_str(), health.troubles()[0].until_ms),
            ("archive", None)
        );
    }

    #[test]
    fn a_loop_is_stalled_after_its_deadline_and_not_before() {
        let health = Health::new();
        let before = mono_ms();
        health.named_wait("collector", "the next poll", Duration::from_mins(1));
        assert_eq!(health.stalled_at(before + 59_000), []);
        let stalled = health.stalled_at(mono_ms() + 61_000);
        assert_eq!(stalled.len(), 1);
        assert_eq!(stalled[0].doing, "the next poll");
        assert_eq!(health.doing("collector").as_deref(), Some("the next poll"));
        assert_eq!(health.doing("archiver"), None);
        assert!((1..=1_500).contains(&stalled[0].late_ms), "{stalled:?}");
    }

    #[test]
    fn a_beat_follows_a_wait_and_an_ended_loop_owes_nothing() {
        let health = Health::new();
        health.named_wait("archiver", "a record", Duration::from_hours(1));
        health.beat("archiver");
        let late = mono_ms() + i64::try_from(TURN_MAX.as_millis()).unwrap() + 1;
        assert_eq!(health.stalled_at(late).len(), 1);
        assert_eq!(health.progress(), Ok(()));
        health.ended("archiver");
        assert_eq!(health.stalled_at(late), []);
    }
}
