//! A page: rows, body and `Link`.

use super::cursor::Place;
use super::faults::Faults;
use super::inject::Rows;
use super::log::{EntityLog, Row, Selection, World, shuffle};
use super::premade::Block;
use super::query::Query;
use super::rng::usize_of;
use super::timeline::Id;
use crate::audit::EntityKind;

/// A page before its body is written.
#[derive(Debug)]
pub(crate) struct Page {
    /// Rows as they are shown.
    pub(crate) rows: Vec<Row>,
    /// `next`, as the query part of a URL.
    pub(crate) next: Option<String>,
    /// `first` and `prev`.
    pub(crate) others: Vec<(&'static str, String)>,
}

/// Sorts before every document id.
const FIRST_ID: Id = [b' '; 22];
/// Sorts after every document id.
const LAST_ID: Id = [b'~'; 22];

/// What a page depends on beside its query and the switches.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) entity: &'a EntityLog,
    pub(crate) world: World,
    pub(crate) strikes: Rows,
    pub(crate) draw: u64,
    pub(crate) now: i64,
    /// The page ends here though more follow: see [`super::premade`].
    pub(crate) until: Option<Place>,
}

/// The page of a query.
pub(crate) fn page(query: &Query, faults: &Faults, context: &Context<'_>) -> Page {
    let mut selection = context.entity.select(query, context.world, context.now);
    if let Some(until) = context.until {
        let inside = selection.rows.partition_point(|row| Place::from(row.key) <= until);
        selection.more |= inside < selection.rows.len();
        selection.rows.truncate(inside);
    }
    if context.strikes.duplicate && selection.rows.len() > 1 {
        show_twice(query, &mut selection, usize_of(context.draw));
    }
    let descending = EntityLog::descends(query, context.world);
    let counted = faults.page_links || query.page.is_some();
    let mut page = Page {
        others: others(query, &selection, counted),
        rows: selection.rows.clone(),
        next: None,
    };
    if counted {
        let number = query.page.unwrap_or(1);
        page.next = selection.more.then(|| query.link_with_page(number + 1));
    } else {
        let after =
            next_place(query, &selection, faults, context.strikes, descending, &mut page.rows);
        page.next = after.map(|place| query.link_with_cursors(&place.encode(), ""));
    }
    if faults.unsorted_pages {
        shuffle(&mut page.rows, context.draw);
    }
    page
}

/// Shows a row twice; the last one gives way where the page is full.
fn show_twice(query: &Query, selection: &mut Selection, draw: usize) {
    if selection.rows.len() >= query.per_page {
        selection.rows.pop();
        selection.more = true;
    }
    let again = draw % selection.rows.len().max(1);
    if let Some(row) = selection.rows.get(again).copied() {
        selection.rows.insert(again + 1, row);
    }
}

/// Where the page after this one begins, `None` on the last page. May shorten the rows.
fn next_place(
    query: &Query,
    selection: &Selection,
    faults: &Faults,
    strikes: Rows,
    descending: bool,
    rows: &mut Vec<Row>,
) -> Option<Place> {
    let before_first = selection.rows.first().map(|row| ahead_of(row, descending));
    if strikes.empty && before_first.is_some() {
        rows.clear();
        return before_first;
    }
    if strikes.short && rows.len() > 1 {
        rows.truncate(rows.len() / 2);
        return rows.last().map(|row| row.key.into());
    }
    let last = rows.last().map(|row| Place::from(row.key));
    if selection.more {
        let back = if strikes.overlap && rows.len() > 4 { 3 } else { 0 };
        return rows.iter().rev().nth(back).map(|row| row.key.into()).or(last);
    }
    if faults.endless_next {
        return before_first.or(query.after).or(Some(Place { ts: 0, id: FIRST_ID }));
    }
    if faults.tail_cursor { last.or(query.after) } else { None }
}

/// A place such that this row is the next one.
fn ahead_of(row: &Row, descending: bool) -> Place {
    let ts = row.key.ts;
    if descending { Place { ts: ts + 1, id: FIRST_ID } } else { Place { ts: ts - 1, id: LAST_ID } }
}

fn others(query: &Query, selection: &Selection, counted: bool) -> Vec<(&'static str, String)> {
    if counted {
        let number = query.page.unwrap_or(1);
        if number == 1 {
            return Vec::new();
        }
        return vec![
            ("first", query.link_with_page(1)),
            ("prev", query.link_with_page(number - 1)),
        ];
    }
    if query.after.is_none() && query.before.is_none() {
        return Vec::new();
    }
    let mut others = vec![("first", query.link_with_cursors("", ""))];
    if let Some(row) = selection.rows.first() {
        let before = Place::from(row.key).encode();
        others.push(("prev", query.link_with_cursors("", &before)));
    }
    others
}

/// GitHub's `ETag` of a page is weak.
pub(crate) fn etag(body: &[u8]) -> String {
    format!("W/\"{:016x}{:x}\"", xxhash_rust::xxh3::xxh3_64(body), body.len())
}

impl Page {
    /// The page of rows that were made beforehand, more follow.
    pub(crate) fn of_block(query: &Query, block: &Block) -> Self {
        let selection = Selection { rows: block.rows.clone(), more: true };
        let next = Some(query.link_with_cursors(&block.last.encode(), ""));
        Self { others: others(query, &selection, false), rows: selection.rows, next }
    }

    /// The `Link` header; `None` when there is nothing to link to.
    pub(crate) fn link(&self, base: &str, next_base: &str, entity: &EntityLog) -> Option<String> {
        let segment = match entity.who.kind {
            EntityKind::Enterprise => "enterprises",
            EntityKind::Organization => "organizations",
        };
        let id = entity.who.id;
        let next = self.next.iter().map(|query| ("next", query, next_base));
        let others = self.others.iter().map(|(rel, query)| (*rel, query, base));
        let links: Vec<_> = next
            .chain(others)
            .map(|(rel, query, base)| {
                format!("<{base}/{segment}/{id}/audit-log?{query}>; rel=\"{rel}\"")
            })
            .collect();
        (!links.is_empty()).then(|| links.join(", "))
    }

    /// The JSON array.
    pub(crate) fn body(&self, entity: &EntityLog, now: i64) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.rows.len() * 900 + 2);
        body.push(b'[');
        for (n, row) in self.rows.iter().enumerate() {
            if n > 0 {
                body.push(b',');
            }
            entity.write_body(&mut body, row.lane, row.key.index, now);
        }
        body.push(b']');
        body
    }
}
