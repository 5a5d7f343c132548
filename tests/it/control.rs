//! Commands that change something: asked of the daemon, executed once whatever is killed, and recorded.

use crate::support::daemon::run;
use crate::support::kafka::{Broker, kcat_dump};
use crate::support::world::{Differences, World};
use crate::support::{seed, torture, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{SimClock, SimConfig, SimEntity, Traffic};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);
const HISTORY: u64 = 200;
const LIVE: u64 = 500;

/// An enterprise with entries before the start, and 500 live ones in each lane within 17 simulated minutes (17 seconds).
async fn world(name: &str) -> World {
    let traffic = |base: Traffic| Traffic {
        history_entries: HISTORY,
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
        clock: SimClock { speed: 60.0, ..SimClock::default() },
        ..SimConfig::default()
    };
    let mut world = World::new(name, Broker::shared().address(), config).await;
    world.daemon.env("GHAUDITD__COLLECT__SETTLING", "1m");
    world.daemon.env("GHAUDITD__COLLECT__SWEEP_AGES", "10m");
    world.daemon.env("SUDO_USER", "alice");
    world
}

/// Waits until so many entries are collected.
async fn some(world: &World, entries: u64) {
    wait_until(LONG, "some entries are collected", async || world.records().await >= entries).await;
}

/// Waits until GitHub has shown all there will be, and all of it is collected.
async fn all(world: &mut World) {
    wait_until(LONG, "all is to be seen", async || {
        world.sim.visible_entries() >= 2 * (HISTORY + LIVE)
    })
    .await;
    world.collected(LONG).await;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command prints that succeeds.
fn ok(world: &World, args: &[&str]) -> String {
    let output = world.daemon.command(args);
    let complaints = text(&output.stderr);
    assert!(output.status.success(), "{args:?}: {complaints}\n{}", world.daemon.log_tail());
    text(&output.stdout)
}

/// Exit code and complaints of a command that does not; what differs from run to run is replaced.
fn refused(world: &World, args: &[&str]) -> String {
    let output = world.daemon.command(args);
    let code = output.status.code().unwrap();
    assert_ne!(code, 0, "{args:?}: {}", text(&output.stdout));
    let home = world.daemon.home().to_str().unwrap().to_owned();
    format!("{code} {}", text(&output.stderr).replace(&home, "HOME"))
}

/// The records of the operations topic, in their order.
async fn operations(world: &World) -> Vec<Value> {
    let mut records = kcat_dump(&world.brokers, &world.topic("ghauditd.operations")).await;
    records.sort_by_key(|record| record.offset);
    let parse = |value: Option<Vec<u8>>| serde_json::from_slice(&value.unwrap()).unwrap();
    records.into_iter().map(|record| parse(record.value)).collect()
}

/// Each request has exactly one result.
async fn answered_once(world: &World) -> BTreeMap<String, Value> {
    let records = operations(world).await;
    let of =
        |kind: &str| records.iter().filter(|it| it["kind"] == kind).cloned().collect::<Vec<_>>();
    let (requests, results) = (of("request"), of("result"));
    let answers: BTreeMap<String, Value> =
        results.iter().map(|it| (it["request"].as_str().unwrap().to_owned(), it.clone())).collect();
    assert_eq!(answers.len(), results.len(), "answered twice: {results:?}");
    assert_eq!(requests.len(), results.len(), "{requests:?} {results:?}");
    answers
}

/// Waits until nothing is open but the tails.
async fn settled(world: &World) {
    wait_until(LONG, "all is read again", async || {
        let shown = ok(world, &["checkpoint", "show", "acme", "--json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let lanes = shown["entities"][0]["lanes"].as_object().unwrap();
        lanes.values().all(|lane| lane["slices"].as_array().unwrap().len() == 1)
    })
    .await;
}

async fn assert_each_once(world: &World) {
    assert_eq!(world.kafka_differences().await, Differences::default());
    assert_eq!(world.checkpoint_sequence("acme").await, world.records().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_again_after_a_restore_is_dropped_and_every_act_is_on_record() {
    let mut world = world("restore").await;
    world.daemon.start();
    some(&world, 2 * HISTORY + 50).await;
    let saved = ok(&world, &["checkpoint", "save", "before", "--reason", "ticket 42"]);
    assert!(saved.starts_with("saved as before: sequence "), "{saved}");
    all(&mut world).await;
    let list = ok(&world, &["checkpoint", "list"]);
    assert!(list.contains("before") && list.contains("alice on "), "{list}");
    let diff = ok(&world, &["checkpoint", "diff", "before", "current"]);
    assert!(diff.contains("read once only in current: "), "{diff}");
    assert!(!diff.contains("read once only in before: "), "{diff}");

    let dry = ok(&world, &["checkpoint", "restore", "before"]);
    for words in
        ["saved at ", "by alice on ", "(ticket 42)", "web: ", "git: ", " is read again, about "]
    {
        assert!(dry.contains(words), "{words}: {dry}");
    }
    assert!(
        dry.ends_with("Nothing has been changed. To do it: --execute --reason TEXT\n"),
        "{dry}"
    );
    let known = world.daemon.metric("ghauditd_entries_known_total", "").await;
    let args = ["checkpoint", "restore", "before", "--execute", "--reason", "a test", "--json"];
    let restored: Value = serde_json::from_str(&ok(&world, &args)).unwrap();
    assert_eq!(restored["outcome"], "done");
    assert!(restored["details"]["web"]["again"][0].is_array(), "{restored}");
    let since = restored["details"]["web"]["entries"].as_u64().unwrap()
        + restored["details"]["git"]["entries"].as_u64().unwrap();
    assert!(since > 100, "{since} entries since");
    settled(&world).await;
    let read_again = world.daemon.metric("ghauditd_entries_known_total", "").await - known;
    assert!(read_again >= f64::from(u32::try_from(since).unwrap()), "{read_again} of {since}");
    assert_each_once(&world).await;
    assert_eq!(kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await, []);

    let records = operations(&world).await;
    let kinds: Vec<_> = records.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["request", "result", "request", "result"]);
    assert!(records.iter().all(|it| it["by"]["user"] == "alice"));
    assert_eq!([&records[0]["reason"], &records[2]["reason"]], ["ticket 42", "a test"]);
    assert_eq!(records[2]["operation"]["do"], "restore_checkpoint");
    assert_ne!(records[2]["by"]["pid"], records[3]["by"]["pid"], "the daemon answers");
}

/// A command as a process of its own, that waits while the test goes on.
fn in_background(world: &World, args: &[&str]) -> tokio::task::JoinHandle<Output> {
    let config = world.daemon.config().to_str().unwrap().to_owned();
    let args: Vec<String> = args.iter().map(|it| (*it).to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["--config", &config, "--wait", "90s"]);
        run(&args, [])
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_executed_once_whenever_the_daemon_is_killed() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut world = world("once").await;
    world.daemon.start();
    some(&world, 2 * HISTORY + 50).await;
    ok(&world, &["checkpoint", "save", "first"]);
    world.daemon.kill9();
    // written while nobody runs: executed by the next start
    let waiting = in_background(&world, &["checkpoint", "save", "second"]);
    wait_until(LONG, "the request is written", async || operations(&world).await.len() == 3).await;
    world.daemon.start();
    assert!(waiting.await.unwrap().status.success());
    for round in 0..if torture() { 30 } else { 4 } {
        let name = format!("round-{round}");
        let restore =
            ["checkpoint", "restore", "first", "--execute", "--reason", "again and again"];
        let save = ["checkpoint", "save", &name];
        let waiting = in_background(&world, if round % 2 == 0 { &restore } else { &save });
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        world.daemon.kill9();
        world.daemon.start();
        let output = waiting.await.unwrap();
        assert!(output.status.success(), "{output:?}\n{}", world.daemon.log_tail());
    }
    let answers = answered_once(&world).await;
    assert!(answers.values().all(|it| it["outcome"] == "done"), "{answers:?}");
    all(&mut world).await;
    settled(&world).await;
    assert_each_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_it_is_done_here_and_files_bring_checkpoints_back() {
    let mut world = world("offline").await;
    world.daemon.start();
    some(&world, 2 * HISTORY + 50).await;
    let busy = refused(&world, &["checkpoint", "save", "early", "--offline"]);
    assert!(
        busy.starts_with("5 ") && busy.contains("--offline is for when no daemon runs"),
        "{busy}"
    );
    world.daemon.kill9();
    let silent = refused(&world, &["checkpoint", "save", "early", "--wait", "1s"]);
    assert!(
        silent.starts_with("10 ") && silent.contains("no daemon has answered within 1s"),
        "{silent}"
    );
    let saved = ok(&world, &["checkpoint", "save", "early", "--offline"]);
    assert!(saved.starts_with("saved as early"), "{saved}");
    // the one that nobody waited for any more was refused, not executed
    let answers = answered_once(&world).await;
    let late: Vec<_> = answers.values().filter(|it| it["outcome"] == "refused").collect();
    assert_eq!(late.len(), 1);
    assert!(late[0]["message"].as_str().unwrap().starts_with("it came too late"), "{late:?}");

    let file = world.daemon.home().join("early.json");
    let file = file.to_str().unwrap();
    ok(&world, &["checkpoint", "export", "early", "-o", file]);
    world.daemon.start();
    all(&mut world).await;
    let imported = ok(&world, &["checkpoint", "import", file, "--name", "from-a-file"]);
    assert!(imported.starts_with("imported as from-a-file"), "{imported}");
    ok(&world, &["checkpoint", "delete", "early"]);
    let diff = ok(&world, &["checkpoint", "diff", "from-a-file", "current", "--json"]);
    assert!(serde_json::from_str::<Value>(&diff).unwrap()["lanes"]["web"]["only_b"].is_array());
    ok(&world, &["checkpoint", "show", "--saved", "from-a-file"]);
    insta::assert_snapshot!("wrong", messages(&world, file));

    world.daemon.term();
    world.daemon.wait(LONG).await;
    let args = ["checkpoint", "restore", "from-a-file", "--execute", "--offline", "--reason", "x"];
    let restored = ok(&world, &args);
    assert!(restored.starts_with("gone back to from-a-file: "), "{restored}");
    world.daemon.start();
    settled(&world).await;
    assert_each_once(&world).await;
    answered_once(&world).await;
}

/// Each bad input, and what is said.
fn messages(world: &World, file: &str) -> String {
    let good = std::fs::read_to_string(file).unwrap();
    let instance = serde_json::from_str::<Value>(&good).unwrap()["instance"].clone();
    let write =
        |name: &str, text: &str| world.daemon.write(name, text).to_str().unwrap().to_owned();
    let damaged = write("damaged.json", &good.replace("\"sequence\": ", "\"sequence\": 1"));
    let newer = write(
        "newer.json",
        &good.replace("\"ghauditd_checkpoint\": 1", "\"ghauditd_checkpoint\": 9"),
    );
    let other = write("other.json", OTHER_INSTALLATION);
    let no_file = world.daemon.home().join("none.json").to_str().unwrap().to_owned();
    let import = |file: &str| refused(world, &["checkpoint", "import", file, "--name", "x"]);
    let rows = [
        refused(world, &["checkpoint", "save", "from-a-file"]),
        refused(world, &["checkpoint", "save", "current"]),
        refused(world, &["checkpoint", "save", "Has Spaces"]),
        refused(world, &["checkpoint", "save", "x", "--entity", "nobody"]),
        refused(world, &["checkpoint", "save", "x", "--reason", " "]),
        refused(world, &["checkpoint", "delete", "nothing"]),
        refused(world, &["checkpoint", "restore", "nothing"]),
        refused(world, &["checkpoint", "restore", "from-a-file", "--execute"]),
        refused(world, &["checkpoint", "diff", "current", "nothing"]),
        refused(world, &["checkpoint", "show", "--saved", "nothing"]),
        refused(world, &["checkpoint", "export", "current", "-o", file]),
        import(&damaged),
        import(&newer),
        import(&other),
        import(&no_file),
        refused(world, &["checkpoint", "import", file, "--name", "x", "--entity", "nobody"]),
    ];
    let rows = rows.join("").replace(instance.as_str().unwrap(), "INSTANCE");
    masked(&rows.replace(&hostname(), "HOST"))
}

/// The same with what differs from run to run replaced: times, checksums, process ids.
fn masked(text: &str) -> String {
    let mask = |word: &str| {
        let plain = word.trim_end_matches([';', ',', ')']);
        let is_hex = plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
        if plain.parse::<jiff::Timestamp>().is_ok() {
            word.replace(plain, "TIME")
        } else if is_hex {
            word.replace(plain, "SHA256")
        } else if word.ends_with(')') && plain.parse::<u32>().is_ok() {
            word.replace(plain, "PID")
        } else {
            word.to_owned()
        }
    };
    let line = |line: &str| line.split(' ').map(mask).collect::<Vec<_>>().join(" ");
    text.lines().filter(|line| !line.is_empty()).map(line).collect::<Vec<_>>().join("\n")
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

/// A sound file of an installation that is not this one.
const OTHER_INSTALLATION: &str = r#"{"ghauditd_checkpoint":1,"instance":"i","entity":"acme","name":"before","exported_ms":5,
"checkpoint":{"entity":"acme","github_now_ms":null,"lanes":{},"sequence":7,"version":3},
"sha256":"3562ecbc1d2432a9c3ef29019e7c8a3f5a9d55eca485dc4c34d70d4478c35e81"}"#;
