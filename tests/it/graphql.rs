//! The lane that reads an organization's log in GraphQL, beside REST, with the real daemon: each entry once, whichever way
//! it came first; nothing lost to errors; a server that has dropped it is a note.

use crate::support::kafka::{Broker, KcatRecord, kcat_dump};
use crate::support::wait_until;
use crate::support::world::World;
use ghauditd::audit::{EntityKind, Lane};
use ghauditd::sim::{Faults, JournalEntry, SimClock, SimConfig, SimEntity, Traffic};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);
/// Simulated seconds in a real one.
const SPEED: f64 = 60.0;
const HISTORY: u64 = 2_500;
const LIVE: u64 = 1_000;

/// An organization of whose web entries about one in 25 is shown by GraphQL too, its lanes being `web` and `graphql`.
async fn world(name: &str, faults: Faults) -> World {
    let octo = SimEntity {
        web: Traffic {
            history_entries: HISTORY,
            live_per_second: 1.0,
            live_entries_max: Some(LIVE),
            ..Traffic::web()
        },
        git: Traffic::git(),
        ..SimEntity::new(EntityKind::Organization, "octo")
    };
    let config = SimConfig {
        entities: vec![octo],
        clock: SimClock { speed: SPEED, ..SimClock::default() },
        rate_limit_per_hour: 100_000,
        faults,
        ..SimConfig::default()
    };
    let mut world = World::new(name, Broker::shared().address(), config).await;
    world.read_lanes("lanes = [\"web\", \"graphql\"]");
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "2m");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "10m");
    world
}

/// What both ways in have shown, by id.
struct Shown {
    rest: BTreeMap<String, JournalEntry>,
    graphql: BTreeMap<String, JournalEntry>,
}

impl Shown {
    fn of(world: &World) -> Self {
        let by_id = |entry: JournalEntry| (entry.id.clone(), entry);
        Self {
            rest: world.sim.journal_entries().map(by_id).collect(),
            graphql: world.sim.graphql_journal().into_iter().map(by_id).collect(),
        }
    }

    fn ids(&self) -> BTreeSet<&String> {
        self.rest.keys().chain(self.graphql.keys()).collect()
    }
}

async fn records(world: &World) -> Vec<KcatRecord> {
    let mut records = kcat_dump(&world.brokers, &world.topic("github.audit.web")).await;
    records.extend(kcat_dump(&world.brokers, &world.topic("github.audit.dlq")).await);
    records
}

/// Waits until every entry has been shown and collected, and both lanes have read past the last one.
async fn all_collected(world: &World) {
    wait_until(LONG, "every entry is shown", async || {
        let shown = Shown::of(world).ids().len();
        u64::try_from(shown).unwrap() >= HISTORY + LIVE
    })
    .await;
    let shown = Shown::of(world);
    wait_until(LONG, "every entry is collected", async || {
        let records = records(world).await;
        let found: BTreeSet<_> = records.iter().filter_map(|it| it.header("ce_id")).collect();
        shown.ids().iter().all(|id| found.contains(id.as_str()))
    })
    .await;
    let last_s = shown.rest.values().map(|it| it.timestamp_ms).max().unwrap() / 1000;
    wait_until(LONG, "both lanes are complete", async || {
        let output = world.daemon.command(&["checkpoint", "show", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let complete = &answer["entities"][0]["complete_up_to_s"];
        ["web", "graphql"].iter().all(|lane| complete[lane].as_i64().is_some_and(|s| s > last_s))
    })
    .await;
}

/// Each id once, with the bytes of the way that it came by. Returns how many came by each.
async fn each_once(world: &World) -> BTreeMap<String, usize> {
    let shown = Shown::of(world);
    let (mut seen, mut ways) = (BTreeSet::new(), BTreeMap::new());
    let mut sequence = Vec::new();
    for record in records(world).await {
        let (id, lane) = (record.header("ce_id").unwrap(), record.header("gh_lane").unwrap());
        assert!(seen.insert(id.to_owned()), "{id} came twice");
        assert_eq!(record.header("gh_revision"), None, "{id}");
        let entry = if lane == "graphql" { &shown.graphql[id] } else { &shown.rest[id] };
        let digest: [u8; 32] = Sha256::digest(record.value.as_deref().unwrap()).into();
        assert_eq!(digest, entry.sha256, "{id} by {lane}");
        *ways.entry(lane.to_owned()).or_default() += 1;
        sequence.push(record.header("gh_seq").unwrap().parse::<usize>().unwrap());
    }
    sequence.sort_unstable();
    assert_eq!(sequence, (1..=seen.len()).collect::<Vec<_>>(), "the sequence has holes");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>(), shown.ids());
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_comes_once_whichever_way_it_came_first_across_kills() {
    // REST shows them two simulated minutes later: what is live comes by GraphQL first, the history by either
    let faults = Faults { graphql_only: 0.3, graphql_ahead_s: 120, late: 0.1, ..Faults::default() };
    let mut world = world("graphql", faults).await;
    world.daemon.start();
    let by_graphql = async |world: &World| {
        records(world).await.iter().filter(|it| it.header("gh_lane") == Some("graphql")).count()
    };
    wait_until(LONG, "something came by GraphQL", async || by_graphql(&world).await > 0).await;
    world.daemon.kill9();
    world.daemon.start();
    let half = HISTORY + LIVE / 2;
    wait_until(LONG, "half of what is live is there", async || {
        u64::try_from(records(&world).await.len()).unwrap() > half
    })
    .await;
    world.daemon.kill9();
    world.daemon.start();
    all_collected(&world).await;
    let ways = each_once(&world).await;
    let shown = Shown::of(&world);
    let only = shown.graphql.keys().filter(|id| !shown.rest.contains_key(*id)).count();
    assert!(only > 10, "{only} entries were shown by GraphQL alone");
    assert!(ways["graphql"] > only, "nothing came by GraphQL first: {ways:?}, {only} alone");
    let both = shown.graphql.keys().filter(|id| shown.rest.contains_key(*id)).count();
    assert!(ways["graphql"] < only + both, "nothing came by REST first: {ways:?}");
    let metrics = world.daemon.get("/metrics").await.unwrap().1;
    assert!(metrics.contains("lane=\"graphql\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_errors_moves_nothing() {
    let faults = Faults {
        graphql_only: 0.5,
        graphql_partial: 0.4,
        graphql_null: 0.1,
        primary_limit: 0.05,
        secondary_limit: 0.05,
        server_error: 0.05,
        truncated_json: 0.05,
        lost_cursor: 0.1,
        short_pages: 0.5,
        html: 0.02,
        only_lane: Some(Lane::GraphQl),
        at_most: 60,
        ..Faults::default()
    };
    let mut world = world("graphql-errors", faults).await;
    world.daemon.start();
    wait_until(LONG, "GraphQL has failed in several ways", async || {
        let faults = world.sim.stats().faults;
        faults.get("graphql_partial").is_some_and(|times| *times > 5)
    })
    .await;
    world.daemon.kill9();
    world.daemon.start();
    all_collected(&world).await;
    let ways = each_once(&world).await;
    assert!(ways["graphql"] > 30, "{ways:?}");
    // the clock is fast: what expires while GraphQL fails is a gap of that lane, and nothing else is one
    for gap in kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await {
        let gap: serde_json::Value = serde_json::from_slice(gap.value.as_deref().unwrap()).unwrap();
        assert_eq!((&gap["lane"], &gap["cause"]), (&"graphql".into(), &"expired".into()), "{gap}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_dropped_it_is_a_note() {
    let faults = Faults { graphql_dropped: true, ..Faults::default() };
    let mut world = world("graphql-dropped", faults).await;
    let output = world.daemon.command(&["check", "--connect"]);
    let told = String::from_utf8(output.stdout).unwrap();
    let line = told.lines().find(|line| line.contains("lane graphql")).unwrap();
    assert!(line.contains("warning") && told.contains("take it out of `lanes`"), "{told}");
    assert!(output.status.success(), "{told}");
    world.daemon.start();
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, crate::support::world::Differences::default());
    let log = world.daemon.log();
    assert_eq!(log.matches("the lane is not read").count(), 1, "{log}");
    let output = world.daemon.command(&["checkpoint", "show", "--json"]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("graphql"), "nothing was begun");
    let (status, ready) = world.daemon.get("/readyz").await.unwrap();
    assert_eq!(status, 200, "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drops_it_later_stops_nothing_else() {
    let mut world = world("graphql-later", Faults::default()).await;
    world.daemon.start();
    wait_until(LONG, "GraphQL has been read", async || world.sim.stats().graphql_pages > 3).await;
    world.sim.set_faults(Faults { graphql_dropped: true, ..world.sim.faults() });
    wait_until(LONG, "the note", async || {
        world.daemon.log().contains("the lane is not read, the others are")
    })
    .await;
    let shown = Shown::of(&world);
    wait_until(LONG, "REST goes on", async || {
        let records = records(&world).await;
        let found: BTreeSet<_> = records.iter().filter_map(|it| it.header("ce_id")).collect();
        shown.rest.keys().all(|id| found.contains(id.as_str()))
    })
    .await;
    assert!(world.daemon.running());
    let pages = world.sim.stats().graphql_pages;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.sim.stats().graphql_pages, pages, "it is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_read_it_costs_rest_nothing() {
    let faults = Faults { forbidden: 1.0, only_lane: Some(Lane::GraphQl), ..Faults::default() };
    let mut world = world("graphql-denied", faults).await;
    world.daemon.start();
    world.collected(LONG).await;
    let log = world.daemon.log();
    assert!(
        log.contains("required scopes") && log.contains("take \\\"graphql\\\" out of"),
        "{log}"
    );
    world.sim.set_faults(Faults::default());
}
