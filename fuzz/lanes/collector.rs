//! The collector's turns, with every outcome that a turn can have.

use super::server::{Refusal, Server};
use crate::decisions::Decisions;
use bytes::Bytes;
use ghauditd::audit::lane::LaneRules;
use ghauditd::audit::{
    Bucket, Checkpoint, EntityName, Fingerprint, Lane, SeenLane, ServerClock, SliceKind, Topic,
    Verdict, header,
};
use ghauditd::pipeline::buffer::Buffer;
use ghauditd::pipeline::plan::{Clocks, Fetched, Planned, checkpoint_only, plan};
use ghauditd::pipeline::record::{EntityContext, VALUE_BYTES_MAX};
use ghauditd::pipeline::schedule::{self, Decision, View, Wanted};
use ghauditd::state::Pending;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

const POLL_MS: i64 = 15_000;
const RESHAPE_EVERY_MS: i64 = 60_000;

pub(super) struct Collector {
    context: EntityContext,
    pages_max: usize,
    mono_ms: i64,
    // what Kafka holds
    checkpoint: Option<Vec<u8>>,
    seen: BTreeMap<(SeenLane, Bucket), Vec<Fingerprint>>,
    committed: BTreeMap<u32, u32>,
    gaps: Vec<(i64, i64)>,
    sequence: u64,
    // what a process knows
    state: Checkpoint,
    clock: ServerClock,
    buffer: Buffer,
    tail_due: BTreeMap<Lane, i64>,
    last_was_tail: bool,
    reshape_wanted: bool,
    reshape_due: i64,
}

fn empty(name: &EntityName) -> Checkpoint {
    Checkpoint::empty(name.clone())
}

impl Collector {
    pub(super) fn new(decisions: &mut Decisions<'_>, rules: LaneRules) -> Self {
        let name = EntityName::try_from("acme".to_owned()).unwrap();
        let pages_max = [1, 2, 3, 10][decisions.below(4)];
        let state = empty(&name);
        let context = EntityContext {
            name,
            state_partition: 0,
            rules: BTreeMap::from([(rules.lane, rules)]),
            value_bytes_max: VALUE_BYTES_MAX,
            source: Bytes::from_static(b"https://api.github.com/orgs/acme"),
            key: Bytes::from_static(b"acme"),
        };
        Self {
            context,
            pages_max,
            mono_ms: 0,
            checkpoint: None,
            seen: BTreeMap::new(),
            committed: BTreeMap::new(),
            gaps: Vec::new(),
            sequence: 0,
            state,
            clock: ServerClock::default(),
            buffer: Buffer::new(pages_max, 1 << 20),
            tail_due: BTreeMap::new(),
            last_was_tail: false,
            reshape_wanted: true,
            reshape_due: 0,
        }
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        self.mono_ms += seconds * 1000;
    }

    pub(super) fn state(&self) -> &Checkpoint {
        &self.state
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.committed.contains_key(&id)
    }

    /// Our clock is GitHub's in whole seconds, a moment ago: so much may be missing at a gap's end.
    pub(super) fn has_gap(&self, at_s: i64) -> bool {
        self.gaps.iter().any(|(from_s, to_s)| (*from_s..*to_s + 3).contains(&at_s))
    }

    /// What was lost before the first run, as it says itself.
    pub(super) fn floor_s(&self) -> i64 {
        let rules = self.context.rules.values().next().unwrap();
        let began = self.state.lanes.values().next().map(|lane| lane.began_s);
        let kept = rules.retention_s.unwrap_or(0);
        began.map_or(i64::MIN, |began| began - kept + rules.settling_s + 2)
    }

    /// Nothing waits, and only the tail and sweeps are open, which come again and again.
    pub(super) fn is_done(&self) -> bool {
        let only_tails = |lane: &ghauditd::audit::LaneState| {
            let is_open = |kind| kind == SliceKind::Backfill;
            lane.slices.iter().all(|slice| !is_open(slice.kind))
        };
        !self.state.lanes.is_empty()
            && self.state.lanes.values().all(only_tails)
            && self.buffer.is_empty()
    }

    pub(super) fn check_once(&self) {
        assert!(self.committed.values().all(|times| *times == 1), "{:?}", self.committed);
        let committed: u64 = self.committed.values().copied().map(u64::from).sum();
        assert_eq!(self.sequence, committed);
    }

    /// The process is gone, and another one begins with what Kafka holds.
    pub(super) fn killed(&mut self) {
        self.state = self.restored();
        self.clock = ServerClock::restored(self.state.github_now_ms, self.mono_ms);
        self.buffer = Buffer::new(self.pages_max, 1 << 20);
        self.tail_due = BTreeMap::new();
        self.last_was_tail = false;
        self.reshape_wanted = true;
        self.reshape_due = 0;
    }

    fn restored(&self) -> Checkpoint {
        let read = |bytes: &Vec<u8>| Checkpoint::decode(bytes).unwrap();
        self.checkpoint.as_ref().map_or_else(|| empty(&self.context.name), read)
    }

    /// One turn of the loop; what goes wrong in it is decided by the fuzzer.
    pub(super) fn turn(&mut self, server: &mut Server, decisions: &mut Decisions<'_>) {
        let (outcome, meanwhile, failing) =
            (decisions.byte(), decisions.byte() > 160, decisions.byte() > 230);
        self.act(server, outcome, meanwhile, failing);
    }

    pub(super) fn healthy_turn(&mut self, server: &mut Server) {
        self.act(server, 0, false, false);
    }

    fn act(&mut self, server: &mut Server, outcome: u8, meanwhile: bool, failing: bool) {
        // an eager committer, or one that waits for company
        let lingered = outcome & 1 == 0;
        let ready = self.buffer.is_ready() || lingered;
        let held = self.buffer.is_stuck() && !self.buffer.is_full() && !self.reshape_wanted;
        if self.clock.now_ms(self.mono_ms).is_some() {
            if self.buffer.is_empty() {
                self.reshape(outcome, server);
            } else if ready && !held {
                self.commit_pages(server, outcome, meanwhile);
            }
        }
        if !failing {
            self.fetch(server);
        }
    }

    fn clocks(&self) -> Clocks {
        Clocks { github_now_ms: self.clock.now_ms(self.mono_ms).unwrap(), ingest_ms: 0 }
    }

    fn reshape(&mut self, outcome: u8, server: &Server) {
        let wanted = self.reshape_wanted || self.mono_ms >= self.reshape_due;
        if !wanted || !self.clock.is_confirmed() {
            return;
        }
        self.reshape_due = self.mono_ms + RESHAPE_EVERY_MS;
        self.reshape_wanted = false;
        let clocks = self.clocks();
        let credentials = outcome > 250;
        let rules = &self.context.rules;
        if let Some(next) = schedule::reshape(&self.state, rules, clocks.now_s(), credentials) {
            let planned = checkpoint_only(&self.context, next, clocks);
            self.transaction(planned, outcome, server);
        }
    }

    fn commit_pages(&mut self, server: &mut Server, outcome: u8, meanwhile: bool) {
        self.buffer.stage();
        let clocks = self.clocks();
        let seen = &self.seen;
        let verdict = |lane, at: &[Bucket], print: &Fingerprint, pending: &Pending| {
            Ok::<_, Infallible>(look_up(seen, lane, at, print, pending))
        };
        let staged = self.buffer.staged();
        let Ok(planned) = plan(&self.context, &self.state, staged, clocks, verdict);
        if meanwhile {
            // a page that was fetched while the transaction was under way
            self.fetch_during_commit(server);
        }
        self.transaction(planned, outcome, server);
    }

    fn transaction(&mut self, planned: Planned, outcome: u8, server: &Server) {
        match outcome {
            0..=199 => {
                self.write(&planned);
                self.state = planned.next;
                for (lane, slice) in self.buffer.succeeded() {
                    if let Some(state) = self.state.lanes.get_mut(&lane) {
                        state.drop_cursor(slice);
                    }
                }
                let rules = self.context.rules.values().next().unwrap().clone();
                server.check_collected(self, &rules);
            }
            200..=219 => self.buffer.failed(),
            220..=229 => self.killed(),
            230..=239 => {
                self.write(&planned);
                self.killed();
            }
            // the producer was lost: only the checkpoint tells what became of it
            _ => {
                if outcome.is_multiple_of(2) {
                    self.write(&planned);
                }
                self.state = self.restored();
                self.buffer.clear();
            }
        }
    }

    /// All of a batch is in Kafka, or nothing.
    fn write(&mut self, planned: &Planned) {
        for record in &planned.batch.records {
            let value = record.value.as_ref().unwrap();
            match record.topic {
                Topic::Checkpoints => self.checkpoint = Some(value.to_vec()),
                Topic::SeenWeb | Topic::SeenGit => {
                    let read = ghauditd::audit::SeenRecord::decode(&record.key, value).unwrap();
                    let bucket = self.seen.entry((read.lane, read.bucket)).or_default();
                    bucket.extend(read.fingerprints);
                }
                Topic::Gaps => {
                    let gap: serde_json::Value = serde_json::from_slice(value).unwrap();
                    let second = |name: &str| {
                        let text = gap[name].as_str().unwrap();
                        text.parse::<jiff::Timestamp>().unwrap().as_second()
                    };
                    self.gaps.push((second("from"), second("to")));
                }
                _ => {
                    let text = std::str::from_utf8(value).unwrap();
                    let id = text.trim_matches(['{', '}']).parse().unwrap();
                    *self.committed.entry(id).or_default() += 1;
                    self.sequence += 1;
                    let of = |name| record.headers.iter().find(|(known, _)| *known == name);
                    let sequence = of(header::SEQ).unwrap().1.as_ref();
                    assert_eq!(sequence, self.sequence.to_string().as_bytes());
                    assert!(of(header::REVISION).is_none());
                }
            }
        }
    }

    fn fetch(&mut self, server: &mut Server) {
        self.fetch_page(server, false);
    }

    fn fetch_during_commit(&mut self, server: &mut Server) {
        self.fetch_page(server, true);
    }

    fn fetch_page(&mut self, server: &mut Server, committing: bool) {
        if self.buffer.is_full() {
            return;
        }
        if !self.clock.is_confirmed() {
            // a probe, of which only the `Date` matters
            self.clock.observe(server.now_ms / 1000 * 1000, self.mono_ms);
            return;
        }
        let now_s = self.clock.now_ms(self.mono_ms).unwrap().div_euclid(1000);
        let decision = schedule::next(&View {
            checkpoint: &self.state,
            rules: &self.context.rules,
            ahead: self.buffer.ahead(),
            tail_due_mono_ms: &self.tail_due,
            last_was_tail: self.last_was_tail,
            has_leisure: true,
            now_s,
            mono_ms: self.mono_ms,
        });
        match decision {
            Decision::Fetch(wanted) => self.ask(&wanted, server, committing),
            Decision::Reshape => {
                self.reshape_wanted = true;
                self.buffer.hurry();
            }
            Decision::Wait(_) => self.buffer.hurry(),
        }
    }

    fn ask(&mut self, wanted: &Wanted, server: &mut Server, committing: bool) {
        let page = match server.page(wanted.lane, wanted.query, wanted.next.as_ref()) {
            Ok(page) => page,
            Err(Refusal::Cursor) => return self.drop_cursor(wanted, committing),
        };
        self.clock.observe(page.date_ms.unwrap(), self.mono_ms);
        if self.clock.is_in_doubt() {
            return;
        }
        self.last_was_tail = wanted.kind == SliceKind::Tail;
        if wanted.kind == SliceKind::Tail && page.next.is_none() {
            self.tail_due.insert(wanted.lane, self.mono_ms + POLL_MS);
        }
        let fetched = Fetched {
            lane: wanted.lane,
            slice: wanted.slice,
            query: wanted.query,
            began: wanted.began,
            page,
            dead_letter: false,
            asked_s: wanted.asked_s,
            answered_s: self.clock.now_ms(self.mono_ms).unwrap().div_euclid(1000),
            fetched_mono_ms: self.mono_ms,
        };
        if !self.buffer.push(fetched, wanted.next.as_ref(), wanted.kind) {
            self.drop_cursor(wanted, committing);
        }
    }

    fn drop_cursor(&mut self, wanted: &Wanted, committing: bool) {
        if self.buffer.holds(wanted.lane, wanted.slice) || committing {
            self.buffer.lose_cursor(wanted.lane, wanted.slice);
        } else if let Some(state) = self.state.lanes.get_mut(&wanted.lane) {
            state.drop_cursor(wanted.slice);
        }
    }
}

fn look_up(
    seen: &BTreeMap<(SeenLane, Bucket), Vec<Fingerprint>>,
    lane: SeenLane,
    at: &[Bucket],
    print: &Fingerprint,
    pending: &Pending,
) -> Verdict {
    let at: BTreeSet<Bucket> = at.iter().copied().chain([Bucket::NONE]).collect();
    let filed = at.iter().filter_map(|bucket| seen.get(&(lane, *bucket))).flatten();
    let planned = pending
        .iter()
        .filter(|(of, bucket, _)| *of == lane && at.contains(bucket))
        .flat_map(|(_, _, prints)| prints);
    filed.chain(planned).map(|known| Verdict::beside(known, print)).max().unwrap_or(Verdict::New)
}
