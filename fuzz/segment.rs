//! Archive segments: any bytes; what was sealed comes back; damage is noticed; a bomb does not go off.

use crate::decisions::Decisions;
use ghauditd::archive::gap::ArchiveGap;
use ghauditd::archive::segment::{
    ArchivedRecord, Compressor, Footer, Header, OpenSegment, ReadLimits, RecordRef, SegmentError,
    SegmentReader, VERSION, parse_line, write_line,
};
use sha2::{Digest as _, Sha256};

/// Any bytes as an object, and as what an object holds.
#[test]
fn segment_of_bytes() {
    bolero::check!().with_max_len(4096_usize).for_each(|bytes: &[u8]| {
        drop(read(bytes, ReadLimits::default()));
        drop(ArchiveGap::parse(bytes));
        check_text(bytes);
    });
}

const PARTS: &[&str] = &[
    "{\"offset\":",
    "{\"to\":",
    ",\"count\":",
    ",\"first_timestamp\":null,\"last_timestamp\":null,\"sealed_ms\":0}\n",
    ",\"timestamp\":",
    ",\"key\":",
    ",\"headers\":[",
    "[\"n\",",
    "]",
    "[]",
    ",\"len\":",
    ",\"value\":",
    ",\"value_b64\":",
    "{\"b64\":\"/w==\"}",
    "\"/w==\"",
    "\"\"",
    "null",
    "0",
    "1",
    "2",
    "-1",
    "9223372036854775807",
    "{}",
    "{\"a\":1}",
    "}",
    "}\n",
    "\n",
    " ",
    ",",
    "\"",
    "{\"offset\":1,\"timestamp\":1,\"key\":null,\"headers\":[],\"len\":2,\"value\":{}}\n",
    "{\"offset\":2,\"timestamp\":null,\"key\":\"k\",\"headers\":[[\"h\",null]],\"value\":null}\n",
    "{\"to\":3,\"count\":2,\"first_timestamp\":1,\"last_timestamp\":1,\"sealed_ms\":0}\n",
    "\u{e9}",
    "\\u0000",
];

/// What looks like the lines of a segment.
#[test]
fn segment_of_lines() {
    bolero::check!().with_max_len(256_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut text = header_line(&header(&mut decisions));
        while !decisions.is_empty() {
            match decisions.byte() {
                0..=7 => text.push(decisions.byte()),
                _ => text.extend_from_slice(decisions.pick(PARTS).as_bytes()),
            }
        }
        check_text(&text);
    });
}

/// Records, however odd, come back byte for byte; an object that was changed is refused, or says the same.
#[test]
fn segment_of_records() {
    bolero::check!().with_max_len(2048_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let header = header(&mut decisions);
        let mut compressor = Compressor::new(1).unwrap();
        let mut open = OpenSegment::new(header.clone()).unwrap();
        let mut records = Vec::new();
        let mut offset = header.from;
        while !decisions.is_empty() && records.len() < 60 {
            offset += i64::from(decisions.byte() % 4);
            let record = record(&mut decisions, offset);
            push(&mut open, &record, &mut compressor);
            records.push(record);
            offset += 1;
            match decisions.byte() {
                0..=15 => open.compress(&mut compressor).unwrap(),
                16..=31 => open.compact(&mut compressor).unwrap(),
                _ => {}
            }
        }
        let sealed = open.seal(offset + 1, decisions.number(), &mut compressor).unwrap();
        assert_eq!(sealed.sha256, <[u8; 32]>::from(Sha256::digest(&sealed.bytes)));
        let whole = read(&sealed.bytes, ReadLimits::default()).unwrap();
        assert_eq!((&whole.header, &whole.footer), (&header, &sealed.footer));
        assert_eq!(whole.footer.count, u64::try_from(records.len()).unwrap());
        let back: Vec<_> = whole.lines.iter().map(|line| parse_line(line).unwrap()).collect();
        assert_eq!(back, records);
        damage(&mut decisions, &sealed.bytes, &whole);
    });
}

fn damage(decisions: &mut Decisions<'_>, object: &[u8], whole: &Read) {
    let at = usize::try_from(decisions.number().unsigned_abs() % 4_000_000).unwrap() % object.len();
    let cut = read(&object[..at], ReadLimits::default());
    assert!(cut.is_err(), "cut at {at}");
    let mut changed = object.to_vec();
    changed[at] ^= decisions.byte().max(1);
    if let Ok(read) = read(&changed, ReadLimits::default()) {
        assert_eq!(&read, whole, "changed at {at}");
    }
    let mut twice = object.to_vec();
    twice.extend_from_slice(object);
    assert!(read(&twice, ReadLimits::default()).is_err());
}

/// A few bytes that decompress to hundreds of MiB, in one line or many: refused within the limits, also of memory.
#[test]
fn segment_bomb() {
    bolero::check!().with_max_len(64_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let text = header_line(&header(&mut decisions));
        // RFC 8878: magic, a frame header with a window and nothing else, blocks
        let mut object = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, decisions.byte()];
        block(&mut object, 0, text.len());
        object.extend_from_slice(&text);
        let runs = 1 + decisions.below(256) * 16;
        while !decisions.is_empty() {
            let filling = decisions.byte();
            let size = 1_usize << (decisions.byte() % 18);
            for _ in 0..runs {
                block(&mut object, 1, size);
                object.push(filling);
            }
            if object.len() > 200_000 {
                break;
            }
        }
        let limits = ReadLimits {
            object_bytes_max: 1 << 20,
            raw_bytes_max: 16 << 20,
            line_bytes_max: 1 << decisions.below(22),
        };
        let before = resident_kib("VmHWM:");
        let result = read(&object, limits);
        assert!(matches!(
            result,
            Err(SegmentError::TooLarge { .. } | SegmentError::Damaged { .. })
        ));
        let peak = resident_kib("VmHWM:");
        // other tests of this process may take memory at the same time, but not that much
        assert!(peak < before.max(PEAK_KIB_MAX), "{before} KiB before, {peak} KiB at the peak");
    });
}

const PEAK_KIB_MAX: u64 = 400 << 10;

/// A block's header, RFC 8878: type 0 is raw, 1 is a run of one byte.
fn block(object: &mut Vec<u8>, kind: usize, size: usize) {
    let header = u32::try_from((size << 3) | (kind << 1)).unwrap().to_le_bytes();
    object.extend_from_slice(&header[..3]);
}

fn resident_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn header(decisions: &mut Decisions<'_>) -> Header {
    let position = |decisions: &mut Decisions<'_>| match decisions.byte() {
        0..=127 => 0,
        128..=191 => i64::from(decisions.byte()),
        _ => decisions.number() & (i64::MAX >> 2),
    };
    let maybe = |decisions: &mut Decisions<'_>| {
        (decisions.byte() > 200).then(|| decisions.number() & i64::MAX)
    };
    Header {
        version: VERSION,
        topic: decisions.pick(&["t", "github.audit.web", "a\"b\\\n", "\u{1f600}"]).to_owned(),
        partition: i32::from(decisions.byte()),
        from: position(decisions),
        log_start: maybe(decisions),
        gap_from: maybe(decisions),
    }
}

fn header_line(header: &Header) -> Vec<u8> {
    let mut line = serde_json::to_vec(header).unwrap();
    line.push(b'\n');
    line
}

fn record(decisions: &mut Decisions<'_>, offset: i64) -> ArchivedRecord {
    let timestamp_ms = (decisions.byte() > 20).then(|| decisions.number() & i64::MAX);
    let key = bytes(decisions);
    let headers = (0..decisions.below(4))
        .map(|_| {
            let name = bytes(decisions).unwrap_or_default();
            (String::from_utf8_lossy(&name).into_owned(), bytes(decisions))
        })
        .collect();
    ArchivedRecord { offset, timestamp_ms, key, headers, value: bytes(decisions) }
}

/// A key or value: none, any bytes, or what looks like JSON.
fn bytes(decisions: &mut Decisions<'_>) -> Option<Vec<u8>> {
    match decisions.byte() {
        0..=31 => None,
        32..=95 => Some((0..decisions.below(24)).map(|_| decisions.byte()).collect()),
        96 => Some(vec![decisions.byte(); decisions.below(256) * 300]),
        97..=101 => {
            let depth = decisions.below(256);
            Some([vec![b'['; depth], vec![b']'; depth]].concat())
        }
        _ => {
            let part = |_| decisions.pick(JSON).to_owned();
            Some((0..3).map(part).collect::<String>().into_bytes())
        }
    }
}

const JSON: &[&str] = &[
    "",
    "",
    "{}",
    "{\"a\":",
    "\"b\"",
    "}",
    "null",
    "1e400",
    "[1,2]",
    " ",
    "\n",
    "\r",
    "\"\\ud800\"",
    "\"}\"",
    ",\"value\":null}",
    "\u{2028}",
    "\0",
];

fn push(open: &mut OpenSegment, record: &ArchivedRecord, compressor: &mut Compressor) {
    if record.offset % 2 == 0 {
        open.push(as_ref(record, headers_of(record)), compressor).unwrap();
    } else {
        let mut line = Vec::new();
        write_line(&mut line, as_ref(record, headers_of(record))).unwrap();
        let timestamp_ms = record.timestamp_ms.unwrap_or(-1);
        open.push_line(record.offset, timestamp_ms, &line, compressor).unwrap();
    }
}

fn headers_of(record: &ArchivedRecord) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
}

fn as_ref<H>(record: &ArchivedRecord, headers: H) -> RecordRef<'_, H> {
    RecordRef {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms.unwrap_or(-1),
        key: record.key.as_deref(),
        headers,
        value: record.value.as_deref(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Read {
    header: Header,
    lines: Vec<Vec<u8>>,
    footer: Footer,
}

fn read(object: &[u8], limits: ReadLimits) -> Result<Read, SegmentError> {
    let mut reader = SegmentReader::open(object, limits)?;
    let mut lines = Vec::new();
    let mut last = reader.header().from - 1;
    while let Some(line) = reader.next_line()? {
        assert!(line.len() <= limits.line_bytes_max.saturating_add(64 << 10));
        lines.push(line.to_vec());
        assert!(reader.last_offset() > last);
        last = reader.last_offset();
    }
    let footer = reader.footer().unwrap().clone();
    assert!(footer.to > last);
    Ok(Read { header: reader.header().clone(), lines, footer })
}

/// Text, compressed, is refused, or is exactly header, lines and footer: no byte dropped, none invented.
fn check_text(text: &[u8]) {
    let object = zstd::bulk::compress(text, 1).unwrap();
    let Ok(read) = read(&object, ReadLimits::default()) else { return };
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.strip_suffix(b"\n").unwrap()).collect();
    let (first, rest) = lines.split_first().unwrap();
    let (last, records) = rest.split_last().unwrap();
    assert_eq!(serde_json::from_slice::<Header>(first).unwrap(), read.header);
    assert_eq!(serde_json::from_slice::<Footer>(last).unwrap(), read.footer);
    assert_eq!(read.lines, records);
    for line in records {
        check_line(line);
    }
}

/// A line that is a record says what a JSON reader finds in it, and is the same record when it is written again.
fn check_line(line: &[u8]) {
    let Ok(record) = parse_line(line) else { return };
    let json: serde_json::Value = match serde_json::from_slice(line) {
        Ok(json) => json,
        // valid, but beyond what the reader's numbers and strings can hold
        Err(_) => return,
    };
    assert_eq!(json["offset"], record.offset);
    assert_eq!(json["timestamp"].as_i64(), record.timestamp_ms);
    match &record.value {
        None => assert!(json["value"].is_null() && json.get("len").is_none()),
        Some(value) => {
            assert_eq!(json["len"], value.len());
            if let Some(found) = json.get("value") {
                assert_eq!(&serde_json::from_slice::<serde_json::Value>(value).unwrap(), found);
            }
        }
    }
    if record.timestamp_ms.is_none_or(|ms| ms >= 0) {
        let mut again = Vec::new();
        write_line(&mut again, as_ref(&record, headers_of(&record))).unwrap();
        assert_eq!(again.pop(), Some(b'\n'));
        assert_eq!(parse_line(&again), Ok(record));
    }
}
