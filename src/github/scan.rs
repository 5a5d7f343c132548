//! Walks over JSON-like bytes by strings, escapes and brackets alone.

use super::page::CutError;

/// What stands where a value is expected, as far as a fact needs it.
#[derive(Clone, Copy, Default)]
pub(super) enum Value {
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

/// A place in the bytes. All methods move it forward only, except the one retry in [`super::fact::read`].
pub(super) struct Scanner<'a> {
    /// All bytes.
    pub(super) bytes: &'a [u8],
    /// Where we are.
    pub(super) at: usize,
}

impl<'a> Scanner<'a> {
    /// A scanner of `bytes` that stands at `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    pub(super) fn malformed(&self) -> CutError {
        CutError::Malformed(self.at)
    }

    #[inline]
    pub(super) fn starts_value(&self) -> bool {
        !matches!(self.peek(), None | Some(b',' | b':' | b'}' | b']'))
    }

    /// The value that begins here.
    #[inline]
    pub(super) fn value(&mut self) -> Result<Value, CutError> {
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
    pub(super) fn string(&mut self) -> Result<(usize, usize, bool), CutError> {
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
    pub(super) fn nested(&mut self) -> Result<(), CutError> {
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
