//! Of which time can be said that something is missing: neither of time that GitHub has deleted, nor of time that has not
//! been collected or has not settled yet. Pure.

use crate::audit::{Intervals, Lane};
use serde::Serialize;
use std::collections::BTreeMap;

/// What can be said of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// GitHub lists it, and it has been collected: both lists must agree.
    Compared,
    /// Older than GitHub's retention: there is nothing to compare with.
    Expired,
    /// The daemon has not read it yet.
    NotCollected,
    /// Too young: what GitHub indexes late may still come.
    NotSettled,
}

impl Standing {
    /// The same in words, after a span of time.
    pub fn words(self) -> &'static str {
        match self {
            Self::Compared => "compared",
            Self::Expired => "not comparable: GitHub has deleted it by its retention",
            Self::NotCollected => "not comparable yet: the daemon has not read it",
            Self::NotSettled => "not comparable yet: younger than `collect.settling`",
        }
    }
}

/// What is known of a lane's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneTime {
    /// Before this second GitHub has deleted everything.
    pub edge_s: Option<i64>,
    /// From this second on nothing has settled.
    pub settled_s: i64,
    /// What has been read.
    pub collected: Intervals,
}

impl LaneTime {
    /// What can be said of a second.
    pub fn of(&self, at_s: i64) -> Standing {
        if self.edge_s.is_some_and(|edge| at_s < edge) {
            Standing::Expired
        } else if at_s >= self.settled_s {
            Standing::NotSettled
        } else if self.collected.contains(at_s) {
            Standing::Compared
        } else {
            Standing::NotCollected
        }
    }

    /// `[from_s, to_s)` cut where what can be said of it changes.
    pub fn spans(&self, from_s: i64, to_s: i64) -> Vec<(i64, i64, Standing)> {
        let mut edges = vec![from_s, to_s, self.settled_s];
        edges.extend(self.edge_s);
        edges.extend(self.collected.as_slice().iter().flat_map(|&(a, b)| [a, b]));
        edges.retain(|&at| from_s <= at && at <= to_s);
        edges.sort_unstable();
        let mut spans: Vec<(i64, i64, Standing)> = Vec::new();
        for (&from, &to) in edges.iter().zip(edges.iter().skip(1)).filter(|(from, to)| from < to) {
            let standing = self.of(from);
            match spans.last_mut() {
                Some(last) if last.2 == standing => last.1 = to,
                _ => spans.push((from, to, standing)),
            }
        }
        spans
    }
}

/// The lanes that are compared.
pub type Lanes = BTreeMap<Lane, LaneTime>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn lane_time() -> impl Strategy<Value = LaneTime> {
        (
            proptest::option::of(0_i64..60),
            0_i64..100,
            proptest::collection::vec((0_i64..100, 1_i64..30), 0..4),
        )
            .prop_map(|(edge_s, settled_s, read)| {
                let mut collected = Intervals::default();
                for (from, len) in read {
                    collected.insert(from, from + len);
                }
                LaneTime { edge_s, settled_s, collected }
            })
    }

    proptest! {
        /// Beside the plainest model there is: each second by itself.
        #[test]
        fn spans_say_what_each_second_says(time in lane_time(), from_s in 0_i64..100, len in 0_i64..60) {
            let to_s = from_s + len;
            let spans = time.spans(from_s, to_s);
            let seconds: Vec<_> = spans.iter().flat_map(|&(a, b, it)| (a..b).map(move |at| (at, it))).collect();
            let model: Vec<_> = (from_s..to_s).map(|at| (at, time.of(at))).collect();
            prop_assert_eq!(seconds, model);
            prop_assert!(spans.iter().zip(spans.iter().skip(1)).all(|(a, b)| a.2 != b.2));
        }
    }
}
