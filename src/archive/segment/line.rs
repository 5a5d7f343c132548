//! One record as one line, and back to the exact bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io;

/// Values nested deeper travel as base64: common readers stop somewhere above.
const DEPTH_MAX: usize = 100;

/// A record to be written; `H` yields its headers in order.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a, H> {
    /// Its offset.
    pub offset: i64,
    /// Kafka's time, epoch milliseconds; negative: none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers.
    pub headers: H,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// A record that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedRecord {
    /// Its offset.
    pub offset: i64,
    /// Kafka's time, epoch milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its value, byte for byte.
    pub value: Option<Vec<u8>>,
}

/// Why a line is not a record.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("not a record: {0}")]
pub struct LineError(pub String);

/// Appends the line of a record, with its LF.
pub fn write_line<'a, H>(out: &mut Vec<u8>, record: RecordRef<'a, H>) -> io::Result<()>
where
    H: IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
{
    out.extend_from_slice(b"{\"offset\":");
    number(out, record.offset)?;
    out.extend_from_slice(b",\"timestamp\":");
    if record.timestamp_ms < 0 {
        out.extend_from_slice(b"null");
    } else {
        number(out, record.timestamp_ms)?;
    }
    out.extend_from_slice(b",\"key\":");
    text_or_base64(out, record.key)?;
    out.extend_from_slice(b",\"headers\":[");
    let mut first = true;
    for (name, value) in record.headers {
        out.extend_from_slice(if first { b"[" } else { b",[" });
        first = false;
        string(out, name)?;
        out.push(b',');
        text_or_base64(out, value)?;
        out.push(b']');
    }
    out.push(b']');
    write_value(out, record.value)?;
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: Option<&[u8]>) -> io::Result<()> {
    let Some(value) = value else {
        out.extend_from_slice(b",\"value\":null");
        return Ok(());
    };
    out.extend_from_slice(b",\"len\":");
    number(out, value.len())?;
    if is_embeddable(value) {
        out.extend_from_slice(b",\"value\":");
        out.extend_from_slice(value);
    } else {
        out.extend_from_slice(b",\"value_b64\":\"");
        base64(out, value);
        out.push(b'"');
    }
    Ok(())
}

/// JSON on one line, in UTF-8, not too deep.
fn is_embeddable(value: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', value).is_none()
        && std::str::from_utf8(value)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
        && is_shallow(value)
}

/// Whether valid JSON is nested at most [`DEPTH_MAX`] deep. Counting brackets is enough for nearly all.
fn is_shallow(json: &[u8]) -> bool {
    memchr::memchr2_iter(b'{', b'[', json).take(DEPTH_MAX + 1).count() <= DEPTH_MAX
        || depth(json) <= DEPTH_MAX
}

fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn number<N: serde::Serialize>(out: &mut Vec<u8>, number: N) -> io::Result<()> {
    serde_json::to_writer(out, &number).map_err(io::Error::from)
}

fn string(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return Ok(());
    }
    serde_json::to_writer(out, text).map_err(io::Error::from)
}

fn text_or_base64(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> io::Result<()> {
    let Some(bytes) = bytes else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        return string(out, text);
    }
    out.extend_from_slice(b"{\"b64\":\"");
    base64(out, bytes);
    out.extend_from_slice(b"\"}");
    Ok(())
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    // In pieces of whole groups: no second copy of a large value.
    for piece in bytes.chunks(3 << 10) {
        out.extend_from_slice(BASE64.encode(piece).as_bytes());
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineJson<'a> {
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Text>,
    headers: Vec<(String, Option<Text>)>,
    len: Option<usize>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_b64: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Base64 { b64: String },
}

impl Text {
    fn bytes(self) -> Result<Vec<u8>, LineError> {
        match self {
            Self::Plain(text) => Ok(text.into_bytes()),
            Self::Base64 { b64 } => decode_base64(&b64),
        }
    }
}

/// Reads a line (without its LF) back.
pub fn parse_line(line: &[u8]) -> Result<ArchivedRecord, LineError> {
    let text = std::str::from_utf8(line).map_err(|error| LineError(error.to_string()))?;
    let json: LineJson<'_> =
        serde_json::from_str(text).map_err(|error| LineError(error.to_string()))?;
    let value = match (json.len, json.value, json.value_b64) {
        (None, None, None) if line.ends_with(b",\"value\":null}") => None,
        (Some(len), None, Some(b64)) => {
            let value = decode_base64(&b64)?;
            if value.len() != len {
                return Err(LineError(format!("value of {} bytes, len says {len}", value.len())));
            }
            Some(value)
        }
        // A value that is the JSON null reads as `None` here, but has a length.
        (Some(len), raw, None) => Some(verbatim(line, len, raw.map_or("null", RawValue::get))?),
        _ => return Err(LineError("neither value nor value_b64".to_owned())),
    };
    let headers = json
        .headers
        .into_iter()
        .map(|(name, value)| Ok((name, value.map(Text::bytes).transpose()?)))
        .collect::<Result<_, LineError>>()?;
    Ok(ArchivedRecord {
        offset: json.offset,
        timestamp_ms: json.timestamp,
        key: json.key.map(Text::bytes).transpose()?,
        headers,
        value,
    })
}

/// The `len` bytes before the final `}`, which must be the value that a JSON reader found.
fn verbatim(line: &[u8], len: usize, found: &str) -> Result<Vec<u8>, LineError> {
    let value = line
        .strip_suffix(b"}")
        .and_then(|rest| rest.len().checked_sub(len).and_then(|at| rest.split_at_checked(at)))
        .filter(|(before, _)| before.ends_with(b",\"value\":"))
        .map(|(_, value)| value);
    match value {
        Some(value) if value.trim_ascii() == found.as_bytes() => Ok(value.to_vec()),
        _ => Err(LineError(format!("len {len} does not fit the value"))),
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>, LineError> {
    BASE64.decode(text).map_err(|error| LineError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(record: &ArchivedRecord) -> Vec<u8> {
        let mut out = Vec::new();
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        write_line(
            &mut out,
            RecordRef {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms.unwrap_or(-1),
                key: record.key.as_deref(),
                headers,
                value: record.value.as_deref(),
            },
        )
        .unwrap();
        assert_eq!(out.pop(), Some(b'\n'));
        assert!(!out.contains(&b'\n'));
        out
    }

    fn with_value(value: Option<&[u8]>) -> ArchivedRecord {
        ArchivedRecord {
            offset: 7,
            timestamp_ms: Some(1_700_000_000_000),
            key: Some(b"acme".to_vec()),
            headers: vec![("h".to_owned(), None)],
            value: value.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn golden_lines() {
        let plain = with_value(Some(br#"{"a": 1.0e400, "b":"\ud800"}"#));
        assert_eq!(
            String::from_utf8(line(&plain)).unwrap(),
            r#"{"offset":7,"timestamp":1700000000000,"key":"acme","headers":[["h",null]],"len":28,"value":{"a": 1.0e400, "b":"\ud800"}}"#
        );
        let record = ArchivedRecord {
            offset: 8,
            timestamp_ms: None,
            key: None,
            headers: vec![
                ("ce_id".to_owned(), Some(b"a\"b\n".to_vec())),
                ("x".to_owned(), Some(vec![0xff])),
            ],
            value: Some(b"{\"a\":\xff}".to_vec()),
        };
        assert_eq!(
            String::from_utf8(line(&record)).unwrap(),
            r#"{"offset":8,"timestamp":null,"key":null,"headers":[["ce_id","a\"b\n"],["x",{"b64":"/w=="}]],"len":7,"value_b64":"eyJhIjr/fQ=="}"#
        );
        assert!(
            line(&with_value(None)).ends_with(br#",["h",null]],"value":null}"#)
                || line(&with_value(None)).ends_with(br#"[["h",null]],"value":null}"#)
        );
    }

    #[test]
    fn hostile_values_come_back_byte_for_byte() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let deep_in_string = format!("\"{}\"", "[{".repeat(200));
        let values: [&[u8]; 17] = [
            b"",
            b" ",
            b"null",
            b" {\"a\":1} ",
            b"\t{}\t",
            b"{}\n",
            b"{\r}",
            b"}",
            b"{\"offset\":1}",
            b"\"},\"value\":null}\"",
            b"\xef\xbb\xbf{}",
            b"\"\xed\xa0\x80\"",
            b"{\"a\":1,\"a\":2}",
            b"9223372036854775808",
            b"1e400",
            deep.as_bytes(),
            deep_in_string.as_bytes(),
        ];
        for value in values {
            let record = with_value(Some(value));
            assert_eq!(parse_line(&line(&record)), Ok(record), "{}", value.escape_ascii());
        }
        assert_eq!(parse_line(&line(&with_value(None))), Ok(with_value(None)));
    }

    #[test]
    fn deep_values_travel_as_base64_and_deep_looking_strings_do_not() {
        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        assert!(!is_embeddable(deep.as_bytes()));
        let just = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(is_embeddable(just.as_bytes()));
        assert!(is_embeddable(format!("\"\\\"{}\"", "[".repeat(500)).as_bytes()));
    }

    #[test]
    fn a_wrong_length_is_refused() {
        let good = br#"{"offset":7,"timestamp":1,"key":null,"headers":[],"len":2,"value":{}}"#;
        assert!(parse_line(good).is_ok());
        for bad in [
            &br#"{"offset":7,"timestamp":1,"key":null,"headers":[],"len":3,"value":{}}"#[..],
            br#"{"offset":7,"timestamp":1,"key":null,"headers":[],"len":1,"value":{}}"#,
            br#"{"offset":7,"timestamp":1,"key":null,"headers":[],"len":99,"value":{}}"#,
            br#"{"offset":7,"timestamp":1,"key":null,"headers":[]}"#,
            br#"{"offset":7,"timestamp":1,"key":null,"headers":[],"value":{}}"#,
            br#"{"offset":7,"timestamp":1,"key":null,"headers":[],"len":1,"value_b64":"////"}"#,
        ] {
            assert!(parse_line(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "\\PC{0,40}".prop_map(String::into_bytes),
            r#"[ \t]?\{"a":[0-9\[\]{}," a-z\\]{0,20}\}[ \n]?"#.prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(
            offset in 0..i64::MAX,
            timestamp_ms in proptest::option::of(0..i64::MAX),
            key in proptest::option::of(bytes()),
            headers in proptest::collection::vec((".{0,10}", proptest::option::of(bytes())), 0..4),
            value in proptest::option::of(bytes()),
        ) {
            let record = ArchivedRecord { offset, timestamp_ms, key, headers, value };
            prop_assert_eq!(parse_line(&line(&record)), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse_line(&bytes));
        }

        #[test]
        fn damaged_lines_never_panic(value in bytes(), at in 0_usize..200, byte: u8) {
            let mut line = line(&with_value(Some(&value)));
            let at = at % line.len();
            line[at] = byte;
            drop(parse_line(&line));
        }
    }
}
