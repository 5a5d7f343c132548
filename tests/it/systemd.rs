//! The unit file: what systemd itself says about it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The promise of the README and of the unit's head.
const EXPOSURE_MAX: f64 = 1.5;

fn unit() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("systemd/ghauditd.service")
}

fn systemd_analyze(args: &[&str]) -> Output {
    Command::new("systemd-analyze")
        .args(args)
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd-analyze runs: `scripts/setup test` installs it")
}

#[test]
fn exposure_is_at_most_1_5() {
    let unit = unit();
    let output =
        systemd_analyze(&["security", "--offline=true", "--no-pager", unit.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let level = text
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for ghauditd.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .unwrap_or_else(|| {
            panic!("no figure in: {text}{}", String::from_utf8_lossy(&output.stderr))
        });
    println!("exposure: {level}");
    assert!(level.parse::<f64>().unwrap() <= EXPOSURE_MAX, "{text}");
}

/// `systemd-analyze verify` warns of unknown settings and bad values, and says so by name.
#[test]
fn the_unit_has_no_fault() {
    // with programs that exist on every machine: whether ours is installed is another question
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(unit()).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/ghauditd run"));
    let copy = folder.path().join("ghauditd.service");
    let text = text.replace("/usr/bin/ghauditd", "/bin/true");
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("Documentation=")).collect();
    std::fs::write(&copy, text.join("\n")).unwrap();
    let output = systemd_analyze(&["verify", "--man=no", copy.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("ghauditd.service")).collect();
    assert!(ours.is_empty(), "{said}");
}

/// What the design asks of the unit, line by line: a change here is a change of behaviour in production.
#[test]
fn the_unit_says_what_the_design_asks() {
    let text = std::fs::read_to_string(unit()).unwrap();
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=60",
        "Restart=always",
        "RestartSec=30",
        "StartLimitIntervalSec=0",
        "DynamicUser=yes",
        "StateDirectory=ghauditd",
        "LoadCredential=github-token:/etc/ghauditd/github-token",
        "ExecStart=/usr/bin/ghauditd run --config /etc/ghauditd/ghauditd.toml",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
}
