//! The simulated GitHub over HTTP: what a reader meets, and that its journal tells the truth.

use ghauditd::audit::{EntityKind, Lane};
use ghauditd::sim::{Faults, JournalEntry, Sim, SimClock, SimConfig, SimEntity, SimToken, Traffic};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use std::collections::BTreeSet;
use std::time::Duration;

const START_MS: i64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z
const SINCE_2020: &str = "created:>=2020-01-01";

fn entity(kind: EntityKind, slug: &str) -> SimEntity {
    SimEntity {
        kind,
        slug: slug.to_owned(),
        web: Traffic { history_entries: 1_234, ..Traffic::web() },
        git: Traffic { history_entries: 567, ..Traffic::git() },
    }
}

fn config() -> SimConfig {
    SimConfig {
        entities: vec![
            entity(EntityKind::Enterprise, "acme"),
            entity(EntityKind::Organization, "octo"),
        ],
        clock: SimClock { start_ms: START_MS, speed: 1.0 },
        ..SimConfig::default()
    }
}

async fn started(faults: Faults) -> Sim {
    Sim::start(SimConfig { faults, ..config() }).await.unwrap()
}

fn builder() -> reqwest::ClientBuilder {
    // a second installation is refused, and does not matter
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().user_agent("ghauditd-test").no_proxy().timeout(Duration::from_secs(20))
}

fn client() -> Client {
    builder().build().unwrap()
}

fn get(client: &Client, sim: &Sim, path: &str) -> RequestBuilder {
    client.get(sim.base_url().join(path).unwrap()).bearer_auth("simulated-token")
}

const ACME: &str = "enterprises/acme/audit-log";

async fn ask(sim: &Sim, path: &str) -> Response {
    get(&client(), sim, path).send().await.unwrap()
}

/// The rows of a page.
async fn rows(response: Response) -> Vec<serde_json::Value> {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// The URL of a relation in `Link`.
fn link(response: &Response, rel: &str) -> Option<String> {
    let links = response.headers().get("link")?.to_str().unwrap();
    let wanted = format!("; rel=\"{rel}\"");
    let one = links.split(", ").find(|one| one.ends_with(&wanted))?;
    Some(one.split_once('>').unwrap().0.trim_start_matches('<').to_owned())
}

/// Cuts an array into its elements by strings, escapes and brackets. `None` when it is not a whole array.
fn cut(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let inner = body.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (mut entries, mut from) = (Vec::new(), 0);
    let (mut depth, mut string, mut escaped) = (0_i32, false, false);
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ if string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                entries.push(inner[from..at].to_vec());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner.is_empty() {
        entries.push(inner[from..].to_vec());
    }
    (depth == 0 && !string).then_some(entries)
}

/// Reads a query to its end as a patient reader would: whatever is not a page is asked for again, a lost cursor
/// means to begin again.
async fn read_all(sim: &Sim, path: &str, lane: &str) -> Vec<Vec<u8>> {
    let client = client();
    let token = |url: &str| client.get(url).bearer_auth("simulated-token");
    let start = format!(
        "{}{path}?phrase={SINCE_2020}&include={lane}&order=asc&per_page=100",
        sim.base_url()
    );
    let (mut url, mut entries) = (start.clone(), Vec::new());
    for _ in 0..2_000 {
        let Ok(response) = token(&url).send().await else { continue };
        let (status, next) = (response.status(), link(&response, "next"));
        let Ok(body) = response.bytes().await else { continue };
        match (status, cut(&body)) {
            (StatusCode::UNPROCESSABLE_ENTITY, _) => url.clone_from(&start),
            (StatusCode::OK, Some(page)) => {
                entries.extend(page);
                match next {
                    Some(next) => url = next,
                    None => return entries,
                }
            }
            (StatusCode::FORBIDDEN, _) => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => {}
        }
    }
    panic!("no end of {path} after 2,000 requests");
}

fn bodies(journal: &[JournalEntry], slug: &str, lane: Lane) -> BTreeSet<Vec<u8>> {
    let of = journal.iter().filter(|entry| entry.entity == slug && entry.lane == lane);
    of.map(|entry| entry.body.to_vec()).collect()
}

#[tokio::test]
async fn following_next_shows_each_entry_of_the_journal_once() {
    let sim = started(Faults::default()).await;
    let journal = sim.journal();
    for (path, slug) in [(ACME, "acme"), ("orgs/octo/audit-log", "octo")] {
        for (lane, name, count) in [(Lane::Web, "web", 1_234), (Lane::Git, "git", 567)] {
            let read = read_all(&sim, path, name).await;
            assert_eq!(read.len(), count, "{path} {name}");
            assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), bodies(&journal, slug, lane));
        }
    }
    assert_eq!(journal.len(), 2 * (1_234 + 567));
    assert!(sim.journal().iter().all(|entry| entry.served));
    sim.stop().await;
}

#[tokio::test]
async fn a_patient_reader_of_a_nasty_log_gets_every_entry() {
    let faults = Faults {
        late_max_s: 10,
        late_min_s: 1,
        drip_ms: 1,
        slow_first_byte_ms: 20,
        ..Faults::nasty()
    };
    let faults = Faults { revised: 0.0, tie_every: 300, burst: 500, huge_entry: 0.002, ..faults };
    let sim = started(faults).await;
    sim.advance(Duration::from_mins(1));
    let journal = sim.journal();
    for (lane, name) in [(Lane::Web, "web"), (Lane::Git, "git")] {
        let read: BTreeSet<_> = read_all(&sim, ACME, name).await.into_iter().collect();
        assert_eq!(read, bodies(&journal, "acme", lane), "{name}");
    }
    let stats = sim.stats();
    assert!(stats.faults.values().sum::<u64>() > 5, "{stats:?}");
    sim.stop().await;
}

#[tokio::test]
async fn the_same_seed_has_the_same_log_and_another_seed_another() {
    let journal = |seed| async move {
        let config = SimConfig { seed, faults: Faults::nasty(), ..config() };
        let sim = Sim::start(config).await.unwrap();
        sim.journal().into_iter().map(|entry| (entry.id, entry.sha256)).collect::<Vec<_>>()
    };
    assert_eq!(journal(1).await, journal(1).await);
    assert_ne!(journal(1).await, journal(2).await);
}

#[tokio::test]
async fn parameters_defaults_and_links_are_github_s() {
    let sim = started(Faults::default()).await;
    let page = ask(&sim, ACME).await;
    let next = link(&page, "next").unwrap();
    assert_eq!((link(&page, "prev"), link(&page, "last")), (None, None));
    assert!(next.contains("/enterprises/") && next.ends_with("%3D&before="), "{next}");
    assert!(!next.contains("/acme/"), "links name the entity by its number: {next}");
    let newest = rows(page).await;
    assert_eq!(newest.len(), 30);
    assert!(newest.is_sorted_by(|a, b| a["@timestamp"].as_i64() >= b["@timestamp"].as_i64()));
    assert!(newest.iter().all(|row| !row["action"].as_str().unwrap().starts_with("git.")));

    let page = client().get(&next).bearer_auth("simulated-token").send().await.unwrap();
    let (first, prev) = (link(&page, "first").unwrap(), link(&page, "prev").unwrap());
    assert!(
        first.ends_with("?after=&before=") && prev.contains("?after=&before=M"),
        "{first} {prev}"
    );
    let back = client().get(&prev).bearer_auth("simulated-token").send().await.unwrap();
    assert_eq!(rows(back).await, newest);

    // three months unless `created:` says more; whole seconds; the organization's link names organizations
    let all = |query: &'static str| {
        let (sim, path) = (&sim, format!("orgs/octo/audit-log?order=asc&per_page=100&{query}"));
        async move { ask(sim, &path).await }
    };
    let oldest = |page: Vec<serde_json::Value>| page[0]["@timestamp"].as_i64().unwrap();
    let days_old = |ms: i64| (START_MS - ms) / 86_400_000;
    let page = all("").await;
    assert!(link(&page, "next").unwrap().contains("/organizations/"));
    assert_eq!(days_old(oldest(rows(page).await)), 91);
    let page = rows(all("phrase=created:%3E%3D2020-01-01").await).await;
    assert_eq!(days_old(oldest(page.clone())), 161);
    let second = page[40]["@timestamp"].as_i64().unwrap() / 1000;
    let from = jiff::Timestamp::from_second(second).unwrap();
    let exact = format!("orgs/octo/audit-log?phrase=created:{from}..{from}");
    assert_eq!(rows(ask(&sim, &exact).await).await, [page[40].clone()]);
    sim.stop().await;
}

#[tokio::test]
async fn a_base_path_as_on_ghes_is_in_urls_and_links() {
    let config = SimConfig { base_path: "/api/v3".to_owned(), ..config() };
    let sim = Sim::start(config).await.unwrap();
    assert!(sim.base_url().as_str().ends_with("/api/v3/"));
    let page = ask(&sim, ACME).await;
    let next = link(&page, "next").unwrap();
    assert!(next.starts_with(&format!("{}enterprises/", sim.base_url())), "{next}");
    assert_eq!(read_all(&sim, ACME, "git").await.len(), 567);
    assert!(page.headers().get("x-ratelimit-limit").is_none(), "no limits, no headers");
    sim.stop().await;
}

#[tokio::test]
async fn who_may_not_ask_is_told_so() {
    let sim = started(Faults::default()).await;
    let url = sim.base_url().join(ACME).unwrap();
    let status =
        |request: RequestBuilder| async { request.send().await.unwrap().status().as_u16() };
    let client = client();
    let nameless = Client::builder().no_proxy().build().unwrap();
    assert_eq!(status(client.get(url.clone())).await, 401);
    assert_eq!(status(client.get(url.clone()).bearer_auth("wrong")).await, 401);
    assert_eq!(status(nameless.get(url.clone()).bearer_auth("simulated-token")).await, 403);
    assert_eq!(status(client.post(url).bearer_auth("simulated-token")).await, 404);
    for (path, code) in [("enterprises/nobody/audit-log", 404), ("users/mona", 404), (ACME, 200)] {
        assert_eq!(status(get(&client, &sim, path)).await, code, "{path}");
    }
    for (version, code) in
        [("2022-11-28", 200), ("2026-03-10", 200), ("2020-01-01", 410), ("v3", 400)]
    {
        let request = get(&client, &sim, ACME).header("X-GitHub-Api-Version", version);
        assert_eq!(status(request).await, code, "{version}");
    }
    for (query, code) in [("after=x", 422), ("order=up", 422), ("phrase=created:soon", 422)] {
        assert_eq!(status(get(&client, &sim, &format!("{ACME}?{query}"))).await, code, "{query}");
    }
    sim.set_token("other");
    assert_eq!(status(get(&client, &sim, ACME)).await, 401);
    let other = client.get(sim.base_url().join(ACME).unwrap()).bearer_auth("other");
    assert_eq!(status(other).await, 200);
    sim.stop().await;
}

#[tokio::test]
async fn limits_are_counted_for_each_token_and_entity_and_end_after_an_hour() {
    let config = SimConfig {
        rate_limit_per_hour: 2,
        further_tokens: vec![SimToken { rate_limit_per_hour: Some(9), ..SimToken::new("second") }],
        ..config()
    };
    let sim = Sim::start(config).await.unwrap();
    let number = |response: &Response, name: &str| {
        response.headers()[format!("x-ratelimit-{name}")].to_str().unwrap().parse::<i64>().unwrap()
    };
    let first = ask(&sim, ACME).await;
    assert_eq!(
        (number(&first, "limit"), number(&first, "remaining"), number(&first, "used")),
        (2, 1, 1)
    );
    assert_eq!(first.headers()["x-ratelimit-resource"], "audit_log");
    assert!((3_500..=3_600).contains(&(number(&first, "reset") - START_MS / 1000)));
    ask(&sim, ACME).await;
    let over = ask(&sim, ACME).await;
    assert_eq!((over.status().as_u16(), number(&over, "remaining")), (403, 0));
    assert!(over.text().await.unwrap().contains("API rate limit exceeded"));
    assert_eq!(ask(&sim, "orgs/octo/audit-log").await.status(), 200);
    let second = client().get(sim.base_url().join(ACME).unwrap()).bearer_auth("second");
    assert_eq!(number(&second.send().await.unwrap(), "limit"), 9);
    sim.set_faults(Faults { limits_429: true, ..Faults::default() });
    assert_eq!(ask(&sim, ACME).await.status(), 429);
    sim.advance(Duration::from_secs(3_601));
    assert_eq!(ask(&sim, ACME).await.status(), 200);
    assert_eq!(sim.stats().over_limit, 2);
    sim.stop().await;
}

#[tokio::test]
async fn pages_are_compressed_tagged_and_dated_by_the_simulated_clock() {
    let sim =
        Sim::start(SimConfig { clock: SimClock { start_ms: START_MS, speed: 1000.0 }, ..config() });
    let sim = sim.await.unwrap();
    let date = |response: &Response| {
        let text = response.headers()["date"].to_str().unwrap().to_owned();
        let since = httpdate::parse_http_date(&text).unwrap().duration_since(std::time::UNIX_EPOCH);
        i64::try_from(since.unwrap().as_millis()).unwrap() - START_MS
    };
    let raw = builder().gzip(false).build().unwrap();
    let path = format!("{ACME}?per_page=100&order=asc");
    let plain = get(&raw, &sim, &path).send().await.unwrap();
    let (early, etag) = (date(&plain), plain.headers()["etag"].clone());
    let request = get(&raw, &sim, &path).header("accept-encoding", "gzip");
    let packed = request.send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(etag.to_str().unwrap().starts_with("W/\""));
    assert_eq!(packed.headers()["etag"], etag);
    assert_eq!(packed.headers()["cache-control"], "private, max-age=60, s-maxage=60");
    let (plain, packed) = (plain.bytes().await.unwrap(), packed.bytes().await.unwrap());
    assert!(packed.len() * 2 < plain.len());
    assert_eq!(get(&client(), &sim, &path).send().await.unwrap().bytes().await.unwrap(), plain);
    tokio::time::sleep(Duration::from_millis(30)).await;
    let same = get(&raw, &sim, &path).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    assert!(date(&same) >= early + 29_000, "{early} {}", date(&same));
    sim.stop().await;
}

#[tokio::test]
async fn https_is_spoken_as_http_1_and_http_2() {
    let sim = Sim::start(SimConfig { tls: true, ..config() }).await.unwrap();
    let ca = reqwest::Certificate::from_pem(sim.ca_pem().unwrap().as_bytes()).unwrap();
    assert_eq!(sim.base_url().scheme(), "https");
    for (builder, version) in
        [(builder().http1_only(), http::Version::HTTP_11), (builder(), http::Version::HTTP_2)]
    {
        let client = builder.tls_certs_only([ca.clone()]).build().unwrap();
        let page = get(&client, &sim, ACME).send().await.unwrap();
        assert_eq!(page.version(), version);
        let next = link(&page, "next").unwrap();
        assert!(next.starts_with(&format!("{}enterprises/", sim.base_url())), "{next}");
        assert_eq!(rows(page).await.len(), 30);
    }
    assert!(get(&client(), &sim, ACME).send().await.is_err(), "an unknown authority");
    sim.stop().await;
}

#[tokio::test]
async fn live_entries_come_with_time_and_old_ones_go() {
    let mut config = config();
    config.entities[0].web.live_per_second = 2.0;
    config.entities[0].web.live_entries_max = Some(300);
    let sim = Sim::start(config).await.unwrap();
    let count = || async { read_all(&sim, ACME, "web").await.len() };
    let before = count().await;
    sim.advance(Duration::from_secs(100));
    let after = count().await;
    assert!((before + 199..before + 205).contains(&after), "{before} {after}");
    sim.advance(Duration::from_secs(1_000));
    assert_eq!(count().await, 1_234 + 300);
    sim.advance(Duration::from_hours(19 * 24));
    let kept = count().await;
    assert!(kept < 1_534 && kept > 1_000, "{kept}");
    assert_eq!(sim.journal().len(), 2 * (1_234 + 567) + 300, "the journal forgets nothing");
    sim.stop().await;
}

#[tokio::test]
async fn revisions_and_disclosed_addresses_change_bodies_under_the_same_id() {
    let faults = Faults {
        revised: 0.1,
        revised_after_s: 10,
        ip_disclosed_after_s: 3_600,
        ..Faults::default()
    };
    let sim = started(faults).await;
    let first: BTreeSet<_> = read_all(&sim, ACME, "web").await.into_iter().collect();
    sim.advance(Duration::from_hours(2));
    let second: BTreeSet<_> = read_all(&sim, ACME, "web").await.into_iter().collect();
    assert!(first.intersection(&second).count() < first.len());
    let journal = sim.journal();
    let known = bodies(&journal, "acme", Lane::Web);
    assert!(first.is_subset(&known) && second.is_subset(&known));
    let current = journal.iter().filter(|entry| entry.replaced_at_ms.is_none());
    let current: Vec<_> = current.cloned().collect();
    assert_eq!(bodies(&current, "acme", Lane::Web), second);
    let ids: BTreeSet<_> = journal.iter().map(|entry| (&entry.entity, &entry.id)).collect();
    assert_eq!(ids.len(), 2 * (1_234 + 567));
    sim.stop().await;
}

#[tokio::test]
async fn premade_pages_are_the_same_log() {
    let sim = Sim::start(SimConfig { premade: true, ..config() }).await.unwrap();
    let journal = sim.journal();
    for (lane, name) in [(Lane::Web, "web"), (Lane::Git, "git")] {
        let read = read_all(&sim, ACME, name).await;
        assert_eq!(read.len(), bodies(&journal, "acme", lane).len());
        assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), bodies(&journal, "acme", lane));
    }
    // a query that begins within a block
    let path = format!("{ACME}?phrase=created:%3E%3D2025-11-11&order=asc&per_page=100");
    let page = ask(&sim, &path).await;
    let next = link(&page, "next").unwrap();
    let short = cut(&page.bytes().await.unwrap()).unwrap().len();
    let page = client().get(next).bearer_auth("simulated-token").send().await.unwrap();
    assert_eq!(cut(&page.bytes().await.unwrap()).unwrap().len(), 100);
    assert!(short < 100, "{short}");
    assert!(
        journal.len() > 100
            && sim.journal().iter().filter(|e| e.entity == "acme").all(|e| e.served)
    );
    sim.stop().await;
}

#[tokio::test]
async fn the_journal_file_has_a_line_for_each_body() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    let faults = Faults { revised: 0.05, revised_after_s: 1, late: 0.05, ..Faults::default() };
    let mut config = SimConfig { journal: Some(path.clone()), faults, ..config() };
    config.entities[0].web.live_per_second = 5.0;
    let sim = Sim::start(config).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    sim.advance(Duration::from_mins(15));
    tokio::time::sleep(Duration::from_millis(700)).await;
    let journal = sim.journal();
    sim.stop().await;
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let key = |line: &serde_json::Value| (line["id"].to_string(), line["sha256"].to_string());
    let known: BTreeSet<_> = lines.iter().map(key).collect();
    assert_eq!(known.len(), lines.len(), "no line twice");
    for entry in &journal {
        let line: serde_json::Value = serde_json::from_str(&entry.to_line()).unwrap();
        assert!(known.contains(&key(&line)), "{line}");
    }
    assert!(lines.len() >= journal.len() && lines.len() < journal.len() + 20);
}

#[tokio::test]
async fn an_entity_can_show_the_entries_of_another() {
    let mirrors = vec![("octo".to_owned(), "acme".to_owned())];
    let sim = Sim::start(SimConfig { mirrors, ..config() }).await.unwrap();
    let of = |entries: Vec<Vec<u8>>| entries.into_iter().collect::<BTreeSet<_>>();
    let org = of(read_all(&sim, "orgs/octo/audit-log", "git").await);
    assert_eq!(org, of(read_all(&sim, ACME, "git").await));
    assert_eq!(org, bodies(&sim.journal(), "octo", Lane::Git));
    sim.stop().await;
}

#[tokio::test]
async fn a_304_is_free_where_the_switch_says_so() {
    for (free, used) in [(false, "2"), (true, "1")] {
        let faults = Faults { not_modified_is_free: free, ..Faults::default() };
        let config = SimConfig { rate_limit_per_hour: 9, faults, ..config() };
        let sim = Sim::start(config).await.unwrap();
        let etag = ask(&sim, ACME).await.headers()["etag"].clone();
        let request = get(&client(), &sim, ACME).header("if-none-match", etag);
        let same = request.send().await.unwrap();
        assert_eq!(same.status(), 304);
        assert_eq!(same.headers()["x-ratelimit-used"], used);
        sim.stop().await;
    }
}

/// What a reader sees of one request fault.
async fn seen(name: &str, value: &str) -> (Sim, Result<Response, reqwest::Error>) {
    let mut faults = Faults::default();
    faults.set(name, value).unwrap();
    let sim = started(faults).await;
    let client = builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let path = format!("{ACME}?order=asc&per_page=100");
    let answer = get(&client, &sim, &path).send().await;
    (sim, answer)
}

#[tokio::test]
async fn every_refusal_has_the_status_and_message_of_github() {
    for (name, codes, text) in [
        ("server_error", &[500, 502, 503][..], "Unicorn"),
        ("html", &[200], "<!DOCTYPE html>"),
        ("object", &[200], "{\"message\""),
        ("forbidden", &[403], "Must have admin rights"),
        ("sso", &[403], "SAML"),
        ("not_found", &[404], "Not Found"),
        ("unauthorized", &[401], "Bad credentials"),
        ("primary_limit", &[403], "API rate limit exceeded"),
        ("secondary_limit", &[403], "secondary rate limit"),
        ("secondary_message", &[403], "about-secondary-rate-limits"),
        ("redirect", &[301, 302, 307], "Moved"),
        ("redirect_elsewhere", &[302], "Moved"),
    ] {
        let (sim, answer) = seen(name, "1").await;
        let answer = answer.unwrap();
        assert!(codes.contains(&answer.status().as_u16()), "{name}: {}", answer.status());
        let header =
            |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        match name {
            "sso" => assert!(header("x-github-sso").unwrap().starts_with("required; url=https://")),
            "primary_limit" => assert_eq!(header("x-ratelimit-remaining").unwrap(), "0"),
            "secondary_limit" => assert_eq!(header("retry-after").unwrap(), "1"),
            "secondary_message" => assert_eq!(header("retry-after"), None),
            "redirect" => assert!(header("location").unwrap().starts_with(sim.base_url().as_str())),
            "redirect_elsewhere" => {
                assert!(header("location").unwrap().starts_with(sim.elsewhere_url().as_str()));
            }
            _ => {}
        }
        assert!(answer.text().await.unwrap().contains(text), "{name}");
        assert_eq!(sim.stats().faults[name], 1);
        sim.stop().await;
    }
}

#[tokio::test]
async fn broken_bodies_are_broken_as_they_say() {
    for (name, over_http_2) in [
        ("reset_in_body", false),
        ("truncated_length", false),
        ("truncated_chunks", false),
        ("reset_in_body", true),
        ("truncated_length", true),
        ("truncated_chunks", true),
    ] {
        let mut faults = Faults::default();
        faults.set(name, "1").unwrap();
        let sim = Sim::start(SimConfig { tls: over_http_2, faults, ..config() }).await.unwrap();
        let ca = sim.ca_pem().map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
        let client = builder().tls_certs_only(ca).build().unwrap();
        let answer = get(&client, &sim, ACME).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "{name}");
        assert!(sim.journal().iter().all(|entry| !entry.served), "{name}");
        sim.stop().await;
    }
    let (sim, answer) = seen("truncated_json", "1").await;
    let body = answer.unwrap().bytes().await.unwrap();
    assert!(body.starts_with(b"[{") && !body.ends_with(b"]") && cut(&body).is_none());
    sim.stop().await;
    let (_sim, answer) = seen("reset_before_headers", "1").await;
    assert!(answer.is_err());
    let (_sim, answer) = seen("huge_headers", "1").await;
    assert!(answer.is_err());
}

#[tokio::test]
async fn slow_answers_come_whole() {
    let begin = std::time::Instant::now();
    let faults =
        Faults { slow_first_byte: 1.0, slow_first_byte_ms: 200, drip: 1.0, ..Faults::default() };
    let sim = started(Faults { drip_ms: 2, ..faults }).await;
    let page = ask(&sim, &format!("{ACME}?per_page=100")).await;
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(cut(&page.bytes().await.unwrap()).unwrap().len(), 100);
    assert!(begin.elapsed() >= Duration::from_millis(220));
    sim.stop().await;
}

#[tokio::test]
async fn a_bomb_is_small_on_the_wire_and_huge_after_it() {
    let faults = Faults { bomb: 1.0, bomb_bytes: 64 << 20, ..Faults::default() };
    let sim = started(faults).await;
    let raw = builder().gzip(false).build().unwrap();
    let wire = get(&raw, &sim, ACME).send().await.unwrap().bytes().await.unwrap();
    assert!(wire.len() < 1 << 20, "{}", wire.len());
    let unpacked = ask(&sim, ACME).await.bytes().await.unwrap();
    assert_eq!((unpacked.len(), unpacked[0]), ((64 << 20) + 1, b'['));
    sim.stop().await;
}

#[tokio::test]
async fn redirects_on_this_host_lead_to_the_page_and_astray_nowhere_unseen() {
    let sim = started(Faults { redirect: 1.0, ..Faults::default() }).await;
    assert_eq!(rows(ask(&sim, ACME).await).await.len(), 30);
    sim.set_faults(Faults { redirect_elsewhere: 1.0, ..Faults::default() });
    assert_eq!(ask(&sim, ACME).await.text().await.unwrap(), "[]");
    assert_eq!((sim.stats().elsewhere_requests, sim.stats().elsewhere_authorized), (1, 0));
    sim.set_faults(Faults { link_elsewhere: 1.0, ..Faults::default() });
    let next = link(&ask(&sim, ACME).await, "next").unwrap();
    assert!(next.starts_with(sim.elsewhere_url().as_str()));
    client().get(next).bearer_auth("simulated-token").send().await.unwrap();
    assert_eq!(sim.stats().elsewhere_authorized, 1, "a reader that falls for it is found out");
    sim.stop().await;
}

#[tokio::test]
async fn the_other_worlds_are_as_their_switches_say() {
    let sim = started(Faults::default()).await;
    let path = format!("{ACME}?phrase={SINCE_2020}&order=asc&per_page=100&include=git");
    let times = |faults: Faults| {
        sim.set_faults(faults);
        let (sim, path) = (&sim, path.clone());
        async move {
            let page = ask(sim, &path).await;
            let next = link(&page, "next");
            let rows = rows(page).await;
            (rows.iter().map(|row| row["@timestamp"].as_i64().unwrap()).collect::<Vec<_>>(), next)
        }
    };
    let (rows, _) = times(Faults { git_newest_first: true, ..Faults::default() }).await;
    assert!(rows.is_sorted_by(|a, b| a >= b));
    let (rows, _) = times(Faults { unsorted_pages: true, ..Faults::default() }).await;
    assert!(!rows.is_sorted());
    let (_, next) = times(Faults { page_links: true, ..Faults::default() }).await;
    assert!(next.unwrap().ends_with("&page=2"));
    assert_eq!(read_all(&sim, ACME, "git").await.len(), 567);
    let (rows, next) = times(Faults { short_pages: 1.0, ..Faults::default() }).await;
    assert!(rows.len() == 50 && next.is_some());
    let (rows, next) = times(Faults { empty_pages: 1.0, ..Faults::default() }).await;
    assert!(rows.is_empty() && next.is_some());
    let (rows, _) = times(Faults { duplicate_rows: 1.0, ..Faults::default() }).await;
    assert_eq!((rows.len(), rows.iter().collect::<BTreeSet<_>>().len()), (100, 99));
    let (rows, next) = times(Faults { overlapping_pages: 1.0, ..Faults::default() }).await;
    let page = client().get(next.unwrap()).bearer_auth("simulated-token").send().await.unwrap();
    let again = self::rows(page).await;
    assert_eq!(again[0]["@timestamp"].as_i64().unwrap(), rows[97]);
    sim.stop().await;
}

#[tokio::test]
async fn the_end_of_the_log_has_no_cursor_unless_a_switch_gives_one() {
    let sim = started(Faults::default()).await;
    let path = format!("{ACME}?phrase=created:%3E%3D2025-12-30&order=asc&per_page=100");
    let first = ask(&sim, &path).await;
    assert_eq!(link(&first, "next"), None);
    let rows = cut(&first.bytes().await.unwrap()).unwrap();
    for (faults, again) in [
        (Faults { tail_cursor: true, ..Faults::default() }, 0),
        (Faults { endless_next: true, ..Faults::default() }, rows.len()),
    ] {
        sim.set_faults(faults);
        let mut next = link(&ask(&sim, &path).await, "next").unwrap();
        for _ in 0..5 {
            let page = client().get(&next).bearer_auth("simulated-token").send().await.unwrap();
            next = link(&page, "next").unwrap();
            assert_eq!(cut(&page.bytes().await.unwrap()).unwrap().len(), again);
        }
    }
    sim.stop().await;
}

#[tokio::test]
async fn faults_can_be_meant_for_one_entity_one_lane_and_some_requests() {
    let sim = started(Faults::default()).await;
    let codes = |count: usize, path: &'static str| {
        let sim = &sim;
        async move {
            let mut codes = Vec::new();
            for _ in 0..count {
                codes.push(ask(sim, path).await.status().as_u16());
            }
            codes
        }
    };
    let certain = Faults { forbidden: 1.0, ..Faults::default() };
    sim.set_faults(Faults { only_entity: Some("octo".to_owned()), ..certain.clone() });
    assert_eq!(
        (codes(1, ACME).await, codes(1, "orgs/octo/audit-log").await),
        (vec![200], vec![403])
    );
    sim.set_faults(Faults { only_lane: Some(Lane::Git), ..certain.clone() });
    assert_eq!(codes(1, ACME).await, [200]);
    assert_eq!(codes(1, "enterprises/acme/audit-log?include=git").await, [403]);
    sim.set_faults(Faults { at_most: 2, ..certain });
    assert_eq!(codes(4, ACME).await, [403, 403, 200, 200]);
    sim.set_faults(Faults { lost_cursor: 1.0, lost_cursor_status: 400, ..Faults::default() });
    let first = ask(&sim, ACME).await;
    let next = link(&first, "next").unwrap();
    let lost = client().get(next).bearer_auth("simulated-token").send().await.unwrap();
    assert_eq!((first.status().as_u16(), lost.status().as_u16()), (200, 400));
    sim.stop().await;
}

#[tokio::test]
async fn wild_dates_stand_apart_and_cached_ones_are_an_hour_old() {
    let sim = started(Faults { wild_date: 1.0, ..Faults::default() }).await;
    let ahead = || async {
        let date = ask(&sim, ACME).await.headers()["date"].to_str().unwrap().to_owned();
        let time = httpdate::parse_http_date(&date).unwrap();
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(since).unwrap() - START_MS / 1000
    };
    let mut wild = Vec::new();
    for number in 0..25 {
        if ahead().await > 300 * 86_400 {
            wild.push(number);
        }
    }
    assert_eq!(wild, [0, 10, 20]);
    sim.set_faults(Faults { cached_date: 1.0, ..Faults::default() });
    assert!((-3_600..-3_500).contains(&ahead().await));
    sim.stop().await;
}
