//! GitHub Apps against the simulated GitHub: installations that are found, tokens that end, clocks that differ.

use super::*;
use crate::support::kafka::Broker;
use crate::support::world::World;
use ghauditd::github::AppSettings;
use ghauditd::github::jwt::AppKey;
use ghauditd::sim::{
    Faults, Sim, SimApp, SimClock, SimConfig, SimEntity, SimInstallation, Traffic,
};
use std::sync::atomic::{AtomicUsize, Ordering};

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/keys/app.pem");
const OTHER_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/keys/other-pkcs8.pem");
const APP: u64 = 12_345;

/// A simulated GitHub with an App on its two entities, of which one is an organization.
async fn sim(change: impl FnOnce(&mut SimConfig, &mut SimApp)) -> Sim {
    let key = AppKey::from_pem(&std::fs::read(KEY).unwrap()).unwrap();
    let few = Traffic { history_entries: 5, ..Traffic::web() };
    let entity = |kind, slug| SimEntity { web: few.clone(), ..SimEntity::new(kind, slug) };
    let mut config = SimConfig {
        entities: vec![
            entity(EntityKind::Enterprise, "acme"),
            entity(EntityKind::Organization, "Octo"),
        ],
        rate_limit_per_hour: 100,
        ..SimConfig::default()
    };
    let mut app = SimApp::new(&key);
    change(&mut config, &mut app);
    config.apps = vec![app];
    Sim::start(config).await.unwrap()
}

/// A client of an entity whose credential is the App.
struct AppRig {
    client: Client,
    id: CredentialId,
}

impl AppRig {
    fn new(base: &Url, kind: EntityKind, slug: &str, app: AppSettings) -> Self {
        let credential = credential("bot", Access::App(app));
        let id = credential.id.clone();
        let entity = EntitySettings { slug: slug.into(), ..entity(kind, vec![credential]) };
        let server = ServerSettings { base_url: base.clone(), ..settings("http://localhost/") };
        let client = Client::new(&server, &entity, Arc::new(Metrics::default())).unwrap();
        Self { client, id }
    }

    fn of(sim: &Sim, kind: EntityKind, slug: &str) -> Self {
        Self::new(&sim.base_url(), kind, slug, app_settings())
    }

    async fn fetch(&self) -> Result<Page, SourceError> {
        let query = Query { from_s: 0, to_s: None };
        self.client.fetch(PageRequest { query, ..request(None) }, None, &self.id).await
    }

    /// The message of a denial, with its remedy.
    async fn denied(&self, label: &str) -> String {
        let error = self.fetch().await.unwrap_err();
        assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
        assert_eq!(error.label(), label, "{error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("ghs_") && !text.contains("eyJ"), "a secret in {text}");
        error.to_string()
    }
}

fn app_settings() -> AppSettings {
    AppSettings {
        app: "Iv23liSimulated".into(),
        key: SecretSource::File(KEY.into()),
        installation: None,
    }
}

#[tokio::test]
async fn an_app_finds_its_installations_and_reads_with_their_tokens() {
    let sim = sim(|_, app| app.rate_limit_per_hour = Some(9)).await;
    for (kind, slug, user) in [
        (EntityKind::Enterprise, "acme", "installation/1000"),
        (EntityKind::Organization, "Octo", "installation/1001"),
    ] {
        let rig = AppRig::of(&sim, kind, slug);
        for left in [8, 7] {
            let page = rig.fetch().await.unwrap();
            assert_eq!(page.entries.len(), 5);
            assert_eq!(page.budget.unwrap().remaining, left, "the installation's own budget");
        }
        assert_eq!(sim.stats().by_user[user], 2);
    }
    assert_eq!(sim.installation_tokens_made(), 2, "one each, kept");
    // two pages, a lookup and a token for each
    assert_eq!((sim.stats().requests, sim.stats().apps_refused), (8, 0));
    let by_number =
        AppSettings { app: APP.to_string(), installation: Some(1_001), ..app_settings() };
    let rig = AppRig::new(&sim.base_url(), EntityKind::Organization, "Octo", by_number);
    rig.fetch().await.unwrap();
    assert_eq!(sim.stats().requests, 10, "what is configured is not looked up");
    sim.stop().await;
}

#[tokio::test]
async fn an_older_server_is_asked_for_all_installations() {
    let sim = sim(|config, app| {
        config.base_path = "/api/v3".into();
        config.faults.no_enterprise_installation = true;
        app.installations = (0..230)
            .map(|id| SimInstallation::new(id + 1, EntityKind::Organization, &format!("o{id}")))
            .chain([SimInstallation::new(777, EntityKind::Enterprise, "ACME")])
            .chain([SimInstallation::new(778, EntityKind::Organization, "acme")])
            .collect();
    })
    .await;
    let rig = AppRig::of(&sim, EntityKind::Enterprise, "acme");
    // the simulated GitHub compares slugs of entities by case
    assert!(rig.denied("forbidden").await.contains("Enterprise administration"));
    assert_eq!(sim.stats().by_user.len(), 0);
    // the lookup that is not there, three pages, the token, the page of the log
    assert_eq!((sim.stats().requests, sim.installation_tokens_made()), (6, 1));
    sim.set_installations(APP, vec![SimInstallation::new(9, EntityKind::Organization, "acme")]);
    let text = AppRig::of(&sim, EntityKind::Enterprise, "acme").denied("not_found").await;
    assert!(text.contains("not installed on enterprise acme"), "{text}");
    sim.stop().await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_by_one_alone() {
    let sim = sim(|_, _| {}).await;
    let rig = AppRig::of(&sim, EntityKind::Organization, "Octo");
    rig.fetch().await.unwrap();
    sim.advance(Duration::from_secs(3_600 - 301));
    rig.fetch().await.unwrap();
    // this page's Date has shown that less than five minutes are left
    sim.advance(Duration::from_secs(2));
    rig.fetch().await.unwrap();
    assert_eq!(sim.installation_tokens_made(), 1);
    let all = futures_util::future::join_all((0..8).map(|_| rig.fetch())).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(sim.installation_tokens_made(), 2, "renewed early, once for all");
    // the App itself was refused once: this clock did not go ahead with the simulated one
    assert_eq!((sim.stats().apps_refused, sim.stats().by_status[&401]), (1, 1), "no page was");
    sim.stop().await;
}

#[tokio::test]
async fn a_renewal_that_fails_early_leaves_the_old_token_in_use() {
    let sim = sim(|_, _| {}).await;
    let rig = AppRig::of(&sim, EntityKind::Organization, "Octo");
    rig.fetch().await.unwrap();
    sim.advance(Duration::from_secs(3_400));
    rig.fetch().await.unwrap();
    // no token can be made any more, while the one that there is holds on
    sim.set_faults(Faults { no_token_made: true, ..Faults::default() });
    for _ in 0..3 {
        rig.fetch().await.unwrap();
    }
    assert_eq!(sim.installation_tokens_made(), 1);
    assert_eq!(sim.stats().by_status[&500], 1, "not tried again at once");
    sim.advance(Duration::from_secs(201));
    let error = rig.fetch().await.unwrap_err();
    assert!(matches!(error, SourceError::Transport { .. }), "{error}");
    sim.set_faults(Faults::default());
    rig.fetch().await.unwrap();
    sim.stop().await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    let sim = sim(|_, _| {}).await;
    let rig = AppRig::of(&sim, EntityKind::Organization, "Octo");
    rig.fetch().await.unwrap();
    sim.revoke_installation_tokens();
    rig.fetch().await.unwrap();
    assert_eq!((sim.installation_tokens_made(), sim.stats().by_status[&401]), (2, 1));
    // installed anew: under another number
    sim.set_installations(APP, vec![SimInstallation::new(4, EntityKind::Organization, "Octo")]);
    rig.fetch().await.unwrap();
    assert_eq!(sim.stats().by_user["installation/4"], 1);
    // every token is refused: asked twice, and no more
    sim.set_faults(Faults { unauthorized: 1.0, ..Faults::default() });
    let before = sim.stats().requests;
    let text = rig.denied("unauthorized").await;
    assert!(text.contains("just made for App Iv23liSimulated"), "{text}");
    assert_eq!(sim.stats().requests - before, 3, "a page, a token, a page");
    sim.stop().await;
}

#[tokio::test]
async fn a_clock_that_differs_is_noticed_and_made_up_for() {
    for hours in [-20_i64, 3] {
        let start_ms = ghauditd::time::wall_ms() + hours * 3_600_000;
        let sim = sim(|config, _| config.clock = SimClock { start_ms, speed: 1.0 }).await;
        let rig = AppRig::of(&sim, EntityKind::Organization, "Octo");
        rig.fetch().await.unwrap();
        assert_eq!(sim.stats().apps_refused, 1, "refused once, then by the server's time");
        sim.revoke_installation_tokens();
        rig.fetch().await.unwrap();
        assert_eq!(sim.stats().apps_refused, 1);
        assert_eq!(sim.installation_tokens_made(), 2, "the token's life is counted by its clock");
        sim.stop().await;
    }
}

#[tokio::test]
async fn what_the_operator_has_to_mend_is_said() {
    let sim = sim(|_, _| {}).await;
    let org = EntityKind::Organization;
    let with = |app| AppRig::new(&sim.base_url(), org, "Octo", app);
    let key = SecretSource::File(OTHER_KEY.into());
    let text = with(AppSettings { key, ..app_settings() }).denied("unauthorized").await;
    assert!(text.contains("could not be decoded") && text.contains(OTHER_KEY), "{text}");
    assert_eq!(sim.stats().apps_refused, 1, "the clocks agree: not asked again");

    let text = with(AppSettings { app: "999".into(), ..app_settings() }).denied("not_found").await;
    assert!(text.contains("no App 999") && text.contains("`app`"), "{text}");

    let gone = with(AppSettings { installation: Some(5), ..app_settings() });
    let text = gone.denied("not_found").await;
    assert!(text.contains("no installation 5") && text.contains("`installation`"), "{text}");

    let text = AppRig::of(&sim, org, "nobody").denied("not_found").await;
    assert!(text.contains("not installed on organization nobody"), "{text}");

    let of_acme = AppSettings { installation: Some(1_000), ..app_settings() };
    let text = with(of_acme).denied("forbidden").await;
    assert!(text.contains("not accessible by integration"), "{text}");
    assert!(text.contains("\"Administration\" read"), "{text}");

    let missing = SecretSource::File("/nonexistent/key.pem".into());
    let text = with(AppSettings { key: missing, ..app_settings() }).denied("unauthorized").await;
    assert!(text.contains("private key file /nonexistent/key.pem"), "{text}");

    let rig = AppRig::of(&sim, org, "Octo");
    rig.fetch().await.unwrap();
    let suspended = SimInstallation { suspended: true, ..SimInstallation::new(1_001, org, "Octo") };
    sim.set_installations(APP, vec![suspended]);
    for _ in 0..2 {
        let text = rig.denied("forbidden").await;
        assert!(text.contains("installation 1001") && text.contains("unsuspend"), "{text}");
    }
    let text = AppRig::of(&sim, org, "Octo").denied("forbidden").await;
    assert!(text.contains("suspended"), "seen when it is looked up: {text}");
    sim.set_installations(APP, vec![SimInstallation::new(1_001, org, "Octo")]);
    rig.fetch().await.unwrap();
    sim.stop().await;
}

/// A server whose answers to Apps are given by a table: the first part of a request's line, and the answer.
fn scripted(rows: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |_, request| {
        let row = rows.iter().find(|(start, _)| request.starts_with(start));
        vec![Step::Send(row.map_or_else(|| answer("404 Not Found", "", b""), |row| row.1.clone()))]
    })
}

fn app_of(server: &Server) -> AppRig {
    let base = Url::parse(&server.base()).unwrap();
    AppRig::new(&base, EntityKind::Organization, "octo", app_settings())
}

const FOUND: &[u8] = br#"{"id": 7, "suspended_at": null}"#;

/// Neither the JWT nor a token goes anywhere else, and no answer is taken for more than it is.
#[tokio::test]
async fn an_app_is_pinned_to_its_server_and_its_answers_are_limited() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let elsewhere = Server::start(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        vec![Step::Send(ok("", br#"{"id": 7}"#))]
    });
    let away = format!("location: {}orgs/octo/installation\r\n", elsewhere.base());
    let server = scripted(vec![("GET /orgs/", answer("302 Found", &away, b""))]);
    let error = app_of(&server).fetch().await.unwrap_err();
    assert_eq!(error.label(), "redirect", "{error}");
    assert_eq!(seen.load(Ordering::Relaxed), 0, "nothing came there");

    let made = |body: &[u8]| {
        scripted(vec![
            ("GET /orgs/octo/installation ", ok("", FOUND)),
            ("POST /app/installations/7/access_tokens ", answer("201 Created", "", body)),
        ])
    };
    for (body, label) in [
        (&b"<html>"[..], "not_json_array"),
        (b"{}", "not_json_array"),
        (br#"{"token": "", "expires_at": "2999-01-01T00:00:00Z"}"#, "not_json_array"),
        (br#"{"token": "a b", "expires_at": "2999-01-01T00:00:00Z"}"#, "not_json_array"),
        (br#"{"token": "a", "expires_at": "soon"}"#, "not_json_array"),
    ] {
        let error = app_of(&made(body)).fetch().await.unwrap_err();
        assert_eq!(error.label(), label, "{error}");
    }
    let large = vec![b' '; 5 << 20];
    assert_eq!(app_of(&made(&large)).fetch().await.unwrap_err().label(), "too_large");
    // a token without a life is used once, and made anew: no loop
    let dead = made(br#"{"token": "ghs_x", "expires_at": "2001-01-01T00:00:00Z"}"#);
    let text = app_of(&dead).denied("not_found").await;
    assert!(text.contains("octo"), "{text}");
    assert_eq!(dead.requests().len(), 3);
    assert!(dead.requests()[1].contains("content-length: 0\r\n"), "{}", dead.requests()[1]);
    assert!(dead.requests()[2].contains("Bearer ghs_x\r\n"));

    let limits = |status: &str, headers: &str| {
        scripted(vec![("GET /orgs/octo/installation ", answer(status, headers, b""))])
    };
    let left = "x-ratelimit-limit: 5000\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1\r\n";
    let error = app_of(&limits("403 Forbidden", left)).fetch().await.unwrap_err();
    let SourceError::RateLimited { reason: "primary", budget: None, .. } = error else {
        panic!("another endpoint's budget is not the audit log's: {error:?}")
    };
    let error = app_of(&limits("502 Bad Gateway", "")).fetch().await.unwrap_err();
    assert_eq!(error.label(), "server_error", "{error}");
    // never a reason to drop a cursor
    let error = app_of(&limits("422 Unprocessable Entity", "")).fetch().await.unwrap_err();
    assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
}

/// The operator exchanges the key: read again by itself, and what was refused is asked again.
#[tokio::test]
async fn an_exchanged_key_changes_the_generation_and_a_renewed_token_does_not() {
    let sim = sim(|_, _| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    std::fs::copy(OTHER_KEY, &path).unwrap();
    let key = SecretSource::File(path.clone());
    let settings = AppSettings { key, ..app_settings() };
    let rig = AppRig::new(&sim.base_url(), EntityKind::Organization, "Octo", settings);
    rig.denied("unauthorized").await;
    let before = rig.client.credential_generation(&rig.id);
    std::fs::copy(KEY, &path).unwrap();
    let after = rig.client.credential_generation(&rig.id);
    assert_ne!(before, after);
    rig.fetch().await.unwrap();
    sim.revoke_installation_tokens();
    rig.fetch().await.unwrap();
    assert_eq!(rig.client.credential_generation(&rig.id), after);
    sim.stop().await;
}

/// The daemon with nothing but an App, whose tokens live for seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_collects_as_an_app() {
    let key = AppKey::from_pem(&std::fs::read(KEY).unwrap()).unwrap();
    let traffic = |base: Traffic| Traffic {
        history_entries: 300,
        live_per_second: 5.0,
        live_entries_max: Some(40),
        ..base
    };
    let entity = SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let config = SimConfig {
        entities: vec![entity],
        apps: vec![SimApp { token_life_s: 4, ..SimApp::new(&key) }],
        ..SimConfig::default()
    };
    let mut world = World::new("as-app", Broker::shared().address(), config).await;
    let toml = std::fs::read_to_string(world.daemon.config()).unwrap();
    let own = format!("token_file = {:?}", world.daemon.home().join("token").display().to_string());
    assert!(toml.contains(&own), "{toml}");
    let toml = toml.replace(&own, "credentials = [\"app\"]");
    let app =
        format!("[credential.app]\nserver = \"sim\"\napp = 12345\nprivate_key_file = {KEY:?}\n");
    world.daemon.configure(&[app, toml].concat());
    world.daemon.start();
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.sim.revoke_installation_tokens();
    world.collected(Duration::from_mins(1)).await;
    let stats = world.sim.stats();
    assert_eq!(stats.by_user.keys().collect::<Vec<_>>(), ["installation/1000"]);
    assert!(world.sim.installation_tokens_made() > 2, "{}", world.sim.installation_tokens_made());
    assert!(!world.daemon.log().contains("ghs_"), "a token stands in the log");
}
