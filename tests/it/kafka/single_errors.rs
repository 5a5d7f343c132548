//! Single errors of a broker, injected by librdkafka's mock cluster. It keeps no transactions: nothing here asserts what
//! became visible, only how an error is told.

use super::*;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};

type Mock = MockCluster<'static, DefaultProducerContext>;

fn mock() -> (Mock, Settings) {
    let mock = MockCluster::new(1).unwrap();
    let settings = Settings {
        transaction_timeout: Duration::from_secs(6),
        ..settings(&mock.bootstrap_servers())
    };
    for topic in Topic::ALL {
        mock.create_topic(settings.topic(topic), settings.partitions(topic), 1).unwrap();
    }
    (mock, settings)
}

async fn open(settings: &Settings) -> Result<Producer, ghauditd::kafka::producer::OpenError> {
    let metrics = Arc::new(Metrics::default());
    Producer::open(Arc::new(settings.clone()), home(settings), metrics, Duration::from_secs(10))
        .await
}

async fn commit(producer: &Producer, settings: &Settings) -> Result<(), SinkError> {
    producer.commit(batch(settings, &mut blank(), 3)).await.map(drop)
}

#[tokio::test]
async fn each_error_of_a_transaction_ends_as_the_table_says() {
    let rows: [(Api, Code, &str); 9] = [
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "content"),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "too large"),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "fenced or aborted"),
        (Api::AddPartitionsToTxn, Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "content"),
        (Api::AddPartitionsToTxn, Code::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, "lost"),
        // fatal within a transaction, whoever says it
        (Api::EndTxn, Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, "fenced"),
        (Api::EndTxn, Code::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, "lost"),
        // these librdkafka tries again by itself, and nobody hears of them
        (Api::EndTxn, Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, "committed"),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, "committed"),
    ];
    for (api, code, expected) in rows {
        let (mock, settings) = mock();
        let producer = open(&settings).await.unwrap();
        commit(&producer, &settings).await.unwrap();
        mock.request_errors(api, &[code]);
        let result = commit(&producer, &settings).await;
        println!("{api:?} {code:?}: {result:?}");
        let fits = match expected {
            "committed" => result.is_ok(),
            "content" => matches!(result, Err(SinkError::Content { too_large: false, .. })),
            "too large" => matches!(result, Err(SinkError::Content { too_large: true, .. })),
            "fenced" => matches!(result, Err(SinkError::Fenced { .. })),
            "lost" => matches!(result, Err(SinkError::Lost { .. })),
            _ => matches!(result, Err(SinkError::Fenced { .. } | SinkError::Aborted { .. })),
        };
        assert!(fits, "{api:?} {code:?}: {result:?}, expected {expected}");
        // whoever lost its producer gets no further; all others go on, if not always with the next try
        let over = |result: &Result<(), SinkError>| {
            matches!(result, Err(SinkError::Fenced { .. } | SinkError::Lost { .. }))
        };
        let next = commit(&producer, &settings).await;
        assert_eq!(over(&next), over(&result), "{api:?} {code:?}: {next:?}");
    }
}

#[tokio::test]
async fn a_refused_transactional_id_is_told_at_once() {
    let (mock, settings) = mock();
    mock.request_errors(
        Api::InitProducerId,
        &[Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED],
    );
    let error = open(&settings).await.unwrap_err();
    assert!(matches!(error, ghauditd::kafka::producer::OpenError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("ACL"), "{error}");
}

#[tokio::test]
async fn a_commit_that_nobody_answers_ends_with_an_unknown_outcome() {
    let (mock, settings) = mock();
    let producer = open(&settings).await.unwrap();
    commit(&producer, &settings).await.unwrap();
    mock.request_errors(Api::EndTxn, &[Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 2000]);
    let begun = Instant::now();
    let error = commit(&producer, &settings).await.unwrap_err();
    println!("after {:?}: {error}", begun.elapsed());
    assert!(matches!(error, SinkError::Lost { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}
