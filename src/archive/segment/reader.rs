//! Reading a segment back, line by line, with limits, checking its shape on the way.

use super::{Footer, Header, SegmentError, VERSION};
use serde::Deserialize;
use std::io::Read;

/// What a reader takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes of the object.
    pub object_bytes_max: u64,
    /// Bytes after decompression.
    pub raw_bytes_max: u64,
    /// Bytes of one line.
    pub line_bytes_max: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { object_bytes_max: 256 << 20, raw_bytes_max: 16 << 30, line_bytes_max: 64 << 20 }
    }
}

/// Reads a segment's lines. Memory is bounded by the longest line and zstd's window.
pub struct SegmentReader<'a> {
    zstd: zstd::Decoder<'static, &'a [u8]>,
    limits: ReadLimits,
    /// Decompressed bytes; those before `used` were handed out.
    buffer: Vec<u8>,
    used: usize,
    raw_bytes: u64,
    line_number: u64,
    header: Header,
    last_offset: i64,
    count: u64,
    footer: Option<Footer>,
}

impl std::fmt::Debug for SegmentReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader").field("header", &self.header).finish_non_exhaustive()
    }
}

const READ_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
struct AnyVersion {
    ghauditd_segment: u32,
}

impl<'a> SegmentReader<'a> {
    /// Reads the header.
    pub fn open(object: &'a [u8], limits: ReadLimits) -> Result<Self, SegmentError> {
        let size = u64::try_from(object.len()).unwrap_or(u64::MAX);
        if size > limits.object_bytes_max {
            return Err(SegmentError::TooLarge {
                what: "an object",
                limit: limits.object_bytes_max,
            });
        }
        let damaged = |what: String| SegmentError::Damaged { line: 1, what };
        let zstd =
            zstd::Decoder::with_buffer(object).map_err(|error| damaged(error.to_string()))?;
        let mut reader = Self {
            zstd,
            limits,
            buffer: Vec::new(),
            used: 0,
            raw_bytes: 0,
            line_number: 0,
            header: Header {
                version: VERSION,
                topic: String::new(),
                partition: 0,
                from: 0,
                log_start: None,
                gap_from: None,
            },
            last_offset: 0,
            count: 0,
            footer: None,
        };
        let line = reader.line()?.ok_or_else(|| damaged("empty".to_owned()))?;
        let version: AnyVersion = serde_json::from_slice(line)
            .map_err(|error| damaged(format!("no header of a segment: {error}")))?;
        if version.ghauditd_segment > VERSION {
            return Err(SegmentError::Newer { found: version.ghauditd_segment });
        }
        let header: Header =
            serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
        if header.from < 0 || header.partition < 0 || header.version == 0 {
            return Err(damaged("a number in the header is out of range".to_owned()));
        }
        reader.last_offset = header.from.saturating_sub(1);
        reader.header = header;
        Ok(reader)
    }

    /// Its first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its last line, once all records were read.
    pub fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
    }

    /// The line of the next record, without its LF; `None` after the last, when the footer agrees with what was read.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, SegmentError> {
        if self.footer.is_some() {
            return Ok(None);
        }
        let (last_offset, count) = (self.last_offset, self.count);
        let number = self.line_number + 1;
        let damaged = |what: String| SegmentError::Damaged { line: number, what };
        let Some(line) = self.line()? else {
            return Err(damaged("cut off: no footer".to_owned()));
        };
        if let Some(offset) = offset_of(line) {
            if offset <= last_offset {
                return Err(damaged(format!("offset {offset} does not follow {last_offset}")));
            }
            let range = self.last_range();
            self.last_offset = offset;
            self.count = count + 1;
            return Ok(self.buffer.get(range));
        }
        let footer: Footer = serde_json::from_slice(line)
            .map_err(|error| damaged(format!("neither record nor footer: {error}")))?;
        if footer.count != count || footer.to <= last_offset {
            return Err(damaged(format!(
                "footer says {} records up to {}, read were {count} up to {last_offset}",
                footer.count, footer.to
            )));
        }
        if self.line()?.is_some() {
            return Err(damaged("something follows the footer".to_owned()));
        }
        self.footer = Some(footer);
        Ok(None)
    }

    /// Offset of the record last read, or the one before the segment's start.
    pub fn last_offset(&self) -> i64 {
        self.last_offset
    }

    /// Where the line that [`Self::line`] returned lies in the buffer.
    fn last_range(&self) -> std::ops::Range<usize> {
        let end = self.used.saturating_sub(1);
        let seen = self.buffer.get(..end).unwrap_or_default();
        memchr::memrchr(b'\n', seen).map_or(0, |at| at + 1)..end
    }

    fn line(&mut self) -> Result<Option<&[u8]>, SegmentError> {
        let mut searched = self.used;
        self.line_number += 1;
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', rest) {
                let (start, end) = (self.used, searched + at);
                self.used = end + 1;
                return Ok(self.buffer.get(start..end));
            }
            searched = self.buffer.len();
            if searched - self.used > self.limits.line_bytes_max {
                let limit = u64::try_from(self.limits.line_bytes_max).unwrap_or(u64::MAX);
                return Err(SegmentError::TooLarge { what: "a line", limit });
            }
            let moved = self.used;
            if !self.fill()? {
                if self.used < self.buffer.len() {
                    let what = "cut off in the middle of a line".to_owned();
                    return Err(SegmentError::Damaged { line: self.line_number, what });
                }
                return Ok(None);
            }
            searched -= moved - self.used;
        }
    }

    /// Decompresses more; false at the end of the object.
    fn fill(&mut self) -> Result<bool, SegmentError> {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        let have = self.buffer.len();
        self.buffer.resize(have + READ_BYTES, 0);
        let space = self.buffer.get_mut(have..).unwrap_or_default();
        let outcome = self.zstd.read(space);
        let read = outcome.as_ref().copied().unwrap_or(0);
        self.buffer.truncate(have + read);
        self.raw_bytes += u64::try_from(read).unwrap_or(u64::MAX);
        if self.raw_bytes > self.limits.raw_bytes_max {
            return Err(SegmentError::TooLarge { what: "lines", limit: self.limits.raw_bytes_max });
        }
        match outcome {
            Ok(read) => Ok(read > 0),
            Err(error) => {
                Err(SegmentError::Damaged { line: self.line_number, what: error.to_string() })
            }
        }
    }
}

/// The offset in a record's line; `None` when it is not one.
fn offset_of(line: &[u8]) -> Option<i64> {
    let rest = line.strip_prefix(b"{\"offset\":")?;
    let digits = rest.split(|b| !b.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Compressor, OpenSegment, RecordRef, Sealed, parse_line};
    use super::*;
    use proptest::prelude::*;

    fn header(from: i64) -> Header {
        Header {
            version: VERSION,
            topic: "t".to_owned(),
            partition: 3,
            from,
            log_start: None,
            gap_from: None,
        }
    }

    fn sealed(from: i64, values: &[(i64, Option<Vec<u8>>)], to: i64) -> Sealed {
        let mut compressor = Compressor::new(1).unwrap();
        let mut open = OpenSegment::new(header(from)).unwrap();
        for (offset, value) in values {
            let record = RecordRef {
                offset: *offset,
                timestamp_ms: 1_700_000_000_000 + offset,
                key: Some(b"k".as_slice()),
                headers: [("n", Some(b"v".as_slice()))],
                value: value.as_deref(),
            };
            open.push(record, &mut compressor).unwrap();
        }
        open.seal(to, 1_700_000_001_000, &mut compressor).unwrap()
    }

    fn read(object: &[u8]) -> Result<(Header, Vec<Vec<u8>>, Footer), SegmentError> {
        let mut reader = SegmentReader::open(object, ReadLimits::default())?;
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line()? {
            lines.push(line.to_vec());
        }
        Ok((reader.header().clone(), lines, reader.footer().unwrap().clone()))
    }

    #[test]
    fn golden_text_of_version_1() {
        let object = sealed(5, &[(5, Some(b"{\"a\":1}".to_vec())), (9, None)], 12);
        let text = String::from_utf8(zstd::decode_all(&object.bytes[..]).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"ghauditd_segment\":1,\"topic\":\"t\",\"partition\":3,\"from\":5}\n\
             {\"offset\":5,\"timestamp\":1700000000005,\"key\":\"k\",\"headers\":[[\"n\",\"v\"]],\"len\":7,\"value\":{\"a\":1}}\n\
             {\"offset\":9,\"timestamp\":1700000000009,\"key\":\"k\",\"headers\":[[\"n\",\"v\"]],\"value\":null}\n\
             {\"to\":12,\"count\":2,\"first_timestamp\":1700000000005,\"last_timestamp\":1700000000009,\"sealed_ms\":1700000001000}\n"
        );
    }

    /// Bytes that version 1 wrote on its first day. They must be readable for as long as archives live.
    #[test]
    fn golden_bytes_of_version_1_are_read() {
        use base64::Engine as _;
        let object = base64::engine::general_purpose::STANDARD.decode(GOLDEN_V1).unwrap();
        let (header, lines, footer) = read(&object).unwrap();
        assert_eq!((header.partition, header.from), (3, 5));
        assert_eq!((footer.to, footer.count), (12, 2));
        assert_eq!(parse_line(&lines[0]).unwrap().value.unwrap(), b"{\"a\":1}");
    }

    const GOLDEN_V1: &str = "\
        KLUv/WRaAF0FAEJMJB1wNc4YjRB6WX2uDV3El7Ear6reWWyjmKVJ9emDCUVkGEZ6TKIoU/pGRLFkn7OWMZBv\
        e1xhDKTc7VARMfY0BIlSroZyfZhKjIK8KRsJhBPj7cEgf44qSg/jiPMARYyHIUh5w6h9yqwdj3z1LYsbKqIj\
        Z5yzjAB5c2vXOqoZ3/PCatyOKd+mjEFfouxSHnUwDAUIAHxjJKE2xtDsa8EF4BwsLMXAd1WAKBWiiCE=";

    #[test]
    fn a_newer_version_is_refused() {
        let text = b"{\"ghauditd_segment\":2,\"anything\":[]}\n";
        let object = zstd::encode_all(&text[..], 1).unwrap();
        assert!(matches!(read(&object), Err(SegmentError::Newer { found: 2 })));
    }

    #[test]
    fn what_is_cut_off_or_appended_is_refused() {
        let object = sealed(0, &[(0, Some(b"{}".to_vec())), (1, Some(vec![0xff; 300_000]))], 2);
        for end in 0..object.bytes.len() {
            assert!(read(&object.bytes[..end]).is_err(), "cut at {end}");
        }
        let mut more = object.bytes.to_vec();
        more.extend(zstd::encode_all(&b"{\"offset\":9}\n"[..], 1).unwrap());
        assert!(matches!(read(&more), Err(SegmentError::Damaged { .. })));
    }

    #[test]
    fn limits_hold_against_a_bomb() {
        let mut text =
            b"{\"ghauditd_segment\":1,\"topic\":\"t\",\"partition\":0,\"from\":0}\n".to_vec();
        text.resize(40 << 20, b'x');
        let object = zstd::encode_all(&text[..], 1).unwrap();
        let limits = ReadLimits { line_bytes_max: 1 << 20, ..ReadLimits::default() };
        let mut reader = SegmentReader::open(&object, limits).unwrap();
        assert!(matches!(reader.next_line(), Err(SegmentError::TooLarge { what: "a line", .. })));
        assert!(reader.buffer.capacity() < 4 << 20);
        let limits = ReadLimits { raw_bytes_max: 2 << 20, ..ReadLimits::default() };
        let mut reader = SegmentReader::open(&object, limits).unwrap();
        assert!(matches!(reader.next_line(), Err(SegmentError::TooLarge { what: "lines", .. })));
    }

    #[test]
    fn the_checksum_is_of_the_object() {
        use sha2::Digest as _;
        let object = sealed(0, &[(0, Some(vec![b'1'; 700_000])), (1, None)], 5);
        assert_eq!(object.sha256, <[u8; 32]>::from(sha2::Sha256::digest(&object.bytes)));
    }

    proptest! {
        #[test]
        fn round_trip(
            from in 0_i64..1000,
            steps in proptest::collection::vec((1_i64..5, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50))), 0..40),
            rest in 1_i64..9,
        ) {
            let mut offset = from - 1;
            let values: Vec<_> = steps.into_iter().map(|(step, value)| { offset += step; (offset, value) }).collect();
            let object = sealed(from, &values, offset + rest);
            let (found, lines, footer) = read(&object.bytes).unwrap();
            prop_assert_eq!(found, header(from));
            prop_assert_eq!(&footer, &object.footer);
            let back: Vec<_> = lines.iter().map(|line| parse_line(line).unwrap()).map(|r| (r.offset, r.value)).collect();
            prop_assert_eq!(back, values);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), compressed: bool) {
            let object = if compressed { zstd::encode_all(&bytes[..], 1).unwrap() } else { bytes };
            drop(read(&object));
        }

        #[test]
        fn damage_never_panics(at in 0_usize..1000, byte: u8) {
            let mut object = sealed(0, &[(0, Some(b"{}".to_vec())), (1, Some(vec![7; 200]))], 2).bytes.to_vec();
            let at = at % object.len();
            object[at] = byte;
            drop(read(&object));
        }
    }
}
