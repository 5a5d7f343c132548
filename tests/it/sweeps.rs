//! Entries that GitHub indexes late, behind its own cursor: found by reading again, each once, with the real daemon.

use crate::support::kafka::{Broker, KcatRecord, kcat_dump};
use crate::support::wait_until;
use crate::support::world::{Differences, World};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimClock, SimConfig, SimEntity, Traffic};
use std::process::Stdio;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);
/// Simulated seconds in a real one.
const SPEED: f64 = 60.0;
/// Live entries of each lane.
const LIVE: u64 = 600;

/// An enterprise with 600 entries in each lane within 20 simulated minutes, a tenth of them up to 25 minutes late.
async fn world(name: &str) -> World {
    let traffic = |base: Traffic| Traffic {
        history_entries: 200,
        live_per_second: 0.5,
        live_entries_max: Some(LIVE),
        ..base
    };
    let acme = SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let config = SimConfig {
        entities: vec![acme],
        clock: SimClock { speed: SPEED, ..SimClock::default() },
        faults: Faults { late: 0.1, late_min_s: 120, late_max_s: 1_500, ..Faults::default() },
        ..SimConfig::default()
    };
    let mut world = World::new(name, Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "10m,30m");
    world
}

/// The records of both lanes that a sweep was the first to see.
async fn swept(world: &World) -> Vec<KcatRecord> {
    let mut records = Vec::new();
    for topic in ["github.audit.web", "github.audit.git"] {
        records.extend(kcat_dump(&world.brokers, &world.topic(topic)).await);
    }
    records.retain(|record| record.header("gh_slice") == Some("sweep"));
    records
}

/// Waits until GitHub shows every entry, the latest of the late ones too.
async fn all_indexed(world: &World) {
    wait_until(LONG, "everything late has been indexed", async || {
        world.sim.visible_entries() >= 2 * (200 + LIVE)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_indexed_late_is_found_once_across_kills() {
    let mut world = world("late").await;
    world.daemon.start();
    wait_until(LONG, "a sweep has found something", async || !swept(&world).await.is_empty()).await;
    world.daemon.kill9();
    world.daemon.start();
    all_indexed(&world).await;
    world.daemon.kill9();
    world.daemon.start();
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
    let found = swept(&world).await;
    assert!(found.len() > 20, "{} entries were found by sweeps", found.len());
    assert!(world.daemon.get("/metrics").await.unwrap().1.contains("ghauditd_slice_pages_total"));
    wait_until(LONG, "the frontier has passed the last entry", async || {
        let output = world.daemon.command(&["checkpoint", "show", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let last_s = world.sim.journal_entries().map(|it| it.timestamp_ms).max().unwrap() / 1000;
        let complete = &answer["entities"][0]["complete_up_to_s"];
        ["web", "git"].iter().all(|lane| complete[lane].as_i64().is_some_and(|s| s > last_s))
    })
    .await;
    assert_eq!(kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await, []);
}

/// The checkpoint as a program wrote it that knew no sweeps.
fn as_version_1(checkpoint: &[u8]) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(checkpoint).unwrap();
    assert_eq!(value["version"], 3);
    value["version"] = 1.into();
    for lane in value["lanes"].as_object_mut().unwrap().values_mut() {
        lane.as_object_mut().unwrap().remove("swept").unwrap();
        let slices = lane["slices"].as_array_mut().unwrap();
        slices.retain(|slice| slice["kind"] != "sweep");
        for slice in slices {
            slice.as_object_mut().unwrap().remove("opened_s");
        }
    }
    serde_json::to_vec(&value).unwrap()
}

/// Puts a record behind the others of its key, as an older program left it.
async fn overwrite(world: &World, old: &KcatRecord, value: &[u8]) {
    let file = world.daemon.home().join("checkpoint.json");
    std::fs::write(&file, value).unwrap();
    let (partition, topic) = (old.partition.to_string(), world.topic("ghauditd.checkpoints"));
    let key = String::from_utf8(old.key.clone().unwrap()).unwrap();
    let status = tokio::process::Command::new("kcat")
        .args(["-P", "-b", &world.brokers, "-t", &topic, "-p", &partition, "-k", &key])
        .arg(file)
        .stdin(Stdio::null())
        .status()
        .await;
    assert!(status.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_knew_no_sweeps_finds_what_it_missed_and_doubles_nothing() {
    let mut world = world("upgraded").await;
    // so long that none is due: as before there were any
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "24h");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "");
    world.daemon.start();
    all_indexed(&world).await;
    world.daemon.term();
    world.daemon.wait(LONG).await;
    let missed = world.kafka_differences().await;
    assert!(!missed.missing.is_empty(), "nothing was late");
    assert!(missed.doubled.is_empty() && missed.extra.is_empty(), "{missed:?}");
    let checkpoints = kcat_dump(&world.brokers, &world.topic("ghauditd.checkpoints")).await;
    let newest = checkpoints.iter().rfind(|record| record.key.as_deref() == Some(b"acme")).unwrap();
    overwrite(&world, newest, &as_version_1(newest.value.as_deref().unwrap())).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "10m,30m");
    world.daemon.start();
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
}
