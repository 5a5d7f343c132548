//! A replay: what is sent again, from where to where. Pure.
//!
//! A plan is fixed when a replay begins and saved in the operations topic, so that a replay that goes on after an
//! interruption is the same replay: the same records, up to the same ends.

use super::header;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Most ids in one plan: it is one record.
pub const IDS_MAX: usize = 10_000;
/// Longest id of a replay, characters.
const REPLAY_ID_MAX: usize = 60;
/// How far the brokers' clock may lag behind GitHub's, milliseconds: an entry is looked for from so long before its time.
const CLOCK_MARGIN_MS: i64 = 3_600_000;

/// The name of one replay: in each record that it sends, in its transactional id and in its consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplayId(String);

impl ReplayId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReplayId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > REPLAY_ID_MAX || !text.chars().all(is_safe) {
            return Err(format!(
                "an id of a replay has 1 to {REPLAY_ID_MAX} letters, digits, '-', '_' or '.'"
            ));
        }
        Ok(Self(text))
    }
}

impl From<ReplayId> for String {
    fn from(id: ReplayId) -> Self {
        id.0
    }
}

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of a record's two times counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeOf {
    /// The entry's (`ce_time`); of an entry without one, the record's.
    #[default]
    Entry,
    /// The record's in Kafka.
    Kafka,
}

/// Which records are sent again: those that fit everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// From this time on, inclusive, epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<i64>,
    /// Up to this time, exclusive, epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<i64>,
    /// Which time these two are about.
    #[serde(default)]
    pub time: TimeOf,
    /// Of this entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// With a sequence above this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seq: Option<u64>,
    /// With an action that fits one of these patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// With one of these ids; a revision has the id of its entry.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ids: BTreeSet<String>,
}

impl Filter {
    /// The time of the broker before which no record needs to be looked at; `None`: from the beginning.
    ///
    /// An entry is never in Kafka before it happened, so this holds for both kinds of time.
    pub fn look_from_ms(&self) -> Option<i64> {
        match self.time {
            TimeOf::Entry => self.from_ms.map(|from| from.saturating_sub(CLOCK_MARGIN_MS)),
            TimeOf::Kafka => self.from_ms,
        }
    }

    /// The time of the broker from which on no record needs to be looked at; `None`: to the end. What was found late has
    /// an old time of its own and a new one of the broker.
    pub fn look_to_ms(&self) -> Option<i64> {
        match self.time {
            TimeOf::Entry => None,
            // a topic with the producers' times is not strictly in their order
            TimeOf::Kafka => self.to_ms.map(|to| to.saturating_add(CLOCK_MARGIN_MS)),
        }
    }

    /// The filter, ready to be asked. The error names the pattern.
    pub fn compile(&self) -> Result<Selection, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in &self.actions {
            // an action is a word, not a path: `*` takes dots and slashes
            let glob = GlobBuilder::new(pattern).literal_separator(false).build();
            set.add(glob.map_err(|error| format!("action pattern {error}"))?);
        }
        let actions = set.build().map_err(|error| format!("action patterns: {error}"))?;
        Ok(Selection { filter: self.clone(), actions })
    }
}

/// A stretch of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The first offset that is looked at.
    pub from: i64,
    /// The offset after the last one.
    pub to: i64,
}

impl Span {
    /// How many offsets it has; not all of them hold records.
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.to.saturating_sub(self.from)).unwrap_or(0)
    }
}

/// All that decides what a replay sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where the records go.
    pub to_topic: String,
    /// Which ones.
    pub filter: Filter,
    /// Where they are looked for, in the order in which they are read.
    pub spans: Vec<Span>,
}

/// What the operations topic says of a replay: the details of a statement whose `what` is [`WHAT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Note {
    /// It has begun; committed with the first progress.
    Begun {
        /// Which.
        replay: ReplayId,
        /// What it sends.
        plan: Plan,
    },
    /// All of it is there; committed with the last progress.
    Ended {
        /// Which.
        replay: ReplayId,
        /// What it has sent, over all interruptions.
        sent: Tally,
        /// Offsets that Kafka had deleted before they could be read.
        gone_offsets: u64,
    },
}

/// The act, in the operations topic.
pub const WHAT: &str = "replay";

impl Note {
    /// Which replay it is about.
    pub fn replay(&self) -> &ReplayId {
        match self {
            Self::Begun { replay, .. } | Self::Ended { replay, .. } => replay,
        }
    }
}

/// How much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Bytes of their keys, values and headers as they stood.
    pub bytes: u64,
}

impl Tally {
    /// One record more.
    pub fn add(&mut self, bytes: usize) {
        self.records = self.records.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What a filter asks of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// `gh_entity`.
    pub entity: Option<&'a str>,
    /// `ce_id` without the mark of a revision.
    pub id: Option<&'a str>,
    /// `ce_type`.
    pub action: Option<&'a str>,
    /// `gh_seq`.
    pub seq: Option<u64>,
    /// `ce_time`, epoch milliseconds.
    pub entry_ms: Option<i64>,
    /// The record's time, epoch milliseconds.
    pub kafka_ms: i64,
}

impl<'a> Facts<'a> {
    /// Reads them from a record's headers.
    pub fn of(
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
        kafka_ms: i64,
    ) -> Self {
        let mut facts = Self { kafka_ms, ..Self::default() };
        let mut is_revision = false;
        for (name, value) in headers {
            let Some(text) = value.and_then(|value| std::str::from_utf8(value).ok()) else {
                continue;
            };
            match name {
                header::ENTITY => facts.entity = Some(text),
                header::CE_ID => facts.id = Some(text),
                header::CE_TYPE => facts.action = Some(text),
                header::SEQ => facts.seq = text.parse().ok(),
                header::CE_TIME => {
                    facts.entry_ms =
                        text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
                }
                header::REVISION => is_revision = true,
                _ => {}
            }
        }
        if is_revision {
            let whole = facts.id.and_then(|id| id.rsplit_once(header::REVISION_SEPARATOR));
            facts.id = whole.map_or(facts.id, |(id, _)| Some(id));
        }
        facts
    }
}

/// A filter that can be asked.
#[derive(Debug, Clone)]
pub struct Selection {
    filter: Filter,
    actions: GlobSet,
}

impl Selection {
    /// Whether a record is among those that are sent.
    pub fn takes(&self, facts: &Facts<'_>) -> bool {
        let filter = &self.filter;
        let time = match filter.time {
            TimeOf::Entry => facts.entry_ms.unwrap_or(facts.kafka_ms),
            TimeOf::Kafka => facts.kafka_ms,
        };
        filter.from_ms.is_none_or(|from| time >= from)
            && filter.to_ms.is_none_or(|to| time < to)
            && filter.entity.as_deref().is_none_or(|entity| facts.entity == Some(entity))
            && filter.after_seq.is_none_or(|after| facts.seq.is_some_and(|seq| seq > after))
            && (filter.ids.is_empty() || facts.id.is_some_and(|id| filter.ids.contains(id)))
            && (self.actions.is_empty()
                || facts.action.is_some_and(|action| self.actions.is_match(action)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FROM_MS: i64 = 1_795_132_800_000;

    fn takes(filter: &Filter, facts: &Facts<'_>) -> bool {
        filter.compile().unwrap().takes(facts)
    }

    fn facts() -> Facts<'static> {
        Facts {
            entity: Some("acme"),
            id: Some("i-1"),
            action: Some("repo.create"),
            seq: Some(7),
            entry_ms: Some(FROM_MS),
            kafka_ms: FROM_MS + 90_000,
        }
    }

    #[test]
    fn each_condition_is_asked() {
        let facts = facts();
        let all = Filter::default();
        let text = |text: &str| Some(text.to_owned());
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let list = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        let kafka = TimeOf::Kafka;
        let rows = [
            (all.clone(), true),
            (Filter { from_ms: Some(FROM_MS), ..all.clone() }, true),
            (Filter { from_ms: Some(FROM_MS + 1), ..all.clone() }, false),
            (Filter { to_ms: Some(FROM_MS + 1), ..all.clone() }, true),
            (Filter { to_ms: Some(FROM_MS), ..all.clone() }, false),
            (Filter { from_ms: Some(FROM_MS + 1), time: kafka, ..all.clone() }, true),
            (Filter { to_ms: Some(FROM_MS + 90_000), time: kafka, ..all.clone() }, false),
            (Filter { entity: text("acme"), ..all.clone() }, true),
            (Filter { entity: text("other"), ..all.clone() }, false),
            (Filter { after_seq: Some(6), ..all.clone() }, true),
            (Filter { after_seq: Some(7), ..all.clone() }, false),
            (Filter { ids: ids(&["i-1", "i-2"]), ..all.clone() }, true),
            (Filter { ids: ids(&["i-2"]), ..all.clone() }, false),
            (Filter { actions: list(&["git.*", "repo.*"]), ..all.clone() }, true),
            (Filter { actions: list(&["git.*"]), ..all.clone() }, false),
            (Filter { actions: list(&["*.{create,destroy}"]), ..all.clone() }, true),
        ];
        for (filter, wanted) in rows {
            assert_eq!(takes(&filter, &facts), wanted, "{filter:?}");
        }
        let unknown = Facts { kafka_ms: FROM_MS, ..Facts::default() };
        assert!(takes(&Filter { from_ms: Some(FROM_MS), ..all.clone() }, &unknown));
        assert!(!takes(&Filter { after_seq: Some(0), ..all.clone() }, &unknown));
        let told = Filter { actions: list(&["a[b"]), ..all }.compile().unwrap_err();
        assert!(told.contains("a[b"), "{told}");
    }

    #[test]
    fn facts_come_from_the_headers() {
        let of = |headers: &[(&'static str, &'static str)]| {
            Facts::of(headers.iter().map(|(name, value)| (*name, Some(value.as_bytes()))), FROM_MS)
        };
        let plain = of(&[
            (header::CE_ID, "a;r=b"),
            (header::CE_TIME, "2026-11-20T00:00:00.000Z"),
            (header::SEQ, "12"),
        ]);
        assert_eq!(plain.id, Some("a;r=b"), "no revision: the mark is part of the id");
        assert_eq!((plain.entry_ms, plain.seq), (Some(FROM_MS), Some(12)));
        let revision = of(&[(header::CE_ID, "a;r=01234567"), (header::REVISION, "1")]);
        assert_eq!(revision.id, Some("a"));
        assert_eq!(of(&[(header::CE_TIME, "soon")]).entry_ms, None);
    }

    #[test]
    fn where_the_look_begins() {
        let by =
            |time| Filter { from_ms: Some(FROM_MS), to_ms: Some(1), time, ..Filter::default() };
        assert_eq!(by(TimeOf::Entry).look_from_ms(), Some(FROM_MS - 3_600_000));
        assert_eq!(by(TimeOf::Entry).look_to_ms(), None);
        assert_eq!(by(TimeOf::Kafka).look_from_ms(), Some(FROM_MS));
        assert_eq!(by(TimeOf::Kafka).look_to_ms(), Some(3_600_001));
    }

    #[test]
    fn a_plan_keeps_its_form() {
        let plan = Plan {
            to_topic: "siem".to_owned(),
            filter: Filter {
                from_ms: Some(1),
                actions: vec!["git.*".to_owned()],
                ids: BTreeSet::from(["x".to_owned()]),
                ..Filter::default()
            },
            spans: vec![Span { topic: "t".to_owned(), partition: 2, from: 3, to: 9 }],
        };
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(
            json,
            r#"{"to_topic":"siem","filter":{"from_ms":1,"time":"entry","actions":["git.*"],"ids":["x"]},"spans":[{"topic":"t","partition":2,"from":3,"to":9}]}"#
        );
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
        assert_eq!(plan.spans[0].offsets(), 6);
    }

    proptest! {
        #[test]
        fn ids_of_replays_are_safe_names(text in "[-a-zA-Z0-9_.]{1,60}", other in ".{0,80}") {
            prop_assert!(ReplayId::try_from(text).is_ok());
            if let Ok(id) = ReplayId::try_from(other) {
                prop_assert!(!id.as_str().is_empty() && id.as_str().is_ascii());
            }
        }
    }
}
