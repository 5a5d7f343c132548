//! Whole days of a busy GitHub in quick motion: late entries, duplicates of ids, revisions, entries without time or id, and
//! GitHub's limit of requests. A quarter of an hour of it in `make test`, the days in `make torture`.

use crate::support::kafka::Broker;
use crate::support::world::{Differences, World};
use crate::support::{torture, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimClock, SimConfig, SimEntity, SimToken, Traffic};
use std::time::Duration;

/// GitHub's limit for each user and address.
const LIMIT: u64 = 1_750;

struct Day {
    /// Entries a simulated second, in both lanes together.
    per_second: u32,
    credentials: usize,
    /// Simulated seconds with traffic.
    busy_s: u32,
    /// How late an entry may be, simulated seconds.
    late_max_s: u64,
    settling: &'static str,
    /// Above the greatest lateness.
    sweep_age: &'static str,
    /// Simulated seconds in a real one.
    speed: f64,
    patience: Duration,
}

impl Day {
    /// Entries of one lane.
    fn lane_entries(&self) -> u64 {
        u64::from(self.per_second) * u64::from(self.busy_s) / 2
    }

    async fn world(&self, name: &str) -> World {
        let traffic = |base: Traffic| Traffic {
            live_per_second: f64::from(self.per_second) / 2.0,
            live_entries_max: Some(self.lane_entries()),
            ..base
        };
        let token = |number| SimToken::new(&format!("{}{number}", crate::support::secret_token()));
        let config = SimConfig {
            entities: vec![SimEntity {
                web: traffic(Traffic::web()),
                git: traffic(Traffic::git()),
                ..SimEntity::new(EntityKind::Enterprise, "acme")
            }],
            clock: SimClock { speed: self.speed, ..SimClock::default() },
            rate_limit_per_hour: LIMIT,
            further_tokens: (1..self.credentials).map(token).collect(),
            faults: Faults {
                late: 0.03,
                late_min_s: 5,
                late_max_s: self.late_max_s,
                revised: 0.01,
                reused_id: 0.005,
                missing_created_at: 0.05,
                missing_timestamp: 0.01,
                missing_times: 0.001,
                missing_document_id: 0.001,
                ..Faults::default()
            },
            ..SimConfig::default()
        };
        let mut world = World::new(name, Broker::shared().address(), config).await;
        world.daemon.env("GHAUDITD__COLLECT__SETTLING", self.settling);
        world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", self.sweep_age);
        world
    }

    /// Lives through it; afterwards every entry is there once, and no request was one too many.
    async fn live(&self, name: &str) {
        let mut world = self.world(name).await;
        world.daemon.start();
        let all = 2 * self.lane_entries();
        wait_until(self.patience, "everything late is indexed", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.sim.visible_entries() >= all
        })
        .await;
        world.collected(self.patience).await;
        assert_eq!(world.kafka_differences().await, Differences::default());
        let stats = world.sim.stats();
        assert_eq!(stats.over_limit, 0, "{stats:?}");
        println!("{name}: {all} entries, {} requests, {stats:?}", stats.requests);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_one_credential() {
    let day = Day {
        per_second: 8,
        credentials: 1,
        busy_s: 86_400,
        late_max_s: 72_000,
        settling: "10m",
        sweep_age: "24h",
        speed: 150.0,
        patience: Duration::from_hours(1),
    };
    let short = Day {
        busy_s: 900,
        late_max_s: 800,
        settling: "2m",
        sweep_age: "15m",
        speed: 90.0,
        patience: Duration::from_mins(3),
        ..day
    };
    if torture() { day.live("day").await } else { short.live("day-short").await }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_five_credentials() {
    let day = Day {
        per_second: 48,
        credentials: 5,
        busy_s: 86_400,
        late_max_s: 72_000,
        settling: "10m",
        sweep_age: "24h",
        speed: 60.0,
        patience: Duration::from_hours(2),
    };
    let short = Day {
        busy_s: 600,
        late_max_s: 500,
        settling: "2m",
        sweep_age: "10m",
        speed: 60.0,
        patience: Duration::from_mins(3),
        ..day
    };
    if torture() { day.live("days").await } else { short.live("days-short").await }
}

/// One request for a hundred entries, and few more.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_costs_a_request_for_a_hundred_entries() {
    const ENTRIES: u64 = 30_000;
    let traffic = |base: Traffic| Traffic { history_entries: ENTRIES, ..base };
    let config = SimConfig {
        entities: vec![SimEntity {
            web: traffic(Traffic::web()),
            git: Traffic::git(),
            ..SimEntity::new(EntityKind::Enterprise, "acme")
        }],
        ..SimConfig::default()
    };
    let mut world = World::new("backfill", Broker::shared().address(), config).await;
    world.daemon.start();
    wait_until(Duration::from_mins(3), "the backfill of web has ended", async || {
        let status = world.daemon.get("/status").await.map(|(_, body)| body).unwrap_or_default();
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&status) else { return false };
        let lanes = status["entities"][0]["lanes"].as_array().cloned().unwrap_or_default();
        lanes.iter().any(|lane| {
            let slices = lane["slices"].as_array().cloned().unwrap_or_default();
            lane["lane"] == "web" && slices.iter().all(|slice| slice["kind"] != "backfill")
        })
    })
    .await;
    world.collected(Duration::from_mins(1)).await;
    let pages =
        world.daemon.metric("ghauditd_slice_pages_total", "lane=\"web\",slice=\"backfill\"").await;
    let per_hundred = pages * 100.0 / 30_000.0;
    println!("backfill: {pages} requests for {ENTRIES} entries, {per_hundred:.3} for a hundred");
    assert!(per_hundred <= 1.05, "{pages} requests for {ENTRIES} entries");
}
