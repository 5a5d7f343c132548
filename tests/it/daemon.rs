//! The whole path, from the simulated GitHub to the archive, as its users run it.

use crate::support::kafka::Broker;
use crate::support::world::{Differences, World};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimConfig, SimEntity, Traffic};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);

fn small(slug: &str, history: u64, live: u64) -> SimEntity {
    let traffic = |base: Traffic| Traffic {
        history_entries: history,
        live_per_second: 20.0,
        live_entries_max: Some(live),
        ..base
    };
    SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, slug)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_reaches_kafka_and_the_archive_once_across_kills() {
    let config = SimConfig { entities: vec![small("acme", 2000, 200)], ..SimConfig::default() };
    let mut world = World::new("path", Broker::shared().address(), config).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.daemon.kill9();
        world.daemon.start();
    }
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
    world.archived(LONG).await;
    assert_eq!(world.archive_differences(), Differences::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nasty_github_loses_and_doubles_nothing() {
    let config = SimConfig {
        entities: vec![small("acme", 1500, 100)],
        faults: Faults::nasty_read_once(),
        ..SimConfig::default()
    };
    let mut world = World::new("nasty", Broker::shared().address(), config).await;
    world.daemon.start();
    world.collected(LONG).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
}
