//! Cursors: any text, from a link or from a checkpoint, is the same cursor or none.

use crate::decisions::Decisions;
use ghauditd::audit::Cursor;

#[test]
fn cursor_of_bytes() {
    bolero::check!().with_max_len(4200_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        // around the limit too, which few inputs would reach by themselves
        let long = (decisions.byte() > 250).then(|| "x".repeat(3990 + decisions.below(120)));
        let mut text = Vec::new();
        while !decisions.is_empty() {
            text.push(decisions.byte());
        }
        let text = long.unwrap_or_default() + &String::from_utf8_lossy(&text);
        let cursor = Cursor::new(text.clone());
        assert_eq!(cursor.is_some(), (1..=Cursor::LEN_MAX).contains(&text.len()));
        let json = serde_json::to_string(&text).unwrap();
        assert_eq!(serde_json::from_str::<Cursor>(&json).ok(), cursor);
        if let Some(cursor) = cursor {
            assert_eq!(cursor.as_str(), text);
            assert_eq!(serde_json::to_string(&cursor).unwrap(), json);
        }
        // JSON as it may stand in a damaged checkpoint
        if let Ok(cursor) = serde_json::from_slice::<Cursor>(bytes) {
            assert_eq!(serde_json::from_slice::<String>(bytes).unwrap(), cursor.as_str());
        }
    });
}
