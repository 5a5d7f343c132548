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

    /// Whether the second `at_s` lies in a span.
    pub fn contains(&self, at_s: i64) -> bool {
        self.0.iter().any(|&(a, b)| a <= at_s && at_s < b)
    }

    /// The first second at or after `from_s` that lies in no span.
    pub fn first_missing(&self, from_s: i64) -> i64 {
        self.0.iter().find(|&&(a, b)| a <= from_s && from_s < b).map_or(from_s, |&(_, b)| b)
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
