//! Where the archive of a partition goes on, found in the store before Kafka is asked (protocols 7.1).

use super::gather::Beginning;
use super::lines::{line_of, same_record};
use super::{ArchiverError, Parts, locked_until};
use crate::archive::gap::ArchiveGap;
use crate::archive::key::{GapKey, gaps_prefix, segments_prefix};
use crate::archive::segment::{ReadLimits, SegmentReader};
use crate::archive::store::{PutOutcome, Store};
use crate::kafka::consumer::{NextRecord, ReadError, Watermarks};
use bytes::Bytes;

/// The end of what is stored.
struct Newest {
    to: i64,
    last_line: Vec<u8>,
    last_offset: i64,
    key: String,
}

/// Finds the place of one partition, and records the gap before it where Kafka's log begins later.
pub(super) async fn place<S: Store>(
    parts: &Parts<S>,
    topic: &str,
    partition: i32,
) -> Result<Beginning, ArchiverError> {
    // The store first: what Kafka says afterwards can only be newer.
    let newest = newest_segment(parts, topic, partition).await?;
    let gap_end = newest_gap(parts, topic, partition).await?;
    let ends = parts.reader.watermarks(topic, partition).await?;
    let archived = newest.as_ref().map(|newest| newest.to).max(gap_end);
    let Some(archived) = archived else {
        return Ok(Beginning {
            topic: topic.to_owned(),
            partition,
            position: ends.low,
            log_start: Some(ends.low),
            gap_from: None,
        });
    };
    if let Some(newest) = &newest {
        compare_last(parts, topic, partition, newest, ends).await?;
    }
    if archived > ends.high {
        return Err(recreated(
            topic,
            partition,
            &format!("the archive ends at {archived}, Kafka's log at {}", ends.high),
        ));
    }
    let segment_end = newest.map(|newest| newest.to);
    let log_start = if segment_end.is_none() { Some(ends.low) } else { None };
    if ends.low > archived {
        record_gap(parts, topic, partition, archived, ends.low).await?;
    }
    let position = archived.max(ends.low);
    Ok(Beginning {
        topic: topic.to_owned(),
        partition,
        position,
        log_start,
        gap_from: segment_end.filter(|end| *end != position),
    })
}

async fn newest_segment<S: Store>(
    parts: &Parts<S>,
    topic: &str,
    partition: i32,
) -> Result<Option<Newest>, ArchiverError> {
    let prefix = segments_prefix(topic, partition);
    let Some(key) =
        parts.again("find the newest segment", || parts.store.last_key(&prefix)).await?
    else {
        return Ok(None);
    };
    let object = parts.again("read the newest segment", || parts.store.get(&key)).await?;
    let Some(object) = object else {
        return Err(ArchiverError::Refused(format!(
            "{key} is listed in {} and cannot be read: check the rights to read versions",
            parts.store.describe()
        )));
    };
    let newest = tokio::task::spawn_blocking(move || read_end(&object, key));
    newest.await.map_err(|error| ArchiverError::Ended(error.to_string()))?.map(Some)
}

/// Reads a segment through to its end.
fn read_end(object: &[u8], key: String) -> Result<Newest, ArchiverError> {
    let damaged = |error: String| {
        ArchiverError::Refused(format!(
            "newest segment {key} cannot be read: {error}; nothing is written behind it"
        ))
    };
    let mut reader = SegmentReader::open(object, ReadLimits::default())
        .map_err(|error| damaged(error.to_string()))?;
    let mut last_line = Vec::new();
    while let Some(line) = reader.next_line().map_err(|error| damaged(error.to_string()))? {
        last_line.clear();
        last_line.extend_from_slice(line);
    }
    let to = reader.footer().map(|footer| footer.to);
    let to = to.ok_or_else(|| damaged("no footer".to_owned()))?;
    Ok(Newest { to, last_line, last_offset: reader.last_offset(), key })
}

async fn newest_gap<S: Store>(
    parts: &Parts<S>,
    topic: &str,
    partition: i32,
) -> Result<Option<i64>, ArchiverError> {
    let prefix = gaps_prefix(topic, partition);
    let names = parts.again("list the gaps", || parts.store.list(&prefix)).await?;
    Ok(names.iter().filter_map(|name| GapKey::parse(name)).map(|gap| gap.to).max())
}

/// The last archived record must be Kafka's at its offset, where Kafka still has it.
async fn compare_last<S: Store>(
    parts: &Parts<S>,
    topic: &str,
    partition: i32,
    newest: &Newest,
    ends: Watermarks,
) -> Result<(), ArchiverError> {
    if newest.last_offset < ends.low || newest.last_line.is_empty() {
        return Ok(());
    }
    let offset = newest.last_offset;
    if offset >= ends.high {
        let why =
            format!("{} holds offset {offset}, Kafka's log ends at {}", newest.key, ends.high);
        return Err(recreated(topic, partition, &why));
    }
    let found =
        parts.reader.next_record(topic, partition, offset, |r| (r.offset, line_of(&r))).await;
    match found {
        Ok(NextRecord::Record((at, line)))
            if at == offset && same_record(&line, &newest.last_line) =>
        {
            Ok(())
        }
        // Deleted between the two questions: as good as before.
        Err(ArchiverError::Kafka(ReadError::OutOfRange { low, .. })) if low > offset => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            let why = format!(
                "offset {offset} of Kafka is not the record that {} holds as its last",
                newest.key
            );
            Err(recreated(topic, partition, &why))
        }
    }
}

fn recreated(topic: &str, partition: i32, why: &str) -> ArchiverError {
    ArchiverError::Refused(format!(
        "topic {topic} was recreated, or has lost records ({topic}/{partition}: {why}); give the archive a new name and prefix or folder, \
         the old one stays as it is"
    ))
}

async fn record_gap<S: Store>(
    parts: &Parts<S>,
    topic: &str,
    partition: i32,
    from: i64,
    to: i64,
) -> Result<(), ArchiverError> {
    let now_ms = crate::time::wall_ms();
    let gap = ArchiveGap::behind_retention(topic, partition, from, to, now_ms);
    let bytes =
        serde_json::to_vec(&gap).map_err(|error| ArchiverError::Ended(error.to_string()))?;
    let bytes = Bytes::from(bytes);
    let lock = locked_until(&parts.settings, now_ms);
    let name = gap.key().name();
    let outcome = parts
        .again("record a gap", || parts.store.put_if_absent(&name, bytes.clone(), lock))
        .await?;
    if matches!(outcome, PutOutcome::Written(_)) {
        tracing::warn!("archive gap: {gap}");
    }
    if gap.records_missing {
        parts.status.change(|status| status.gaps.push(gap));
    }
    Ok(())
}
