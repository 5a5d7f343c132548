//! Who is refused and what is said of it; tokens, proxies and certificates.

use super::*;

/// One row of the table of refusals.
struct Refusal {
    status: &'static str,
    headers: &'static str,
    body: &'static str,
    label: &'static str,
    part: &'static str,
}

const fn refusal(
    status: &'static str,
    headers: &'static str,
    body: &'static str,
    label: &'static str,
    part: &'static str,
) -> Refusal {
    Refusal { status, headers, body, label, part }
}

const REFUSALS: &[Refusal] = &[
    refusal(
        "401 Unauthorized",
        "",
        r#"{"message":"Bad credentials"}"#,
        "unauthorized",
        "Bad credentials",
    ),
    refusal(
        "403 Forbidden",
        "x-ratelimit-remaining: 9\r\n",
        r#"{"message":"Must have admin rights to Repository."}"#,
        "forbidden",
        "scope read:audit_log",
    ),
    refusal(
        "403 Forbidden",
        "x-github-sso: required; url=https://github.com/orgs/o/sso?authorization_request=A\r\n",
        "",
        "sso",
        "Configure SSO",
    ),
    refusal("404 Not Found", "", r#"{"message":"Not Found"}"#, "not_found", "`slug`"),
    refusal("410 Gone", "", "", "gone", "2022-11-28"),
    refusal(
        "403 Forbidden",
        "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1767323105\r\ndate: Fri, 02 Jan 2026 03:04:05 GMT\r\n",
        r#"{"message":"API rate limit exceeded"}"#,
        "primary",
        "retry in 61 s",
    ),
    refusal(
        "429 Too Many Requests",
        "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1767323105\r\ndate: Fri, 02 Jan 2026 03:04:05 GMT\r\n",
        "",
        "primary",
        "retry in 61 s",
    ),
    refusal(
        "403 Forbidden",
        "",
        r#"{"message":"no","documentation_url":"https://docs.github.com/x#about-secondary-rate-limits"}"#,
        "secondary",
        "retry in 60 s",
    ),
    refusal("429 Too Many Requests", "", "<html>", "secondary", "retry in 60 s"),
    refusal("429 Too Many Requests", "retry-after: 30\r\n", "", "retry_after", "retry in 30 s"),
    refusal("503 Service Unavailable", "retry-after: 30\r\n", "", "retry_after", "retry in 30 s"),
    refusal(
        "422 Unprocessable Entity",
        "",
        r#"{"message":"Invalid cursor"}"#,
        "refused",
        "Invalid cursor",
    ),
    refusal("400 Bad Request", "", "", "refused", "400"),
    refusal("500 Internal Server Error", "", "<html>oops</html>", "server_error", "500"),
    refusal("502 Bad Gateway", "", r#"{"message":"Server Error"}"#, "server_error", "Server Error"),
    refusal("504 Gateway Timeout", "", "", "server_error", "504"),
];

#[tokio::test]
async fn refusals_are_told_apart() {
    for row in REFUSALS {
        let server = Server::answering(answer(row.status, row.headers, row.body.as_bytes()));
        let error = org(&server).fetch().await.unwrap_err();
        assert_eq!(error.label(), row.label, "{}: {error}", row.status);
        assert!(error.to_string().contains(row.part), "{}: {error}", row.status);
        assert_eq!(server.requests().len(), 1, "{}: asked once", row.status);
        if let SourceError::Denied { message, .. } = &error {
            assert!(message.contains("octo-slug") && message.contains("octo-"), "{message}");
        }
    }
}

#[tokio::test]
async fn enterprise_is_told_its_own_scope() {
    let server = Server::answering(answer("403 Forbidden", "", b""));
    let rig = rig(&settings(&server.base()), EntityKind::Enterprise);
    let error = rig.fetch().await.unwrap_err().to_string();
    assert!(error.contains("own the enterprise") && error.contains("admin:enterprise"), "{error}");
    assert!(server.requests()[0].starts_with("GET /enterprises/octo-slug/audit-log?"));
}

#[tokio::test]
async fn secondary_limits_in_a_row_make_longer_waits() {
    let server = Server::start(|count, _| {
        let answer =
            if count == 3 { ok("", ENTRY) } else { answer("429 Too Many Requests", "", b"") };
        vec![Step::Send(answer)]
    });
    let rig = org(&server);
    let mut waits = Vec::new();
    for _ in 0..5 {
        if let Err(SourceError::RateLimited { wait, .. }) = rig.fetch().await {
            waits.push(wait.as_secs());
        }
    }
    assert_eq!(waits, [60, 120, 240, 60]);
}

#[tokio::test]
async fn token_that_was_exchanged_is_read_again_on_401() {
    let server = Server::start(|_, request| {
        let answer = if request.contains("Bearer new-token\r\n") {
            ok("", ENTRY)
        } else {
            answer("401 Unauthorized", "", b"")
        };
        vec![Step::Send(answer)]
    });
    let rig = org(&server);
    let error = rig.fetch().await.unwrap_err();
    assert_eq!(error.label(), "unauthorized");
    assert_eq!(server.requests().len(), 1, "the same token is not tried again");
    assert!(error.to_string().contains(rig.token_file.to_str().unwrap()), "{error}");
    // the same length, the same place: only the 401 or the time of the change can tell
    overwrite(&rig.token_file, "new-token");
    assert_eq!(rig.fetch().await.unwrap().entries.len(), 1);
    assert_eq!(server.requests().len(), 2, "asked once more, with the new token");
    std::fs::remove_file(&rig.token_file).unwrap();
    let error = rig.fetch().await.unwrap_err();
    assert_eq!(error.label(), "unauthorized");
    assert_eq!(server.requests().len(), 2, "nothing is asked without a token");
}

/// Which credential a request is made with is the caller's choice, and what is said of it is about that one.
#[tokio::test]
async fn each_credential_is_its_own() {
    let server = Server::start(|_, request| {
        vec![Step::Send(match request.split("Bearer ").nth(1).and_then(|it| it.lines().next()) {
            Some("good") => ok("", ENTRY),
            Some("busy") => answer("429 Too Many Requests", "", b""),
            _ => answer("401 Unauthorized", "", b""),
        })]
    });
    let dir = tempfile::tempdir().unwrap();
    let names = ["good", "busy", "gone"];
    let credentials = names.map(|name| {
        overwrite(&dir.path().join(name), name);
        credential(name, Access::Token(SecretSource::File(dir.path().join(name))))
    });
    let entity = EntitySettings {
        credentials: credentials.to_vec(),
        ..entity(EntityKind::Organization, Vec::new())
    };
    let client =
        Client::new(&settings(&server.base()), &entity, Arc::new(Metrics::default())).unwrap();
    assert_eq!(client.credentials(), names.map(CredentialId::new));
    let fetch = async |name| client.fetch(request(None), None, &CredentialId::new(name)).await;
    let waits = async |name| match fetch(name).await {
        Err(SourceError::RateLimited { wait, .. }) => wait.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(waits("busy").await, 60);
    assert_eq!(fetch("good").await.unwrap().entries.len(), 1);
    assert_eq!(waits("busy").await, 120, "another one's success does not end its limit");
    let error = fetch("gone").await.unwrap_err().to_string();
    assert!(error.contains("credential gone") && error.contains("/gone"), "{error}");
    let error = fetch("other").await.unwrap_err();
    assert!(matches!(error, SourceError::Denied { .. }), "{error}");
    assert_eq!(server.requests().len(), 4, "nothing is asked without a credential");

    let generations = || names.map(|name| client.credential_generation(&CredentialId::new(name)));
    let before = generations();
    overwrite(&dir.path().join("gone"), "good");
    let after = generations();
    assert_eq!(before[..2], after[..2]);
    assert_ne!(before[2], after[2]);
    assert_eq!(fetch("gone").await.unwrap().entries.len(), 1);
}

fn overwrite(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn token_that_a_server_echoes_is_not_passed_on() {
    let server = Server::start(|_, request| {
        let token = request.split("Bearer ").nth(1).unwrap().split("\r\n").next().unwrap();
        vec![Step::Send(answer(
            "400 Bad",
            "",
            format!(r#"{{"message":"bad {token}"}}"#).as_bytes(),
        ))]
    });
    let error = org(&server).fetch().await.unwrap_err().to_string();
    assert!(error.contains("bad [secret]"), "{error}");
}

#[tokio::test]
async fn proxy_password_is_not_shown() {
    let proxy = Server::answering(
        "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
    );
    let server = ServerSettings {
        proxy: Some(Url::parse(&format!("http://user:hunter22@{}/", proxy.address)).unwrap()),
        ..settings("https://github.invalid/")
    };
    let rig = rig(&server, EntityKind::Organization);
    let (reason, message) = rig.fails().await;
    assert_eq!(reason, "connection", "{message}");
    assert!(!message.contains("hunter22"), "{message}");
    let request = &proxy.requests()[0];
    assert!(request.starts_with("CONNECT github.invalid:443 "), "{request}");
    assert!(!request.contains(&rig.token), "the proxy does not see the token");
}

/// A TLS server with a certificate authority of its own, whose file it names.
fn tls_server(dir: &Path) -> (SocketAddr, PathBuf) {
    ghauditd::github::client::install_crypto_provider();
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = dir.join("ca.pem");
    std::fs::write(&path, signed.cert.pem()).unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && tls.read_exact(&mut byte).is_ok() {
                request.push(byte[0]);
            }
            if tls.write_all(&ok("", ENTRY)).is_ok() {
                tls.conn.send_close_notify();
                drop(tls.flush());
            }
        }
    });
    (address, path)
}

#[tokio::test]
async fn certificate_authorities_are_the_systems_and_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (address, ca_file) = tls_server(dir.path());
    let base = format!("https://localhost:{}/", address.port());
    let (reason, message) = rig(&settings(&base), EntityKind::Organization).fails().await;
    assert_eq!(reason, "tls", "{message}");
    let trusted = ServerSettings { ca_file: Some(ca_file), ..settings(&base) };
    assert_eq!(rig(&trusted, EntityKind::Organization).fetch().await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn https_against_plain_http_is_a_tls_error() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 4096];
            drop(stream.read(&mut bytes));
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let base = format!("https://localhost:{port}/");
    let (reason, message) = rig(&settings(&base), EntityKind::Organization).fails().await;
    assert_eq!(reason, "tls", "{message}");
}

#[test]
fn bad_authorities_are_refused_before_the_first_socket() {
    let dir = tempfile::tempdir().unwrap();
    let none = credential("octo", Access::Token(SecretSource::File("/nonexistent".into())));
    let entity = entity(EntityKind::Organization, vec![none]);
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here").unwrap();
    for path in [dir.path().join("missing.pem"), empty] {
        let server =
            ServerSettings { ca_file: Some(path.clone()), ..settings("https://localhost/") };
        let error = Client::new(&server, &entity, Arc::new(Metrics::default())).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let server = settings("http://ghe.example/api/v3/");
    let error = Client::new(&server, &entity, Arc::new(Metrics::default())).unwrap_err();
    assert!(error.to_string().contains("use https"), "{error}");
}
