//! A topic that is not ours: looked at before records are sent to it, created when that is asked for.
//!
//! Pure: [`judge`].

use super::consumer::{NextRecord, ReadError, TopicReader};
use super::scout::{Scout, ScoutError, blocking};
use super::settings::{CALL_TIMEOUT, MESSAGE_BYTES_MAX, Settings};
use super::topics::{TopicError, admin, min_insync, not_created, not_now, replication};
use crate::audit::header;
use rdkafka::admin::{AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait until every broker shows a topic that was just created.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Replays that are named when a topic holds records of others.
const REPLAYS_NAMED_MAX: usize = 5;

/// A topic, as the brokers tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Its settings by name; `None` where they may not be read.
    pub settings: Option<BTreeMap<String, String>>,
    /// What the first records of its partitions are.
    pub holds: Holds,
}

/// Whose records a topic holds, as far as the first of each partition tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// Ids of replays.
    pub replays: BTreeSet<String>,
    /// Records that a daemon collected: the topic of another installation.
    pub collected: bool,
    /// Records of other programs.
    pub others: bool,
}

/// How a topic is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTarget {
    /// Its partitions.
    pub partitions: i32,
    /// Its replicas; `None`: as for the topics of this installation.
    pub replication: Option<i32>,
    /// How long it keeps records after they were sent to it; `None`: for good.
    pub retention: Option<Duration>,
}

/// Why a topic cannot be looked at or created.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No broker answered; may be tried again.
    #[error(transparent)]
    Unreachable(#[from] ScoutError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The brokers refuse.
    #[error(transparent)]
    Refused(#[from] TopicError),
}

/// Looks at a topic; `None`: there is none of this name, or it must not be seen.
pub async fn find(settings: Arc<Settings>, name: &str) -> Result<Option<Target>, TargetError> {
    let scout = Scout::open(&settings).await?;
    let Some(seen) = scout.topics().await?.get(name).copied() else {
        return Ok(None);
    };
    let found = described(&settings, name).await?;
    let (owned, topic) = (settings, name.to_owned());
    let holds = blocking(move || holds(&owned, &topic, seen.partitions)).await?;
    Ok(Some(Target { name: name.to_owned(), partitions: seen.partitions, settings: found, holds }))
}

/// A topic's settings; `None` where they may not be read.
async fn described(
    settings: &Settings,
    name: &str,
) -> Result<Option<BTreeMap<String, String>>, TargetError> {
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
    let results = admin(settings)?
        .describe_configs(&[ResourceSpecifier::Topic(name)], &options)
        .await
        .map_err(|error| not_now(&format!("settings of {name} cannot be read yet: {error}")))?;
    let resource = results.into_iter().next().and_then(Result::ok);
    Ok(resource.map(|resource| {
        resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
    }))
}

fn holds(settings: &Settings, topic: &str, partitions: i32) -> Result<Holds, ReadError> {
    let reader = TopicReader::new(settings)?;
    let mut holds = Holds::default();
    for partition in 0..partitions {
        let low = reader.watermarks(topic, partition)?.low;
        let first = reader.next_record(topic, partition, low, |record| {
            let replay = record.header(header::REPLAY);
            let replay = replay.map(|id| String::from_utf8_lossy(id).into_owned());
            (replay, record.header(header::SEQ).is_some())
        })?;
        match first {
            NextRecord::Record((Some(replay), _)) => drop(holds.replays.insert(replay)),
            NextRecord::Record((None, true)) => holds.collected = true,
            NextRecord::Record((None, false)) => holds.others = true,
            NextRecord::End(_) => {}
        }
    }
    Ok(holds)
}

/// Creates a topic, and waits until it is shown. Its retention counts from when a record was sent to it, whatever time
/// the record bears: else old records would be deleted as they come.
pub async fn create(settings: &Settings, name: &str, new: &NewTarget) -> Result<(), TargetError> {
    let scout = Scout::open(settings).await?;
    let replicas = match new.replication {
        Some(replicas) => replicas,
        None => replication(settings, scout.brokers().await?),
    };
    let retention = new.retention.map_or("-1".to_owned(), |it| it.as_millis().to_string());
    let (bytes, isr) = (MESSAGE_BYTES_MAX.to_string(), min_insync(replicas).to_string());
    let topic = NewTopic::new(name, new.partitions, TopicReplication::Fixed(replicas))
        .set("max.message.bytes", &bytes)
        .set("min.insync.replicas", &isr)
        .set("cleanup.policy", "delete")
        .set("retention.ms", &retention)
        .set("message.timestamp.type", "LogAppendTime");
    let options = AdminOptions::new()
        .request_timeout(Some(CALL_TIMEOUT * 2))
        .operation_timeout(Some(CALL_TIMEOUT));
    let results = admin(settings)?
        .create_topics([&topic], &options)
        .await
        .map_err(|error| not_now(&format!("{name} cannot be created yet: {error}")))?;
    for result in results {
        result.map_err(|(name, code)| not_created(&name, code, replicas))?;
    }
    let deadline = Instant::now() + CREATION_TIMEOUT;
    while !scout.topics().await?.get(name).is_some_and(|seen| seen.has_leaders) {
        if Instant::now() >= deadline {
            return Err(not_now(&format!("{name} was created and is not shown yet")).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What is to be sent to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes of the largest record, with what surrounds it; `None`: not known.
    pub largest_bytes: Option<usize>,
    /// The oldest time of a record, epoch milliseconds; `None`: not known.
    pub oldest_ms: Option<i64>,
    /// Now, epoch milliseconds.
    pub now_ms: i64,
}

/// What forbids to send to a topic, and what should be known before.
pub fn judge(target: &Target, load: Load) -> (Vec<String>, Vec<String>) {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let name = &target.name;
    if target.holds.collected {
        problems.push(format!(
            "topic {name} holds records that a ghauditd collects: it is live, its consumers would see entries twice. Choose another topic"
        ));
    }
    if target.holds.others {
        warnings.push(format!("topic {name} holds records of other programs"));
    }
    if !target.holds.replays.is_empty() {
        let replays: Vec<&str> =
            target.holds.replays.iter().map(String::as_str).take(REPLAYS_NAMED_MAX).collect();
        warnings.push(format!(
            "topic {name} holds records of other replays ({}): entries that are in both will be there twice",
            replays.join(", ")
        ));
    }
    match &target.settings {
        None => warnings.push(format!(
            "the settings of topic {name} may not be read (grant DESCRIBE_CONFIGS): whether it takes large and old records is not known"
        )),
        Some(settings) => judge_settings(name, settings, load, &mut problems, &mut warnings),
    }
    (problems, warnings)
}

fn judge_settings(
    name: &str,
    settings: &BTreeMap<String, String>,
    load: Load,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    let get = |key: &str| settings.get(key).map_or("", String::as_str);
    let number = |key: &str| get(key).parse::<i64>().ok();
    if get("cleanup.policy").contains("compact") {
        problems.push(format!(
            "topic {name} is compacted: it would keep one record of each organization. Choose one with cleanup.policy=delete"
        ));
    }
    let largest = load.largest_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    if let (Some(largest), Some(takes)) = (largest, number("max.message.bytes"))
        && largest > takes
    {
        problems.push(format!(
            "topic {name} has max.message.bytes={takes}, and a record takes {largest}: set {MESSAGE_BYTES_MAX}"
        ));
    }
    if get("message.timestamp.type") == "LogAppendTime" {
        return;
    }
    // records keep their times in such a topic, and its retention counts from them
    let age_ms = load.oldest_ms.map(|oldest| load.now_ms.saturating_sub(oldest));
    let retention_ms = number("retention.ms").filter(|ms| *ms >= 0);
    if let (Some(age), Some(retention)) = (age_ms, retention_ms)
        && age >= retention
    {
        warnings.push(format!(
            "topic {name} keeps records for {} h after their time, and the oldest is {} h old: it will be deleted soon. Set a longer retention.ms, or message.timestamp.type=LogAppendTime",
            retention / 3_600_000,
            age / 3_600_000
        ));
    }
    let before_ms = number("message.timestamp.before.max.ms");
    if let (Some(age), Some(before)) = (age_ms, before_ms)
        && age >= before
    {
        problems.push(format!(
            "topic {name} refuses records older than {} h (message.timestamp.before.max.ms): set message.timestamp.type=LogAppendTime",
            before / 3_600_000
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn target(settings: &[(&str, &str)]) -> Target {
        let owned = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Target {
            name: "siem".to_owned(),
            partitions: 1,
            settings: Some(owned.collect()),
            holds: Holds::default(),
        }
    }

    fn load() -> Load {
        Load { largest_bytes: Some(2_000_000), oldest_ms: Some(0), now_ms: 100 * HOUR_MS }
    }

    #[test]
    fn what_was_just_made_for_it_is_without_fault() {
        let fit = [
            ("cleanup.policy", "delete"),
            ("max.message.bytes", "8388608"),
            ("retention.ms", "1000"),
            ("message.timestamp.type", "LogAppendTime"),
        ];
        assert_eq!(judge(&target(&fit), load()), (vec![], vec![]));
    }

    #[test]
    fn each_fault_has_its_words() {
        let holds = |holds| Target { holds, ..target(&[]) };
        let problems = [
            (holds(Holds { collected: true, ..Holds::default() }), "it is live"),
            (target(&[("cleanup.policy", "compact,delete")]), "one record of each organization"),
            (target(&[("max.message.bytes", "1048588")]), "set 8388608"),
            (target(&[("message.timestamp.before.max.ms", "3600000")]), "older than 1 h"),
        ];
        for (target, words) in problems {
            let (problems, warnings) = judge(&target, load());
            assert!(problems.concat().contains(words), "{problems:?}");
            assert_eq!((problems.len(), warnings.len()), (1, 0), "{warnings:?}");
        }
        let replays = BTreeSet::from(["r1".to_owned()]);
        let warnings = [
            (holds(Holds { others: true, ..Holds::default() }), "other programs"),
            (holds(Holds { replays, ..Holds::default() }), "replays (r1)"),
            (
                target(&[("retention.ms", "36000000")]),
                "for 10 h after their time, and the oldest is 100 h",
            ),
            (Target { settings: None, ..target(&[]) }, "DESCRIBE_CONFIGS"),
        ];
        for (target, words) in warnings {
            let (problems, warnings) = judge(&target, load());
            assert!(warnings.concat().contains(words), "{warnings:?}");
            assert_eq!((problems.len(), warnings.len()), (0, 1), "{problems:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let strict = target(&[("max.message.bytes", "1"), ("retention.ms", "1")]);
        let unknown = Load { largest_bytes: None, oldest_ms: None, now_ms: 0 };
        assert_eq!(judge(&strict, unknown), (vec![], vec![]));
    }
}
