//! How consumers are made.

use crate::kafka::client::{Context, Ears};
use crate::kafka::settings::{Role, Settings};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaResult;
use std::sync::Arc;

/// A consumer, and what it has heard beside the data.
pub(super) struct Consumer {
    pub(super) kafka: BaseConsumer<Context>,
    pub(super) ears: Arc<Ears>,
}

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Committed records only; `fetch_watermarks` then answers the last stable offset.
    Committed,
    /// Everything; `fetch_watermarks` then answers the true high watermark.
    Uncommitted,
}

/// A consumer whose every queue is bounded, and which never chooses an offset by itself. `limits` come after what the
/// operator says: they bound memory.
pub(super) fn consumer(
    settings: &Settings,
    isolation: Isolation,
    group: &str,
    limits: &[(&str, String)],
) -> KafkaResult<Consumer> {
    let mut config = settings.client_config(Role::Consumer);
    config.set("group.id", group);
    if isolation == Isolation::Uncommitted {
        config.set("isolation.level", "read_uncommitted");
    }
    for (name, value) in limits {
        config.set(*name, value);
    }
    let ears = Arc::new(Ears::new(settings.contact.clone()));
    let kafka = config.create_with_context(Context::new(Arc::clone(&ears)))?;
    Ok(Consumer { kafka, ears })
}
