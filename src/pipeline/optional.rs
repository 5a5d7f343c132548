//! The lane that may be missing: GraphQL's audit log, which GitHub has announced to remove.
//!
//! It is asked for once at start, before anything of it is begun, and left alone when the server has none. Its troubles are
//! its own: no other lane waits for it. Its points are another budget than REST's requests, so the scheduler of
//! those does not see it: one request at a time beside them.

use super::pause::Pause;
use crate::audit::Lane;
use crate::audit::lane::LaneRules;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Not asked for yet.
    Nothing,
    /// The server has it.
    Offered,
    /// The server has none: not asked again before the next start.
    Missing,
}

/// Whether the lane is read, and how it goes.
#[derive(Debug)]
pub struct Optional {
    known: Known,
    rest: BTreeMap<Lane, LaneRules>,
    own: BTreeMap<Lane, LaneRules>,
    /// When it may be tried again.
    pub pause: Pause,
    /// Number of the credential that is used for it.
    pub way: usize,
    /// Whether its last page was its tail's.
    pub last_was_tail: bool,
}

impl Optional {
    /// Of an entity that reads the lanes of these rules.
    pub fn new(rules: &BTreeMap<Lane, LaneRules>) -> Self {
        let (own, rest) = rules.clone().into_iter().partition(|(lane, _)| *lane == Lane::GraphQl);
        let pause = Pause::new(Duration::from_millis(500), Duration::from_mins(5));
        Self { known: Known::Nothing, rest, own, pause, way: 0, last_was_tail: false }
    }

    /// The rules of all other lanes.
    pub fn rest(&self) -> &BTreeMap<Lane, LaneRules> {
        &self.rest
    }

    /// The rules of this lane alone; empty where nobody wants it.
    pub fn own(&self) -> &BTreeMap<Lane, LaneRules> {
        &self.own
    }

    /// Whether the server is to be asked for it now.
    pub fn is_to_ask(&self, mono_ms: i64) -> bool {
        !self.own.is_empty() && self.known == Known::Nothing && !self.pause.is_on(mono_ms)
    }

    /// Whether its pages may be asked for now.
    pub fn is_read(&self, mono_ms: i64) -> bool {
        self.is_offered() && !self.pause.is_on(mono_ms)
    }

    /// Whether the server is known to have it, and somebody wants it.
    pub fn is_offered(&self) -> bool {
        !self.own.is_empty() && self.known == Known::Offered
    }

    /// The server has answered with a page of it.
    pub fn offered(&mut self) {
        self.known = Known::Offered;
    }

    /// The server has none.
    pub fn missing(&mut self) {
        self.known = Known::Missing;
    }

    /// The credential was refused or has no points left: the next one of so many is tried.
    pub fn next_way(&mut self, ways: usize) {
        self.way = self.way.saturating_add(1).checked_rem(ways).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Settings;

    fn optional(lanes: &[Lane]) -> Optional {
        let settings = Settings::default();
        let rules = lanes.iter().map(|&lane| (lane, settings.rules(lane, None))).collect();
        Optional::new(&rules)
    }

    #[test]
    fn it_is_read_from_its_first_page_until_it_is_missing() {
        let mut optional = optional(&Lane::ALL);
        assert!(optional.rest().keys().eq(&Lane::REST));
        assert!(optional.own().keys().eq(&[Lane::GraphQl]));
        assert!(optional.is_to_ask(0) && !optional.is_read(0));
        optional.offered();
        assert!(!optional.is_to_ask(0) && optional.is_read(0));
        optional.pause.set(1_000);
        assert!(!optional.is_read(999) && optional.is_offered());
        assert!(optional.is_read(1_000));
        optional.missing();
        assert!(!optional.is_read(5_000) && !optional.is_to_ask(5_000));
    }

    #[test]
    fn what_nobody_wants_is_not_asked_for() {
        let mut optional = optional(&Lane::REST);
        assert!(!optional.is_to_ask(0));
        optional.offered();
        assert!(!optional.is_read(0) && !optional.is_offered());
    }

    #[test]
    fn a_server_that_cannot_say_is_asked_again_with_another_credential() {
        let mut optional = optional(&Lane::ALL);
        optional.pause.set(1_000);
        assert!(!optional.is_to_ask(0));
        assert!(optional.is_to_ask(1_000));
        let ways: Vec<usize> = (0..3)
            .map(|_| {
                optional.next_way(2);
                optional.way
            })
            .collect();
        assert_eq!(ways, [1, 0, 1]);
    }
}
