//! State records as Kafka hands them back: any bytes; round trips; a layout that is not known is refused.

use crate::decisions::Decisions;
use ghauditd::audit::checkpoint::{Backfill, DecodeError, STATE_VERSION, VERSION};
use ghauditd::audit::slice::{Query, Walk};
use ghauditd::audit::{
    Checkpoint, Cursor, EntityName, Genesis, Intervals, Lane, LaneState, Owner, Slice, SliceKind,
    Swept,
};
use serde_json::Value;
use std::collections::BTreeMap;

#[test]
fn checkpoint_of_bytes() {
    bolero::check!().with_max_len(4096_usize).for_each(check);
}

/// A right record of any kind comes back as it was; with faults in it, it is refused or read as what it says.
#[test]
fn checkpoint_of_fields() {
    bolero::check!().with_max_len(1024_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut record = match decisions.below(4) {
            0 => {
                let it = owner(&mut decisions);
                assert_eq!(Owner::decode(&it.encode()).unwrap(), it);
                it.encode()
            }
            1 => {
                let it = genesis(&mut decisions);
                assert_eq!(Genesis::decode(&it.encode()).unwrap(), it);
                it.encode()
            }
            _ => {
                let it = checkpoint(&mut decisions);
                assert_eq!(Checkpoint::decode(&it.encode()).unwrap(), it);
                it.encode()
            }
        };
        check(&record);
        for _ in 0..decisions.below(4) {
            let at = usize::from(decisions.byte()) * 256 + usize::from(decisions.byte());
            let at = at % (record.len() + 1);
            let until = (at + decisions.below(16)).min(record.len());
            let fault = decisions.pick(FAULTS).bytes();
            record.splice(at..until, fault);
            check(&record);
        }
        // whatever else a record holds, another version is never guessed at
        if let Ok(Value::Object(mut object)) = serde_json::from_slice(&record) {
            let version = 1 + u64::from(VERSION) + u64::from(decisions.byte());
            object.insert("version".to_owned(), version.into());
            let newer = serde_json::to_vec(&object).unwrap();
            assert!(matches!(Checkpoint::decode(&newer), Err(DecodeError::Newer { .. })));
            assert!(matches!(Owner::decode(&newer), Err(DecodeError::Newer { .. })));
            assert!(matches!(Genesis::decode(&newer), Err(DecodeError::Newer { .. })));
        }
    });
}

const FAULTS: &[&str] = &[
    "",
    "0",
    "2",
    "-1",
    "null",
    "[]",
    "[[5,5]]",
    "[[9,1]]",
    "[1,2],",
    "{}",
    "\"\"",
    ",\"more\":1",
    "\"version\":2,",
    "\"version\":3,",
    "\"version\":1,",
    "18446744073709551616",
    "1.5",
    "1e2",
    "\"sweep\"",
    "\"push\"",
    "\u{e9}",
    "\0",
    "}",
    "]",
    ",",
];

fn check(bytes: &[u8]) {
    let mut found = serde_json::from_slice::<Value>(bytes).ok();
    // serde also takes members by their order instead of their names
    let version = found.as_ref().and_then(|it| it["version"].as_u64().or(it[0].as_u64()));
    let is_known = version == Some(u64::from(STATE_VERSION));
    if let Ok(it) = Checkpoint::decode(bytes) {
        assert!(version.is_some_and(|found| (1..=u64::from(VERSION)).contains(&found)));
        assert_eq!(Checkpoint::decode(&it.encode()).unwrap(), it);
        // an older record is of this program's version once it is read
        if let Some(Value::Object(members)) = &mut found {
            members.insert("version".to_owned(), VERSION.into());
        }
        same_names(found.as_ref(), &it.encode());
        for lane in it.lanes.values() {
            let spans = lane.collected.as_slice();
            assert!(spans.iter().all(|(from, to)| from < to));
            assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
    if let Ok(it) = Owner::decode(bytes) {
        assert!(is_known);
        assert_eq!(Owner::decode(&it.encode()).unwrap(), it);
        same_names(found.as_ref(), &it.encode());
    }
    if let Ok(it) = Genesis::decode(bytes) {
        assert!(is_known);
        assert_eq!(Genesis::decode(&it.encode()).unwrap(), it);
        same_names(found.as_ref(), &it.encode());
    }
}

/// No member was ignored: what is written again has each member that was read. (One that is null may be left out.)
fn same_names(read: Option<&Value>, written: &[u8]) {
    let written: Value = serde_json::from_slice(written).unwrap();
    contains(&written, read.unwrap());
}

fn contains(written: &Value, read: &Value) {
    match read {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                contains(&written[name], value);
            }
        }
        // members by their order instead of their names: serde takes that too
        Value::Array(_) if written.is_object() => {}
        // a list that is empty may be left out too
        Value::Array(items) if items.is_empty() && written.is_null() => {}
        Value::Array(items) => {
            assert_eq!(written.as_array().map(Vec::len), Some(items.len()));
            items.iter().enumerate().for_each(|(at, item)| contains(&written[at], item));
        }
        other => assert_eq!(written, other),
    }
}

/// A number that is often small, so that numbers meet.
fn number(decisions: &mut Decisions<'_>) -> i64 {
    match decisions.byte() {
        0..=199 => i64::from(decisions.byte()),
        200..=227 => 1_790_000_000 + i64::from(decisions.byte()),
        _ => decisions.number(),
    }
}

fn unsigned(decisions: &mut Decisions<'_>) -> u64 {
    number(decisions).cast_unsigned()
}

fn maybe<T>(
    decisions: &mut Decisions<'_>,
    make: impl FnOnce(&mut Decisions<'_>) -> T,
) -> Option<T> {
    (decisions.byte() > 90).then(|| make(decisions))
}

fn text(decisions: &mut Decisions<'_>) -> String {
    let parts = ["a", "", "\u{0}", "\"", "\\", "\u{1f600}", "{\"version\":9}", "\n"];
    (0..decisions.below(4)).map(|_| decisions.pick(&parts).to_owned()).collect()
}

fn owner(decisions: &mut Decisions<'_>) -> Owner {
    Owner {
        version: STATE_VERSION,
        run: text(decisions),
        host: text(decisions),
        pid: u32::from(decisions.byte()),
        started_ms: number(decisions),
    }
}

fn genesis(decisions: &mut Decisions<'_>) -> Genesis {
    let topics = (0..decisions.below(5))
        .map(|_| (text(decisions), i32::from(decisions.byte()) - 5))
        .collect();
    Genesis {
        version: STATE_VERSION,
        instance: text(decisions),
        topics,
        created_ms: number(decisions),
    }
}

fn checkpoint(decisions: &mut Decisions<'_>) -> Checkpoint {
    let name = decisions.pick(&["acme", "org-1", "a.b_c-d"]).to_owned();
    let mut lanes = BTreeMap::new();
    for lane in Lane::ALL {
        if decisions.byte() > 60 {
            lanes.insert(lane, lane_state(decisions));
        }
    }
    Checkpoint {
        version: VERSION,
        entity: EntityName::try_from(name).unwrap(),
        sequence: unsigned(decisions),
        github_now_ms: maybe(decisions, number),
        lanes,
        operations_next: maybe(decisions, number),
    }
}

fn lane_state(decisions: &mut Decisions<'_>) -> LaneState {
    let mut collected = Intervals::default();
    for _ in 0..decisions.below(5) {
        collected.insert(number(decisions), number(decisions));
    }
    LaneState {
        began_s: number(decisions),
        collected,
        slices: (0..decisions.below(4)).map(|_| slice(decisions)).collect(),
        next_slice: unsigned(decisions),
        backfills: (0..decisions.below(3)).map(|_| backfill(decisions)).collect(),
        next_backfill: unsigned(decisions),
        entries: unsigned(decisions),
        swept: (0..decisions.below(3)).map(|_| swept(decisions)).collect(),
    }
}

fn swept(decisions: &mut Decisions<'_>) -> Swept {
    let mut spans = Intervals::default();
    for _ in 0..decisions.below(3) {
        spans.insert(number(decisions), number(decisions));
    }
    Swept { age_s: number(decisions), spans }
}

fn slice(decisions: &mut Decisions<'_>) -> Slice {
    let kinds = [SliceKind::Tail, SliceKind::Backfill, SliceKind::Sweep];
    Slice {
        id: unsigned(decisions),
        kind: kinds[decisions.below(3)],
        from_s: number(decisions),
        to_s: maybe(decisions, number),
        backfill: maybe(decisions, unsigned),
        start_s: number(decisions),
        walk: maybe(decisions, walk),
        confirming: decisions.byte() > 127,
        entries: unsigned(decisions),
        gap_to_s: maybe(decisions, number),
        opened_s: maybe(decisions, number),
        sweep_age_s: maybe(decisions, number),
    }
}

fn walk(decisions: &mut Decisions<'_>) -> Walk {
    Walk {
        query: Query { from_s: number(decisions), to_s: maybe(decisions, number) },
        began_s: maybe(decisions, number),
        cursor: Cursor::new(text(decisions)),
        new_entries: unsigned(decisions),
        newest_s: maybe(decisions, number),
        first_s: maybe(decisions, number),
        last_s: maybe(decisions, number),
        in_order: decisions.byte() > 127,
    }
}

fn backfill(decisions: &mut Decisions<'_>) -> Backfill {
    Backfill {
        id: unsigned(decisions),
        from_s: number(decisions),
        to_s: number(decisions),
        gap_floor_s: number(decisions),
        entries: unsigned(decisions),
        empty_at_s: maybe(decisions, number),
    }
}
