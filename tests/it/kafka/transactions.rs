//! Commits, restarts, fences.

use super::*;
use crate::support::kafka::{kcat_dump, kcat_dump_uncommitted};
use ghauditd::audit::checkpoint::{GENESIS_KEY, owner_key};
use ghauditd::kafka::restore::read_checkpoints;
use ghauditd::kafka::settings::{RECORD_BYTES_MAX, Role};
use rdkafka::producer::{BaseProducer, Producer as _};

#[tokio::test]
async fn a_first_run_leaves_topics_genesis_and_owner() {
    let settings = shared();
    let begun = Instant::now();
    let acquired = acquire(&settings, false).await.unwrap();
    println!("first run took {:?}", begun.elapsed());
    assert!(acquired.topics.iter().all(|topic| topic.created));
    assert_eq!(acquired.genesis.topics.len(), Topic::ALL.len());
    assert_eq!(acquired.entities, BTreeMap::new());
    assert_eq!(acquired.producers.keys().collect::<Vec<_>>(), [&home(&settings)]);

    let state = read_checkpoints(Arc::new(settings.clone())).await.unwrap();
    assert_eq!(state.genesis.as_ref(), Some(&acquired.genesis));
    assert_eq!(state.owners[&home(&settings)].run, acquired.ownership.run());
    let records = kcat_dump(&settings.brokers, settings.topic(Topic::Checkpoints)).await;
    let genesis =
        records.iter().find(|r| r.key.as_deref() == Some(GENESIS_KEY.as_bytes())).unwrap();
    let owner = records.iter().find(|r| r.key.as_deref() == Some(owner_key(0).as_bytes())).unwrap();
    assert_eq!((genesis.partition, owner.partition), (0, 0));
    assert_eq!(owner.offset, genesis.offset + 1, "one transaction: no marker between them");

    drop(acquired);
    let begun = Instant::now();
    let again = acquire(&settings, false).await.unwrap();
    println!("second run took {:?}", begun.elapsed());
    assert!(again.topics.iter().all(|topic| !topic.created));
    assert_eq!(Some(again.genesis), state.genesis);
}

#[tokio::test]
async fn a_batch_is_committed_as_it_was_given() {
    let settings = shared();
    let mut acquired = acquire(&settings, false).await.unwrap();
    let producer = acquired.producers.remove(&home(&settings)).unwrap();
    let mut checkpoint = blank();
    let mut given = batch(&settings, &mut checkpoint, 3);
    let hostile: Vec<u8> = (0..=255).collect();
    given.records[1].value = Some(Bytes::from(hostile.clone()));
    given.records.push(Record {
        topic: Topic::SeenWeb,
        partition: Some(home(&settings)),
        key: Bytes::from("acme"),
        value: Some(Bytes::from_static(b"seen")),
        headers: vec![],
    });
    let committed = producer.commit(given).await.unwrap();
    let next: BTreeMap<_, _> = committed.next_offsets.into_iter().collect();
    assert_eq!(next.keys().collect::<Vec<_>>(), [&Topic::Checkpoints, &Topic::SeenWeb]);
    assert_eq!(next[&Topic::SeenWeb], 1);

    let records = kcat_dump(&settings.brokers, settings.topic(Topic::Web)).await;
    assert_eq!(records.len(), 3);
    let second = records.iter().find(|record| record.header(header::SEQ) == Some("2")).unwrap();
    assert_eq!(second.value.as_deref(), Some(hostile.as_slice()));
    assert_eq!(second.headers, format!("{}=acme,{}=2", header::ENTITY, header::SEQ).into_bytes());
    let seen = kcat_dump(&settings.brokers, settings.topic(Topic::SeenWeb)).await;
    assert_eq!((seen.len(), seen[0].partition, seen[0].offset), (1, home(&settings), 0));
    let checkpoints = kcat_dump(&settings.brokers, settings.topic(Topic::Checkpoints)).await;
    let last = checkpoints.iter().rfind(|record| record.key.as_deref() == Some(b"acme")).unwrap();
    assert_eq!((last.partition, last.offset + 1), (home(&settings), next[&Topic::Checkpoints]));
}

#[tokio::test]
async fn commits_are_fast_and_the_thread_sleeps_between_them() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    for _ in 0..20 {
        writer.write(100).await;
    }
    let mut times = Vec::new();
    let cpu = cpu_ms();
    for _ in 0..100 {
        let begun = Instant::now();
        writer.write(100).await;
        times.push(begun.elapsed());
    }
    let cpu = cpu_ms() - cpu;
    times.sort_unstable();
    println!(
        "commit of 100 records: p50 {:?}, p90 {:?}, {cpu} ms CPU for 100",
        times[50], times[90]
    );
    // a commit that waits for a poll of librdkafka's takes 100 ms
    assert!(times[50] < Duration::from_millis(60), "{:?}", times[50]);
    assert_exactly_once(&settings, 12_000).await;
}

/// CPU time of this process, milliseconds.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10
}

#[tokio::test]
async fn what_is_too_large_is_the_contents_fault_and_leaves_nothing() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(1).await;
    let mut next = writer.checkpoint.clone();
    let mut large = batch(&settings, &mut next, 2);
    // refused before a transaction is spent on it
    large.records[1].value = Some(Bytes::from(vec![b' '; 9 << 20]));
    let error = writer.producer.commit(large.clone()).await.unwrap_err();
    assert!(
        matches!(error, SinkError::Content { topic: Some(Topic::Web), too_large: true, .. }),
        "{error}"
    );
    // the largest that is sent whole, incompressible
    let mut noise = vec![0; RECORD_BYTES_MAX];
    rand::fill(noise.as_mut_slice());
    large.records[1].value = Some(Bytes::from(noise));
    writer.producer.commit(large).await.unwrap();
    writer.checkpoint = next;
    writer.write(1).await;
    assert_exactly_once(&settings, 4).await;
}

#[tokio::test]
async fn a_record_that_the_broker_refuses_is_the_contents_fault_and_leaves_nothing() {
    let settings = shared();
    let broker = Broker::shared();
    // a topic of someone else, who allows less
    broker.create_topic(settings.topic(Topic::Web), 2, &[("max.message.bytes", "2000")]).await;
    let acquired = acquire(&settings, false).await.unwrap();
    let web = acquired.topics.iter().find(|topic| topic.topic == Topic::Web).unwrap();
    assert_eq!(web.message_bytes_max, 2000);
    assert!(acquired.warnings.iter().any(|warning| warning.contains("in pieces")));
    let mut writer = Writer::of(&settings, acquired);
    writer.write(1).await;
    let mut next = writer.checkpoint.clone();
    let mut large = batch(&settings, &mut next, 2);
    let mut noise = vec![0; 10_000];
    rand::fill(noise.as_mut_slice());
    large.records[1].value = Some(Bytes::from(noise));
    let error = writer.producer.commit(large).await.unwrap_err();
    assert!(
        matches!(error, SinkError::Content { topic: Some(Topic::Web), too_large: true, .. }),
        "{error}"
    );
    writer.write(2).await;
    assert_exactly_once(&settings, 3).await;
    assert!(
        kcat_dump_uncommitted(&settings.brokers, settings.topic(Topic::Checkpoints)).await.len()
            > 3
    );
}

#[tokio::test]
async fn a_second_instance_fences_the_first_which_gives_up() {
    let settings = shared();
    let mut first = Writer::start(&settings).await;
    first.write(3).await;
    let mut second = Writer::start(&settings).await;
    assert_eq!(second.checkpoint.sequence, 3);
    let error = first.try_write(5).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    let error = first.ownership.reopen(home(&settings)).await.unwrap_err();
    assert!(matches!(error, StartError::OwnedByOther { .. }), "{error}");
    assert!(!error.is_retriable());
    assert!(error.to_string().contains(&format!("process {} on ", std::process::id())), "{error}");
    // whoever gave up has not disturbed the other
    second.try_write(2).await.unwrap();
    // and the producer that was fenced takes no more
    let error = first.try_write(1).await.unwrap_err();
    assert!(matches!(error, SinkError::Lost { .. }), "{error}");
    assert_exactly_once(&settings, 5).await;
}

#[tokio::test]
async fn fenced_by_nobody_else_is_taken_back() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(3).await;
    // what a broker does that ended our transaction while it was away: our epoch is old, and no other owner is there
    let mut config = settings.client_config(Role::Producer { partition: home(&settings) });
    config.set("message.timeout.ms", "10000");
    let other: BaseProducer = config.create().unwrap();
    other.init_transactions(Duration::from_secs(20)).unwrap();
    let error = writer.try_write(5).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    let begun = Instant::now();
    writer.recover().await;
    println!("recovered in {:?}", begun.elapsed());
    assert_eq!(writer.checkpoint.sequence, 3);
    writer.write(5).await;
    assert_exactly_once(&settings, 8).await;
}

/// Row "failed and not written" of the fault table: the process ends in the middle of a transaction.
#[tokio::test]
async fn transaction_failed_and_not_written_then_restart() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(3).await;
    // what a SIGKILL leaves: records delivered, transaction open, nobody to end it
    let mut next = writer.checkpoint.clone();
    let unfinished = batch(&settings, &mut next, 5);
    drop(writer);
    let dead = leave_open(&settings, &unfinished);
    let mut writer = Writer::start(&settings).await;
    assert_eq!(writer.checkpoint.sequence, 3);
    writer.write(5).await;
    drop(dead);
    assert_exactly_once(&settings, 8).await;
    let all = kcat_dump_uncommitted(&settings.brokers, settings.topic(Topic::Web)).await;
    assert_eq!(all.len(), 13, "the aborted ones are still in the log, and nobody sees them");
}

/// Sends a batch within a transaction that is neither committed nor aborted.
fn leave_open(settings: &Settings, batch: &Batch) -> BaseProducer {
    use rdkafka::message::{Header, OwnedHeaders};
    let config = settings.client_config(Role::Producer { partition: home(settings) });
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(Duration::from_secs(20)).unwrap();
    producer.begin_transaction().unwrap();
    for record in &batch.records {
        let mut message = rdkafka::producer::BaseRecord::to(settings.topic(record.topic))
            .key(record.key.as_ref())
            .payload(record.value.as_deref().unwrap());
        message.partition = record.partition;
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_ref()) })
        });
        producer.send(message.headers(headers)).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    producer
}

/// Row "failed but written": the commit went through, its answer never came.
#[tokio::test]
async fn transaction_failed_but_written_then_restart() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(3).await;
    let before = writer.checkpoint.clone();
    writer.try_write(5).await.unwrap();
    // as if the answer had been lost: the caller knows nothing, and asks the checkpoint
    writer.checkpoint = before;
    writer.recover().await;
    assert_eq!(writer.checkpoint.sequence, 8);
    writer.write(2).await;
    // the same over a restart
    writer.try_write(5).await.unwrap();
    drop(writer);
    let mut writer = Writer::start(&settings).await;
    assert_eq!(writer.checkpoint.sequence, 15);
    writer.write(1).await;
    assert_exactly_once(&settings, 16).await;
}

/// Row "written twice": a writer that was thought dead commits what its successor has committed already.
#[tokio::test]
async fn transaction_written_twice_then_restart() {
    let settings = shared();
    let mut old = Writer::start(&settings).await;
    old.write(3).await;
    let mut new = Writer::start(&settings).await;
    new.write(5).await;
    // the same five records again
    let error = old.try_write(5).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    drop(old);
    drop(new);
    let mut again = Writer::start(&settings).await;
    assert_eq!(again.checkpoint.sequence, 8);
    again.write(1).await;
    assert_exactly_once(&settings, 9).await;
}

#[tokio::test]
async fn a_cancelled_commit_still_ends() {
    let settings = shared();
    let mut writer = Writer::start(&settings).await;
    writer.write(1).await;
    let mut next = writer.checkpoint.clone();
    let given = batch(&settings, &mut next, 4);
    let cancelled =
        tokio::time::timeout(Duration::from_micros(200), writer.producer.commit(given)).await;
    println!("cancelled: {}", cancelled.is_err());
    writer.recover().await;
    // it was taken, or it never reached the thread; a half is not among the outcomes
    assert!([1, 5].contains(&writer.checkpoint.sequence), "{}", writer.checkpoint.sequence);
    let last = writer.checkpoint.sequence;
    assert_exactly_once(&settings, last).await;
}
