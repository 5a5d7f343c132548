//! The facts of one entry, read while it is cut out: which members they are and what their values say.

use super::scan::Scanner;
use crate::audit::{Entry, Text};
use bytes::Bytes;

/// Longest string, in raw bytes between its quotes, that is taken as a fact. A longer `_document_id` counts as missing
/// (the id is then derived from the bytes), like any other fact: record keys and headers stay small.
pub const BYTES_MAX: usize = 1024;

/// Where a value lies, from its first byte to behind its last; empty where there is none.
#[derive(Clone, Copy, Default)]
struct Span {
    from: usize,
    to: usize,
}

impl Span {
    #[inline]
    fn of(self, page: &[u8]) -> &[u8] {
        page.get(self.from..self.to).unwrap_or_default()
    }
}

/// Where the facts of one entry lie. They are read only when its end is reached, so the last name wins for free.
#[derive(Default)]
pub(super) struct Facts {
    id: Span,
    timestamp: Span,
    created_at: Span,
    action: Span,
    actor: Span,
    org: Span,
    repo: Span,
}

impl Facts {
    /// The fact that a member name stands for.
    #[inline]
    fn named(&mut self, name: &[u8]) -> Option<&mut Span> {
        // most names are none of these: one branch that is nearly always right, instead of a jump by length
        if name.len() > 12 || !matches!(name, [b'_' | b'@' | b'a' | b'c' | b'o' | b'r', ..]) {
            return None;
        }
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
    pub(super) fn into_entry(self, page: &Bytes, body: Bytes) -> Entry {
        let org = match self.org.of(page) {
            [b'[', ..] => first_string(page, self.org),
            _ => self.org,
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

/// Reads the facts of the object that begins here. One whose members are not written as JSON is skipped by strings and
/// brackets alone: it keeps its bytes and has no facts. `None` where those do not add up.
#[inline]
pub(super) fn read(scan: &mut Scanner<'_>) -> Option<Facts> {
    let start = scan.at;
    scan.at += 1;
    let mut facts = Facts::default();
    if members(scan, &mut facts)? {
        return Some(facts);
    }
    scan.at = start;
    scan.skip_nested()?;
    Some(Facts::default())
}

/// The members up to and with the closing brace; `false` where they are not written as JSON.
#[inline]
fn members(scan: &mut Scanner<'_>, facts: &mut Facts) -> Option<bool> {
    if scan.take(b'}') {
        return Some(true);
    }
    loop {
        scan.skip_space();
        if scan.peek() != Some(b'"') {
            return Some(false);
        }
        let from = scan.at + 1;
        let escaped = scan.skip_string()?;
        let name = scan.bytes.get(from..scan.at - 1).unwrap_or_default();
        if !scan.take(b':') {
            return Some(false);
        }
        scan.skip_space();
        if !scan.starts_value() {
            return Some(false);
        }
        let from = scan.at;
        scan.skip_value()?;
        let to = scan.at;
        if let Some(fact) = facts.named(name) {
            *fact = Span { from, to };
        } else if escaped {
            escaped_name(facts, name, Span { from, to });
        }
        if !scan.take(b',') {
            return Some(scan.take(b'}'));
        }
    }
}

#[cold]
fn escaped_name(facts: &mut Facts, name: &[u8], value: Span) {
    if let Some(fact) = unescape(name).and_then(|name| facts.named(&name)) {
        *fact = value;
    }
}

/// The first element of an array that is a string.
#[cold]
fn first_string(page: &[u8], array: Span) -> Span {
    let mut scan = Scanner::new(page.get(..array.to).unwrap_or_default(), array.from + 1);
    loop {
        scan.skip_space();
        let from = scan.at;
        if scan.skip_value().is_none() {
            return Span::default();
        }
        if page.get(from) == Some(&b'"') {
            return Span { from, to: scan.at };
        }
        if !scan.take(b',') {
            return Span::default();
        }
    }
}

/// The text of a string value: JSON (no bare control characters), Unicode, and not too long.
#[inline]
fn text(page: &Bytes, value: Span) -> Option<Text> {
    let [b'"', raw @ .., b'"'] = value.of(page) else { return None };
    if raw.len() > BYTES_MAX {
        return None;
    }
    match plainness(raw) {
        Plainness::Plain => Text::new(page.slice(value.from + 1..value.to - 1)),
        Plainness::Escaped => Text::new(unescape(raw)?.into()),
        Plainness::Broken => None,
    }
}

/// What a string's content holds besides plain characters.
enum Plainness {
    Plain,
    Escaped,
    Broken,
}

#[inline]
fn plainness(raw: &[u8]) -> Plainness {
    let (mut control, mut backslash) = (false, false);
    for byte in raw {
        control |= *byte < 0x20;
        backslash |= *byte == b'\\';
    }
    match (control, backslash) {
        (true, _) => Plainness::Broken,
        (false, true) => Plainness::Escaped,
        (false, false) => Plainness::Plain,
    }
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

/// The character of four hex digits, or of two such surrogates, after a first `\u`; and what follows.
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
fn time_ms(page: &Bytes, value: Span) -> Option<i64> {
    match value.of(page) {
        [] => None,
        [b'"', ..] => rfc3339_ms(&text(page, value)?),
        token => whole_number(token),
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
    // fewer than 19 digits always fit
    if digits.len() < 19 && !starts_with_zero(digits) {
        let mut value = 0_i64;
        let mut digits_only = true;
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            digits_only &= digit < 10;
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
        }
        if digits_only {
            return Some(if negative { -value } else { value });
        }
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
