//! Cuts a page into entries and reads their facts: one pass over the bytes, no copy of the body.
//!
//! A page is a JSON array. The cutter knows only as much of JSON as it needs to be right: strings, their escapes,
//! brackets, and the members of an entry. So one entry with invalid UTF-8, a lone surrogate, `1e400` or nesting
//! 200 deep costs nothing: it travels byte for byte like all others. Wherever `serde_json` accepts a page, both agree
//! on every element (property test below, fuzz target `page`).
//!
//! Facts are read leniently: one that is missing, of another type, longer than [`FACT_BYTES_MAX`] or not decodable is
//! `None` and costs nothing else. Duplicate member names: the last one wins.

use crate::audit::{Entry, Text};
use bytes::Bytes;

/// Longest string, in raw bytes between its quotes, that is taken as a fact. A longer `_document_id` counts as missing
/// (the id is then derived from the bytes), like any other fact: record keys and headers stay small.
pub const FACT_BYTES_MAX: usize = 1024;

/// Most entries of a page. GitHub sends 100; the limit bounds what a hostile body of the permitted size can cost.
pub const ENTRIES_MAX: usize = 10_000;

/// Entries for which room is made at first: GitHub's largest page.
const ENTRIES_USUAL: usize = 100;

/// Why a body cannot be cut into entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// It does not begin with `[` and end with `]`: not a page at all.
    #[error("the body does not begin with [ and end with ]")]
    NotAnArray,
    /// Its strings and brackets do not add up at this byte.
    #[error("the array cannot be cut into entries at byte {0}")]
    Malformed(usize),
    /// More entries than [`ENTRIES_MAX`].
    #[error("the array has more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// Whether a body counts as a page: begins with `[` and ends with `]`, JSON white space aside.
pub fn is_page(body: &[u8]) -> bool {
    let trimmed = trim(body);
    trimmed.len() >= 2 && trimmed.first() == Some(&b'[') && trimmed.last() == Some(&b']')
}

/// A body without JSON white space around it.
pub fn trim(mut body: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = body {
        body = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\n' | b'\r'] = body {
        body = rest;
    }
    body
}

/// Cuts a page into its entries, which share the body's bytes.
pub fn cut(body: &Bytes) -> Result<Vec<Entry>, CutError> {
    if !is_page(body) {
        return Err(CutError::NotAnArray);
    }
    let mut scan = Scanner { bytes: body, at: 0 };
    scan.skip_space();
    scan.at += 1;
    let mut entries = Vec::with_capacity(ENTRIES_USUAL);
    scan.skip_space();
    if scan.peek() == Some(b']') {
        scan.at += 1;
    } else {
        loop {
            scan.skip_space();
            if entries.len() == ENTRIES_MAX {
                return Err(CutError::TooMany);
            }
            entries.push(scan.element(body)?);
            scan.skip_space();
            match scan.peek() {
                Some(b',') => scan.at += 1,
                Some(b']') => {
                    scan.at += 1;
                    break;
                }
                _ => return Err(scan.malformed()),
            }
        }
    }
    scan.skip_space();
    if scan.peek().is_none() { Ok(entries) } else { Err(scan.malformed()) }
}

/// What stands where a value is expected, as far as a fact needs it.
#[derive(Clone, Copy, Default)]
enum Value {
    /// Nothing that a fact can be read from.
    #[default]
    Other,
    /// A string: where its content lies between the quotes, and whether it holds an escape.
    Str { from: usize, to: usize, escaped: bool },
    /// A number or literal.
    Scalar { from: usize, to: usize },
    /// An array with its brackets.
    Array { from: usize, to: usize },
}

/// Where the facts of one entry lie. Values are read only when its end is reached, so the last name wins for free.
#[derive(Default)]
struct Facts {
    id: Value,
    timestamp: Value,
    created_at: Value,
    action: Value,
    actor: Value,
    org: Value,
    repo: Value,
}

impl Facts {
    /// The fact that a member name stands for.
    #[inline]
    fn named(&mut self, name: &[u8]) -> Option<&mut Value> {
        Some(match name {
            b"_document_id" => &mut self.id,
            b"@timestamp" => &mut self.timestamp,
            b"created_at" => &mut self.created_at,
            b"action" => &mut self.action,
            b"actor" => &mut self.actor,
            b"org" => &mut self.org,
            b"repo" => &mut self.repo,
            _ => return None,
        })
    }

    /// The entry that these facts and bytes make.
    fn into_entry(self, page: &Bytes, body: Bytes) -> Entry {
        let org = match self.org {
            Value::Array { from, to } => first_string(page, from, to),
            other => other,
        };
        Entry {
            body,
            id: text(page, self.id).filter(|id| !id.as_bytes().is_empty()),
            timestamp_ms: time_ms(page, self.timestamp),
            created_at_ms: time_ms(page, self.created_at),
            action: text(page, self.action),
            actor: text(page, self.actor),
            org: text(page, org),
            repo: text(page, self.repo),
        }
    }
}

/// A place in the bytes. All methods move it forward only, except the one retry in [`Scanner::object`].
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn malformed(&self) -> CutError {
        CutError::Malformed(self.at)
    }

    /// One element of the page's array, from its first byte to its last.
    fn element(&mut self, page: &Bytes) -> Result<Entry, CutError> {
        let start = self.at;
        if self.peek() == Some(b'{') {
            let facts = self.object()?;
            return Ok(facts.into_entry(page, page.slice(start..self.at)));
        }
        self.value()?;
        Ok(Entry::opaque(page.slice(start..self.at)))
    }

    /// The object that begins here. One whose members are not written as JSON is skipped by strings and brackets alone:
    /// it keeps its bytes and has no facts.
    fn object(&mut self) -> Result<Facts, CutError> {
        let start = self.at;
        self.at += 1;
        if let Some(facts) = self.members()? {
            return Ok(facts);
        }
        self.at = start;
        self.nested()?;
        Ok(Facts::default())
    }

    /// The members up to and with the closing brace; `None` where they are not written as JSON.
    #[inline]
    fn members(&mut self) -> Result<Option<Facts>, CutError> {
        let mut facts = Facts::default();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Some(facts));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Ok(None);
            }
            let (from, to, escaped) = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Ok(None);
            }
            self.at += 1;
            self.skip_space();
            if !self.starts_value() {
                return Ok(None);
            }
            let value = self.value()?;
            let name = self.bytes.get(from..to).unwrap_or_default();
            if escaped {
                if let Some(fact) = unescape(name).and_then(|name| facts.named(&name)) {
                    *fact = value;
                }
            } else if let Some(fact) = facts.named(name) {
                *fact = value;
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Some(facts));
                }
                _ => return Ok(None),
            }
        }
    }

    #[inline]
    fn starts_value(&self) -> bool {
        !matches!(self.peek(), None | Some(b',' | b':' | b'}' | b']'))
    }

    /// The value that begins here.
    #[inline]
    fn value(&mut self) -> Result<Value, CutError> {
        let from = self.at;
        match self.peek() {
            Some(b'"') => {
                let (from, to, escaped) = self.string()?;
                Ok(Value::Str { from, to, escaped })
            }
            Some(b'[') => {
                self.nested()?;
                Ok(Value::Array { from, to: self.at })
            }
            Some(b'{') => {
                self.nested()?;
                Ok(Value::Other)
            }
            _ => {
                self.scalar()?;
                Ok(Value::Scalar { from, to: self.at })
            }
        }
    }

    /// A number or literal: at least one byte, up to white space or something of structure.
    #[inline]
    fn scalar(&mut self) -> Result<(), CutError> {
        let from = self.at;
        while let Some(byte) = self.peek() {
            if matches!(
                byte,
                b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' | b'"' | b'{' | b'[' | b':'
            ) {
                break;
            }
            self.at += 1;
        }
        if self.at == from { Err(self.malformed()) } else { Ok(()) }
    }

    /// The string whose opening quote stands here: where its content lies, and whether it holds an escape.
    #[inline]
    fn string(&mut self) -> Result<(usize, usize, bool), CutError> {
        let from = self.at + 1;
        let mut at = from;
        let mut escaped = false;
        loop {
            let Some(end) = find_quote_or_backslash(self.bytes, at) else {
                return Err(self.malformed());
            };
            if self.bytes.get(end) == Some(&b'"') {
                self.at = end + 1;
                return Ok((from, end, escaped));
            }
            escaped = true;
            at = end + 2;
        }
    }

    /// The brackets that open here, up to their closing one. Depth is a counter; the kinds are bits, so that one closed
    /// by the other kind is found at any depth.
    fn nested(&mut self) -> Result<(), CutError> {
        let mut open = Kinds::default();
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' => open.push(true),
                b'[' => open.push(false),
                b'}' | b']' => {
                    if open.pop() != Some(byte == b'}') {
                        return Err(self.malformed());
                    }
                    if open.depth == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        Err(self.malformed())
    }
}

/// The kinds of the open brackets, one bit each: the innermost 64 in a word, the others on the heap.
#[derive(Default)]
struct Kinds {
    depth: usize,
    word: u64,
    outer: Vec<u64>,
}

impl Kinds {
    #[inline]
    fn push(&mut self, brace: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.word);
        }
        self.word = (self.word << 1) | u64::from(brace);
        self.depth += 1;
    }

    #[inline]
    fn pop(&mut self) -> Option<bool> {
        self.depth = self.depth.checked_sub(1)?;
        let brace = self.word & 1 == 1;
        self.word >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.word = self.outer.pop().unwrap_or_default();
        }
        Some(brace)
    }
}

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;
const QUOTES: u64 = EACH * 0x22;
const BACKSLASHES: u64 = EACH * 0x5c;

/// Words of eight bytes that are looked at before a string counts as long.
const SHORT_WORDS: usize = 6;

/// The first `"` or `\` at or after `at`. Most strings of an entry have fewer than 25 bytes: eight at a time beats the
/// call of a vectorised search there, and loses to it in long ones.
#[inline]
fn find_quote_or_backslash(bytes: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..SHORT_WORDS {
        let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            break;
        };
        let word = u64::from_le_bytes(*word);
        // the lowest high bit set marks the first byte that is zero after the xor; only bits above it may be false
        let (quote, backslash) = (word ^ QUOTES, word ^ BACKSLASHES);
        let hit = ((quote.wrapping_sub(EACH) & !quote)
            | (backslash.wrapping_sub(EACH) & !backslash))
            & HIGH;
        if hit != 0 {
            return usize::try_from(hit.trailing_zeros() / 8).ok().map(|offset| at + offset);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', bytes.get(at..)?).map(|offset| at + offset)
}

/// The first element of an array that is a string.
#[cold]
fn first_string(page: &[u8], from: usize, to: usize) -> Value {
    let Some(bytes) = page.get(..to) else {
        return Value::Other;
    };
    let mut scan = Scanner { bytes, at: from + 1 };
    loop {
        scan.skip_space();
        match scan.value() {
            Ok(found @ Value::Str { .. }) => return found,
            Ok(_) => {}
            Err(_) => return Value::Other,
        }
        scan.skip_space();
        if scan.peek() != Some(b',') {
            return Value::Other;
        }
        scan.at += 1;
    }
}

/// The text of a string value: JSON (no bare control characters), Unicode, and not too long.
#[inline]
fn text(page: &Bytes, value: Value) -> Option<Text> {
    let Value::Str { from, to, escaped } = value else {
        return None;
    };
    let raw = page.get(from..to)?;
    if raw.len() > FACT_BYTES_MAX || raw.iter().any(|byte| *byte < 0x20) {
        return None;
    }
    if escaped { Text::new(unescape(raw)?.into()) } else { Text::new(page.slice(from..to)) }
}

/// What a string's content stands for; `None` for a broken escape or a lone surrogate. UTF-8 is not checked here.
#[cold]
fn unescape(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    while let Some((byte, rest)) = raw.split_first() {
        raw = rest;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let (kind, rest) = raw.split_first()?;
        raw = rest;
        let plain = match kind {
            b'"' | b'\\' | b'/' => *kind,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (symbol, rest) = unicode_escape(raw)?;
                raw = rest;
                out.extend_from_slice(symbol.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return None,
        };
        out.push(plain);
    }
    Some(out)
}

/// The character of `XXXX` or `XXXX\uXXXX` after a first `\u`, and what follows.
fn unicode_escape(raw: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = hex4(raw)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let (second, rest) = hex4(rest.strip_prefix(b"\\u")?)?;
    if !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    let symbol = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    Some((char::from_u32(symbol)?, rest))
}

fn hex4(raw: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = raw.split_first_chunk::<4>()?;
    let mut value = 0;
    for digit in digits {
        value = value << 4 | char::from(*digit).to_digit(16)?;
    }
    Some((value, rest))
}

/// A time in epoch milliseconds: a whole number however it is written, or an RFC 3339 string.
#[inline]
fn time_ms(page: &Bytes, value: Value) -> Option<i64> {
    match value {
        Value::Scalar { from, to } => whole_number(page.get(from..to)?),
        Value::Str { .. } => rfc3339_ms(&text(page, value)?),
        Value::Other | Value::Array { .. } => None,
    }
}

#[cold]
fn rfc3339_ms(text: &Text) -> Option<i64> {
    text.as_str().parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// A JSON number that is whole and fits, exactly: `1.6e12` is, `0.5`, `1e400` and `2^63` are not.
#[inline]
fn whole_number(token: &[u8]) -> Option<i64> {
    let (negative, digits) = match token {
        [b'-', rest @ ..] => (true, rest),
        digits => (false, digits),
    };
    if digits.len() < 19 && digits.iter().all(u8::is_ascii_digit) && !starts_with_zero(digits) {
        // fewer than 19 digits always fit
        let value = digits.iter().try_fold(0_i64, |value, digit| {
            value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
        })?;
        return Some(if negative { -value } else { value });
    }
    decimal(negative, digits)
}

/// Whether digits are not a JSON integer: none at all, or a zero before others.
fn starts_with_zero(digits: &[u8]) -> bool {
    matches!(digits, [] | [b'0', _, ..])
}

/// A number with many digits, a fraction or an exponent.
#[cold]
fn decimal(negative: bool, token: &[u8]) -> Option<i64> {
    let (mantissa, exponent) = match token.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (token.get(..at)?, Some(token.get(at + 1..)?)),
        None => (token, None),
    };
    let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
        Some(at) => (mantissa.get(..at)?, Some(mantissa.get(at + 1..)?)),
        None => (mantissa, None),
    };
    let all_digits = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if starts_with_zero(whole) || !all_digits(whole) || !fraction.is_none_or(all_digits) {
        return None;
    }
    let fraction = fraction.unwrap_or_default();
    let mut digits: Vec<u8> = [whole, fraction].concat();
    let cut = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    digits.truncate(digits.len() - cut);
    // value = digits * 10^power
    let power = exponent_of(exponent)?
        .checked_sub(i64::try_from(fraction.len()).ok()?)?
        .checked_add(i64::try_from(cut).ok()?)?;
    if digits.is_empty() {
        return Some(0);
    }
    let power = u32::try_from(power).ok().filter(|power| *power < 20)?;
    let mut value = 0_i128;
    for digit in &digits {
        value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let value = value.checked_mul(10_i128.checked_pow(power)?)?;
    i64::try_from(if negative { -value } else { value }).ok()
}

/// The exponent of a JSON number; one beyond all sense is an end of its own.
fn exponent_of(text: Option<&[u8]>) -> Option<i64> {
    let Some(text) = text else { return Some(0) };
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0')).min(1_000_000_000_000)
    });
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn cut_text(page: &str) -> Result<Vec<Entry>, CutError> {
        cut(&Bytes::copy_from_slice(page.as_bytes()))
    }

    fn one(entry: &str) -> Entry {
        let entries = cut_text(&format!("[{entry}]")).unwrap();
        assert_eq!(entries.len(), 1, "{entry}");
        assert_eq!(entries[0].body, entry.as_bytes(), "the bytes travel as they are");
        entries.into_iter().next().unwrap()
    }

    fn str_of(text: Option<&Text>) -> Option<&str> {
        text.map(Text::as_str)
    }

    #[test]
    fn entries_share_the_bytes_of_the_page() {
        let page = Bytes::from_static(
            b" [ {\"_document_id\":\"a\",\"org\":\"o\"} ,\n{\"_document_id\":\"b\"}\t] \r\n",
        );
        let entries = cut(&page).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].body.as_ptr(), page[3..].as_ptr());
        assert_eq!(entries[0].body, &b"{\"_document_id\":\"a\",\"org\":\"o\"}"[..]);
        assert_eq!(str_of(entries[1].id.as_ref()), Some("b"));
        assert_eq!(cut_text("[]").unwrap(), []);
        assert_eq!(cut_text(" [ ] ").unwrap(), []);
    }

    #[test]
    fn all_facts_are_read() {
        let entry = one(
            r#"{"@timestamp":1606929874512,"_document_id":"xJJFlFOhQ6b-5vaAFy9Rjw","action":"repo.create",
            "actor":"octocat","created_at":1606929874513,"org":"octo-org","repo":"octo-org/r","data":{"org":"no"}}"#,
        );
        assert_eq!(entry.timestamp_ms, Some(1_606_929_874_512));
        assert_eq!(entry.created_at_ms, Some(1_606_929_874_513));
        assert_eq!(str_of(entry.id.as_ref()), Some("xJJFlFOhQ6b-5vaAFy9Rjw"));
        assert_eq!(str_of(entry.action.as_ref()), Some("repo.create"));
        assert_eq!(str_of(entry.actor.as_ref()), Some("octocat"));
        assert_eq!(str_of(entry.org.as_ref()), Some("octo-org"));
        assert_eq!(str_of(entry.repo.as_ref()), Some("octo-org/r"));
    }

    #[test]
    fn a_fact_that_is_missing_or_odd_costs_nothing_else() {
        let long = "x".repeat(FACT_BYTES_MAX + 1);
        for id in [
            "null",
            "7",
            "\"\"",
            "{}",
            "[\"a\"]",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            r#""\x""#,
            r#""\u12""#,
            "\"a\tb\"",
            &format!("\"{long}\""),
        ] {
            let entry = one(&format!(r#"{{"_document_id":{id},"action":"a.b"}}"#));
            assert_eq!(entry.id, None, "{id}");
            assert_eq!(str_of(entry.action.as_ref()), Some("a.b"), "{id}");
        }
        assert_eq!(one(r#"{"action":1,"actor":["x"],"repo":{}}"#).action, None);
    }

    #[test]
    fn the_last_of_duplicate_names_wins() {
        let entry = one(r#"{"_document_id":"a","org":"x","_document_id":"b","org":null}"#);
        assert_eq!(str_of(entry.id.as_ref()), Some("b"));
        assert_eq!(entry.org, None);
        let entry = one(r#"{"_document_id":"a","\u005fdocument_id":"b\u00e9\n\ud83d\ude00"}"#);
        assert_eq!(str_of(entry.id.as_ref()), Some("b\u{e9}\n\u{1f600}"));
    }

    #[test]
    fn org_may_be_an_array() {
        for (org, expected) in [
            (r#"["a","b"]"#, Some("a")),
            (r#"[ null , ["x"] , {"y":"z"}, "b" ]"#, Some("b")),
            ("[]", None),
            ("[1,2]", None),
            (r#"["\u0061"]"#, Some("a")),
        ] {
            assert_eq!(str_of(one(&format!(r#"{{"org":{org}}}"#)).org.as_ref()), expected, "{org}");
        }
    }

    #[test]
    fn times_are_whole_numbers_or_rfc_3339() {
        for (time, expected) in [
            ("1606929874512", Some(1_606_929_874_512)),
            ("1.6e12", Some(1_600_000_000_000)),
            ("1600000000000.0", Some(1_600_000_000_000)),
            ("16000000000000e-1", Some(1_600_000_000_000)),
            ("-5", Some(-5)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0e999999999999999999999", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("1e400", None),
            ("1e-400", None),
            ("1.5", None),
            ("1e99999999999999999999999", None),
            ("01", None),
            ("1.", None),
            (".5", None),
            ("1e", None),
            ("+1", None),
            ("-", None),
            ("NaN", None),
            ("true", None),
            ("null", None),
            ("[1]", None),
            ("\"1606929874512\"", None),
            ("\"2020-12-02T17:24:34.512Z\"", Some(1_606_929_874_512)),
            ("\"2020-12-02T18:24:34+01:00\"", Some(1_606_929_874_000)),
            ("\"2099-13-02T17:24:34Z\"", None),
        ] {
            assert_eq!(
                one(&format!(r#"{{"@timestamp":{time}}}"#)).timestamp_ms,
                expected,
                "{time}"
            );
        }
    }

    #[test]
    fn hostile_entries_travel_byte_for_byte() {
        let deep = format!(r#"{{"_document_id":"d","x":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let mixed = format!(r#"{{"x":{}{}}}"#, r#"{"a":["#.repeat(500), "]}".repeat(500));
        let large = format!(r#"{{"_document_id":"l","x":"{}\\\""}}"#, "y".repeat(1 << 20));
        for entry in [
            deep.as_str(),
            &mixed,
            &large,
            r#"{"_document_id":"s","x":"\ud800"}"#,
            r#"{"_document_id":"e","x":1e400}"#,
            r#"{"_document_id":"n","x":9223372036854775809}"#,
            r#"{"_document_id":"b","x":"\q\u00"}"#,
            r#"{"x":"]},{[\"\\"}"#,
            r#"{"broken" 1 "members"::,}"#,
            "7",
            "-1.5e3",
            "null",
            "\"text ] \\\" \"",
            "[[1],{}]",
            "{}",
        ] {
            let page = format!("[{entry},{entry}]");
            let entries = cut_text(&page).unwrap();
            assert_eq!(entries.len(), 2);
            assert!(entries.iter().all(|cut| cut.body == entry.as_bytes()), "{entry}");
        }
        let invalid = b"[{\"_document_id\":\"i\",\"x\":\"\xff\xfe\"},{\"_document_id\":\"\xff\",\"action\":\"a\"}]";
        let entries = cut(&Bytes::from_static(invalid)).unwrap();
        assert_eq!(str_of(entries[0].id.as_ref()), Some("i"));
        assert_eq!(entries[1].id, None);
        assert_eq!(str_of(entries[1].action.as_ref()), Some("a"));
    }

    #[test]
    fn an_object_that_is_not_written_as_json_has_no_facts() {
        assert_eq!(one(r#"{"_document_id":"a","x" 1}"#).id, None);
        assert_eq!(one(r#"{"_document_id":"a",}"#).id, None);
    }

    #[test]
    fn what_is_no_page_is_told_from_what_cannot_be_cut() {
        for body in ["", " ", "[", "]", "{}", "{\"a\":[]}", "<html>", "null", "[{}", "[1,2", "x[]"]
        {
            assert_eq!(cut_text(body), Err(CutError::NotAnArray), "{body}");
        }
        for body in [
            "[,]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[{}{}]",
            "[{]",
            "[{]}]",
            "[}]",
            "[[]",
            "[1][2]",
            "[]]",
            "[\"a]",
            "[{\"a]",
            "[{\"a\\\"]",
            "[:]",
        ] {
            assert!(matches!(cut_text(body), Err(CutError::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn brackets_of_two_kinds_are_told_apart_at_any_depth() {
        for depth in [1, 63, 64, 65, 127, 128, 129, 1000] {
            let opens: String = "{[".repeat(depth);
            let closes: String = "]}".repeat(depth);
            let right = format!("[[{opens}{closes}]]");
            assert_eq!(cut_text(&right).unwrap().len(), 1);
            let wrong = format!("[[{opens}]{}]]", &closes[..closes.len() - 1]);
            assert!(cut_text(&wrong).is_err(), "depth {depth}");
        }
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let most = format!("[{}0]", "0,".repeat(ENTRIES_MAX - 1));
        assert_eq!(cut_text(&most).unwrap().len(), ENTRIES_MAX);
        let more = format!("[{}0]", "0,".repeat(ENTRIES_MAX));
        assert_eq!(cut_text(&more), Err(CutError::TooMany));
    }

    /// Text that is likely to be a page or nearly one.
    fn pagelike() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            4 => Just(r#"{"_document_id":"#.to_owned()),
            2 => Just(r#""@timestamp":"#.to_owned()),
            2 => Just(r#""org":"#.to_owned()),
            6 => Just("{".to_owned()), 6 => Just("}".to_owned()),
            3 => Just("[".to_owned()), 3 => Just("]".to_owned()),
            8 => Just(",".to_owned()), 4 => Just(":".to_owned()),
            4 => Just("\"a\"".to_owned()), 1 => Just("\"".to_owned()), 1 => Just("\\".to_owned()),
            2 => Just(" ".to_owned()), 2 => Just("1.6e12".to_owned()), 2 => Just("null".to_owned()),
            1 => Just(r#""\ud83d\ude00\n""#.to_owned()),
        ];
        proptest::collection::vec(token, 0..40).prop_map(|tokens| format!("[{}]", tokens.concat()))
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let page: Bytes = [b"[", bytes.as_slice(), b"]"].concat().into();
            if let Ok(entries) = cut(&page) {
                for entry in entries {
                    prop_assert!(!entry.body.is_empty());
                }
            }
        }

        #[test]
        fn agrees_with_serde_json_wherever_that_accepts(page in pagelike()) {
            if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(&page) {
                let entries = cut_text(&page).unwrap();
                prop_assert_eq!(entries.len(), elements.len());
                for (entry, element) in entries.iter().zip(elements) {
                    prop_assert_eq!(&entry.body[..], element.get().as_bytes());
                }
            }
        }

        #[test]
        fn finds_the_end_of_any_string(text in "\\PC{0,120}", before in 0_usize..9) {
            let quoted = serde_json::to_string(&text).unwrap();
            let page = format!("[{}{quoted}]", " ".repeat(before));
            prop_assert_eq!(&cut_text(&page).unwrap()[0].body[..], quoted.as_bytes());
        }

        #[test]
        fn reads_any_id_that_fits(id in "\\PC{1,60}", at in any::<i64>()) {
            let entry = serde_json::json!({"_document_id": id, "created_at": at}).to_string();
            let entry = one(&entry);
            prop_assert_eq!(str_of(entry.id.as_ref()), Some(id.as_str()));
            prop_assert_eq!(entry.created_at_ms, Some(at));
        }
    }
}
