//! The gaps that the daemon has recorded, as a statement cites them.

use serde::{Deserialize, Serialize};

/// A period whose completeness cannot be claimed. Members that are not known here are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedGap {
    /// The lane.
    pub lane: String,
    /// First moment, RFC 3339.
    pub from: String,
    /// The moment after the last.
    pub to: String,
    /// Why.
    pub cause: String,
    /// GitHub's clock when it was noticed.
    pub noticed: Option<String>,
}

impl RecordedGap {
    /// Reads a record's value; `None` where it is none that is known here.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Whether it touches `[from_s, to_s)`. One whose times cannot be read touches everything: it must be looked at.
    pub fn touches(&self, from_s: i64, to_s: i64) -> bool {
        let second =
            |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
        match (second(&self.from), second(&self.to)) {
            (Some(from), Some(to)) => from < to_s && from_s < to.max(from.saturating_add(1)),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_touches_what_it_shares_a_second_with() {
        let gap = RecordedGap::read(
            br#"{"version":1,"entity":"acme","lane":"git","from":"1970-01-01T00:01:00Z","to":"1970-01-01T00:02:00Z","cause":"expired","noticed":"1970-01-08T00:00:00.000Z","more":[]}"#,
        )
        .unwrap();
        for (from, to, touches) in
            [(0, 60, false), (0, 61, true), (119, 200, true), (120, 200, false)]
        {
            assert_eq!(gap.touches(from, to), touches, "{from} {to}");
        }
        assert!(RecordedGap { to: "later".to_owned(), ..gap }.touches(0, 1));
        assert_eq!(RecordedGap::read(b"{}"), None);
    }
}
