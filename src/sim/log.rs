//! The log of one entity: both lanes, and the rows that a query selects from them.

use super::body::{self, Who};
use super::config::{SimClock, SimEntity};
use super::cursor::Place;
use super::faults::Faults;
use super::phrase::Window;
use super::query::Query;
use super::rng::{mix, u64_of, usize_of};
use super::timeline::{Key, LaneLog, Variant};
use crate::audit::{EntityKind, Lane};

/// One entity.
#[derive(Debug)]
pub(crate) struct EntityLog {
    /// Who it is.
    pub(crate) who: Who,
    /// Who the entries are of: mostly the same.
    shown: Who,
    /// Entries of `include=web`.
    pub(crate) web: LaneLog,
    /// Entries of `include=git`.
    pub(crate) git: LaneLog,
}

/// A row of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// Its place.
    pub(crate) key: Key,
    /// Its lane.
    pub(crate) lane: Lane,
}

/// What a query selects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The rows of the page, in the order of the query.
    pub(crate) rows: Vec<Row>,
    /// More rows follow.
    pub(crate) more: bool,
}

/// Properties of the simulated world that selecting depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct World {
    /// See [`Faults::created_filters_created_at`].
    pub(crate) filters_created_at: bool,
    /// See [`Faults::git_newest_first`].
    pub(crate) git_newest_first: bool,
    /// Asked in GraphQL.
    pub(crate) graphql: bool,
    /// See [`Faults::graphql_ahead_s`].
    pub(crate) rest_later_ms: i64,
}

impl EntityLog {
    /// The log of an entity that shows the entries of `shown`.
    pub(crate) fn new(
        seed: u64,
        entity: &SimEntity,
        shown: &SimEntity,
        clock: SimClock,
        faults: &Faults,
    ) -> Self {
        let mut faults = faults.clone();
        if shown.kind == EntityKind::Enterprise {
            faults.graphql_only = 0.0;
        }
        let lane = |lane| {
            LaneLog::new(seed, &shown.slug, lane, clock.start_ms, shown.traffic(lane), &faults)
        };
        Self {
            who: Who::new(seed, entity.kind, &entity.slug),
            shown: Who::new(seed, shown.kind, &shown.slug),
            web: lane(Lane::Web),
            git: lane(Lane::Git),
        }
    }

    /// One of the lanes.
    pub(crate) fn lane(&self, lane: Lane) -> &LaneLog {
        match lane {
            Lane::Web | Lane::GraphQl => &self.web,
            Lane::Git => &self.git,
        }
    }

    /// Appends a body of an entry.
    pub(crate) fn write_variant(
        &self,
        out: &mut Vec<u8>,
        lane: Lane,
        index: u64,
        variant: Variant,
    ) {
        body::write(out, &self.shown, self.lane(lane), index, variant);
    }

    /// A web entry as GraphQL shows it.
    pub(crate) fn node(&self, index: u64) -> Option<String> {
        super::node::node(&self.shown, &self.web, index)
    }

    /// Appends the body of a row as it is at `now`.
    pub(crate) fn write_body(&self, out: &mut Vec<u8>, lane: Lane, index: u64, now: i64) {
        self.write_variant(out, lane, index, self.lane(lane).variant(index, now));
    }

    /// Whether rows come newest first.
    pub(crate) fn descends(query: &Query, world: World) -> bool {
        !query.ascending || world.git_newest_first && query.lanes == [Lane::Git]
    }

    /// The page of a query at `now`.
    pub(crate) fn select(&self, query: &Query, world: World, now: i64) -> Selection {
        let descending = Self::descends(query, world);
        if let Some(before) = query.before.filter(|_| query.after.is_none()) {
            // the last rows ahead of `before`: walked backwards, then turned
            let bounds = Bounds { after: Some(before), before: None, descending: !descending };
            let rows = self.rows(query, world, now, bounds);
            let mut rows: Vec<_> = rows.take(query.per_page).collect();
            rows.reverse();
            return Selection { more: !rows.is_empty(), rows };
        }
        let bounds = Bounds { after: query.after, before: query.before, descending };
        let skip = match query.page {
            Some(page) => usize_of(page - 1).saturating_mul(query.per_page),
            None => 0,
        };
        let mut found = self.rows(query, world, now, bounds).skip(skip);
        let rows = found.by_ref().take(query.per_page).collect();
        Selection { rows, more: found.next().is_some() }
    }

    /// All rows of a query at `now`, in order.
    fn rows<'a>(
        &'a self,
        query: &'a Query,
        world: World,
        now: i64,
        bounds: Bounds,
    ) -> impl Iterator<Item = Row> + 'a {
        let mut lanes: Vec<_> = query
            .lanes
            .iter()
            .map(|lane| self.lane_rows(*lane, query.window, world, now, bounds).peekable())
            .collect();
        std::iter::from_fn(move || {
            let heads = lanes.iter_mut().enumerate();
            let heads = heads.filter_map(|(n, lane)| lane.peek().map(|row| (*row, n)));
            let (_, n) = if bounds.descending { heads.max() } else { heads.min() }?;
            lanes.get_mut(n)?.next()
        })
    }

    fn lane_rows(
        &self,
        lane: Lane,
        window: Window,
        world: World,
        now: i64,
        bounds: Bounds,
    ) -> impl Iterator<Item = Row> + '_ {
        let log = self.lane(lane);
        let (mut from, mut to) = bounds.times(window);
        if world.filters_created_at {
            from = from.saturating_sub(log.created_at_later_max());
        }
        from = from.max(log.retention_ms.map_or(i64::MIN, |kept| now.saturating_sub(kept)));
        if to < from {
            to = from.saturating_sub(1);
        }
        let way_in = move |key: &Key| {
            if world.graphql {
                return super::node::is_shown(log, key.index);
            }
            !log.is_graphql_only(key.index)
                && (world.rest_later_ms == 0
                    || log.visible_at(key.index).saturating_add(world.rest_later_ms) <= now)
        };
        let inside = move |key: &Key| {
            let at = if world.filters_created_at { log.created_at(key.index) } else { key.ts };
            (window.from_ms..=window.to_ms).contains(&at)
        };
        log.walk(from, to, now, bounds.descending)
            .filter(move |key| bounds.hold(key) && inside(key) && log.is_shown(key.index, now))
            .filter(way_in)
            .map(move |key| Row { key, lane })
    }
}

/// Between which places rows are taken, and which way.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    after: Option<Place>,
    before: Option<Place>,
    descending: bool,
}

impl Bounds {
    fn hold(&self, key: &Key) -> bool {
        let place = Place::from(*key);
        let (low, high) = self.low_high();
        low.is_none_or(|low| place > low) && high.is_none_or(|high| place < high)
    }

    fn low_high(&self) -> (Option<Place>, Option<Place>) {
        if self.descending { (self.before, self.after) } else { (self.after, self.before) }
    }

    fn times(&self, window: Window) -> (i64, i64) {
        let (low, high) = self.low_high();
        let from = low.map_or(i64::MIN, |low| low.ts).max(window.from_ms);
        let to = high.map_or(i64::MAX, |high| high.ts).min(window.to_ms);
        (from, to)
    }
}

/// Puts rows into no order, the same for the same draw.
pub(crate) fn shuffle(rows: &mut [Row], draw: u64) {
    for n in (1..rows.len()).rev() {
        rows.swap(n, usize_of(mix(draw, u64_of(n)) % u64_of(n + 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{DAY_S, Traffic};
    use super::super::query::query;
    use super::*;
    use std::collections::BTreeSet;

    const START_MS: i64 = 1_750_000_000_000;

    fn log(faults: &Faults) -> EntityLog {
        let traffic = |history_entries, traffic: Traffic| Traffic {
            history_entries,
            live_per_second: 3.0,
            live_entries_max: Some(500),
            ..traffic
        };
        let entity = SimEntity {
            kind: EntityKind::Enterprise,
            slug: "acme".to_owned(),
            web: traffic(2_345, Traffic::web()),
            git: traffic(1_234, Traffic::git()),
        };
        EntityLog::new(7, &entity, &entity, SimClock { start_ms: START_MS, speed: 1.0 }, faults)
    }

    /// All rows of a query, page by page.
    fn paged(log: &EntityLog, text: &str, world: World, now: i64) -> Vec<Row> {
        let mut query = query(text, now, false, false).unwrap();
        let mut all = Vec::new();
        loop {
            let page = log.select(&query, world, now);
            assert!(page.rows.len() <= query.per_page);
            query.after = page.rows.last().map(|row| row.key.into());
            all.extend(page.rows);
            if !page.more {
                return all;
            }
        }
    }

    fn nasty() -> Faults {
        Faults { late_max_s: 3_600, tie_every: 400, ..Faults::nasty() }
    }

    const FROM_2020: &str = "phrase=created:%3E%3D2020-01-01";

    #[test]
    fn paging_shows_each_visible_entry_once_in_either_order() {
        let (log, now) = (log(&nasty()), START_MS + 60_000);
        for (include, lanes) in
            [("web", vec![Lane::Web]), ("git", vec![Lane::Git]), ("all", Lane::REST.to_vec())]
        {
            let visible: BTreeSet<_> = lanes
                .iter()
                .flat_map(|lane| {
                    let log = log.lane(*lane);
                    (0..log.count_until(now))
                        .chain(log.extras())
                        .filter(|index| log.is_shown(*index, now))
                        .map(|index| (*lane, index))
                })
                .collect();
            for order in ["asc", "desc"] {
                let text = format!("{FROM_2020}&include={include}&order={order}&per_page=97");
                let rows = paged(&log, &text, World::default(), now);
                let seen: BTreeSet<_> = rows.iter().map(|row| (row.lane, row.key.index)).collect();
                let missing: Vec<_> =
                    visible.difference(&seen).map(|(l, i)| (*l, *i, log.lane(*l).ts(*i))).collect();
                assert_eq!(missing, [], "{text}");
                assert_eq!(rows.len(), visible.len(), "{text}");
                assert!(rows.is_sorted_by(|a, b| if order == "asc" { a < b } else { a > b }));
            }
        }
    }

    #[test]
    fn slices_of_time_make_up_the_whole() {
        let (log, now) = (log(&nasty()), START_MS + 60_000);
        let other = World { filters_created_at: true, git_newest_first: true, ..World::default() };
        for world in [World::default(), other] {
            let mut count = 0;
            let mut day = START_MS / 86_400_000 - 200;
            while day < START_MS / 86_400_000 + 2 {
                let date = |day: i64| {
                    crate::time::rfc3339_s(day * DAY_S).split('T').next().unwrap().to_owned()
                };
                let text = format!(
                    "phrase=created:{}..{}&include=all&order=asc",
                    date(day),
                    date(day + 6)
                );
                count += paged(&log, &text, world, now).len();
                day += 7;
            }
            let all = format!("{FROM_2020}&include=all&order=asc");
            let dated_2099 = 2;
            assert_eq!(count + dated_2099, paged(&log, &all, world, now).len());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let bytes = |log: &EntityLog| {
            let mut out = Vec::new();
            (0..200).for_each(|index| log.write_body(&mut out, Lane::Web, index, START_MS));
            out
        };
        assert_eq!(bytes(&log(&nasty())), bytes(&log(&nasty())));
        let other = SimEntity::new(EntityKind::Enterprise, "acme2");
        let other = EntityLog::new(
            7,
            &other,
            &other,
            SimClock { start_ms: START_MS, speed: 1.0 },
            &nasty(),
        );
        assert_ne!(bytes(&log(&nasty())), bytes(&other));
    }

    #[test]
    fn git_comes_newest_first_where_the_world_is_so() {
        let world = World { git_newest_first: true, ..World::default() };
        let rows = paged(&log(&Faults::default()), "include=git&order=asc", world, START_MS);
        assert!(rows.len() > 1000 && rows.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn before_shows_the_rows_that_end_there() {
        let log = log(&Faults::default());
        let text = format!("{FROM_2020}&order=asc&per_page=50");
        let mut query = query(&text, START_MS, false, false).unwrap();
        let first = log.select(&query, World::default(), START_MS);
        query.after = first.rows.last().map(|row| row.key.into());
        let second = log.select(&query, World::default(), START_MS);
        query.before = second.rows.first().map(|row| row.key.into());
        query.after = None;
        assert_eq!(log.select(&query, World::default(), START_MS).rows, first.rows);
    }

    #[test]
    fn entries_leave_when_their_retention_ends_and_late_ones_come_behind_the_cursor() {
        let faults = Faults { late: 0.2, ..Faults::default() };
        let (log, text) = (log(&faults), format!("{FROM_2020}&order=asc&per_page=100"));
        let soon = paged(&log, &text, World::default(), START_MS + 100_000);
        let later = paged(&log, &text, World::default(), START_MS + 600_000);
        let newest = soon.last().unwrap();
        let late = later.iter().filter(|row| *row < newest && !soon.contains(row)).count();
        assert!(late > 10, "{late}");
        assert!(paged(&log, &text, World::default(), START_MS + 181 * 86_400_000).is_empty());
    }

    #[test]
    fn five_thousand_entries_share_a_second_and_runs_share_a_millisecond() {
        let faults = Faults { burst: 1_000, tie_run: 150, tie_every: 600, ..Faults::default() };
        let rows = paged(
            &log(&faults),
            &format!("{FROM_2020}&order=asc&per_page=100"),
            World::default(),
            START_MS,
        );
        let most = |unit: i64| {
            let runs = rows.chunk_by(|a, b| a.key.ts / unit == b.key.ts / unit);
            runs.map(<[Row]>::len).max().unwrap()
        };
        assert!(most(1000) >= 900, "{}", most(1000));
        assert!(most(1) >= 150, "{}", most(1));
    }
}
