//! Everything killed in the middle of everything: the daemon while it sweeps, answers a request or builds its seen ids again;
//! a replay, a restore, a reconciliation. A few kills in `make test`, a hundred in `make torture`.

use crate::support::kafka::{Broker, kcat_dump};
use crate::support::world::{Differences, World};
use crate::support::{seed, torture, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimClock, SimConfig, SimEntity, Traffic};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::process::Child;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(5);
const HISTORY: u64 = 400;
/// Simulated seconds in a real one.
const SPEED: f64 = 60.0;

/// Live entries of a lane, so many that they come for as long as is killed.
fn live() -> u64 {
    if torture() { 12_000 } else { 1_200 }
}

async fn world() -> World {
    let traffic = |base: Traffic| Traffic {
        history_entries: HISTORY,
        live_per_second: 0.5,
        live_entries_max: Some(live()),
        ..base
    };
    let config = SimConfig {
        entities: vec![SimEntity {
            web: traffic(Traffic::web()),
            git: traffic(Traffic::git()),
            ..SimEntity::new(EntityKind::Enterprise, "acme")
        }],
        clock: SimClock { speed: SPEED, ..SimClock::default() },
        faults: Faults { late: 0.05, late_min_s: 120, late_max_s: 1_500, ..Faults::default() },
        ..SimConfig::default()
    };
    let mut world = World::new("kills", Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "10m,30m");
    world
}

/// Kills a command after a while; one that has ended by then has done its work.
async fn kill_after(mut child: Child, ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    // an error says that it has ended
    drop(child.kill());
    child.wait().unwrap();
}

/// Goes on with a replay until it is done.
async fn finish_replay(world: &World) -> BTreeMap<String, usize> {
    let resume = ["replay", "--resume", "r1", "--execute", "--rate", "none"];
    let ended = world.daemon.command(&resume);
    assert!(ended.status.success(), "{ended:?}");
    let mut copies = BTreeMap::new();
    for record in kcat_dump(&world.brokers, &world.topic("siem")).await {
        *copies.entry(record.header("gh_replay_of").unwrap().to_owned()).or_insert(0) += 1;
    }
    copies
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_is_there_once_whatever_was_killed_meanwhile() {
    let (kills, mut random) = (if torture() { 100 } else { 8 }, StdRng::seed_from_u64(seed()));
    let mut world = world().await;
    world.daemon.start();
    wait_until(LONG, "something is collected", async || world.records().await > HISTORY).await;
    let target = world.topic("siem");
    let begin = ["replay", "--from", "365d", "--to-topic", &target, "--create-topic"];
    let begin = [&begin[..], &["--replay-id", "r1", "--execute", "--rate", "50/s"]].concat();
    let begun = world.daemon.begin(&begin);
    wait_until(LONG, "some are sent again", async || {
        !kcat_dump(&world.brokers, &target).await.is_empty()
    })
    .await;
    kill_after(begun, 0).await;
    let save = ["checkpoint", "save", "first", "--entity", "acme"];
    let saved = world.daemon.command(&save);
    assert!(saved.status.success(), "{saved:?}");
    let restore = ["checkpoint", "restore", "first", "--entity", "acme", "--execute"];
    let restore = [&restore[..], &["--reason", "a test of kills"]].concat();
    let reconcile = ["reconcile", "--entity", "acme", "--from", "1d", "--to", "0s", "--collect"];
    let resume = ["replay", "--resume", "r1", "--execute", "--rate", "50/s"];
    for round in 0..kills {
        let pause_ms = random.random_range(100..2_500);
        match round % 5 {
            0 => kill_after(world.daemon.begin(&resume), pause_ms).await,
            1 => kill_after(world.daemon.begin(&reconcile), pause_ms).await,
            2 => {
                // the daemon dies while it is asked; the command is left alone with that
                let asked = world.daemon.begin(&restore);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                world.daemon.kill9();
                world.daemon.start();
                kill_after(asked, 3_000).await;
            }
            3 => {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                world.daemon.kill9();
                world.daemon.start();
            }
            _ => {
                // the seen ids have to be built again, and that is killed too
                world.daemon.kill9();
                let state = world.daemon.home().join("state");
                std::fs::remove_dir_all(state).unwrap();
                world.daemon.start();
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                world.daemon.kill9();
                world.daemon.start();
            }
        }
    }
    wait_until(LONG, "everything late is indexed", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.sim.visible_entries() >= 2 * (HISTORY + live())
    })
    .await;
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
    assert_eq!(world.checkpoint_sequence("acme").await, world.records().await);
    let copies = finish_replay(&world).await;
    assert!(copies.len() >= 100, "{} were sent again", copies.len());
    let doubled: Vec<_> = copies.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
}
