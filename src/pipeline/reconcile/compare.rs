//! Two lists beside each other, by id and body. Pure: takes the parts of one number of both lists, adds to a tally.

use super::item::Item;
use super::standing::{Lanes, Standing};
use crate::audit::{Fingerprint, Lane, SourceKind};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

const DAY_S: i64 = 86_400;

/// What an entry is that both lists should have alike and have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// GitHub lists its id, ours has it not.
    Missing,
    /// GitHub shows another body than any that ours has under this id.
    Revised,
    /// Ours has it, GitHub lists its id no more, and its retention does not explain that.
    Extra,
    /// Ours has the same id and body more than once.
    Doubled,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// The entry.
    pub item: Item,
}

/// Counts of one day, lane and action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Bodies that GitHub shows.
    pub github: u64,
    /// Bodies of ours, without those that GitHub shows in a newer version.
    pub ours: u64,
    /// [`Fault::Missing`].
    pub missing: u64,
    /// [`Fault::Revised`].
    pub revised: u64,
    /// [`Fault::Extra`].
    pub extra: u64,
    /// [`Fault::Doubled`]: further copies.
    pub doubled: u64,
    /// GitHub lists it, ours has it not, and it is too early to call it missing.
    pub not_yet: u64,
    /// Ours, found by a sweep: GitHub indexed it late.
    pub late: u64,
    /// Ours, of time that GitHub has deleted: nothing to compare with.
    pub expired: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.github, other.github),
            (&mut self.ours, other.ours),
            (&mut self.missing, other.missing),
            (&mut self.revised, other.revised),
            (&mut self.extra, other.extra),
            (&mut self.doubled, other.doubled),
            (&mut self.not_yet, other.not_yet),
            (&mut self.late, other.late),
            (&mut self.expired, other.expired),
        ] {
            *to = to.saturating_add(from);
        }
    }
}

/// What else was seen, once for the whole range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Notes {
    /// Ours, bodies that GitHub now shows in a newer version.
    pub older_bodies: u64,
    /// GitHub's, whose id came to us by another way (GraphQL, GitHub's own stream).
    pub by_another_way: u64,
    /// Ours, not listed, but committed after the list was begun.
    pub committed_since: u64,
    /// Ours, not listed, but one of its two times lies outside of the range: GitHub may list it there.
    pub also_outside: u64,
    /// GitHub's, already in Kafka and not archived yet (`--against archive`).
    pub not_archived_yet: u64,
    /// Longest that a sweep came after the entry's time, seconds.
    pub latest_s: i64,
}

/// Day (epoch days; `None`: no time), lane, action.
pub type Place = (Option<i64>, Lane, u32);

/// All that a comparison counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// By day, lane and action.
    pub counts: BTreeMap<Place, Counts>,
    /// For the whole range.
    pub notes: Notes,
}

impl Tally {
    /// The sum of what a rule picks.
    pub fn sum(&self, which: impl Fn(&Place) -> bool) -> Counts {
        let mut sum = Counts::default();
        let picked = self.counts.iter().filter(|(place, _)| which(place));
        picked.for_each(|(_, counts)| sum.add(counts));
        sum
    }

    fn at(&mut self, item: &Item) -> &mut Counts {
        let day = item.time_s().map(|at_s| at_s.div_euclid(DAY_S));
        self.counts.entry((day, item.lane, item.action)).or_default()
    }
}

/// What a comparison rests on besides the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// What can be said of which time.
    pub lanes: Lanes,
    /// When GitHub was first asked, host's clock, epoch milliseconds.
    pub listed_from_ms: i64,
}

impl Basis {
    fn standing(&self, item: &Item) -> Standing {
        // one without a time stands where GitHub put it: in the range that was asked for
        let standing = item.time_s().and_then(|at_s| Some(self.lanes.get(&item.lane)?.of(at_s)));
        standing.unwrap_or(Standing::Compared)
    }

    /// Compares the parts of one number.
    pub fn compare(
        &self,
        github: &[Item],
        ours: &[Item],
        tally: &mut Tally,
        mut found: impl FnMut(Finding),
    ) {
        let mut listed: HashMap<&[u8], Vec<&Fingerprint>> = HashMap::new();
        let mut known: HashMap<&[u8], Vec<&Item>> = HashMap::new();
        for item in ours {
            known.entry(item.fingerprint.id()).or_default().push(item);
        }
        for item in github {
            let bodies = listed.entry(item.fingerprint.id()).or_default();
            // pages overlap: what comes twice is one
            if bodies.contains(&&item.fingerprint) {
                continue;
            }
            bodies.push(&item.fingerprint);
            let same_id = known.get(item.fingerprint.id()).map_or(&[][..], Vec::as_slice);
            if let Some(fault) = self.github_item(item, same_id, tally) {
                found(Finding { fault, item: item.clone() });
            }
        }
        let mut seen = HashSet::new();
        for item in ours {
            let bodies = listed.get(item.fingerprint.id()).map_or(&[][..], Vec::as_slice);
            let again = !seen.insert(&item.fingerprint);
            if let Some(fault) = self.our_item(item, bodies, again, tally) {
                found(Finding { fault, item: item.clone() });
            }
        }
    }

    fn github_item(&self, item: &Item, same_id: &[&Item], tally: &mut Tally) -> Option<Fault> {
        tally.at(item).github += 1;
        let same = same_id.iter().filter(|ours| ours.fingerprint == item.fingerprint);
        let mut behind = same.map(|ours| ours.marks.behind_archive);
        if let Some(first) = behind.next() {
            tally.notes.not_archived_yet += u64::from(first && behind.all(|it| it));
            return None;
        }
        let fault = if same_id.is_empty() {
            Fault::Missing
        } else if same_id.iter().any(|ours| ours.fingerprint.kind() == item.fingerprint.kind()) {
            Fault::Revised
        } else {
            tally.notes.by_another_way += 1;
            return None;
        };
        let standing = self.standing(item);
        let counts = tally.at(item);
        match (standing, fault) {
            (Standing::NotCollected | Standing::NotSettled, _) => {
                counts.not_yet += 1;
                return None;
            }
            (_, Fault::Missing) => counts.missing += 1,
            _ => counts.revised += 1,
        }
        Some(fault)
    }

    fn our_item(
        &self,
        item: &Item,
        listed: &[&Fingerprint],
        again: bool,
        tally: &mut Tally,
    ) -> Option<Fault> {
        if again {
            tally.at(item).doubled += 1;
            return Some(Fault::Doubled);
        }
        if item.marks.swept {
            tally.at(item).late += 1;
            if let Some(time_ms) = item.time_ms {
                let late_s = item.ingest_ms.saturating_sub(time_ms).div_euclid(1000);
                tally.notes.latest_s = tally.notes.latest_s.max(late_s);
            }
        }
        if !listed.is_empty() {
            if listed.contains(&&item.fingerprint) {
                tally.at(item).ours += 1;
            } else if item.fingerprint.kind() == SourceKind::Rest.as_byte() {
                tally.notes.older_bodies += 1;
            }
            return None;
        }
        self.not_listed(item, tally)
    }

    /// Ours whose id GitHub does not list.
    fn not_listed(&self, item: &Item, tally: &mut Tally) -> Option<Fault> {
        // one without a time may stand anywhere in GitHub's list
        item.time_ms?;
        tally.at(item).ours += 1;
        let by_rest = item.fingerprint.kind() == SourceKind::Rest.as_byte();
        let standing = self.standing(item);
        if standing == Standing::Expired {
            tally.at(item).expired += 1;
        } else if item.ingest_ms >= self.listed_from_ms {
            tally.notes.committed_since += 1;
        } else if item.marks.also_outside {
            tally.notes.also_outside += 1;
        } else if by_rest && standing != Standing::NotSettled {
            tally.at(item).extra += 1;
            return Some(Fault::Extra);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::item::testing::items;
    use super::*;
    use crate::audit::Intervals;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn basis() -> Basis {
        let mut collected = Intervals::default();
        collected.insert(-10, 80);
        let time = super::super::standing::LaneTime { edge_s: Some(20), settled_s: 100, collected };
        let lanes = Lane::ALL.map(|lane| (lane, time.clone())).into();
        Basis { lanes, listed_from_ms: 1_000 }
    }

    fn item(id: &str, body: &str, time_s: i64) -> Item {
        Item {
            fingerprint: Fingerprint::new(id.as_bytes(), body.as_bytes(), SourceKind::Rest),
            time_ms: Some(time_s * 1000),
            lane: Lane::Web,
            action: 0,
            id: id.to_owned(),
            ingest_ms: 0,
            marks: super::super::item::Marks::default(),
        }
    }

    fn compared(github: &[Item], ours: &[Item]) -> (Tally, Vec<(Fault, String)>) {
        let (mut tally, mut faults) = (Tally::default(), Vec::new());
        basis().compare(github, ours, &mut tally, |it| faults.push((it.fault, it.item.id)));
        (tally, faults)
    }

    #[test]
    fn what_is_alike_is_no_fault() {
        let both = [item("a", "1", 30), item("b", "1", 40)];
        let (tally, faults) = compared(&[&both[..], &both[..1]].concat(), &both);
        assert_eq!(faults, []);
        let sum = tally.sum(|_| true);
        assert_eq!((sum.github, sum.ours), (2, 2), "shown twice is one");
    }

    #[test]
    fn missing_revised_extra_doubled() {
        let github = [item("a", "1", 30), item("b", "2", 30), item("d", "1", 30)];
        let ours = [item("b", "1", 30), item("c", "1", 30), item("d", "1", 30), item("d", "1", 30)];
        let (tally, faults) = compared(&github, &ours);
        let want = [
            (Fault::Missing, "a"),
            (Fault::Revised, "b"),
            (Fault::Extra, "c"),
            (Fault::Doubled, "d"),
        ];
        assert_eq!(faults, want.map(|(fault, id)| (fault, id.to_owned())));
        assert_eq!(tally.notes.older_bodies, 1);
        let sum = tally.sum(|_| true);
        assert_eq!((sum.missing, sum.revised, sum.extra, sum.doubled), (1, 1, 1, 1));
    }

    #[test]
    fn it_is_not_missing_while_it_may_still_come_and_not_extra_when_time_explains_it() {
        let github = [item("unread", "1", 90), item("young", "1", 120)];
        let (since, outside) = (item("since", "1", 30), item("outside", "1", 30));
        let ours = [
            item("deleted", "1", 5),
            Item { ingest_ms: 1_000, ..since },
            Item {
                marks: super::super::item::Marks { also_outside: true, ..outside.marks },
                ..outside
            },
            Item { time_ms: None, ..item("timeless", "1", 0) },
            item("just collected", "1", 130),
        ];
        let (tally, faults) = compared(&github, &ours);
        assert_eq!(faults, []);
        let sum = tally.sum(|_| true);
        assert_eq!((sum.not_yet, sum.expired), (2, 1));
        assert_eq!((tally.notes.committed_since, tally.notes.also_outside), (1, 1));
    }

    #[test]
    fn another_way_is_no_fault_and_what_is_only_in_kafka_is_not_archived_yet() {
        let shown = item("a", "rest", 30);
        let pushed = Item {
            fingerprint: Fingerprint::new(b"a", b"push", SourceKind::Push),
            ..shown.clone()
        };
        let (tally, faults) = compared(std::slice::from_ref(&shown), &[pushed]);
        assert_eq!((tally.notes.by_another_way, faults), (1, vec![]));
        let marks = super::super::item::Marks { behind_archive: true, ..shown.marks };
        let (tally, faults) =
            compared(std::slice::from_ref(&shown), &[Item { marks, ..shown.clone() }]);
        assert_eq!((tally.notes.not_archived_yet, faults), (1, vec![]));
    }

    type Key = (Fault, Vec<u8>);

    /// The same by sets, item by item, without any index.
    fn model(github: &[Item], ours: &[Item]) -> BTreeMap<Key, usize> {
        let basis = basis();
        let mut faults = BTreeMap::new();
        let mut add = |fault, item: &Item| {
            *faults.entry((fault, item.fingerprint.as_bytes().to_vec())).or_insert(0) += 1;
        };
        let mut shown = BTreeSet::new();
        for item in github.iter().filter(|item| shown.insert(item.fingerprint)) {
            let early =
                matches!(basis.standing(item), Standing::NotCollected | Standing::NotSettled);
            let has = |rule: &dyn Fn(&Item) -> bool| ours.iter().any(rule);
            let id = |it: &Item| it.fingerprint.id() == item.fingerprint.id();
            if early || has(&|it| it.fingerprint == item.fingerprint) {
            } else if !has(&id) {
                add(Fault::Missing, item);
            } else if has(&|it| id(it) && it.fingerprint.kind() == item.fingerprint.kind()) {
                add(Fault::Revised, item);
            }
        }
        let mut before = BTreeSet::new();
        for item in ours {
            let again = !before.insert(item.fingerprint);
            let listed = github.iter().any(|it| it.fingerprint.id() == item.fingerprint.id());
            let explained = item.time_ms.is_none()
                || matches!(basis.standing(item), Standing::Expired | Standing::NotSettled)
                || item.ingest_ms >= basis.listed_from_ms
                || item.marks.also_outside
                || item.fingerprint.kind() != SourceKind::Rest.as_byte();
            if again {
                add(Fault::Doubled, item);
            } else if !listed && !explained {
                add(Fault::Extra, item);
            }
        }
        faults
    }

    proptest! {
        #[test]
        fn it_says_what_a_plain_model_says(github in vec(items(), 0..12), ours in vec(items(), 0..12)) {
            let (mut tally, mut faults) = (Tally::default(), BTreeMap::new());
            basis().compare(&github, &ours, &mut tally, |it| {
                *faults.entry((it.fault, it.item.fingerprint.as_bytes().to_vec())).or_insert(0) += 1;
            });
            prop_assert_eq!(&faults, &model(&github, &ours));
            let sum = tally.sum(|_| true);
            let listed: u64 = [sum.missing, sum.revised, sum.extra, sum.doubled].iter().sum();
            prop_assert_eq!(listed, u64::try_from(faults.values().sum::<usize>()).unwrap());
        }
    }
}
