//! The Kafka cluster is lost: its state is rebuilt from the archive, and nothing that is archived is collected twice.
//!
//! Another topic prefix on the shared broker is another, empty cluster to the daemon.

use crate::support::kafka::{Broker, KcatRecord, kcat_dump};
use crate::support::world::{Seen, World, archived};
use crate::support::{unique, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Faults, SimConfig, SimEntity, Traffic};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);
const STEP: u64 = 10_000_000_000;
const HISTORY: u64 = 250;

/// An enterprise with all the oddities of entries that a fingerprint must not stumble over.
async fn world(name: &str, live: u64) -> World {
    let traffic = |base: Traffic| Traffic {
        history_entries: HISTORY,
        live_per_second: 20.0,
        live_entries_max: Some(live),
        ..base
    };
    let acme = SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let odd = 0.02;
    let faults = Faults {
        reused_id: odd,
        missing_times: odd,
        missing_timestamp: odd,
        missing_created_at: odd,
        missing_document_id: odd,
        wrong_types: odd,
        array_org: odd,
        invalid_utf8: odd,
        duplicate_members: odd,
        deep_nesting: odd,
        dated_2099: 2,
        huge_entry: 0.005,
        ..Faults::default()
    };
    let config = SimConfig { entities: vec![acme], faults, ..SimConfig::default() };
    World::new(name, Broker::shared().address(), config).await
}

/// Collects and archives everything, and ends the daemon as a lost host does.
async fn collect(world: &mut World) {
    world.daemon.start();
    world.collected(LONG).await;
    world.archived(LONG).await;
    world.daemon.kill9();
}

/// From now on the brokers have nothing.
fn lose_the_cluster(world: &mut World) {
    world.prefix = unique("new");
    world.archive_to_folder("archive");
    world.configure("");
}

/// Segment objects below a folder, ascending.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.join("segments")];
    while let Some(folder) = open.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Removes the newest segment of some partitions: what was in Kafka only.
fn unarchive_the_newest(folder: &Path) -> usize {
    let mut newest: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for path in segments(folder) {
        newest.insert(path.parent().unwrap().to_owned(), path);
    }
    let web =
        newest.iter().filter(|(partition, _)| partition.to_string_lossy().contains("audit.web"));
    let gone: Vec<_> = web.map(|(_, path)| path.clone()).take(2).collect();
    for path in &gone {
        std::fs::remove_file(path).unwrap();
    }
    gone.len()
}

fn held(folder: &Path) -> BTreeMap<Seen, usize> {
    let mut held = BTreeMap::new();
    for path in segments(folder) {
        for (seen, times) in archived(&std::fs::read(path).unwrap()) {
            *held.entry(seen).or_insert(0) += times;
        }
    }
    held
}

fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

const REBUILD: [&str; 3] = ["checkpoint", "rebuild", "--from-archive"];

fn rebuild(world: &World, more: &[&str]) -> Output {
    world.daemon.command(&[&REBUILD[..], more].concat())
}

/// Everything that GitHub shows has been read again: only the tails are open.
async fn read_again(world: &mut World) {
    wait_until(LONG, "everything has been read again", async || {
        assert!(world.daemon.running(), "the daemon has ended:\n{}", world.daemon.log_tail());
        let answer = world.daemon.command(&["checkpoint", "show", "acme", "--json"]);
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&answer.stdout) else {
            return false;
        };
        let lanes = answer["entities"][0]["lanes"].as_object().unwrap();
        let open = |lane: &serde_json::Value| {
            lane["slices"].as_array().unwrap().iter().any(|slice| slice["kind"] == "backfill")
        };
        lanes.len() == 2 && !lanes.values().any(open)
    })
    .await;
}

/// The numbers in the topics of entries: without holes from the one after `after` on.
fn assert_sequence(records: &[KcatRecord], after: u64) {
    let mut numbers: Vec<u64> =
        records.iter().map(|record| record.header("gh_seq").unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    let wanted: Vec<u64> = (after + 1..).take(numbers.len()).collect();
    assert_eq!(numbers, wanted);
}

/// Starts on the rebuilt state with a new archive, and compares all that is there in the end.
async fn go_on(world: &mut World, after: u64) {
    world.archive_to_folder("archive-2");
    world.configure("");
    world.daemon.start();
    read_again(world).await;
    let held = held(&world.archive_dir());
    let journal = world.journal();
    wait_until(LONG, "what was not archived has been collected", async || {
        let again = world.kafka_entries().await;
        journal.iter().all(|seen| held.contains_key(seen) || again.contains_key(seen))
    })
    .await;
    let again = world.kafka_entries().await;
    let twice: Vec<_> = again.keys().filter(|seen| held.contains_key(*seen)).collect();
    assert!(twice.is_empty(), "{} collected twice: {:?}", twice.len(), twice.first());
    assert!(again.values().all(|times| *times == 1));
    let wanted: BTreeSet<_> = journal.iter().filter(|seen| !held.contains_key(*seen)).collect();
    assert_eq!(again.keys().collect::<BTreeSet<_>>(), wanted);
    assert_sequence(&world.kafka_records().await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_is_not_collected_again_and_what_was_not_is_found_once() {
    let mut world = world("rebuild", 100).await;
    collect(&mut world).await;
    let gone = unarchive_the_newest(&world.archive_dir());
    assert_eq!(gone, 2);
    lose_the_cluster(&mut world);

    let dry = rebuild(&world, &["--json"]);
    assert!(dry.status.success(), "{}", text(&dry));
    let dry = json(&dry);
    assert_eq!(dry["executed"], false);
    let refused = world.daemon.command(&["checkpoint", "list"]);
    assert!(text(&refused).contains("does not exist"), "a dry run has made topics");

    let done = rebuild(&world, &["--execute", "--reason", "the cluster is lost", "--json"]);
    assert!(done.status.success(), "{}", text(&done));
    let done = json(&done);
    let entity = &done["entities"][0];
    assert_eq!((&entity["entity"], &entity["goes_on_after"]), (&"acme".into(), &STEP.into()));
    assert!(entity["missing"].as_u64().unwrap() > 0, "{entity}");
    let gaps = kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await;
    assert_eq!(gaps.len(), 1);
    let gap: serde_json::Value = serde_json::from_slice(gaps[0].value.as_deref().unwrap()).unwrap();
    assert_eq!((&gap["cause"], &gap["entity"]), (&"cluster_lost".into(), &"acme".into()));
    assert_eq!(gap["sequence_holes"].as_array().unwrap().last().unwrap()[1], STEP);

    let again = rebuild(&world, &["--execute"]);
    assert_eq!(again.status.code(), Some(6), "{}", text(&again));
    assert!(text(&again).contains("is not empty"), "{}", text(&again));
    go_on(&mut world, STEP).await;
    assert_eq!(
        world.checkpoint_sequence("acme").await,
        STEP + u64::try_from(world.kafka_records().await.len()).unwrap()
    );
}

fn spawn_rebuild(world: &World) -> Child {
    let config = world.daemon.config();
    Command::new(crate::support::daemon::PROGRAM)
        .args([&REBUILD[..], &["--execute", "--config", config.to_str().unwrap()]].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether the mark of a rebuild stands; whether a genesis does.
async fn marks(world: &World) -> (bool, bool) {
    let records = kcat_dump(&world.brokers, &world.topic("ghauditd.checkpoints")).await;
    let has =
        |key: &str| records.iter().any(|record| record.key.as_deref() == Some(key.as_bytes()));
    (has("#rebuild"), has("#genesis"))
}

/// Kills a rebuild between its first transaction and its last, in a cluster of its own.
async fn kill_in_the_middle(world: &mut World) {
    for _ in 0..20 {
        lose_the_cluster(world);
        let mut child = spawn_rebuild(world);
        while !marks(world).await.0 && child.try_wait().unwrap().is_none() {}
        child.kill().unwrap();
        child.wait().unwrap();
        if marks(world).await == (true, false) {
            return;
        }
    }
    panic!("20 rebuilds ended before they could be killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_killed_is_run_again_and_no_daemon_starts_before() {
    let mut world = world("killed", 20).await;
    collect(&mut world).await;
    kill_in_the_middle(&mut world).await;
    world.daemon.start();
    let status = world.daemon.wait(LONG).await;
    let log = world.daemon.log_tail();
    assert_eq!(status.code(), Some(6), "{log}");
    assert!(log.contains("has not ended here: run it again"), "{log}");
    let dry = json(&rebuild(&world, &["--json"]));
    assert!(dry["notes"].to_string().contains("has not ended in this cluster"), "{dry}");
    for wait_ms in [400, 700, 1_000] {
        let mut child = spawn_rebuild(&world);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let done = rebuild(&world, &["--execute"]);
    // the last one may have been killed after its last transaction
    assert!(done.status.success() || text(&done).contains("is not empty"), "{}", text(&done));
    assert_eq!(kcat_dump(&world.brokers, &world.topic("ghauditd.gaps")).await.len(), 1);
    assert_eq!(kcat_dump(&world.brokers, &world.topic("ghauditd.operations")).await.len(), 1);
    go_on(&mut world, STEP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rebuilt_is_refused_with_the_remedy() {
    let mut world = world("refused", 0).await;
    let mut shown = Vec::new();
    let mut show = |world: &World, what: &str, output: &Output| {
        let code = output.status.code().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        shown.push(format!("# {what} (exit {code})\n{}", plain(world, &stderr)));
    };
    show(&world, "an empty archive", &rebuild(&world, &[]));
    world.daemon.env("GHAUDITD__ARCHIVE__ENABLED", "false");
    show(&world, "no archive", &rebuild(&world, &[]));
    world.daemon.env("GHAUDITD__ARCHIVE__ENABLED", "true");
    world.daemon.start();
    world.collected(LONG).await;
    world.archived(LONG).await;
    show(&world, "a daemon is running", &rebuild(&world, &["--execute"]));
    world.daemon.kill9();
    show(&world, "a cluster that is not empty", &rebuild(&world, &["--execute"]));
    lose_the_cluster(&mut world);
    let newest = segments(&world.archive_dir()).pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::remove_file(&newest).unwrap();
    std::fs::write(&newest, bytes).unwrap();
    show(&world, "a damaged segment", &rebuild(&world, &["--execute"]));
    world.rename("acme", "acme-corp");
    world.configure("");
    show(&world, "another name", &rebuild(&world, &["--execute", "--accept", "holes"]));
    show(&world, "an unknown word", &rebuild(&world, &["--accept", "everything"]));
    insta::assert_snapshot!(shown.join("\n"));
}

/// Without what differs from run to run.
fn plain(world: &World, text: &str) -> String {
    let home = world.daemon.home().display().to_string();
    let text = text.replace(&home, "HOME").replace(&world.brokers, "BROKERS");
    let text = text.replace(&world.prefix, "PREFIX");
    let text = cut(&text, "its last owner is ", ". A rebuild");
    cut(&text, "began there at ", ";")
}

/// A text without what stands between two words.
fn cut(text: &str, from: &str, to: &str) -> String {
    let found = text.split_once(from).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(to)?;
        Some(format!("{before}{from}...{to}{after}"))
    });
    found.unwrap_or_else(|| text.to_owned())
}
