//! Seen ids: records of the changelog from any bytes; what is filed is found whatever the clocks say.

use crate::decisions::Decisions;
use bytes::Bytes;
use ghauditd::audit::seen::{BucketList, EDGE_MS, filing, lookup};
use ghauditd::audit::seen_record::{SeenRecordError, encode_value};
use ghauditd::audit::{Bucket, EntityName, Entry, Fingerprint, SeenRecord, SourceKind, Verdict};
use std::time::Duration;

#[test]
fn seen_record_of_bytes() {
    bolero::check!().with_max_len(600_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let key = decisions.pick(&["acme", "", "ACME", "#genesis", "a b", "org-7"]).to_owned();
        // from here on the value is mostly right
        let mut value = vec![1, decisions.byte() & 1];
        match decisions.byte() {
            0..=31 => value.clear(),
            32..=47 => value = vec![decisions.byte()],
            48..=63 => value = vec![1, decisions.byte()],
            _ => {}
        }
        while !decisions.is_empty() {
            value.push(decisions.byte());
        }
        check(key.as_bytes(), &value);
        check(&value, &value);
    });
}

fn check(key: &[u8], value: &[u8]) {
    let name = EntityName::try_from(String::from_utf8_lossy(key).into_owned());
    match SeenRecord::decode(key, value) {
        Ok(read) => {
            assert_eq!(encode_value(read.lane, read.bucket, &read.fingerprints), value);
            assert_eq!(read.entity.as_str().as_bytes(), key);
        }
        Err(SeenRecordError::Newer(version)) => assert!(version > 1 && value[0] == version),
        Err(SeenRecordError::Key(_)) => assert!(name.is_err()),
        Err(SeenRecordError::Malformed(_)) => {
            let whole = value.len() >= 10 && (value.len() - 10).is_multiple_of(Fingerprint::LEN);
            assert!(!whole || value[0] == 0 || value[1] > 1);
        }
    }
}

/// The same entry is found under every clock, in few buckets; what another kind of source says of it too.
#[test]
fn seen_filing_and_lookup() {
    bolero::check!().with_max_len(64_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let now_ms = time(&mut decisions);
        let timestamp = (decisions.byte() > 40).then(|| time(&mut decisions));
        let created = (decisions.byte() > 40).then(|| time(&mut decisions));
        let retention = match decisions.byte() {
            0..=63 => None,
            64..=127 => Some(Duration::from_secs(decisions.number().unsigned_abs())),
            _ => Some(Duration::from_hours(24 * u64::from(decisions.byte()))),
        };
        let entry = entry(timestamp, created);
        let (filed, searched) = (filing(&entry, now_ms, retention), lookup(&entry));
        assert!((1..=2).contains(&filed.len()) && searched.len() <= BucketList::LEN_MAX);
        assert!(filed.iter().all(|bucket| searched.contains(bucket)));
        assert!(searched.contains(&Bucket::NONE));
        for list in [filed, searched] {
            let mut once = list.to_vec();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), list.len(), "{list:?}");
        }
        // hours that are filed lie inside the window: no entry can make any number of files
        for bucket in filed.iter().filter(|bucket| **bucket != Bucket::NONE) {
            let latest = Bucket::of_ms(now_ms.saturating_add(86_400_000));
            assert!(*bucket <= latest, "{filed:?}");
        }
        near(&mut decisions, &entry, now_ms, retention);
    });
}

/// Another kind of source says the time a little differently.
fn near(decisions: &mut Decisions<'_>, entry: &Entry, now_ms: i64, retention: Option<Duration>) {
    let shift_ms = decisions.number() % (EDGE_MS + 1);
    let shifted = |ms: Option<i64>| ms.and_then(|ms| ms.checked_add(shift_ms));
    let (timestamp, created) = (shifted(entry.timestamp_ms), shifted(entry.created_at_ms));
    if timestamp.is_none() && created.is_none() {
        return;
    }
    let filed = filing(&self::entry(timestamp, created), now_ms, retention);
    let searched = lookup(entry);
    let all = (timestamp.is_some(), created.is_some())
        == (entry.timestamp_ms.is_some(), entry.created_at_ms.is_some());
    assert!(!all || filed.iter().all(|bucket| searched.contains(bucket)), "{filed:?} {searched:?}");
}

/// Verdicts against the words of protocols 1.3.
#[test]
fn seen_verdicts() {
    bolero::check!().with_max_len(8_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut one = || {
            let kinds = [SourceKind::Rest, SourceKind::GraphQl, SourceKind::Push];
            let kind = kinds[decisions.below(3)];
            (decisions.byte() % 3, decisions.byte() % 3, kind)
        };
        let (known, new) = (one(), one());
        let print = |it: (u8, u8, SourceKind)| Fingerprint::new(&[it.0], &[it.1], it.2);
        let expected = if known == new {
            Verdict::Known
        } else if known.0 != new.0 {
            Verdict::New
        } else if known.2 == new.2 {
            Verdict::Revision(print(known).body())
        } else {
            Verdict::KnownOtherKind
        };
        assert_eq!(Verdict::beside(&print(known), &print(new)), expected);
        assert_eq!(Fingerprint::from_bytes(*print(new).as_bytes()), print(new));
    });
}

fn entry(timestamp_ms: Option<i64>, created_at_ms: Option<i64>) -> Entry {
    Entry { timestamp_ms, created_at_ms, ..Entry::opaque(Bytes::from_static(b"{}")) }
}

/// Times that lie near each other and near the edges of hours, and wild ones.
fn time(decisions: &mut Decisions<'_>) -> i64 {
    const HOUR_MS: i64 = 3_600_000;
    let noon = 1_790_000_000_000 / HOUR_MS * HOUR_MS;
    match decisions.byte() {
        0..=31 => decisions.number(),
        32..=95 => noon + HOUR_MS * i64::from(decisions.byte()) * 24,
        96..=159 => noon - HOUR_MS * i64::from(decisions.byte()) * 24,
        _ => noon + i64::from(decisions.byte()) * 10_000 - i64::from(decisions.byte()),
    }
}
