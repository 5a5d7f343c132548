//! Configurations: any text is refused with faults, or makes settings that hold together; no secret is ever shown.

use crate::decisions::Decisions;
use ghauditd::config::{Environment, Loaded, load};
use std::collections::BTreeSet;
use std::sync::LazyLock;

const SECRET: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";

#[test]
fn config_of_bytes() {
    bolero::check!().with_max_len(2048_usize).for_each(|bytes: &[u8]| {
        drop(check(&String::from_utf8_lossy(bytes), &[]));
    });
}

const BASE: &str = "\
[kafka]
brokers = \"127.0.0.1:9092\"
[[entity]]
name = \"acme\"
kind = \"organization\"
slug = \"acme\"
token_env = \"TOKEN\"
[archive]
store = \"dir\"
path = \"/srv/archive\"
lock_mode = \"none\"
retention = \"1d\"
[state]
dir = \"/var/lib/ghauditd\"
";

const VALUES: &[&str] = &[
    "true",
    "false",
    "0",
    "1",
    "-1",
    "3",
    "9223372036854775807",
    "1.5",
    "nan",
    "1979-05-27T07:32:00Z",
    "\"\"",
    "\" \"",
    "\"x\"",
    "\"acme\"",
    "\"web\"",
    "\"git\"",
    "\"none\"",
    "\"dir\"",
    "\"s3\"",
    "\"compliance\"",
    "\"governance\"",
    "\"enterprise\"",
    "\"organization\"",
    "\"unlimited\"",
    "\"10m\"",
    "\"1d\"",
    "\"180d\"",
    "\"3653d\"",
    "\"9999999999999999999d\"",
    "\"-5m\"",
    "\"1y\"",
    "\"8MiB\"",
    "\"1B\"",
    "\"99999999999GiB\"",
    "\"/\"",
    "\"/nowhere/at/all\"",
    "\"relative\"",
    "\"https://ghe.example/api/v3/\"",
    "\"http://127.0.0.1:1/\"",
    "\"http://ghe.example/\"",
    "\"https://u:p@ghe.example/\"",
    "\"ftp://x/\"",
    "\"://\"",
    "\"127.0.0.1:0\"",
    "\"[::1]:9184\"",
    "\"0.0.0.0:9184\"",
    "\"a:1,b:2\"",
    "\"\\u0000\"",
    "\"\u{e9}\"",
    "[]",
    "[\"web\"]",
    "[\"git\", \"web\", \"x\"]",
    "[1]",
    "{}",
    "{ web = \"1d\" }",
    "{ acks = \"1\" }",
    "{ \"linger.ms\" = 5 }",
    "\"TOKEN\"",
    "\"NOTHING\"",
    "{ x = { y = [ { z = 1 } ] } }",
];

/// What looks like a configuration: a right one, with lines taken out and any known key set to anything.
#[test]
fn config_of_keys() {
    static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
        // what the operator names stands as NAME; a list of tables cannot be addressed by a dotted key
        let usable = |key: &String| !key.starts_with("entity.");
        load::known_keys().into_iter().map(|key| key.replace("NAME", "x")).filter(usable).collect()
    });
    static ENTITY_KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let keys = load::known_keys();
        keys.iter().filter_map(|key| key.strip_prefix("entity.").map(str::to_owned)).collect()
    });
    bolero::check!().with_max_len(128_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut lines: Vec<String> = BASE.lines().map(str::to_owned).collect();
        let mut overrides = Vec::new();
        while !decisions.is_empty() && lines.len() < 40 {
            let value = |decisions: &mut Decisions<'_>| decisions.pick(VALUES).to_owned();
            let at = decisions.below(lines.len());
            match decisions.byte() {
                0..=31 => drop(lines.remove(at)),
                32..=63 => lines[at].push_str(decisions.pick(&["#", "=", "\"", "[", "]", "\n"])),
                64..=95 => {
                    let key = &ENTITY_KEYS[decisions.below(ENTITY_KEYS.len())];
                    let place = lines.iter().position(|line| line.starts_with("[[entity]]"));
                    let place = place.map_or(lines.len(), |place| place + 1);
                    let prefix = key.split('.').next().unwrap_or_default().to_owned();
                    lines.retain(|line| place == 0 || !line.starts_with(&format!("{prefix} =")));
                    let place = place.min(lines.len());
                    lines.insert(place, format!("{key} = {}", value(&mut decisions)));
                }
                96..=127 => {
                    let key = &KEYS[decisions.below(KEYS.len())];
                    let name = key.to_uppercase().replace('.', "__");
                    let value = value(&mut decisions).trim_matches('"').to_owned();
                    if !value.contains('\0') {
                        overrides.push((format!("GHAUDITD__{name}"), value));
                    }
                }
                _ => {
                    // dotted keys at the top set anything, also in tables that do not stand there
                    let key = &KEYS[decisions.below(KEYS.len())];
                    let table = key.split('.').next().unwrap_or_default().to_owned();
                    if !lines.iter().any(|line| *line == format!("[{table}]")) {
                        lines.insert(0, format!("{key} = {}", value(&mut decisions)));
                    } else if let Some((_, rest)) = key.split_once('.') {
                        let place = lines.iter().position(|line| *line == format!("[{table}]"));
                        let line = format!("{rest} = {}", value(&mut decisions));
                        lines.retain(|line| !line.starts_with(&format!("{rest} =")));
                        lines.insert((place.unwrap_or(0) + 1).min(lines.len()), line);
                    }
                }
            }
            if lines.is_empty() {
                break;
            }
        }
        if let Some(loaded) = check(&lines.join("\n"), &overrides) {
            holds_together(&loaded);
        }
    });
}

/// A key that nobody knows is refused by its name, whatever else is right.
#[test]
fn config_of_an_unknown_key() {
    bolero::check!().with_max_len(24_usize).for_each(|bytes: &[u8]| {
        let plain = |byte: &u8| char::from(b"abcdefghijklmnopqrstuvwxyz_"[usize::from(*byte) % 27]);
        let key: String = bytes.iter().map(plain).collect();
        let known = load::known_keys().iter().any(|known| known == &format!("state.{key}"));
        if key.is_empty() || known {
            return;
        }
        let text = format!("{BASE}{key} = 1\n");
        let faults = load::parse(&text, "test.toml", &environment(&[])).unwrap_err().0;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].key, format!("state.{key}"));
    });
}

fn environment(overrides: &[(String, String)]) -> Environment {
    let token = ("TOKEN".to_owned(), SECRET.to_owned());
    overrides.iter().cloned().chain([token]).collect()
}

fn check(text: &str, overrides: &[(String, String)]) -> Option<Loaded> {
    match load::parse(text, "test.toml", &environment(overrides)) {
        Ok(loaded) => {
            told_well(&loaded.warnings);
            assert!(!format!("{:?}", loaded.config).contains(SECRET));
            Some(loaded)
        }
        Err(faults) => {
            assert!(!faults.0.is_empty(), "refused without a fault: {text}");
            told_well(&faults.0);
            None
        }
    }
}

fn told_well(faults: &[ghauditd::config::Fault]) {
    for fault in faults {
        assert!(!fault.key.is_empty() && !fault.problem.is_empty(), "{fault:?}");
        assert!(!fault.remedy.is_empty(), "{fault:?}");
        assert!(!fault.to_string().contains(SECRET), "{fault:?}");
    }
}

fn holds_together(loaded: &Loaded) {
    let config = &loaded.config;
    assert!(!config.entities.is_empty());
    let names: BTreeSet<_> = config.entities.iter().map(|entity| entity.name.as_str()).collect();
    assert_eq!(names.len(), config.entities.len());
    for entity in &config.entities {
        assert!(config.servers.contains_key(&entity.server), "{entity:?}");
        assert!(!entity.lanes.is_empty(), "{entity:?}");
    }
    for (name, server) in &config.servers {
        assert_eq!(name, &server.name);
        assert!(server.base_url.path().ends_with('/'), "{server:?}");
    }
    assert!(!config.kafka.brokers.is_empty());
    assert!(config.collect.poll_interval_min <= config.collect.poll_interval_max);
    let topics: BTreeSet<_> = config.kafka.topic_names.values().collect();
    assert_eq!(topics.len(), ghauditd::audit::Topic::ALL.len());
    if let Some(archive) = &config.archive {
        assert!(archive.segment_bytes_max <= archive.buffer_bytes_max);
        assert!((1..=19).contains(&archive.zstd_level));
    }
}
