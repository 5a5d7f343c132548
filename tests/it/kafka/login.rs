//! The ways to log in that the default build offers, each up to a committed transaction.

use super::*;
use crate::support::kafka::Tls;

/// An installation behind TLS and SCRAM-SHA-512.
pub(super) fn secured(tls: &Tls) -> Settings {
    let password = [("sasl.username", tls.user.as_str()), ("sasl.password", &tls.password)];
    with_mechanism(tls, "SCRAM-SHA-512", &password)
}

fn with_mechanism(tls: &Tls, mechanism: &str, more: &[(&str, &str)]) -> Settings {
    let properties = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", mechanism),
        ("ssl.ca.location", tls.ca.to_str().unwrap()),
    ];
    let properties = properties.iter().chain(more);
    let properties = properties.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Settings { properties: properties.collect(), ..settings(&tls.address) }
}

#[tokio::test]
async fn each_way_to_log_in_reaches_a_commit() {
    let broker = Broker::own("kafka-login").await;
    let tls = broker.tls();
    let modules = "org.apache.kafka.common.security";
    broker
        .restart_with(&format!(
            "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required \
             user_{}=\"{}\";\n",
            tls.user, tls.password
        ))
        .await;
    let password = [("sasl.username", tls.user.as_str()), ("sasl.password", &tls.password)];
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let settings = with_mechanism(&tls, mechanism, &password);
        assert_eq!(ghauditd::kafka::settings::check_properties(&settings), []);
        let mut writer = Writer::start(&settings).await;
        writer.write(2).await;
        drop(writer);
        let plain = Settings { brokers: broker.address().to_owned(), ..settings };
        assert_exactly_once(&plain, 2).await;
    }
}
