//! What the owner of an entity's state does with a request: the state after it, and the record that tells of it. Pure.
//!
//! Whatever it is, the offset behind the request goes into the checkpoint, and the checkpoint into one transaction with the
//! result: a request is answered once, and a crash before the commit leaves it to be answered.

use super::plan::Planned;
use super::record::EntityContext;
use crate::audit::operation::{Operation, Outcome, Request, RequestResult, VERSION};
use crate::audit::rewind::Rewound;
use crate::audit::saved::{SAVED_MAX, Saved, saved_key};
use crate::audit::{
    Actor, Batch, Checkpoint, Intervals, Lane, OperationRecord, Record, SavedCopies, SavedName,
    Topic, saved,
};
use crate::state::Pending;
use crate::time::{rfc3339_ms, rfc3339_s, span_s};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A request as it was found on the operations topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The offset behind it.
    pub next_offset: i64,
    /// The request.
    pub request: Request,
}

/// What is true of a request once its result is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The result, as it is recorded.
    pub result: RequestResult,
    /// A copy that was made (`Some`) or forgotten.
    pub copy: Option<(SavedName, Option<Saved>)>,
}

impl Answer {
    /// Makes the copies those after it.
    pub fn apply(&self, copies: &mut SavedCopies) {
        match &self.copy {
            Some((name, Some(saved))) => drop(copies.insert(name.clone(), saved.clone())),
            Some((name, None)) => drop(copies.remove(name)),
            None => {}
        }
    }
}

/// The state that a request is about.
#[derive(Debug, Clone, Copy)]
pub struct Owned<'a> {
    /// Whose.
    pub context: &'a EntityContext,
    /// The committed checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// The copies there are.
    pub saved: &'a SavedCopies,
    /// Who answers.
    pub me: &'a Actor,
    /// GitHub's now, epoch seconds, as far as it is known.
    pub github_now_s: Option<i64>,
    /// The machine's wall clock, epoch milliseconds.
    pub wall_ms: i64,
}

/// What a request does when it is not refused.
struct Done {
    message: String,
    details: Value,
    next: Option<Checkpoint>,
    copy: Option<(SavedName, Option<Saved>)>,
}

impl Done {
    fn new(message: String, details: Value) -> Self {
        Self { message, details, next: None, copy: None }
    }
}

/// Plans the answer to a request.
pub fn answer(owned: &Owned<'_>, delivered: &Delivered) -> Planned {
    let request = &delivered.request;
    let (outcome, done) = match execute(owned, request) {
        Ok(done) => (Outcome::Done, done),
        Err(why) => (Outcome::Refused, Done::new(why, Value::Null)),
    };
    let mut next = done.next.unwrap_or_else(|| owned.checkpoint.clone());
    next.operations_next = Some(delivered.next_offset);
    let result = RequestResult {
        version: VERSION,
        request: request.id.clone(),
        entity: request.entity.clone(),
        by: owned.me.clone(),
        at_ms: owned.wall_ms,
        outcome,
        message: done.message,
        details: done.details,
    };
    let copy = done.copy.iter().map(|(name, saved)| copy_record(owned, name, saved.as_ref()));
    let records = copy
        .chain(result_record(&result))
        .chain([owned.context.checkpoint_record(&next)])
        .collect();
    Planned {
        batch: Batch { records },
        next,
        pending: Pending::default(),
        counts: BTreeMap::new(),
        late: Vec::new(),
        gaps: Vec::new(),
        answer: Some(Answer { result, copy: done.copy }),
    }
}

/// Details that are too large for a record are left out: what they tell is in the message and in the checkpoint.
fn result_record(result: &RequestResult) -> Option<Record> {
    let record = |result: RequestResult| OperationRecord::Result(result).to_record().ok();
    record(result.clone())
        .or_else(|| record(RequestResult { details: Value::Null, ..result.clone() }))
}

fn copy_record(owned: &Owned<'_>, name: &SavedName, saved: Option<&Saved>) -> Record {
    Record {
        topic: Topic::Checkpoints,
        partition: Some(owned.context.state_partition),
        key: Bytes::from(saved_key(&owned.context.name, name)),
        value: saved.map(|saved| Bytes::from(saved.encode())),
        headers: Vec::new(),
    }
}

fn execute(owned: &Owned<'_>, request: &Request) -> Result<Done, String> {
    if owned.wall_ms > request.expires_ms {
        return Err(format!(
            "it came too late: it was to be done until {}, by the clock of {} it is {}",
            rfc3339_ms(request.expires_ms),
            owned.me.host,
            rfc3339_ms(owned.wall_ms)
        ));
    }
    match &request.operation {
        Operation::SaveCheckpoint { name } => {
            keep(owned, request, name, owned.checkpoint.clone(), false)
        }
        Operation::ImportCheckpoint { name, checkpoint } => {
            keep(owned, request, name, (**checkpoint).clone(), true)
        }
        Operation::DeleteCheckpoint { name } => {
            find(owned, name)?;
            let copy = Some((name.clone(), None));
            let message = format!("the saved checkpoint {name} is deleted");
            Ok(Done { copy, ..Done::new(message, Value::Null) })
        }
        Operation::RestoreCheckpoint { name, digest } => restore(owned, name, digest),
        Operation::Reread { lane, from_s, to_s } => reread(owned, *lane, *from_s, *to_s),
        Operation::Unknown => Err(format!(
            "this ghauditd ({}) does not know what is asked for: a newer one asks, upgrade the daemon",
            env!("CARGO_PKG_VERSION")
        )),
    }
}

fn find<'a>(owned: &Owned<'a>, name: &SavedName) -> Result<&'a Saved, String> {
    owned.saved.get(name).ok_or_else(|| {
        format!(
            "entity {} has no saved checkpoint {name}: `ghauditd checkpoint list` shows those it has",
            owned.context.name
        )
    })
}

fn keep(
    owned: &Owned<'_>,
    request: &Request,
    name: &SavedName,
    checkpoint: Checkpoint,
    imported: bool,
) -> Result<Done, String> {
    let entity = &owned.context.name;
    if let Some(taken) = owned.saved.get(name) {
        return Err(format!(
            "the name {name} is taken: {} saved it at {}; choose another one, or delete it first",
            taken.by,
            rfc3339_ms(taken.at_ms)
        ));
    }
    if owned.saved.len() >= SAVED_MAX {
        return Err(format!(
            "entity {entity} has {SAVED_MAX} saved checkpoints, more are not kept: delete some first"
        ));
    }
    if checkpoint.entity != *entity {
        return Err(format!("the checkpoint is of entity {}, not of {entity}", checkpoint.entity));
    }
    if checkpoint.lanes.is_empty() {
        return Err(format!("nothing has been collected of entity {entity} yet"));
    }
    let word = if imported { "imported" } else { "saved" };
    let message = format!("{word} as {name}: sequence {}", checkpoint.sequence);
    let details = json!({ "sequence": checkpoint.sequence, "digest": checkpoint.digest() });
    let saved = Saved {
        version: saved::VERSION,
        at_ms: owned.wall_ms,
        by: request.by.clone(),
        reason: request.reason.clone(),
        imported,
        checkpoint: Box::new(checkpoint),
    };
    Ok(Done { copy: Some((name.clone(), Some(saved))), ..Done::new(message, details) })
}

fn restore(owned: &Owned<'_>, name: &SavedName, digest: &str) -> Result<Done, String> {
    let saved = find(owned, name)?;
    if saved.checkpoint.digest() != digest {
        return Err(format!(
            "the saved checkpoint {name} is another one than the one that was shown: look at it again"
        ));
    }
    let now_s = now_s(owned)?;
    let (next, lanes) = owned.checkpoint.rewound(&saved.checkpoint, &owned.context.rules, now_s);
    let message = if lanes.values().all(Rewound::is_empty) {
        format!("gone back to {name}: nothing was read since, so nothing is read again")
    } else {
        format!("gone back to {name}: {}", describe(&lanes).join("; "))
    };
    let lanes: BTreeMap<&Lane, Value> =
        lanes.iter().map(|(lane, rewound)| (lane, details(rewound))).collect();
    Ok(Done { next: Some(next), ..Done::new(message, json!(lanes)) })
}

fn reread(owned: &Owned<'_>, lane: Lane, from_s: i64, to_s: i64) -> Result<Done, String> {
    let entity = &owned.context.name;
    let rules = owned.context.rules.get(&lane);
    let mut next = owned.checkpoint.clone();
    let (Some(rules), Some(state)) = (rules, next.lanes.get_mut(&lane)) else {
        return Err(format!("lane {lane} of entity {entity} is not collected"));
    };
    let read = state.reread(rules, from_s, to_s, now_s(owned)?);
    let (from_s, to_s) = read.map_err(|error| format!("lane {lane}: {error}"))?;
    let message =
        format!("lane {lane}: {} to {} is read again", rfc3339_s(from_s), rfc3339_s(to_s));
    let details = json!({ "lane": lane, "from_s": from_s, "to_s": to_s });
    Ok(Done { next: Some(next), ..Done::new(message, details) })
}

fn now_s(owned: &Owned<'_>) -> Result<i64, String> {
    owned.github_now_s.ok_or_else(|| "GitHub has not been heard of yet: try again later".to_owned())
}

/// What going back means, for people: one line for each lane and way.
pub fn describe(lanes: &BTreeMap<Lane, Rewound>) -> Vec<String> {
    lanes.iter().flat_map(|(lane, rewound)| describe_lane(*lane, rewound)).collect()
}

fn describe_lane(lane: Lane, rewound: &Rewound) -> Vec<String> {
    let mut lines = Vec::new();
    if !rewound.again.is_empty() {
        let cost = match (rewound.entries, rewound.requests()) {
            (Some(entries), Some(requests)) => format!(
                ", about {requests} requests ({entries} entries were committed since, they are dropped when they come again)"
            ),
            _ => String::new(),
        };
        lines.push(format!("{lane}: {} is read again{cost}", spans(&rewound.again)));
    }
    if !rewound.expired.is_empty() {
        lines.push(format!(
            "{lane}: of that GitHub may no longer have {}: what it has deleted there is in Kafka already, or nowhere",
            spans(&rewound.expired)
        ));
    }
    for (age_s, again) in &rewound.swept_again {
        lines.push(format!(
            "{lane}: {} is swept again at the age of {}",
            spans(again),
            span_s(*age_s)
        ));
    }
    lines
}

/// Spans for people: the first ones, and how many more.
fn spans(intervals: &Intervals) -> String {
    const SHOWN_MAX: usize = 5;
    let all = intervals.as_slice();
    let floor = crate::audit::lane::OLDEST_S;
    let span = |&(from_s, to_s): &(i64, i64)| {
        let from = if from_s < floor { "the beginning".to_owned() } else { rfc3339_s(from_s) };
        format!("{from} to {}", rfc3339_s(to_s))
    };
    let mut words: Vec<String> = all.iter().take(SHOWN_MAX).map(span).collect();
    if all.len() > SHOWN_MAX {
        words.push(format!("{} spans more", all.len().saturating_sub(SHOWN_MAX)));
    }
    words.join(", ")
}

/// The same for programs.
pub fn details(rewound: &Rewound) -> Value {
    let swept: BTreeMap<String, &Intervals> =
        rewound.swept_again.iter().map(|(age, spans)| (age.to_string(), spans)).collect();
    json!({
        "again": rewound.again,
        "expired": rewound.expired,
        "swept_again": swept,
        "entries": rewound.entries,
        "requests": rewound.requests(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::lane::LaneRules;
    use crate::audit::{EntityName, LaneState, OperationId, SliceKind, SweepAges};

    const NOW_S: i64 = 1_790_000_000;
    const WALL_MS: i64 = NOW_S * 1000;

    fn actor(user: &str) -> Actor {
        Actor { user: user.to_owned(), host: "ops1".to_owned(), pid: 7 }
    }

    fn context() -> EntityContext {
        let retention_s = Some(7 * 86_400);
        let sweeps = SweepAges::new(600, &[86_400], retention_s, None);
        let rules = LaneRules { readers: 1, lane: Lane::Git, retention_s, settling_s: 600, sweeps };
        EntityContext {
            name: EntityName::try_from("acme".to_owned()).unwrap(),
            state_partition: 3,
            rules: BTreeMap::from([(Lane::Git, rules)]),
            value_bytes_max: 1000,
            source: Bytes::new(),
            key: Bytes::from_static(b"acme"),
        }
    }

    /// A state that has read everything up to `ago_s` before now.
    fn checkpoint(sequence: u64, ago_s: i64) -> Checkpoint {
        let context = context();
        let rules = &context.rules[&Lane::Git];
        let mut lane = LaneState::begin(rules, NOW_S - ago_s);
        lane.slices.retain(|slice| slice.kind == SliceKind::Tail);
        lane.backfills.clear();
        lane.collected.insert(NOW_S - 50 * 86_400, NOW_S - ago_s - 600);
        lane.entries = sequence;
        Checkpoint {
            sequence,
            lanes: BTreeMap::from([(Lane::Git, lane)]),
            ..Checkpoint::empty(context.name)
        }
    }

    fn delivered(operation: Operation) -> Delivered {
        let request = Request {
            version: VERSION,
            id: OperationId::new(1),
            entity: context().name,
            by: actor("alice"),
            at_ms: WALL_MS - 1000,
            expires_ms: WALL_MS + 30_000,
            reason: Some("ticket 42".to_owned()),
            operation,
        };
        Delivered { next_offset: 43, request }
    }

    /// The answer to a request of an entity with a checkpoint and the copies of these names, saved an hour ago.
    fn answered(names: &[&str], operation: Operation) -> (Checkpoint, Planned) {
        let checkpoint = checkpoint(120, 0);
        let (context, me) = (context(), actor("daemon"));
        let saved = names.iter().map(|name| (name.parse().unwrap(), copy())).collect();
        let owned = Owned {
            context: &context,
            checkpoint: &checkpoint,
            saved: &saved,
            me: &me,
            github_now_s: Some(NOW_S),
            wall_ms: WALL_MS,
        };
        let planned = answer(&owned, &delivered(operation));
        (checkpoint, planned)
    }

    fn copy() -> Saved {
        Saved {
            version: saved::VERSION,
            at_ms: WALL_MS - 3_600_000,
            by: actor("bob"),
            reason: None,
            imported: false,
            checkpoint: Box::new(checkpoint(20, 3600)),
        }
    }

    fn name(text: &str) -> SavedName {
        text.parse().unwrap()
    }

    fn refusal(names: &[&str], operation: Operation) -> String {
        let (before, planned) = answered(names, operation);
        let answer = planned.answer.unwrap();
        assert_eq!(answer.result.outcome, Outcome::Refused);
        assert_eq!(answer.copy, None);
        // nothing changes but the place on the topic
        assert_eq!(planned.next, Checkpoint { operations_next: Some(43), ..before });
        assert_eq!(planned.batch.records.len(), 2);
        answer.result.message
    }

    #[test]
    fn a_copy_its_result_and_the_place_behind_the_request_go_into_one_batch() {
        let (before, planned) = answered(&[], Operation::SaveCheckpoint { name: name("x") });
        assert_eq!(planned.next.operations_next, Some(43));
        assert_eq!(planned.next.lanes, before.lanes);
        let [copy, result, checkpoint] = planned.batch.records.as_slice() else { panic!() };
        assert_eq!((copy.topic, copy.partition), (Topic::Checkpoints, Some(3)));
        assert_eq!(copy.key, "#saved/acme/x");
        let saved = Saved::decode(copy.value.as_ref().unwrap()).unwrap();
        assert_eq!((saved.by, *saved.checkpoint), (actor("alice"), before));
        assert_eq!((result.topic, result.partition), (Topic::Operations, Some(0)));
        let OperationRecord::Result(result) =
            OperationRecord::decode(result.value.as_ref().unwrap()).unwrap()
        else {
            panic!()
        };
        assert_eq!((result.request, result.by), (OperationId::new(1), actor("daemon")));
        let read = Checkpoint::decode(checkpoint.value.as_ref().unwrap()).unwrap();
        assert_eq!(read, planned.next);
        let mut copies = SavedCopies::new();
        planned.answer.unwrap().apply(&mut copies);
        assert!(copies.contains_key(&name("x")));
    }

    #[test]
    fn a_copy_that_is_deleted_leaves_a_tombstone() {
        let (_, planned) = answered(&["x"], Operation::DeleteCheckpoint { name: name("x") });
        assert_eq!(planned.batch.records[0].value, None);
        let mut copies = SavedCopies::from([(name("x"), copy())]);
        planned.answer.unwrap().apply(&mut copies);
        assert!(copies.is_empty());
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words_and_changes_nothing() {
        let other = EntityName::try_from("other".to_owned()).unwrap();
        let foreign = Checkpoint { entity: other, ..checkpoint(1, 0) };
        let import = |it: Checkpoint| Operation::ImportCheckpoint {
            name: name("x"),
            checkpoint: Box::new(it),
        };
        let empty = Checkpoint { lanes: BTreeMap::new(), ..checkpoint(1, 0) };
        let many: Vec<String> = (0..SAVED_MAX).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let digest = "0".to_owned();
        let reread = |lane, from_s| Operation::Reread { lane, from_s, to_s: NOW_S - 5 };
        let rows = [
            refusal(&["x"], Operation::SaveCheckpoint { name: name("x") }),
            refusal(&many, Operation::SaveCheckpoint { name: name("x") }),
            refusal(&[], import(foreign)),
            refusal(&[], import(empty)),
            refusal(&[], Operation::DeleteCheckpoint { name: name("x") }),
            refusal(&["x"], Operation::RestoreCheckpoint { name: name("x"), digest }),
            refusal(&[], reread(Lane::Web, 0)),
            refusal(&[], reread(Lane::Git, NOW_S)),
            refusal(&[], Operation::Unknown),
        ];
        insta::assert_snapshot!(rows.join("\n"));
    }

    #[test]
    fn going_back_keeps_the_sequence_and_tells_what_is_read_again() {
        let digest = copy().checkpoint.digest();
        let operation = Operation::RestoreCheckpoint { name: name("x"), digest };
        let (before, planned) = answered(&["x"], operation);
        let answer = planned.answer.unwrap();
        assert_eq!(answer.result.outcome, Outcome::Done);
        insta::assert_snapshot!(answer.result.message);
        assert_eq!(answer.result.details["git"]["again"][0][0], NOW_S - 3600 - 600);
        assert_eq!(planned.next.sequence, before.sequence);
        assert!(
            planned.next.lanes[&Lane::Git].slices.len() > before.lanes[&Lane::Git].slices.len()
        );
    }

    #[test]
    fn time_is_read_again_on_request() {
        let operation =
            Operation::Reread { lane: Lane::Git, from_s: NOW_S - 5_000, to_s: NOW_S - 60 };
        let (_, planned) = answered(&[], operation);
        let slices = &planned.next.lanes[&Lane::Git].slices;
        let sweep = slices.iter().find(|slice| slice.kind == SliceKind::Sweep).unwrap();
        assert_eq!((sweep.from_s, sweep.to_s), (NOW_S - 5_000, Some(NOW_S - 60)));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_refused() {
        let (context, checkpoint, saved) = (context(), checkpoint(1, 0), SavedCopies::new());
        let owned = Owned {
            context: &context,
            checkpoint: &checkpoint,
            saved: &saved,
            me: &actor("daemon"),
            github_now_s: None,
            wall_ms: WALL_MS + 30_001,
        };
        let planned = answer(&owned, &delivered(Operation::SaveCheckpoint { name: name("x") }));
        let result = planned.answer.unwrap().result;
        assert_eq!(result.outcome, Outcome::Refused);
        assert!(result.message.starts_with("it came too late"), "{}", result.message);
    }
}
