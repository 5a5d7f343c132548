//! Reads what a replay sends, on a thread of its own, a little ahead of the sending.

use super::scan::facts;
use crate::audit::header;
use crate::audit::replay::{ReplayId, Selection, Span, Tally};
use crate::kafka::consumer::{ReadError, RecordView, TopicReader};
use crate::kafka::producer::Copy;
use crate::kafka::settings::Settings;
use bytes::Bytes;
use std::ops::ControlFlow;
use tokio::sync::mpsc;

/// A chunk is handed over at this size; a single record may be larger.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// A chunk is handed over after so many records were looked at, so that progress is seen where little fits.
const CHUNK_LOOKED_AT_MAX: usize = 20_000;
/// Chunks that wait to be sent.
const CHUNKS_AHEAD: usize = 2;

/// Records of one span, in their order.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Which span of the plan.
    pub(super) span: usize,
    /// What is to be sent.
    pub(super) copies: Vec<Copy>,
    /// How much that is, as it stands in the source.
    pub(super) tally: Tally,
    /// The next offset to be looked at.
    pub(super) next: i64,
}

/// What is read, and how it is marked.
pub(super) struct Work {
    pub(super) id: ReplayId,
    pub(super) selection: Selection,
    /// Each with the offset to go on from.
    pub(super) spans: Vec<(Span, i64)>,
    pub(super) records_max: u64,
}

/// Starts reading; ends, with its thread, when the receiver is dropped.
pub(super) fn start(
    settings: &Settings,
    work: Work,
) -> Result<mpsc::Receiver<Result<Chunk, ReadError>>, ReadError> {
    let reader = TopicReader::new(settings)?;
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::Builder::new()
        .name("replay-reader".to_owned())
        .spawn(move || {
            if let Err(error) = read(&reader, &work, &sender) {
                // nobody may be there any more to whom it matters
                drop(sender.blocking_send(Err(error)));
            }
        })
        .map_err(|error| ReadError::Client { message: format!("thread not started: {error}") })?;
    Ok(chunks)
}

fn read(
    reader: &TopicReader,
    work: &Work,
    sender: &mpsc::Sender<Result<Chunk, ReadError>>,
) -> Result<(), ReadError> {
    // a span that is done may lie before what Kafka still has
    let open = work.spans.iter().enumerate().filter(|(_, (span, from))| *from < span.to);
    for (index, (span, from)) in open {
        let mut open = Open::new(index, *from);
        let mut is_wanted = true;
        reader.read_range(&span.topic, span.partition, *from, span.to, |record| {
            is_wanted = open.take(work, span, &record, sender).is_continue();
            is_wanted
        })?;
        open.chunk.next = span.to.max(*from);
        if !is_wanted || open.hand_over(sender).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// The chunk that is being filled.
struct Open {
    chunk: Chunk,
    bytes: usize,
    looked_at: usize,
}

impl Open {
    fn new(span: usize, next: i64) -> Self {
        let chunk = Chunk { span, copies: Vec::new(), tally: Tally::default(), next };
        Self { chunk, bytes: 0, looked_at: 0 }
    }

    fn take(
        &mut self,
        work: &Work,
        span: &Span,
        record: &RecordView<'_>,
        sender: &mpsc::Sender<Result<Chunk, ReadError>>,
    ) -> ControlFlow<()> {
        self.chunk.next = record.offset.saturating_add(1);
        self.looked_at += 1;
        if work.selection.takes(&facts(record)) {
            let bytes = record.bytes();
            self.chunk.tally.add(bytes);
            self.bytes = self.bytes.saturating_add(bytes);
            self.chunk.copies.push(copy(&work.id, span, record));
        }
        let is_full = self.chunk.tally.records >= work.records_max
            || self.bytes >= CHUNK_BYTES_MAX
            || self.looked_at >= CHUNK_LOOKED_AT_MAX;
        if is_full { self.hand_over(sender) } else { ControlFlow::Continue(()) }
    }

    fn hand_over(&mut self, sender: &mpsc::Sender<Result<Chunk, ReadError>>) -> ControlFlow<()> {
        let next = Self::new(self.chunk.span, self.chunk.next);
        let full = std::mem::replace(self, next).chunk;
        match sender.blocking_send(Ok(full)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// A record as it stands, with where it stood.
fn copy(id: &ReplayId, span: &Span, record: &RecordView<'_>) -> Copy {
    let owned = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
    let mut headers: Vec<(String, Option<Bytes>)> = Vec::with_capacity(record.headers.len() + 3);
    headers.extend(record.headers.iter().map(|(name, value)| ((*name).to_owned(), owned(*value))));
    let mut mark = |name: &str, value: String| {
        headers.push((name.to_owned(), Some(Bytes::from(value))));
    };
    mark(header::REPLAY, id.to_string());
    mark(header::REPLAY_OF, format!("{}/{}/{}", span.topic, span.partition, record.offset));
    if record.timestamp_ms >= 0 {
        mark(header::REPLAY_TS, record.timestamp_ms.to_string());
    }
    Copy {
        key: owned(record.key),
        value: owned(record.value),
        headers,
        timestamp_ms: record.timestamp_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::replay::Filter;

    static LARGE: [u8; CHUNK_BYTES_MAX] = [b' '; CHUNK_BYTES_MAX];

    fn work(filter: &Filter, records_max: u64) -> Work {
        let id = ReplayId::try_from("r1".to_owned()).unwrap();
        Work { id, selection: filter.compile().unwrap(), spans: Vec::new(), records_max }
    }

    fn span() -> Span {
        Span { topic: "t".to_owned(), partition: 3, from: 0, to: 100 }
    }

    fn record(offset: i64, value: &'static [u8]) -> RecordView<'static> {
        let headers = vec![("ce_id", Some(&b"i"[..])), ("odd", None), ("ce_id", Some(&b"j"[..]))];
        RecordView { offset, timestamp_ms: 7, key: Some(b"k"), value: Some(value), headers }
    }

    #[test]
    fn a_copy_is_the_record_and_where_it_stood() {
        let made = copy(&work(&Filter::default(), 1).id, &span(), &record(42, b"v"));
        assert_eq!(
            (made.key.as_deref(), made.value.as_deref()),
            (Some(&b"k"[..]), Some(&b"v"[..]))
        );
        assert_eq!(made.timestamp_ms, 7);
        let told: Vec<String> = made
            .headers
            .iter()
            .map(|(name, value)| {
                format!("{name}={}", value.as_deref().map_or("-".into(), String::from_utf8_lossy))
            })
            .collect();
        let wanted = "ce_id=i odd=- ce_id=j gh_replay=r1 gh_replay_of=t/3/42 gh_replay_ts=7";
        assert_eq!(told.join(" "), wanted);
        let timeless = RecordView { timestamp_ms: -1, ..record(1, b"") };
        let made = copy(&work(&Filter::default(), 1).id, &span(), &timeless);
        assert_eq!(made.headers.len(), 5);
    }

    #[test]
    fn chunks_end_at_records_bytes_and_looks() {
        let (sender, mut chunks) = mpsc::channel(8);
        let span = span();
        let all = work(&Filter::default(), 2);
        let mut open = Open::new(0, 0);
        for offset in [0, 5] {
            assert!(open.take(&all, &span, &record(offset, b"v"), &sender).is_continue());
        }
        let chunk = chunks.try_recv().unwrap().unwrap();
        assert_eq!((chunk.copies.len(), chunk.next, chunk.tally.records), (2, 6, 2));

        let many = work(&Filter::default(), 1_000);
        assert!(open.take(&many, &span, &record(6, &LARGE), &sender).is_continue());
        assert_eq!(chunks.try_recv().unwrap().unwrap().next, 7);

        let none = work(&Filter { entity: Some("other".to_owned()), ..Filter::default() }, 1_000);
        let looks = i64::try_from(CHUNK_LOOKED_AT_MAX).unwrap();
        for offset in 7..7 + looks {
            assert!(open.take(&none, &span, &record(offset, b""), &sender).is_continue());
        }
        let chunk = chunks.try_recv().unwrap().unwrap();
        assert_eq!((chunk.copies.len(), chunk.next), (0, 7 + looks));
        drop(chunks);
        assert!(
            open.take(&work(&Filter::default(), 1), &span, &record(1, b""), &sender).is_break()
        );
    }
}
