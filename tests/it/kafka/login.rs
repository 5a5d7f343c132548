//! The ways to log in that the default build offers, each up to a committed transaction.

use super::*;
use crate::support::kafka::Tls;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

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

/// A token endpoint, as OIDC wants it: answers every request with an unsigned token of an hour.
async fn token_endpoint() -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let now_s = ghauditd::time::wall_ms() / 1000;
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header = part(r#"{"alg":"none"}"#.to_owned());
    let claims = part(format!(r#"{{"sub":"ghauditd","iat":{now_s},"exp":{}}}"#, now_s + 3600));
    let body = format!(r#"{{"access_token":"{header}.{claims}.","expires_in":3600}}"#);
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        // one for each client of a start; the test asks for what was seen when it has ended
        while let Ok(Ok((mut socket, _))) =
            tokio::time::timeout(Duration::from_secs(5), listener.accept()).await
        {
            requests.push(read_request(&mut socket).await);
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (url, served)
}

/// Head and body, which may come apart: what is closed with bytes unread is reset, and then tried again after seconds.
async fn read_request(socket: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0, "the client has gone");
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return String::from_utf8(request).unwrap();
        }
    }
}

#[tokio::test]
async fn each_way_to_log_in_reaches_a_commit() {
    let broker = Broker::own("kafka-login").await;
    let tls = broker.tls();
    // the broker takes unsigned tokens: this shows that they are fetched and sent, not that the broker is safe
    let modules = "org.apache.kafka.common.security";
    broker
        .restart_with(&format!(
            "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN,OAUTHBEARER\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required \
             user_{}=\"{}\";\n\
             listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={modules}.oauthbearer.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"broker\";\n",
            tls.user, tls.password
        ))
        .await;
    let (url, served) = token_endpoint().await;
    let password = [("sasl.username", tls.user.as_str()), ("sasl.password", &tls.password)];
    let token = [
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.client.id", "ghauditd"),
        ("sasl.oauthbearer.client.secret", "not-a-secret"),
        ("sasl.oauthbearer.token.endpoint.url", url.as_str()),
    ];
    let rows = [
        with_mechanism(&tls, "OAUTHBEARER", &token),
        with_mechanism(&tls, "PLAIN", &password),
        with_mechanism(&tls, "SCRAM-SHA-512", &password),
    ];
    for settings in rows {
        println!("{}", settings.properties["sasl.mechanism"]);
        let faults = ghauditd::kafka::settings::check_properties(&settings);
        assert_eq!(faults, []);
        let mut writer = Writer::start(&settings).await;
        writer.write(2).await;
        drop(writer);
        let plain = Settings { brokers: broker.address().to_owned(), ..settings };
        assert_exactly_once(&plain, 2).await;
    }
    let requests = served.await.unwrap();
    println!("{} tokens were fetched", requests.len());
    assert!(requests[0].starts_with("POST /token "), "{}", requests[0]);
}
