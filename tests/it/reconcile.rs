//! "Did we miss anything?": GitHub's list beside ours, with the real daemon, broker and archive.

use crate::support::kafka::{Broker, kcat_dump};
use crate::support::wait_until;
use crate::support::world::{Differences, World};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimClock, SimConfig, SimEntity, Traffic};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);
/// 2026-09-01T00:00:00Z
const SEPTEMBER_MS: i64 = 1_788_220_800_000;
const HOUR: Duration = Duration::from_hours(1);

/// An enterprise with 300 web and 200 Git entries of the last days of August, and none since.
fn config(faults: Faults) -> SimConfig {
    let traffic = |base: Traffic, entries| Traffic {
        history_entries: entries,
        history_span_s: Some(5 * 86_400),
        ..base
    };
    let acme = SimEntity {
        web: traffic(Traffic::web(), 300),
        git: traffic(Traffic::git(), 200),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    SimConfig {
        entities: vec![acme],
        clock: SimClock { start_ms: SEPTEMBER_MS, speed: 1.0 },
        faults,
        ..SimConfig::default()
    }
}

async fn world(name: &str, faults: Faults) -> World {
    let mut world = World::new(name, Broker::shared().address(), config(faults)).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    // what is late is left for us to find
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "");
    world.daemon.env("GHAUDITD__COLLECT__LAST_LOOK_WEB", "0s");
    world.daemon.env("GHAUDITD__COLLECT__LAST_LOOK_GIT", "0s");
    world
}

/// `reconcile --entity acme` with these arguments: the exit code, and the statement as JSON.
fn reconcile(world: &World, args: &[&str]) -> (i32, Value) {
    let output =
        world.daemon.command(&[&["reconcile", "--entity", "acme", "--json"], args].concat());
    let code = output.status.code().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    let statement = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}, code {code}: {complaints}"));
    (code, statement)
}

/// What the command says when it cannot compare.
fn refused(world: &World, args: &[&str]) -> (i32, String) {
    let output = world.daemon.command(&[&["reconcile"], args].concat());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn ids(statement: &Value, list: &str) -> BTreeSet<String> {
    let list = statement[list].as_array().unwrap();
    list.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// Ids of the journal that are in none of the topics.
async fn not_collected(world: &World) -> BTreeSet<String> {
    let differences = world.kafka_differences().await;
    differences.missing.iter().map(|it| it.strip_prefix("acme/").unwrap().to_owned()).collect()
}

/// As retention does: deletes all web records.
async fn forget(world: &World) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &world.brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..3 {
        list.add_partition_offset(&world.topic("github.audit.web"), partition, Offset::End)
            .unwrap();
    }
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
}

const AUGUST: [&str; 4] = ["--from", "2026-08-20", "--to", "2026-08-31"];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_neither_in_kafka_nor_in_the_archive() {
    let faults = Faults {
        missing_document_id: 0.02,
        missing_times: 0.02,
        missing_created_at: 0.02,
        missing_timestamp: 0.02,
        reused_id: 0.02,
        array_org: 0.05,
        uncuttable: 0.003,
        invalid_utf8: 0.02,
        tie_run: 20,
        tie_every: 50,
        duplicate_rows: 0.1,
        overlapping_pages: 0.1,
        server_error: 0.05,
        lost_cursor: 0.05,
        git_newest_first: true,
        ..Faults::default()
    };
    let mut world = world("recgood", faults).await;
    world.daemon.start();
    world.collected(LONG).await;
    world.archived(LONG).await;
    for against in ["kafka", "archive"] {
        let (code, statement) = reconcile(&world, &[&AUGUST[..], &["--against", against]].concat());
        assert_eq!(statement["verdict"], "nothing_missing", "{against}: {statement:#}");
        assert_eq!(code, 0);
        let totals = &statement["totals"];
        assert_eq!(totals["github"], totals["ours"], "{against}");
        assert!(totals["github"].as_u64().unwrap() > 480, "{totals}");
        for list in ["missing", "revised", "extra", "doubled"] {
            assert_eq!(statement[list], serde_json::json!([]), "{against}: {list}");
        }
        let days: u64 = statement["days"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["github"].as_u64().unwrap())
            .sum();
        assert_eq!(totals["github"].as_u64(), Some(days));
    }
    forget(&world).await;
    let (code, statement) = reconcile(&world, &[&AUGUST[..], &["--no-record"]].concat());
    assert_eq!(
        (code, &statement["against"]),
        (0, &"archive".into()),
        "Kafka has deleted some of it"
    );
    let (code, told) =
        refused(&world, &[&["--entity", "acme", "--against", "kafka"][..], &AUGUST].concat());
    assert!(code == 8 && told.contains("Kafka no longer has"), "{code}: {told}");
    // the record of it
    let records = kcat_dump(&world.brokers, &world.topic("ghauditd.operations")).await;
    let of_ours: Vec<Value> = records
        .iter()
        .map(|record| serde_json::from_slice(record.value.as_deref().unwrap()).unwrap())
        .filter(|record: &Value| record["what"] == "reconcile")
        .collect();
    assert_eq!(of_ours.len(), 2);
    assert_eq!(of_ours[0]["details"]["verdict"], "nothing_missing");
    assert_eq!(of_ours[0]["entity"], "acme");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_indexed_late_is_found_missing() {
    let faults = Faults { late: 0.1, late_min_s: 3_600, late_max_s: 7_200, ..Faults::default() };
    // what is late lies behind the start of the clock
    let mut config = config(faults);
    config.entities[0].web.history_entries = 0;
    config.entities[0].git.history_entries = 0;
    config.entities[0].web.live_per_second = 200.0;
    config.entities[0].web.live_entries_max = Some(300);
    let mut world = World::new("reclate", Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "10s");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "");
    world.daemon.env("GHAUDITD__COLLECT__LAST_LOOK_WEB", "0s");
    world.daemon.env("GHAUDITD__COLLECT__LAST_LOOK_GIT", "0s");
    world.daemon.start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.collected(LONG).await;
    // all of it has been swept at the settling age, and nothing looks there again
    wait_until(LONG, "all has settled", async || {
        let output = world.daemon.command(&["checkpoint", "show", "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let complete = &answer["entities"][0]["complete_up_to_s"]["web"];
        complete.as_i64().is_some_and(|s| s > SEPTEMBER_MS / 1000 + 3)
    })
    .await;
    world.sim.advance(HOUR * 3);
    let late = not_collected(&world).await;
    assert!(late.len() > 10, "{} were late", late.len());
    let statement_file = world.daemon.home().join("september");
    let from = ["--from", "2026-09-01T00:00:00Z", "--to", "2026-09-01T00:00:03Z"];
    let to_file = ["--statement", statement_file.to_str().unwrap()];
    let (code, statement) = reconcile(&world, &[&from[..], &to_file].concat());
    assert_eq!((code, &statement["verdict"]), (9, &Value::from("different")), "{statement:#}");
    assert_eq!(ids(&statement, "missing"), late);
    assert_eq!(statement["looked_again"], 1);
    let written: Value =
        serde_json::from_slice(&std::fs::read(statement_file.with_extension("json")).unwrap())
            .unwrap();
    assert_eq!(written, statement);
    let text = std::fs::read_to_string(statement_file.with_extension("txt")).unwrap();
    assert!(text.contains(&format!("{} entries are MISSING in Kafka", late.len())), "{text}");
    let shown = late.iter().filter(|id| text.contains(id.as_str())).count();
    assert_eq!(shown, late.len().min(20), "{text}");
    let (code, statement) =
        reconcile(&world, &[&from[..], &["--collect", "--reason", "audit"]].concat());
    assert_eq!((code, &statement["verdict"]), (0, &"nothing_missing".into()), "{statement:#}");
    let collecting = &statement["collecting"];
    assert_eq!(collecting["wanted"].as_u64(), Some(late.len().try_into().unwrap()));
    assert_eq!(collecting["wanted"], collecting["collected"]);
    assert_eq!(collecting["requests"][0]["outcome"], "done");
    assert_eq!(statement["totals"]["late"], collecting["wanted"], "a sweep found them");
    assert_eq!(not_collected(&world).await, BTreeSet::new());
    let (code, statement) = reconcile(&world, &from);
    assert_eq!((code, &statement["collecting"]), (0, &Value::Null), "the second run is clean");
    world.daemon.kill9();
    assert_eq!(world.kafka_differences().await, Differences::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_github_changed_deleted_or_dropped_since_is_told_apart() {
    let faults = Faults { revised: 0.1, revised_after_s: 6 * 86_400, ..Faults::default() };
    let mut config = config(faults);
    // kept for a shorter time than the configuration says
    config.entities[0].web.retention_s = Some(12 * 86_400);
    let mut world = World::new("recsince", Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "");
    world.daemon.env("GHAUDITD__COLLECT__LAST_LOOK_WEB", "0s");
    world.daemon.env("GHAUDITD__COLLECT__LAST_LOOK_GIT", "0s");
    world.daemon.start();
    world.collected(LONG).await;
    world.daemon.kill9();
    world.sim.advance(HOUR * 24 * 10);
    let now_ms = world.sim.now_ms();
    let web = || world.sim.journal_entries().filter(|it| it.lane == ghauditd::audit::Lane::Web);
    let listed: Vec<_> = web().filter(|it| it.expires_at_ms.is_none_or(|at| at > now_ms)).collect();
    let changed: BTreeSet<String> =
        listed.iter().filter(|it| it.replaced_at_ms.is_some()).map(|it| it.id.clone()).collect();
    let listed: BTreeSet<String> = listed.into_iter().map(|it| it.id).collect();
    let dropped: BTreeSet<String> =
        web().map(|it| it.id).filter(|id| !listed.contains(id)).collect();
    let (code, statement) = reconcile(&world, &AUGUST);
    assert_eq!(code, 9, "{statement:#}");
    assert!(!changed.is_empty() && !dropped.is_empty());
    assert_eq!(ids(&statement, "revised"), changed);
    assert_eq!(ids(&statement, "extra"), dropped);
    assert_eq!(statement["missing"], serde_json::json!([]));
    let [web, git] = [&statement["lanes"][0], &statement["lanes"][1]];
    assert_eq!((&git["lane"], &git["totals"]["expired"]), (&"git".into(), &200.into()), "{git:#}");
    assert_eq!(git["spans"][0]["standing"], "expired");
    assert_eq!(web["spans"][0]["standing"], "compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_left_to_the_daemon() {
    let mut config = config(Faults::default());
    (config.rate_limit_per_hour, config.rate_limit_window_s) = (12, 2);
    let mut world = World::new("recbudget", Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    world.daemon.start();
    world.collected(LONG).await;
    world.daemon.kill9();
    // the daemon's last window
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = world.sim.stats();
    let began = std::time::Instant::now();
    let (code, statement) = reconcile(&world, &[&AUGUST[..], &["--reserve", "9"]].concat());
    assert_eq!((code, &statement["reserve"]), (0, &9.into()), "{statement:#}");
    let requests = world.sim.stats().requests - before.requests;
    assert_eq!(statement["requests"].as_u64(), Some(requests));
    assert_eq!(world.sim.stats().over_limit, before.over_limit);
    // three requests of each two seconds
    let windows = u32::try_from(requests.div_ceil(3)).unwrap() - 1;
    assert!(
        began.elapsed() >= Duration::from_secs(2) * windows,
        "{requests} in {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_refused_with_a_remedy() {
    let mut world = world("recrefuse", Faults::default()).await;
    let acme = |args: &[&str]| refused(&world, &[&["--entity", "acme"], args].concat());
    let unknown = refused(&world, &[&["--entity", "acne"][..], &AUGUST].concat());
    let empty = acme(&["--from", "2026-08-31", "--to", "2026-08-30"]);
    let time = acme(&["--from", "yesterday", "--to", "1h"]);
    let mut told = vec![unknown, empty, time];
    world.daemon.start();
    world.collected(LONG).await;
    let acme = |args: &[&str]| refused(&world, &[&["--entity", "acme"], args].concat());
    told.push(acme(&["--from", "2026-09-02", "--to", "2026-09-03"]));
    told.push(acme(&["--from", "2025-10", "--to", "2025-10"]));
    let faults = Faults { unauthorized: 1.0, ..Faults::default() };
    world.sim.set_faults(faults);
    told.push(acme(&AUGUST));
    world.sim.set_faults(Faults::default());
    world.daemon.env("GHAUDITD__ARCHIVE__ENABLED", "false");
    told.push(refused(
        &world,
        &[&["--entity", "acme", "--against", "archive"][..], &AUGUST].concat(),
    ));
    let home = world.daemon.home().display().to_string();
    let page: Vec<String> = told
        .into_iter()
        .map(|(code, text)| {
            format!("{code}: {}", text.replace(&home, "HOME").replace(&world.prefix, "PREFIX"))
        })
        .collect();
    // GitHub's clock runs
    let mut parts = page.join("\n").split("T00:00:").map(str::to_owned).collect::<Vec<_>>();
    parts.iter_mut().skip(1).for_each(|part| part.replace_range(..2, "SS"));
    let page = parts.join("T00:00:");
    let sim = world.sim.base_url().to_string();
    insta::assert_snapshot!(
        "reconcile_messages",
        page.replace(sim.trim_end_matches('/'), "GITHUB")
    );
}
