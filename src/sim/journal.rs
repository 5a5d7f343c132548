//! Everything that the simulated GitHub has made visible: what a checker compares with.

use super::body;
use super::log::EntityLog;
use super::state::State;
use super::timeline::Variant;
use crate::audit::entry::derived_id;
use crate::audit::{EntityKind, Lane};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// One body of one entry that has been visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Slug of the entity.
    pub entity: String,
    /// Enterprise or organization.
    pub kind: EntityKind,
    /// Web or Git; GraphQL for an entry as GraphQL shows it.
    pub lane: Lane,
    /// The id under which a reader must know it: `_document_id`, or `sha256:` and the digest of the body where the
    /// entry carries none that is a string. Where it is uncuttable, `sha256:` and the digest of a page that holds it
    /// alone: `[`, the body, `]`.
    pub id: String,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// Its bytes, as they stand in the array.
    pub body: Bytes,
    /// When it occurred: its place in GitHub's order, epoch milliseconds. The body may say something else.
    pub timestamp_ms: i64,
    /// From when this body was shown, epoch milliseconds.
    pub visible_at_ms: i64,
    /// From when another body was shown in its place: a reader may rightly not have seen this one.
    pub replaced_at_ms: Option<i64>,
    /// From when it is deleted, epoch milliseconds.
    pub expires_at_ms: Option<i64>,
    /// It was part of at least one page whose body was sent without a fault.
    pub served: bool,
    /// Its brackets do not close: a page that holds it cannot be cut.
    pub uncuttable: bool,
}

/// Which bodies have become visible from `from_ms` (exclusive) to `now` (inclusive), entity by entity, in the order
/// of their indexes, made one by one.
pub(crate) fn entries(
    state: &State,
    from_ms: Option<i64>,
    now: i64,
) -> impl Iterator<Item = JournalEntry> + '_ {
    let lanes = state.entities.iter().enumerate().flat_map(move |(number, entity)| {
        Lane::REST.map(|lane| Of { state, number, entity, lane, from_ms, now })
    });
    lanes.flat_map(|of| of.indexes().flat_map(move |index| of.bodies(index)))
}

/// One lane, and the span in which a body became visible.
#[derive(Clone, Copy)]
struct Of<'a> {
    state: &'a State,
    number: usize,
    entity: &'a EntityLog,
    lane: Lane,
    from_ms: Option<i64>,
    now: i64,
}

impl<'a> Of<'a> {
    /// Indexes of which some may have changed.
    fn indexes(self) -> impl Iterator<Item = u64> + 'a {
        let log = self.entity.lane(self.lane);
        let first = log.first_changed_after(self.from_ms, self.now);
        let indexes = (first..log.count_until(self.now)).chain(log.extras());
        indexes.filter(|index| !log.is_graphql_only(*index))
    }

    /// The bodies of one entry that became visible in the span.
    fn bodies(self, index: u64) -> impl Iterator<Item = JournalEntry> + 'a {
        let variants = self.entity.lane(self.lane).variants(index, self.now);
        let mut ends: Vec<_> = variants.iter().skip(1).map(|(at, _)| Some(*at)).collect();
        ends.push(None);
        let spans = variants.into_iter().zip(ends);
        let new = spans.filter(move |((at, _), _)| self.from_ms.is_none_or(|from| *at > from));
        new.map(move |((visible_at_ms, variant), replaced_at_ms)| {
            let served = self.state.was_served(self.number, self.lane, index, variant);
            let entry = one(self.entity, self.lane, index, variant);
            JournalEntry { visible_at_ms, replaced_at_ms, served, ..entry }
        })
    }
}

/// What GraphQL has shown up to `now`: organizations' entries of its 60 actions, with the bodies of their nodes.
pub(crate) fn nodes(state: &State, now: i64) -> impl Iterator<Item = JournalEntry> + '_ {
    let organizations = state.entities.iter().filter(|it| it.who.kind == EntityKind::Organization);
    organizations.flat_map(move |entity| {
        let log = entity.lane(Lane::Web);
        let indexes = (0..log.count_until(now)).filter(move |it| log.visible_at(*it) <= now);
        indexes.filter_map(move |index| {
            let body = Bytes::from(entity.node(index)?);
            let plain = one(entity, Lane::Web, index, Variant::default());
            let id = body::text_of(&log.id(index)).to_owned();
            Some(JournalEntry {
                id,
                sha256: Sha256::digest(&body).into(),
                lane: Lane::GraphQl,
                visible_at_ms: log.visible_at(index),
                uncuttable: false,
                body,
                ..plain
            })
        })
    })
}

fn one(entity: &EntityLog, lane: Lane, index: u64, variant: Variant) -> JournalEntry {
    let log = entity.lane(lane);
    let mut bytes = Vec::with_capacity(1024);
    entity.write_variant(&mut bytes, lane, index, variant);
    let (body, uncuttable) = (Bytes::from(bytes), body::is_uncuttable(log, index));
    let id = match body::document_id(log, index) {
        Some(id) => id,
        None if uncuttable => derived_id(&[b"[", &*body, b"]"].concat()),
        None => derived_id(&body),
    };
    JournalEntry {
        entity: entity.who.slug.clone(),
        kind: entity.who.kind,
        lane,
        id,
        sha256: Sha256::digest(&body).into(),
        timestamp_ms: log.ts(index),
        visible_at_ms: log.visible_at(index),
        replaced_at_ms: None,
        expires_at_ms: log.expires_at(index),
        served: false,
        uncuttable,
        body,
    }
}

/// How many entries have been visible up to `now`.
pub(crate) fn visible(state: &State, now: i64) -> u64 {
    let lanes = state.entities.iter().flat_map(|entity| Lane::REST.map(|lane| entity.lane(lane)));
    lanes
        .map(|log| {
            let indexes = (0..log.count_until(now)).chain(log.extras());
            let seen = |index: &u64| log.visible_at(*index) <= now && !log.is_graphql_only(*index);
            super::rng::u64_of(indexes.filter(seen).count())
        })
        .sum()
}

impl JournalEntry {
    /// One line of the journal file: everything but the body.
    pub fn to_line(&self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.sha256 {
            // writing to a String cannot fail
            write!(hex, "{byte:02x}").unwrap_or_default();
        }
        let line = serde_json::json!({
            "entity": self.entity,
            "lane": self.lane.as_str(),
            "id": self.id,
            "sha256": hex,
            "bytes": self.body.len(),
            "timestamp_ms": self.timestamp_ms,
            "visible_at_ms": self.visible_at_ms,
            "expires_at_ms": self.expires_at_ms,
        });
        format!("{line}\n")
    }
}
