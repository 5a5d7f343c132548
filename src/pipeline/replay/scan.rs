//! Finds what a replay will send: from which offsets to which, how much, and what Kafka no longer has. Blocks.

use crate::audit::replay::{Facts, Filter, Plan, Selection, Span, Tally, TimeOf};
use crate::kafka::consumer::{NextRecord, ReadError, RecordView, TopicReader};
use crate::kafka::producer::Copy;
use serde::Serialize;
use std::collections::BTreeSet;

/// Where a partition begins, of which something that was asked for may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Begin {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The first offset that is still there.
    pub offset: i64,
    /// The broker's time of the first record, epoch milliseconds; `None`: there is none left.
    pub since_ms: Option<i64>,
}

/// Where to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// What is read, in this order.
    pub spans: Vec<Span>,
    /// What is not there any more.
    pub gone: Vec<Begin>,
    /// The time of the oldest record that is read, whether it fits or not, epoch milliseconds.
    pub oldest_ms: Option<i64>,
}

/// Finds the offsets between which a filter's records stand; the ends are those of now.
pub fn places(
    reader: &TopicReader,
    topics: &[String],
    filter: &Filter,
) -> Result<Places, ReadError> {
    let mut places = Places::default();
    for topic in topics {
        for partition in 0..reader.partition_count(topic)? {
            let ends = reader.watermarks(topic, partition)?;
            let at = |time: Option<i64>, open: i64| -> Result<i64, ReadError> {
                let Some(ms) = time else { return Ok(open) };
                let found = reader.offset_at(topic, partition, ms)?;
                Ok(found.map_or(ends.stable, |at| at.min(ends.stable).max(ends.low)))
            };
            let from = at(filter.look_from_ms(), ends.low)?;
            let to = at(filter.look_to_ms(), ends.stable)?;
            if from < to {
                let first = first_ms(reader, topic, partition, from)?;
                places.oldest_ms = places.oldest_ms.into_iter().chain(first).min();
                places.spans.push(Span { topic: topic.clone(), partition, from, to });
            }
            if ends.low > 0 {
                places.gone.extend(begin(reader, topic, partition, ends.low, filter)?);
            }
        }
    }
    Ok(places)
}

/// The time of the first record at an offset or behind it.
fn first_ms(
    reader: &TopicReader,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<i64>, ReadError> {
    let first = reader.next_record(topic, partition, offset, |record| record.timestamp_ms)?;
    Ok(match first {
        NextRecord::Record(ms) => Some(ms),
        NextRecord::End(_) => None,
    })
}

/// What was taken by the broker before the first record that is left, and at the time asked for or later, is gone.
fn begin(
    reader: &TopicReader,
    topic: &str,
    partition: i32,
    offset: i64,
    filter: &Filter,
) -> Result<Option<Begin>, ReadError> {
    let since_ms = first_ms(reader, topic, partition, offset)?;
    let is_gone = filter.from_ms.is_none_or(|from| since_ms.is_none_or(|since| since > from));
    let topic = topic.to_owned();
    Ok(is_gone.then_some(Begin { topic, partition, offset, since_ms }))
}

/// What a look at all records has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// For each span of the plan.
    pub spans: Vec<Tally>,
    /// With what surrounds it, the largest record as it will be sent, bytes.
    pub largest_bytes: usize,
    /// The least and the greatest time of those that were found, of the kind that the filter is about.
    pub times_ms: Option<(i64, i64)>,
    /// The oldest record time.
    pub oldest_ms: Option<i64>,
    /// Which of the ids asked for are there.
    pub ids: BTreeSet<String>,
}

impl Counted {
    /// All spans together.
    pub fn total(&self) -> Tally {
        self.spans.iter().copied().fold(Tally::default(), Tally::plus)
    }

    fn take(&mut self, record: &RecordView<'_>, facts: &Facts<'_>, plan: &Plan) {
        let time = match plan.filter.time {
            TimeOf::Entry => facts.entry_ms.unwrap_or(facts.kafka_ms),
            TimeOf::Kafka => facts.kafka_ms,
        };
        let (least, most) = self.times_ms.unwrap_or((time, time));
        self.times_ms = Some((least.min(time), most.max(time)));
        let kafka_ms = facts.kafka_ms;
        self.oldest_ms = Some(self.oldest_ms.map_or(kafka_ms, |oldest| oldest.min(kafka_ms)));
        if !plan.filter.ids.is_empty() {
            self.ids.extend(facts.id.map(str::to_owned));
        }
        let wire_bytes = Copy::wire_bytes_with(record.bytes(), record.headers.len());
        self.largest_bytes = self.largest_bytes.max(wire_bytes);
    }
}

/// Reads all that a plan is about and counts. `tick` is told the offsets done, and ends the count by answering false:
/// what was counted until then is no answer, and `None` comes back.
pub fn count(
    reader: &TopicReader,
    plan: &Plan,
    selection: &Selection,
    mut tick: impl FnMut(u64) -> bool,
) -> Result<Option<Counted>, ReadError> {
    let mut counted = Counted::default();
    let mut done = 0_u64;
    for span in &plan.spans {
        let mut tally = Tally::default();
        if span.from >= span.to {
            // a span that is done may lie before what Kafka still has
            counted.spans.push(tally);
            continue;
        }
        let mut is_wanted = true;
        reader.read_range(&span.topic, span.partition, span.from, span.to, |record| {
            let facts = facts(&record);
            if selection.takes(&facts) {
                tally.add(record.bytes());
                counted.take(&record, &facts, plan);
            }
            let here = u64::try_from(record.offset.saturating_sub(span.from)).unwrap_or(0);
            is_wanted = tick(done.saturating_add(here));
            is_wanted
        })?;
        if !is_wanted {
            return Ok(None);
        }
        counted.spans.push(tally);
        done = done.saturating_add(span.offsets());
    }
    Ok(Some(counted))
}

/// What a filter asks of a record.
pub(super) fn facts<'a>(record: &RecordView<'a>) -> Facts<'a> {
    Facts::of(record.headers.iter().copied(), record.timestamp_ms)
}
