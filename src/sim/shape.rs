//! What is odd about an entry: at most one thing, decided by one draw.

use super::faults::Faults;
use super::rng::Chance;

/// What is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    NoCreatedAt,
    NoTimestamp,
    NoTimes,
    NoDocumentId,
    NoActor,
    NoOrg,
    NoAction,
    WrongTypes,
    EmptyStrings,
    ArrayOrg,
    InvalidUtf8,
    LoneSurrogate,
    HugeNumber,
    DeepNesting,
    DuplicateMembers,
    BigInteger,
    HugeEntry,
    Uncuttable,
}

/// Which shapes there are, how often.
#[derive(Debug)]
pub(crate) struct Shapes(Vec<(Chance, Shape)>);

impl Shapes {
    /// By the switches.
    pub(crate) fn new(faults: &Faults) -> Self {
        let each = [
            (faults.missing_created_at, Shape::NoCreatedAt),
            (faults.missing_timestamp, Shape::NoTimestamp),
            (faults.missing_times, Shape::NoTimes),
            (faults.missing_document_id, Shape::NoDocumentId),
            (faults.missing_actor, Shape::NoActor),
            (faults.missing_org, Shape::NoOrg),
            (faults.missing_action, Shape::NoAction),
            (faults.wrong_types, Shape::WrongTypes),
            (faults.empty_strings, Shape::EmptyStrings),
            (faults.array_org, Shape::ArrayOrg),
            (faults.invalid_utf8, Shape::InvalidUtf8),
            (faults.lone_surrogate, Shape::LoneSurrogate),
            (faults.huge_number, Shape::HugeNumber),
            (faults.deep_nesting, Shape::DeepNesting),
            (faults.duplicate_members, Shape::DuplicateMembers),
            (faults.big_integer, Shape::BigInteger),
            (faults.huge_entry, Shape::HugeEntry),
            (faults.uncuttable, Shape::Uncuttable),
        ];
        let mut end = 0.0;
        let shapes = each.into_iter().filter(|(rate, _)| *rate > 0.0).map(|(rate, shape)| {
            end += rate;
            (Chance::new(end), shape)
        });
        Self(shapes.collect())
    }

    /// The shape of a draw.
    pub(crate) fn of(&self, draw: u64) -> Shape {
        let hit = self.0.iter().find(|(end, _)| end.hits(draw));
        hit.map_or(Shape::Plain, |(_, shape)| *shape)
    }
}
