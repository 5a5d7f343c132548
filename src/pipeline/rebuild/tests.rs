//! An archive made by the collector's own plan and the archive's own writer, read back.

use super::decide::{SEQUENCE_MARGIN, SEQUENCE_STEP, goes_on_after};
use super::load::Loader;
use super::record::{Joiner, numbered};
use super::*;
use crate::archive::segment::{
    ArchivedRecord, Compressor, Header, OpenSegment, RecordRef, VERSION, parse_line, write_line,
};
use crate::audit::lane::Shown;
use crate::audit::{
    Bucket, Checkpoint, Fingerprint, LaneState, SeenRecord, SweepAges, Topic, header,
};
use crate::github::Page;
use crate::github::page::cut;
use crate::pipeline::plan::{Clocks, Fetched, plan};
use crate::pipeline::record::EntityContext;
use crate::state::{Buckets, Settings};
use proptest::prelude::*;
use std::collections::BTreeSet;

const NOW_MS: i64 = 1_790_000_000_000;
const DAY_S: i64 = 86_400;

fn name(text: &str) -> EntityName {
    EntityName::try_from(text.to_owned()).unwrap()
}

fn rules() -> BTreeMap<Lane, LaneRules> {
    let rules = |lane, days: i64| LaneRules {
        readers: 1,
        lane,
        retention_s: Some(days * DAY_S),
        settling_s: 600,
        sweeps: SweepAges::default(),
    };
    [(Lane::Web, rules(Lane::Web, 180)), (Lane::Git, rules(Lane::Git, 7))].into()
}

fn configured(names: &[&str]) -> Configured {
    let day = Duration::from_hours(24);
    Configured {
        rules: names.iter().map(|it| (name(it), rules())).collect(),
        default: [(SeenLane::Web, Some(180 * day)), (SeenLane::Git, Some(7 * day))].into(),
    }
}

fn context(value_bytes_max: usize) -> EntityContext {
    EntityContext {
        name: name("acme"),
        state_partition: 3,
        rules: rules(),
        value_bytes_max,
        source: Bytes::from_static(b"https://api.github.com/orgs/acme"),
        key: Bytes::from_static(b"acme"),
    }
}

fn state(context: &EntityContext) -> Checkpoint {
    let begin =
        |(lane, rules): (&Lane, &LaneRules)| (*lane, LaneState::begin(rules, NOW_MS / 1000));
    Checkpoint {
        lanes: context.rules.iter().map(begin).collect(),
        ..Checkpoint::empty(context.name.clone())
    }
}

/// What a record is in the archive: through its line and back.
fn through_the_archive(record: &Record, offset: i64) -> ArchivedRecord {
    let mut line = Vec::new();
    let headers = record.headers.iter().map(|(name, value)| (*name, Some(value.as_ref())));
    let key = Some(record.key.as_ref());
    let value = record.value.as_deref();
    write_line(&mut line, RecordRef { offset, timestamp_ms: NOW_MS, key, headers, value }).unwrap();
    line.pop();
    parse_line(&line).unwrap()
}

type Filed = BTreeSet<(SeenLane, Bucket, Fingerprint)>;

/// Plans pages as the collector does; what it files, and its records.
fn planned(pages: &[(Vec<u8>, bool)], value_bytes_max: usize) -> (Filed, Vec<Record>) {
    let context = context(value_bytes_max);
    let dir = tempfile::TempDir::new().unwrap();
    let settings = Settings { dir: dir.path().to_owned(), memory_bytes_max: 1 << 20 };
    let mut buckets = Buckets::open(&settings, "instance").unwrap();
    let query = crate::audit::slice::Query { from_s: NOW_MS / 1000 - 600, to_s: None };
    let fetched = pages.iter().filter_map(|(body, dead_letter)| {
        let body = Bytes::copy_from_slice(body);
        let entries = if *dead_letter {
            vec![crate::audit::Entry::opaque(body.clone())]
        } else {
            cut(&body).ok()?
        };
        let page =
            Page { entries, next: None, date_ms: None, body_bytes: body.len(), budget: None };
        Some(Fetched {
            lane: Lane::Web,
            slice: 1,
            query,
            began: true,
            page,
            dead_letter: *dead_letter,
            asked_s: NOW_MS / 1000,
            answered_s: NOW_MS / 1000,
            fetched_mono_ms: 0,
        })
    });
    let fetched: Vec<_> = fetched.collect();
    let clocks = Clocks { github_now_ms: NOW_MS, ingest_ms: NOW_MS };
    let planned = plan(&context, &state(&context), &fetched, clocks, |lane, at, it, pending| {
        buckets.verdict(&context.name, lane, at, it, pending)
    })
    .unwrap();
    let mut filed = Filed::new();
    for (lane, bucket, fingerprints) in planned.pending.iter() {
        filed.extend(fingerprints.iter().map(|fingerprint| (lane, bucket, *fingerprint)));
    }
    let records = planned.batch.records.into_iter().filter(|record| record.topic.holds_entries());
    (filed, records.collect())
}

/// What the archive makes of them.
fn rebuilt(records: &[Record]) -> Filed {
    let (context, mut joiner, mut filed) = (context(usize::MAX), Joiner::default(), Filed::new());
    for (offset, record) in (0..).zip(records) {
        let record = numbered(through_the_archive(record, offset)).unwrap().unwrap();
        let Some(archived) = joiner.take(&record).unwrap() else { continue };
        let retention = context.seen_retention(archived.lane);
        let kept = archived.kept(record.ingest_ms, retention, i64::MIN);
        filed.extend(kept.map(|bucket| (archived.lane, bucket, archived.fingerprint)));
    }
    assert_eq!(joiner.end(), 0);
    filed
}

fn member() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        "[a-c]",
        Just("\\u0061".to_owned()),
        Just(";r=00000000".to_owned()),
        Just(String::new())
    ];
    let time = prop_oneof![
        Just(NOW_MS),
        NOW_MS - 300 * DAY_S * 1000..NOW_MS + 3 * DAY_S * 1000,
        Just(4_070_908_800_000),
        Just(-5)
    ];
    prop_oneof![
        id.prop_map(|id| format!(r#""_document_id":"{id}""#)),
        Just(r#""_document_id":7"#.to_owned()),
        time.clone().prop_map(|ms| format!(r#""@timestamp":{ms}"#)),
        time.prop_map(|ms| format!(r#""created_at":{ms}"#)),
        Just(r#""action":"git.push""#.to_owned()),
        Just(r#""action":"repo.create""#.to_owned()),
        Just(r#""action":"api.request""#.to_owned()),
        Just(r#""org":["o","p"]"#.to_owned()),
        Just(r#""x":"\ud800""#.to_owned()),
        Just(r#""y":1e400"#.to_owned()),
        "[a-z]{0,90}".prop_map(|text| format!(r#""z":"{text}""#)),
    ]
}

fn element() -> impl Strategy<Value = Vec<u8>> {
    let object = proptest::collection::vec(member(), 0..6)
        .prop_map(|members| format!("{{ {} }}", members.join(" ,")));
    prop_oneof![
        12 => object.prop_map(String::into_bytes),
        1 => Just(b"{\"_document_id\":\"a\",\"u\":\"\xff\"}".to_vec()),
        1 => Just(b"{\"_document_id\":\"a\",unquoted}".to_vec()),
        1 => Just(b"17".to_vec()),
        1 => Just(b"[{\"_document_id\":\"a\"}]".to_vec()),
        1 => Just([b"{\"n\":".as_slice(), &b"[".repeat(200), &b"]".repeat(200), b"}"].concat()),
    ]
}

fn page() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let elements = proptest::collection::vec(element(), 0..6);
    (elements, proptest::bool::weighted(0.1)).prop_map(|(elements, dead_letter)| {
        ([b"[".as_slice(), &elements.join(&b"\n,"[..]), b"]"].concat(), dead_letter)
    })
}

proptest! {
    /// Nothing is collected twice because of a fingerprint that is not the collector's.
    #[test]
    fn fingerprints_and_buckets_are_the_collectors(
        pages in proptest::collection::vec(page(), 1..5), value_bytes_max in 20_usize..400,
    ) {
        let (filed, records) = planned(&pages, value_bytes_max);
        prop_assert_eq!(rebuilt(&records), filed);
    }
}

#[test]
fn an_entry_in_pieces_a_revision_and_a_page_that_cannot_be_cut_are_recognised() {
    let large = format!(r#"{{"_document_id":"a","@timestamp":{NOW_MS},"z":"{}"}}"#, "x".repeat(90));
    let page = format!(r#"[{large},{{"_document_id":"a","@timestamp":{NOW_MS}}}]"#);
    let (filed, records) = planned(&[(page.into_bytes(), false), (b"[{]".to_vec(), true)], 64);
    assert_eq!(records.len(), 3 + 1 + 1);
    assert_eq!(rebuilt(&records), filed);
    assert_eq!(filed.len(), 3);
    let spoilt = |change: &dyn Fn(&mut ArchivedRecord)| {
        let mut joiner = Joiner::default();
        let taken = records.iter().map(|record| {
            let mut record = through_the_archive(record, 0);
            change(&mut record);
            numbered(record).map(Option::unwrap).and_then(|record| joiner.take(&record))
        });
        taken.filter_map(Result::err).collect::<Vec<_>>()
    };
    let set = |record: &mut ArchivedRecord, name: &str, to: &str| {
        let found = record.headers.iter_mut().filter(|(key, _)| key == name);
        found.for_each(|(_, value)| *value = Some(to.as_bytes().to_vec()));
    };
    insta::assert_snapshot!(
        [
            spoilt(&|record| record.value = record.value.take().map(|mut value| {
                value.push(b' ');
                value
            })),
            spoilt(&|record| set(record, header::CHUNK, "1")),
            spoilt(&|record| set(record, header::LANE, "carrier_pigeon")),
        ]
        .concat()
        .join("\n"),
        @r#"
    its pieces do not make the SHA-256 that they name
    ce_id is "a;r=0101e296", its value makes "sha256:a86717dbf0664fd69a74da55771e001a6592bfe0ec617576f37d94c5f2c3efb0;r=11a23c81"
    ce_id is "sha256:416b55fa441c629a0f91020bd0c015119bf142a74cbc1e1303187e588b48bf4d", its value makes "sha256:9b9a6a72bc5ab76ed3bf13ec77911416b0b5c78e2b4a6f38d5e601016b2f3e2e"
    it is piece 1, where 0 is due
    it is piece 1, where 0 is due
    it is piece 1, where 0 is due
    gh_lane is "carrier_pigeon": use the ghauditd that knows this way in
    gh_lane is "carrier_pigeon": use the ghauditd that knows this way in
    gh_lane is "carrier_pigeon": use the ghauditd that knows this way in
    gh_lane is "carrier_pigeon": use the ghauditd that knows this way in
    gh_lane is "carrier_pigeon": use the ghauditd that knows this way in
    "#
    );
}

/// A segment of entries of one partition: number, and when it was committed.
fn segment(
    from: i64,
    entries: &[(u64, i64)],
    to: i64,
    log_start: Option<i64>,
) -> (SegmentKey, Bytes) {
    segment_of("web", from, entries, to, log_start)
}

fn segment_of(
    topic: &str,
    from: i64,
    entries: &[(u64, i64)],
    to: i64,
    log_start: Option<i64>,
) -> (SegmentKey, Bytes) {
    let mut compressor = Compressor::new(1).unwrap();
    let (topic, partition) = (topic.to_owned(), 0);
    let header = Header {
        version: VERSION,
        topic: topic.clone(),
        partition,
        from,
        log_start,
        gap_from: None,
    };
    let mut open = OpenSegment::new(header).unwrap();
    for (offset, (number, ingest_ms)) in (from..).zip(entries) {
        let value = format!(r#"{{"_document_id":"n{number}","@timestamp":{ingest_ms}}}"#);
        let (id, number, ingest) =
            (format!("n{number}"), number.to_string(), ingest_ms.to_string());
        let headers = [
            (header::CE_ID, id.as_str()),
            (header::ENTITY, "acme"),
            (header::LANE, "web"),
            (header::INGEST_MS, ingest.as_str()),
            (header::SEQ, number.as_str()),
        ]
        .map(|(name, value)| (name, Some(value.as_bytes())));
        let (key, value) = (Some(&b"acme"[..]), Some(value.as_bytes()));
        let record = RecordRef { offset, timestamp_ms: *ingest_ms, key, headers, value };
        open.push(record, &mut compressor).unwrap();
    }
    let sealed = open.seal(to, NOW_MS, &mut compressor).unwrap();
    (SegmentKey { topic, partition, from }, sealed.bytes)
}

fn surveyed(segments: &[(SegmentKey, Bytes)], gaps: &[(i64, i64)]) -> Survey {
    let Configured { default, .. } = configured(&[]);
    let retentions = configured(&["acme"]).retentions();
    let mut survey = Survey::new(vec!["folder /a".to_owned()], retentions, default, NOW_MS);
    for (key, object) in segments {
        survey.take(0, key, Ok(object), gaps).unwrap();
    }
    survey.end();
    survey
}

fn problems(survey: &Survey) -> Vec<String> {
    survey.problems().0.iter().map(ToString::to_string).collect()
}

fn one(survey: &Survey) -> EntityPlan {
    let plans = decide(survey, &configured(&["acme"]), NOW_MS);
    assert_eq!(plans.len(), 1);
    plans.into_iter().next().unwrap()
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn the_unarchived_rest_is_between_the_last_proven_commit_and_the_next_step() {
    let at = |hours: i64| NOW_MS - 10 * HOUR_MS + hours * HOUR_MS;
    let survey = surveyed(
        &[
            segment_of("git", 0, &[(2, at(0)), (4, at(1))], 2, Some(0)),
            segment_of("git", 2, &[(9, at(3)), (10, at(4))], 4, None),
            segment_of("web", 0, &[(1, at(0)), (3, at(1)), (5, at(2))], 3, Some(0)),
        ],
        &[],
    );
    assert_eq!(problems(&survey), Vec::<String>::new());
    let plan = one(&survey);
    assert_eq!((plan.sequence, plan.goes_on_after, plan.missing), (10, SEQUENCE_STEP, 3));
    assert_eq!(plan.lost, [(6, 8), (11, SEQUENCE_STEP)]);
    assert_eq!(plan.proven_s, Some(at(2) / 1000));
    assert_eq!((plan.fingerprints, plan.records, plan.doubled), (7, 7, 0));
    assert_eq!(plan.lanes[&Lane::Web].shown_again, 7);
    let gap = plan.gap_record(NOW_MS);
    let gap: serde_json::Value = serde_json::from_slice(&gap.value.unwrap()).unwrap();
    insta::assert_snapshot!(gap, @r#"
    {"cause":"cluster_lost","entity":"acme","from":"2026-09-21T06:13:20Z","noticed":"2026-09-21T14:13:20.000Z","sequence_holes":[[6,8],[11,10000000000]],"sequence_missing":3,"to":"2026-09-21T14:13:20Z","version":1}
    "#);
}

#[test]
fn a_lane_begins_as_if_switched_off_at_the_last_proven_commit() {
    let (day_ms, hour_s) = (DAY_S * 1000, 3_600);
    let at_ms = NOW_MS - 10 * day_ms;
    let survey = surveyed(&[segment(0, &[(1, at_ms)], 2, Some(0))], &[]);
    let plan = one(&survey);
    let rules = rules();
    let checkpoint = plan.checkpoint(Some(&rules));
    assert_eq!((checkpoint.sequence, checkpoint.github_now_ms), (SEQUENCE_STEP, None));
    let mut lane = checkpoint.lanes[&Lane::Git].clone();
    assert_eq!(lane.collected.as_slice(), []);
    let now_s = NOW_MS / 1000;
    assert!(lane.split_tail(&rules[&Lane::Git], now_s), "what is behind becomes backfill");
    let mut gaps = crate::audit::Intervals::default();
    for slice in lane.slices.clone() {
        lane.begin_walk(slice.id, slice.next_query(), now_s);
        if let Some(gap) = lane.apply_page(&rules[&Lane::Git], slice.id, &Shown::default(), now_s) {
            gaps.insert(gap.from_s, gap.to_s);
        }
    }
    // what GitHub kept at the last proven commit, an hour earlier to be sure, and has deleted since
    let edge_s = |at_s: i64| at_s - 7 * DAY_S;
    assert_eq!(gaps.as_slice(), [(edge_s(at_ms / 1000 - hour_s), edge_s(now_s))]);
    let unconfigured = plan.checkpoint(None);
    assert_eq!((unconfigured.sequence, unconfigured.lanes.len()), (SEQUENCE_STEP, 0));
}

#[test]
fn the_step_leaves_room_for_what_was_never_archived() {
    assert_eq!(goes_on_after(0), SEQUENCE_STEP);
    assert_eq!(goes_on_after(SEQUENCE_STEP - SEQUENCE_MARGIN), SEQUENCE_STEP);
    assert_eq!(goes_on_after(SEQUENCE_STEP - SEQUENCE_MARGIN + 1), 2 * SEQUENCE_STEP);
    assert_eq!(goes_on_after(SEQUENCE_STEP + 7), 2 * SEQUENCE_STEP);
}

#[test]
fn what_is_damaged_missing_or_strange_is_named() {
    let all: Vec<(u64, i64)> = (1..=9).map(|number| (number, NOW_MS - HOUR_MS)).collect();
    let first = segment(0, &all[..3], 3, Some(0));
    let second = segment(3, &all[3..6], 6, None);
    let third = segment(6, &all[6..], 9, None);
    let mut cut = second.clone();
    cut.1.truncate(cut.1.len() - 9);
    let mut turned = second.1.to_vec();
    let middle = turned.len() / 2;
    turned[middle] ^= 0x40;
    let rows = [
        surveyed(&[first.clone(), cut, third.clone()], &[]),
        surveyed(&[first.clone(), (second.0.clone(), Bytes::from(turned)), third.clone()], &[]),
        surveyed(&[first.clone(), third.clone()], &[]),
        surveyed(&[first.clone(), third.clone()], &[(3, 6)]),
        surveyed(&[second.clone(), third.clone()], &[]),
        surveyed(&[first.clone(), segment(2, &all[3..6], 6, None), third.clone()], &[]),
        surveyed(&[first.clone(), (second.0.clone(), third.1.clone()), third.clone()], &[]),
    ];
    for survey in &rows {
        let plan = one(survey);
        assert_eq!(plan.sequence, 9, "{:?}", problems(survey));
    }
    let lines: Vec<_> = rows.iter().flat_map(problems).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    segments/web/00000/00000000000000000003.jsonl.zst cannot be used: segment damaged at line 1: incomplete frame
    segments/web/00000/00000000000000000003.jsonl.zst cannot be used: segment damaged at line 1: Restored data doesn't match checksum
    no segment holds web/0 from offset 3 to 6
    web/0 from offset 3 to 6 was never archived: Kafka's retention was faster
    segments/web/00000/00000000000000000003.jsonl.zst is the first of its partition, and what came before it is not there
    segments/web/00000/00000000000000000002.jsonl.zst begins before the segment before it ends (3)
    segments/web/00000/00000000000000000003.jsonl.zst cannot be used: segment damaged at line 1: its header is that of another segment
    "#);
    // a beginning that nothing can need any more is none
    let old: Vec<(u64, i64)> =
        (4..=9).map(|number| (number, NOW_MS - 300 * 24 * HOUR_MS)).collect();
    let survey = surveyed(&[segment(3, &old, 9, None)], &[]);
    assert_eq!(problems(&survey), Vec::<String>::new());
    let plan = one(&survey);
    assert_eq!((plan.missing, plan.fingerprints), (0, 6), "nothing is proven to be forgotten yet");
    assert_eq!(plan.proven_s, Some(old[0].1 / 1000));
}

/// Another record than an entry's, with its value.
fn said(topic: &str, value: &serde_json::Value) -> (SegmentKey, Bytes) {
    let mut compressor = Compressor::new(1).unwrap();
    let (topic, partition) = (topic.to_owned(), 0);
    let header = Header {
        version: VERSION,
        topic: topic.clone(),
        partition,
        from: 0,
        log_start: Some(0),
        gap_from: None,
    };
    let mut open = OpenSegment::new(header).unwrap();
    let value = value.to_string();
    let headers: [(&str, Option<&[u8]>); 0] = [];
    let value = Some(value.as_bytes());
    let record = RecordRef { offset: 0, timestamp_ms: NOW_MS, key: None, headers, value };
    open.push(record, &mut compressor).unwrap();
    let sealed = open.seal(1, NOW_MS, &mut compressor).unwrap();
    (SegmentKey { topic, partition, from: 0 }, sealed.bytes)
}

#[test]
fn what_an_earlier_rebuild_lost_is_not_lost_again_and_its_archive_is_asked_for() {
    let (after, at) = (SEQUENCE_STEP, NOW_MS - HOUR_MS);
    let gap = serde_json::json!({
        "version": 1, "entity": "acme", "cause": "cluster_lost", "from": "", "to": "", "noticed": "",
        "sequence_holes": [[3, 3], [5, after]], "sequence_missing": 1,
    });
    let place = "folder /older";
    let statement = serde_json::json!({
        "kind": "statement", "version": 1, "what": "rebuild", "details": {"archives": [place]},
    });
    let newer = [
        said("gaps", &gap),
        said("operations", &statement),
        segment(0, &[(after + 1, at), (after + 2, at)], 2, Some(0)),
    ];
    let survey = surveyed(&newer, &[]);
    insta::assert_snapshot!(problems(&survey).join("\n"), @r#"
    this archive began with a rebuild from folder /older, which is not read now: name both behind --from-archive
    "#);
    let plan = one(&survey);
    assert_eq!((plan.sequence, plan.goes_on_after), (after + 2, 2 * SEQUENCE_STEP));
    assert_eq!((plan.missing, plan.proven_s), (3, None), "1, 2 and 4 are in the older archive");
    let retentions = configured(&["acme"]).retentions();
    let places = vec![place.to_owned(), "folder /newer".to_owned()];
    let mut both = Survey::new(places, retentions, configured(&[]).default, NOW_MS);
    let (key, object) = segment(0, &[(1, at), (2, at), (4, at)], 3, Some(0));
    both.take(0, &key, Ok(&object), &[]).unwrap();
    for (key, object) in &newer {
        both.take(1, key, Ok(object), &[]).unwrap();
    }
    both.end();
    assert_eq!(problems(&both), Vec::<String>::new());
    let plan = one(&both);
    assert_eq!((plan.missing, plan.records, plan.proven_s), (0, 5, Some(at / 1000)));
    assert_eq!(plan.lost, [(after + 3, 2 * SEQUENCE_STEP)]);
}

#[test]
fn only_what_is_needed_is_written_in_records_that_the_seen_ids_read() {
    let day_ms = DAY_S * 1000;
    let old: Vec<(u64, i64)> = (1..=5).map(|number| (number, NOW_MS - 400 * day_ms)).collect();
    let new: Vec<(u64, i64)> = (6..=9).map(|number| (number, NOW_MS - day_ms)).collect();
    let segments = [segment(0, &old, 5, Some(0)), segment(5, &new, 9, None)];
    let survey = surveyed(&segments, &[]);
    let plan = one(&survey);
    assert_eq!((plan.fingerprints, plan.lanes[&Lane::Web].shown_again), (4, 4));
    let mut loader = Loader::new(&[plan], 12);
    let needed: Vec<_> = survey.order.iter().filter(|segment| loader.needs(segment)).collect();
    assert_eq!(needed.iter().map(|it| it.key.from).collect::<Vec<_>>(), [5]);
    loader.take(&survey, needed[0], &segments[1].1).unwrap();
    assert!(!loader.is_full());
    let batches = loader.batches();
    assert_eq!((batches.len(), batches[0].0, loader.filed), (1, name("acme").partition(12), 4));
    let record = &batches[0].1.records[0];
    assert_eq!((record.topic, record.partition), (Topic::SeenWeb, Some(batches[0].0)));
    let read = SeenRecord::decode(&record.key, record.value.as_deref().unwrap()).unwrap();
    assert_eq!((read.bucket, read.fingerprints.len()), (Bucket::of_ms(new[0].1), 4));
    let damaged = segments[1].1.slice(..segments[1].1.len() - 4);
    assert!(loader.take(&survey, needed[0], &damaged).is_err(), "it is checked again");
}
