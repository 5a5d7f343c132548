//! Tried as a new operator would: each mistake and each outage, and what the program says about it.
//!
//! The words that are asserted are those an operator needs: what is wrong, where, and what to do.

use crate::support::daemon::Daemon;
use crate::support::kafka::{Broker, kcat_dump, kcat_dump_uncommitted};
use crate::support::s3::S3;
use crate::support::world::{Differences, World};
use crate::support::{secret_token, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimConfig, SimEntity, Traffic};
use std::path::Path;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_mins(1);

/// An enterprise `acme` with so many entries in each lane, before the start and live.
async fn world(name: &str, broker: &Broker, history: u64, live: u64, faults: Faults) -> World {
    let traffic = |base: Traffic| Traffic {
        history_entries: history,
        live_per_second: 10.0,
        live_entries_max: Some(live),
        ..base
    };
    let acme = SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let config = SimConfig { entities: vec![acme], faults, ..SimConfig::default() };
    World::new(name, broker.address(), config).await
}

async fn assert_each_once(world: &World) {
    assert_eq!(world.kafka_differences().await, Differences::default());
}

fn assert_logged(daemon: &Daemon, words: &[&str]) {
    let log = daemon.log();
    let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line with {words:?} in:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_named_with_its_file_and_a_right_one_is_taken_at_once() {
    let mut world = world("wrong-token", &Broker::shared(), 200, 0, Faults::default()).await;
    let right = std::fs::read_to_string(world.daemon.home().join("token")).unwrap();
    let wrong = secret_token();
    let file = world.daemon.write("token", &wrong);
    world.daemon.start();
    let words = ["acme", "Bad credentials", "wrong, expired or revoked", file.to_str().unwrap()];
    world.daemon.not_ready(&words, LONG).await;
    assert_logged(&world.daemon, &[&["WARN"], &words[..]].concat());
    world.daemon.write("token", &right);
    world.collected(Duration::from_secs(15)).await;
    world.daemon.ready(LONG).await;
    assert_logged(&world.daemon, &["acme", "GitHub answers again"]);
    let log = world.daemon.log();
    assert!(!log.contains(&wrong) && !log.contains(&right), "a token is in the log");
    assert_each_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_told_with_what_is_needed() {
    let faults = Faults { not_found: 1.0, ..Faults::default() };
    let mut world = world("no-permission", &Broker::shared(), 10, 0, faults).await;
    world.daemon.start();
    let words = ["acme", "Not Found", "check `slug`", "read:audit_log", "own the enterprise"];
    world.daemon.not_ready(&words, LONG).await;
    assert_logged(&world.daemon, &[&["WARN"], &words[..]].concat());
    // told once, and not asked without end
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.daemon.log().matches("GitHub refuses").count(), 1);
    assert!(world.sim.stats().requests < 5, "{:?}", world.sim.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_after_the_daemon_is_waited_for() {
    let broker = Broker::own("op-late").await;
    broker.stop().await;
    let mut world = world("op-late", &broker, 200, 0, Faults::default()).await;
    world.daemon.start();
    let words = ["kafka", "starting", broker.address()];
    world.daemon.not_ready(&words, LONG).await;
    let line = ["WARN", "cannot start yet, trying again", broker.address()];
    wait_until(LONG, "the wait is told", async || {
        world.daemon.log().lines().any(|it| line.iter().all(|word| it.contains(word)))
    })
    .await;
    assert_eq!(world.daemon.get("/livez").await.unwrap().0, 200, "it waits, it is not stuck");
    broker.start().await;
    world.collected(LONG).await;
    world.daemon.ready(LONG).await;
    assert_each_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_in_the_middle_costs_only_time() {
    let broker = Broker::own("op-away").await;
    let mut world = world("op-away", &broker, 1000, 150, Faults::default()).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    broker.stop().await;
    // told long before the transaction's time is over
    let words = ["kafka/acme", "commit is under way", "the broker has gone away", broker.address()];
    world.daemon.not_ready(&words, LONG).await;
    assert_logged(&world.daemon, &["WARN", "the broker has gone away", broker.address()]);
    assert!(!world.daemon.log().contains("security.protocol"), "{}", world.daemon.log());
    broker.start().await;
    world.collected(LONG).await;
    world.archived(LONG).await;
    world.daemon.ready(LONG).await;
    assert_each_once(&world).await;
    assert_eq!(world.archive_differences(), Differences::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_lock_is_named_while_collecting_goes_on() {
    let s3 = S3::shared();
    let bucket = s3.create_bucket("unlocked", false, true).await;
    let mut world = world("unlocked", &Broker::shared(), 300, 0, Faults::default()).await;
    world.archive_to_s3(&s3.endpoint, &bucket);
    world.configure("");
    world.daemon.start();
    let words = ["archive", "degraded", "Object Lock", &bucket, "make a new bucket"];
    world.daemon.not_ready(&words, LONG).await;
    assert_logged(&world.daemon, &["ERROR", "Object Lock", &bucket, "collecting goes on"]);
    world.collected(LONG).await;
    assert_each_once(&world).await;
    assert!(world.daemon.running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_ends_with_code_3_and_all_its_faults() {
    let mut world = world("wrong-config", &Broker::shared(), 1, 0, Faults::default()).await;
    let right = std::fs::read_to_string(world.daemon.config()).unwrap();
    let wrong = right
        .replace("kind = \"enterprise\"", "kind = \"enterprize\"")
        .replace("poll_interval_min = \"1s\"", "poll_intervall_min = \"1s\"")
        .replace("retention = \"1d\"", "retention = \"soon\"");
    world.daemon.configure(&wrong);
    world.daemon.start();
    assert_eq!(world.daemon.wait(LONG).await.code(), Some(3), "{}", world.daemon.log_tail());
    assert_logged(&world.daemon, &["ERROR", "kind", "enterprize", "organization"]);
    assert_logged(&world.daemon, &["ERROR", "poll_intervall_min", "poll_interval_min"]);
    assert_logged(&world.daemon, &["ERROR", "archive.retention", "soon"]);
    std::fs::remove_file(world.daemon.home().join("token")).unwrap();
    world.daemon.configure(&right);
    world.daemon.start();
    assert_eq!(world.daemon.wait(LONG).await.code(), Some(3), "{}", world.daemon.log_tail());
    let token = world.daemon.home().join("token");
    assert_logged(&world.daemon, &["ERROR", "token_file", token.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_port_that_is_taken_is_named() {
    let mut world = world("taken", &Broker::shared(), 1, 0, Faults::default()).await;
    let taken = std::net::TcpListener::bind(world.daemon.admin()).unwrap();
    world.daemon.start();
    assert_eq!(world.daemon.wait(LONG).await.code(), Some(1), "{}", world.daemon.log_tail());
    let address = world.daemon.admin().to_string();
    assert_logged(&world.daemon, &["ERROR", "admin.listen", &address]);
    drop(taken);
    world.daemon.start();
    world.daemon.ready(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_is_quick_and_leaves_nothing_half_committed() {
    let slow = Faults { slow_first_byte: 1.0, slow_first_byte_ms: 200, ..Faults::default() };
    let mut world = world("stopped", &Broker::shared(), 2000, 0, slow).await;
    world.daemon.start();
    wait_until(LONG, "a part is committed", async || {
        world.daemon.get("/metrics").await.is_some()
            && world.daemon.metric("ghauditd_entries_committed_total", "").await >= 200.0
    })
    .await;
    let begun = Instant::now();
    world.daemon.term();
    assert_eq!(world.daemon.wait(LONG).await.code(), Some(0), "{}", world.daemon.log_tail());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_logged(&world.daemon, &["INFO", "stopped", "SIGTERM"]);
    let found = world.kafka_differences().await;
    assert!(!found.missing.is_empty(), "it was not stopped in the middle");
    assert_eq!(found, Differences { missing: found.missing.clone(), ..Differences::default() });
    for topic in ["github.audit.web", "github.audit.git", "ghauditd.checkpoints"] {
        let topic = world.topic(topic);
        let all = kcat_dump_uncommitted(&world.brokers, &topic).await;
        assert_eq!(all, kcat_dump(&world.brokers, &topic).await, "{topic}: open or aborted");
    }
    world.sim.set_faults(Faults::default());
    world.daemon.start();
    world.collected(LONG).await;
    assert_each_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_broker_is_away_ends_within_the_grace() {
    let broker = Broker::own("op-gone").await;
    let mut world = world("op-gone", &broker, 100, 300, Faults::default()).await;
    world.configure("[daemon]\ngrace = \"2s\"\n");
    world.daemon.start();
    world.daemon.ready(LONG).await;
    broker.stop().await;
    world.daemon.not_ready(&["kafka/acme", "commit is under way"], LONG).await;
    world.daemon.term();
    let code = world.daemon.wait(Duration::from_secs(10)).await.code();
    assert_eq!(code, Some(0), "{}", world.daemon.log_tail());
    let words = ["WARN", "daemon.grace", "left to the next start", "acme (a commit under way)"];
    assert_logged(&world.daemon, &words);
    assert_logged(&world.daemon, &["INFO", "stopped", "SIGTERM"]);
    broker.start().await;
    world.daemon.start();
    world.collected(LONG).await;
    assert_each_once(&world).await;
}

/// The configuration of the first daemon with an admin port of its own, and its files in `folder`.
fn configure_second(world: &World, second: &Daemon, folder: &Path) {
    let config = std::fs::read_to_string(world.daemon.config()).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let config = config
        .replace(&text(world.daemon.home()), &text(folder))
        .replace(&world.daemon.admin().to_string(), &second.admin().to_string());
    second.configure(&config);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_in_one_state_folder_leaves_the_first_alone() {
    let mut world = world("one-folder", &Broker::shared(), 300, 0, Faults::default()).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    let mut second = Daemon::new("one-folder-second");
    configure_second(&world, &second, world.daemon.home());
    second.start();
    assert_eq!(second.wait(LONG).await.code(), Some(5), "{}", second.log_tail());
    assert_logged(
        &second,
        &["ERROR", "is in use by another ghauditd", "a state folder of its own"],
    );
    world.collected(LONG).await;
    world.daemon.ready(LONG).await;
    assert_each_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_with_one_prefix_the_older_one_gives_way_and_says_to_whom() {
    let mut world = world("two", &Broker::shared(), 500, 100, Faults::default()).await;
    world.daemon.start();
    world.daemon.ready(LONG).await;
    let mut second = Daemon::new("two-second");
    configure_second(&world, &second, second.home());
    std::fs::copy(world.daemon.home().join("token"), second.home().join("token")).unwrap();
    second.start();
    second.ready(LONG).await;
    let pid = second.pid().unwrap().to_string();
    assert_eq!(world.daemon.wait(LONG).await.code(), Some(5), "{}", world.daemon.log_tail());
    let words = ["ERROR", "owned by another ghauditd", &pid, "stop one of the two", "id_prefix"];
    assert_logged(&world.daemon, &words);
    wait_until(LONG, "the second one collects all", async || {
        let ended = world.sim.visible_entries() >= 2 * (500 + 100);
        ended && world.kafka_differences().await.missing.is_empty()
    })
    .await;
    assert!(second.running(), "{}", second.log_tail());
    assert_each_once(&world).await;
}
