//! From a file and the environment to a [`Config`], or to all of its faults at once.

use super::Config;
use super::environment::{Environment, OVERRIDE_PREFIX};
use super::fault::{Fault, Faults};
use super::reader::{Report, Table};
use super::sections::{self, Surroundings};
use crate::audit::Lane;
use crate::github::EntitySettings;
use crate::kafka::settings::Settings;
use ::config::{File, FileFormat, Value, ValueKind};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Most bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration without faults, and what is unwise in it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What works, but should not stay so.
    pub warnings: Vec<Fault>,
}

/// Reads and checks a configuration file with the environment's overrides.
///
/// # Errors
/// All faults, each with its key, what is wrong and the remedy.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Faults> {
    let text = read_file(path).map_err(|(problem, remedy)| {
        let key = path.display().to_string();
        Faults(vec![Fault { key, problem, remedy }])
    })?;
    parse(&text, &path.display().to_string(), environment)
}

/// Reads and checks a configuration's text; `name` stands for it in messages.
///
/// # Errors
/// All faults, each with its key, what is wrong and the remedy.
pub fn parse(text: &str, name: &str, environment: &Environment) -> Result<Loaded, Faults> {
    let report = Report::default();
    let tree = merge(text, name, environment, &report).map_err(|fault| Faults(vec![fault]))?;
    let config = read(&tree, environment, &report);
    let (faults, warnings, _) = report.finish();
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(Faults(faults)),
    }
}

/// Every key that a configuration can have, `NAME` where the operator chooses one.
pub fn known_keys() -> BTreeSet<String> {
    // one table of each kind makes the reader ask for all there is
    const ONE_OF_EACH: &str = "[server.x]\n[credential.x]\n[[entity]]\n";
    let report = Report::default();
    let environment = Environment::default();
    if let Ok(tree) = merge(ONE_OF_EACH, "", &environment, &report) {
        read(&tree, &environment, &report);
    }
    report.finish().2
}

fn read_file(path: &Path) -> Result<String, (String, String)> {
    let problem = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "name the file with --config",
            _ => "check the file's permissions",
        };
        (sections::unreadable(&error), remedy.to_owned())
    };
    let meta = std::fs::metadata(path).map_err(problem)?;
    if meta.len() > FILE_BYTES_MAX || !meta.is_file() {
        let remedy = "name the TOML file with --config".to_owned();
        return Err(("is not a configuration file".to_owned(), remedy));
    }
    std::fs::read_to_string(path).map_err(problem)
}

/// The tree of the file with the environment's values over it.
fn merge(
    text: &str,
    name: &str,
    environment: &Environment,
    report: &Report,
) -> Result<Value, Fault> {
    let mut overrides = ::config::Map::new();
    for (variable, value) in environment.overrides() {
        // the list of entities cannot be addressed by variables: a table in its place would hide it
        if variable.starts_with("GHAUDITD__ENTITY") {
            report.fault(
                variable,
                "entities cannot be set by the environment",
                "write them in the file; a token may come from a variable by token_env",
            );
        } else {
            overrides.insert(variable.to_owned(), value.to_owned());
        }
    }
    let variables = ::config::Environment::with_prefix(OVERRIDE_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .source(Some(overrides));
    let merged = ::config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .add_source(variables)
        .build();
    match merged {
        Ok(merged) => Ok(merged.cache),
        Err(error) => Err(Fault {
            key: name.to_owned(),
            problem: format!("is not TOML: {}", without_excerpt(&error.to_string())),
            remedy: "mend the line that is named; texts stand in double quotes".to_owned(),
        }),
    }
}

/// The TOML parser quotes the line at fault, and that line may hold a secret: keep the place and the reason.
fn without_excerpt(message: &str) -> String {
    let is_excerpt = |line: &&str| {
        line.trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start()
            .starts_with('|')
    };
    let kept: Vec<&str> = message
        .lines()
        .filter(|line| !is_excerpt(line))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    kept.join(": ")
}

/// Seen ids are kept for as long as GitHub can show their entries, and the window behind it; where that is unlimited,
/// for the least that any lane has.
fn keep_seen_ids(kafka: &mut Settings, entities: &[EntitySettings]) {
    const DAY: Duration = Duration::from_hours(24);
    for lane in entities.iter().flat_map(|entity| &entity.lanes) {
        let Some(retention) = lane.retention else { continue };
        match lane.lane {
            Lane::Web | Lane::GraphQl => {
                kafka.seen_web_retention = kafka.seen_web_retention.max(retention + 45 * DAY);
            }
            Lane::Git => {
                kafka.seen_git_retention = kafka.seen_git_retention.max(retention + 14 * DAY);
            }
        }
    }
}

fn read(tree: &Value, environment: &Environment, report: &Report) -> Option<Config> {
    if !matches!(tree.kind, ValueKind::Table(_)) {
        return None;
    }
    let around = Surroundings { environment };
    let mut root = Table::root(tree, report);
    let servers = sections::server::read(&mut root);
    let pool = sections::credential::read(&mut root, &servers, &around);
    let entities = sections::entity::read(&mut root, &servers, &pool, &around);
    pool.finish(report);
    let (collect, allow_overlap) = sections::daemon::collect(&mut root);
    sections::overlap::check(report, &servers, &entities, allow_overlap);
    sections::sweeps::check(report, &entities, &collect);
    let mut kafka = sections::kafka::read(&mut root);
    let archive = sections::archive::read(&mut root);
    let state = sections::daemon::state(&mut root, &around);
    let admin = sections::daemon::admin(&mut root);
    let daemon = sections::daemon::daemon(&mut root);
    root.finish();
    let servers = servers.into_iter().filter_map(|(name, server)| Some((name, server?))).collect();
    let entities: Vec<_> = entities.into_iter().map(|entity| entity.settings).collect();
    keep_seen_ids(&mut kafka, &entities);
    Some(Config { servers, entities, collect, kafka, archive, state, admin, daemon })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(lines: &str, variables: &[(&str, &str)]) -> Result<Settings, Faults> {
        let text = format!("[kafka]\nbrokers = \"k:1\"\n{lines}\n[archive]\nenabled = false\n");
        let environment = variables.iter().copied().collect();
        let report = Report::default();
        let tree = merge(&text, "test", &environment, &report).unwrap();
        let Value { kind: ValueKind::Table(_), .. } = tree else { panic!("{tree:?}") };
        let settings = sections::kafka::read(&mut Table::root(&tree, &report));
        let (faults, ..) = report.finish();
        if faults.is_empty() { Ok(settings) } else { Err(Faults(faults)) }
    }

    /// `ALPHA` sorts before and `zulu` after what the file says: the variable wins by being one.
    #[test]
    fn a_variable_replaces_a_property_however_its_dots_are_written() {
        const NAME: &str = "GHAUDITD__KAFKA__PROPERTIES__SASL__USERNAME";
        for line in [
            "[kafka.properties]\n\"sasl.username\" = \"mike\"",
            "[kafka.properties]\nsasl.username = \"mike\"",
            "[kafka]\nproperties.sasl.\"username\" = \"mike\"",
            "",
        ] {
            for value in ["ALPHA", "zulu"] {
                let line = line.trim_start_matches("[kafka]\n");
                let settings = kafka(line, &[(NAME, value)]).unwrap_or_else(|it| panic!("{it:?}"));
                assert_eq!(settings.properties["sasl.username"], value, "{line}");
                assert_eq!(settings.properties.len(), 1, "{line}");
            }
        }
    }

    #[test]
    fn a_variable_replaces_the_path_of_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("a-password");
        std::fs::write(&secret, "hunter2\n").unwrap();
        // the file's path is not there on this host, and sorts behind the variable's
        let line = "[kafka.properties_files]\n\"sasl.password\" = \"/zzz/not/there\"";
        let variable = "GHAUDITD__KAFKA__PROPERTIES_FILES__SASL__PASSWORD";
        let settings = kafka(line, &[(variable, secret.to_str().unwrap())]);
        let settings = settings.unwrap_or_else(|it| panic!("{it:?}"));
        assert_eq!(settings.properties["sasl.password"], "hunter2");
        let settings = kafka("", &[("GHAUDITD__KAFKA__PROPERTIES__SASL__PASSWORD", "hunter3")]);
        assert_eq!(settings.unwrap().properties["sasl.password"], "hunter3");
    }

    #[test]
    fn a_property_that_stands_twice_is_refused() {
        let twice = "[kafka.properties]\n\"client.rack\" = \"a\"\nclient.rack = \"b\"";
        let Err(Faults(faults)) = kafka(twice, &[]) else { panic!("taken") };
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].key.contains("client.rack"), "{faults:?}");
        assert!(faults[0].problem.contains("twice"), "{faults:?}");
    }
}
