//! The commands that look at a running installation, on real parts.

use super::{code, text};
use crate::support::kafka::Broker;
use crate::support::wait_until;
use crate::support::world::World;
use ghauditd::audit::EntityKind;
use ghauditd::github::jwt::AppKey;
use ghauditd::sim::{SimApp, SimConfig, SimEntity, SimToken, Traffic};
use serde_json::Value;
use std::process::Output;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);

async fn world(name: &str) -> World {
    world_with(name, SimConfig::default()).await
}

async fn world_with(name: &str, config: SimConfig) -> World {
    let quiet = |base: Traffic| Traffic {
        history_entries: 300,
        live_per_second: 0.0,
        live_entries_max: Some(0),
        ..base
    };
    let entity = SimEntity {
        web: quiet(Traffic::web()),
        git: quiet(Traffic::git()),
        ..SimEntity::new(EntityKind::Enterprise, "acme")
    };
    let config = SimConfig { entities: vec![entity], ..config };
    World::new(name, Broker::shared().address(), config).await
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The verdicts of the tries whose names begin with `what`.
fn verdicts(answer: &Value, what: &str) -> Vec<String> {
    let tries = answer["connect"].as_array().unwrap().iter();
    let named = tries.filter(|one| one["what"].as_str().unwrap().starts_with(what));
    named.map(|one| one["verdict"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_and_checkpoint_and_archive_on_a_running_installation() {
    let mut world = world("cli").await;

    // before the first start nothing is there, and nothing is wrong
    let output = world.daemon.command(&["check", "--connect", "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let answer = json(&output);
    assert_eq!(verdicts(&answer, "entity acme, lane"), ["ok", "ok"], "{answer:#}");
    assert_eq!(verdicts(&answer, "kafka, write access"), ["skipped"], "{answer:#}");

    world.daemon.start();
    world.daemon.ready(LONG).await;
    world.collected(LONG).await;
    world.archived(LONG).await;

    let output = world.daemon.command(&["check", "--connect", "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let answer = json(&output);
    assert_eq!(verdicts(&answer, "kafka, write access"), ["ok"], "{answer:#}");
    assert_eq!(verdicts(&answer, "topic ").len(), 10, "{answer:#}");
    assert_eq!(verdicts(&answer, "entity acme, request budget"), ["ok"], "{answer:#}");
    assert!(!verdicts(&answer, "archive main").contains(&"failed".to_owned()), "{answer:#}");

    checkpoints(&world);
    status(&mut world).await;
    offsets(&world);
    archive(&world);

    world.sim.set_token("another");
    let output = world.daemon.command(&["check", "--connect", "--json"]);
    assert_eq!(code(&output), 4, "{output:?}");
    assert_eq!(verdicts(&json(&output), "entity acme, lane"), ["failed", "failed"]);
    assert!(world.daemon.running(), "looking must not disturb the daemon");
}

/// Each credential is tried by itself, and shows its own budget.
#[tokio::test(flavor = "multi_thread")]
async fn connect_tries_every_credential() {
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/keys/app.pem");
    let key = AppKey::from_pem(&std::fs::read(pem).unwrap()).unwrap();
    let config = SimConfig {
        rate_limit_per_hour: 1_750,
        further_tokens: vec![SimToken::new("second"), SimToken::new("third")],
        apps: vec![SimApp { rate_limit_per_hour: Some(900), ..SimApp::new(&key) }],
        ..SimConfig::default()
    };
    let world = world_with("pool", config).await;
    let app =
        format!("[credential.app]\nserver = \"sim\"\napp = 12345\nprivate_key_file = {pem:?}\n");
    let toml = std::fs::read_to_string(world.daemon.config()).unwrap();
    let toml = toml.replace("[\"c0\", \"c1\", \"c2\"]", "[\"c0\", \"c1\", \"c2\", \"app\"]");
    world.daemon.configure(&[app, toml].concat());
    world.sim.revoke_token("second");
    world.sim.use_elsewhere("third", 0, 1_000);
    let output = world.daemon.command(&["check", "--connect"]);
    assert_eq!(code(&output), 4, "{output:?}");
    let shown = text(&output.stdout);
    let line = |what: &str| {
        let found = shown.lines().find(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what:?} in {shown}")).to_owned()
    };
    assert!(line("credentials c0 (token from file").contains("app (App 12345, key from file"));
    for (what, word, said) in [
        ("lane web, c0: ", "ok ", "1749 of 1750"),
        ("lane git, c0: ", "ok ", "1748 of 1750"),
        ("lane web, c1: ", "FAILED ", "the token from"),
        ("lane git, c2: ", "ok ", "748 of 1750"),
        ("lane web, app: ", "ok ", "899 of 900"),
    ] {
        let line = line(what);
        assert!(line.starts_with(word) && line.contains(said), "{line}");
    }
    assert!(!shown.contains("second") && !shown.contains("ghs_"), "{shown}");
}

fn checkpoints(world: &World) {
    let output = world.daemon.command(&["checkpoint", "list"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let lines = text(&output.stdout);
    assert!(lines.starts_with("ENTITY  LANE  COMPLETE UP TO"), "{lines}");
    assert_eq!(lines.lines().count(), 3, "{lines}");

    let answer = json(&world.daemon.command(&["checkpoint", "show", "acme", "--json"]));
    assert_eq!(answer["entities"][0]["sequence"], 600, "{answer:#}");
    assert_eq!(answer["entities"][0]["configured"], true);
    let pid = u64::from(world.daemon.pid().unwrap());
    assert_eq!(answer["entities"][0]["owner"]["pid"], pid, "{answer:#}");

    let shown = text(&world.daemon.command(&["checkpoint", "show"]).stdout);
    for words in ["entity acme", "sequence: 600", "lane web: 300 entries", "tail 1: from "] {
        assert!(shown.contains(words), "{words:?} in {shown}");
    }
    let output = world.daemon.command(&["checkpoint", "show", "nobody"]);
    assert_eq!(code(&output), 8);
    let complaint =
        "ghauditd: entity \"nobody\" is neither in the configuration nor in the checkpoints\n";
    assert_eq!(text(&output.stderr), complaint);
}

/// From the daemon, and from the checkpoints while there is none.
async fn status(world: &mut World) {
    let output = world.daemon.command(&["status", "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let page = json(&output);
    assert_eq!(page["ready"], true, "{page:#}");
    assert_eq!(page["entities"][0]["sequence"], 600, "{page:#}");
    let lanes = page["entities"][0]["lanes"].as_array().unwrap();
    let runways: Vec<_> = lanes.iter().map(|lane| lane["runway_s"].as_i64().unwrap()).collect();
    assert!(runways.iter().all(|left| *left > 6 * 86_400), "{page:#}");
    wait_until(LONG, "the archive's lag is only marks of transactions", async || {
        let page = json(&world.daemon.command(&["status", "--json"]));
        page["archive"]["behind_records"].as_i64().is_some_and(|behind| behind < 50)
    })
    .await;
    let shown = text(&world.daemon.command(&["status", "--why"]).stdout);
    assert!(shown.contains("entity acme: sequence 600") && shown.contains("tail 1"), "{shown}");

    world.daemon.term();
    world.daemon.wait(LONG).await;
    let output = world.daemon.command(&["status"]);
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(text(&output.stderr).contains("no daemon answers at http://127.0.0.1:"), "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.contains("entity acme: sequence 600"), "{shown}");
    world.daemon.start();
    world.daemon.ready(LONG).await;
}

fn offsets(world: &World) {
    let total = |at: &str, member: &str| -> i64 {
        let answer = json(&world.daemon.command(&["offsets", "--at", at, "--json"]));
        let rows = answer["partitions"].as_array().unwrap();
        assert_eq!(rows.len(), 12, "four topics of three partitions: {answer:#}");
        rows.iter().map(|row| row[member].as_i64().unwrap()).sum()
    };
    assert_eq!(total("1d", "offset"), 0, "all that there is was taken within a day");
    let end = total("1d", "end");
    assert!(end >= 600, "600 records, and the marks of transactions: {end}");
    assert_eq!(total("2099-01-01T00:00:00Z", "offset"), end, "nothing is that young");

    let web = world.topic("github.audit.web");
    let output = world.daemon.command(&["offsets", "--at", "1d", &web, "--format", "csv"]);
    assert_eq!(text(&output.stdout), format!("{web},0,0\n{web},1,0\n{web},2,0\n"));
    let output = world.daemon.command(&["offsets", "--at", "1d", "no-such-topic"]);
    assert_eq!(code(&output), 8);
    assert!(text(&output.stderr).contains("no-such-topic"), "{output:?}");
    let output = world.daemon.command(&["offsets", "--at", "yesterday"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("how long ago (36h)"), "{output:?}");
}

fn archive(world: &World) {
    let answer = json(&world.daemon.command(&["archive", "list", "--long", "--json"]));
    let segments = answer["segments"].as_array().unwrap();
    let web = world.topic("github.audit.web");
    let of_web = segments.iter().filter(|segment| segment["topic"] == *web);
    let records: u64 = of_web.map(|segment| segment["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 300, "{answer:#}");

    let output = world.daemon.command(&["archive", "cat", &web]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(memchr::memchr_iter(b'\n', &output.stdout).count(), 300);
    let output = world.daemon.command(&["archive", "acknowledge"]);
    assert_eq!(text(&output.stdout), "no archive gap waits to be acknowledged\n");
}
