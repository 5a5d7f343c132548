//! Counters and gauges, in Prometheus' text format. Names carry their units; documented in `docs/metrics.md`.
//!
//! Every call is made once for a page, a batch, a request or a segment, never for an entry.

use crate::audit::{EntityName, Lane, SliceKind};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

type GaugeF64 = Gauge<f64, AtomicU64>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEntity {
    entity: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLane {
    entity: String,
    lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSlice {
    entity: String,
    lane: &'static str,
    slice: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAction {
    entity: String,
    lane: &'static str,
    action: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    entity: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBudget {
    entity: String,
    credential: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCredential {
    credential: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRetry {
    what: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTopic {
    topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    topic: String,
    partition: i32,
}

/// Most actions with a label of their own.
const ACTION_LABELS_MAX: usize = 200;

/// All metrics of one process. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pages: Family<OfLane, Counter>,
    slice_pages: Family<OfSlice, Counter>,
    entries_received: Family<OfLane, Counter>,
    body_bytes: Family<OfLane, Counter>,
    requests: Family<OfRequest, Counter>,
    request_seconds: Histograms<OfEntity>,
    budget_limit: Family<OfBudget, Gauge>,
    budget_remaining: Family<OfBudget, Gauge>,
    foreign_requests: Family<OfCredential, Counter>,
    retries: Family<OfRetry, Counter>,
    runway_seconds: Family<OfLane, GaugeF64>,
    lag_seconds: Family<OfLane, GaugeF64>,
    entries_committed: Family<OfSlice, Counter>,
    entries_known: Family<OfLane, Counter>,
    revisions: Family<OfLane, Counter>,
    dead_letters: Family<OfEntity, Counter>,
    gaps: Family<OfLane, Counter>,
    transactions: Family<OfOutcome, Counter>,
    transaction_seconds: Histograms<OfOutcome>,
    transaction_records: Histogram,
    live_latency_seconds: Histograms<OfEntity>,
    lateness_seconds: Histograms<OfAction>,
    late_actions: Mutex<BTreeSet<String>>,
    segments: Family<OfTopic, Counter>,
    archived_records: Family<OfTopic, Counter>,
    archived_bytes: Family<OfTopic, Counter>,
    segment_bytes: Histograms<OfTopic>,
    segment_put_seconds: Histograms<OfTopic>,
    archive_lag_records: Family<OfPartition, Gauge>,
    archive_lag_seconds: Family<OfPartition, GaugeF64>,
    archive_buffer_bytes: Gauge,
    archive_gaps: Gauge,
    seen_bucket_loads: Counter,
}

/// 1 ms to 65 s, doubling each second step by four.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// 1 minute to 182 days, doubling.
fn lateness_histogram() -> Histogram {
    Histogram::new(exponential_buckets(60.0, 2.0, 19))
}

/// 1 to 16,384 records.
fn record_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 8))
}

/// 1 KiB to 64 MiB.
fn byte_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1024.0, 4.0, 9))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("ghauditd"),
            pages: Family::default(),
            slice_pages: Family::default(),
            entries_received: Family::default(),
            body_bytes: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(latency_histogram),
            budget_limit: Family::default(),
            budget_remaining: Family::default(),
            foreign_requests: Family::default(),
            retries: Family::default(),
            runway_seconds: Family::default(),
            lag_seconds: Family::default(),
            entries_committed: Family::default(),
            entries_known: Family::default(),
            revisions: Family::default(),
            dead_letters: Family::default(),
            gaps: Family::default(),
            transactions: Family::default(),
            transaction_seconds: Family::new_with_constructor(latency_histogram),
            transaction_records: record_histogram(),
            live_latency_seconds: Family::new_with_constructor(latency_histogram),
            lateness_seconds: Family::new_with_constructor(lateness_histogram),
            late_actions: Mutex::default(),
            segments: Family::default(),
            archived_records: Family::default(),
            archived_bytes: Family::default(),
            segment_bytes: Family::new_with_constructor(byte_histogram),
            segment_put_seconds: Family::new_with_constructor(latency_histogram),
            archive_lag_records: Family::default(),
            archive_lag_seconds: Family::default(),
            archive_buffer_bytes: Gauge::default(),
            archive_gaps: Gauge::default(),
            seen_bucket_loads: Counter::default(),
        };
        metrics.register_build();
        metrics.register_github();
        metrics.register_lanes();
        metrics.register_kafka();
        metrics.register_archive();
        metrics
    }
}

impl Metrics {
    fn register_build(&mut self) {
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        let labels =
            vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("librdkafka", librdkafka)];
        self.registry.register("build", "The running program", Info::new(labels));
    }

    fn register_github(&mut self) {
        let registry = &mut self.registry;
        registry.register("pages", "Pages accepted from GitHub", self.pages.clone());
        let help = "Pages accepted from GitHub by kind of slice";
        registry.register("slice_pages", help, self.slice_pages.clone());
        let help = "Entries in accepted pages, new or not";
        registry.register("entries_received", help, self.entries_received.clone());
        let help = "Bodies of accepted pages after decompression";
        registry.register_with_unit("page_body", help, Unit::Bytes, self.body_bytes.clone());
        registry.register("requests", "Requests to GitHub by outcome", self.requests.clone());
        let help = "Time of a request to GitHub, body included";
        registry.register_with_unit("request", help, Unit::Seconds, self.request_seconds.clone());
        let help = "Requests that GitHub allows the credential in an hour";
        registry.register("budget_limit_requests", help, self.budget_limit.clone());
        let help = "Requests that are left to the credential in this hour";
        registry.register("budget_remaining_requests", help, self.budget_remaining.clone());
        let help = "Requests that others made with the same credential, as its budget shows";
        registry.register("foreign_requests", help, self.foreign_requests.clone());
        registry.register("retries", "What was tried again, and why", self.retries.clone());
    }

    fn register_lanes(&mut self) {
        let registry = &mut self.registry;
        let help = "Time until the oldest entry that is not collected expires at GitHub";
        registry.register_with_unit("runway", help, Unit::Seconds, self.runway_seconds.clone());
        let help = "How far the oldest time that is not collected lies behind GitHub's now";
        registry.register_with_unit("lag", help, Unit::Seconds, self.lag_seconds.clone());
        let help = "Entries committed to Kafka, by the kind of slice that found them";
        registry.register("entries_committed", help, self.entries_committed.clone());
        let help = "Entries dropped because they are committed already";
        registry.register("entries_known", help, self.entries_known.clone());
        let help = "Entries committed again because their body had changed";
        registry.register("revisions", help, self.revisions.clone());
        let help = "Entries that went to the dead-letter topic";
        registry.register("dead_letters", help, self.dead_letters.clone());
        let help = "Periods recorded whose completeness cannot be claimed";
        registry.register("gaps", help, self.gaps.clone());
        let help = "Time from a live answer of GitHub to its commit in Kafka";
        registry.register_with_unit(
            "live_latency",
            help,
            Unit::Seconds,
            self.live_latency_seconds.clone(),
        );
        let help = "How long after their time entries were found that a sweep was the first to see";
        registry.register_with_unit("lateness", help, Unit::Seconds, self.lateness_seconds.clone());
        let help = "Buckets of seen ids loaded from disk";
        registry.register("seen_bucket_loads", help, self.seen_bucket_loads.clone());
    }

    fn register_kafka(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "transactions",
            "Kafka transactions by outcome",
            self.transactions.clone(),
        );
        let help = "Time of a Kafka transaction from begin to its outcome";
        registry.register_with_unit(
            "transaction",
            help,
            Unit::Seconds,
            self.transaction_seconds.clone(),
        );
        let help = "Records in a Kafka transaction";
        registry.register("transaction_records", help, self.transaction_records.clone());
    }

    fn register_archive(&mut self) {
        let registry = &mut self.registry;
        registry.register("archive_segments", "Segments stored", self.segments.clone());
        registry.register(
            "archive_records",
            "Records in stored segments",
            self.archived_records.clone(),
        );
        let help = "Compressed bytes of stored segments";
        registry.register_with_unit("archive", help, Unit::Bytes, self.archived_bytes.clone());
        let help = "Compressed size of a stored segment";
        registry.register_with_unit(
            "archive_segment_size",
            help,
            Unit::Bytes,
            self.segment_bytes.clone(),
        );
        let help = "Time to store a segment and to read its lock back";
        registry.register_with_unit(
            "archive_put",
            help,
            Unit::Seconds,
            self.segment_put_seconds.clone(),
        );
        let help = "Records of a partition that are not archived";
        registry.register("archive_lag_records", help, self.archive_lag_records.clone());
        let help = "Age of the oldest record of a partition that is not archived";
        registry.register_with_unit(
            "archive_lag",
            help,
            Unit::Seconds,
            self.archive_lag_seconds.clone(),
        );
        let help = "Memory held by open segments";
        registry.register_with_unit(
            "archive_buffer",
            help,
            Unit::Bytes,
            self.archive_buffer_bytes.clone(),
        );
        let help = "Archive gaps that are not acknowledged";
        registry.register("archive_gaps_unacknowledged", help, self.archive_gaps.clone());
    }

    /// A page was accepted.
    pub fn page(&self, entity: &EntityName, lane: Lane, entries: usize, body_bytes: usize) {
        let labels = of_lane(entity, lane);
        self.pages.get_or_create(&labels).inc();
        self.entries_received.get_or_create(&labels).inc_by(count(entries));
        self.body_bytes.get_or_create(&labels).inc_by(count(body_bytes));
    }

    /// A page of a slice was accepted: what each kind of slice costs.
    pub fn slice_page(&self, entity: &EntityName, lane: Lane, kind: SliceKind) {
        self.slice_pages.get_or_create(&of_slice(entity, lane, kind)).inc();
    }

    /// A sweep found an entry that nobody had seen, so long after its time.
    pub fn late(&self, entity: &EntityName, lane: Lane, action: &str, seconds: f64) {
        let action = self.bounded_action(action);
        let labels = OfAction { entity: entity.to_string(), lane: lane.as_str(), action };
        self.lateness_seconds.get_or_create(&labels).observe(seconds);
    }

    /// Actions are an open set: the first of them have a label of their own.
    fn bounded_action(&self, action: &str) -> String {
        let mut known = self.late_actions.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(action) {
            if known.len() >= ACTION_LABELS_MAX {
                return "other".to_owned();
            }
            known.insert(action.to_owned());
        }
        action.to_owned()
    }

    /// A request was made: `outcome` is `ok` or the reason of the error.
    pub fn request(&self, entity: &EntityName, outcome: &'static str, seconds: f64) {
        self.requests.get_or_create(&OfRequest { entity: entity.to_string(), outcome }).inc();
        self.request_seconds.get_or_create(&of_entity(entity)).observe(seconds);
    }

    /// What is left of a credential's budget, as an answer for an entity told.
    pub fn budget(&self, entity: &EntityName, credential: &str, limit: u64, remaining: u64) {
        let (entity, credential) = (entity.to_string(), credential.to_owned());
        let labels = OfBudget { entity, credential };
        self.budget_limit.get_or_create(&labels).set(gauge(limit));
        self.budget_remaining.get_or_create(&labels).set(gauge(remaining));
    }

    /// Requests that others made with a credential.
    pub fn foreign_requests(&self, credential: &str, requests: u64) {
        let labels = OfCredential { credential: credential.to_owned() };
        self.foreign_requests.get_or_create(&labels).inc_by(requests);
    }

    /// Something is tried again: `what` is `github`, `kafka`, `archive`.
    pub fn retry(&self, what: &'static str, reason: &'static str) {
        self.retries.get_or_create(&OfRetry { what, reason }).inc();
    }

    /// Seconds until the oldest entry that is not collected expires; `None`: unlimited retention.
    pub fn runway(&self, entity: &EntityName, lane: Lane, seconds: Option<f64>) {
        let labels = of_lane(entity, lane);
        match seconds {
            Some(seconds) => {
                self.runway_seconds.get_or_create(&labels).set(seconds);
            }
            None => {
                self.runway_seconds.remove(&labels);
            }
        }
    }

    /// Seconds that the lowest uncollected edge lies behind GitHub's now.
    pub fn lag(&self, entity: &EntityName, lane: Lane, seconds: f64) {
        self.lag_seconds.get_or_create(&of_lane(entity, lane)).set(seconds);
    }

    /// Entries committed.
    pub fn committed(&self, entity: &EntityName, lane: Lane, kind: SliceKind, entries: u64) {
        let labels = of_slice(entity, lane, kind);
        self.entries_committed.get_or_create(&labels).inc_by(entries);
    }

    /// Entries dropped because they were seen already.
    pub fn known(&self, entity: &EntityName, lane: Lane, entries: u64) {
        self.entries_known.get_or_create(&of_lane(entity, lane)).inc_by(entries);
    }

    /// Revisions committed.
    pub fn revisions(&self, entity: &EntityName, lane: Lane, entries: u64) {
        self.revisions.get_or_create(&of_lane(entity, lane)).inc_by(entries);
    }

    /// Entries that went to the dead-letter topic.
    pub fn dead_letters(&self, entity: &EntityName, entries: u64) {
        self.dead_letters.get_or_create(&of_entity(entity)).inc_by(entries);
    }

    /// A lane is read: its gaps are counted from nought, so that the first one is a rise.
    pub fn lane_begins(&self, entity: &EntityName, lane: Lane) {
        drop(self.gaps.get_or_create(&of_lane(entity, lane)));
    }

    /// Gaps recorded.
    pub fn gap(&self, entity: &EntityName, lane: Lane) {
        self.gaps.get_or_create(&of_lane(entity, lane)).inc();
    }

    /// A transaction ended: `outcome` is `committed`, `aborted`, `content`, `lost`, `fenced`.
    pub fn transaction(&self, outcome: &'static str, seconds: f64, records: usize) {
        let labels = OfOutcome { outcome };
        self.transactions.get_or_create(&labels).inc();
        self.transaction_seconds.get_or_create(&labels).observe(seconds);
        self.transaction_records.observe(float(count(records)));
    }

    /// Seconds from a live response to its commit.
    pub fn live_latency(&self, entity: &EntityName, seconds: f64) {
        self.live_latency_seconds.get_or_create(&of_entity(entity)).observe(seconds);
    }

    /// A segment was stored.
    pub fn segment(&self, topic: &str, records: u64, bytes: u64, seconds: f64) {
        let labels = OfTopic { topic: topic.to_owned() };
        self.segments.get_or_create(&labels).inc();
        self.archived_records.get_or_create(&labels).inc_by(records);
        self.archived_bytes.get_or_create(&labels).inc_by(bytes);
        self.segment_bytes.get_or_create(&labels).observe(float(bytes));
        self.segment_put_seconds.get_or_create(&labels).observe(seconds);
    }

    /// What a partition still holds that is not archived.
    pub fn archive_lag(&self, topic: &str, partition: i32, records: i64, seconds: f64) {
        let labels = OfPartition { topic: topic.to_owned(), partition };
        self.archive_lag_records.get_or_create(&labels).set(records);
        self.archive_lag_seconds.get_or_create(&labels).set(seconds);
    }

    /// Bytes held by open segments.
    pub fn archive_buffer(&self, bytes: usize) {
        self.archive_buffer_bytes.set(gauge(count(bytes)));
    }

    /// Archive gaps that are not acknowledged.
    pub fn archive_gaps(&self, gaps: i64) {
        self.archive_gaps.set(gaps);
    }

    /// Fingerprints known on disk were looked up or loaded.
    pub fn seen_bucket_loads(&self, loads: u64) {
        self.seen_bucket_loads.inc_by(loads);
    }

    /// The page for Prometheus.
    pub fn render(&self) -> String {
        let mut page = String::with_capacity(16 << 10);
        // writing to a String cannot fail; a page cut short has no "# EOF" and is refused by its reader
        text::encode(&mut page, &self.registry).unwrap_or_default();
        page
    }
}

fn of_entity(entity: &EntityName) -> OfEntity {
    OfEntity { entity: entity.to_string() }
}

fn of_lane(entity: &EntityName, lane: Lane) -> OfLane {
    OfLane { entity: entity.to_string(), lane: lane.as_str() }
}

fn of_slice(entity: &EntityName, lane: Lane, kind: SliceKind) -> OfSlice {
    OfSlice { entity: entity.to_string(), lane: lane.as_str(), slice: kind.as_str() }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Counts of bytes and records, far below the 2^53 up to which this is exact.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "there is no From<u64> for f64"
)]
fn float(number: u64) -> f64 {
    number as f64
}
