//! A whole installation: simulated GitHub, broker, daemon, archive; and the comparison of what went in with what came out.

use super::daemon::Daemon;
use super::kafka::{KcatRecord, kcat_dump};
use super::s3::S3;
use super::{secret_token, unique, wait_until};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{JournalEntry, Sim, SimConfig};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The topics that hold entries, without the prefix.
const ENTRY_TOPICS: [&str; 4] =
    ["github.audit.web", "github.audit.git", "github.audit.stream", "github.audit.dlq"];

/// One installation of one test.
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) daemon: Daemon,
    pub(crate) brokers: String,
    pub(crate) prefix: String,
    entities: Vec<(EntityKind, String)>,
    /// How many credentials the entities have; 1: a token of their own.
    credentials: usize,
    /// A line of every entity about its lanes; empty: the default.
    lanes: &'static str,
    archive: String,
}

/// An entry as a consumer sees it: entity, id without the revision mark, digest of the bytes.
pub(crate) type Seen = (String, String, [u8; 32]);

/// What is wrong between the journal and a copy of it. All empty: nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    pub(crate) missing: Vec<String>,
    pub(crate) extra: Vec<String>,
    pub(crate) doubled: Vec<String>,
    pub(crate) sequence: Vec<String>,
}

impl World {
    /// Starts the simulated GitHub, and writes a configuration with a `dir` archive. The daemon is not started. Where there
    /// are further tokens, all entities have the credentials `c0` (the first token), `c1` and so on.
    pub(crate) async fn new(name: &str, brokers: &str, mut config: SimConfig) -> Self {
        let token = secret_token();
        config.token.clone_from(&token);
        let entities = config.entities.iter().map(|it| (it.kind, it.slug.clone())).collect();
        let further: Vec<_> = config.further_tokens.iter().map(|it| it.token.clone()).collect();
        let sim = Sim::start(config).await.unwrap();
        let daemon = Daemon::new(name);
        write_secret(&daemon, "token", &token);
        for (number, token) in (1..).zip(&further) {
            write_secret(&daemon, &format!("token{number}"), token);
        }
        let mut world = Self {
            sim,
            prefix: unique(name),
            brokers: brokers.to_owned(),
            entities,
            credentials: 1 + further.len(),
            lanes: "",
            archive: String::new(),
            daemon,
        };
        world.archive_to_dir();
        world.configure("");
        world
    }

    /// The name of an entity in the configuration, which is its slug at first.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        self.entities
            .iter_mut()
            .filter(|(_, slug)| slug == from)
            .for_each(|(_, slug)| to.clone_into(slug));
    }

    /// The archive is the folder `archive` of the daemon's home.
    pub(crate) fn archive_to_dir(&mut self) {
        let path = self.archive_dir();
        self.archive = format!("store = \"dir\"\npath = {}\nimmutable = false\n", quoted(&path));
    }

    /// The archive is another folder of the daemon's home.
    pub(crate) fn archive_to_folder(&mut self, name: &str) {
        let path = self.daemon.home().join(name);
        self.archive = format!("store = \"dir\"\npath = {}\nimmutable = false\n", quoted(&path));
    }

    /// Every entity has this line about its lanes.
    pub(crate) fn read_lanes(&mut self, line: &'static str) {
        self.lanes = line;
        self.configure("");
    }

    /// The archive is a bucket.
    pub(crate) fn archive_to_s3(&mut self, endpoint: &str, bucket: &str) {
        self.archive = format!(
            "store = \"s3\"\nbucket = \"{bucket}\"\nendpoint = \"{endpoint}\"\npath_style = true\nregion = \"us-east-1\"\n"
        );
    }

    /// Where the `dir` archive is.
    pub(crate) fn archive_dir(&self) -> PathBuf {
        self.daemon.home().join("archive")
    }

    /// Writes the configuration with further lines at its end.
    pub(crate) fn configure(&self, more: &str) {
        let home = self.daemon.home();
        let mut entities = String::new();
        let mut credentials = format!("token_file = {}", quoted(&home.join("token")));
        if self.credentials > 1 {
            let names: Vec<_> = (0..self.credentials).map(|it| format!("c{it}")).collect();
            for (number, name) in names.iter().enumerate() {
                let file = if number == 0 { "token".into() } else { format!("token{number}") };
                let file = quoted(&home.join(file));
                writeln!(entities, "[credential.{name}]\nserver = \"sim\"\ntoken_file = {file}")
                    .unwrap();
            }
            credentials = format!("credentials = {names:?}");
        }
        for (kind, slug) in &self.entities {
            let kind = match kind {
                EntityKind::Enterprise => "enterprise",
                EntityKind::Organization => "organization",
            };
            writeln!(
                entities,
                "[[entity]]\nname = \"{slug}\"\nkind = \"{kind}\"\nslug = \"{slug}\"\nserver = \"sim\"\n{credentials}\nallow_overlap = true\n{}",
                self.lanes,
            )
            .unwrap();
        }
        self.daemon.configure(&format!(
            "[server.sim]\nbase_url = \"{}\"\n{entities}\n\
             [collect]\npoll_interval_min = \"1s\"\npoll_interval_max = \"1s\"\n\
             [kafka]\nbrokers = \"{}\"\nid_prefix = \"{prefix}\"\ntopic_prefix = \"{prefix}.\"\n\
             data_partitions = 3\nstate_partitions = 4\nreplication = 1\n\
             [archive]\n{}segment_age = \"1s\"\nlock_mode = \"governance\"\nretention = \"1d\"\n\
             [state]\ndir = {}\n[admin]\nlisten = \"{}\"\n{more}",
            self.sim.base_url(),
            self.brokers,
            self.archive,
            quoted(&home.join("state")),
            self.daemon.admin(),
            prefix = self.prefix,
        ));
    }

    /// The name of a topic of this installation.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Waits until nothing of the journal is missing in Kafka; panics with what is.
    pub(crate) async fn collected(&mut self, timeout: Duration) {
        let begun = std::time::Instant::now();
        loop {
            let missing = self.kafka_differences().await.missing;
            if missing.is_empty() {
                return;
            }
            assert!(self.daemon.running(), "the daemon has ended:\n{}", self.daemon.log_tail());
            assert!(
                begun.elapsed() < timeout,
                "{} entries not collected in {timeout:?}, among them {:?}",
                missing.len(),
                missing.iter().take(5).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// What the topics hold, read by kcat, beside the journal.
    pub(crate) async fn kafka_differences(&self) -> Differences {
        let mut records = Vec::new();
        for topic in ENTRY_TOPICS {
            records.extend(kcat_dump(&self.brokers, &self.topic(topic)).await);
        }
        let mut differences = differences(&self.sim, &entries(&records));
        differences.sequence = sequence_faults(&records);
        differences
    }

    /// The entries in the topics, as kcat reads them, and how often each is there.
    pub(crate) async fn kafka_entries(&self) -> BTreeMap<Seen, usize> {
        entries(&self.kafka_records().await)
    }

    /// The records in the topics of entries.
    pub(crate) async fn kafka_records(&self) -> Vec<KcatRecord> {
        let mut records = Vec::new();
        for topic in ENTRY_TOPICS {
            records.extend(kcat_dump(&self.brokers, &self.topic(topic)).await);
        }
        records
    }

    /// What must have been collected, if every entry was shown.
    pub(crate) fn journal(&self) -> BTreeSet<Seen> {
        wanted(&self.sim)
    }

    /// What the `dir` archive holds, read by a reader that is not ours, beside the journal.
    pub(crate) fn archive_differences(&self) -> Differences {
        self.archive_differences_in(&self.archive_dir())
    }

    /// The same for a folder that shows the archive.
    pub(crate) fn archive_differences_in(&self, folder: &Path) -> Differences {
        let mut found = BTreeMap::new();
        let mut objects = Vec::new();
        files(&folder.join("segments"), &mut objects);
        for path in objects {
            let bytes = std::fs::read(&path).unwrap();
            for (seen, times) in archived(&bytes) {
                *found.entry(seen).or_insert(0) += times;
            }
        }
        differences(&self.sim, &found)
    }

    /// What a bucket's archive holds beside the journal; and each object must have exactly one version.
    pub(crate) async fn bucket_differences(&self, s3: &S3, bucket: &str) -> Differences {
        let versions = s3.versions(bucket, "segments/").await;
        let mut keys: Vec<&String> = versions.iter().map(|(key, _)| key).collect();
        keys.dedup();
        assert_eq!(keys.len(), versions.len(), "a second version: {versions:?}");
        let mut found = BTreeMap::new();
        for key in keys {
            let object = s3.client().get_object().bucket(bucket).key(key).send().await.unwrap();
            let bytes = object.body.collect().await.unwrap().into_bytes();
            for (seen, times) in archived(&bytes) {
                *found.entry(seen).or_insert(0) += times;
            }
        }
        differences(&self.sim, &found)
    }

    /// The sequence in an entity's newest checkpoint, as kcat reads it.
    pub(crate) async fn checkpoint_sequence(&self, entity: &str) -> u64 {
        let records = kcat_dump(&self.brokers, &self.topic("ghauditd.checkpoints")).await;
        let of_entity = |record: &&KcatRecord| record.key.as_deref() == Some(entity.as_bytes());
        let newest = records.iter().filter(of_entity).max_by_key(|record| record.offset).unwrap();
        let value: serde_json::Value =
            serde_json::from_slice(newest.value.as_deref().unwrap()).unwrap();
        value["sequence"].as_u64().unwrap()
    }

    /// How many records the topics of entries hold.
    pub(crate) async fn records(&self) -> u64 {
        let mut records = 0;
        for topic in ENTRY_TOPICS {
            records += kcat_dump(&self.brokers, &self.topic(topic)).await.len();
        }
        records.try_into().unwrap()
    }

    /// Waits until the `dir` archive holds as many entries as the journal.
    pub(crate) async fn archived(&self, timeout: Duration) {
        wait_until(timeout, "all entries archived", async || {
            let missing = self.archive_differences().missing.len();
            tokio::time::sleep(Duration::from_millis(300)).await;
            missing == 0
        })
        .await;
    }
}

/// What must have been collected: each (entity, id, body) of the journal once. Of an entry whose body changed, what was
/// really shown: a change after its time was read is for sweeps to find.
fn wanted(sim: &Sim) -> BTreeSet<Seen> {
    let changed: BTreeSet<(String, String)> = sim
        .journal_entries()
        .filter(|entry| entry.replaced_at_ms.is_some())
        .map(|entry| (entry.entity, entry.id))
        .collect();
    journal(sim, |entry| {
        entry.served || !changed.contains(&(entry.entity.clone(), entry.id.clone()))
    })
}

/// All that may have been collected.
fn possible(sim: &Sim) -> BTreeSet<Seen> {
    journal(sim, |_| true)
}

fn journal(sim: &Sim, which: impl Fn(&JournalEntry) -> bool) -> BTreeSet<Seen> {
    sim.journal_entries()
        .filter(|entry| !entry.uncuttable && which(entry))
        .map(|entry| {
            let id = if entry.id.is_empty() { derived(&entry.body) } else { entry.id.clone() };
            (entry.entity, id, entry.sha256)
        })
        .collect()
}

fn derived(body: &[u8]) -> String {
    ghauditd::audit::entry::derived_id(body)
}

/// Entries among records, with how often each is there; pieces are joined.
fn entries(records: &[KcatRecord]) -> BTreeMap<Seen, usize> {
    let mut found = BTreeMap::new();
    let mut pieces: BTreeMap<(String, String), Vec<(usize, &KcatRecord)>> = BTreeMap::new();
    for record in records {
        if let (Some(whole), Some(piece)) =
            (record.header("gh_chunk_sha256"), record.header("gh_chunk"))
        {
            let key = (record.header("gh_entity").unwrap().to_owned(), whole.to_owned());
            pieces.entry(key).or_default().push((piece.parse().unwrap(), record));
            continue;
        }
        let body = record.value.as_deref().unwrap();
        *found.entry(seen(record, body)).or_insert(0) += 1;
    }
    for (_, mut parts) in pieces {
        parts.sort_by_key(|(number, _)| *number);
        let body: Vec<u8> =
            parts.iter().flat_map(|(_, part)| part.value.clone().unwrap()).collect();
        *found.entry(seen(parts[0].1, &body)).or_insert(0) += 1;
    }
    found
}

fn seen(record: &KcatRecord, body: &[u8]) -> Seen {
    let id = record.header("ce_id").unwrap();
    let id =
        if record.header("gh_revision").is_some() { id.rsplit_once(";r=").unwrap().0 } else { id };
    (record.header("gh_entity").unwrap().to_owned(), id.to_owned(), Sha256::digest(body).into())
}

/// Entries of one segment object, by the layout in docs/formats.md and nothing of ours.
pub(crate) fn archived(object: &[u8]) -> BTreeMap<Seen, usize> {
    let text = zstd::decode_all(object).unwrap();
    let mut found = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"offset\"")) {
        let line_value: serde_json::Value = serde_json::from_slice(line).unwrap();
        let header = |name: &str| {
            let headers = line_value["headers"].as_array().unwrap();
            headers
                .iter()
                .find(|pair| pair[0] == name)
                .map(|pair| pair[1].as_str().unwrap().to_owned())
        };
        let Some(entity) = header("gh_entity") else { continue };
        let Some(id) = header("ce_id") else { continue };
        let body = if let Some(text) = line_value["value_b64"].as_str() {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).unwrap()
        } else {
            let len = line_value["len"].as_u64().unwrap();
            let end = line.len() - 1;
            line[end - usize::try_from(len).unwrap()..end].to_vec()
        };
        let id = if header("gh_revision").is_some() {
            id.rsplit_once(";r=").unwrap().0.to_owned()
        } else {
            id
        };
        *found.entry((entity, id, Sha256::digest(&body).into())).or_insert(0) += 1;
    }
    found
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(listing) = std::fs::read_dir(folder) else { return };
    for item in listing {
        let path = item.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

fn differences(sim: &Sim, found: &BTreeMap<Seen, usize>) -> Differences {
    let (wanted, possible) = (wanted(sim), possible(sim));
    let show = |(entity, id, _): &Seen| format!("{entity}/{id}");
    Differences {
        missing: wanted.iter().filter(|it| !found.contains_key(*it)).map(show).collect(),
        extra: found.keys().filter(|it| !possible.contains(*it)).map(show).collect(),
        doubled: found.iter().filter(|(_, times)| **times > 1).map(|(it, _)| show(it)).collect(),
        sequence: Vec::new(),
    }
}

/// Each entity's sequence runs from 1 without holes and without a number twice, across all topics and partitions.
fn sequence_faults(records: &[KcatRecord]) -> Vec<String> {
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in records {
        let number = record.header("gh_seq").unwrap().parse().unwrap();
        numbers.entry(record.header("gh_entity").unwrap().to_owned()).or_default().push(number);
    }
    let mut faults = Vec::new();
    for (entity, mut numbers) in numbers {
        numbers.sort_unstable();
        for (wanted, found) in (1..).zip(&numbers) {
            if wanted != *found {
                faults.push(format!("{entity}: {found} where {wanted} is due"));
                break;
            }
        }
    }
    faults
}

/// A file that only its owner can read.
fn write_secret(daemon: &Daemon, name: &str, text: &str) {
    let file = daemon.write(name, text);
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
