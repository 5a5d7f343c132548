//! GitHub's cursor: base64 of `<epoch milliseconds in e-notation>|<document id>`.

use super::timeline::{Id, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A place in GitHub's order, as the cursor tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Epoch milliseconds.
    pub(crate) ts: i64,
    /// Document id.
    pub(crate) id: Id,
}

impl From<Key> for Place {
    fn from(key: Key) -> Self {
        Self { ts: key.ts, id: key.id }
    }
}

/// `1664383359927` as `1.664383359927e+12`.
fn e_notation(ms: i64) -> String {
    let digits = ms.to_string();
    let exponent = digits.len().saturating_sub(1);
    let (first, rest) = digits.split_at_checked(1).unwrap_or((&digits, ""));
    let rest = rest.trim_end_matches('0');
    let dot = if rest.is_empty() { "" } else { "." };
    format!("{first}{dot}{rest}e+{exponent:02}")
}

fn from_e_notation(text: &str) -> Option<i64> {
    let (mantissa, exponent) = text.split_once("e+")?;
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let zeros = exponent.parse::<usize>().ok()?.checked_sub(rest.len())?;
    if first.len() != 1 || zeros > 18 {
        return None;
    }
    format!("{first}{rest}{}", "0".repeat(zeros)).parse().ok()
}

impl Place {
    /// The cursor of this place.
    pub(crate) fn encode(&self) -> String {
        let id = super::body::text_of(&self.id);
        STANDARD.encode(format!("{}|{id}", e_notation(self.ts)))
    }

    /// The place of a cursor; `None` when it is not one of ours.
    pub(crate) fn decode(cursor: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(cursor).ok()?).ok()?;
        let (ms, id) = text.split_once('|')?;
        Some(Self { ts: from_e_notation(ms)?, id: id.as_bytes().try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_of_github_are_read_and_written_alike() {
        for cursor in [
            "MS42NjQzODMzNTk5MjdlKzEyfDloQzBxdURzaFdVbVlLWjkxRU9mNXc=",
            "MS42MTUzMzYzNzg4MzNlKzEyfFlBdkVhclBZR21reGtQMG5uRng4bVE=",
        ] {
            assert_eq!(Place::decode(cursor).unwrap().encode(), cursor);
        }
        let place =
            Place::decode("MS42NjQzODMzNTk5MjdlKzEyfDloQzBxdURzaFdVbVlLWjkxRU9mNXc=").unwrap();
        assert_eq!((place.ts, &place.id), (1_664_383_359_927, b"9hC0quDshWUmYKZ91EOf5w"));
    }

    #[test]
    fn zeros_at_the_end_survive() {
        for ts in [1_700_000_000_000, 1_700_000_000_120, 1, 10, 1_234] {
            let place = Place { ts, id: [b'x'; 22] };
            assert_eq!(Place::decode(&place.encode()), Some(place), "{ts}");
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["", "x", "MTIz", "bm9uc2Vuc2U=", "9hC0quDshWUmYKZ91EOf5w"] {
            assert_eq!(Place::decode(text), None, "{text}");
        }
    }
}
