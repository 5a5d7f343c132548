//! What a start refuses, and what it must not refuse.

use super::*;
use crate::support::kafka::kcat_dump;
use ghauditd::kafka::ownership::probe_write;
use ghauditd::kafka::restore::RestoreError;
use ghauditd::kafka::settings::Role;
use ghauditd::kafka::topics::{self, TopicError};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

/// An installation that has committed `records` records.
async fn lived(records: u64) -> Settings {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(records).await;
    settings
}

/// Writes a record past the program.
fn put(settings: &Settings, topic: Topic, partition: i32, key: &str, value: &[u8]) {
    let config = settings.client_config(Role::Scout);
    let producer: BaseProducer = config.create().unwrap();
    let record = BaseRecord::to(settings.topic(topic)).partition(partition).key(key).payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// Deletes a topic and creates it again as it was.
async fn recreate(settings: &Settings, topic: Topic) {
    let broker = Broker::shared();
    let name = settings.topic(topic);
    broker.delete_topics(&[name]).await;
    let wanted = topics::wanted(topic, settings);
    let wanted: Vec<(&str, &str)> = wanted.iter().map(|(k, v)| (*k, v.as_str())).collect();
    // deletion takes a moment to reach every part of the broker
    tokio::time::sleep(Duration::from_millis(500)).await;
    broker.create_topic(name, settings.partitions(topic), &wanted).await;
}

async fn refusal(settings: &Settings) -> StartError {
    let error = acquire(settings, false).await.expect_err("this start must be refused");
    assert!(!error.is_retriable(), "{error}");
    println!("{error}");
    error
}

#[tokio::test]
async fn crash_between_creating_topics_and_genesis_is_a_clean_restart() {
    let settings = shared();
    let created = topics::ensure(Arc::new(settings.clone()), false).await.unwrap();
    assert!(created.iter().all(|topic| topic.created));
    // the crash; and a second one, with only some of the topics created
    Broker::shared()
        .delete_topics(&[settings.topic(Topic::Git), settings.topic(Topic::Gaps)])
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut writer = Writer::start(&settings).await;
    writer.write(2).await;
    assert_exactly_once(&settings, 2).await;
}

#[tokio::test]
async fn crash_in_the_transaction_of_the_genesis_is_a_clean_restart() {
    let settings = shared();
    topics::ensure(Arc::new(settings.clone()), false).await.unwrap();
    // aborted records and markers in every topic, as a crash or `check --connect` leaves them
    probe_write(Arc::new(settings.clone()), Arc::new(Metrics::default())).await.unwrap();
    assert_eq!(kcat_dump(&settings.brokers, settings.topic(Topic::Checkpoints)).await, []);
    let mut writer = Writer::start(&settings).await;
    writer.write(2).await;
    assert_exactly_once(&settings, 2).await;
}

#[tokio::test]
async fn a_probe_fences_no_daemon_and_leaves_no_record() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(1).await;
    probe_write(Arc::new(settings.clone()), Arc::new(Metrics::default())).await.unwrap();
    writer.try_write(1).await.unwrap();
    assert_exactly_once(&settings, 2).await;
    assert_eq!(kcat_dump(&settings.brokers, settings.topic(Topic::Gaps)).await, []);
}

#[tokio::test]
async fn a_deleted_state_topic_is_refused_and_init_goes_on_after_it() {
    let settings = lived(5).await;
    let name = settings.topic(Topic::Checkpoints);
    Broker::shared().delete_topics(&[name]).await;
    let error = refusal(&settings).await;
    assert!(
        matches!(&error, StartError::Topics(TopicError::Missing { missing, .. }) if missing == &[name])
    );
    assert!(error.to_string().contains("a deleted topic is never a first run"));

    let acquired = acquire(&settings, true).await.unwrap();
    assert_eq!(acquired.entities[&entity()].checkpoint.as_ref().unwrap().sequence, 5);
    drop(acquired);
    // --init is needed once, even when nothing was committed in between
    let mut writer = Writer::start(&settings).await;
    assert_eq!(writer.checkpoint.sequence, 5);
    writer.write(1).await;
    assert_exactly_once(&settings, 6).await;
}

#[tokio::test]
async fn a_deleted_data_topic_is_refused() {
    let settings = lived(5).await;
    Broker::shared().delete_topics(&[settings.topic(Topic::Git)]).await;
    let error = refusal(&settings).await;
    assert!(matches!(error, StartError::Topics(TopicError::Missing { .. })));
}

#[tokio::test]
async fn a_topic_that_no_genesis_lists_may_be_created_later() {
    let settings = lived(2).await;
    let mut later = settings.clone();
    let genesis = acquire(&settings, false).await.unwrap().genesis;
    // an older program, which knew no topic for log checkpoints, wrote this genesis
    let log = settings.topic(Topic::LogCheckpoints).to_owned();
    let mut older = genesis.clone();
    older.topics.remove(&log);
    put(&settings, Topic::Checkpoints, 0, "#genesis", &older.encode());
    Broker::shared().delete_topics(&[&log]).await;
    let acquired = acquire(&settings, false).await.unwrap();
    assert_eq!(acquired.genesis, older);
    drop(acquired);

    // a renamed one is not such a topic
    later.topic_names.insert(Topic::Git, unique("renamed"));
    let error = refusal(&later).await;
    assert!(matches!(error, StartError::Topics(TopicError::Missing { .. })));
    Broker::shared()
        .create_topic(later.topic(Topic::Git), 2, &[("max.message.bytes", "8388608")])
        .await;
    let error = refusal(&later).await;
    assert!(matches!(error, StartError::TopicRenamed { .. }));
}

#[tokio::test]
async fn a_recreated_state_topic_is_refused() {
    let settings = lived(5).await;
    recreate(&settings, Topic::Checkpoints).await;
    let error = refusal(&settings).await;
    assert!(
        matches!(&error, StartError::GenesisMissing { holding, .. } if holding == settings.topic(Topic::Web))
    );
    let text = error.to_string();
    assert!(text.contains("never a first run") && text.contains("--init"), "{text}");
}

#[tokio::test]
async fn an_orphan_checkpoint_without_genesis_is_refused() {
    let settings = shared();
    topics::ensure(Arc::new(settings.clone()), false).await.unwrap();
    put(&settings, Topic::Checkpoints, home(&settings), "acme", &blank().encode());
    let error = refusal(&settings).await;
    assert!(matches!(error, StartError::GenesisMissing { .. }));
}

#[tokio::test]
async fn a_wrong_policy_is_refused() {
    let settings = shared();
    let broker = Broker::shared();
    let state = settings.topic(Topic::Checkpoints);
    let policy = [("cleanup.policy", "compact,delete"), ("max.message.bytes", "8388608")];
    broker.create_topic(state, 4, &policy).await;
    broker.create_topic(settings.topic(Topic::SeenGit), 3, &[("retention.ms", "3600000")]).await;
    let error = refusal(&settings).await;
    let StartError::Topics(TopicError::Unusable { problems }) = &error else { panic!("{error}") };
    // all of them at once
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert!(problems[0].contains("cleanup.policy=compact,delete, it must be exactly compact"));
}

#[tokio::test]
async fn a_state_topic_with_another_partition_count_is_refused() {
    let settings = lived(1).await;
    let wrong = Settings { state_partitions: 5, ..settings };
    let error = refusal(&wrong).await;
    assert!(error.to_string().contains("has 4 partitions, kafka.state_partitions says 5"));
}

#[tokio::test]
async fn a_data_topic_recreated_with_fewer_partitions_is_refused() {
    let settings = lived(1).await;
    let smaller = Settings { data_partitions: 1, ..settings.clone() };
    recreate(&smaller, Topic::Web).await;
    let error = refusal(&settings).await;
    assert!(matches!(error, StartError::PartitionsChanged { found: 1, listed: 2, .. }));
}

#[tokio::test]
async fn state_in_another_partition_is_refused() {
    let settings = lived(1).await;
    let wrong = (home(&settings) + 1) % 4;
    put(&settings, Topic::Checkpoints, wrong, "acme", &blank().encode());
    let error = refusal(&settings).await;
    assert!(matches!(error, StartError::Restore(RestoreError::WrongPartition { .. })));
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    for key in ["acme", "#genesis"] {
        let settings = lived(1).await;
        let partition = if key == "acme" { home(&settings) } else { 0 };
        put(&settings, Topic::Checkpoints, partition, key, br#"{"version":99,"new":1}"#);
        let error = refusal(&settings).await;
        assert!(error.to_string().contains("start the newer ghauditd"), "{error}");
    }
}

#[tokio::test]
async fn data_ahead_of_its_checkpoint_is_refused() {
    let settings = lived(9).await;
    let mut old = blank();
    old.sequence = 4;
    put(&settings, Topic::Checkpoints, home(&settings), "acme", &old.encode());
    let error = refusal(&settings).await;
    let StartError::DataAhead { checkpoint: 4, reached, .. } = &error else { panic!("{error}") };
    assert_eq!(reached.sequence, 9);
    let acquired = acquire(&settings, true).await.unwrap();
    assert!(acquired.warnings.iter().any(|warning| warning.contains("because of --init")));
    assert_eq!(acquired.entities[&entity()].checkpoint.as_ref().unwrap().sequence, 9);
}

#[tokio::test]
async fn an_entity_out_of_the_config_is_told() {
    let settings = lived(1).await;
    let other = EntityName::try_from("other".to_owned()).unwrap();
    let partitions = BTreeSet::from([other.partition(4)]);
    let metrics = Arc::new(Metrics::default());
    let acquired =
        Ownership::acquire(Arc::new(settings), partitions, &[other], false, metrics).await.unwrap();
    assert!(acquired.warnings.iter().any(|w| w.contains("entity acme has state (sequence 1)")));
}

#[tokio::test]
async fn two_first_runs_at_once_make_one_genesis() {
    let settings = shared();
    let (one, two) = tokio::join!(acquire(&settings, false), acquire(&settings, false));
    for result in [&one, &two] {
        if let Err(error) = result {
            assert!(error.is_retriable(), "{error}");
        }
    }
    drop((one, two));
    let mut writer = Writer::start(&settings).await;
    writer.write(1).await;
    let records = kcat_dump(&settings.brokers, settings.topic(Topic::Checkpoints)).await;
    let geneses =
        records.iter().filter(|record| record.key.as_deref() == Some(b"#genesis")).count();
    assert_eq!(geneses, 1);
}
