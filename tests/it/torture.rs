//! The daemon killed at random moments and the broker restarted, against a real broker and a real S3 server; everything is
//! compared afterwards by readers that are not ours. Few rounds in `make test`, the full counts in `make torture`.

use crate::support::kafka::Broker;
use crate::support::s3::S3;
use crate::support::world::{Differences, World};
use crate::support::{seed, torture};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{SimConfig, SimEntity, Traffic};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::time::Duration;

struct Counts {
    entries_per_lane: u64,
    kills: u32,
    broker_restarts: u32,
    pause_ms: std::ops::Range<u64>,
    patience: Duration,
}

impl Counts {
    fn of_this_run() -> Self {
        if torture() {
            let patience = Duration::from_mins(20);
            let (kills, broker_restarts) = (20, 3);
            Self {
                entries_per_lane: 100_000,
                kills,
                broker_restarts,
                pause_ms: 500..6_000,
                patience,
            }
        } else {
            let patience = Duration::from_mins(4);
            let (kills, broker_restarts) = (3, 1);
            Self { entries_per_lane: 4_000, kills, broker_restarts, pause_ms: 300..2_500, patience }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_every_entry_is_in_kafka_and_in_the_bucket_once() {
    let counts = Counts::of_this_run();
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let traffic = |base: Traffic| Traffic { history_entries: counts.entries_per_lane, ..base };
    let config = SimConfig {
        seed,
        entities: vec![SimEntity {
            web: traffic(Traffic::web()),
            git: traffic(Traffic::git()),
            ..SimEntity::new(EntityKind::Enterprise, "acme")
        }],
        ..SimConfig::default()
    };
    let (broker, s3) = (Broker::own("torture").await, S3::shared());
    let bucket = s3.create_bucket("torture", true, true).await;
    let mut world = World::new("torture", broker.address(), config).await;
    world.archive_to_s3(&s3.endpoint, &bucket);
    world.configure("");
    world.daemon.start();
    for round in 1..=counts.kills.max(counts.broker_restarts) {
        tokio::time::sleep(Duration::from_millis(random.random_range(counts.pause_ms.clone())))
            .await;
        if round <= counts.broker_restarts {
            broker.kill().await;
            broker.start().await;
        }
        if round <= counts.kills {
            world.daemon.kill9();
            world.daemon.start();
        }
    }
    world.collected(counts.patience).await;
    assert_eq!(world.kafka_differences().await, Differences::default());
    assert_eq!(world.checkpoint_sequence("acme").await, world.records().await);
    let begun = std::time::Instant::now();
    loop {
        let differences = world.bucket_differences(&s3, &bucket).await;
        if differences.missing.is_empty() || begun.elapsed() > counts.patience {
            assert_eq!(differences, Differences::default());
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
