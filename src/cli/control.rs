//! What commands share that change something: who does it, and the record of it on the operations topic.

use crate::audit::operation::{Statement, VERSION};
use crate::audit::{Actor, EntityName, OperationId, OperationRecord};
use crate::config::Environment;
use crate::kafka;
use crate::kafka::operations::{AppendError, append};
use crate::kafka::ownership::host_name;
use crate::time::wall_ms;
use std::sync::Arc;

/// Whoever runs this command.
pub(super) fn actor() -> Actor {
    let user = Environment::of_process().user().to_owned();
    Actor { user, host: host_name(), pid: std::process::id() }
}

/// A new id.
pub(super) fn operation_id() -> OperationId {
    OperationId::new(rand::random())
}

/// Records an act that needed no owner, and returns its id. `what` is a word (`replay`, ...).
#[expect(
    dead_code,
    reason = "called by the commands replay, reconcile and rebuild, which come next"
)]
pub(super) async fn state(
    kafka: Arc<kafka::settings::Settings>,
    what: &str,
    entity: Option<EntityName>,
    reason: Option<String>,
    details: serde_json::Value,
) -> Result<OperationId, AppendError> {
    let id = operation_id();
    let statement = Statement {
        version: VERSION,
        id: id.clone(),
        entity,
        by: actor(),
        at_ms: wall_ms(),
        reason,
        what: what.to_owned(),
        details,
    };
    append(kafka, &OperationRecord::Statement(statement)).await?;
    Ok(id)
}
