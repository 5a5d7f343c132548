//! Reads the operations topic and hands each entity's requests to its collector, in their order.
//!
//! Where an entity goes on is in its checkpoint. An entity without a place goes on from the topic's beginning: what nobody
//! waits for any more is refused by its deadline. Records that are no requests of ours are skipped.

use super::answer::Delivered;
use crate::audit::operation::PARTITION;
use crate::audit::{EntityName, OperationRecord, Topic};
use crate::kafka::consumer::{Event, ReadError, Stream, StreamLimits, StreamRecord, TopicReader};
use crate::kafka::settings::Settings;
use crate::retry::Backoff;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Requests that may wait for one collector.
pub const WAITING_MAX: usize = 16;
/// Requests are few and small.
const LIMITS: StreamLimits = StreamLimits {
    batch_bytes_max: 256 << 10,
    queue_bytes_max: 1 << 20,
    prefetch_bytes_max: 1 << 20,
};

/// Where an entity's requests go.
#[derive(Debug)]
pub struct Route {
    /// The offset behind the last one that was answered.
    pub from: Option<i64>,
    /// To its collector.
    pub to: mpsc::Sender<Delivered>,
}

/// Reads until cancelled. What keeps it from reading is said, and ends nothing: collecting goes on.
pub async fn read(
    kafka: Arc<Settings>,
    mut routes: BTreeMap<EntityName, Route>,
    cancel: CancellationToken,
) {
    let work = async {
        if let Some(from) = begin(&kafka, &mut routes).await {
            follow(&kafka, from, &routes).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => return,
        () = work => {}
    }
    warn!("requests of commands are not read any more until the next start; collecting goes on");
    cancel.cancelled().await;
}

/// Finds where to begin; what lies outside of the topic is put right.
async fn begin(kafka: &Arc<Settings>, routes: &mut BTreeMap<EntityName, Route>) -> Option<i64> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let ends = loop {
        let kafka = Arc::clone(kafka);
        let asked = tokio::task::spawn_blocking(move || {
            TopicReader::new(&kafka)?.watermarks(kafka.topic(Topic::Operations), PARTITION)
        });
        match asked.await.ok()? {
            Ok(ends) => break ends,
            Err(error @ ReadError::Unreachable { .. }) => {
                debug!("the operations topic cannot be looked at yet: {error}");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => {
                warn!("the operations topic cannot be read: {error}");
                return None;
            }
        }
    };
    for (entity, route) in routes.iter_mut() {
        if route.from.is_some_and(|from| from > ends.high) {
            warn!(%entity, "the operations topic is shorter than it was: it was recreated, reading it from its beginning");
            route.from = None;
        }
        route.from = Some(route.from.unwrap_or(ends.low).max(ends.low));
    }
    routes.values().filter_map(|route| route.from).min()
}

async fn follow(kafka: &Settings, from: i64, routes: &BTreeMap<EntityName, Route>) {
    let topic = kafka.topic(Topic::Operations);
    let names: BTreeSet<Vec<u8>> = routes.keys().map(|it| it.as_str().into()).collect();
    let encode = move |record: StreamRecord<'_>, out: &mut Vec<u8>| {
        if record.key().is_some_and(|key| names.contains(key)) {
            out.extend_from_slice(record.value().unwrap_or_default());
        }
    };
    let group = format!("{}-requests", kafka.id_prefix);
    let mut stream = match Stream::start(kafka, "requests", &group, LIMITS, encode) {
        Ok(stream) => stream,
        Err(error) => return warn!("the operations topic cannot be read: {error}"),
    };
    stream.assign(0, topic, PARTITION, from);
    let mut told = false;
    while let Some(event) = stream.next().await {
        match event {
            Event::Records(batch) => {
                for record in batch.iter().filter(|record| !record.bytes.is_empty()) {
                    match OperationRecord::decode(record.bytes) {
                        Ok(record_of_ours) => {
                            deliver(record_of_ours, record.offset, routes).await;
                        }
                        Err(error) => {
                            let offset = record.offset;
                            if std::mem::replace(&mut told, true) {
                                debug!(
                                    offset,
                                    "a record of the operations topic is skipped: {error}"
                                );
                            } else {
                                warn!(
                                    offset,
                                    "a record of the operations topic is skipped, and others like it in silence: {error}"
                                );
                            }
                        }
                    }
                }
            }
            Event::OutOfRange => return warn!("the operations topic was recreated or cut"),
            Event::Trouble { message, .. } => {
                debug!("requests of commands cannot be read, trying again: {message}");
            }
            Event::Healed => debug!("requests of commands can be read again"),
        }
    }
}

async fn deliver(record: OperationRecord, offset: i64, routes: &BTreeMap<EntityName, Route>) {
    let OperationRecord::Request(request) = record else { return };
    let Some(route) = routes.get(&request.entity) else { return };
    if route.from.is_some_and(|from| offset < from) {
        return;
    }
    info!(entity = %request.entity, request = %request.id, by = %request.by, "a request has come");
    let next_offset = offset.saturating_add(1);
    if route.to.send(Delivered { next_offset, request }).await.is_err() {
        debug!("a collector takes no requests any more");
    }
}
