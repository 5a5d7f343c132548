//! Request budgets and deadlines, with the real daemon: several credentials, several entities with one of them.

use crate::support::kafka::{Broker, kcat_dump};
use crate::support::world::{Differences, World};
use crate::support::{secret_token, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimConfig, SimEntity, SimToken, Traffic};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_mins(2);
/// A window of the simulated GitHub, seconds.
const WINDOW_S: u64 = 6;

fn entity(slug: &str, history: u64, live: u64) -> SimEntity {
    let traffic = |base: Traffic| Traffic {
        history_entries: history,
        live_per_second: 1.0,
        live_entries_max: Some(live),
        ..base
    };
    SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Organization, slug)
    }
}

async fn world(
    name: &str,
    entities: Vec<SimEntity>,
    limit: u64,
    further: usize,
    faults: Faults,
) -> World {
    let token = || SimToken::new(&secret_token());
    let config = SimConfig {
        entities,
        rate_limit_per_hour: limit,
        rate_limit_window_s: WINDOW_S,
        further_tokens: std::iter::repeat_with(token).take(further).collect(),
        faults,
        ..SimConfig::default()
    };
    let mut world = World::new(name, Broker::shared().address(), config).await;
    // within so short a window, polls of every second would take half of the budget
    world.daemon.env("GHAUDITD__COLLECT__POLL_INTERVAL_MIN", "3s");
    world.daemon.env("GHAUDITD__COLLECT__POLL_INTERVAL_MAX", "3s");
    world
}

/// How long it takes to collect everything.
async fn caught_up(world: &mut World) -> Duration {
    world.daemon.start();
    world.daemon.ready(LONG).await;
    let begun = Instant::now();
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_credentials_catch_up_faster_and_none_goes_over_its_limit() {
    let mut alone =
        world("one-credential", vec![entity("acme", 4_000, 0)], 20, 0, Faults::default()).await;
    let one = caught_up(&mut alone).await;
    let mut pool =
        world("three-credentials", vec![entity("acme", 4_000, 0)], 20, 2, Faults::default()).await;
    let three = caught_up(&mut pool).await;
    for world in [&alone, &pool] {
        let stats = world.sim.stats();
        assert!(stats.requests > 60 && stats.over_limit == 0, "{stats:?}");
    }
    // 110 requests and more: six windows of one credential, two of three
    assert!(three * 4 < one * 3, "{three:?} with three, {one:?} with one");
}

/// Requests of each whole window, while what five days left behind is read.
async fn after_five_days(name: &str, further: usize, entries: u32) -> Vec<u64> {
    const LIMIT: u64 = 100;
    const WINDOW_S: u64 = 12;
    // all of them within the five days
    let traffic = |base: Traffic| Traffic {
        history_entries: 50,
        live_per_second: f64::from(entries) / 430_000.0,
        live_entries_max: Some(entries.into()),
        ..base
    };
    let acme = SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let token = || SimToken::new(&secret_token());
    let config = SimConfig {
        entities: vec![acme],
        rate_limit_per_hour: LIMIT,
        rate_limit_window_s: WINDOW_S,
        further_tokens: std::iter::repeat_with(token).take(further).collect(),
        ..SimConfig::default()
    };
    let mut world = World::new(name, Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__POLL_INTERVAL_MIN", "3s");
    world.daemon.env("GHAUDITD__COLLECT__POLL_INTERVAL_MAX", "3s");
    world.daemon.start();
    world.collected(LONG).await;
    world.daemon.term();
    world.daemon.wait(LONG).await;
    world.sim.advance(Duration::from_hours(5 * 24));
    // a window of its own for what comes now
    tokio::time::sleep(Duration::from_secs(WINDOW_S + 1)).await;
    world.daemon.start();
    let asked = world.sim.stats().requests;
    wait_until(LONG, "the first request", async || world.sim.stats().requests > asked).await;
    let (begun, mut before, mut windows) = (Instant::now(), asked, Vec::new());
    let behind = async || {
        let (_, page) = world.daemon.get("/status").await.unwrap();
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let lanes = page["entities"][0]["lanes"].as_array().cloned().unwrap_or_default();
        lanes.iter().any(|lane| lane["behind_s"].as_i64().is_none_or(|s| s > 86_400))
    };
    while behind().await {
        assert!(begun.elapsed() < LONG, "not caught up: {windows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let ends = Duration::from_secs(WINDOW_S) * u32::try_from(windows.len() + 1).unwrap();
        if begun.elapsed() >= ends {
            let requests = world.sim.stats().requests;
            windows.push(requests - before);
            before = requests;
        }
    }
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
    let stats = world.sim.stats();
    assert_eq!(stats.over_limit, 0, "{stats:?}");
    assert_eq!(kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await, [], "all was saved");
    windows
}

/// The seconds that GitHub rounds to, and those that we look at, move a few requests to the window beside.
fn assert_used(windows: &[u64], whole: u64) {
    assert!(!windows.is_empty(), "caught up before a window had passed");
    let used: u64 = windows.iter().sum();
    let all = whole * u64::try_from(windows.len()).unwrap();
    assert!(used * 100 >= all * 92, "{windows:?} of {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_five_days_one_credential_is_used_whole_until_caught_up() {
    assert_used(&after_five_days("five-one", 0, 15_000).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_five_days_four_credentials_are_used_whole_until_caught_up() {
    assert_used(&after_five_days("five-four", 3, 60_000).await, 400);
}

/// Two entities with the same two credentials, whose budgets GitHub counts for both together.
#[tokio::test(flavor = "multi_thread")]
async fn entities_with_the_same_credentials_keep_the_limit_together_and_stay_live() {
    let faults = Faults { budget_of_all_entities: true, ..Faults::default() };
    let entities = vec![entity("acme", 2_000, 60), entity("beta", 2_000, 60)];
    let mut world = world("shared-budget", entities, 24, 1, faults).await;
    // what is older belongs to the time before the tails
    let begun_ms = world.sim.now_ms() + 20_000;
    caught_up(&mut world).await;
    wait_until(LONG, "the live entries of both are there", async || {
        world.sim.visible_entries() >= 2 * 2 * 2_060
    })
    .await;
    world.collected(LONG).await;
    let stats = world.sim.stats();
    assert!(stats.requests > 80 && stats.over_limit == 0, "{stats:?}");
    let mut slowest_ms = std::collections::BTreeMap::<String, i64>::new();
    for topic in ["github.audit.web", "github.audit.git"] {
        for record in kcat_dump(&world.brokers, &world.topic(topic)).await {
            if record.header("gh_slice") == Some("tail") {
                let time: jiff::Timestamp = record.header("ce_time").unwrap().parse().unwrap();
                let ingest: i64 = record.header("gh_ingest_ms").unwrap().parse().unwrap();
                if time.as_millisecond() < begun_ms {
                    continue;
                }
                let late = slowest_ms.entry(record.header("gh_entity").unwrap().to_owned());
                let late = late.or_default();
                *late = (*late).max(ingest - time.as_millisecond());
            }
        }
    }
    assert_eq!(slowest_ms.len(), 2, "{slowest_ms:?}");
    // a poll every 3 s, and never more than a window and a half without one
    assert!(slowest_ms.values().all(|ms| *ms < 12_000), "{slowest_ms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_is_set_aside_and_another_takes_over() {
    let mut world =
        world("set-aside", vec![entity("acme", 2_500, 20)], 20, 1, Faults::default()).await;
    let first = std::fs::read_to_string(world.daemon.home().join("token")).unwrap();
    world.sim.set_token(secret_token());
    world.daemon.start();
    wait_until(LONG, "the refusal is told", async || {
        let page = world.daemon.get("/readyz").await;
        page.is_some_and(|(status, text)| status == 503 && text.contains("github/acme/c0"))
    })
    .await;
    world.collected(LONG).await;
    let refused = world.sim.stats().by_status.get(&401).copied().unwrap_or(0);
    assert!((1..=3).contains(&refused), "{refused} requests with it while it is set aside");
    world.sim.set_token(first);
    let file = world.daemon.home().join("token");
    // another token, as far as can be seen: it is tried at once
    std::fs::write(&file, format!("{}\n", std::fs::read_to_string(&file).unwrap())).unwrap();
    world.daemon.ready(LONG).await;
    let log = world.daemon.log();
    assert_eq!(log.matches("GitHub refuses").count(), 1, "{log}");
    assert!(log.contains("GitHub answers again"), "{log}");
    assert_eq!(world.kafka_differences().await, Differences::default());
}
