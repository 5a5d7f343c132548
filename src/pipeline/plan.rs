//! Pages and committed state in, a batch and the state after it out. Pure: nothing has happened yet when it returns.
//!
//! The planned state becomes the state only after the batch is committed; otherwise it is dropped.

use super::answer::Answer;
use super::record::{Arena, EntityContext, Revision};
use crate::audit::lane::{Expired, Shown};
use crate::audit::seen::{filing, lookup};
use crate::audit::{
    Batch, Bucket, Checkpoint, Entry, Fingerprint, Lane, SeenLane, Slice, SliceKind, Topic,
};
use crate::audit::{Record, seen_record};
use crate::github::{Next, Page};
use crate::state::Pending;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A page of a slice's walk, fetched and not yet committed.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The lane.
    pub lane: Lane,
    /// The slice.
    pub slice: u64,
    /// The query of the walk.
    pub query: crate::audit::slice::Query,
    /// Whether it is the first page of a new walk.
    pub began: bool,
    /// What came.
    pub page: Page,
    /// Whether its one entry is a page that cannot be cut, for the dead-letter topic.
    pub dead_letter: bool,
    /// GitHub's now when it was asked for, epoch seconds.
    pub asked_s: i64,
    /// GitHub's now when the answer had come, epoch seconds: what the page says, it says of then, not of the commit.
    pub answered_s: i64,
    /// Monotonic time of the answer, milliseconds.
    pub fetched_mono_ms: i64,
}

/// Counts of one planned batch, per lane and slice kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries committed.
    pub committed: u64,
    /// Entries dropped because they were known.
    pub known: u64,
    /// Revisions among the committed.
    pub revisions: u64,
    /// Dead letters among the committed.
    pub dead_letters: u64,
}

/// A batch and what is true once it is committed.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What the transaction will hold.
    pub batch: Batch,
    /// The checkpoint that it holds: the state after it.
    pub next: Checkpoint,
    /// Fingerprints to be filed after it.
    pub pending: Pending,
    /// What it counts.
    pub counts: BTreeMap<(Lane, SliceKind), Counts>,
    /// What a sweep was the first to see.
    pub late: Vec<Late>,
    /// The gaps that it records.
    pub gaps: Vec<(Lane, Expired, &'static str)>,
    /// The request that it answers.
    pub answer: Option<Answer>,
}

/// An entry that GitHub indexed after its time had been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// The lane that it came through.
    pub lane: Lane,
    /// Its action, `unknown` without one.
    pub action: String,
    /// How long after its time it was found, seconds.
    pub late_s: i64,
}

/// When a batch is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// GitHub's now, epoch milliseconds.
    pub github_now_ms: i64,
    /// The machine's wall clock, epoch milliseconds.
    pub ingest_ms: i64,
}

impl Clocks {
    /// GitHub's now in whole seconds.
    pub fn now_s(self) -> i64 {
        self.github_now_ms.div_euclid(1000)
    }
}

/// A plan for a change of state without any page (lanes begun, tails split, backfills asked again).
pub fn checkpoint_only(context: &EntityContext, mut next: Checkpoint, clocks: Clocks) -> Planned {
    next.github_now_ms = next.github_now_ms.max(Some(clocks.github_now_ms));
    let batch = Batch { records: vec![context.checkpoint_record(&next)] };
    Planned {
        batch,
        next,
        pending: Pending::default(),
        counts: BTreeMap::new(),
        late: Vec::new(),
        gaps: Vec::new(),
        answer: None,
    }
}

/// Plans one batch of one entity's pages against its committed state.
///
/// `verdict` looks a fingerprint up among the committed and the pending; its error ends the plan.
pub fn plan<E>(
    context: &EntityContext,
    committed: &Checkpoint,
    pages: &[Fetched],
    clocks: Clocks,
    mut verdict: impl FnMut(
        SeenLane,
        &[Bucket],
        &Fingerprint,
        &Pending,
    ) -> Result<crate::audit::seen::Verdict, E>,
) -> Result<Planned, E> {
    let entries = pages.iter().map(|fetched| fetched.page.entries.len()).sum::<usize>();
    let mut plan = Plan {
        context,
        clocks,
        arena: Arena::new(entries, clocks.ingest_ms),
        out: Planned {
            batch: Batch { records: Vec::with_capacity(entries.saturating_add(8)) },
            next: committed.clone(),
            pending: Pending::default(),
            counts: BTreeMap::new(),
            late: Vec::new(),
            gaps: Vec::new(),
            answer: None,
        },
    };
    for fetched in pages {
        plan.page(fetched, &mut verdict)?;
    }
    Ok(plan.finish())
}

struct Plan<'a> {
    context: &'a EntityContext,
    clocks: Clocks,
    arena: Arena,
    out: Planned,
}

impl Plan<'_> {
    fn page<E>(
        &mut self,
        fetched: &Fetched,
        verdict: &mut impl FnMut(
            SeenLane,
            &[Bucket],
            &Fingerprint,
            &Pending,
        ) -> Result<crate::audit::seen::Verdict, E>,
    ) -> Result<(), E> {
        let context = self.context;
        let Some(rules) = context.rules.get(&fetched.lane) else { return Ok(()) };
        let Some(kind) = self.slice_kind(fetched) else { return Ok(()) };
        let mut counts = self.out.counts.get(&(fetched.lane, kind)).copied().unwrap_or_default();
        let (before, revisions) = (counts.committed, counts.revisions);
        for entry in &fetched.page.entries {
            self.entry(fetched, kind, entry, &mut counts, verdict)?;
        }
        let changed = match kind {
            SliceKind::Sweep => counts.revisions.saturating_sub(revisions),
            SliceKind::Tail | SliceKind::Backfill => 0,
        };
        let shown = Shown {
            times_s: fetched.page.entries.iter().map(time_s).collect(),
            // a body that changes each time it is shown must not keep a sweep from its end
            new_entries: counts.committed.saturating_sub(before).saturating_sub(changed),
            cursor: match &fetched.page.next {
                Some(Next::Cursor(cursor)) => Some(cursor.clone()),
                _ => None,
            },
            more: fetched.page.next.is_some(),
        };
        if let Some(lane) = self.out.next.lanes.get_mut(&fetched.lane) {
            if fetched.began {
                lane.begin_walk(fetched.slice, fetched.query, fetched.asked_s);
            }
            let now_s = fetched.answered_s;
            let Some(before) = lane.slice(fetched.slice).cloned() else { return Ok(()) };
            let (unread_s, tried) = (before.unread_s(), (&before, fetched.asked_s));
            let expired = lane.apply_page(rules, fetched.slice, &shown, now_s);
            if let Some(expired) = expired {
                let cause = if kind == SliceKind::Sweep { "not_read_again" } else { "expired" };
                self.gap(fetched.lane, expired, cause, tried);
            }
            // a letter that is known already came with its gap
            if fetched.dead_letter && shown.new_entries > 0 {
                let span = Expired { from_s: unread_s, to_s: unread_s.saturating_add(1) };
                self.gap(fetched.lane, span, "uncuttable_page", tried);
            }
        }
        self.out.counts.insert((fetched.lane, kind), counts);
        Ok(())
    }

    fn slice_kind(&self, fetched: &Fetched) -> Option<SliceKind> {
        Some(self.out.next.lanes.get(&fetched.lane)?.slice(fetched.slice)?.kind)
    }

    fn entry<E>(
        &mut self,
        fetched: &Fetched,
        kind: SliceKind,
        entry: &Entry,
        counts: &mut Counts,
        verdict: &mut impl FnMut(
            SeenLane,
            &[Bucket],
            &Fingerprint,
            &Pending,
        ) -> Result<crate::audit::seen::Verdict, E>,
    ) -> Result<(), E> {
        let (id, derived) = entry.id_or_derived();
        let fingerprint = Fingerprint::new(&id, &entry.body, fetched.lane.source());
        let seen_lane = SeenLane::of(entry);
        let verdict = verdict(seen_lane, &lookup(entry), &fingerprint, &self.out.pending)?;
        if verdict.is_stored() {
            let retention = self.context.seen_retention(seen_lane);
            for &bucket in filing(entry, self.clocks.github_now_ms, retention).as_slice() {
                self.out.pending.insert(seen_lane, bucket, fingerprint);
            }
        }
        if !verdict.is_committed() {
            counts.known = counts.known.saturating_add(1);
            return Ok(());
        }
        counts.committed = counts.committed.saturating_add(1);
        let before = match verdict {
            crate::audit::seen::Verdict::Revision(before) => Some(before),
            _ => None,
        };
        counts.revisions = counts.revisions.saturating_add(u64::from(before.is_some()));
        if kind == SliceKind::Sweep && before.is_none() {
            self.late(fetched.lane, entry);
        }
        let draft = super::record::Draft {
            entry,
            lane: fetched.lane,
            kind,
            id: &id,
            derived,
            revision: before.map(|before| Revision { body: fingerprint.body(), before }),
        };
        let topic = if fetched.dead_letter { Topic::DeadLetter } else { entry.topic() };
        let pieces = self.context.records(
            &mut self.arena,
            &draft,
            topic,
            &mut self.out.next.sequence,
            &mut self.out.batch.records,
        );
        if topic == Topic::DeadLetter || pieces > 1 {
            counts.dead_letters = counts.dead_letters.saturating_add(1);
        }
        Ok(())
    }

    fn late(&mut self, lane: Lane, entry: &Entry) {
        let Some(time_s) = time_s(entry) else { return };
        let late_s = self.clocks.now_s().saturating_sub(time_s);
        let action = entry.action.as_ref().map_or("unknown", crate::audit::Text::as_str).to_owned();
        self.out.late.push(Late { lane, action, late_s });
    }

    fn gap(&mut self, lane: Lane, span: Expired, cause: &'static str, tried: (&Slice, i64)) {
        self.out.gaps.push((lane, span, cause));
        let record = self.context.gap_record(lane, span, cause, tried, self.clocks);
        self.out.batch.records.push(record);
    }

    fn finish(mut self) -> Planned {
        let key = self.context.key.clone();
        for (lane, bucket, fingerprints) in self.out.pending.iter() {
            self.out.batch.records.push(Record {
                topic: lane.topic(),
                partition: Some(self.context.state_partition),
                key: key.clone(),
                value: Some(Bytes::from(seen_record::encode_value(lane, bucket, fingerprints))),
                headers: Vec::new(),
            });
        }
        let now_ms = self.clocks.github_now_ms;
        self.out.next.github_now_ms = self.out.next.github_now_ms.max(Some(now_ms));
        self.out.batch.records.push(self.context.checkpoint_record(&self.out.next));
        self.out
    }
}

fn time_s(entry: &Entry) -> Option<i64> {
    entry.time_ms().map(|ms| ms.div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::lane::LaneRules;
    use crate::audit::{EntityName, LaneState, Text, header};
    use crate::state::{Buckets, Settings};
    use tempfile::TempDir;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn context() -> EntityContext {
        let rules = |lane| LaneRules {
            readers: 1,
            lane,
            retention_s: Some(180 * 86_400),
            settling_s: 600,
            sweeps: crate::audit::SweepAges::default(),
        };
        EntityContext {
            name: EntityName::try_from("acme".to_owned()).unwrap(),
            state_partition: 3,
            rules: Lane::ALL.into_iter().map(|lane| (lane, rules(lane))).collect(),
            value_bytes_max: super::super::record::VALUE_BYTES_MAX,
            source: Bytes::from_static(b"https://api.github.com/orgs/acme"),
            key: Bytes::from_static(b"acme"),
        }
    }

    fn clocks() -> Clocks {
        Clocks { github_now_ms: NOW_MS, ingest_ms: NOW_MS + 5 }
    }

    fn state(context: &EntityContext) -> Checkpoint {
        let now_s = clocks().now_s();
        let lanes =
            context.rules.iter().map(|(&lane, rules)| (lane, LaneState::begin(rules, now_s)));
        let lanes = lanes.collect();
        Checkpoint { sequence: 41, lanes, ..Checkpoint::empty(context.name.clone()) }
    }

    fn entry(id: &str, body: &str) -> Entry {
        Entry {
            id: Text::new(Bytes::copy_from_slice(id.as_bytes())),
            timestamp_ms: Some(NOW_MS - 1000),
            ..Entry::opaque(Bytes::copy_from_slice(body.as_bytes()))
        }
    }

    fn fetched(entries: Vec<Entry>) -> Fetched {
        let query = crate::audit::slice::Query { from_s: NOW_MS / 1000 - 600, to_s: None };
        let page = Page { entries, next: None, date_ms: None, body_bytes: 100, budget: None };
        Fetched {
            lane: Lane::Web,
            slice: 1,
            query,
            began: true,
            page,
            dead_letter: false,
            asked_s: NOW_MS / 1000 - 1,
            answered_s: NOW_MS / 1000,
            fetched_mono_ms: 0,
        }
    }

    fn buckets() -> (TempDir, Buckets) {
        let dir = TempDir::new().unwrap();
        let settings = Settings { dir: dir.path().to_owned(), memory_bytes_max: 1 << 20 };
        let buckets = Buckets::open(&settings, "instance").unwrap();
        (dir, buckets)
    }

    fn plan_with(
        buckets: &mut Buckets,
        context: &EntityContext,
        state: &Checkpoint,
        pages: &[Fetched],
    ) -> Planned {
        plan(context, state, pages, clocks(), |lane, at, fingerprint, pending| {
            buckets.verdict(&context.name, lane, at, fingerprint, pending)
        })
        .unwrap()
    }

    fn header_of<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
        let value = record.headers.iter().find(|(key, _)| *key == name)?;
        Some(std::str::from_utf8(&value.1).unwrap())
    }

    fn data(planned: &Planned) -> Vec<&Record> {
        planned.batch.records.iter().filter(|record| !record.topic.is_state()).collect()
    }

    #[test]
    fn once_is_each_id_and_body_also_inside_a_batch_and_revisions_are_marked_once() {
        let (_dir, mut buckets) = buckets();
        let (context, mut committed) = (context(), None::<Checkpoint>);
        let first = state(&context);
        let page = fetched(vec![
            entry("a", "{A}"),
            entry("a", "{A}"),
            entry("a", "{B}"),
            entry("a", "{A}"),
        ]);
        let mut planned = plan_with(&mut buckets, &context, &first, &[page]);
        let bodies: Vec<_> = data(&planned).iter().map(|r| r.value.clone().unwrap()).collect();
        assert_eq!(bodies, [&b"{A}"[..], &b"{B}"[..]]);
        assert_eq!(header_of(data(&planned)[0], header::CE_ID), Some("a"));
        let revised = header_of(data(&planned)[1], header::CE_ID).unwrap();
        assert!(revised.starts_with("a;r=") && revised.len() == 12, "{revised}");
        let before = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(b"{A}"));
        assert_eq!(header_of(data(&planned)[1], header::REVISION), Some(before.as_str()));
        assert_eq!(planned.next.sequence, 43);
        buckets.commit(&context.name, &mut planned.pending).unwrap();
        committed.replace(planned.next);
        let page = fetched(vec![entry("a", "{B}"), entry("a", "{A}"), entry("a", "{C}")]);
        let planned = plan_with(&mut buckets, &context, &committed.unwrap(), &[page]);
        assert_eq!(data(&planned).len(), 1, "A, B, A makes one revision; C is another");
        assert_eq!(header_of(data(&planned)[0], header::SEQ), Some("44"));
    }

    /// One entry by two ways in, whose times differ by minutes and lie in two hours: the first one counts, and what is a
    /// revision is told within each way alone.
    #[test]
    fn an_entry_that_both_ways_show_comes_once_whichever_is_first() {
        let hour_ms = NOW_MS - NOW_MS.rem_euclid(3_600_000) - 7_200_000;
        let at = |body, ms| Entry { timestamp_ms: Some(ms), ..entry("a", body) };
        let by = |lane, entries| Fetched { lane, ..fetched(entries) };
        let times = [hour_ms - 120_000, hour_ms + 120_000];
        for (first, second) in [(Lane::Web, Lane::GraphQl), (Lane::GraphQl, Lane::Web)] {
            for (one, other) in [(times[0], times[1]), (times[1], times[0])] {
                let (_dir, mut buckets) = buckets();
                let context = context();
                let mut state = state(&context);
                let mut commit = |pages: &[Fetched]| {
                    let mut planned = plan_with(&mut buckets, &context, &state, pages);
                    buckets.commit(&context.name, &mut planned.pending).unwrap();
                    state = planned.next.clone();
                    let of = |record: &&Record, name| header_of(record, name).map(str::to_owned);
                    let records = data(&planned);
                    let shown = records.iter().map(|record| {
                        (of(record, header::LANE).unwrap(), of(record, header::REVISION).is_some())
                    });
                    shown.collect::<Vec<_>>()
                };
                let came = commit(&[by(first, vec![at("{1}", one)])]);
                assert_eq!(came, [(first.as_str().to_owned(), false)]);
                assert_eq!(commit(&[by(second, vec![at("{2}", other)])]), []);
                assert_eq!(commit(&[by(second, vec![at("{2}", other)])]), []);
                assert_eq!(commit(&[by(first, vec![at("{1}", one)])]), []);
                let revised = commit(&[by(second, vec![at("{3}", other)])]);
                assert_eq!(revised, [(second.as_str().to_owned(), true)]);
            }
        }
    }

    #[test]
    fn a_batch_ends_with_seen_ids_and_one_checkpoint_in_the_entitys_partition() {
        let (_dir, mut buckets) = buckets();
        let context = context();
        let planned =
            plan_with(&mut buckets, &context, &state(&context), &[fetched(vec![entry("a", "{}")])]);
        let kinds: Vec<_> = planned.batch.records.iter().map(|r| (r.topic, r.partition)).collect();
        assert_eq!(
            kinds,
            [(Topic::Web, None), (Topic::SeenWeb, Some(3)), (Topic::Checkpoints, Some(3))]
        );
        let last = planned.batch.records.last().unwrap();
        assert_eq!(Checkpoint::decode(last.value.as_ref().unwrap()).unwrap(), planned.next);
    }

    /// A broker that is away costs nothing but time, however long the fetched pages wait for it.
    #[test]
    fn a_page_that_is_committed_an_hour_late_says_nothing_of_that_hour() {
        let context = context();
        let late = Clocks { github_now_ms: NOW_MS + 3_600_000, ..clocks() };
        let pages = [fetched(vec![entry("a", "{}")])];
        let planned = plan(&context, &state(&context), &pages, late, |_, _, _, _| {
            Ok::<_, std::convert::Infallible>(crate::audit::seen::Verdict::New)
        })
        .unwrap();
        let tail = planned.next.lanes[&Lane::Web].slice(1).unwrap();
        assert_eq!(tail.start_s, NOW_MS / 1000 - 2, "the newest second less one");
        assert_eq!(planned.next.github_now_ms, Some(late.github_now_ms));
    }

    #[test]
    fn an_entry_without_an_id_travels_under_the_digest_of_its_bytes_and_is_marked() {
        let (_dir, mut buckets) = buckets();
        let context = context();
        let page = fetched(vec![Entry::opaque(Bytes::from_static(b"\xff\xfe{"))]);
        let planned = plan_with(&mut buckets, &context, &state(&context), &[page]);
        let record = data(&planned)[0];
        assert_eq!(record.value.as_deref(), Some(&b"\xff\xfe{"[..]));
        assert!(header_of(record, header::CE_ID).unwrap().starts_with("sha256:"));
        assert_eq!(header_of(record, header::DERIVED_ID), Some("1"));
        assert_eq!(header_of(record, header::CE_TYPE), Some("unknown"));
        assert_eq!(header_of(record, header::CE_TIME), None);
    }

    #[test]
    fn what_no_topic_takes_whole_goes_in_numbered_pieces_that_join_to_the_same_bytes() {
        let (_dir, mut buckets) = buckets();
        let context = EntityContext { value_bytes_max: 10, ..context() };
        let body = "{\"long\":\"0123456789\"}";
        let planned =
            plan_with(&mut buckets, &context, &state(&context), &[fetched(vec![entry("a", body)])]);
        let pieces = data(&planned);
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.topic == Topic::DeadLetter));
        let joined: Vec<u8> =
            pieces.iter().flat_map(|piece| piece.value.clone().unwrap()).collect();
        assert_eq!(joined, body.as_bytes());
        let numbers: Vec<_> = pieces.iter().map(|p| header_of(p, header::SEQ).unwrap()).collect();
        assert_eq!(numbers, ["42", "43", "44"]);
        assert_eq!(planned.next.sequence, 44);
    }

    #[test]
    fn git_entries_go_to_the_git_topic_whatever_lane_they_came_through() {
        let (_dir, mut buckets) = buckets();
        let context = context();
        let push = Entry { action: Text::new(Bytes::from_static(b"git.push")), ..entry("g", "{}") };
        let planned = plan_with(&mut buckets, &context, &state(&context), &[fetched(vec![push])]);
        let topics: Vec<_> = planned.batch.records.iter().map(|record| record.topic).collect();
        assert_eq!(topics, [Topic::Git, Topic::SeenGit, Topic::Checkpoints]);
    }
}
