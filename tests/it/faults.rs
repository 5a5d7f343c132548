//! What GitHub, its clock, and the local disk may do to a running installation: one row of the fault table each.

use crate::support::kafka::{Broker, kcat_dump};
use crate::support::world::{Differences, World};
use crate::support::{secret_token, wait_until};
use ghauditd::audit::{EntityKind, Lane};
use ghauditd::sim::{Faults, SimConfig, SimEntity, Traffic};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// An entity with so many entries in each lane, before the start and at `live_per_second` after it.
fn entity(slug: &str, history: u64, live: u64, live_per_second: f64) -> SimEntity {
    let traffic = |base: Traffic| Traffic {
        history_entries: history,
        live_per_second,
        live_entries_max: Some(live),
        ..base
    };
    SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, slug)
    }
}

async fn world(name: &str, entities: Vec<SimEntity>, faults: Faults) -> World {
    let config = SimConfig { entities, faults, ..SimConfig::default() };
    World::new(name, Broker::shared().address(), config).await
}

/// Waits until GitHub has shown so many entries in all, so that no more come.
async fn visible(world: &World, entries: u64) {
    wait_until(LONG, "the traffic has ended", async || world.sim.visible_entries() >= entries)
        .await;
}

async fn assert_each_once(world: &World) {
    assert_eq!(world.kafka_differences().await, Differences::default());
}

async fn stop(world: &mut World) {
    world.daemon.term();
    assert_eq!(world.daemon.wait(LONG).await.code(), Some(0), "{}", world.daemon.log_tail());
}

/// The gaps that were recorded.
async fn gaps(world: &World) -> Vec<serde_json::Value> {
    let records = kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await;
    records.iter().map(|it| serde_json::from_slice(it.value.as_deref().unwrap()).unwrap()).collect()
}

/// Waits until this process has counted so many entries of a kind.
async fn counted(world: &World, counter: &str, entries: usize) {
    let name = format!("ghauditd_entries_{counter}_total");
    wait_until(LONG, &format!("{entries} entries {counter}"), async || {
        world.daemon.get("/metrics").await.is_some()
            && world.daemon.metric(&name, "").await >= f64::from(u32::try_from(entries).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_dated_2099_stop_neither_the_tail_nor_a_restart() {
    let faults = Faults { dated_2099: 3, ..Faults::default() };
    let mut world = world("future", vec![entity("acme", 300, 50, 10.0)], faults).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    world.collected(LONG).await;
    stop(&mut world).await;
    world.daemon.start();
    visible(&world, 2 * (300 + 50 + 3)).await;
    world.collected(LONG).await;
    world.daemon.kill9();
    world.daemon.start();
    world.daemon.ready(LONG).await;
    counted(&world, "known", 6).await;
    assert_each_once(&world).await;
    let in_2099 = world.sim.journal_entries().filter(|it| it.timestamp_ms > 4_000_000_000_000);
    assert_eq!(in_2099.count(), 6);
}

async fn five_thousand_in_one_second(name: &str, page_links: bool) -> World {
    let faults = Faults { burst: 5_000, page_links, ..Faults::default() };
    let mut world = world(name, vec![entity("acme", 5_500, 0, 0.0)], faults).await;
    world.daemon.start();
    counted(&world, "committed", 1_000).await;
    world.daemon.kill9();
    world.daemon.start();
    world.collected(LONG).await;
    assert_each_once(&world).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_entries_in_one_second() {
    let world = five_thousand_in_one_second("burst", false).await;
    // killed before the seen ids were flushed for the first time: nothing to be alarmed about
    let log = world.daemon.log();
    assert!(log.contains("before it had made its seen ids durable"), "{log}");
    assert!(!log.contains("damaged"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_entries_in_one_second_behind_links_that_count_pages() {
    five_thousand_in_one_second("burst-links", true).await;
}

/// Stops a daemon in the middle of backfills whose pages come unsorted. Such a slice is confirmed by reading all of it
/// once more, so whatever was committed before comes again after the next start. Returns how much that was.
async fn half_read(name: &str) -> (World, usize) {
    let faults = Faults {
        unsorted_pages: true,
        slow_first_byte: 1.0,
        slow_first_byte_ms: 150,
        ..Faults::default()
    };
    let mut world = world(name, vec![entity("acme", 1_500, 0, 0.0)], faults).await;
    world.daemon.start();
    counted(&world, "committed", 1_000).await;
    stop(&mut world).await;
    let found = world.kafka_differences().await;
    let committed = 3_000 - found.missing.len();
    assert!((1_000..2_500).contains(&committed), "not in the middle: {committed}");
    world.sim.set_faults(Faults { unsorted_pages: true, ..Faults::default() });
    (world, committed)
}

/// What half-read slices show again is recognised, and the rest is new.
async fn assert_goes_on_without_doubles(world: &mut World, committed: usize) {
    world.daemon.start();
    world.collected(LONG).await;
    counted(world, "known", committed).await;
    assert_each_once(world).await;
}

/// The files below the folder of seen ids whose names end so.
fn seen_files(world: &World, end: &str) -> Vec<PathBuf> {
    let mut folders = vec![world.daemon.home().join("state/seen")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_str().unwrap().ends_with(end) => files.push(path),
                false => {}
            }
        }
    }
    assert!(!files.is_empty(), "no files of seen ids named *{end}");
    files
}

/// Turns a bit in the middle of each of these files.
fn damage(files: &[PathBuf]) {
    for path in files {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_ids_that_are_whole_recognise_what_comes_again() {
    let (mut world, committed) = half_read("seen-whole").await;
    seen_files(&world, ".seen");
    assert_goes_on_without_doubles(&mut world, committed).await;
    let log = world.daemon.log();
    assert!(!log.contains("rebuilding") && !log.contains("durable"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_ids_that_were_deleted_come_back_from_kafka() {
    let (mut world, committed) = half_read("seen-deleted").await;
    std::fs::remove_dir_all(world.daemon.home().join("state")).unwrap();
    assert_goes_on_without_doubles(&mut world, committed).await;
    assert!(world.daemon.log().contains("seen ids brought up to date"));
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_ids_whose_buckets_are_damaged_come_back_from_kafka() {
    let (mut world, committed) = half_read("seen-bucket").await;
    damage(&seen_files(&world, ".seen"));
    assert_goes_on_without_doubles(&mut world, committed).await;
    let log = world.daemon.log();
    assert!(log.contains("seen ids are damaged") && log.contains(".seen is missing, cut"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_ids_whose_index_is_damaged_come_back_from_kafka() {
    let (mut world, committed) = half_read("seen-index").await;
    damage(&seen_files(&world, "/index"));
    assert_goes_on_without_doubles(&mut world, committed).await;
    let log = world.daemon.log();
    assert!(log.contains("seen ids are damaged") && log.contains("index is missing, cut"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_ids_of_another_cluster_are_not_believed() {
    let (mut world, committed) = half_read("seen-other").await;
    // another installation reads the same GitHub to its end with the same folder: would its seen ids be believed, the
    // first one would drop all that it has not read yet
    let own = std::mem::replace(&mut world.prefix, crate::support::unique("other"));
    world.configure("");
    world.daemon.start();
    world.collected(LONG).await;
    stop(&mut world).await;
    world.prefix = own;
    world.configure("");
    assert_goes_on_without_doubles(&mut world, committed).await;
    assert!(world.daemon.log().contains("removing seen ids of another instance"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_archive_costs_only_time() {
    let entities = vec![entity("acme", 1_000, 100, 5.0)];
    let mut world = world("full-archive", entities, Faults::default()).await;
    let folder = world.archive_dir();
    let Some(disk) = world.daemon.start_on_full_disk(&folder, 8 << 20) else { return };
    let words = ["archive", "degraded", folder.to_str().unwrap(), "free space"];
    world.daemon.not_ready(&words, LONG).await;
    disk.free();
    world.daemon.ready(LONG).await;
    disk.fill();
    let words = ["archive", "degraded", "store a segment", folder.to_str().unwrap(), "free space"];
    world.daemon.not_ready(&words, LONG).await;
    visible(&world, 2 * 1_100).await;
    world.collected(LONG).await;
    assert_each_once(&world).await;
    disk.free();
    wait_until(LONG, "all is archived", async || {
        world.archive_differences_in(disk.path()).missing.is_empty()
    })
    .await;
    assert_eq!(world.archive_differences_in(disk.path()), Differences::default());
    world.daemon.ready(LONG).await;
    let log = world.daemon.log();
    let told = log.lines().filter(|it| it.contains("WARN") && it.contains("file system is full"));
    let told: Vec<&str> = told.collect();
    assert!(told.len() < 5 && told[0].contains(folder.to_str().unwrap()), "{log}");
    assert!(log.contains("the store answers again"), "{log}");
}

/// Full at the start, freed, and full again in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_state_costs_only_time() {
    let slow = Faults { slow_first_byte: 1.0, slow_first_byte_ms: 100, ..Faults::default() };
    let mut world = world("full-state", vec![entity("acme", 1_000, 30, 5.0)], slow).await;
    let folder = world.daemon.home().join("state");
    let Some(disk) = world.daemon.start_on_full_disk(&folder, 32 << 20) else { return };
    let words = ["state", "starting", folder.to_str().unwrap(), "No space left", "free or repair"];
    world.daemon.not_ready(&words, LONG).await;
    disk.free();
    counted(&world, "committed", 300).await;
    disk.fill();
    let words = ["kafka/acme", "degraded", folder.to_str().unwrap(), "No space left"];
    world.daemon.not_ready(&words, LONG).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!world.kafka_differences().await.missing.is_empty(), "it was not full in the middle");
    disk.free();
    world.collected(LONG).await;
    world.daemon.ready(LONG).await;
    assert_each_once(&world).await;
    assert_eq!(world.daemon.log().matches(" starting").count(), 1, "it had to be started again");
}

/// Stops a daemon that has collected all, and lets GitHub's time go on by `days`, with an entry each 1,000 seconds.
async fn away_for(name: &str, days: u32) -> World {
    let live = u64::from(days) * 86;
    let mut world = world(name, vec![entity("acme", 300, live, 0.001)], Faults::default()).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    world.collected(LONG).await;
    stop(&mut world).await;
    world.sim.advance(DAY * days);
    assert_eq!(world.sim.visible_entries(), 2 * (300 + live));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn five_days_away_everything_that_github_still_has_is_collected() {
    let mut world = away_for("five-days", 5).await;
    world.daemon.start();
    world.collected(LONG).await;
    assert_each_once(&world).await;
    assert_eq!(gaps(&world).await, Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_days_away_what_has_expired_is_told_as_a_gap() {
    let mut world = away_for("nine-days", 9).await;
    let now_ms = world.sim.now_ms();
    let (expired, kept): (Vec<_>, Vec<_>) = world
        .sim
        .journal_entries()
        .filter(|it| !it.served)
        .partition(|it| it.expires_at_ms.is_some_and(|at| at <= now_ms));
    assert!(expired.len() > 100 && kept.len() > 700, "{} {}", expired.len(), kept.len());
    assert!(expired.iter().all(|it| it.lane == Lane::Git));
    world.daemon.start();
    wait_until(LONG, "all that is kept is collected", async || {
        world.kafka_differences().await.missing.len() == expired.len()
    })
    .await;
    let missing = expired.iter().map(|it| format!("{}/{}", it.entity, it.id));
    let found = world.kafka_differences().await;
    assert_eq!(BTreeSet::from_iter(found.missing.clone()), missing.collect::<BTreeSet<_>>());
    assert_eq!(found, Differences { missing: found.missing.clone(), ..Differences::default() });

    let edge = |gap: &serde_json::Value, name: &str| -> i64 {
        gap[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
    };
    let times = || expired.iter().map(|it| it.timestamp_ms);
    wait_until(LONG, "the gap is recorded to its end", async || {
        gaps(&world).await.iter().any(|gap| edge(gap, "to") >= times().max().unwrap())
    })
    .await;
    // what the tail had read just before the stop had no time to be read again: told apart
    let (again, gaps): (Vec<_>, Vec<_>) =
        gaps(&world).await.into_iter().partition(|gap| gap["cause"] == "not_read_again");
    let length_ms = |gap: &serde_json::Value| edge(gap, "to") - edge(gap, "from");
    assert!(
        again.iter().all(|gap| gap["lane"] == "git" && length_ms(gap) < 3_600_000),
        "{again:?}"
    );
    // one for each slice, each beginning where the one before it ends
    let lane_and_cause = (&"git".into(), &"expired".into());
    assert!(gaps.iter().all(|gap| (&gap["lane"], &gap["cause"]) == lane_and_cause), "{gaps:?}");
    let mut spans: Vec<_> = gaps.iter().map(|gap| (edge(gap, "from"), edge(gap, "to"))).collect();
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 == pair[1].0), "{gaps:?}");
    let (from, to) = (spans[0].0, spans[spans.len() - 1].1);
    assert!(from <= times().min().unwrap() && to >= times().max().unwrap(), "{gaps:?}");
    assert!(to - from < 3 * 86_400_000, "{gaps:?}");
    assert!(world.daemon.log().contains("a gap was recorded"), "{}", world.daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_cut_goes_to_the_dead_letters_and_the_lane_goes_on() {
    let faults = Faults { uncuttable: 0.005, ..Faults::default() };
    let mut world = world("uncuttable", vec![entity("acme", 500, 20, 5.0)], faults).await;
    world.daemon.start();
    visible(&world, 2 * 520).await;
    world.collected(LONG).await;
    let uncuttable = world.sim.journal_entries().filter(|it| it.uncuttable);
    let uncuttable: BTreeSet<String> =
        uncuttable.map(|it| format!("{}/{}", it.entity, it.id)).collect();
    assert!(!uncuttable.is_empty());
    wait_until(LONG, "all dead letters are there", async || {
        world.kafka_differences().await.extra.len() == uncuttable.len()
    })
    .await;
    // every slice is read twice before it ends: a second letter or gap would come then
    counted(&world, "known", 900).await;
    let found = world.kafka_differences().await;
    assert_eq!(BTreeSet::from_iter(found.extra.clone()), uncuttable);
    assert_eq!(found, Differences { extra: found.extra.clone(), ..Differences::default() });
    let dead = kcat_dump(&world.brokers, &world.topic("github.audit.dlq")).await;
    assert_eq!(dead.len(), uncuttable.len());
    let gaps = gaps(&world).await;
    assert!(gaps.iter().all(|gap| gap["cause"] == "uncuttable_page"), "{gaps:?}");
    assert_eq!(gaps.len(), uncuttable.len(), "{gaps:?}");
    let log = world.daemon.log();
    assert_eq!(
        log.matches("cannot be cut: it is in the dead-letter topic whole").count(),
        uncuttable.len(),
        "one line for each: {log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_in_its_file_without_a_restart() {
    let mut world = world("revoked", vec![entity("acme", 200, 60, 10.0)], Faults::default()).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    let token = secret_token();
    world.sim.set_token(&token);
    wait_until(LONG, "the 401 is told", async || {
        let (status, reasons) = world.daemon.get("/readyz").await.unwrap();
        status == 503 && reasons.contains("github/acme") && reasons.contains("revoked")
    })
    .await;
    visible(&world, 2 * 260).await;
    assert_ne!(world.kafka_differences().await.missing, Vec::<String>::new());
    world.daemon.write("token", &token);
    world.collected(Duration::from_secs(10)).await;
    assert_each_once(&world).await;
    world.daemon.ready(LONG).await;
    let log = world.daemon.log();
    assert!(log.contains("GitHub answers again"), "{log}");
    assert_eq!(log.matches(" starting").count(), 1, "no restart: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_that_is_denied_does_not_stop_another() {
    let faults =
        Faults { forbidden: 1.0, only_entity: Some("octo".to_owned()), ..Faults::default() };
    let entities = vec![entity("octo", 200, 0, 0.0), entity("acme", 500, 30, 10.0)];
    let mut world = world("denied", entities, faults).await;
    world.daemon.start();
    visible(&world, 2 * (200 + 530)).await;
    wait_until(LONG, "acme is collected", async || {
        world.kafka_differences().await.missing.iter().all(|it| it.starts_with("octo/"))
    })
    .await;
    let found = world.kafka_differences().await;
    assert_eq!(found.missing.len(), 400);
    assert_eq!(found, Differences { missing: found.missing.clone(), ..Differences::default() });
    let (status, reasons) = world.daemon.get("/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(reasons.contains("github/octo") && !reasons.contains("github/acme"), "{reasons}");
    assert!(reasons.contains("read:audit_log"), "{reasons}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_is_obeyed() {
    let config = SimConfig {
        entities: vec![entity("acme", 1000, 0, 0.0)],
        rate_limit_per_hour: 12,
        rate_limit_window_s: 3,
        ..SimConfig::default()
    };
    let mut world = World::new("budget", Broker::shared().address(), config).await;
    world.daemon.start();
    world.collected(LONG).await;
    assert_each_once(&world).await;
    let stats = world.sim.stats();
    assert!(stats.requests > 20 && stats.over_limit <= 2, "{stats:?}");
    world.daemon.ready(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_somebody_else_used_up_is_waited_for() {
    let faults = Faults { primary_limit: 1.0, at_most: 2, ..Faults::default() };
    let mut world = world("used-up", vec![entity("acme", 300, 0, 0.0)], faults).await;
    world.daemon.start();
    world.collected(LONG).await;
    assert_each_once(&world).await;
    assert_eq!(world.sim.stats().faults.get("primary_limit"), Some(&2));
    let log = world.daemon.log();
    assert!(log.contains("rate limited, waiting") && log.contains("primary"), "{log}");
}
