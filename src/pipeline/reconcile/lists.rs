//! The two lists as they grow: GitHub's entries, and our records, each as an item. Pieces are joined. Pure but for the
//! files of a long list.

use super::item::{Actions, Item, Marks, shown};
use super::spill::{Folder, Spill, SpillError};
use crate::audit::{Entry, Fingerprint, Lane, SourceKind, header};
use crate::github::page;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3Default;

/// Wholes that may be in pieces at once: those of one transaction stand together.
const OPEN_WHOLES_MAX: usize = 1_000;

/// Whose entries, and of which time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The entity.
    pub entity: String,
    /// First millisecond.
    pub from_ms: i64,
    /// The millisecond after the last.
    pub to_ms: i64,
    /// The lanes.
    pub lanes: Vec<Lane>,
}

impl Scope {
    fn holds(&self, time_ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&time_ms)
    }
}

/// A record of ours, from Kafka or from the archive.
pub struct OurRecord<'a> {
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// The value of a header.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
    /// It is in Kafka behind the end of the archive.
    pub behind_archive: bool,
}

impl OurRecord<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        (self.header)(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }
}

/// Both lists.
#[derive(Debug)]
pub struct Lists {
    scope: Scope,
    /// GitHub's.
    pub github: Spill,
    /// Ours.
    pub ours: Spill,
    /// The actions of both.
    pub actions: Actions,
    /// GitHub's, dated outside of the range: shown by the edges of a query, or by the other of its two times.
    pub github_outside: u64,
    /// Pieces whose whole was not complete where they stand.
    pub broken_wholes: u64,
    open: HashMap<String, Whole>,
}

/// A whole of which pieces have come.
struct Whole {
    next: i64,
    hash: Xxh3Default,
}

impl std::fmt::Debug for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whole").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Lists {
    /// Empty lists, whose files would be below `work_dir`.
    pub fn new(scope: Scope, work_dir: &Path) -> Self {
        let folder = Folder::below(work_dir);
        Self {
            scope,
            github: Spill::new(&folder, "github"),
            ours: Spill::new(&folder, "ours"),
            actions: Actions::default(),
            github_outside: 0,
            broken_wholes: 0,
            open: HashMap::new(),
        }
    }

    /// Whose, and of which time.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Takes an entry that GitHub shows. One without a time stands where GitHub put it.
    pub fn take_github(&mut self, lane: Lane, entry: &Entry) -> Result<Item, SpillError> {
        let item = Item::of_github(entry, lane, &mut self.actions);
        if item.time_ms.is_none_or(|ms| self.scope.holds(ms)) {
            self.github.push(&item)?;
        } else {
            self.github_outside += 1;
        }
        Ok(item)
    }

    /// Takes a record of ours, if it is one of the entity, the lanes and the time.
    pub fn take_ours(&mut self, record: &OurRecord<'_>) -> Result<(), SpillError> {
        if record.text(header::ENTITY) != Some(self.scope.entity.as_str()) {
            return Ok(());
        }
        let time_ms = record.text(header::CE_TIME).and_then(|text| {
            text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
        });
        let Some(value) = record.value else { return Ok(()) };
        if time_ms.is_some_and(|ms| !self.scope.holds(ms)) {
            return Ok(());
        }
        let pieces = record.number(header::CHUNKS);
        let body_hash = match pieces {
            None => Some(xxhash_rust::xxh3::xxh3_64(value)),
            Some(pieces) => self.piece(record, pieces, value),
        };
        let Some(body_hash) = body_hash else { return Ok(()) };
        // what came in pieces is too large to be looked into
        let also_outside = pieces.is_some() || self.is_also_outside(value);
        let Some(item) = self.our_item(record, time_ms, body_hash, also_outside) else {
            return Ok(());
        };
        self.ours.push(&item)
    }

    fn our_item(
        &mut self,
        record: &OurRecord<'_>,
        time_ms: Option<i64>,
        body_hash: u64,
        also_outside: bool,
    ) -> Option<Item> {
        let id = (record.header)(header::CE_ID)?;
        let id = if record.text(header::REVISION).is_some() { without_mark(id) } else { id };
        let action = record.text(header::CE_TYPE).unwrap_or(header::CE_TYPE_UNKNOWN);
        let (lane, kind) = lane_of(record.text(header::LANE), action);
        if !self.scope.lanes.contains(&lane) {
            return None;
        }
        Some(Item {
            fingerprint: Fingerprint::of_hash(id, body_hash, kind),
            time_ms,
            lane,
            action: self.actions.number(action),
            id: shown(id),
            ingest_ms: record.number(header::INGEST_MS).unwrap_or(0),
            marks: Marks {
                swept: record.text(header::SLICE) == Some("sweep"),
                also_outside,
                behind_archive: record.behind_archive,
            },
        })
    }

    /// Whether one of the two times of an entry lies outside of the range: it is not known by which GitHub filters.
    fn is_also_outside(&self, body: &[u8]) -> bool {
        let page = Bytes::from([b"[", body, b"]"].concat());
        let entry = page::cut(&page).ok().and_then(|entries| entries.into_iter().next());
        let times = entry.map(|it| [it.timestamp_ms, it.created_at_ms]);
        times.into_iter().flatten().flatten().any(|ms| !self.scope.holds(ms))
    }

    /// The hash of a whole whose last piece this is. Pieces stand in their order, in one partition.
    fn piece(&mut self, record: &OurRecord<'_>, pieces: i64, value: &[u8]) -> Option<u64> {
        let number = record.number(header::CHUNK)?;
        let [id, digest] = [record.text(header::CHUNK_ID)?, record.text(header::CHUNK_SHA256)?];
        // a whole that was sent twice is whole twice
        let key = format!("{id} {digest}");
        if number == 0 {
            if self.open.len() >= OPEN_WHOLES_MAX {
                self.broken_wholes += 1;
                self.open.clear();
            }
            self.open.insert(key.clone(), Whole { next: 0, hash: Xxh3Default::new() });
        }
        let whole = self.open.get_mut(&key).filter(|whole| whole.next == number);
        let Some(whole) = whole else {
            self.broken_wholes += 1;
            return None;
        };
        whole.hash.update(value);
        whole.next += 1;
        if whole.next < pieces {
            return None;
        }
        let hash = whole.hash.digest();
        self.open.remove(&key);
        Some(hash)
    }
}

/// The id of a revision without its mark.
fn without_mark(id: &[u8]) -> &[u8] {
    let mark_bytes = header::REVISION_SEPARATOR.len() + 8;
    let at = id.len().saturating_sub(mark_bytes);
    let (before, mark) = id.split_at_checked(at).unwrap_or((id, &[]));
    if mark.starts_with(header::REVISION_SEPARATOR.as_bytes()) { before } else { id }
}

/// The lane that a record of ours is counted in, and the kind of its source.
fn lane_of(way: Option<&str>, action: &str) -> (Lane, SourceKind) {
    let by_action = if action.starts_with("git.") { Lane::Git } else { Lane::Web };
    match way {
        Some("web") => (Lane::Web, SourceKind::Rest),
        Some("git") => (Lane::Git, SourceKind::Rest),
        Some("graphql") => (by_action, SourceKind::GraphQl),
        _ => (by_action, SourceKind::Push),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Text;

    fn lists() -> Lists {
        let scope = Scope {
            entity: "acme".to_owned(),
            from_ms: 1_000,
            to_ms: 2_000,
            lanes: Lane::ALL.to_vec(),
        };
        Lists::new(scope, &std::env::temp_dir())
    }

    type Headers<'a> = &'a [(&'a str, &'a str)];

    fn take(lists: &mut Lists, headers: Headers<'_>, value: &[u8]) {
        let header = |name: &str| {
            headers.iter().find(|(it, _)| *it == name).map(|(_, value)| value.as_bytes())
        };
        lists
            .take_ours(&OurRecord { value: Some(value), header: &header, behind_archive: false })
            .unwrap();
    }

    fn items(spill: &Spill) -> Vec<Item> {
        (0..super::super::spill::PARTS).flat_map(|part| spill.part(part).unwrap()).collect()
    }

    const GOOD: [(&str, &str); 6] = [
        ("gh_entity", "acme"),
        ("ce_id", "x"),
        ("ce_time", "1970-01-01T00:00:01.500Z"),
        ("ce_type", "repo.create"),
        ("gh_lane", "web"),
        ("gh_slice", "sweep"),
    ];

    #[test]
    fn a_record_is_the_item_that_its_entry_is() {
        let mut lists = lists();
        let body = Bytes::from_static(br#"{"@timestamp":1500,"created_at":2500}"#);
        let text = |text: &'static str| Text::new(Bytes::from_static(text.as_bytes()));
        let entry = Entry {
            id: text("x"),
            timestamp_ms: Some(1_500),
            action: text("repo.create"),
            ..Entry::opaque(body.clone())
        };
        let shown = lists.take_github(Lane::Web, &entry).unwrap();
        take(&mut lists, &GOOD, &body);
        let ours = items(&lists.ours);
        let marks = Marks { swept: true, also_outside: true, behind_archive: false };
        assert_eq!(ours, [Item { marks, ..shown }]);
    }

    #[test]
    fn others_and_other_times_are_left_out_and_what_has_no_time_is_kept() {
        let mut lists = lists();
        for (at, value) in
            [(0, "other"), (2, "1970-01-01T00:00:00.999Z"), (2, "1970-01-01T00:00:02.000Z")]
        {
            let mut headers = GOOD;
            headers[at].1 = value;
            take(&mut lists, &headers, b"{}");
        }
        assert_eq!(lists.ours.items(), 0);
        take(&mut lists, &[GOOD[0], GOOD[1], GOOD[4]], b"{}");
        assert_eq!(items(&lists.ours)[0].time_ms, None);
        lists
            .take_github(Lane::Web, &Entry { timestamp_ms: Some(9), ..Entry::opaque(Bytes::new()) })
            .unwrap();
        lists.take_github(Lane::Web, &Entry::opaque(Bytes::new())).unwrap();
        assert_eq!((lists.github_outside, lists.github.items()), (1, 1));
    }

    #[test]
    fn pieces_are_one_entry() {
        let mut lists = lists();
        let piece = |number, digest| {
            [
                &GOOD[..],
                &[
                    ("gh_chunk_id", "i"),
                    ("gh_chunk", number),
                    ("gh_chunks", "2"),
                    ("gh_chunk_sha256", digest),
                ],
            ]
            .concat()
        };
        take(&mut lists, &piece("0", "s"), b"{\"a\":");
        take(&mut lists, &piece("0", "t"), b"other");
        take(&mut lists, &piece("1", "s"), b"1}");
        take(&mut lists, &piece("1", "s"), b"again");
        let ours = items(&lists.ours);
        assert_eq!(ours.len(), 1);
        assert_eq!(ours[0].fingerprint, Fingerprint::new(b"x", b"{\"a\":1}", SourceKind::Rest));
        assert_eq!(lists.broken_wholes, 1);
    }

    #[test]
    fn a_revision_has_the_id_of_its_entry() {
        assert_eq!(without_mark(b"abc;r=01234567"), b"abc");
        assert_eq!(without_mark(b"abc"), b"abc");
        assert_eq!(without_mark(b"abcdefghijklmnop"), b"abcdefghijklmnop");
        let mut lists = lists();
        let mut headers = GOOD.to_vec();
        headers[1].1 = "x;r=01234567";
        headers.push(("gh_revision", "1"));
        take(&mut lists, &headers, b"{}");
        assert_eq!(items(&lists.ours)[0].id, "x");
    }
}
