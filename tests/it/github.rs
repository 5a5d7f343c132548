//! The REST client against hostile servers: real sockets, one test a row.

mod access;
mod app;

use crate::support::{secret_token, unique};
use ghauditd::audit::slice::Query;
use ghauditd::audit::{Cursor, EntityKind, EntityName, Lane};
use ghauditd::github::client::Client;
use ghauditd::github::{
    Access, CredentialId, CredentialSettings, EntitySettings, Next, Page, PageRequest,
    SecretSource, ServerSettings, Source as _, SourceError,
};
use ghauditd::metrics::Metrics;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use url::Url;

/// What a server does with one connection, in this order; then it closes it.
enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// The same bytes again and again, with a pause between them, until the client goes away.
    Drip(Vec<u8>, Duration),
}

/// A server on loopback that answers each connection's one request by a plan.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

/// How much of a request is read: closing a socket with unread bytes resets the connection.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    All,
    FirstBytes,
}

impl Server {
    fn start(plan: impl Fn(usize, &str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start_reading(Reads::All, plan)
    }

    fn start_reading(
        reads: Reads,
        plan: impl Fn(usize, &str) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (plan, seen) = (Arc::new(plan), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (plan, seen) = (Arc::clone(&plan), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream.unwrap(), reads, &seen, &*plan));
            }
        });
        Self { address, requests }
    }

    /// Always the same bytes.
    fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, _| vec![Step::Send(answer.clone())])
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn base(&self) -> String {
        format!("http://{}/", self.address)
    }
}

fn serve(
    mut stream: TcpStream,
    reads: Reads,
    seen: &Mutex<Vec<String>>,
    plan: &dyn Fn(usize, &str) -> Vec<Step>,
) {
    let mut request = Vec::new();
    let mut bytes = [0; 16];
    while !request.ends_with(b"\r\n\r\n") {
        let room = if reads == Reads::All { 1 } else { bytes.len() };
        match stream.read(&mut bytes[..room]) {
            Ok(0) | Err(_) => return,
            Ok(len) => request.extend_from_slice(&bytes[..len]),
        }
        if reads == Reads::FirstBytes {
            break;
        }
    }
    let request = String::from_utf8(request).unwrap();
    let count = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    for step in plan(count, &request) {
        match step {
            // a client that has gone away is what many of these tests are about
            Step::Send(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Step::Wait(time) => std::thread::sleep(time),
            Step::Drip(bytes, pause) => {
                while stream.write_all(&bytes).is_ok() {
                    std::thread::sleep(pause);
                }
            }
        }
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    answer("200 OK", headers, body)
}

const ENTRY: &[u8] = br#"[{"_document_id":"a","@timestamp":1767323045000,"action":"repo.create"}]"#;

/// A token file and a client that reads it.
struct Rig {
    _dir: tempfile::TempDir,
    token_file: PathBuf,
    token: String,
    client: Client,
}

fn settings(base: &str) -> ServerSettings {
    ServerSettings {
        name: "hostile".into(),
        base_url: Url::parse(base).unwrap(),
        api_version: "2022-11-28".into(),
        ca_file: None,
        proxy: None,
        gzip: true,
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(5),
        between_bytes_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(20),
        header_bytes_max: 16 * 1024,
        body_bytes_max: 1024 * 1024,
    }
}

fn credential(name: &str, access: Access) -> CredentialSettings {
    CredentialSettings { id: CredentialId::new(name), server: "hostile".into(), access }
}

fn entity(kind: EntityKind, credentials: Vec<CredentialSettings>) -> EntitySettings {
    EntitySettings {
        name: EntityName::try_from(unique("octo")).unwrap(),
        kind,
        slug: "octo-slug".into(),
        server: "hostile".into(),
        credentials,
        lanes: Vec::new(),
    }
}

fn request(cursor: Option<&str>) -> PageRequest {
    PageRequest {
        lane: Lane::Web,
        query: Query { from_s: 1_767_323_045, to_s: None },
        cursor: cursor.and_then(|cursor| Cursor::new(cursor.to_owned())),
        per_page: 100,
    }
}

fn rig(server: &ServerSettings, kind: EntityKind) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    let token = secret_token();
    std::fs::write(&token_file, &token).unwrap();
    let source = SecretSource::File(token_file.clone());
    let entity = entity(kind, vec![credential("octo", Access::Token(source))]);
    let metrics = Arc::new(Metrics::default());
    let client = Client::new(server, &entity, metrics).unwrap();
    Rig { _dir: dir, token_file, token, client }
}

fn org(server: &Server) -> Rig {
    rig(&settings(&server.base()), EntityKind::Organization)
}

impl Rig {
    async fn at(&self, cursor: Option<&str>) -> Result<Page, SourceError> {
        let result = self.client.fetch(request(cursor), None, &self.client.credentials()[0]).await;
        if let Err(error) = &result {
            println!("{}: {error}", error.label());
            assert!(
                !format!("{error} {error:?}").contains(&self.token),
                "the token stands in an error"
            );
        }
        result
    }

    async fn fetch(&self) -> Result<Page, SourceError> {
        self.at(None).await
    }

    /// Fetches a page that must fail below HTTP, and gives the label and the message.
    async fn fails(&self) -> (&'static str, String) {
        match self.fetch().await {
            Err(SourceError::Transport { reason, message }) => (reason, message),
            other => panic!("not a transport error: {other:?}"),
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_page_is_asked_for_as_github_documents_it() {
    let server = Server::answering(ok(
        "date: Fri, 02 Jan 2026 03:04:05 GMT\r\nx-ratelimit-limit: 1750\r\nx-ratelimit-remaining: 1749\r\n\
         x-ratelimit-reset: 1767326645\r\ncontent-type: application/json\r\n\
         link: </organizations/7/audit-log?after=MTI%3D&before=>; rel=\"next\"\r\n",
        ENTRY,
    ));
    let rig = org(&server);
    let page = rig.fetch().await.unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.entries[0].body, &ENTRY[1..ENTRY.len() - 1]);
    assert_eq!(page.next, Some(Next::Cursor(Cursor::new("MTI=".into()).unwrap())));
    assert_eq!(page.date_ms, Some(1_767_323_045_000));
    assert_eq!(page.budget.unwrap().remaining, 1749);
    assert_eq!(page.body_bytes, ENTRY.len());
    rig.at(Some("MTE=")).await.unwrap();
    let requests = server.requests();
    assert!(
        requests[0].starts_with(
            "GET /orgs/octo-slug/audit-log?phrase=created%3A%3E%3D2026-01-02T03%3A04%3A05Z\
             &include=web&order=asc&per_page=100 HTTP/1.1\r\n"
        ),
        "{}",
        requests[0]
    );
    assert!(
        requests[1].contains("&per_page=100&after=MTE%3D HTTP/1.1"),
        "our own path: {}",
        requests[1]
    );
    let header = format!("authorization: Bearer {}\r\n", rig.token);
    let agent = format!("user-agent: ghauditd/{}\r\n", env!("CARGO_PKG_VERSION"));
    for line in [
        "accept: application/vnd.github+json\r\n",
        "x-github-api-version: 2022-11-28\r\n",
        "accept-encoding: gzip\r\n",
        &agent,
        &header,
    ] {
        assert!(
            requests[0].contains(line),
            "{line} in {}",
            requests[0].replace(&rig.token, "TOKEN")
        );
    }
}

#[tokio::test]
async fn redirect_to_another_host_gets_no_token() {
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let other = Server::answering(ok("", ENTRY));
        let location = format!("location: {}orgs/octo-slug/audit-log\r\n", other.base());
        let server = Server::answering(answer(status, &location, b""));
        let (reason, message) = org(&server).fails().await;
        assert_eq!(reason, "redirect");
        assert!(
            message.contains(&other.address.to_string()) && message.contains("base_url"),
            "{message}"
        );
        assert_eq!(other.requests(), Vec::<String>::new(), "nothing was asked there");
    }
}

#[tokio::test]
async fn redirect_to_another_name_of_the_same_host_is_not_followed() {
    let server = Server::start(|_, request| {
        let port = request.split("host: 127.0.0.1:").nth(1).unwrap().split("\r\n").next().unwrap();
        vec![Step::Send(answer(
            "302 Found",
            &format!("location: http://localhost:{port}/\r\n"),
            b"",
        ))]
    });
    assert_eq!(org(&server).fails().await.0, "redirect");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn redirect_on_the_same_server_is_followed_at_most_three_times() {
    let server = Server::start(|count, _| {
        let location = format!("location: /organizations/{count}/audit-log?x=y\r\n");
        let answer = if count < 3 { answer("301 Moved", &location, b"") } else { ok("", ENTRY) };
        vec![Step::Send(answer)]
    });
    let rig = org(&server);
    assert_eq!(rig.fetch().await.unwrap().entries.len(), 1);
    assert!(server.requests()[3].starts_with("GET /organizations/2/audit-log?x=y "));
    assert!(server.requests()[3].contains(&rig.token));

    let round = Server::answering(answer("302 Found", "location: /again\r\n", b""));
    let (reason, message) = org(&round).fails().await;
    assert_eq!((reason, round.requests().len()), ("redirect", 4), "{message}");
    let nowhere = Server::answering(answer("302 Found", "", b""));
    assert_eq!(org(&nowhere).fails().await.0, "redirect");
}

#[tokio::test]
async fn link_to_another_host_is_refused() {
    let other = Server::answering(ok("", ENTRY));
    let link = format!("link: <{}x?after=abc>; rel=\"next\"\r\n", other.base());
    let server = Server::answering(ok(&link, ENTRY));
    let (reason, message) = org(&server).fails().await;
    assert_eq!(reason, "bad_link");
    assert!(message.contains(&other.address.to_string()), "{message}");
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn link_that_cannot_be_used_is_not_the_end_of_a_walk() {
    for link in [
        "nonsense",
        "<?after=>; rel=\"next\"",
        "<http://[>; rel=\"next\"",
        "<?page=1>; rel=\"next\"",
    ] {
        let server = Server::answering(ok(&format!("link: {link}\r\n"), ENTRY));
        assert_eq!(org(&server).fails().await.0, "bad_link", "{link}");
    }
}

#[tokio::test]
async fn decompression_bomb_is_cut_off_at_the_limit() {
    // 256 MiB of white space in 256 KiB
    let mut bomb = vec![b'['];
    bomb.resize(256 << 20, b' ');
    bomb.push(b']');
    let bomb = gzip(&bomb);
    let server = Server::answering(ok("content-encoding: gzip\r\n", &bomb));
    let started = Instant::now();
    let (reason, message) = org(&server).fails().await;
    assert_eq!(reason, "too_large");
    assert!(message.contains("1048576"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(3), "only the limit was decompressed");
}

#[tokio::test]
async fn gzip_is_read() {
    let server = Server::answering(ok("content-encoding: gzip\r\n", &gzip(ENTRY)));
    assert_eq!(org(&server).fetch().await.unwrap().body_bytes, ENTRY.len());
}

#[tokio::test]
async fn body_announced_beyond_the_limit_is_not_read() {
    let server = Server::start(|_, _| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n[".to_vec()),
            Step::Wait(Duration::from_secs(2)),
        ]
    });
    let started = Instant::now();
    assert_eq!(org(&server).fails().await.0, "too_large");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn endless_body_is_cut_off_at_the_limit() {
    let server = Server::start(|_, _| {
        let mut chunk = b"10000\r\n".to_vec();
        chunk.resize(chunk.len() + 0x10000, b' ');
        chunk.extend_from_slice(b"\r\n");
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
            Step::Drip(chunk, Duration::ZERO),
        ]
    });
    assert_eq!(org(&server).fails().await.0, "too_large");
}

#[tokio::test]
async fn drip_ends_with_the_time_of_the_whole_request() {
    let server = Server::start(|_, _| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n[".to_vec()),
            Step::Drip(b" ".to_vec(), Duration::from_millis(20)),
        ]
    });
    let limits = ServerSettings {
        between_bytes_timeout: Duration::from_millis(400),
        request_timeout: Duration::from_millis(700),
        ..settings(&server.base())
    };
    let started = Instant::now();
    let (reason, message) = rig(&limits, EntityKind::Organization).fails().await;
    assert_eq!(reason, "timeout");
    assert!(message.contains("700 ms for the whole request"), "{message}");
    assert!((700..3000).contains(&started.elapsed().as_millis()));
}

#[tokio::test]
async fn pause_in_the_body_ends_with_the_time_between_bytes() {
    let server = Server::start(|_, _| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n[".to_vec()),
            Step::Wait(Duration::from_secs(5)),
        ]
    });
    let limits = ServerSettings {
        between_bytes_timeout: Duration::from_millis(300),
        ..settings(&server.base())
    };
    let (reason, message) = rig(&limits, EntityKind::Organization).fails().await;
    assert_eq!(reason, "timeout");
    assert!(message.contains("300 ms for the next bytes"), "{message}");
}

#[tokio::test]
async fn slow_first_byte_ends_with_its_time() {
    let server = Server::start(|_, _| vec![Step::Wait(Duration::from_secs(5))]);
    let limits = ServerSettings {
        first_byte_timeout: Duration::from_millis(300),
        ..settings(&server.base())
    };
    let (reason, message) = rig(&limits, EntityKind::Organization).fails().await;
    assert_eq!(reason, "timeout");
    assert!(message.contains("300 ms for response headers"), "{message}");
}

#[tokio::test]
async fn endless_page_chain_costs_one_request_a_call_and_never_stands_still() {
    let server = Server::start(|count, _| {
        vec![Step::Send(ok(&format!("link: <?after=c{count}>; rel=\"next\"\r\n"), b"[]"))]
    });
    let rig = org(&server);
    let mut cursor = None;
    for count in 0..30 {
        let page = rig.at(cursor.as_deref()).await.unwrap();
        assert_eq!(page.entries.len(), 0);
        let Some(Next::Cursor(next)) = page.next else { panic!("no cursor") };
        cursor = Some(next.as_str().to_owned());
        assert_eq!(server.requests().len(), count + 1, "nothing is fetched ahead");
    }
    let round = Server::answering(ok("link: <?after=same>; rel=\"next\"\r\n", ENTRY));
    let rig = org(&round);
    assert!(rig.fetch().await.is_ok());
    let error = rig.at(Some("same")).await.unwrap_err();
    assert_eq!(error.label(), "bad_link", "{error}");
}

#[tokio::test]
async fn what_is_no_array_is_no_page() {
    for (body, reason, part) in [
        (&b"<!DOCTYPE html><html>down</html>"[..], "not_json_array", "HTML"),
        (b"{\"message\":\"x\"}", "not_json_array", "a JSON object"),
        (b"", "not_json_array", "an empty body"),
        (b"null", "not_json_array", "something else"),
        (b"[{\"a\":1},", "truncated", "without its end"),
    ] {
        let server = Server::answering(ok("content-type: application/json\r\n", body));
        let (found, message) = org(&server).fails().await;
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(part), "{message}");
    }
    for status in ["204 No Content", "202 Accepted"] {
        let server = Server::answering(answer(status, "", b""));
        assert_eq!(org(&server).fails().await.0, "not_json_array");
    }
}

#[tokio::test]
async fn hostile_entries_travel_byte_for_byte() {
    let invalid = b"{\"_document_id\":\"i\",\"x\":\"\xff\xfe\"}";
    let lone = br#"{"_document_id":"l","x":"\ud800"}"#;
    let huge = br#"{"_document_id":"h","x":1e400}"#;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200)).into_bytes();
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(900_000)).into_bytes();
    let entries = [&invalid[..], lone, huge, &deep, &large];
    let mut body = b"[".to_vec();
    body.extend_from_slice(&entries.join(&b','));
    body.push(b']');
    let server = Server::answering(ok("", &body));
    let page = org(&server).fetch().await.unwrap();
    assert_eq!(page.entries.len(), entries.len());
    for (found, sent) in page.entries.iter().zip(entries) {
        assert!(found.body == sent);
    }
    assert_eq!(page.entries[0].id.as_ref().unwrap().as_str(), "i");
}

#[tokio::test]
async fn array_that_cannot_be_cut_comes_back_whole() {
    let body = br#"[{"a":1}{"b":2}]"#;
    let server = Server::answering(ok("link: <?after=abc>; rel=\"next\"\r\n", body));
    match org(&server).fetch().await {
        Err(SourceError::Uncuttable { body: whole, next, .. }) => {
            assert_eq!(whole, &body[..]);
            assert_eq!(next, Some(Next::Cursor(Cursor::new("abc".into()).unwrap())));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn truncated_bodies_move_nothing() {
    let gzipped = gzip(&[ENTRY[0], b' '].repeat(5000));
    let half = &gzipped[..gzipped.len() / 2];
    let mut cut_gzip = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        half.len()
    )
    .into_bytes();
    cut_gzip.extend_from_slice(half);
    for (row, bytes) in [
        ("length", b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n[{\"a\":1}]".to_vec()),
        (
            "chunked",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n[{\"a\":1}]\r\n".to_vec(),
        ),
        (
            "chunk",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n[{\"a\":1}]".to_vec(),
        ),
        ("close", b"HTTP/1.0 200 OK\r\n\r\n[{\"a\":1},{\"b\":".to_vec()),
        ("gzip", cut_gzip),
    ] {
        let server = Server::answering(bytes);
        let (reason, message) = org(&server).fails().await;
        assert_eq!(reason, "truncated", "{row}: {message}");
    }
}

#[tokio::test]
async fn resets_are_connection_errors() {
    let before = Server::start_reading(Reads::FirstBytes, |_, _| Vec::new());
    assert_eq!(org(&before).fails().await.0, "connection");
    let within = Server::start_reading(Reads::FirstBytes, |_, _| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n[{\"a\"".to_vec()),
            Step::Wait(Duration::from_millis(300)),
        ]
    });
    assert_eq!(org(&within).fails().await.0, "connection");
    let silent = Server::start(|_, _| Vec::new());
    assert_eq!(org(&silent).fails().await.0, "connection");
    let garbage = Server::answering("garbage\r\n\r\n");
    assert_eq!(org(&garbage).fails().await.0, "connection");
}

#[tokio::test]
async fn nobody_listening_is_a_connection_error_that_names_the_server() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rig = rig(&settings(&format!("http://{address}/")), EntityKind::Organization);
    let (reason, message) = rig.fails().await;
    assert_eq!(reason, "connection");
    assert!(message.contains(&address.to_string()) && message.contains("refused"), "{message}");
}

#[tokio::test]
async fn huge_headers_are_refused() {
    let one = Server::answering(ok(&format!("x-large: {}\r\n", "y".repeat(20_000)), ENTRY));
    let (reason, message) = org(&one).fails().await;
    assert_eq!(reason, "too_large", "{message}");
    let many: Vec<String> =
        (0..90).map(|count| format!("x-{count}: {}\r\n", "y".repeat(300))).collect();
    let many = many.concat();
    assert_eq!(org(&Server::answering(ok(&many, ENTRY))).fails().await.0, "too_large");
    let endless = Server::start(|_, _| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Step::Drip(format!("x: {}\r\n", "y".repeat(8000)).into_bytes(), Duration::ZERO),
        ]
    });
    let (reason, message) = org(&endless).fails().await;
    assert_eq!(reason, "too_large", "{message}");
}
