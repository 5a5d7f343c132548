//! The loop that collects one entity: select, then apply. Its state has this one owner.
//!
//! Order of a turn, and what a crash leaves behind:
//! 1. a page is fetched: nothing has changed anywhere;
//! 2. pages become a batch, planned against committed state: nothing has changed anywhere;
//! 3. the batch is committed in one transaction: records, seen ids and checkpoint are all there, or none is;
//! 4. the planned state becomes the state, the seen ids go to their files: repeated from Kafka after a crash.

mod requests;
mod sink;
mod source;

use super::answer::Delivered;
use super::buffer::Buffer;
use super::optional::Optional;
use super::partition::{Opener, Partition};
use super::pause::Pause;
use super::plan::{self, Clocks, Fetched, Planned};
use super::record::EntityContext;
use super::schedule::{self, Decision, View, Wanted};
use crate::audit::lane::LaneRules;
use crate::audit::{Actor, Checkpoint, EntityState, Lane, SavedCopies, ServerClock, SliceKind};
use crate::github::rate_limit::Budget;
use crate::github::{Next, Page, PageRequest, Source, SourceError};
use crate::health::Health;
use crate::kafka::{Committed, SinkError};
use crate::metrics::Metrics;
use crate::state::Buckets;
use crate::status::Board;
use crate::time::{mono_ms, wall_ms};
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

const PER_PAGE: u8 = 100;
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
        let wake = collector.start_fetch();
        let sleep_ms = wake.saturating_sub(mono_ms()).clamp(0, 10_000);
        let sleep = Duration::from_millis(u64::try_from(sleep_ms).unwrap_or(0));
        tokio::select! {
            biased;
            Some((planned, result)) = OptionFuture::from(collector.committing.as_mut()) => {
                collector.committing = None;
                collector.committed(*planned, result).await?;
            }
            () = cancel.cancelled() => break,
            Some(answer) = OptionFuture::from(collector.fetching.as_mut().map(|(_, future)| future)) => {
                collector.fetched(answer);
            }
            Some(delivered) = collector.parts.requests.recv(), if collector.request.is_none() => {
                collector.request = Some(delivered);
            }
            () = tokio::time::sleep(sleep) => {}
        }
    }
    collector.stop().await
}

/// Another value each time one of the credentials changes.
fn generation(source: &impl Source) -> u64 {
    let each = source.credentials().iter().map(|it| source.credential_generation(it));
    each.fold(0, u64::wrapping_add)
}

type Answer = Result<Page, SourceError>;
type Outcome = (Box<Planned>, Result<Committed, SinkError>);

/// What a fetch is for.
#[derive(Debug, Clone)]
enum Purpose {
    /// Only the `Date` matters, and whether there is such a lane.
    Probe(Lane),
    /// A page of a slice.
    Page(Wanted),
}

impl Purpose {
    fn lane(&self) -> Lane {
        match self {
            Self::Probe(lane) => *lane,
            Self::Page(wanted) => wanted.lane,
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
    fetching: Option<(Purpose, BoxFuture<'static, Answer>)>,
    committing: Option<BoxFuture<'static, Outcome>>,
    optional: Optional,
    /// The rules of the lanes that are read now.
    rules: BTreeMap<Lane, LaneRules>,
    tail_due: BTreeMap<Lane, i64>,
    poll_ms: BTreeMap<Lane, i64>,
    last_was_tail: bool,
    /// What GitHub last said that is left to the credential.
    budget: Option<Budget>,
    source_pause: Pause,
    sink_pause: Pause,
    report_due: i64,
    reshape_due: i64,
    reshape_wanted: bool,
    credential: u64,
    tried_credential: u64,
    per_page: u8,
    /// Digest of a page of one entry that could not be cut, to see whether it comes again.
    uncuttable: Option<String>,
}

impl<S: Source, O: Opener> Collector<S, O> {
    fn new(parts: Parts<S, O>, state: EntityState, cancel: CancellationToken) -> Self {
        let EntityState { checkpoint, saved } = state;
        let state = checkpoint.unwrap_or_else(|| Checkpoint::empty(parts.context.name.clone()));
        let optional = Optional::default();
        let all = &parts.context.rules;
        let rules = optional.changed(all, all, mono_ms()).unwrap_or_else(|| all.clone());
        let buffer = Buffer::new(parts.settings.batch_pages_max, parts.settings.batch_bytes_max);
        Self {
            cancel,
            name: format!("collector/{}", parts.context.name),
            clock: ServerClock::restored(state.github_now_ms, mono_ms()),
            credential: generation(&*parts.source),
            tried_credential: generation(&*parts.source),
            buffer,
            state,
            saved,
            request: None,
            parts,
            fetching: None,
            committing: None,
            optional,
            rules,
            tail_due: BTreeMap::new(),
            poll_ms: BTreeMap::new(),
            last_was_tail: false,
            budget: None,
            source_pause: Pause::new(Duration::from_millis(500), Duration::from_mins(1)),
            sink_pause: Pause::new(Duration::from_millis(200), Duration::from_secs(30)),
            report_due: 0,
            reshape_due: 0,
            reshape_wanted: true,
            per_page: PER_PAGE,
            uncuttable: None,
        }
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
        let idle = self.fetching.is_none() && self.source_pause.is_on(now);
        let lingered = now.saturating_sub(self.buffer.since_mono_ms()) >= LINGER_MS;
        if !(self.buffer.is_ready() || idle || lingered) {
            return Ok(());
        }
        if self.buffer.counts_pages() && self.fetching.is_some() {
            return Ok(());
        }
        if self.buffer.is_stuck() && !self.buffer.is_full() && !self.reshape_wanted {
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
        if self.fetching.is_some() || !(self.reshape_wanted || now >= self.reshape_due) {
            return;
        }
        if !self.clock.is_confirmed() {
            return;
        }
        self.reshape_due = now.saturating_add(RESHAPE_EVERY_MS);
        self.reshape_wanted = false;
        let credential = generation(&*self.parts.source);
        let changed = credential != self.credential;
        self.credential = credential;
        if let Some(next) = schedule::reshape(&self.state, &self.rules, clocks.now_s(), changed) {
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

    /// Begins the next fetch, or says at what monotonic time to look again.
    fn start_fetch(&mut self) -> i64 {
        let now = mono_ms();
        let later = now.saturating_add(1000);
        if self.fetching.is_some() || self.buffer.is_full() {
            return later;
        }
        if self.source_pause.is_slow() || self.optional.pause.is_slow() {
            let credential = generation(&*self.parts.source);
            if credential != self.tried_credential {
                // the operator has given another token: tried at once
                self.tried_credential = credential;
                self.reshape_wanted = true;
                self.source_pause.set(now);
                self.optional.pause.set(now);
            }
        }
        if let Some(until) = self.source_pause.until(now) {
            return until.min(self.commit_wake(later));
        }
        let all = &self.parts.context.rules;
        if self.optional.is_to_ask(all, now) {
            self.probe(Lane::GraphQl);
            return later;
        }
        if let Some(rules) = self.optional.changed(all, &self.rules, now) {
            self.rules = rules;
        }
        if !self.clock.is_confirmed() {
            self.probe(self.rules.keys().next().copied().unwrap_or(Lane::Web));
            return later;
        }
        let Some(now_ms) = self.clock.now_ms(now) else { return later };
        let view = View {
            checkpoint: &self.state,
            rules: &self.rules,
            ahead: self.buffer.ahead(),
            tail_due_mono_ms: &self.tail_due,
            last_was_tail: self.last_was_tail,
            has_leisure: self.has_leisure(now_ms.div_euclid(1000)),
            now_s: now_ms.div_euclid(1000),
            mono_ms: now,
        };
        match schedule::next(&view) {
            Decision::Fetch(wanted) => {
                self.fetch(wanted);
                later
            }
            Decision::Reshape => {
                self.reshape_wanted = true;
                self.buffer.hurry();
                // a commit that may not begin yet changes nothing: no use in asking again at once
                if self.committing.is_none() && !self.sink_pause.is_on(now) { now } else { later }
            }
            Decision::Wait(until) => {
                self.buffer.hurry();
                if !self.buffer.is_empty()
                    && self.committing.is_none()
                    && !self.sink_pause.is_on(now)
                {
                    return now;
                }
                until.unwrap_or(later)
            }
        }
    }

    fn commit_wake(&self, later: i64) -> i64 {
        if self.buffer.is_empty() {
            later
        } else {
            self.buffer.since_mono_ms().saturating_add(LINGER_MS)
        }
    }

    fn probe(&mut self, lane: Lane) {
        let from_s = self.clock.now_ms(mono_ms()).unwrap_or_else(wall_ms).div_euclid(1000);
        let query = crate::audit::slice::Query { from_s, to_s: None };
        let request = PageRequest { lane, query, cursor: None, per_page: 1 };
        self.ask(Purpose::Probe(lane), request, None);
    }

    fn fetch(&mut self, wanted: Wanted) {
        let (cursor, page) = match wanted.next.clone() {
            Some(Next::Cursor(cursor)) => (Some(cursor), None),
            Some(Next::Page(page)) => (None, Some(page)),
            None => (None, None),
        };
        let per_page = self.per_page;
        let request = PageRequest { lane: wanted.lane, query: wanted.query, cursor, per_page };
        self.ask(Purpose::Page(wanted), request, page);
    }

    fn ask(&mut self, purpose: Purpose, request: PageRequest, page: Option<u64>) {
        let source = Arc::clone(&self.parts.source);
        let Some(credential) = source.credentials().first().cloned() else { return };
        self.parts.health.named_wait(&self.name, "page", Duration::from_mins(5));
        let future = Box::pin(async move { source.fetch(request, page, &credential).await });
        self.fetching = Some((purpose, future));
    }

    fn fetched(&mut self, answer: Answer) {
        let Some((purpose, _)) = self.fetching.take() else { return };
        match (answer, purpose) {
            (Ok(page), purpose) => {
                let now = mono_ms();
                self.clock.observe(page.date_ms.unwrap_or_else(wall_ms), now);
                self.source_works(purpose.lane());
                self.keep_reserve(&page, purpose.lane(), now);
                match purpose {
                    // asked again at once: two more answers decide what time it is, and what has expired by then
                    Purpose::Page(_) if self.clock.is_in_doubt() => {}
                    Purpose::Page(wanted) => self.accept(wanted, page, false),
                    Purpose::Probe(_) => {}
                }
            }
            (Err(error), purpose) => self.refused(error, purpose),
        }
    }

    fn accept(&mut self, wanted: Wanted, page: Page, dead_letter: bool) {
        self.last_was_tail = wanted.kind == SliceKind::Tail;
        self.parts.metrics.slice_page(&self.parts.context.name, wanted.lane, wanted.kind);
        self.per_page = PER_PAGE;
        self.uncuttable = None;
        if wanted.kind == SliceKind::Tail && page.next.is_none() {
            self.schedule_poll(wanted.lane, page.entries.len());
        }
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
            self.refused(
                SourceError::Transport { reason: "endless", message },
                Purpose::Page(wanted),
            );
        }
    }

    /// Polls soon after news, less and less often without.
    fn schedule_poll(&mut self, lane: Lane, entries: usize) {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (min, max) =
            (ms(self.parts.settings.poll_interval_min), ms(self.parts.settings.poll_interval_max));
        let poll = self.poll_ms.entry(lane).or_insert(min);
        // the last second is read again each time, so one entry is no news
        *poll = if entries > 1 {
            min
        } else {
            poll.saturating_mul(3).saturating_div(2).clamp(min, max)
        };
        self.tail_due.insert(lane, mono_ms().saturating_add(*poll));
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
        let rules = &self.parts.context.rules;
        let status =
            super::status::entity(&self.state, rules, Some(now_ms), Vec::new(), |_, _| None);
        self.parts.board.post_entity(status);
        let now_s = now_ms.div_euclid(1000);
        let seconds = |s: i64| f64::from(i32::try_from(s).unwrap_or(i32::MAX));
        for (&lane, rules) in &self.rules {
            let Some(state) = self.state.lanes.get(&lane) else { continue };
            let runway = schedule::runway_s(state, rules, now_s).map(seconds);
            metrics.runway(name, lane, runway);
            if let Some(edge) = state.lowest_edge_s() {
                metrics.lag(name, lane, seconds(now_s.saturating_sub(edge)));
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
