//! The lane that may be missing: GraphQL's audit log, which GitHub has announced to remove.
//!
//! It is asked for once at start, before anything of it is begun, and left alone when the server has none. Its troubles
//! are its own: no other lane waits for it.

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

/// Whether the lane is read.
#[derive(Debug)]
pub struct Optional {
    known: Known,
    /// When it may be tried again.
    pub pause: Pause,
}

impl Default for Optional {
    fn default() -> Self {
        let pause = Pause::new(Duration::from_millis(500), Duration::from_mins(5));
        Self { known: Known::Nothing, pause }
    }
}

impl Optional {
    /// Whether the server is to be asked for it now.
    pub fn is_to_ask(&self, rules: &BTreeMap<Lane, LaneRules>, mono_ms: i64) -> bool {
        let wanted = rules.contains_key(&Lane::GraphQl);
        wanted && self.known == Known::Nothing && !self.pause.is_on(mono_ms)
    }

    /// The server has answered with a page of it.
    pub fn offered(&mut self) {
        self.known = Known::Offered;
    }

    /// The server has none.
    pub fn missing(&mut self) {
        self.known = Known::Missing;
    }

    /// The lanes that are read now, when they are others than `read`.
    pub fn changed(
        &self,
        rules: &BTreeMap<Lane, LaneRules>,
        read: &BTreeMap<Lane, LaneRules>,
        mono_ms: i64,
    ) -> Option<BTreeMap<Lane, LaneRules>> {
        let wanted = rules.contains_key(&Lane::GraphQl)
            && self.known == Known::Offered
            && !self.pause.is_on(mono_ms);
        if read.contains_key(&Lane::GraphQl) == wanted {
            return None;
        }
        let lanes = rules.iter().filter(|(lane, _)| wanted || **lane != Lane::GraphQl);
        Some(lanes.map(|(lane, rules)| (*lane, rules.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Settings;

    fn rules(lanes: &[Lane]) -> BTreeMap<Lane, LaneRules> {
        let settings = Settings::default();
        lanes.iter().map(|&lane| (lane, settings.rules(lane, None))).collect()
    }

    #[test]
    fn it_is_read_from_its_first_page_until_it_is_missing() {
        let mut optional = Optional::default();
        let (all, rest) = (rules(&Lane::ALL), rules(&Lane::REST));
        assert!(optional.is_to_ask(&all, 0));
        assert_eq!(optional.changed(&all, &rest, 0), None);
        assert_eq!(optional.changed(&all, &all, 0), Some(rest.clone()));
        optional.offered();
        assert!(!optional.is_to_ask(&all, 0));
        assert_eq!(optional.changed(&all, &rest, 0), Some(all.clone()));
        optional.pause.set(1_000);
        assert_eq!(optional.changed(&all, &all, 999), Some(rest.clone()));
        assert_eq!(optional.changed(&all, &rest, 1_000), Some(all.clone()));
        optional.missing();
        assert_eq!(optional.changed(&all, &all, 5_000), Some(rest));
        assert!(!optional.is_to_ask(&all, 5_000));
    }

    #[test]
    fn what_nobody_wants_is_not_asked_for() {
        let (mut optional, rest) = (Optional::default(), rules(&Lane::REST));
        assert!(!optional.is_to_ask(&rest, 0));
        optional.offered();
        assert_eq!(optional.changed(&rest, &rest, 0), None);
    }

    #[test]
    fn a_server_that_cannot_say_is_asked_again() {
        let mut optional = Optional::default();
        let all = rules(&Lane::ALL);
        optional.pause.set(1_000);
        assert!(!optional.is_to_ask(&all, 0));
        assert!(optional.is_to_ask(&all, 1_000));
    }
}
