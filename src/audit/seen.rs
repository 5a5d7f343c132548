//! Seen ids: what "once" means, as 25 bytes an entry, filed by hour.
//!
//! # Filing and looking up
//!
//! [`filing`] says in which buckets an entry's fingerprint is stored, [`lookup`] in which it is searched. For every
//! entry and every pair of clocks, what is filed lies inside what is searched: filing depends on now, looking up does not.
//! So an entry whose time lies outside the window today and inside it tomorrow is found all the same.

use super::entry::Entry;
use super::record::Topic;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// The way in. Bodies always differ between kinds, so revisions are told only within one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// REST audit log.
    Rest,
    /// GraphQL audit log.
    GraphQl,
    /// GitHub's own stream.
    Push,
}

impl SourceKind {
    /// The byte in a fingerprint.
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Rest => 0,
            Self::GraphQl => 1,
            Self::Push => 2,
        }
    }
}

/// Which changelog and which set of files: by the entry's kind, never by the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SeenLane {
    /// Web and stream-only entries.
    Web,
    /// Git entries.
    Git,
}

impl SeenLane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Web, Self::Git];

    /// The changelog topic.
    pub fn topic(self) -> Topic {
        match self {
            Self::Web => Topic::SeenWeb,
            Self::Git => Topic::SeenGit,
        }
    }

    /// `web` or `git`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Git => "git",
        }
    }

    /// The lane whose changelog a topic is; `None` for every other topic.
    pub fn of_topic(topic: Topic) -> Option<Self> {
        match topic {
            Topic::SeenWeb => Some(Self::Web),
            Topic::SeenGit => Some(Self::Git),
            _ => None,
        }
    }

    /// The byte in a changelog record.
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Web => 0,
            Self::Git => 1,
        }
    }

    /// The lane that an entry is filed in.
    pub fn of(entry: &Entry) -> Self {
        match entry.topic() {
            Topic::Git => Self::Git,
            _ => Self::Web,
        }
    }
}

/// 16 bytes of the id's SHA-256, 8 bytes (big-endian) of XXH3-64 over the body, 1 byte for the kind of source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    /// Bytes of one fingerprint.
    pub const LEN: usize = 25;

    /// The fingerprint of an id and a body that came by `kind`.
    pub fn new(id: &[u8], body: &[u8], kind: SourceKind) -> Self {
        let mut bytes = [0; Self::LEN];
        let digest = Sha256::digest(id);
        let hash = xxhash_rust::xxh3::xxh3_64(body).to_be_bytes();
        let all = digest.iter().take(16).chain(hash.iter()).copied().chain([kind.as_byte()]);
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    /// From its stored form.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its stored form.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The part that stands for the id.
    pub fn id(&self) -> &[u8] {
        self.0.get(..16).unwrap_or_default()
    }

    /// The part that stands for the body: its XXH3-64, big-endian.
    pub fn body(&self) -> BodyHash {
        self.0.get(16..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
    }

    /// Eight bytes of the id's part: uniformly spread already, so they serve as a hash of the id.
    pub fn id_hash(&self) -> u64 {
        self.0.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The kind of source, as stored.
    pub fn kind(&self) -> u8 {
        self.0.last().copied().unwrap_or_default()
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// XXH3-64 of an entry's bytes, big-endian.
pub type BodyHash = [u8; 8];

/// What a fingerprint is, beside those that are known. In rising order: the strongest of several comparisons counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The id is not known: the entry is committed.
    New,
    /// The id is known, but only from another kind of source, where bodies always differ: the record is dropped, the
    /// fingerprint stored.
    KnownOtherKind,
    /// The id is known from this kind with other bodies only: the entry is committed, marked with the body that came
    /// before. Where several came, with one of them, always the same.
    Revision(BodyHash),
    /// This id with this body has come by this kind before: dropped.
    Known,
}

impl Verdict {
    /// What `new` is beside one known fingerprint.
    pub fn beside(known: &Fingerprint, new: &Fingerprint) -> Self {
        if known == new {
            Self::Known
        } else if known.id() != new.id() {
            Self::New
        } else if known.kind() == new.kind() {
            Self::Revision(known.body())
        } else {
            Self::KnownOtherKind
        }
    }

    /// Whether the entry's record goes to Kafka.
    pub fn is_committed(self) -> bool {
        matches!(self, Self::New | Self::Revision(_))
    }

    /// Whether the fingerprint is to be stored.
    pub fn is_stored(self) -> bool {
        self != Self::Known
    }
}

/// Where a fingerprint is filed: the epoch hour of a time field, or [`Bucket::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(pub i64);

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How far behind the retention a time is still filed under its hour, in milliseconds: 45 days.
pub const WINDOW_BEHIND_MS: i64 = 45 * DAY_MS;

/// How far ahead of now a time is still filed under its hour, in milliseconds: 1 day.
pub const WINDOW_AHEAD_MS: i64 = DAY_MS;

/// With unlimited retention, the least time that is filed under its hour: 2008-01-01, the year GitHub began.
pub const EARLIEST_MS: i64 = 1_199_145_600_000;

/// How near to the edge of its hour a time is looked up in the neighbouring hour too, in milliseconds: 5 minutes.
pub const EDGE_MS: i64 = 300_000;

impl Bucket {
    /// Entries without any time, or with one that is not sane.
    pub const NONE: Self = Self(i64::MIN);

    /// The bucket of an epoch time in milliseconds.
    pub fn of_ms(time_ms: i64) -> Self {
        Self(time_ms.div_euclid(HOUR_MS))
    }

    /// The hour beside `time_ms`'s own, when the time lies within [`EDGE_MS`] of it.
    fn neighbour_of_ms(time_ms: i64) -> Option<Self> {
        let own = Self::of_ms(time_ms);
        [time_ms.saturating_sub(EDGE_MS), time_ms.saturating_add(EDGE_MS)]
            .into_iter()
            .map(Self::of_ms)
            .find(|&near| near != own)
    }
}

/// A few different buckets, in the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BucketList {
    buckets: [Bucket; Self::LEN_MAX],
    len: usize,
}

impl BucketList {
    /// Two time fields, each with its hour and one neighbour, and [`Bucket::NONE`].
    pub const LEN_MAX: usize = 5;

    const EMPTY: Self = Self { buckets: [Bucket::NONE; Self::LEN_MAX], len: 0 };

    /// The buckets.
    pub fn as_slice(&self) -> &[Bucket] {
        self.buckets.get(..self.len).unwrap_or_default()
    }

    fn add(&mut self, bucket: Bucket) {
        if self.as_slice().contains(&bucket) {
            return;
        }
        if let Some(place) = self.buckets.get_mut(self.len) {
            *place = bucket;
            self.len += 1;
        }
    }
}

impl std::ops::Deref for BucketList {
    type Target = [Bucket];

    fn deref(&self) -> &[Bucket] {
        self.as_slice()
    }
}

impl std::fmt::Debug for BucketList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// The one or two buckets in which an entry's fingerprint is stored: the hour of each time field that it carries.
///
/// [`Bucket::NONE`] without any time, and for a time that lies outside `now - retention - 45 d ..= now + 1 d`
/// (retention unlimited, `None`: outside 2008 `..= now + 1 d`), so that insane times cannot make any number of files.
pub fn filing(entry: &Entry, now_ms: i64, retention: Option<Duration>) -> BucketList {
    let earliest_ms = retention.map_or(EARLIEST_MS, |retention| {
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        now_ms.saturating_sub(retention_ms).saturating_sub(WINDOW_BEHIND_MS)
    });
    let window = earliest_ms..=now_ms.saturating_add(WINDOW_AHEAD_MS);
    let mut list = BucketList::EMPTY;
    for time_ms in times(entry) {
        list.add(if window.contains(&time_ms) { Bucket::of_ms(time_ms) } else { Bucket::NONE });
    }
    if list.is_empty() {
        list.add(Bucket::NONE);
    }
    list
}

/// The buckets in which an entry's fingerprint is searched: each hour of [`filing`] whatever now was then, the
/// neighbouring hours for other kinds of source (whose times may differ a little), and always [`Bucket::NONE`].
pub fn lookup(entry: &Entry) -> BucketList {
    let mut list = BucketList::EMPTY;
    times(entry).for_each(|time_ms| list.add(Bucket::of_ms(time_ms)));
    times(entry).filter_map(Bucket::neighbour_of_ms).for_each(|bucket| list.add(bucket));
    list.add(Bucket::NONE);
    list
}

fn times(entry: &Entry) -> impl Iterator<Item = i64> {
    entry.timestamp_ms.into_iter().chain(entry.created_at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    /// 2026-09-21T14:13:20Z
    const NOW_MS: i64 = 1_790_000_000_000;
    const RETENTION: Option<Duration> = Some(Duration::from_hours(180 * 24));

    fn entry(timestamp_ms: Option<i64>, created_at_ms: Option<i64>) -> Entry {
        Entry { timestamp_ms, created_at_ms, ..Entry::opaque(Bytes::from_static(b"{}")) }
    }

    fn fingerprint(id: &str, body: &str, kind: SourceKind) -> Fingerprint {
        Fingerprint::new(id.as_bytes(), body.as_bytes(), kind)
    }

    /// SHA-256 of "a" begins with ca978112ca1bbdcafac231b39a23dc4d (checked with sha256sum).
    #[test]
    fn golden_fingerprint() {
        let it = fingerprint("a", "b", SourceKind::GraphQl);
        assert_eq!(format!("{it:?}"), "ca978112ca1bbdcafac231b39a23dc4d575a0b1c44d8843f01");
        assert_eq!(it.id().len() + it.body().len() + 1, Fingerprint::LEN);
        assert_eq!(it.kind(), 1);
        assert_eq!(it.id_hash(), 0xca_bd_1b_ca_12_81_97_ca);
        assert_eq!(Fingerprint::from_bytes(*it.as_bytes()), it);
    }

    #[test]
    fn verdicts_beside_one_known() {
        let known = fingerprint("a", "1", SourceKind::Rest);
        for (id, body, kind, expected) in [
            ("a", "1", SourceKind::Rest, Verdict::Known),
            ("a", "2", SourceKind::Rest, Verdict::Revision(known.body())),
            ("a", "1", SourceKind::Push, Verdict::KnownOtherKind),
            ("a", "2", SourceKind::Push, Verdict::KnownOtherKind),
            ("b", "1", SourceKind::Rest, Verdict::New),
        ] {
            assert_eq!(Verdict::beside(&known, &fingerprint(id, body, kind)), expected);
        }
        let committed = |verdict: Verdict| (verdict.is_committed(), verdict.is_stored());
        assert_eq!(committed(Verdict::New), (true, true));
        assert_eq!(committed(Verdict::Revision([7; 8])), (true, true));
        assert_eq!(committed(Verdict::KnownOtherKind), (false, true));
        assert_eq!(committed(Verdict::Known), (false, false));
    }

    #[test]
    fn filed_under_the_hour_of_each_time() {
        let hour = Bucket(NOW_MS / HOUR_MS);
        let before = Bucket(hour.0 - 1);
        for (timestamp, created, expected) in [
            (Some(NOW_MS), Some(NOW_MS), &[hour][..]),
            (Some(NOW_MS), None, &[hour]),
            (None, Some(NOW_MS), &[hour]),
            (Some(NOW_MS - HOUR_MS), Some(NOW_MS), &[before, hour]),
            (None, None, &[Bucket::NONE]),
            // 2099 in one field, then in both
            (Some(4_070_908_800_000), Some(NOW_MS), &[Bucket::NONE, hour]),
            (Some(4_070_908_800_000), Some(4_070_908_800_001), &[Bucket::NONE]),
        ] {
            assert_eq!(&*filing(&entry(timestamp, created), NOW_MS, RETENTION), expected);
        }
    }

    #[test]
    fn the_edges_of_the_window() {
        let oldest = NOW_MS - 225 * DAY_MS;
        for (time_ms, retention, inside) in [
            (NOW_MS + DAY_MS, RETENTION, true),
            (NOW_MS + DAY_MS + 1, RETENTION, false),
            (NOW_MS + DAY_MS + 1, None, false),
            (oldest, RETENTION, true),
            (oldest - 1, RETENTION, false),
            (oldest - 1, None, true),
            (EARLIEST_MS, None, true),
            (EARLIEST_MS - 1, None, false),
            (i64::MIN, RETENTION, false),
            (i64::MAX, None, false),
        ] {
            let filed = filing(&entry(Some(time_ms), None), NOW_MS, retention);
            let expected = if inside { Bucket::of_ms(time_ms) } else { Bucket::NONE };
            assert_eq!(&*filed, [expected], "{time_ms}");
        }
    }

    #[test]
    fn neighbours_within_five_minutes_of_the_edge() {
        let hour_ms = NOW_MS - NOW_MS.rem_euclid(HOUR_MS);
        let own = Bucket::of_ms(hour_ms);
        let (before, after) = (Bucket(own.0 - 1), Bucket(own.0 + 1));
        for (into_ms, expected) in [
            (0, &[own, before, Bucket::NONE][..]),
            (EDGE_MS - 1, &[own, before, Bucket::NONE]),
            (EDGE_MS, &[own, Bucket::NONE]),
            (HOUR_MS - EDGE_MS - 1, &[own, Bucket::NONE]),
            (HOUR_MS - EDGE_MS, &[own, after, Bucket::NONE]),
            (HOUR_MS - 1, &[own, after, Bucket::NONE]),
        ] {
            assert_eq!(&*lookup(&entry(Some(hour_ms + into_ms), None)), expected, "{into_ms}");
        }
        assert_eq!(&*lookup(&entry(None, None)), [Bucket::NONE]);
        assert_eq!(
            lookup(&entry(Some(hour_ms), Some(hour_ms + 9 * HOUR_MS))).len(),
            BucketList::LEN_MAX
        );
    }

    fn any_time() -> impl Strategy<Value = Option<i64>> {
        prop::option::of(
            prop_oneof![any::<i64>(), (NOW_MS - 300 * DAY_MS)..(NOW_MS + 40 * DAY_MS),],
        )
    }

    proptest! {
        /// The same entry is always found, however far the clock has gone since it was filed, and back.
        #[test]
        fn what_is_filed_is_looked_up_whatever_now_is(
            timestamp in any_time(), created in any_time(), now_ms in prop_oneof![any::<i64>(), Just(NOW_MS)],
            retention in prop::option::of((0_u64..=u64::MAX).prop_map(Duration::from_secs)),
        ) {
            let entry = entry(timestamp, created);
            let (filed, searched) = (filing(&entry, now_ms, retention), lookup(&entry));
            prop_assert!((1..=2).contains(&filed.len()));
            prop_assert!(searched.len() <= BucketList::LEN_MAX);
            prop_assert!(filed.iter().all(|bucket| searched.contains(bucket)));
            prop_assert!(searched.contains(&Bucket::NONE));
        }

        /// Times that differ by less than five minutes between kinds of source meet.
        #[test]
        fn near_times_meet(time_ms in (NOW_MS - DAY_MS)..NOW_MS, apart_ms in -EDGE_MS..=EDGE_MS) {
            let filed = filing(&entry(Some(time_ms), None), NOW_MS, RETENTION);
            let searched = lookup(&entry(Some(time_ms + apart_ms), None));
            prop_assert!(filed.iter().any(|bucket| searched.contains(bucket)));
        }

        #[test]
        fn a_bucket_is_an_hour(time_ms in any::<i64>()) {
            let Bucket(hour) = Bucket::of_ms(time_ms);
            prop_assert!(Bucket(hour) != Bucket::NONE);
            let into_ms = i128::from(time_ms) - i128::from(hour) * i128::from(HOUR_MS);
            prop_assert!((0..i128::from(HOUR_MS)).contains(&into_ms));
        }
    }
}
