//! Full pages of the history, made at start: for benches, in which the simulated GitHub must not be the bottleneck.
//!
//! A block is 100 entries in ascending order. A request that begins where a block begins and asks for 100 ascending
//! entries gets it from memory. One that begins elsewhere gets the rest of that block, made on the spot, so that the
//! requests after it begin where blocks begin.

use super::cursor::Place;
use super::disturb::compressed;
use super::log::{EntityLog, Row, World};
use super::query::Query;
use super::timeline::{EXTRA, Key};
use crate::audit::Lane;
use bytes::Bytes;

/// Entries of a block: GitHub's greatest page.
const BLOCK: usize = 100;

/// A page.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its array.
    pub(crate) plain: Bytes,
    /// The same, compressed.
    pub(crate) gzip: Bytes,
    /// Its `ETag`.
    pub(crate) etag: String,
    /// Its entries.
    pub(crate) rows: Vec<Row>,
    first: Place,
    /// Its last entry.
    pub(crate) last: Place,
}

/// The blocks of each lane of each entity.
#[derive(Debug, Default)]
pub(crate) struct Premade(Vec<[Vec<Block>; 2]>);

/// What can be served from memory.
pub(crate) enum Found<'a> {
    /// This page; more rows follow.
    Block(&'a Block),
    /// A page that should end with this place, so that the next one begins a block.
    Until(Place),
}

impl Premade {
    /// Makes the blocks.
    pub(crate) fn new(entities: &[EntityLog], start_ms: i64) -> Self {
        let lanes = |entity| Lane::REST.map(|lane| blocks(entity, lane, start_ms));
        Self(entities.iter().map(lanes).collect())
    }

    /// What a query can be served with.
    pub(crate) fn find(
        &self,
        number: usize,
        entity: &EntityLog,
        query: &Query,
        world: World,
        now: i64,
    ) -> Option<Found<'_>> {
        let [lane] = query.lanes.as_slice() else { return None };
        let plain = query.ascending
            && query.before.is_none()
            && query.page.is_none()
            && query.per_page == BLOCK;
        if !plain || world.filters_created_at || EntityLog::descends(query, world) {
            return None;
        }
        let [web, git] = self.0.get(number)?;
        let blocks = if *lane == Lane::Web { web } else { git };
        let kept_from =
            entity.lane(*lane).retention_ms.map_or(i64::MIN, |kept| now.saturating_sub(kept) + 1);
        let from = query.window.from_ms.max(kept_from);
        let behind =
            |place: &Place| place.ts < from || query.after.is_some_and(|after| *place <= after);
        let at = blocks.partition_point(|block| behind(&block.last));
        let (block, next) = (blocks.get(at)?, blocks.get(at + 1)?);
        if block.last.ts > query.window.to_ms || next.first.ts > query.window.to_ms {
            return None;
        }
        Some(if behind(&block.first) { Found::Until(block.last) } else { Found::Block(block) })
    }
}

/// The history of a lane in blocks; the last, shorter one is left out.
fn blocks(entity: &EntityLog, lane: Lane, start_ms: i64) -> Vec<Block> {
    let log = entity.lane(lane);
    let keys: Vec<Key> =
        log.walk(i64::MIN, start_ms - 1, start_ms, false).filter(|key| key.index < EXTRA).collect();
    // an entry that appears or changes later would make the block untrue
    let constant =
        |key: &Key| log.visible_at(key.index) <= start_ms && log.revised_at(key.index).is_none();
    let whole = keys.chunks_exact(BLOCK);
    whole
        .take_while(|keys| keys.iter().all(constant))
        .filter_map(|keys| block(entity, lane, keys))
        .collect()
}

fn block(entity: &EntityLog, lane: Lane, keys: &[Key]) -> Option<Block> {
    let rows: Vec<_> = keys.iter().map(|key| Row { key: *key, lane }).collect();
    let mut plain = Vec::with_capacity(BLOCK * 900);
    for (n, key) in keys.iter().enumerate() {
        plain.push(if n == 0 { b'[' } else { b',' });
        entity.write_body(&mut plain, lane, key.index, key.ts);
    }
    plain.push(b']');
    Some(Block {
        gzip: compressed(&plain)?.into(),
        etag: super::page::etag(&plain),
        plain: plain.into(),
        rows,
        first: (*keys.first()?).into(),
        last: (*keys.last()?).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::{SimClock, SimEntity};
    use super::super::faults::Faults;
    use super::super::query::query;
    use super::*;
    use crate::audit::EntityKind;

    const START_MS: i64 = 1_750_000_000_000;

    #[test]
    fn blocks_are_the_pages_that_would_have_been_made() {
        let clock = SimClock { start_ms: START_MS, speed: 1.0 };
        let octo = SimEntity::new(EntityKind::Organization, "octo");
        let entity = EntityLog::new(5, &octo, &octo, clock, &Faults::default());
        let premade = Premade::new(std::slice::from_ref(&entity), START_MS);
        let (world, now) = (World::default(), START_MS + 1000);
        let text = "phrase=created:%3E%3D2020-01-01&order=asc&per_page=100";
        let mut query = query(text, now, false, false).unwrap();
        for _ in 0..19 {
            let rows = entity.select(&query, world, now).rows;
            let Some(Found::Block(block)) = premade.find(0, &entity, &query, world, now) else {
                panic!("a block")
            };
            assert_eq!(block.rows, rows);
            let entries: Vec<serde_json::Value> = serde_json::from_slice(&block.plain).unwrap();
            assert_eq!(entries.len(), 100);
            query.after = Some(block.last);
        }
        assert!(
            premade.find(0, &entity, &query, world, now).is_none(),
            "the last block may be followed by live rows"
        );
        query.after = Some(entity.select(&query, world, now).rows[0].key.into());
        query.after = query.after.map(|after| Place { ts: after.ts - 60 * 86_400_000, ..after });
        assert!(matches!(premade.find(0, &entity, &query, world, now), Some(Found::Until(_))));
    }
}
