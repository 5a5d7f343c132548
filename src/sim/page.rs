//! A page: rows, body and `Link` (facts 1.5).

use super::cursor::Place;
use super::faults::Faults;
use super::inject::Rows;
use super::log::{EntityLog, Row, Selection, World, shuffle};
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

/// The page of a query at `now`.
pub(crate) fn page(
    entity: &EntityLog,
    query: &Query,
    world: World,
    faults: &Faults,
    strikes: Rows,
    draw: u64,
    now: i64,
) -> Page {
    let selection = entity.select(query, world, now);
    let descending = EntityLog::descends(query, world);
    let counted = faults.page_links || query.page.is_some();
    let mut page = Page {
        rows: selection.rows.clone(),
        next: None,
        others: others(query, &selection, counted),
    };
    if counted {
        let number = query.page.unwrap_or(1);
        page.next = selection.more.then(|| query.link_with_page(number + 1));
    } else {
        let after = next_place(
            query,
            &selection,
            faults,
            strikes,
            descending,
            &mut page.rows,
        );
        page.next = after.map(|place| query.link_with_cursors(&place.encode(), ""));
    }
    if strikes.duplicate && !page.rows.is_empty() {
        let again = usize_of(draw) % page.rows.len();
        if let Some(row) = page.rows.get(again).copied() {
            page.rows.insert(again + 1, row);
        }
    }
    if faults.unsorted_pages {
        shuffle(&mut page.rows, draw);
    }
    page
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
        let back = if strikes.overlap && rows.len() > 4 {
            3
        } else {
            0
        };
        return rows
            .iter()
            .rev()
            .nth(back)
            .map(|row| row.key.into())
            .or(last);
    }
    if faults.endless_next {
        return before_first.or(query.after).or(Some(Place {
            ts: 0,
            id: FIRST_ID,
        }));
    }
    if faults.tail_cursor {
        last.or(query.after)
    } else {
        None
    }
}

/// A place such that this row is the next one.
fn ahead_of(row: &Row, descending: bool) -> Place {
    let ts = row.key.ts;
    if descending {
        Place {
            ts: ts + 1,
            id: FIRST_ID,
        }
    } else {
        Place {
            ts: ts - 1,
            id: LAST_ID,
        }
    }
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

impl Page {
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
