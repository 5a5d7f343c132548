//! The slice: a span of a lane's time with its own cursor. The only mechanism of collecting.

use super::cursor::Cursor;
use serde::{Deserialize, Serialize};

/// Why a slice is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceKind {
    /// Open at its upper end: what happens now.
    Tail,
    /// Closed: time that was not read when it was new.
    Backfill,
    /// Closed: time that has been read already, read again for what GitHub indexed late.
    Sweep,
}

impl SliceKind {
    /// The value of the record header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Backfill => "backfill",
            Self::Sweep => "sweep",
        }
    }
}

/// The exact question that GitHub is asked; a cursor is valid only with the query that produced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// `created:>=` this second.
    pub from_s: i64,
    /// Upper edge, inclusive; `None`: open.
    pub to_s: Option<i64>,
}

/// One slice and the walk that is going on in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Number within the lane, never used again.
    pub id: u64,
    /// Why it is read.
    pub kind: SliceKind,
    /// First second that it covers.
    pub from_s: i64,
    /// Last second that it covers; `None` for a tail.
    pub to_s: Option<i64>,
    /// Backfill that it belongs to; `None` for a tail.
    pub backfill: Option<u64>,
    /// Where the next walk's query starts (a tail's S).
    pub start_s: i64,
    /// The walk that is going on; `None` between walks.
    pub walk: Option<Walk>,
    /// Whether a walk has ended and the one that must show nothing new is still owed.
    pub confirming: bool,
    /// Entries that walks of this slice showed, new or not.
    pub entries: u64,
    /// Second up to which a gap has been recorded because it expired unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_to_s: Option<i64>,
    /// GitHub's now before its first query: how old what it shows was at least, when it was read. `None` for a tail, and for
    /// what a program before sweeps opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_s: Option<i64>,
    /// The age that a sweep is for, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep_age_s: Option<i64>,
}

impl Slice {
    /// A slice that nothing has been read of.
    pub fn new(
        id: u64,
        kind: SliceKind,
        from_s: i64,
        to_s: Option<i64>,
        opened_s: Option<i64>,
    ) -> Self {
        Self {
            id,
            kind,
            from_s,
            to_s,
            backfill: None,
            start_s: from_s,
            walk: None,
            confirming: false,
            entries: 0,
            gap_to_s: None,
            opened_s,
            sweep_age_s: None,
        }
    }
}

/// One query being walked page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// The query, exactly as asked.
    pub query: Query,
    /// GitHub's now when the first page was asked for, epoch seconds: what happened since then may be missing in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_s: Option<i64>,
    /// Where to go on; `None`: from the query's beginning.
    pub cursor: Option<Cursor>,
    /// Entries of this walk that were new.
    pub new_entries: u64,
    /// Newest second seen in this walk.
    pub newest_s: Option<i64>,
    /// Second of the walk's first entry that has a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_s: Option<i64>,
    /// Second of the walk's last entry.
    pub last_s: Option<i64>,
    /// Whether every entry of the walk so far carried a time, in non-descending order.
    pub in_order: bool,
}

impl Walk {
    /// A walk that has shown nothing yet.
    pub fn new(query: Query) -> Self {
        Self {
            query,
            began_s: None,
            cursor: None,
            new_entries: 0,
            newest_s: None,
            first_s: None,
            last_s: None,
            in_order: true,
        }
    }

    /// Where a walk of this query starts again without a cursor when it has shown entries of these times, epoch seconds.
    pub fn restart_after(
        query: Query,
        times_s: impl IntoIterator<Item = Option<i64>>,
        now_s: i64,
    ) -> i64 {
        let mut walk = Self::new(query);
        times_s.into_iter().for_each(|time_s| walk.show(time_s, now_s));
        walk.restart_s(query.from_s, query.to_s)
    }

    /// Takes the time of its next entry, epoch seconds.
    pub fn show(&mut self, time_s: Option<i64>, now_s: i64) {
        // an entry dated ahead of now says nothing about how far the walk has come
        let sane = time_s.filter(|&time| time <= now_s);
        self.in_order &= sane.is_some_and(|time| self.last_s.is_none_or(|last| last <= time));
        self.newest_s = self.newest_s.max(sane);
        self.first_s = self.first_s.or(sane);
        self.last_s = sane.or(self.last_s);
    }

    /// Where a walk of a slice from `start_s` to `to_s` starts again without a cursor.
    pub fn restart_s(&self, start_s: i64, to_s: Option<i64>) -> i64 {
        match self.last_s {
            Some(last)
                if self.is_rising() && last >= start_s && to_s.is_none_or(|to| last <= to) =>
            {
                last
            }
            _ => start_s,
        }
    }

    /// Whether the oldest come first, beyond doubt: entries of one second alone may as well be the newest of all.
    pub fn is_rising(&self) -> bool {
        self.in_order && self.first_s.is_some_and(|first| Some(first) < self.last_s)
    }
}
