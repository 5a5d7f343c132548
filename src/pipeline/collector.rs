//! The loop that collects one entity: select, then apply. Its state has this one owner.
//!
//! Order of a turn, and what a crash leaves behind:
//! 1. a page is fetched: nothing has changed anywhere;
//! 2. pages become a batch, planned against committed state: nothing has changed anywhere;
//! 3. the batch is committed in one transaction: records, seen ids and checkpoint are all there, or none is;
//! 4. the planned state becomes the state, the seen ids go to their files: repeated from Kafka after a crash.

mod fetches;
mod optional;
mod requests;
mod runway;
mod sink;
mod source;

use super::answer::Delivered;
use super::arbiter::{Arbiter, Seat};
use super::buffer::Buffer;
use super::optional::Optional;
use super::partition::{Opener, Partition};
use super::pause::Pause;
use super::plan::{self, Clocks, Fetched, Planned};
use super::record::EntityContext;
use super::schedule::{self, Poll, Wanted};
use crate::audit::lane::LaneRules;
use crate::audit::{Actor, Checkpoint, EntityKind, EntityState, Lane, SavedCopies, ServerClock};
use crate::github::{Page, Source, SourceError};
use crate::health::Health;
use crate::kafka::{Committed, SinkError};
use crate::metrics::Metrics;
use crate::state::Buckets;
use crate::status::Board;
use crate::time::{mono_ms, wall_ms};
use fetches::Fetches;
use futures_util::future::{BoxFuture, OptionFuture};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Why a collector ended without being asked.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Another instance owns the partition.
    #[error("{0}")]
    OwnedByOther(String),
    /// What is in Kafka is not what this installation wrote.
    #[error("{0}")]
    Refused(String),
    /// The files of seen ids are damaged; a restart rebuilds them.
    #[error("{0}; the next start rebuilds them from Kafka")]
    State(crate::state::StateError),
}

/// What a collector is made of.
pub struct Parts<S: Source, O: Opener> {
    /// Where pages come from.
    pub source: Arc<S>,
    /// Enterprise or organization: whose budget its requests count for.
    pub kind: EntityKind,
    /// Who decides what is asked for next.
    pub arbiter: Arc<Arbiter>,
    /// Where batches go.
    pub partition: Arc<Partition<O>>,
    /// The seen ids, shared by all entities.
    pub buckets: Arc<Mutex<Buckets>>,
    /// GitHub's now, for those who keep the seen ids.
    pub clocks: Arc<super::seen::Clocks>,
    /// What is the same for all records.
    pub context: EntityContext,
    /// How to collect.
    pub settings: super::Settings,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What is wrong.
    pub health: Arc<Health>,
    /// What commands want.
    pub requests: mpsc::Receiver<Delivered>,
    /// Who answers them.
    pub me: Actor,
    /// Where it says how it stands.
    pub board: Arc<Board>,
}

/// Failures in a row that nobody is told about: GitHub stumbles now and then.
const EVERYDAY_FAILURES: u32 = 3;
/// How long pages of a catch-up wait for company.
const LINGER_MS: i64 = 250;
/// Unconfirmed backfills and fallen tails are looked at this often, milliseconds.
const RESHAPE_EVERY_MS: i64 = 60_000;

/// Collects until cancelled.
pub async fn run<S: Source, O: Opener>(
    parts: Parts<S, O>,
    state: EntityState,
    cancel: CancellationToken,
) -> Result<(), CollectorError> {
    let mut collector = Collector::new(parts, state, cancel.clone());
    loop {
        collector.report();
        collector.start_commit()?;
        let wake = collector.start_fetches();
        let sleep_ms = wake.saturating_sub(mono_ms()).clamp(0, 10_000);
        let sleep = Duration::from_millis(u64::try_from(sleep_ms).unwrap_or(0));
        tokio::select! {
            biased;
            Some((planned, result)) = OptionFuture::from(collector.committing.as_mut()) => {
                collector.committing = None;
                collector.committed(*planned, result).await?;
            }
            () = cancel.cancelled() => break,
            Some(done) = collector.fetches.next() => collector.fetched(done),
            () = collector.seat.rung() => {}
            Some(delivered) = collector.parts.requests.recv(), if collector.request.is_none() => {
                collector.request = Some(delivered);
            }
            () = tokio::time::sleep(sleep) => {}
        }
    }
    collector.stop().await
}

/// For each credential another value each time it changes.
fn generations(source: &impl Source) -> Vec<u64> {
    source.credentials().iter().map(|it| source.credential_generation(it)).collect()
}

type Outcome = (Box<Planned>, Result<Committed, SinkError>);

/// What a fetch is for.
#[derive(Debug, Clone)]
enum Purpose {
    /// Only the `Date` matters.
    Probe,
    /// Whether the server has the optional lane.
    Offer,
    /// A page of a slice.
    Page(Wanted),
}

impl Purpose {
    /// Whether it is about the lane whose troubles are its own.
    fn is_optional(&self) -> bool {
        match self {
            Self::Probe => false,
            Self::Offer => true,
            Self::Page(wanted) => wanted.lane == Lane::GraphQl,
        }
    }
}

struct Collector<S: Source, O: Opener> {
    cancel: CancellationToken,
    parts: Parts<S, O>,
    name: String,
    state: Checkpoint,
    saved: SavedCopies,
    /// The request that is to be answered next.
    request: Option<Delivered>,
    clock: ServerClock,
    buffer: Buffer,
    fetches: Fetches,
    seat: Seat,
    committing: Option<BoxFuture<'static, Outcome>>,
    optional: Optional,
    polls: BTreeMap<Lane, Poll>,
    /// Pages of each tail's walk so far.
    poll_pages: BTreeMap<Lane, u32>,
    last_was_tail: bool,
    watches: BTreeMap<Lane, super::runway::Watch>,
    /// Why each slice was or was not asked for.
    whys: BTreeMap<(Lane, u64), super::allot::Why>,
    source_pause: Pause,
    /// What each credential was refused.
    refusals: Vec<Pause>,
    sink_pause: Pause,
    report_due: i64,
    reshape_due: i64,
    reshape_wanted: bool,
    /// The credentials as they were when unconfirmed backfills were last looked at, and when one was last tried.
    credentials: Vec<u64>,
    tried: Vec<u64>,
}

impl<S: Source, O: Opener> Collector<S, O> {
    fn new(parts: Parts<S, O>, state: EntityState, cancel: CancellationToken) -> Self {
        let EntityState { checkpoint, saved } = state;
        let state = checkpoint.unwrap_or_else(|| Checkpoint::empty(parts.context.name.clone()));
        let pause = || Pause::new(Duration::from_millis(500), Duration::from_mins(1));
        let ids = parts.source.credentials();
        let buffer = Buffer::new(parts.settings.batch_pages_max, parts.settings.batch_bytes_max);
        for &lane in parts.context.rules.keys() {
            parts.metrics.lane_begins(&parts.context.name, lane);
        }
        Self {
            cancel,
            name: format!("collector/{}", parts.context.name),
            clock: ServerClock::restored(state.github_now_ms, mono_ms()),
            credentials: generations(&*parts.source),
            tried: generations(&*parts.source),
            seat: parts.arbiter.seat(&parts.context.name, parts.kind, ids),
            refusals: ids.iter().map(|_| pause()).collect(),
            optional: Optional::new(&parts.context.rules),
            buffer,
            state,
            saved,
            request: None,
            parts,
            fetches: Fetches::new(),
            committing: None,
            polls: BTreeMap::new(),
            poll_pages: BTreeMap::new(),
            last_was_tail: false,
            watches: BTreeMap::new(),
            whys: BTreeMap::new(),
            source_pause: pause(),
            sink_pause: Pause::new(Duration::from_millis(200), Duration::from_secs(30)),
            report_due: 0,
            reshape_due: 0,
            reshape_wanted: true,
        }
    }

    /// The rules of the lanes that are read.
    fn rules(&self) -> &BTreeMap<Lane, LaneRules> {
        if self.optional.is_offered() { &self.parts.context.rules } else { self.optional.rest() }
    }

    fn clocks(&self) -> Option<Clocks> {
        let github_now_ms = self.clock.now_ms(mono_ms())?;
        Some(Clocks { github_now_ms, ingest_ms: wall_ms() })
    }

    /// Begins a commit when there is something to commit and nothing better to wait for.
    fn start_commit(&mut self) -> Result<(), CollectorError> {
        let now = mono_ms();
        if self.committing.is_some() || self.sink_pause.is_on(now) {
            return Ok(());
        }
        if let Some(planned) = self.plan_answer() {
            self.commit(planned);
            return Ok(());
        }
        let Some(clocks) = self.clocks() else { return Ok(()) };
        if self.buffer.is_empty() {
            self.reshape(clocks);
            return Ok(());
        }
        let idle = self.fetches.is_empty() && self.source_pause.is_on(now);
        let lingered = now.saturating_sub(self.buffer.since_mono_ms()) >= LINGER_MS;
        if !(self.buffer.is_ready() || idle || lingered) {
            return Ok(());
        }
        if self.must_wait() {
            return Ok(());
        }
        self.buffer.stage();
        match self.plan(clocks) {
            Ok(planned) => self.commit(planned),
            // the cache is rebuilt from its changelog at the next start, for all partitions at once
            Err(error) if !error.is_retryable() => return Err(CollectorError::State(error)),
            Err(error) => {
                self.buffer.failed();
                self.sink_pause.fail(now);
                self.degrade(&format!("seen ids cannot be used: {error}"));
            }
        }
        Ok(())
    }

    fn plan(&self, clocks: Clocks) -> Result<Planned, crate::state::StateError> {
        let mut buckets = self.parts.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &self.parts.context.name;
        let pages = self.buffer.staged();
        plan::plan(
            &self.parts.context,
            &self.state,
            pages,
            clocks,
            |lane, at, fingerprint, pending| buckets.verdict(name, lane, at, fingerprint, pending),
        )
    }

    /// A change of state without pages: only when nothing is fetched ahead of the state.
    fn reshape(&mut self, clocks: Clocks) {
        let now = mono_ms();
        if !self.fetches.is_empty() || !(self.reshape_wanted || now >= self.reshape_due) {
            return;
        }
        if !self.clock.is_confirmed() {
            return;
        }
        self.reshape_due = now.saturating_add(RESHAPE_EVERY_MS);
        self.reshape_wanted = false;
        let credentials = generations(&*self.parts.source);
        let changed = credentials != self.credentials;
        self.credentials = credentials;
        let rules = self.rules();
        if let Some(next) = schedule::reshape(&self.state, rules, clocks.now_s(), changed) {
            let planned = plan::checkpoint_only(&self.parts.context, next, clocks);
            self.commit(planned);
        }
    }

    fn commit(&mut self, mut planned: Planned) {
        let partition = Arc::clone(&self.parts.partition);
        let batch = std::mem::take(&mut planned.batch);
        self.parts.health.named_wait(&self.name, "commit", Duration::from_mins(3));
        let (health, part) = (Arc::clone(&self.parts.health), self.sink_part());
        let mut told = false;
        let slow = move |why: String| {
            if !std::mem::replace(&mut told, true) {
                warn!(part, "{why}; it ends by itself when they answer");
            }
            health.set_degraded(&part, why);
        };
        self.committing = Some(Box::pin(async move {
            let result = partition.commit(batch, slow).await;
            (Box::new(planned), result)
        }));
    }

    fn accept(&mut self, wanted: Wanted, page: Page, dead_letter: bool) {
        self.parts.metrics.slice_page(&self.parts.context.name, wanted.lane, wanted.kind);
        self.is_well(&wanted, &page);
        let now = mono_ms();
        let answered_ms = self.clock.now_ms(now);
        let fetched = Fetched {
            lane: wanted.lane,
            slice: wanted.slice,
            query: wanted.query,
            began: wanted.began,
            page,
            dead_letter,
            asked_s: wanted.asked_s,
            answered_s: answered_ms.map_or(wanted.asked_s, |ms| ms.div_euclid(1000)),
            fetched_mono_ms: now,
        };
        if !self.buffer.push(fetched, wanted.next.as_ref(), wanted.kind) {
            let message = "the page names its own cursor as the next one".to_owned();
            self.not_taken(
                SourceError::Transport { reason: "endless", message },
                Purpose::Page(wanted),
            );
        }
    }

    fn report(&mut self) {
        self.parts.health.beat(&self.name);
        let now = mono_ms();
        if now < self.report_due {
            return;
        }
        self.report_due = now.saturating_add(1000);
        let (name, metrics) = (&self.parts.context.name, &self.parts.metrics);
        let Some(now_ms) = self.clock.now_ms(mono_ms()) else { return };
        if self.clock.is_confirmed() {
            self.parts.clocks.set(name, now_ms);
        }
        self.post_status(now_ms);
        let now_s = now_ms.div_euclid(1000);
        let mut runways = Vec::new();
        let seconds = |s: i64| f64::from(i32::try_from(s).unwrap_or(i32::MAX));
        for (&lane, rules) in self.rules() {
            let Some(state) = self.state.lanes.get(&lane) else { continue };
            let runway_s = schedule::runway_s(state, rules, now_s);
            metrics.runway(name, lane, runway_s.map(seconds));
            runways.extend(runway_s.map(|runway_s| (lane, rules.clone(), runway_s)));
            if let Some(edge) = state.lowest_edge_s() {
                metrics.lag(name, lane, seconds(now_s.saturating_sub(edge)));
            }
        }
        if self.clock.is_confirmed() {
            for (lane, rules, runway_s) in runways {
                self.tell_runway(lane, &rules, runway_s, now_s);
            }
        }
    }

    /// A commit that is under way is awaited: nothing is left half done.
    async fn stop(mut self) -> Result<(), CollectorError> {
        if let Some(committing) = self.committing.take() {
            self.parts.health.named_wait(&self.name, "a commit under way", Duration::from_mins(3));
            let (planned, result) = committing.await;
            if let Ok(committed) = result {
                self.apply(*planned, &committed);
            }
        }
        Ok(())
    }
}
