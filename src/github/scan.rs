//! Walks over JSON-like bytes by strings, escapes and brackets alone.
//!
//! The hot path of collecting. Methods answer with an `Option` that fits a register: `None` means that strings and
//! brackets do not add up, at [`Scanner::at`].

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

    #[inline]
    pub(super) fn starts_value(&self) -> bool {
        !matches!(self.peek(), None | Some(b',' | b':' | b'}' | b']'))
    }

    /// Takes `byte`, after white space if there is some.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        if self.peek() != Some(byte) {
            self.skip_space();
            if self.peek() != Some(byte) {
                return false;
            }
        }
        self.at += 1;
        true
    }

    /// Goes behind the value that begins here.
    #[inline]
    pub(super) fn skip_value(&mut self) -> Option<()> {
        match self.peek() {
            Some(b'"') => self.skip_string().map(drop),
            Some(b'[' | b'{') => self.skip_nested(),
            _ => self.skip_scalar(),
        }
    }

    /// A number or literal: at least one byte, up to white space or something of structure.
    #[inline]
    fn skip_scalar(&mut self) -> Option<()> {
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
        (self.at > from).then_some(())
    }

    /// Goes behind the string whose opening quote stands here; says whether it holds an escape.
    #[inline]
    pub(super) fn skip_string(&mut self) -> Option<bool> {
        let end = find_quote_or_backslash(self.bytes, self.at + 1)?;
        self.at = end + 1;
        if self.bytes.get(end) == Some(&b'"') { Some(false) } else { self.skip_escaped() }
    }

    /// Goes behind the string in which a backslash stands right before here.
    #[cold]
    fn skip_escaped(&mut self) -> Option<bool> {
        loop {
            let end = find_quote_or_backslash(self.bytes, self.at + 1)?;
            self.at = end + 1;
            if self.bytes.get(end) == Some(&b'"') {
                return Some(true);
            }
        }
    }

    /// The brackets that open here, up to their closing one. Depth is a counter; the kinds are bits, so that one closed
    /// by the other kind is found at any depth.
    pub(super) fn skip_nested(&mut self) -> Option<()> {
        let mut open = Kinds::default();
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'{' => open.push(true),
                b'[' => open.push(false),
                b'}' | b']' => {
                    if open.pop() != Some(byte == b'}') {
                        return None;
                    }
                    if open.depth == 0 {
                        self.at += 1;
                        return Some(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        None
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

/// The first `"` or `\` at or after `at`. Nearly all strings of an entry end within 32 bytes: two fixed steps without a
/// branch on the length beat the call of a general search there, and lose to it in long ones.
#[inline]
fn find_quote_or_backslash(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    if let Some(block) = rest.first_chunk::<32>() {
        let &[a, b, c, d] = block.as_chunks::<8>().0 else { return None };
        let (a, b, c, d) = (hits(a), hits(b), hits(c), hits(d));
        if a | b != 0 {
            return Some(at + first_hit(a, b));
        }
        if c | d != 0 {
            return Some(at + 16 + first_hit(c, d));
        }
    }
    memchr::memchr2(b'"', b'\\', rest).map(|offset| at + offset)
}

/// Marks the first byte of a word that is a `"` or `\` by its highest bit: xor makes such a byte zero, and the lowest byte
/// that borrows is exact. Bits above it may be false.
#[inline]
fn hits(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    let (quote, backslash) = (word ^ QUOTES, word ^ BACKSLASHES);
    ((quote.wrapping_sub(EACH) & !quote) | (backslash.wrapping_sub(EACH) & !backslash)) & HIGH
}

/// The first marked byte of two words.
#[inline]
fn first_hit(low: u64, high: u64) -> usize {
    let (hits, before) = if low != 0 { (low, 0) } else { (high, 8) };
    usize::try_from(hits.trailing_zeros() / 8).map_or(0, |offset| before + offset)
}
