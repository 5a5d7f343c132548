//! Kafka and the archive beside the simulated GitHub's journal: each (id, body) once, byte for byte.

use crate::archive::segment::{ArchivedRecord, ReadLimits, SegmentReader, parse_line};
use crate::audit::{Topic, header};
use crate::kafka::consumer::{ReadFrom, TopicReader};
use crate::kafka::settings::Settings;
use crate::sim::Sim;
use anyhow::Context as _;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ENTRY_TOPICS: [Topic; 4] = [Topic::Web, Topic::Git, Topic::Stream, Topic::DeadLetter];

/// An entry: its id and the digest of its bytes.
type Seen = (Vec<u8>, [u8; 32]);

/// How a copy compares with the journal.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) found: usize,
    pub(super) lost: usize,
    pub(super) doubled: usize,
    /// Not in the journal.
    pub(super) foreign: usize,
}

impl Comparison {
    fn of(journal: &BTreeSet<Seen>, found: &HashMap<Seen, usize>) -> Self {
        Self {
            found: found.values().sum(),
            lost: journal.iter().filter(|it| !found.contains_key(*it)).count(),
            doubled: found.values().map(|times| times.saturating_sub(1)).sum(),
            foreign: found.keys().filter(|it| !journal.contains(*it)).count(),
        }
    }

    fn is_good(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.foreign == 0
    }
}

/// What the demo came to.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) journal: usize,
    pub(super) kafka: Comparison,
    pub(super) archive: Comparison,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.kafka.is_good() && self.archive.is_good()
    }
}

/// Reads everything and compares.
pub(super) async fn verify(
    sim: &Sim,
    kafka: &Arc<Settings>,
    archive: &Path,
) -> anyhow::Result<Verdict> {
    let journal: BTreeSet<Seen> =
        sim.journal_entries().map(|entry| (entry.id.into_bytes(), entry.sha256)).collect();
    let (settings, folder) = (Arc::clone(kafka), archive.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        anyhow::Ok((in_kafka(&settings)?, in_archive(&folder)?))
    });
    let (in_kafka, in_archive) = read.await??;
    Ok(Verdict {
        kafka: Comparison::of(&journal, &in_kafka),
        archive: Comparison::of(&journal, &in_archive),
        journal: journal.len(),
    })
}

fn in_kafka(settings: &Settings) -> anyhow::Result<HashMap<Seen, usize>> {
    let reader = TopicReader::new(settings)?;
    let mut found = HashMap::new();
    for topic in ENTRY_TOPICS {
        let name = settings.topic(topic);
        for partition in 0..reader.partition_count(name)? {
            reader.read_to_end(name, partition, ReadFrom::Beginning, |record| {
                let id = record.header(header::CE_ID).unwrap_or_default();
                let is_revision = record.header(header::REVISION).is_some();
                let body = record.value.unwrap_or_default();
                *found.entry(seen(id, is_revision, body)).or_insert(0) += 1;
            })?;
        }
    }
    Ok(found)
}

fn in_archive(archive: &Path) -> anyhow::Result<HashMap<Seen, usize>> {
    let mut found = HashMap::new();
    let mut paths = Vec::new();
    segments(&archive.join("segments"), &mut paths)?;
    for path in paths {
        let object = std::fs::read(&path)?;
        let mut reader = SegmentReader::open(&object, ReadLimits::default())?;
        while let Some(line) = reader.next_line()? {
            let record = parse_line(line).with_context(|| format!("{}", path.display()))?;
            let Some(id) = header_of(&record, header::CE_ID) else { continue };
            let is_revision = header_of(&record, header::REVISION).is_some();
            let body = record.value.as_deref().unwrap_or_default();
            *found.entry(seen(id, is_revision, body)).or_insert(0) += 1;
        }
    }
    Ok(found)
}

fn header_of<'a>(record: &'a ArchivedRecord, name: &str) -> Option<&'a [u8]> {
    record.headers.iter().find(|(key, _)| key == name)?.1.as_deref()
}

fn seen(id: &[u8], is_revision: bool, body: &[u8]) -> Seen {
    let mark = header::REVISION_SEPARATOR.len() + 8;
    let cut = if is_revision { id.len().saturating_sub(mark) } else { id.len() };
    (id.get(..cut).unwrap_or_default().to_vec(), Sha256::digest(body).into())
}

fn segments(folder: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            segments(&path, out)?;
        } else {
            out.push(path);
        }
    }
    Ok(())
}

/// Counts of the archive, kept up to date by reading each new segment once.
#[derive(Debug, Default)]
pub(super) struct Archived {
    known: BTreeSet<PathBuf>,
    /// Entries in all segments.
    pub(super) entries: u64,
    /// Segments.
    pub(super) segments: u64,
}

impl Archived {
    pub(super) fn look(&mut self, archive: &Path) -> anyhow::Result<()> {
        let mut paths = Vec::new();
        segments(&archive.join("segments"), &mut paths)?;
        for path in paths {
            if self.known.contains(&path) {
                continue;
            }
            let object = std::fs::read(&path)?;
            let mut reader = SegmentReader::open(&object, ReadLimits::default())?;
            while reader.next_line()?.is_some() {}
            let is_entries = reader.header().topic.contains("github.audit.");
            let count = reader.footer().map_or(0, |footer| footer.count);
            self.entries += if is_entries { count } else { 0 };
            self.segments += 1;
            self.known.insert(path);
        }
        Ok(())
    }
}
