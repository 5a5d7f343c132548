//! Kafka's records as the lines of a segment, and whether they are what is stored.

use crate::archive::segment::{RecordRef, SegmentError, SegmentReader, parse_line, write_line};
use crate::kafka::consumer::{RecordView, StreamRecord};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Appends the line of a record of a stream.
pub(super) fn encode(record: StreamRecord<'_>, out: &mut Vec<u8>) {
    let line = RecordRef {
        offset: record.offset(),
        timestamp_ms: record.timestamp_ms(),
        key: record.key(),
        headers: record.headers(),
        value: record.value(),
    };
    // Writing to memory does not fail.
    if let Err(error) = write_line(out, line) {
        tracing::error!("record not written as a line: {error}");
    }
}

/// The line of a record that was read by itself, without its LF.
pub(super) fn line_of(record: &RecordView<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let line = RecordRef {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key,
        headers: record.headers.iter().copied(),
        value: record.value,
    };
    if let Err(error) = write_line(&mut out, line) {
        tracing::error!("record not written as a line: {error}");
    }
    out.pop();
    out
}

/// Whether two lines hold the same record, however they were written.
pub(super) fn same_record(one: &[u8], other: &[u8]) -> bool {
    one == other
        || matches!((parse_line(one), parse_line(other)), (Ok(one), Ok(other)) if one == other)
}

/// Compares what is stored with Kafka's records, in step; keeps nothing but the hashes.
pub(super) struct Comparison<'a> {
    stored: SegmentReader<'a>,
    stored_hash: Sha256,
    kafka_hash: Sha256,
    equal: bool,
    failed: Option<SegmentError>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(stored: SegmentReader<'a>) -> Self {
        Self {
            stored,
            stored_hash: Sha256::new(),
            kafka_hash: Sha256::new(),
            equal: true,
            failed: None,
        }
    }

    /// Kafka's next record. Goes on after a difference: the hashes shall be of everything.
    pub(super) fn kafka(&mut self, record: &RecordView<'_>) {
        let line = line_of(record);
        add(&mut self.kafka_hash, &line);
        match self.stored.next_line() {
            Ok(Some(stored)) => {
                self.equal &= same_record(stored, &line);
                add(&mut self.stored_hash, stored);
            }
            Ok(None) => self.equal = false,
            Err(error) => {
                self.equal = false;
                self.failed.get_or_insert(error);
            }
        }
    }

    /// Whether both were the same, and both hashes: stored, Kafka's.
    pub(super) fn finish(mut self) -> Result<(bool, String, String), SegmentError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while let Some(more) = self.stored.next_line()? {
            self.equal = false;
            add(&mut self.stored_hash, more);
        }
        let (stored, kafka) = (self.stored_hash.finalize(), self.kafka_hash.finalize());
        Ok((self.equal, hex(&stored), hex(&kafka)))
    }
}

fn add(hash: &mut Sha256, line: &[u8]) {
    hash.update(line);
    hash.update(b"\n");
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        if write!(text, "{byte:02x}").is_err() {
            tracing::error!("text not written to memory");
        }
        text
    })
}
