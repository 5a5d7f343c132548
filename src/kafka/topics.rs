//! The topics: created once, with the settings that the promises rest on; judged at every start.
//!
//! Pure: [`wanted`], [`judge`]. A crash between creating topics and the first transaction leaves empty topics, which the
//! next start takes as they are.

use super::client::{Context, Ears};
use super::consumer::TopicReader;
use super::restore::{RestoreError, read_genesis};
use super::scout::{Scout, ScoutError, blocking};
use super::settings::{CALL_TIMEOUT, MESSAGE_BYTES_MAX, Role, Settings};
use crate::audit::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait until every broker shows topics that were just created.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// A topic as it is on the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its role.
    pub topic: Topic,
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Replicas of its first partition.
    pub replication: i32,
    /// `max.message.bytes`: larger records have to travel in pieces.
    pub message_bytes_max: usize,
    /// Whether this call created it.
    pub created: bool,
    /// What is not as it should be, and costs no promise.
    pub warnings: Vec<String>,
}

/// What [`describe`] found of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// Its role.
    pub topic: Topic,
    /// Its name.
    pub name: String,
    /// `None`: it does not exist.
    pub partitions: Option<i32>,
    /// What keeps the daemon from starting, each with its remedy.
    pub problems: Vec<String>,
    /// What is not as it should be, and costs no promise.
    pub warnings: Vec<String>,
}

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No broker answered; may be tried again.
    #[error(transparent)]
    Unreachable(#[from] ScoutError),
    /// Some topics are missing beside others that hold records.
    #[error(
        "topics {} are missing, while {holding} holds records: a deleted topic is never a first run. Restore them from a \
         backup, correct [kafka.topics] where they were renamed, or start once with --init to begin anew", .missing.join(", ")
    )]
    Missing {
        /// The missing ones.
        missing: Vec<String>,
        /// One that holds records.
        holding: String,
    },
    /// They exist and are not what the promises need.
    #[error("topics are not usable: {}", .problems.join("; "))]
    Unusable {
        /// Each with its remedy.
        problems: Vec<String>,
    },
    /// The genesis cannot be read.
    #[error(transparent)]
    Genesis(#[from] Box<RestoreError>),
    /// The brokers cannot create or describe them for now; may be tried again.
    #[error("topic {name}: {message}")]
    NotNow {
        /// Which.
        name: String,
        /// What they said, and what to look at.
        message: String,
    },
    /// The brokers refuse to create or to describe them.
    #[error("topic {name}: {message}")]
    Refused {
        /// Which.
        name: String,
        /// What they said, and the remedy.
        message: String,
    },
}

/// Makes sure that all topics are there and usable; creates missing ones at a first run or when `init` is given.
pub async fn ensure(settings: Arc<Settings>, init: bool) -> Result<Vec<TopicState>, TopicError> {
    let scout = Scout::open(&settings).await?;
    let found = scout.topics().await?;
    let missing: Vec<Topic> = Topic::ALL
        .into_iter()
        .filter(|topic| !found.contains_key(settings.topic(*topic)))
        .collect();
    if !missing.is_empty() {
        if !init {
            refuse_beside_records(&scout, &settings, &missing).await?;
        }
        let admin = admin(&settings)?;
        create(&admin, &settings, &missing, scout.brokers().await?).await?;
        wait_until_shown(&scout, &settings).await?;
    }
    let reports = inspect(&scout, &settings).await?;
    let problems: Vec<String> =
        reports.iter().flat_map(|(report, _)| report.problems.clone()).collect();
    if !problems.is_empty() {
        return Err(TopicError::Unusable { problems });
    }
    let states = reports.into_iter().map(|(report, seen)| TopicState {
        created: missing.contains(&report.topic),
        partitions: seen.partitions,
        replication: seen.replication,
        message_bytes_max: seen.message_bytes_max(),
        topic: report.topic,
        name: report.name,
        warnings: report.warnings,
    });
    Ok(states.collect())
}

/// Looks at all topics without changing anything: for `check --connect`.
pub async fn describe(settings: Arc<Settings>) -> Result<Vec<TopicReport>, TopicError> {
    let scout = Scout::open(&settings).await?;
    let mut reports: Vec<TopicReport> =
        inspect(&scout, &settings).await?.into_iter().map(|(report, _)| report).collect();
    for topic in Topic::ALL {
        if !reports.iter().any(|report| report.topic == topic) {
            let name = settings.topic(topic).to_owned();
            reports.push(TopicReport {
                topic,
                name,
                partitions: None,
                problems: vec![],
                warnings: vec![],
            });
        }
    }
    Ok(reports)
}

/// A first run finds nothing but empty topics.
async fn refuse_beside_records(
    scout: &Scout,
    settings: &Settings,
    missing: &[Topic],
) -> Result<(), TopicError> {
    let there = Topic::ALL.into_iter().filter(|topic| !missing.contains(topic));
    let there = there.map(|topic| settings.topic(topic).to_owned()).collect();
    let Some(holding) = scout.first_with_records(there).await? else {
        return Ok(());
    };
    if !missing.contains(&Topic::Checkpoints) && may_be_added(settings, missing).await? {
        return Ok(());
    }
    let missing = missing.iter().map(|topic| settings.topic(*topic).to_owned()).collect();
    Err(TopicError::Missing { missing, holding })
}

/// Whether a genesis is there which names no missing topic: they came with a newer program.
async fn may_be_added(settings: &Settings, missing: &[Topic]) -> Result<bool, TopicError> {
    let owned = settings.clone();
    let genesis = blocking(move || read_genesis(&TopicReader::new(&owned)?, &owned))
        .await
        .map_err(Box::new)?;
    let Some(genesis) = genesis else {
        return Ok(false);
    };
    let is_listed = |topic: &Topic| genesis.topics.contains_key(settings.topic(*topic));
    let names: Vec<&str> = Topic::ALL.iter().map(|topic| settings.topic(*topic)).collect();
    let is_renamed = genesis.topics.keys().any(|listed| !names.contains(&listed.as_str()));
    Ok(!is_renamed && !missing.iter().any(is_listed))
}

pub(super) fn admin(settings: &Settings) -> Result<AdminClient<Context>, TopicError> {
    let context = Context::new(Arc::new(Ears::new(settings.contact.clone())));
    AdminClient::from_config_and_context(&settings.client_config(Role::Scout), context).map_err(
        |error| TopicError::Unreachable(ScoutError::Refused { message: error.to_string() }),
    )
}

async fn create(
    admin: &AdminClient<Context>,
    settings: &Settings,
    missing: &[Topic],
    brokers: usize,
) -> Result<(), TopicError> {
    let replication = replication(settings, brokers);
    let isr = min_insync(replication).to_string();
    let properties: Vec<_> =
        missing.iter().map(|topic| (*topic, wanted(*topic, settings))).collect();
    let new: Vec<NewTopic<'_>> = properties
        .iter()
        .map(|(topic, properties)| {
            let fixed = TopicReplication::Fixed(replication);
            let mut new = NewTopic::new(settings.topic(*topic), settings.partitions(*topic), fixed);
            new = new.set("min.insync.replicas", &isr);
            properties.iter().fold(new, |new, (key, value)| new.set(key, value))
        })
        .collect();
    let options = AdminOptions::new()
        .request_timeout(Some(CALL_TIMEOUT * 2))
        .operation_timeout(Some(CALL_TIMEOUT));
    let results = admin
        .create_topics(&new, &options)
        .await
        .map_err(|error| not_now(&format!("cannot be created yet: {error}")))?;
    for result in results {
        match result {
            // another instance that starts at the same time; what it created is judged like any other
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(not_created(&name, code, replication)),
        }
    }
    Ok(())
}

/// A request as a whole was not answered: nothing is known of any topic.
pub(super) fn not_now(message: &str) -> TopicError {
    TopicError::NotNow { name: "(all)".to_owned(), message: message.to_owned() }
}

/// Whether what a broker answers may be different soon.
fn passes(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::NotController
            | RDKafkaErrorCode::NetworkException
    )
}

/// Brokers that have just started, or are too busy to be counted, say that there are too few of them: that passes.
pub(super) fn not_created(name: &str, code: RDKafkaErrorCode, replication: i32) -> TopicError {
    let name = name.to_owned();
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => TopicError::NotNow {
            name,
            message: format!(
                "cannot be created with {replication} replicas: too few brokers are ready. See that they all run, or set \
                 kafka.replication lower"
            ),
        },
        code if passes(code) => {
            TopicError::NotNow { name, message: format!("cannot be created yet: {code}") }
        }
        _ => {
            let remedy = "grant CREATE, or create it by hand with the settings of docs/formats.md";
            TopicError::Refused { name, message: format!("cannot be created: {code}: {remedy}") }
        }
    }
}

/// Replicas of a new topic.
pub(super) fn replication(settings: &Settings, brokers: usize) -> i32 {
    let brokers = i32::try_from(brokers).unwrap_or(i32::MAX).max(1);
    settings.replication.unwrap_or(brokers.min(3))
}

/// `min.insync.replicas` at a replication: one broker may be away wherever there is more than one.
pub(super) fn min_insync(replication: i32) -> i32 {
    (replication - 1).clamp(1, 2)
}

async fn wait_until_shown(scout: &Scout, settings: &Settings) -> Result<(), TopicError> {
    let deadline = Instant::now() + CREATION_TIMEOUT;
    loop {
        let found = scout.topics().await?;
        let hidden = Topic::ALL
            .into_iter()
            .map(|topic| settings.topic(topic))
            .find(|name| !found.get(*name).is_some_and(|topic| topic.has_leaders));
        let Some(name) = hidden else { return Ok(()) };
        if Instant::now() >= deadline {
            let message = format!(
                "was created and is not shown after {} s: check that this user may DESCRIBE it, and the brokers' health",
                CREATION_TIMEOUT.as_secs()
            );
            return Err(TopicError::Refused { name: name.to_owned(), message });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The settings that a topic is created with, besides `min.insync.replicas`.
pub fn wanted(topic: Topic, settings: &Settings) -> Vec<(&'static str, String)> {
    let millis = |retention: Option<Duration>| {
        retention.map_or("-1".to_owned(), |r| r.as_millis().to_string())
    };
    let mut wanted = vec![("max.message.bytes", MESSAGE_BYTES_MAX.to_string())];
    let mut set = |key, value: &str| wanted.push((key, value.to_owned()));
    match topic {
        Topic::Checkpoints => {
            set("cleanup.policy", "compact");
            set("segment.ms", "1800000");
            set("segment.bytes", "16777216");
            set("min.cleanable.dirty.ratio", "0.1");
        }
        Topic::SeenWeb | Topic::SeenGit => {
            set("cleanup.policy", "delete");
            set("retention.ms", &millis(seen_retention(topic, settings)));
            set("segment.bytes", "67108864");
            set("message.timestamp.type", "LogAppendTime");
        }
        Topic::Gaps | Topic::Operations | Topic::LogCheckpoints => {
            set("cleanup.policy", "delete");
            set("retention.ms", "-1");
        }
        Topic::Web | Topic::Git | Topic::Stream | Topic::DeadLetter => {
            set("cleanup.policy", "delete");
            set("retention.ms", &millis(settings.data_retention));
            set("message.timestamp.type", "LogAppendTime");
        }
    }
    wanted
}

fn seen_retention(topic: Topic, settings: &Settings) -> Option<Duration> {
    match topic {
        Topic::SeenWeb => Some(settings.seen_web_retention),
        Topic::SeenGit => Some(settings.seen_git_retention),
        _ => None,
    }
}

/// What the brokers say of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Partitions.
    pub partitions: i32,
    /// Replicas of the first partition.
    pub replication: i32,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
}

impl Observed {
    fn get(&self, key: &str) -> &str {
        self.settings.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key).parse().ok()
    }

    fn message_bytes_max(&self) -> usize {
        self.number("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }
}

async fn inspect(
    scout: &Scout,
    settings: &Settings,
) -> Result<Vec<(TopicReport, Observed)>, TopicError> {
    let found = scout.topics().await?;
    let mut observed = Vec::new();
    for topic in Topic::ALL {
        if let Some(seen) = found.get(settings.topic(topic)) {
            let (partitions, replication) = (seen.partitions, seen.replication);
            observed.push((topic, Observed { partitions, replication, settings: BTreeMap::new() }));
        }
    }
    describe_settings(settings, &mut observed).await?;
    let reports = observed.into_iter().map(|(topic, seen)| {
        let (problems, warnings) = judge(topic, &seen, settings);
        let name = settings.topic(topic).to_owned();
        (TopicReport { topic, name, partitions: Some(seen.partitions), problems, warnings }, seen)
    });
    Ok(reports.collect())
}

async fn describe_settings(
    settings: &Settings,
    observed: &mut [(Topic, Observed)],
) -> Result<(), TopicError> {
    if observed.is_empty() {
        return Ok(());
    }
    let admin = admin(settings)?;
    let names = observed.iter().map(|(topic, _)| ResourceSpecifier::Topic(settings.topic(*topic)));
    let names: Vec<_> = names.collect();
    let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
    let refused = |name: &str, message: String| TopicError::Refused {
        name: name.to_owned(),
        message: format!("its settings cannot be read: {message}: grant DESCRIBE_CONFIGS on it"),
    };
    let results = admin
        .describe_configs(&names, &options)
        .await
        .map_err(|error| not_now(&format!("its settings cannot be read yet: {error}")))?;
    for ((topic, seen), result) in observed.iter_mut().zip(results) {
        let resource = result.map_err(|code| refused(settings.topic(*topic), code.to_string()))?;
        let entries =
            resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
        seen.settings = entries.collect();
    }
    Ok(())
}

/// Problems that keep the daemon from starting, and warnings: each says what was found and the remedy.
pub fn judge(topic: Topic, seen: &Observed, settings: &Settings) -> (Vec<String>, Vec<String>) {
    let name = settings.topic(topic);
    let mut judged = Judged { name, problems: Vec::new(), warnings: Vec::new() };
    judge_policy(topic, seen, &mut judged);
    judge_size(topic, seen, &mut judged);
    judge_retention(topic, seen, settings, &mut judged);
    let wanted = settings.partitions(topic);
    if topic.is_state() && seen.partitions != wanted {
        judged.problem(format_args!(
            "has {} partitions, kafka.state_partitions says {wanted}: the count is fixed from the first run on, correct the config",
            seen.partitions
        ));
    }
    if seen.get("unclean.leader.election.enable") == "true" {
        judged.warning(
            "unclean.leader.election.enable=true may lose committed records: set it to false"
                .to_owned(),
        );
    }
    if seen.replication < 3 {
        judged.warning(format_args!(
            "has {} replica(s): three survive the loss of a broker",
            seen.replication
        ));
    }
    (judged.problems, judged.warnings)
}

struct Judged<'a> {
    name: &'a str,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Judged<'_> {
    fn problem(&mut self, text: impl std::fmt::Display) {
        self.problems.push(format!("{} {text}", self.name));
    }

    fn warning(&mut self, text: impl std::fmt::Display) {
        self.warnings.push(format!("{} {text}", self.name));
    }
}

fn judge_policy(topic: Topic, seen: &Observed, judged: &mut Judged<'_>) {
    let wanted = if topic == Topic::Checkpoints { "compact" } else { "delete" };
    let found = seen.get("cleanup.policy");
    if found != wanted {
        let why = match topic {
            Topic::Checkpoints => "deletion by time would lose checkpoints",
            _ => "compaction would lose records",
        };
        judged.problem(format_args!("has cleanup.policy={found}, it must be exactly {wanted}: {why}. Set it with kafka-configs"));
    }
}

fn judge_size(topic: Topic, seen: &Observed, judged: &mut Judged<'_>) {
    let found = seen.message_bytes_max();
    if found >= MESSAGE_BYTES_MAX {
        return;
    }
    if matches!(topic, Topic::Web | Topic::Git | Topic::Stream) {
        judged.warning(format_args!(
            "has max.message.bytes={found}: larger entries go to the dead-letter topic in pieces, set {MESSAGE_BYTES_MAX}"
        ));
    } else {
        judged.problem(format_args!("has max.message.bytes={found}, {MESSAGE_BYTES_MAX} are needed: set it with kafka-configs"));
    }
}

fn judge_retention(topic: Topic, seen: &Observed, settings: &Settings, judged: &mut Judged<'_>) {
    let found = seen.number("retention.ms").unwrap_or(-1);
    let shorter_than = |wanted: Option<Duration>| {
        found >= 0
            && wanted.is_none_or(|wanted| {
                i128::from(found) < i128::try_from(wanted.as_millis()).unwrap_or(0)
            })
    };
    let by_size = seen.number("retention.bytes").is_some_and(|bytes| bytes >= 0);
    match topic {
        Topic::Checkpoints => {}
        Topic::SeenWeb | Topic::SeenGit => {
            let wanted = seen_retention(topic, settings);
            if shorter_than(wanted) || by_size {
                let wanted_ms = wanted.unwrap_or_default().as_millis();
                judged.problem(format_args!(
                    "forgets seen ids too early, and entries would be sent twice: set retention.ms={wanted_ms} or more, and retention.bytes=-1"
                ));
            }
        }
        Topic::Gaps | Topic::Operations | Topic::LogCheckpoints => {
            if shorter_than(None) || by_size {
                judged.warning("does not keep its records for good: set retention.ms=-1 and retention.bytes=-1");
            }
        }
        Topic::Web | Topic::Git | Topic::Stream | Topic::DeadLetter => {
            if shorter_than(settings.data_retention) {
                judged.warning(format_args!(
                    "has retention.ms={found}, shorter than kafka.data_retention: what the archive has not read by then is lost to it"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_created(topic: Topic, settings: &Settings) -> Observed {
        let mut properties: BTreeMap<String, String> =
            wanted(topic, settings).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        properties.insert("retention.bytes".to_owned(), "-1".to_owned());
        Observed { partitions: settings.partitions(topic), replication: 3, settings: properties }
    }

    fn set(mut seen: Observed, key: &str, value: &str) -> Observed {
        seen.settings.insert(key.to_owned(), value.to_owned());
        seen
    }

    #[test]
    fn brokers_that_are_not_ready_yet_are_waited_for_and_refusals_are_not() {
        let of = |code| crate::kafka::ownership::StartError::from(not_created("t", code, 3));
        for code in [
            RDKafkaErrorCode::InvalidReplicationFactor,
            RDKafkaErrorCode::RequestTimedOut,
            RDKafkaErrorCode::NotController,
        ] {
            assert!(of(code).is_retriable(), "{code}");
        }
        let told = of(RDKafkaErrorCode::InvalidReplicationFactor).to_string();
        assert!(told.contains("with 3 replicas") && told.contains("kafka.replication"), "{told}");
        let refused = of(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert!(!refused.is_retriable() && refused.to_string().contains("grant CREATE"));
    }

    #[test]
    fn what_we_create_is_without_fault() {
        let settings = Settings::default();
        for topic in Topic::ALL {
            assert_eq!(
                judge(topic, &as_created(topic, &settings), &settings),
                (vec![], vec![]),
                "{topic:?}"
            );
        }
    }

    #[test]
    fn each_fault_is_named() {
        let settings = Settings::default();
        let fresh = |topic| as_created(topic, &settings);
        let fewer = |topic| Observed { partitions: 6, ..fresh(topic) };
        let problems = [
            (
                Topic::Checkpoints,
                set(fresh(Topic::Checkpoints), "cleanup.policy", "compact,delete"),
                "exactly compact",
            ),
            (
                Topic::Checkpoints,
                set(fresh(Topic::Checkpoints), "cleanup.policy", "delete"),
                "exactly compact",
            ),
            (Topic::Web, set(fresh(Topic::Web), "cleanup.policy", "compact"), "exactly delete"),
            (
                Topic::SeenWeb,
                set(fresh(Topic::SeenWeb), "cleanup.policy", "compact"),
                "exactly delete",
            ),
            (Topic::Checkpoints, fewer(Topic::Checkpoints), "kafka.state_partitions says 12"),
            (Topic::SeenGit, fewer(Topic::SeenGit), "kafka.state_partitions says 12"),
            (Topic::SeenWeb, set(fresh(Topic::SeenWeb), "retention.ms", "604800000"), "sent twice"),
            (Topic::SeenWeb, set(fresh(Topic::SeenWeb), "retention.bytes", "1000"), "sent twice"),
            (
                Topic::DeadLetter,
                set(fresh(Topic::DeadLetter), "max.message.bytes", "1048588"),
                "8388608 are needed",
            ),
        ];
        for (topic, seen, words) in problems {
            let (problems, _) = judge(topic, &seen, &settings);
            assert!(
                problems.len() == 1 && problems.concat().contains(words),
                "{topic:?} {problems:?}"
            );
        }
        let warnings = [
            (Topic::Web, set(fresh(Topic::Web), "max.message.bytes", "1048588"), "in pieces"),
            (
                Topic::Web,
                set(fresh(Topic::Web), "retention.ms", "3600000"),
                "the archive has not read",
            ),
            (Topic::Gaps, set(fresh(Topic::Gaps), "retention.ms", "3600000"), "for good"),
            (
                Topic::Git,
                set(fresh(Topic::Git), "unclean.leader.election.enable", "true"),
                "unclean",
            ),
            (Topic::Git, Observed { replication: 2, ..fresh(Topic::Git) }, "2 replica(s)"),
        ];
        for (topic, seen, words) in warnings {
            let (problems, warnings) = judge(topic, &seen, &settings);
            assert_eq!(problems, Vec::<String>::new());
            assert!(
                warnings.len() == 1 && warnings.concat().contains(words),
                "{topic:?} {warnings:?}"
            );
        }
    }

    #[test]
    fn replication_follows_the_brokers_and_isr_follows_it() {
        let settings = Settings::default();
        assert_eq!([1, 2, 3, 9].map(|brokers| replication(&settings, brokers)), [1, 2, 3, 3]);
        assert_eq!([1, 2, 3, 5].map(min_insync), [1, 1, 2, 2]);
        let chosen = Settings { replication: Some(2), ..settings };
        assert_eq!(replication(&chosen, 9), 2);
    }
}
