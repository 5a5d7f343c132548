//! One uninterrupted stretch of archiving: places found, partitions read, segments stored. One owner, one loop.

use super::ArchiverError;
use super::gather::{Beginning, EndWanted, Gatherer, Now, Partition, SealRules};
use super::lines::encode;
use super::parts::Parts;
use super::place::place;
use super::put::{PutDone, StoredAs, put};
use super::status::Side;
use crate::archive::store::Store;
use crate::kafka::consumer::{Event, NextRecord, ReadError, Stream, StreamLimits};
use crate::time::{mono_ms, wall_ms};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Segments on their way to the store at once; of one partition always one.
const PUTS_MAX: usize = 4;
const TICK: Duration = Duration::from_millis(250);
/// How often topics are looked for new partitions.
const REFRESH_MS: i64 = 60_000;
/// How often while a topic is not there yet.
const REFRESH_MISSING_MS: i64 = 5_000;
const LAG_MS: i64 = 10_000;

/// Why a stretch ended.
pub(super) enum End {
    /// As it was told.
    Stopped,
    /// Places must be found again.
    Again(String),
    /// Kafka has deleted what was to be read next: places must be found again, after what was read is safe.
    Behind,
}

/// What was found of the topics.
struct Found {
    starts: Vec<Beginning>,
    missing: usize,
}

/// Work beside the loop; each kind is applied by the loop alone.
enum Done {
    Put(Box<PutDone>),
    End(EndWanted, Result<i64, ArchiverError>),
    Found(Result<Found, ArchiverError>),
    Lag(Result<Vec<(String, i32, i64)>, ArchiverError>),
}

enum Next {
    Stop,
    Done(Done),
    Tick,
    Event(Option<Event>),
}

pub(super) struct Session<S: Store> {
    parts: Arc<Parts<S>>,
    gatherer: Gatherer,
    stream: Stream,
    known: BTreeSet<(String, i32)>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    puts: usize,
    looking: bool,
    finding: bool,
    measuring: bool,
    refresh_due_ms: i64,
    lag_due_ms: i64,
}

impl<S: Store> Session<S> {
    pub(super) fn start(parts: Arc<Parts<S>>) -> Result<Self, ArchiverError> {
        let settings = &parts.settings;
        let rules = SealRules {
            bytes_max: settings.segment_bytes_max,
            records_max: settings.segment_records_max,
            age_ms_max: i64::try_from(settings.segment_age_max.as_millis()).unwrap_or(i64::MAX),
            buffer_bytes_max: settings.buffer_bytes_max,
        };
        let gatherer = Gatherer::new(rules, settings.zstd_level)
            .map_err(|error| ArchiverError::Ended(error.to_string()))?;
        let group = format!("{}-archive-{}", parts.kafka.id_prefix, settings.name);
        let limits = StreamLimits::default();
        let stream = Stream::start(&parts.kafka, "archive-reader", &group, limits, encode)
            .map_err(ArchiverError::Kafka)?;
        Ok(Self {
            gatherer,
            stream,
            known: BTreeSet::new(),
            work: FuturesUnordered::new(),
            puts: 0,
            looking: false,
            finding: false,
            measuring: false,
            refresh_due_ms: mono_ms(),
            lag_due_ms: mono_ms(),
            parts,
        })
    }

    /// Runs until told to stop, or until something makes the places uncertain.
    pub(super) async fn run(mut self) -> Result<End, ArchiverError> {
        let outcome = self.turn_until_end().await;
        self.parts.status.draining();
        let drained = match &outcome {
            Ok(End::Behind) => {
                self.rescue().await;
                self.drain(true).await
            }
            Ok(End::Again(_)) => self.drain(true).await,
            Ok(End::Stopped) | Err(_) => self.drain(false).await,
        };
        self.stream.stop().await;
        let end = outcome?;
        drained.map(|()| end)
    }

    /// Waits for the puts that are on their way: one that goes on behind our back would meet the next of its name.
    /// With `all`, everything that is sealed is put first. Look-ups in Kafka change nothing and are left alone.
    async fn drain(&mut self, all: bool) -> Result<(), ArchiverError> {
        loop {
            if all {
                self.start_puts();
            }
            if self.puts == 0 {
                return Ok(());
            }
            match self.work.next().await {
                Some(Done::Put(done)) => self.put_done(*done)?,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Seals what was read from partitions whose next records Kafka has deleted: it could not be read again. Such a
    /// segment ends behind its last record, and the gap that will be recorded begins there.
    async fn rescue(&mut self) {
        for open in self.gatherer.open_ends() {
            let ends = self.parts.reader.watermarks(&open.topic, open.partition).await;
            let end = open.last_offset.saturating_add(1);
            if ends.is_ok_and(|ends| ends.low > end)
                && let Err(error) = self.gatherer.seal_at(&open, end, now())
            {
                tracing::error!("segment not sealed: {error}");
            }
        }
    }

    async fn turn_until_end(&mut self) -> Result<End, ArchiverError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_room = self.gatherer.has_room();
            let next = tokio::select! {
                biased;
                () = self.parts.cancel.cancelled() => Next::Stop,
                Some(done) = self.work.next(), if !self.work.is_empty() => Next::Done(done),
                _ = tick.tick() => Next::Tick,
                event = self.stream.next(), if has_room => Next::Event(event),
            };
            let end = match next {
                Next::Stop => Some(End::Stopped),
                Next::Done(done) => self.done(done)?,
                Next::Tick => {
                    self.tick()?;
                    None
                }
                Next::Event(event) => self.event(event)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
            self.start_puts();
            self.start_look();
        }
    }

    fn event(&mut self, event: Option<Event>) -> Result<Option<End>, ArchiverError> {
        match event {
            Some(Event::Records(batch)) => {
                let now = now();
                for record in batch.iter() {
                    let pushed = self.gatherer.push(
                        record.slot,
                        record.offset,
                        record.timestamp_ms,
                        record.bytes,
                        now,
                    );
                    match pushed {
                        Ok(()) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                            return Ok(Some(End::Again(error.to_string())));
                        }
                        Err(error) => return Err(ArchiverError::Ended(error.to_string())),
                    }
                }
                drop(batch);
                self.tend(now)?;
            }
            Some(Event::OutOfRange) => {
                return Ok(Some(End::Behind));
            }
            Some(Event::Trouble { message, topic_lost: true }) => {
                return Ok(Some(End::Again(message)));
            }
            Some(Event::Trouble { message, .. }) => {
                self.parts.status.trouble(Side::Kafka, &message);
            }
            Some(Event::Healed) => self.parts.status.well(Side::Kafka),
            None => return Err(ArchiverError::Ended("the reader thread ended".to_owned())),
        }
        Ok(None)
    }

    fn tick(&mut self) -> Result<(), ArchiverError> {
        let now = now();
        self.parts.status.beat();
        self.tend(now)?;
        if now.mono_ms >= self.refresh_due_ms && !self.finding {
            self.finding = true;
            let (parts, known) = (Arc::clone(&self.parts), self.known.clone());
            self.work.push(Box::pin(async move { Done::Found(find(&parts, known).await) }));
        }
        if now.mono_ms >= self.lag_due_ms && !self.measuring {
            self.measuring = true;
            self.start_lag();
        }
        let oldest = self.gatherer.partitions().filter_map(Partition::oldest_timestamp).min();
        let buffered_bytes = self.gatherer.buffered_bytes();
        self.parts.metrics.archive_buffer(buffered_bytes);
        self.parts.status.change(|status| {
            status.lag_seconds = oldest.map_or(0, |oldest| (now.wall_ms - oldest).max(0) / 1000);
            status.buffered_bytes = buffered_bytes;
            status.last_turn_mono_ms = now.mono_ms;
        });
        Ok(())
    }

    fn tend(&mut self, now: Now) -> Result<(), ArchiverError> {
        self.gatherer.tend(now).map_err(|error| ArchiverError::Ended(error.to_string()))
    }

    fn start_puts(&mut self) {
        while self.puts < PUTS_MAX
            && let Some((slot, sealed)) = self.gatherer.next_to_store()
        {
            self.puts += 1;
            let parts = Arc::clone(&self.parts);
            self.work
                .push(Box::pin(async move { Done::Put(Box::new(put(parts, slot, sealed).await)) }));
        }
    }

    /// Looks up where a closing segment ends, when no next record says it.
    fn start_look(&mut self) {
        if self.looking {
            return;
        }
        let Some(wanted) = self.gatherer.ends_wanted(now(), !self.gatherer.has_room()) else {
            return;
        };
        self.looking = true;
        let reader = self.parts.reader.clone();
        self.work.push(Box::pin(async move {
            let from = wanted.last_offset.saturating_add(1);
            let found =
                reader.next_record(&wanted.topic, wanted.partition, from, |r| r.offset).await;
            let end = found.map(|found| match found {
                NextRecord::Record(offset) => offset,
                NextRecord::End(stable) => stable,
            });
            Done::End(wanted, end)
        }));
    }

    fn start_lag(&mut self) {
        let partitions: Vec<_> =
            self.gatherer.partitions().map(|p| (p.topic.clone(), p.number)).collect();
        let reader = self.parts.reader.clone();
        self.work.push(Box::pin(async move {
            let ends = reader.blocking(move |reader| {
                partitions
                    .into_iter()
                    .map(|(topic, partition)| {
                        let high = reader.high_watermark(&topic, partition)?;
                        Ok((topic, partition, high))
                    })
                    .collect()
            });
            Done::Lag(ends.await)
        }));
    }

    fn done(&mut self, done: Done) -> Result<Option<End>, ArchiverError> {
        match done {
            Done::Put(done) => self.put_done(*done)?,
            Done::End(wanted, Err(ArchiverError::Kafka(ReadError::OutOfRange { .. }))) => {
                self.looking = false;
                tracing::debug!(
                    topic = wanted.topic,
                    partition = wanted.partition,
                    "behind Kafka's log"
                );
                return Ok(Some(End::Behind));
            }
            Done::End(wanted, end) => {
                self.looking = false;
                match self.kafka(end)? {
                    Some(end) => self
                        .gatherer
                        .seal_at(&wanted, end, now())
                        .map_err(|error| ArchiverError::Ended(error.to_string()))?,
                    None => self.gatherer.postpone(&wanted, now()),
                }
            }
            Done::Found(found) => {
                self.finding = false;
                self.found(found)?;
            }
            Done::Lag(ends) => {
                self.measuring = false;
                self.lag_due_ms = mono_ms() + LAG_MS;
                if let Some(ends) = self.kafka(ends)? {
                    self.measured(&ends);
                }
            }
        }
        Ok(None)
    }

    /// An answer of Kafka; `None` when it did not answer, which is said and tried again.
    fn kafka<T>(&self, answer: Result<T, ArchiverError>) -> Result<Option<T>, ArchiverError> {
        match answer {
            Ok(value) => {
                self.parts.status.well(Side::Kafka);
                Ok(Some(value))
            }
            // Recreated or behind retention: the stream says so too, and places are found again.
            Err(ArchiverError::Kafka(
                error @ (ReadError::OutOfRange { .. } | ReadError::NoTopic { .. }),
            )) => {
                tracing::debug!("archive: {error}");
                Ok(None)
            }
            // one text for all partitions, so that it is said once
            Err(ArchiverError::Kafka(ReadError::Unreachable {
                what,
                brokers,
                seconds,
                because,
            })) => {
                self.parts.metrics.retry("archive", "kafka");
                tracing::debug!(what, "archive: no answer from Kafka");
                let message =
                    format!("no answer from Kafka at {brokers} within {seconds} s: {because}");
                self.parts.status.trouble(Side::Kafka, &message);
                Ok(None)
            }
            Err(ArchiverError::Kafka(error)) => {
                self.parts.metrics.retry("archive", "kafka");
                self.parts.status.trouble(Side::Kafka, &error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn put_done(&mut self, done: PutDone) -> Result<(), ArchiverError> {
        self.puts -= 1;
        let PutDone { slot, sealed, seconds, outcome } = done;
        let stored_as = outcome?;
        let Some(partition) = self.gatherer.stored(slot) else { return Ok(()) };
        let (topic, number) = (partition.topic.clone(), partition.number);
        let sealed_to = sealed.footer.to;
        let to = match stored_as {
            StoredAs::Sealed => sealed_to,
            StoredAs::Adopted { to } => to,
        };
        self.stream.commit(&topic, number, to);
        if to != sealed_to {
            // The stored end wins: what was gathered behind our own is read again from there.
            let start = Beginning {
                topic: topic.clone(),
                partition: number,
                position: to,
                log_start: None,
                gap_from: None,
            };
            self.begin(start);
        }
        let bytes = u64::try_from(sealed.bytes.len()).unwrap_or(u64::MAX);
        self.parts.metrics.segment(&topic, sealed.footer.count, bytes, seconds);
        self.parts.status.change(|status| {
            status.records += sealed.footer.count;
            status.segments += 1;
            status.bytes += bytes;
            status.last_stored_ms = Some(wall_ms());
        });
        tracing::debug!(
            topic,
            partition = number,
            from = sealed.header.from,
            to,
            bytes,
            "segment stored"
        );
        Ok(())
    }

    fn begin(&mut self, start: Beginning) {
        let (topic, partition, position) = (start.topic.clone(), start.partition, start.position);
        self.known.insert((topic.clone(), partition));
        let slot = self.gatherer.begin(start);
        self.stream.assign(slot, &topic, partition, position);
    }

    fn found(&mut self, found: Result<Found, ArchiverError>) -> Result<(), ArchiverError> {
        let Some(found) = self.kafka(found)? else {
            self.refresh_due_ms = mono_ms() + REFRESH_MISSING_MS;
            return Ok(());
        };
        let pause = if found.missing > 0 { REFRESH_MISSING_MS } else { REFRESH_MS };
        self.refresh_due_ms = mono_ms() + pause;
        self.lag_due_ms = if found.starts.is_empty() { self.lag_due_ms } else { mono_ms() };
        if !found.starts.is_empty() {
            tracing::info!(partitions = found.starts.len(), "archive goes on from its stored ends");
        }
        for start in found.starts {
            tracing::debug!(
                topic = start.topic,
                partition = start.partition,
                position = start.position,
                "archive goes on from here"
            );
            self.begin(start);
        }
        let partitions = self.known.len();
        let gaps = self.parts.status.snapshot().gaps.len();
        self.parts.metrics.archive_gaps(i64::try_from(gaps).unwrap_or(i64::MAX));
        self.parts.status.change(|status| {
            status.placed = true;
            status.partitions = partitions;
        });
        Ok(())
    }

    fn measured(&self, ends: &[(String, i32, i64)]) {
        let wall_ms = wall_ms();
        let mut total = 0;
        for partition in self.gatherer.partitions() {
            let end = ends.iter().find(|(topic, number, _)| {
                *topic == partition.topic && *number == partition.number
            });
            let Some((topic, number, high)) = end else { continue };
            let records = (high - partition.position).max(0);
            total += records;
            let age_ms = partition.oldest_timestamp().map_or(0, |oldest| (wall_ms - oldest).max(0));
            let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)).as_secs_f64();
            self.parts.metrics.archive_lag(topic, *number, records, age);
        }
        self.parts.status.change(|status| status.lag_records = total);
    }
}

fn now() -> Now {
    Now { mono_ms: mono_ms(), wall_ms: wall_ms() }
}

/// Partitions that are not known yet, with their places.
async fn find<S: Store>(
    parts: &Parts<S>,
    known: BTreeSet<(String, i32)>,
) -> Result<Found, ArchiverError> {
    let mut found = Found { starts: Vec::new(), missing: 0 };
    for topic in &parts.topics {
        let name = topic.clone();
        let count = match parts.reader.blocking(move |reader| reader.partition_count(&name)).await {
            Ok(count) => count,
            Err(ArchiverError::Kafka(ReadError::NoTopic { .. })) => {
                if known.iter().any(|(known, _)| known == topic) {
                    let gone = format!("topic {topic} is gone; what was archived of it stays");
                    parts.status.trouble(Side::Kafka, &gone);
                }
                found.missing += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        for partition in (0..count).filter(|number| !known.contains(&(topic.clone(), *number))) {
            found.starts.push(place(parts, topic, partition).await?);
        }
    }
    Ok(found)
}
