//! Brokers that are killed, frozen, away, or not reached at all.

use super::*;
use crate::support::kafka::Tls;
use ghauditd::kafka::topics;

#[tokio::test]
async fn a_broker_killed_in_the_middle_costs_nothing_but_time() {
    let broker = Broker::own("kafka-kill").await;
    let settings = settings(broker.address());
    let mut writer = Writer::start(&settings).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let killer = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            broker.restart().await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(stop);
    };
    let writing = async {
        while matches!(stopped.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
            writer.write(50).await;
        }
    };
    tokio::join!(killer, writing);
    println!("{:?}, longest {:?}", writer.outcomes, writer.longest_commit);
    let last = writer.checkpoint.sequence;
    assert!(last > 100, "{last}");
    assert_exactly_once(&settings, last).await;
}

#[tokio::test]
async fn a_broker_away_for_long_costs_nothing_but_time() {
    let away = if crate::support::torture() { 120 } else { 40 };
    let broker = Broker::own("kafka-away").await;
    // shorter than the time away, so that every bound is passed
    let settings =
        Settings { transaction_timeout: Duration::from_secs(15), ..settings(broker.address()) };
    let mut writer = Writer::start(&settings).await;
    writer.write(10).await;
    let absence = async {
        broker.kill().await;
        tokio::time::sleep(Duration::from_secs(away)).await;
        broker.start().await;
    };
    let writing = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        writer.write(10).await;
        writer.write(10).await;
    };
    tokio::join!(absence, writing);
    println!("{:?}, longest {:?}", writer.outcomes, writer.longest_commit);
    assert_exactly_once(&settings, 30).await;
}

/// Freezes the broker at any moment of a commit, until the producer gives up: written or not, the checkpoint knows.
#[tokio::test]
async fn a_commit_without_an_answer_is_decided_by_the_checkpoint() {
    let broker = Broker::own("kafka-freeze").await;
    let settings =
        Settings { transaction_timeout: Duration::from_secs(4), ..settings(broker.address()) };
    let mut writer = Writer::start(&settings).await;
    for _ in 0..10 {
        writer.write(20).await;
    }
    let tries = if crate::support::torture() { 30 } else { 4 };
    let (mut written, mut not_written) = (0, 0);
    for number in 0..tries {
        let begun = Instant::now();
        writer.write(20).await;
        let usual = begun.elapsed();
        let before = writer.checkpoint.sequence;
        // late in the commit, where it is decided
        let moment = usual.mul_f64(rand::random_range(0.3..1.1));
        let freeze = async {
            // a sleep of the runtime is a whole millisecond at least
            tokio::task::spawn_blocking(move || std::thread::sleep(moment)).await.unwrap();
            broker.signal(rustix::process::Signal::STOP);
        };
        let (result, ()) = tokio::join!(writer.try_write(20), freeze);
        broker.signal(rustix::process::Signal::CONT);
        if let Err(error) = result {
            println!("{number}, frozen after {moment:?} of {usual:?}: {error}");
            writer.recover().await;
            match writer.checkpoint.sequence - before {
                0 => not_written += 1,
                20 => written += 1,
                other => panic!("half a transaction: {other}"),
            }
        }
    }
    println!("without an answer: {written} written, {not_written} not; {:?}", writer.outcomes);
    let last = writer.checkpoint.sequence;
    assert_exactly_once(&settings, last).await;
}

fn secured(tls: &Tls) -> Settings {
    let properties = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", &tls.user),
        ("sasl.password", &tls.password),
        ("ssl.ca.location", tls.ca.to_str().unwrap()),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Settings { properties: properties.into(), ..settings(&tls.address) }
}

#[tokio::test]
async fn each_kind_of_connection_trouble_says_what_it_is() {
    let broker = Broker::own("kafka-tls").await;
    let good = secured(&broker.tls());
    let with = |key: &str, value: &str| {
        let mut settings = good.clone();
        settings.properties.insert(key.to_owned(), value.to_owned());
        settings
    };
    let mut unknown_authority = good.clone();
    unknown_authority.properties.remove("ssl.ca.location");
    let rows = [
        ("wrong password", with("sasl.password", "wrong"), "login refused"),
        ("wrong mechanism", with("sasl.mechanism", "PLAIN"), "login refused"),
        ("unknown authority", unknown_authority, "certificate is not trusted"),
        ("plaintext against TLS", settings(&good.brokers), "the port may expect TLS"),
        (
            "TLS against plaintext",
            Settings { brokers: broker.address().to_owned(), ..good.clone() },
            "kafka.brokers names a TLS port",
        ),
        ("dead port", settings("127.0.0.1:9"), "nothing listens there"),
        ("unknown host", settings("no-such-host.invalid:9092"), "has no address"),
    ];
    for (what, settings, words) in rows {
        let begun = Instant::now();
        let error =
            topics::ensure(Arc::new(settings.clone()), false).await.unwrap_err().to_string();
        println!("{what} after {:?}: {error}", begun.elapsed());
        assert!(error.contains(words), "{what}: {error}");
        assert!(!error.contains(&good.properties["sasl.password"]), "{what}");
        let opened = Producer::open(
            Arc::new(settings),
            0,
            Arc::new(Metrics::default()),
            Duration::from_secs(6),
        );
        let error = opened.await.unwrap_err().to_string();
        println!("{what}, producer: {error}");
        assert!(error.contains(words), "{what}: {error}");
    }
    let mut writer = Writer::start(&good).await;
    writer.write(3).await;
    assert_exactly_once(&Settings { brokers: broker.address().to_owned(), ..good }, 3).await;
}
