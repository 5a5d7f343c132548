//! Gathering records into a segment, with bounded memory.

use super::line::{RecordRef, write_line};
use super::{Footer, Header};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::io;

/// Raw lines are gathered up to this many bytes, then become one zstd frame.
const CHUNK_BYTES: usize = 256 << 10;
/// The compressed buffer grows in steps of this size: growing never doubles it.
const GROWTH_BYTES: usize = 512 << 10;

/// One zstd context for all open segments, however many there are.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    frame: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// A context for this zstd level (1 to 19).
    pub fn new(level: i32) -> io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(level)?;
        zstd.include_checksum(true)?;
        Ok(Self { zstd, frame: Vec::new() })
    }

    /// `raw` as one frame.
    fn frame(&mut self, raw: &[u8]) -> io::Result<&[u8]> {
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, &mut self.frame)?;
        // A giant record must not keep a giant buffer for good.
        if self.frame.capacity() > 4 * CHUNK_BYTES {
            self.frame.shrink_to(2 * CHUNK_BYTES);
        }
        Ok(&self.frame)
    }
}

/// A segment that still takes records.
#[derive(Debug)]
pub struct OpenSegment {
    header: Header,
    raw: Vec<u8>,
    compressed: Vec<u8>,
    sha256: Sha256,
    count: u64,
    first_timestamp: Option<i64>,
    last_timestamp: Option<i64>,
    last_offset: i64,
}

/// A segment that is ready to be stored.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its first line.
    pub header: Header,
    /// Its last line.
    pub footer: Footer,
    /// The object.
    pub bytes: Bytes,
    /// SHA-256 of the object.
    pub sha256: [u8; 32],
}

impl OpenSegment {
    /// An empty one.
    pub fn new(header: Header) -> io::Result<Self> {
        let mut raw = Vec::new();
        serde_json::to_writer(&mut raw, &header)?;
        raw.push(b'\n');
        Ok(Self {
            last_offset: header.from.saturating_sub(1),
            header,
            raw,
            compressed: Vec::new(),
            sha256: Sha256::new(),
            count: 0,
            first_timestamp: None,
            last_timestamp: None,
        })
    }

    /// Takes a record; its offset must be above all earlier ones.
    pub fn push<'a, H>(
        &mut self,
        record: RecordRef<'a, H>,
        compressor: &mut Compressor,
    ) -> io::Result<()>
    where
        H: IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    {
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        write_line(&mut self.raw, record)?;
        self.note(offset, timestamp_ms, compressor)
    }

    /// Takes a record whose line, with its LF, was written by [`write_line`].
    pub fn push_line(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        line: &[u8],
        compressor: &mut Compressor,
    ) -> io::Result<()> {
        self.raw.extend_from_slice(line);
        self.note(offset, timestamp_ms, compressor)
    }

    fn note(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        compressor: &mut Compressor,
    ) -> io::Result<()> {
        assert!(offset > self.last_offset, "offsets of a segment ascend");
        self.last_offset = offset;
        let timestamp = (timestamp_ms >= 0).then_some(timestamp_ms);
        if self.count == 0 {
            self.first_timestamp = timestamp;
        }
        self.last_timestamp = timestamp;
        self.count += 1;
        if self.raw.len() >= CHUNK_BYTES { self.compress(compressor) } else { Ok(()) }
    }

    /// Turns the raw lines that wait into a frame.
    pub fn compress(&mut self, compressor: &mut Compressor) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let frame = compressor.frame(&self.raw)?;
        self.sha256.update(frame);
        if self.compressed.capacity() - self.compressed.len() < frame.len() {
            self.compressed.reserve_exact(frame.len().max(GROWTH_BYTES.min(self.compressed.len())));
        }
        self.compressed.extend_from_slice(frame);
        self.raw.clear();
        if self.raw.capacity() > 2 * CHUNK_BYTES {
            self.raw.shrink_to(CHUNK_BYTES);
        }
        Ok(())
    }

    /// Like [`Self::compress`], and gives the memory of the raw lines back: for many slow partitions at once.
    pub fn compact(&mut self, compressor: &mut Compressor) -> io::Result<()> {
        self.compress(compressor)?;
        self.raw = Vec::new();
        self.compressed.shrink_to_fit();
        Ok(())
    }

    /// Ends it at `to`, above its last record.
    pub fn seal(
        mut self,
        to: i64,
        sealed_ms: i64,
        compressor: &mut Compressor,
    ) -> io::Result<Sealed> {
        assert!(to > self.last_offset, "a segment ends behind its last record");
        let footer = Footer {
            to,
            count: self.count,
            first_timestamp: self.first_timestamp,
            last_timestamp: self.last_timestamp,
            sealed_ms,
        };
        serde_json::to_writer(&mut self.raw, &footer)?;
        self.raw.push(b'\n');
        self.compress(compressor)?;
        Ok(Sealed {
            header: self.header,
            footer,
            bytes: Bytes::from(self.compressed),
            sha256: self.sha256.finalize().into(),
        })
    }

    /// Its first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Records so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Offset of the last record, or the one before its start.
    pub fn last_offset(&self) -> i64 {
        self.last_offset
    }

    /// Kafka's time of the first record.
    pub fn first_timestamp(&self) -> Option<i64> {
        self.first_timestamp
    }

    /// Compressed bytes so far.
    pub fn compressed_bytes(&self) -> usize {
        self.compressed.len()
    }

    /// Raw bytes that wait to be compressed.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Memory that it holds.
    pub fn held_bytes(&self) -> usize {
        self.raw.capacity() + self.compressed.capacity()
    }
}
