//! GitHub's list of a range beside ours, by id and body: what is missing, changed, no longer listed, doubled, or late.
//!
//! The lists may be longer than memory: both are divided by id ([`spill`]), and compared part by part ([`compare`]).
//! Nothing here writes to Kafka or to the archive. What is missing is collected by the owner of the entity's state, who
//! is asked for it by the command.

pub mod allowance;
pub mod compare;
pub mod findings;
pub mod from_archive;
pub mod from_kafka;
pub mod gap;
pub mod item;
pub mod lists;
pub mod spill;
pub mod standing;
pub mod statement;
mod text;
pub mod walk;

pub use compare::{Counts, Fault, Notes, Tally};
pub use findings::{Findings, Span};
pub use from_archive::ArchiveSideError;
pub use from_kafka::KafkaSideError;
pub use spill::SpillError;
pub use standing::Standing;
pub use statement::{Collecting, CollectingRequest, Maker, Statement, Verdict};
pub use walk::WalkError;

use crate::archive::AnyStore;
use crate::audit::lane::RETENTION_SLACK_S;
use crate::audit::{Checkpoint, EntityName, Lane};
use crate::github::{EntitySettings, LaneSettings, Source};
use crate::kafka::restore::{RestoreError, read_checkpoints};
use crate::kafka::settings::Settings as KafkaSettings;
use crate::time::{rfc3339_s, wall_ms};
use allowance::Allowance;
use compare::Basis;
use from_archive::ArchiveRead;
use from_kafka::{Offsets, PartitionRead};
use gap::RecordedGap;
use lists::{Lists, Scope};
use spill::PARTS;
use standing::{LaneTime, Lanes};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use walk::{Asked, Walker};

/// How much earlier than the range records are looked for: clocks differ, and a transaction takes a moment.
const EARLIER_MS: i64 = 2 * 3_600_000;
/// How long after GitHub's retention an entry may still be committed: the slack of the first backfill, and some more.
const COMMITTED_LATE_S: i64 = RETENTION_SLACK_S + 10 * 86_400;
/// Most recorded gaps that a statement cites.
const GAPS_MAX: usize = 1_000;

/// What goes on, for whoever waits.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// GitHub's list is walked.
    Listing {
        /// The lane.
        lane: Lane,
        /// Entries so far, of all lanes.
        entries: u64,
        /// Epoch second that was reached.
        at_s: i64,
        /// Last epoch second.
        to_s: i64,
    },
    /// Nothing is asked for a while.
    Waiting {
        /// `reserve`, `primary`, `secondary`, `retry_after`, `look_again`.
        reason: &'static str,
        /// How long.
        wait: Duration,
    },
    /// Kafka is read.
    Reading {
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: i32,
        /// The offset that was reached.
        at: i64,
        /// First offset.
        from: i64,
        /// The offset after the last.
        to: i64,
    },
    /// The archive is read.
    Archive {
        /// The segment.
        key: &'a str,
        /// Its number in its partition, from 0.
        number: usize,
        /// Segments of the partition.
        of: usize,
    },
}

/// Who is told.
pub type Tell = Arc<dyn Fn(Step<'_>) + Send + Sync>;

/// Which of our sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// What Kafka has.
    Kafka,
    /// What the archive has.
    Archive,
}

/// What is to be compared.
#[derive(Debug, Clone)]
pub struct Question {
    /// Whose log.
    pub entity: EntitySettings,
    /// First millisecond.
    pub from_ms: i64,
    /// The millisecond after the last.
    pub to_ms: i64,
    /// The lanes.
    pub lanes: Vec<LaneSettings>,
    /// With what; `None`: with Kafka if it still has the range, else with the archive.
    pub against: Option<Against>,
    /// Requests of each window that are left to others; `None`: half of what is left.
    pub reserve: Option<u64>,
    /// Where lists that are too long for memory go.
    pub work_dir: PathBuf,
}

/// What it is compared with.
#[derive(Debug)]
pub struct Sides<'a, S> {
    /// GitHub.
    pub source: &'a S,
    /// Kafka.
    pub kafka: Arc<KafkaSettings>,
    /// The archive, where there is one.
    pub archive: Option<&'a AnyStore>,
    /// How it is collected.
    pub collect: &'a super::Settings,
    /// REST base URL, `/enterprises/` or `/orgs/`, slug.
    pub place: String,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The checkpoints.
    #[error("checkpoints cannot be read: {0}")]
    Restore(#[from] RestoreError),
    /// Nothing to compare.
    #[error("entity {0} has no checkpoint: it has not been collected yet")]
    NeverCollected(EntityName),
    /// The range has not begun.
    #[error("the range begins at {from}, and at GitHub it is {now}: nothing can be compared yet")]
    Future {
        /// Its begin.
        from: String,
        /// GitHub's now.
        now: String,
    },
    /// GitHub has deleted all of it.
    #[error(
        "GitHub has deleted all of the range by its retention ({edges}): there is nothing left to compare with. What was \
         collected is in Kafka and in the archive (`ghauditd archive list`), and what was lost then stands in the topic {gaps}"
    )]
    Expired {
        /// Up to when, lane by lane.
        edges: String,
        /// The topic of gaps.
        gaps: String,
    },
    /// GitHub's side.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// Our side.
    #[error("our records cannot be read: {0}")]
    Kafka(#[from] KafkaSideError),
    /// Kafka has deleted it, and there is nothing else.
    #[error("{0}; compare with the archive, or a range that begins later")]
    KafkaGone(KafkaSideError),
    /// Kafka has deleted it, and no archive is configured.
    #[error("{0}, and the configuration names no archive: compare a range that begins later")]
    NoArchiveToo(KafkaSideError),
    /// There is no archive.
    #[error("the configuration names no archive (archive.enabled = false): use --against kafka")]
    NoArchive,
    /// Our side in the archive.
    #[error(transparent)]
    Archive(#[from] ArchiveSideError),
    /// A list cannot be kept.
    #[error(transparent)]
    Spill(#[from] SpillError),
}

/// A comparison that is going on.
pub struct Reconciliation<'a, S> {
    sides: Sides<'a, S>,
    question: Question,
    tell: Tell,
    against: Against,
    from_kafka: Offsets,
    began_ms: i64,
    github_now_ms: i64,
    checkpoint: Checkpoint,
    basis: Basis,
    lists: Lists,
    asked: Vec<Asked>,
    requests: u64,
    reserve: Option<u64>,
    kafka_read: Vec<PartitionRead>,
    archive_read: Option<ArchiveRead>,
    gaps: (Vec<RecordedGap>, usize),
    looked_again: u32,
}

impl<S> std::fmt::Debug for Reconciliation<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciliation").field("question", &self.question).finish_non_exhaustive()
    }
}

/// What a comparison came to.
#[derive(Debug)]
pub struct Compared {
    /// All counts.
    pub tally: Tally,
    /// What is not alike.
    pub findings: Findings,
}

impl<'a, S: Source> Reconciliation<'a, S> {
    /// Gathers both lists: GitHub's first, so that what is collected meanwhile is on ours.
    pub async fn gather(
        sides: Sides<'a, S>,
        question: Question,
        tell: Tell,
    ) -> Result<Self, ReconcileError> {
        let began_ms = wall_ms();
        let mut restored = read_checkpoints(Arc::clone(&sides.kafka)).await?;
        let name = question.entity.name.clone();
        let checkpoint = restored.checkpoints.remove(&name);
        let checkpoint = checkpoint.ok_or(ReconcileError::NeverCollected(name))?;
        let allowance = Allowance::new(question.reserve, sides.collect.budget_reserve);
        let mut walker = Walker::new(sides.source, &allowance, Arc::clone(&tell));
        let from_s = question.from_ms.div_euclid(1000);
        let first = question.lanes.first().map_or(Lane::Web, |lane| lane.lane);
        let github_now_ms = walker.now_ms(first, from_s).await?;
        let mut question = question;
        question.to_ms = question.to_ms.min(github_now_ms);
        let lanes = lanes(&question, sides.collect, &checkpoint, github_now_ms);
        check_range(&question, &lanes, &sides.kafka, github_now_ms)?;
        let skew_ms = github_now_ms.saturating_sub(wall_ms()).max(0);
        let (against, from_kafka) = choose(&sides, &question, skew_ms).await?;
        let scope = Scope {
            entity: question.entity.name.to_string(),
            from_ms: question.from_ms,
            to_ms: question.to_ms,
            lanes: lanes.keys().copied().collect(),
        };
        let mut lists = Lists::new(scope, &question.work_dir);
        let listed_from_ms = wall_ms();
        for (lane, time) in &lanes {
            // what GitHub keeps longer than it says is listed too
            let to_s = question.to_ms.div_euclid(1000);
            if time.edge_s.is_none_or(|edge| edge.saturating_sub(RETENTION_SLACK_S) < to_s) {
                walker.list(*lane, from_s, to_s, &mut lists).await?;
            }
        }
        let (asked, requests) = (std::mem::take(&mut walker.asked), walker.requests);
        let reserve = walker.reserve();
        let mut this = Self {
            sides,
            question,
            tell,
            against,
            from_kafka,
            began_ms,
            github_now_ms,
            checkpoint,
            basis: Basis { lanes, listed_from_ms },
            lists,
            asked,
            requests,
            reserve,
            kafka_read: Vec::new(),
            archive_read: None,
            gaps: (Vec::new(), 0),
            looked_again: 0,
        };
        this.read_ours(skew_ms).await?;
        Ok(this)
    }

    async fn read_ours(&mut self, skew_ms: i64) -> Result<(), ReconcileError> {
        if self.against == Against::Archive {
            let store = self.sides.archive.ok_or(ReconcileError::NoArchive)?;
            let topics = from_kafka::entry_topics(&self.sides.kafka);
            let times = (since_ms(&self.question, skew_ms), until_ms(&self.question));
            let read =
                from_archive::read(store, &topics, times, &mut self.lists, &self.tell).await?;
            self.from_kafka = behind(&read.ends, &self.from_kafka);
            self.archive_read = Some(read);
        }
        self.read_more().await?;
        let (kafka, name) = (Arc::clone(&self.sides.kafka), self.question.entity.name.to_string());
        let range = (self.question.from_ms.div_euclid(1000), self.question.to_ms.div_euclid(1000));
        self.gaps = from_kafka::gaps(kafka, name, range, GAPS_MAX).await?;
        Ok(())
    }

    /// Reads what has been committed since our side was read last.
    async fn read_more(&mut self) -> Result<(), ReconcileError> {
        let empty = Lists::new(self.lists.scope().clone(), &self.question.work_dir);
        let lists = std::mem::replace(&mut self.lists, empty);
        let from = std::mem::take(&mut self.from_kafka);
        let behind = self.against == Against::Archive;
        let kafka = Arc::clone(&self.sides.kafka);
        let read = from_kafka::read(kafka, from, behind, lists, Arc::clone(&self.tell)).await?;
        let (lists, mut partitions, ends) = read;
        self.lists = lists;
        self.from_kafka = ends;
        partitions.retain(|read| read.from < read.to);
        self.kafka_read.append(&mut partitions);
        Ok(())
    }

    /// Looks at our side again after `wait`: what was on its way has arrived then.
    pub async fn look_again(&mut self, wait: Duration) -> Result<(), ReconcileError> {
        (self.tell)(Step::Waiting { reason: "look_again", wait });
        tokio::time::sleep(wait).await;
        self.looked_again = self.looked_again.saturating_add(1);
        self.read_more().await
    }

    /// Compares the lists as they are. May be repeated.
    pub fn compare(&self) -> Result<Compared, ReconcileError> {
        let range_s =
            (self.question.from_ms.div_euclid(1000), self.question.to_ms.div_euclid(1000));
        let mut findings = Findings::new(&self.question.work_dir, range_s);
        let mut tally = Tally::default();
        for part in 0..PARTS {
            let (github, ours) = (self.lists.github.part(part)?, self.lists.ours.part(part)?);
            let mut found = Vec::new();
            self.basis.compare(&github, &ours, &mut tally, |finding| found.push(finding));
            found.iter().try_for_each(|finding| findings.push(finding))?;
        }
        Ok(Compared { tally, findings })
    }

    /// Writes down what it came to.
    pub fn statement(
        &self,
        compared: &Compared,
        maker: Maker,
        collecting: Option<Collecting>,
    ) -> Statement {
        Statement::new(self, compared, maker, collecting)
    }
}

/// The lanes that were asked for, with what can be said of their time.
fn lanes(
    question: &Question,
    collect: &super::Settings,
    checkpoint: &Checkpoint,
    now_ms: i64,
) -> Lanes {
    let now_s = now_ms.div_euclid(1000);
    let lane = |settings: &LaneSettings| {
        let rules = collect.rules(settings.lane, settings.retention);
        let state = checkpoint.lanes.get(&settings.lane);
        let time = LaneTime {
            edge_s: rules.retention_s.map(|retention| now_s.saturating_sub(retention)),
            settled_s: now_s.saturating_sub(rules.settling_s),
            collected: state.map(|state| state.collected.clone()).unwrap_or_default(),
        };
        (settings.lane, time)
    };
    question.lanes.iter().map(lane).collect()
}

fn check_range(
    question: &Question,
    lanes: &Lanes,
    kafka: &KafkaSettings,
    now_ms: i64,
) -> Result<(), ReconcileError> {
    if question.from_ms >= question.to_ms {
        let [from, now] = [question.from_ms, now_ms].map(|ms| rfc3339_s(ms.div_euclid(1000)));
        return Err(ReconcileError::Future { from, now });
    }
    let to_s = question.to_ms.div_euclid(1000);
    let expired = |time: &LaneTime| time.edge_s.is_some_and(|edge_s| to_s <= edge_s);
    if lanes.values().all(expired) {
        let edge = |(lane, time): (&Lane, &LaneTime)| {
            Some(format!("{lane}: all before {}", rfc3339_s(time.edge_s?)))
        };
        let edges: Vec<_> = lanes.iter().filter_map(edge).collect();
        let gaps = kafka.topic(crate::audit::Topic::Gaps).to_owned();
        return Err(ReconcileError::Expired { edges: edges.join(", "), gaps });
    }
    Ok(())
}

/// From when on, by the broker's clock, a record may be one of the range.
fn since_ms(question: &Question, skew_ms: i64) -> i64 {
    question.from_ms.saturating_sub(skew_ms).saturating_sub(EARLIER_MS)
}

/// Up to when: GitHub cannot show it much later.
fn until_ms(question: &Question) -> i64 {
    let longest = question
        .lanes
        .iter()
        .map(|lane| lane.retention)
        .max_by_key(|retention| retention.unwrap_or(Duration::MAX));
    let Some(Some(retention)) = longest else { return i64::MAX };
    let retention_s = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
    let late_ms = retention_s.saturating_add(COMMITTED_LATE_S).saturating_mul(1000);
    question.to_ms.saturating_add(late_ms)
}

/// Our side, and where Kafka is read from.
async fn choose<S: Source>(
    sides: &Sides<'_, S>,
    question: &Question,
    skew_ms: i64,
) -> Result<(Against, Offsets), ReconcileError> {
    let since_ms = since_ms(question, skew_ms);
    let whole = from_kafka::offsets_since(Arc::clone(&sides.kafka), since_ms).await;
    let has_archive = sides.archive.is_some();
    match (question.against, whole) {
        (Some(Against::Archive), _) if !has_archive => Err(ReconcileError::NoArchive),
        (Some(Against::Archive), whole) => Ok((Against::Archive, whole.unwrap_or_default())),
        (_, Ok(offsets)) => Ok((Against::Kafka, offsets)),
        (None, Err(KafkaSideError::Gone { .. })) if has_archive => {
            Ok((Against::Archive, Offsets::new()))
        }
        (None, Err(gone @ KafkaSideError::Gone { .. })) => Err(ReconcileError::NoArchiveToo(gone)),
        (Some(_), Err(gone @ KafkaSideError::Gone { .. })) => Err(ReconcileError::KafkaGone(gone)),
        (_, Err(error)) => Err(error.into()),
    }
}

/// Where Kafka goes on behind the archive; from the range's own offsets where nothing is archived of a partition.
fn behind(archived: &Offsets, since: &Offsets) -> Offsets {
    let mut from = since.clone();
    for (place, &end) in archived {
        from.insert(place.clone(), end);
    }
    from
}
