//! The composition root: from a configuration to running parts, and their end.
//!
//! Order of a start: admin pages, Kafka (topics, fence, checkpoints), seen ids, collectors and archiver. A broker that
//! is away only costs time: the daemon says so on its pages and waits. Order of a stop: the loops end after what they
//! are committing, then the seen ids are made durable, then the producers close.

pub mod offline;

use crate::audit::lane::LaneRules;
use crate::audit::{Actor, EntityName, SeenLane, Topic};
use crate::config::{Config, Environment};
use crate::github::EntitySettings;
use crate::github::client::{Client, ClientError};
use crate::health::Health;
use crate::kafka::ownership::{Acquired, Ownership, StartError, host_name};
use crate::kafka::producer::Producer;
use crate::metrics::Metrics;
use crate::pipeline::arbiter::Arbiter;
use crate::pipeline::archiver::{self, ArchiverStatus};
use crate::pipeline::collector::{self, CollectorError, Parts};
use crate::pipeline::partition::{OpenError, Opened, Opener, Partition};
use crate::pipeline::record::{EntityContext, VALUE_BYTES_MAX};
use crate::pipeline::requests::{self, Route};
use crate::pipeline::seen::{self, CatchUpError};
use crate::retry::Backoff;
use crate::state::{Buckets, Lock, StateError};
use crate::status::Board;
use crate::supervisor::{self, Cause, End, StopSignals, Supervisor};
use crate::{admin, kafka};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How often the seen ids are made durable.
const FLUSH_EVERY: Duration = Duration::from_mins(1);

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Take what looks like a deleted topic for a new beginning.
    pub init: bool,
}

/// Why the daemon ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A part could not be made from the configuration.
    #[error("{0}")]
    Setup(String),
    /// The state in Kafka is not one that this installation may go on from.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The seen ids cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The seen ids cannot be brought up to date.
    #[error(transparent)]
    CatchUp(#[from] CatchUpError),
    /// A collector ended.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// The admin server ended.
    #[error(transparent)]
    Admin(#[from] admin::server::ServerError),
    /// Something ended that should not.
    #[error("{0}")]
    Unexpected(String),
}

type Tasks = Supervisor<DaemonError>;

/// What all parts share.
#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    board: Arc<Board>,
    kafka: Arc<kafka::settings::Settings>,
}

/// Runs until asked to stop, or until a part ends.
pub async fn run(config: Config, options: RunOptions) -> Result<(), DaemonError> {
    let setup = |error: std::io::Error| DaemonError::Setup(format!("signals: {error}"));
    let mut signals = StopSignals::new().map_err(setup)?;
    let shared = Shared {
        metrics: Arc::new(Metrics::default()),
        health: Arc::new(Health::new()),
        board: Arc::new(Board::new()),
        kafka: Arc::new(config.kafka.clone()),
    };
    let mut tasks = Tasks::new();
    shared.health.set_starting("kafka", "topics and checkpoints are not read yet");
    serve_admin(&config, &shared, &mut tasks).await?;
    watch(&shared, &mut tasks);
    let clients = clients(&config, &shared)?;
    let started = tokio::select! {
        started = start(&config, options, &shared) => started?,
        reason = signals.next() => {
            info!(reason, "stopped before the start was complete: nothing was changed");
            return Ok(());
        }
    };
    let running = collect(&config, clients, started, &shared, &mut tasks);
    start_archive(&config, &shared, &mut tasks);
    shared.health.clear("kafka");
    supervisor::notify_ready("collecting");
    info!(entities = config.entities.len(), "collecting");
    let outcome = tasks.run(async || signals.next().await, config.daemon.grace).await;
    running.close();
    for (name, error) in &outcome.later_errors {
        warn!(task = name, "while stopping: {error}");
    }
    match outcome.cause {
        Cause::Task { end: End::Returned(Err(error)), .. } => Err(error),
        Cause::Task { name, end } => {
            Err(DaemonError::Unexpected(format!("task {name} ended unasked: {end:?}")))
        }
        Cause::Asked(reason) => {
            left_behind(&shared.health, &outcome.unfinished);
            info!(reason, "stopped");
            Ok(())
        }
    }
}

/// A stop that was asked for is a clean one also when the grace period was too short: every write is one of those that
/// are there as a whole or not at all, and the next start finds out which.
fn left_behind(health: &Health, unfinished: &[String]) {
    if unfinished.is_empty() {
        return;
    }
    let named = |name: &String| match health.doing(name) {
        Some(doing) => format!("{name} ({doing})"),
        None => name.clone(),
    };
    let unfinished = unfinished.iter().map(named).collect::<Vec<_>>().join(", ");
    warn!(
        unfinished,
        "not ended within daemon.grace: left to the next start, nothing is half committed"
    );
}

async fn serve_admin(
    config: &Config,
    shared: &Shared,
    tasks: &mut Tasks,
) -> Result<(), DaemonError> {
    let Some(address) = config.admin.listen else { return Ok(()) };
    let listener = admin::server::bind(address).await?;
    let (metrics, health) = (Arc::clone(&shared.metrics), Arc::clone(&shared.health));
    let (board, stop) = (Arc::clone(&shared.board), tasks.token());
    tasks.spawn("admin", async move {
        admin::server::serve(listener, metrics, health, board, stop)
            .await
            .map_err(DaemonError::from)
    });
    Ok(())
}

fn watch(shared: &Shared, tasks: &mut Tasks) {
    let (health, stop) = (Arc::clone(&shared.health), tasks.token());
    tasks.spawn("watchdog", async move {
        supervisor::watchdog(move || health.progress(), stop).await;
        Ok(())
    });
}

fn clients(
    config: &Config,
    shared: &Shared,
) -> Result<Vec<(EntitySettings, Arc<Client>)>, DaemonError> {
    let make = |entity: &EntitySettings| {
        let unknown =
            || DaemonError::Setup(format!("server {:?} is not configured", entity.server));
        let server = config.servers.get(&entity.server).ok_or_else(unknown)?;
        let client = Client::new(server, entity, Arc::clone(&shared.metrics));
        let client = client.map_err(|error: ClientError| DaemonError::Setup(error.to_string()))?;
        Ok((entity.clone(), Arc::new(client)))
    };
    config.entities.iter().map(make).collect()
}

/// What a start hands to the running daemon.
struct Started {
    acquired: Acquired,
    buckets: Arc<Mutex<Buckets>>,
}

/// Takes the partitions, waiting for a broker that is away, and brings the seen ids up to date.
async fn start(
    config: &Config,
    options: RunOptions,
    shared: &Shared,
) -> Result<Started, DaemonError> {
    // before anything is taken from a daemon that runs
    let lock = patiently(shared, async || Ok(Lock::take(&config.state)?)).await?;
    let count = config.kafka.partitions(Topic::Checkpoints);
    let entities: Vec<EntityName> = config.entities.iter().map(|it| it.name.clone()).collect();
    let partitions: BTreeSet<i32> = entities.iter().map(|name| name.partition(count)).collect();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
    let mut told = String::new();
    let acquired = loop {
        let (kafka, metrics) = (Arc::clone(&shared.kafka), Arc::clone(&shared.metrics));
        match Ownership::acquire(kafka, partitions.clone(), &entities, options.init, metrics).await
        {
            Ok(acquired) => break acquired,
            Err(error) if error.is_retriable() => {
                let message = error.to_string();
                shared.metrics.retry("kafka", "start");
                shared.health.set_starting("kafka", message.clone());
                supervisor::notify_status(&message);
                if message != told {
                    warn!("cannot start yet, trying again: {message}");
                    told = message;
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    for warning in &acquired.warnings {
        warn!("{warning}");
    }
    let instance = &acquired.genesis.instance;
    let opened =
        patiently(shared, async || Ok(Buckets::open_locked(&config.state, instance, &lock)?));
    let buckets = Arc::new(Mutex::new(opened.await?));
    for partition in partitions {
        patiently(shared, async || {
            seen::catch_up(Arc::clone(&shared.kafka), Arc::clone(&buckets), partition).await
        })
        .await?;
    }
    Ok(Started { acquired, buckets })
}

/// Waits for room where the disk of the seen ids is full: they are a cache, which must not cost the daemon.
async fn patiently<T>(
    shared: &Shared,
    mut attempt: impl AsyncFnMut() -> Result<T, CatchUpError>,
) -> Result<T, CatchUpError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
    let mut told = false;
    loop {
        match attempt().await {
            Err(CatchUpError::State(error)) if error.is_full() => {
                if !std::mem::replace(&mut told, true) {
                    warn!("cannot start yet, trying again: {error}");
                }
                shared.health.set_starting("state", error.to_string());
                supervisor::notify_status(&error.to_string());
                tokio::time::sleep(backoff.next_wait()).await;
            }
            ended => {
                shared.health.clear("state");
                return ended;
            }
        }
    }
}

/// What is still to be closed when all loops have ended.
struct Running {
    buckets: Arc<Mutex<Buckets>>,
}

impl Running {
    fn close(self) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = buckets.flush() {
            warn!("seen ids were not made durable, the next start reads them from Kafka: {error}");
        }
    }
}

fn collect(
    config: &Config,
    clients: Vec<(EntitySettings, Arc<Client>)>,
    started: Started,
    shared: &Shared,
    tasks: &mut Tasks,
) -> Running {
    let Started { acquired, buckets } = started;
    let Acquired { ownership, producers, mut entities, .. } = acquired;
    let count = config.kafka.partitions(Topic::Checkpoints);
    let opener = Arc::new(KafkaOpener {
        ownership,
        kafka: Arc::clone(&shared.kafka),
        buckets: Arc::clone(&buckets),
    });
    let partitions: BTreeMap<i32, Arc<Partition<KafkaOpener>>> = producers
        .into_iter()
        .map(|(number, producer)| {
            let opened = Opened { sink: Arc::new(producer), entities: BTreeMap::new() };
            (number, Arc::new(Partition::new(number, Arc::clone(&opener), opened)))
        })
        .collect();
    let clocks = Arc::new(seen::Clocks::default());
    let arbiter = Arc::new(Arbiter::new(config.collect.budget_reserve));
    let mut routes = BTreeMap::new();
    for (entity, client) in clients {
        let number = entity.name.partition(count);
        let Some(partition) = partitions.get(&number) else { continue };
        let state = entities.remove(&entity.name).unwrap_or_default();
        let (to, requests) = mpsc::channel(requests::WAITING_MAX);
        let from = state.checkpoint.as_ref().and_then(|checkpoint| checkpoint.operations_next);
        routes.insert(entity.name.clone(), Route { from, to });
        let parts = Parts {
            context: context(config, &entity, number),
            source: client,
            kind: entity.kind,
            arbiter: Arc::clone(&arbiter),
            partition: Arc::clone(partition),
            buckets: Arc::clone(&buckets),
            clocks: Arc::clone(&clocks),
            settings: config.collect.clone(),
            metrics: Arc::clone(&shared.metrics),
            health: Arc::clone(&shared.health),
            requests,
            me: me(),
            board: Arc::clone(&shared.board),
        };
        let stop = tasks.token();
        tasks.spawn(format!("collector/{}", entity.name), async move {
            collector::run(parts, state, stop).await.map_err(DaemonError::from)
        });
    }
    let (kafka, stop) = (Arc::clone(&shared.kafka), tasks.token());
    tasks.spawn("requests", async move {
        requests::read(kafka, routes, stop).await;
        Ok(())
    });
    let (to_flush, stop) = (Arc::clone(&buckets), tasks.token());
    let retentions = seen::retentions(&config.entities);
    tasks.spawn("seen-ids", async move {
        keep_durable(to_flush, retentions, clocks, stop).await.map_err(DaemonError::from)
    });
    Running { buckets }
}

/// Makes the seen ids durable now and then, and forgets those that no slice can meet again.
async fn keep_durable(
    buckets: Arc<Mutex<Buckets>>,
    retentions: BTreeMap<SeenLane, Duration>,
    clocks: Arc<seen::Clocks>,
    stop: CancellationToken,
) -> Result<(), StateError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(FLUSH_EVERY) => {}
        }
        let (buckets, clocks) = (Arc::clone(&buckets), Arc::clone(&clocks));
        let retentions = retentions.clone();
        let flushed =
            tokio::task::spawn_blocking(move || seen::keep(&buckets, &retentions, &clocks)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) if !error.is_retryable() => return Err(error),
            Ok(Err(error)) => warn!("seen ids cannot be made durable, trying again: {error}"),
            Err(error) => warn!("seen ids cannot be made durable: {error}"),
        }
    }
}

/// Whoever runs this process: asks for requests, or answers them.
pub fn me() -> Actor {
    let user = Environment::of_process().user();
    Actor { user, host: host_name(), pid: std::process::id() }
}

fn context(config: &Config, entity: &EntitySettings, state_partition: i32) -> EntityContext {
    let readers = u32::try_from(entity.credentials.len()).unwrap_or(u32::MAX);
    let rules = |lane: &crate::github::LaneSettings| LaneRules {
        readers,
        ..config.collect.rules(lane.lane, lane.retention)
    };
    let base = config.servers.get(&entity.server).map_or("", |server| server.base_url.as_str());
    let base = base.trim_end_matches('/');
    let source = format!("{base}/{}/{}", entity.kind.path_segment(), entity.slug);
    EntityContext {
        name: entity.name.clone(),
        state_partition,
        rules: entity.lanes.iter().map(|lane| (lane.lane, rules(lane))).collect(),
        value_bytes_max: VALUE_BYTES_MAX,
        source: Bytes::from(source),
        key: Bytes::copy_from_slice(entity.name.as_str().as_bytes()),
    }
}

/// Starts the archiver, where an archive is configured.
///
/// An archive that stops does not stop the collecting: what GitHub deletes meanwhile could never be archived.
fn start_archive(config: &Config, shared: &Shared, tasks: &mut Tasks) {
    let Some(settings) = config.archive.clone() else { return };
    let topics = Topic::ALL.into_iter().filter(|topic| topic.is_archived());
    let topics: Vec<String> = topics.map(|topic| config.kafka.topic(topic).to_owned()).collect();
    let status = ArchiverStatus::new(Arc::clone(&shared.health));
    let status = Arc::new(status.posting_to(Arc::clone(&shared.board)));
    let (kafka, metrics) = (config.kafka.clone(), Arc::clone(&shared.metrics));
    let stop = tasks.token();
    tasks.spawn("archiver", async move {
        let stopped = stop.clone();
        let archiving = archiver::open_and_run(settings, kafka, topics, metrics, status, stop);
        if let Err(error) = archiving.await {
            error!("{error}; collecting goes on without it, restart when this is mended");
            stopped.cancelled().await;
        }
        Ok(())
    });
}

/// Takes a partition again after its producer was lost.
struct KafkaOpener {
    ownership: Ownership,
    kafka: Arc<kafka::settings::Settings>,
    buckets: Arc<Mutex<Buckets>>,
}

impl Opener for KafkaOpener {
    type Sink = Producer;

    async fn open(&self, partition: i32) -> Result<Opened<Producer>, OpenError> {
        let reopened = self.ownership.reopen(partition).await;
        let (producer, entities) = reopened.map_err(|error| match error {
            StartError::OwnedByOther { .. } => OpenError::OwnedByOther(error.to_string()),
            error if error.is_retriable() => OpenError::Retry(error.to_string()),
            error => OpenError::Refused(error.to_string()),
        })?;
        seen::catch_up(Arc::clone(&self.kafka), Arc::clone(&self.buckets), partition)
            .await
            .map_err(|error| OpenError::Retry(error.to_string()))?;
        Ok(Opened { sink: Arc::new(producer), entities })
    }
}
