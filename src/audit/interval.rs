//! Spans of time as a normalised list: what a lane has collected.

use serde::{Deserialize, Serialize};

/// Half-open spans `[from_s, to_s)` in epoch seconds: sorted, not empty, not touching each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(i64, i64)>", into = "Vec<(i64, i64)>")]
pub struct Intervals(Vec<(i64, i64)>);

impl Intervals {
    /// The spans, ascending.
    pub fn as_slice(&self) -> &[(i64, i64)] {
        &self.0
    }

    /// Adds `[from_s, to_s)`; an empty span changes nothing.
    pub fn insert(&mut self, from_s: i64, to_s: i64) {
        if from_s >= to_s {
            return;
        }
        let (mut from, mut to) = (from_s, to_s);
        self.0.retain(|&(a, b)| {
            let apart = b < from || to < a;
            if !apart {
                from = from.min(a);
                to = to.max(b);
            }
            apart
        });
        let at = self.0.partition_point(|&(a, _)| a < from);
        self.0.insert(at, (from, to));
    }

    /// What of this lies in no span of `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(from, to) in &self.0 {
            let mut at = from;
            for &(a, b) in other.0.iter().filter(|&&(a, b)| a < to && from < b) {
                if at < a {
                    left.push((at, a));
                }
                at = at.max(b);
            }
            if at < to {
                left.push((at, to));
            }
        }
        Self(left)
    }

    /// What of this lies in a span of `other` too.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// Whether there is no span.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the second `at_s` lies in a span.
    pub fn contains(&self, at_s: i64) -> bool {
        self.0.iter().any(|&(a, b)| a <= at_s && at_s < b)
    }

    /// The first second at or after `from_s` that lies in no span.
    pub fn first_missing(&self, from_s: i64) -> i64 {
        self.0.iter().find(|&&(a, b)| a <= from_s && from_s < b).map_or(from_s, |&(_, b)| b)
    }

    /// The first second after `at_s` at which a span begins.
    pub fn next_after(&self, at_s: i64) -> Option<i64> {
        self.0.iter().map(|&(a, _)| a).find(|&a| a > at_s)
    }
}

/// Spans that are not a normalised list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("intervals are not sorted, apart and non-empty")]
pub struct IntervalsError;

impl TryFrom<Vec<(i64, i64)>> for Intervals {
    type Error = IntervalsError;

    fn try_from(spans: Vec<(i64, i64)>) -> Result<Self, IntervalsError> {
        let filled = spans.iter().all(|&(a, b)| a < b);
        let apart = spans.iter().zip(spans.iter().skip(1)).all(|(&(_, b), &(a, _))| b < a);
        if filled && apart { Ok(Self(spans)) } else { Err(IntervalsError) }
    }
}

impl From<Intervals> for Vec<(i64, i64)> {
    fn from(intervals: Intervals) -> Self {
        intervals.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Beside the plainest model there is: the set of all seconds.
        #[test]
        fn insert_is_set_union(spans in vec((-20_i64..60, -20_i64..60), 0..25)) {
            let (mut intervals, mut model) = (Intervals::default(), BTreeSet::new());
            for (from, to) in spans {
                intervals.insert(from, to);
                model.extend(from..to);
                let seconds: BTreeSet<i64> =
                    intervals.as_slice().iter().flat_map(|&(a, b)| a..b).collect();
                prop_assert_eq!(&seconds, &model);
                // normalised: exactly what decoding accepts
                prop_assert_eq!(Intervals::try_from(intervals.as_slice().to_vec()), Ok(intervals.clone()));
            }
            for at in -25..60 {
                prop_assert_eq!(intervals.contains(at), model.contains(&at));
                let missing = (at..=60).find(|second| !model.contains(second));
                prop_assert_eq!(Some(intervals.first_missing(at)), missing);
                let next = (at + 1..60).find(|s| model.contains(s) && !model.contains(&(s - 1)));
                prop_assert_eq!(intervals.next_after(at), next);
            }
        }

        #[test]
        fn differences_and_intersections_are_those_of_sets(
            one in vec((0_i64..40, 0_i64..40), 0..8), other in vec((0_i64..40, 0_i64..40), 0..8),
        ) {
            let all = |spans: Vec<(i64, i64)>| {
                let mut intervals = Intervals::default();
                for (from, to) in spans {
                    intervals.insert(from, to);
                }
                intervals
            };
            let (one, other) = (all(one), all(other));
            for result in [one.without(&other), one.within(&other)] {
                prop_assert_eq!(Intervals::try_from(result.as_slice().to_vec()), Ok(result));
            }
            for at in -1..41 {
                prop_assert_eq!(one.without(&other).contains(at), one.contains(at) && !other.contains(at));
                prop_assert_eq!(one.within(&other).contains(at), one.contains(at) && other.contains(at));
            }
        }

        #[test]
        fn order_does_not_matter(spans in vec((0_i64..100, 0_i64..100), 0..12), seed in any::<prop::sample::Index>()) {
            let all = |spans: &[(i64, i64)]| {
                let mut intervals = Intervals::default();
                for &(from, to) in spans {
                    intervals.insert(from, to);
                }
                intervals
            };
            let mut turned = spans.clone();
            if !spans.is_empty() {
                turned.rotate_left(seed.index(spans.len()));
                turned.reverse();
            }
            prop_assert_eq!(all(&spans), all(&turned));
        }

        #[test]
        fn json_is_read_back(spans in vec(any::<(i64, i64)>(), 0..12)) {
            let mut intervals = Intervals::default();
            for &(from, to) in &spans {
                intervals.insert(from, to);
            }
            let json = serde_json::to_vec(&intervals).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Intervals>(&json).unwrap(), intervals);
        }
    }

    #[test]
    fn spans_that_are_not_normalised_are_refused() {
        for spans in [
            vec![(1, 1)],
            vec![(2, 1)],
            vec![(0, 5), (5, 9)],
            vec![(7, 9), (0, 5)],
            vec![(0, 5), (3, 9)],
        ] {
            assert_eq!(Intervals::try_from(spans), Err(IntervalsError));
        }
    }

    #[test]
    fn the_edges_of_time() {
        let mut intervals = Intervals::default();
        intervals.insert(i64::MIN, 0);
        intervals.insert(0, i64::MAX);
        assert_eq!(intervals.as_slice(), [(i64::MIN, i64::MAX)]);
        assert!(intervals.contains(i64::MIN) && !intervals.contains(i64::MAX));
        assert_eq!(intervals.first_missing(-5), i64::MAX);
    }
}
