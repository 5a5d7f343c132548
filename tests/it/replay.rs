//! `ghauditd replay`: what the real daemon collected, sent again into another topic, compared with what kcat reads.

use crate::support::kafka::{Broker, KcatRecord, kcat_dump};
use crate::support::wait_until;
use crate::support::world::World;
use ghauditd::audit::EntityKind;
use ghauditd::sim::{SimConfig, SimEntity, Traffic};
use ghauditd::time::rfc3339_ms;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);

/// Where a record stands: topic, partition, offset.
type Place = (String, i32, i64);

/// An enterprise `acme` whose history of so many entries in each lane has been collected. The daemon has ended.
async fn collected(name: &str, history: u64) -> World {
    let traffic = |base: Traffic| Traffic { history_entries: history, ..base };
    let acme = SimEntity {
        web: traffic(Traffic::web()),
        git: traffic(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let config = SimConfig { entities: vec![acme], ..SimConfig::default() };
    let mut world = World::new(name, Broker::shared().address(), config).await;
    world.daemon.start();
    world.collected(LONG).await;
    world.daemon.term();
    assert!(world.daemon.wait(LONG).await.success());
    world
}

async fn sources(world: &World) -> BTreeMap<Place, KcatRecord> {
    let mut found = BTreeMap::new();
    for topic in ["github.audit.web", "github.audit.git"].map(|topic| world.topic(topic)) {
        for record in kcat_dump(&world.brokers, &topic).await {
            found.insert((topic.clone(), record.partition, record.offset), record);
        }
    }
    found
}

fn time_ms(record: &KcatRecord) -> i64 {
    record.header("ce_time").unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The target holds each of the wanted records once and nothing else: byte for byte, each key in its order and partition.
fn assert_copies(
    target: &[KcatRecord],
    sources: &BTreeMap<Place, KcatRecord>,
    wanted: &BTreeSet<Place>,
    replay: &str,
) {
    let mut found = BTreeSet::new();
    let mut partitions: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    let mut last: BTreeMap<(String, Vec<u8>), i64> = BTreeMap::new();
    for copy in target {
        let of = copy.header("gh_replay_of").unwrap();
        let parts: Vec<&str> = of.rsplitn(3, '/').collect();
        let place: Place =
            (parts[2].to_owned(), parts[1].parse().unwrap(), parts[0].parse().unwrap());
        let source = &sources[&place];
        assert_eq!((&copy.key, &copy.value), (&source.key, &source.value), "{of}");
        let marks =
            format!(",gh_replay={replay},gh_replay_of={of},gh_replay_ts={}", source.timestamp);
        assert_eq!(copy.headers, [&source.headers[..], marks.as_bytes()].concat(), "{of}");
        let key = copy.key.clone().unwrap();
        assert_eq!(
            *partitions.entry(key.clone()).or_insert(copy.partition),
            copy.partition,
            "{of}"
        );
        let before = last.insert((place.0.clone(), key), place.2);
        assert!(before.is_none_or(|before| before < place.2), "{of} out of order");
        assert!(found.insert(place), "{of} twice");
    }
    assert_eq!(found, *wanted);
}

/// The details of the statements about a replay, in their order.
async fn notes(world: &World, replay: &str) -> Vec<Value> {
    let records = kcat_dump(&world.brokers, &world.topic("ghauditd.operations")).await;
    let values =
        records.iter().map(|it| serde_json::from_slice(it.value.as_ref().unwrap()).unwrap());
    let statements = values.filter(|it: &Value| it["what"] == "replay");
    statements.map(|it| it["details"].clone()).filter(|it| it["replay"] == replay).collect()
}

fn replay(world: &World, args: &[&str]) -> Output {
    world.daemon.command(&[&["replay"], args].concat())
}

/// A replay that is to be interrupted.
fn start(world: &World, args: &[&str]) -> Child {
    world.daemon.begin(&[&["replay"], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_sent_byte_for_byte_and_the_dry_run_had_told_how_much() {
    let world = collected("replay-time", 250).await;
    let sources = sources(&world).await;
    let mut times: Vec<i64> = sources.values().map(time_ms).collect();
    times.sort_unstable();
    let (from_ms, to_ms) = (times[times.len() / 4], times[times.len() * 3 / 4]);
    let within = |record: &KcatRecord| (from_ms..to_ms).contains(&time_ms(record));
    let wanted: BTreeSet<Place> = sources
        .iter()
        .filter(|(_, record)| within(record))
        .map(|(place, _)| place.clone())
        .collect();
    assert!(wanted.len() > 200, "{}", wanted.len());

    let target = world.topic("siem");
    let (from, to) = (rfc3339_ms(from_ms), rfc3339_ms(to_ms));
    let asked = ["--from", &from, "--to", &to, "--to-topic", &target, "--json"];
    let missing = replay(&world, &asked);
    assert_eq!(code(&missing), 8, "{missing:?}");
    assert!(told(&missing).contains("does not exist"), "{missing:?}");

    let dry = json(&replay(&world, &[&asked[..], &["--create-topic"]].concat()));
    assert_eq!(dry["records"], wanted.len());
    assert!(kcat_dump(&world.brokers, &target).await.is_empty());
    let sent = json(&replay(
        &world,
        &[&asked[..], &["--create-topic", "--execute", "--reason", "new SIEM"]].concat(),
    ));
    assert_eq!((&sent["records"], &sent["bytes"]), (&dry["records"], &dry["bytes"]));
    let id = sent["replay"].as_str().unwrap();
    assert_copies(&kcat_dump(&world.brokers, &target).await, &sources, &wanted, id);

    let notes = notes(&world, id).await;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_eq!(notes[0]["plan"]["to_topic"], target);
    assert_eq!(notes[1]["sent"]["records"], wanted.len());

    let again = replay(&world, &["--resume", id, "--execute"]);
    assert_eq!(code(&again), 6, "{again:?}");
    assert!(told(&again).contains("has ended"), "{again:?}");
    let again = replay(&world, &[&asked[..], &["--execute", "--replay-id", id]].concat());
    assert_eq!(code(&again), 6, "{again:?}");
    assert!(told(&again).contains("has begun already"), "{again:?}");
    // another one is told what is there
    let other = json(&replay(&world, &asked));
    assert!(other["warnings"].to_string().contains(id), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_patterns_and_what_is_no_longer_there() {
    let world = collected("replay-ids", 60).await;
    let sources = sources(&world).await;
    let target = world.topic("forensics");
    Broker::shared().create_topic(&target, 2, &[("message.timestamp.type", "CreateTime")]).await;
    let wanted: BTreeSet<Place> = sources.keys().step_by(40).cloned().collect();
    let ids: Vec<&str> = wanted.iter().map(|it| sources[it].header("ce_id").unwrap()).collect();
    let file = world.daemon.write("ids.txt", &format!("{}\nno-such-id\n", ids.join("\n")));
    let asked = ["--ids-file", file.to_str().unwrap(), "--to-topic", &target];
    let shown = replay(&world, &asked);
    assert_eq!(code(&shown), 0, "{shown:?}");
    assert!(told(&shown).contains("not found: 1 of the ids (no-such-id)"), "{shown:?}");
    assert!(told(&shown).contains("nothing was sent"), "{shown:?}");
    let sent = replay(&world, &[&asked[..], &["--execute", "--replay-id", "by-id"]].concat());
    assert_eq!(code(&sent), 0, "{sent:?}");
    let copies = kcat_dump(&world.brokers, &target).await;
    assert_copies(&copies, &sources, &wanted, "by-id");
    for copy in &copies {
        // a topic that keeps the producers' times has the original ones
        assert_eq!(copy.header("gh_replay_ts").unwrap(), copy.timestamp.to_string());
    }

    let git = sources.values().filter(|it| it.header("ce_type").unwrap() == "git.clone").count();
    let asked = ["--from", "365d", "--action", "git.clone", "--to-topic", &target, "--json"];
    assert_eq!(json(&replay(&world, &asked))["records"], git);
    let half =
        sources.values().filter(|it| it.header("gh_seq").unwrap().parse::<u64>().unwrap() > 60);
    let asked = ["--entity", "acme", "--after-seq", "60", "--to-topic", &target, "--json"];
    assert_eq!(json(&replay(&world, &asked))["records"], half.count());

    produce(&world, &world.topic("github.audit.dlq"));
    let asked = ["--from", "365d", "--to-topic", &target, "--json"];
    let without = json(&replay(&world, &asked));
    assert_eq!(
        (&without["records"], &without["dead_letters_not_sent"]),
        (&sources.len().into(), &1.into())
    );
    let all = json(&replay(&world, &[&asked[..], &["--source", "all"]].concat()));
    assert_eq!(
        (&all["records"], &all["dead_letters_not_sent"]),
        (&(sources.len() + 1).into(), &0.into())
    );
    let pieces = ["--source", "dead-letters", "--execute", "--replay-id", "pieces"];
    assert_eq!(json(&replay(&world, &[&asked[..], &pieces].concat()))["records"], 1);
    let copies = kcat_dump(&world.brokers, &target).await;
    let piece = copies.iter().find(|it| it.header("gh_replay") == Some("pieces")).unwrap();
    assert_eq!(piece.value.as_deref(), Some(&b"a piece"[..]));

    let saved =
        world.daemon.command(&["checkpoint", "save", "all", "--entity", "acme", "--offline"]);
    assert_eq!(code(&saved), 0, "{saved:?}");
    let asked = ["--entity", "acme", "--since-checkpoint", "all", "--source", "all"];
    let since = replay(&world, &[&asked[..], &["--to-topic", &target]].concat());
    assert_eq!(code(&since), 8, "{since:?}");
    assert!(told(&since).contains("sequence above 120"), "{since:?}");

    let (topic, partition, offset) = sources.keys().max_by_key(|place| place.2).unwrap();
    delete_to(&world, topic, *partition, *offset).await;
    let shown = replay(&world, &["--from", "365d", "--to-topic", &target]);
    let line = format!("not in Kafka any more: {topic}/{partition} begins with what came at");
    assert!(told(&shown).contains(&line), "{shown:?}");
}

/// Puts a record with a sequence into a topic, as another daemon would.
fn produce(world: &World, topic: &str) {
    let record = world.daemon.write("record", "a piece");
    let status = Command::new("kcat")
        .args(["-P", "-b", &world.brokers, "-t", topic, "-k", "acme", "-H", "gh_seq=100000"])
        .arg(record)
        .stdin(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

/// Deletes records below an offset, as retention does.
async fn delete_to(world: &World, topic: &str, partition: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &world.brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    let done = admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
    done.elements().iter().for_each(|it| it.error().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_sent_once_across_kills_a_signal_and_a_second_process() {
    let world = collected("replay-kills", 300).await;
    let sources = sources(&world).await;
    let target = world.topic("siem");
    let count = async || kcat_dump(&world.brokers, &target).await.len();
    let begin = ["--from", "365d", "--to-topic", &target, "--create-topic", "--replay-id", "r1"];
    let slow = ["--execute", "--rate", "40/s"];
    let resume = ["--resume", "r1"];
    let mut sent = 0;
    for round in 0..3 {
        let args = if round == 0 { &begin[..] } else { &resume[..] };
        let mut child = start(&world, &[args, &slow].concat());
        wait_until(LONG, "some more are sent", async || count().await > sent).await;
        // somewhere between two commits, or within one
        tokio::time::sleep(Duration::from_millis(400 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        sent = count().await;
    }
    assert!(sent < sources.len(), "the replay was not interrupted");

    let child = start(&world, &[&resume[..], &slow].concat());
    wait_until(LONG, "some more are sent", async || count().await > sent).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(code(&ended), 1, "{ended:?}");
    assert!(told(&ended).contains("ghauditd replay --resume r1 --execute"), "{ended:?}");

    let left = json(&replay(&world, &[&resume[..], &["--json"]].concat()));
    sent = count().await;
    assert_eq!(left["records"], sources.len() - sent);

    let first = start(&world, &[&resume[..], &slow].concat());
    wait_until(LONG, "some more are sent", async || count().await > sent).await;
    let second =
        replay(&world, &[&resume[..], &["--execute", "--rate", "none", "--json"]].concat());
    assert_eq!(json(&second)["records"], sources.len());
    let fenced = first.wait_with_output().unwrap();
    assert_eq!(code(&fenced), 5, "{fenced:?}");
    assert!(told(&fenced).contains("another process has taken replay r1 over"), "{fenced:?}");

    let wanted = sources.keys().cloned().collect();
    assert_copies(&kcat_dump(&world.brokers, &target).await, &sources, &wanted, "r1");
    let phases: Vec<Value> =
        notes(&world, "r1").await.into_iter().map(|it| it["phase"].clone()).collect();
    assert_eq!(phases, ["begun", "ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let world = collected("replay-wrong", 5).await;
    let broker = Broker::shared();
    let (fit, compacted) = (world.topic("fit"), world.topic("compacted"));
    broker.create_topic(&fit, 1, &[]).await;
    broker.create_topic(&compacted, 1, &[("cleanup.policy", "compact")]).await;
    let foreign = world.topic("another.audit.web");
    broker.create_topic(&foreign, 1, &[]).await;
    produce(&world, &foreign);
    let (web, state) = (world.topic("github.audit.web"), world.topic("ghauditd.checkpoints"));
    let missing = world.topic("missing");
    let to = |topic| ["--from", "2020-01-01", "--to-topic", topic];
    let with = |more: &[&'static str]| [&to(&fit), more].concat();
    let rows: [(&str, Vec<&str>, i32); 16] = [
        ("a live topic", to(&web).into(), 6),
        ("a state topic", to(&state).into(), 6),
        ("Kafka's own topic", to("__consumer_offsets").into(), 6),
        ("a topic of another ghauditd", to(&foreign).into(), 6),
        ("a compacted topic", to(&compacted).into(), 6),
        ("the same, executed", [&to(&compacted)[..], &["--execute"]].concat(), 6),
        ("no topic", to(&missing).into(), 8),
        ("no name", to("a/b").into(), 2),
        ("from after to", vec!["--from", "1h", "--to", "2h", "--to-topic", &fit], 2),
        ("the future", vec!["--from", "2099-01-01", "--to-topic", &fit], 2),
        ("no pattern", with(&["--action", "repo.[a"]), 2),
        ("no file", vec!["--ids-file", "/nowhere", "--to-topic", &fit], 2),
        ("no such entity", with(&["--entity", "acne"]), 8),
        ("nothing saved", with(&["--entity", "acme", "--since-checkpoint", "before"]), 8),
        ("nothing fits", with(&["--action", "nothing.*"]), 8),
        ("no such replay", vec!["--resume", "r9", "--execute"], 8),
    ];
    let mut page = String::new();
    for (name, args, expected) in rows {
        let output = replay(&world, &args);
        assert_eq!(code(&output), expected, "{name}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr).replace(&world.prefix, "P");
        let text: Vec<&str> = text.lines().filter(|line| line.starts_with("ghauditd: ")).collect();
        let text = text.join("\n");
        writeln!(page, "{name}: exit {expected}\n{text}\n").unwrap();
    }
    insta::assert_snapshot!(page);
}
