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
    /// Number of the block of 64 bytes that `stops` is about.
    block: usize,
    /// One bit for each byte of that block, the lowest for the first: whether it is a `"` or `\`.
    stops: u64,
}

impl<'a> Scanner<'a> {
    /// A scanner of `bytes` that stands at `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, block: usize::MAX, stops: 0 }
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
        let end = self.find_stop(self.at + 1)?;
        self.at = end + 1;
        if self.bytes.get(end) == Some(&b'"') { Some(false) } else { self.skip_escaped() }
    }

    /// Goes behind the string in which a backslash stands right before here.
    #[cold]
    fn skip_escaped(&mut self) -> Option<bool> {
        loop {
            let end = self.find_stop(self.at + 1)?;
            self.at = end + 1;
            if self.bytes.get(end) == Some(&b'"') {
                return Some(true);
            }
        }
    }

    /// The first `"` or `\` at or after `at`. Most strings lie in the block that is known already: a shift and a count,
    /// whatever their length.
    #[inline]
    fn find_stop(&mut self, at: usize) -> Option<usize> {
        if at / BLOCK == self.block {
            let ahead = self.stops >> (at % BLOCK);
            if ahead != 0 {
                return Some(at + lowest(ahead));
            }
        }
        self.find_stop_further(at)
    }

    /// The same from the block on that is not known yet.
    #[inline(never)]
    fn find_stop_further(&mut self, at: usize) -> Option<usize> {
        let mut from = if at / BLOCK == self.block { (self.block + 1) * BLOCK } else { at };
        loop {
            self.block = from / BLOCK;
            self.stops = stops(self.bytes.get(self.block * BLOCK..)?)?;
            let ahead = self.stops >> (from % BLOCK);
            if ahead != 0 {
                return Some(from + lowest(ahead));
            }
            from = (self.block + 1) * BLOCK;
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

/// Bytes that one word has bits for.
const BLOCK: usize = 64;

/// Marks each `"` and `\` of the block that begins `rest`. `None` at the end of the bytes.
#[inline]
fn stops(rest: &[u8]) -> Option<u64> {
    rest.first_chunk::<BLOCK>().map(marks).or_else(|| stops_of_last(rest))
}

#[cold]
fn stops_of_last(rest: &[u8]) -> Option<u64> {
    let mut block = [0; BLOCK];
    block.get_mut(..rest.len())?.copy_from_slice(rest);
    (!rest.is_empty()).then(|| marks(&block))
}

/// Comparing without a branch becomes vector instructions; multiplying gathers the lowest bits of eight bytes in the
/// highest one.
#[inline]
fn marks(block: &[u8; BLOCK]) -> u64 {
    let mut marked = [0_u8; BLOCK];
    for (mark, byte) in marked.iter_mut().zip(block) {
        *mark = u8::from(*byte == b'"') | u8::from(*byte == b'\\');
    }
    marked.as_chunks::<8>().0.iter().rev().fold(0, |marks, word| {
        (marks << 8) | (u64::from_le_bytes(*word).wrapping_mul(0x0102_0408_1020_4080) >> 56)
    })
}

/// Place of the lowest bit that is set.
#[inline]
fn lowest(marks: u64) -> usize {
    usize::try_from(marks.trailing_zeros()).unwrap_or_default()
}
