//! The command line as an operator meets it: help, version, every message of `check`, exit codes.

mod real;
mod rows;

use crate::support::daemon::PROGRAM;
use ghauditd::config::{Environment, Fault, Faults, Loaded, load};
use rows::{ENTITY, KAFKA, NO_ARCHIVE, good, rows};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Runs the program with nothing but `variables` around it.
fn ghauditd(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A folder with a good token and a good certificate in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        place.write("token", "a-token\n");
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a file that only its owner can read.
    fn write(&self, name: &str, contents: &str) -> String {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.path(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(contents.as_bytes()).unwrap();
        path
    }

    /// Writes one of the keys for tests.
    fn copy_key(&self, from: &str, to: &str) -> String {
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys");
        let pem = std::fs::read_to_string(keys.join(format!("{from}.pem"))).unwrap();
        self.write(&format!("{to}.pem"), &pem)
    }

    /// Text without this folder's random name.
    fn plain(&self, text: &str) -> String {
        text.replace(&self.0.path().display().to_string(), "DIR")
    }

    /// The faults of a configuration, in which `DIR` stands for this folder, as lines for a snapshot.
    fn faults(&self, toml: &str, variables: &[(&str, &str)]) -> String {
        self.plain(&shown(self.load(toml, variables)))
    }

    fn load(&self, toml: &str, variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
        let toml = toml.replace("DIR", &self.0.path().display().to_string());
        let path = self.write("ghauditd.toml", &toml);
        load(Path::new(&path), &variables.iter().copied().collect::<Environment>())
    }
}

fn shown(loaded: Result<Loaded, Faults>) -> String {
    let mut lines = String::new();
    let mut show = |what: &str, faults: Vec<Fault>| {
        for fault in faults {
            writeln!(lines, "{what} {}\n  {}\n  -> {}", fault.key, fault.problem, fault.remedy)
                .unwrap();
        }
    };
    match loaded {
        Ok(loaded) => show("warning", loaded.warnings),
        Err(Faults(faults)) => show("fault", faults),
    }
    lines
}

#[test]
fn every_message_of_check() {
    let place = Place::new();
    place.write("empty", "\n");
    place.write("other-token", "another-token\n");
    for name in ["app", "ec", "public", "encrypted", "small"] {
        place.copy_key(name, name);
    }
    let open = place.copy_key("app", "open");
    place.write("two-lines", "one\ntwo\n");
    let public = place.write("public", "a-token\n");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    std::fs::set_permissions(public, mode.clone()).unwrap();
    std::fs::set_permissions(open, mode).unwrap();
    let mut page = String::new();
    for (name, toml) in rows() {
        let faults = place.faults(&toml, &[]);
        assert!(!faults.is_empty(), "{name}: no message");
        assert!(!faults.contains("ghp_secret") && !faults.contains("hunter2"), "{name}: {faults}");
        write!(page, "# {name}\n{faults}\n").unwrap();
    }
    insta::assert_snapshot!("check_messages", page);
}

#[test]
fn a_good_configuration_has_no_message() {
    let place = Place::new();
    assert_eq!(place.faults(&good(), &[]), "");
    let overlap = "[[entity]]\nname = \"org\"\nkind = \"organization\"\nslug = \"acme\"\n\
                   token_file = \"DIR/token\"\n[collect]\nallow_overlap = true\n";
    assert_eq!(place.faults(&[ENTITY, overlap, KAFKA, NO_ARCHIVE].concat(), &[]), "");
    place.write("other-token", "another-token\n");
    assert_eq!(place.faults(&rows::pool("[\"first\", \"second\"]", ""), &[]), "");
    place.copy_key("app", "app");
    for id in ["12345", "\"Iv23liAbCd\"", "\"12345\"\ninstallation = 7"] {
        let lines = format!("app = {id}\nprivate_key_file = \"DIR/app.pem\"");
        assert_eq!(place.faults(&rows::app(&lines), &[]), "");
    }
}

#[test]
fn variables_override_the_file() {
    let place = Place::new();
    let variables = [
        ("GHAUDITD__KAFKA__BROKERS", "k1:9092,k2:9092"),
        ("GHAUDITD__KAFKA__PROPERTIES__CLIENT__RACK", "r1"),
        ("GHAUDITD__KAFKA__DATA_PARTITIONS", "3"),
        ("GHAUDITD__COLLECT__SETTLING", "2m"),
        ("GHAUDITD__COLLECT__ALLOW_OVERLAP", "true"),
        ("GHAUDITD__SERVER__GITHUB__BASE_URL", "https://ghes.example.com/api/v3"),
        ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
        ("GITHUB_TOKEN", "a-token"),
    ];
    let toml = good().replace("token_file = \"DIR/token\"", "token_env = \"GITHUB_TOKEN\"");
    let config = place.load(&toml, &variables).unwrap().config;
    assert_eq!(config.kafka.brokers, "k1:9092,k2:9092");
    assert_eq!(config.kafka.properties["client.rack"], "r1");
    assert_eq!(config.kafka.data_partitions, 3);
    assert_eq!(config.collect.settling.as_secs(), 120);
    assert_eq!(config.servers["github"].base_url.as_str(), "https://ghes.example.com/api/v3/");
    assert_eq!(config.state.dir, Path::new("/var/lib/a"));
    assert!(!format!("{config:?}").contains("a-token"));
}

#[test]
fn faults_of_variables() {
    let place = Place::new();
    let variables = [
        ("GHAUDITD__KAFKA__BROKRES", "k1:9092"),
        ("GHAUDITD__KAFKA__DATA_PARTITIONS", "many"),
        ("GHAUDITD__COLLECT__ALLOW_OVERLAP", "yes"),
        ("GHAUDITD__ENTITY__NAME", "acme"),
        ("GHAUDITD__KAFKA__TOPICS", "web"),
    ];
    insta::assert_snapshot!("check_variables", place.faults(&good(), &variables));
}

#[test]
fn a_credential_is_found_where_systemd_puts_it() {
    let place = Place::new();
    let toml = good().replace("token_file = \"DIR/token\"", "token_credential = \"token\"");
    let folder = place.path("");
    assert_eq!(place.faults(&toml, &[("CREDENTIALS_DIRECTORY", &folder)]), "");
    let toml = toml.replace("\"token\"", "\"other\"");
    let faults = place.faults(&toml, &[("CREDENTIALS_DIRECTORY", &folder)]);
    insta::assert_snapshot!(faults, @r#"
    fault entity[acme].token_credential
      systemd passed no credential "other"
      -> add LoadCredential=other:/path/of/the/secret to the unit
    "#);
}

#[test]
fn all_faults_come_at_once() {
    let place = Place::new();
    let toml = "\
[server.ghes]
base_url = \"http://ghes.example.com/api/v3\"
[[entity]]
nam = \"acme\"
kind = \"user\"
slug = \"acme inc\"
server = \"ghes\"
token = \"ghp_secret\"
retention.web = \"180\"
[kafka]
topics.webb = \"x\"
properties.\"sasl.password\" = \"hunter2\"
[archive]
store = \"s3\"
[admin]
listen = \"0.0.0.0:80\"
";
    let path = place.write("ghauditd.toml", toml);
    let output = ghauditd(&["check", "--config", &path], &[]);
    assert_eq!(code(&output), 3);
    assert_eq!(text(&output.stderr), "");
    insta::assert_snapshot!("check_all_faults", place.plain(&text(&output.stdout)));
    let output = ghauditd(&["check", "--json", "--config", &path], &[]);
    assert_eq!(code(&output), 3);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["good"], false);
    let keys: Vec<_> =
        answer["faults"].as_array().unwrap().iter().map(|fault| fault["key"].clone()).collect();
    assert!(
        keys.contains(&"archive.bucket".into()) && keys.contains(&"entity[#1].nam".into()),
        "{keys:?}"
    );
}

#[test]
fn the_reference_is_good_and_complete() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ghauditd.toml");
    let loaded =
        load(&reference, &Environment::default()).map_err(|faults| faults.to_string()).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warnings, ["entity[example].token_credential"], "needs systemd, and nothing else");

    let lines = std::fs::read_to_string(&reference).unwrap();
    let mut section = String::new();
    let mut shown = std::collections::BTreeSet::new();
    for line in lines.lines().map(|line| line.trim_start_matches('#')) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[').split(']').next().unwrap();
            section = name
                .split('.')
                .take(1)
                .chain(name.split('.').skip(1))
                .collect::<Vec<_>>()
                .join(".");
            if let Some(server) = section.strip_prefix("server.") {
                assert!(!server.is_empty());
                section = "server.NAME".to_owned();
            }
            if section.starts_with("credential.") {
                section = "credential.NAME".to_owned();
            }
            shown.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.insert(format!("{section}.{key}"));
        }
    }
    let missing: Vec<_> = ghauditd::config::load::known_keys()
        .into_iter()
        .filter(|key| !shown.iter().any(|line| line == key || line.starts_with(&format!("{key}."))))
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "keys that config/ghauditd.toml does not show");
}

#[test]
fn defaults_are_what_the_reference_says() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ghauditd.toml");
    let written = load(&reference, &Environment::default()).unwrap().config;
    let toml = "[[entity]]\nname = \"example\"\nkind = \"enterprise\"\nslug = \"example-inc\"\n\
                token_credential = \"github-token\"\n[kafka]\nbrokers = \"localhost:9092\"\n\
                [archive]\nstore = \"dir\"\npath = \"/var/lib/ghauditd/archive\"\n";
    let bare = ghauditd::config::load::parse(toml, "bare", &Environment::default()).unwrap().config;
    assert_eq!(format!("{written:#?}"), format!("{bare:#?}"));
}

#[test]
fn help_of_every_command() {
    let commands: [&[&str]; 25] = [
        &[],
        &["run"],
        &["check"],
        &["status"],
        &["checkpoint"],
        &["checkpoint", "list"],
        &["checkpoint", "show"],
        &["checkpoint", "diff"],
        &["checkpoint", "save"],
        &["checkpoint", "restore"],
        &["checkpoint", "export"],
        &["checkpoint", "import"],
        &["checkpoint", "delete"],
        &["checkpoint", "rebuild"],
        &["offsets"],
        &["replay"],
        &["reconcile"],
        &["archive"],
        &["archive", "list"],
        &["archive", "cat"],
        &["archive", "acknowledge"],
        &["completions"],
        &["demo"],
        &["man"],
        &["sim"],
    ];
    for command in commands {
        let output = ghauditd(&[command, &["--help"]].concat(), &[("COLUMNS", "100")]);
        assert_eq!(code(&output), 0);
        let name = format!("help_{}", command.join("_"));
        insta::assert_snapshot!(name.trim_end_matches('_').to_owned(), text(&output.stdout));
    }
}

#[test]
fn the_version_names_librdkafka_and_its_features() {
    let output = ghauditd(&["--version"], &[]);
    assert_eq!(code(&output), 0);
    let shown = text(&output.stdout);
    assert!(
        shown.starts_with(&format!("ghauditd {}\nlibrdkafka: ", env!("CARGO_PKG_VERSION"))),
        "{shown}"
    );
    for feature in ["ssl", "sasl_scram", "sasl_oauthbearer", "zstd", "lz4", "features: sim"] {
        assert!(shown.contains(feature), "{feature} in {shown}");
    }
    assert_eq!(
        text(&ghauditd(&["-V"], &[]).stdout),
        format!("ghauditd {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn completions_and_man_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = ghauditd(&["completions", shell], &[]);
        assert!(text(&output.stdout).contains("ghauditd"), "{shell}");
    }
    assert!(text(&ghauditd(&["man"], &[]).stdout).contains(".TH ghauditd 1"));
    let place = Place::new();
    let output = ghauditd(&["man", &place.path("")], &[]);
    assert_eq!(code(&output), 0, "{output:?}");
    for page in ["ghauditd.1", "ghauditd-run.1", "ghauditd-checkpoint-show.1"] {
        assert!(Path::new(&place.path(page)).is_file(), "{page}");
    }
}

/// A port of this machine that nobody listens on.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn exit_codes() {
    let place = Place::new();
    let good = place.write("good.toml", &good().replace("DIR", &place.path("")));
    let bad = place.write("bad.toml", "[kafka]\n");
    let rows: [(&str, &[&str], i32); 17] = [
        ("help", &["--help"], 0),
        ("good", &["check", "--config", &good], 0),
        ("no command", &[], 2),
        ("unknown command", &["chekc"], 2),
        ("unknown option", &["check", "--fast"], 2),
        ("log level", &["check", "--config", &good, "--log-level", "ghauditd=loud"], 2),
        ("no configuration", &["check", "--config", "/nowhere.toml"], 3),
        ("check with faults", &["check", "--config", &bad], 3),
        ("run with faults", &["run", "--config", &bad], 3),
        ("checkpoint with faults", &["checkpoint", "list", "--config", &bad], 3),
        ("offsets without a time", &["offsets"], 2),
        ("offsets at no time", &["offsets", "--at", "yesterday"], 2),
        ("replay of nothing", &["replay", "--to-topic", "siem"], 2),
        ("replay to nowhere", &["replay", "--from", "36h"], 2),
        ("reconcile of nothing", &["reconcile"], 2),
        (
            "reconcile that waits for nothing",
            &["reconcile", "--entity", "a", "--from", "2d", "--to", "1d", "--wait", "1h"],
            2,
        ),
        ("folder for man pages", &["man", "/nowhere"], 1),
    ];
    let mut page = String::new();
    for (name, arguments, expected) in rows {
        let output = ghauditd(arguments, &[]);
        assert_eq!(code(&output), expected, "{name}: {output:?}");
        // a log line begins with a time
        let complaint = text(&output.stderr);
        if name != "run with faults" {
            write!(page, "# {name}: {expected}\n{}\n", place.plain(&complaint)).unwrap();
        }
    }
    insta::assert_snapshot!("exit_codes", page);
}

#[test]
fn run_logs_every_fault_as_json() {
    let place = Place::new();
    let path = place.write("bad.toml", "[kafka]\nbrokers = \"k:9092\"\nbroker = 1\n");
    let output = ghauditd(&["--config", &path, "--log-format", "json", "run"], &[]);
    assert_eq!(code(&output), 3);
    let lines: Vec<serde_json::Value> =
        text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<_> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["entity", "archive.store", "kafka.broker"]);
    assert_eq!(lines[2]["remedy"], "did you mean `brokers`?");
    assert_eq!(lines[2]["level"], "ERROR");
}

#[test]
fn run_needs_the_credential_that_check_forgives() {
    let place = Place::new();
    let toml = good().replace("token_file = \"DIR/token\"", "token_credential = \"github\"");
    let path = place.write("ghauditd.toml", &toml);
    assert_eq!(code(&ghauditd(&["check", "--config", &path], &[])), 0);
    let output = ghauditd(&["run", "--config", &path], &[]);
    assert_eq!(code(&output), 3);
    assert!(text(&output.stderr).contains("systemd passed no credential"), "{output:?}");
}

#[test]
fn connect_says_what_does_not_work() {
    let place = Place::new();
    let port = dead_port();
    let toml = good()
        .replace("DIR/", &place.path(""))
        .replace("localhost:9092", &format!("127.0.0.1:{port}"));
    let server = format!("[server.github]\nbase_url = \"http://127.0.0.1:{port}/\"\n");
    let path = place.write("ghauditd.toml", &[server, toml].concat());
    let output = ghauditd(&["check", "--connect", "--json", "--config", &path], &[]);
    assert_eq!(code(&output), 4, "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = |what: &str| {
        let tries = answer["connect"].as_array().unwrap().iter();
        tries
            .filter(|one| one["what"].as_str().unwrap().starts_with(what))
            .map(|one| one["verdict"].clone())
            .next()
    };
    assert_eq!(verdict("entity acme, lane web"), Some("failed".into()), "{answer:#}");
    assert_eq!(verdict("kafka 127.0.0.1"), Some("failed".into()), "{answer:#}");
    assert_eq!(verdict("kafka, write access"), Some("skipped".into()), "{answer:#}");
    assert!(!text(&output.stdout).contains("a-token") && !text(&output.stderr).contains("a-token"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(PROGRAM)
        .args(["completions", "bash"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), text(&output.stderr)), (0, String::new()));
}

fn name_of(line: &str) -> &str {
    line.split(['{', ' ']).next().unwrap_or_default()
}

#[test]
fn the_metrics_page_and_its_document() {
    use ghauditd::audit::{EntityName, Lane, SliceKind};
    let metrics = ghauditd::metrics::Metrics::default();
    let acme = EntityName::try_from("acme".to_owned()).unwrap();
    metrics.page(&acme, Lane::Web, 100, 70_000);
    metrics.slice_page(&acme, Lane::Web, SliceKind::Sweep);
    metrics.late(&acme, Lane::Web, "repo.create", 700.0);
    metrics.request(&acme, "ok", 0.2);
    metrics.request(&acme, "timeout", 30.0);
    metrics.budget(&acme, "entity/acme", 1750, 1700);
    metrics.retry("github", "timeout");
    metrics.runway(&acme, Lane::Web, Some(15_552_000.0));
    metrics.runway(&acme, Lane::Git, Some(1.0));
    metrics.runway(&acme, Lane::Git, None);
    metrics.lag(&acme, Lane::Web, 600.5);
    metrics.committed(&acme, Lane::Web, SliceKind::Tail, 90);
    metrics.known(&acme, Lane::Web, 9);
    metrics.revisions(&acme, Lane::Web, 1);
    metrics.dead_letters(&acme, 1);
    metrics.gap(&acme, Lane::Git);
    metrics.transaction("committed", 0.02, 103);
    metrics.live_latency(&acme, 0.1);
    metrics.segment("github.audit.web", 100, 20_000, 0.3);
    metrics.archive_lag("github.audit.web", 0, 5, 12.5);
    metrics.archive_buffer(4096);
    metrics.archive_gaps(0);
    metrics.seen_bucket_loads(2);
    let page = metrics.render();

    let document = include_str!("../../docs/metrics.md");
    for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let suffix = if kind == "counter" {
            "_total"
        } else if kind == "info" {
            "_info"
        } else {
            ""
        };
        let shown = format!("| `{name}{suffix}");
        assert!(document.contains(&shown), "docs/metrics.md has no row for {name} ({kind})");
    }
    let is_build = |line: &&str| line.starts_with("ghauditd_build_info");
    let build = page.lines().find(is_build).unwrap();
    assert!(build.contains("version=\"") && build.contains("librdkafka=\""), "{build}");
    let mut rest: Vec<_> = page.lines().filter(|line| !is_build(line)).collect();
    // within a counter or a gauge the sets of labels come in any order
    for family in rest.chunk_by_mut(|a, b| name_of(a) == name_of(b)) {
        let is_histogram = family.iter().any(|line| line.contains("{le="));
        if !family[0].starts_with('#') && !is_histogram {
            family.sort_unstable();
        }
    }
    insta::assert_snapshot!("metrics_page", rest.join("\n"));
}
