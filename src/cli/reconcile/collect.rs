//! What is missing is read again by the owner of the entity's state: asked, waited for, and compared once more.

use super::LOOK_AGAIN_MIN;
use crate::audit::operation::Operation;
use crate::audit::{Checkpoint, EntityName, SliceKind};
use crate::cli::control::{RequestArgs, request};
use crate::config::Config;
use crate::github::client::Client;
use crate::kafka::restore::read_checkpoints;
use crate::pipeline::reconcile::{
    Collecting, CollectingRequest, Compared, ReconcileError, Reconciliation, Span,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the checkpoint is looked at while time is read again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the daemon may take to answer a request.
const ANSWER: Duration = Duration::from_secs(30);

/// Asks for all that is missing, waits until it has been read again, at most `wait`, and compares once more.
pub(super) async fn collect(
    run: &mut Reconciliation<'_, Client>,
    compared: Compared,
    config: &Config,
    entity: &EntityName,
    reason: Option<&str>,
    wait: Duration,
) -> Result<(Compared, Collecting), ReconcileError> {
    let wanted = compared.findings.wanting();
    let mut requests = Vec::new();
    for span in compared.findings.spans() {
        let asked = ask(config, entity, span, reason).await;
        let silent = asked.outcome == NOT_ANSWERED;
        requests.push(asked);
        if silent {
            // nobody will answer the next one either
            break;
        }
    }
    let asked: Vec<Span> =
        requests.iter().filter(|it| it.outcome == "done").map(|it| it.span).collect();
    if asked.is_empty() {
        return Ok((compared, Collecting { requests, wanted, collected: 0 }));
    }
    let began = Instant::now();
    while began.elapsed() < wait {
        let restored = read_checkpoints(Arc::new(config.kafka.clone())).await?;
        let checkpoint = restored.checkpoints.get(entity);
        if checkpoint.is_none_or(|checkpoint| !is_reading(checkpoint, &asked)) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    run.look_again(LOOK_AGAIN_MIN).await?;
    let compared = run.compare()?;
    let collected = wanted.saturating_sub(compared.findings.wanting());
    Ok((compared, Collecting { requests, wanted, collected }))
}

/// Whether something of these spans is still being read again on request: a sweep that is of no age.
fn is_reading(checkpoint: &Checkpoint, asked: &[Span]) -> bool {
    asked.iter().any(|span| {
        let slices = checkpoint.lanes.get(&span.lane).map_or(&[][..], |lane| &lane.slices);
        slices.iter().any(|slice| {
            slice.kind == SliceKind::Sweep
                && slice.sweep_age_s.is_none()
                && slice.from_s < span.to_s
                && slice.to_s.is_none_or(|to_s| span.from_s <= to_s)
        })
    })
}

const NOT_ANSWERED: &str = "not answered";

async fn ask(
    config: &Config,
    entity: &EntityName,
    span: Span,
    reason: Option<&str>,
) -> CollectingRequest {
    let operation = Operation::Reread { lane: span.lane, from_s: span.from_s, to_s: span.to_s };
    let reason = reason.unwrap_or("reconcile found entries missing").to_owned();
    let args = RequestArgs {
        entity: None,
        reason: Some(reason),
        wait: ANSWER,
        offline: false,
        json: false,
    };
    match request(config, entity, operation, &args, |told| tracing::info!("{told}")).await {
        Ok(result) => CollectingRequest {
            id: result.request.to_string(),
            span,
            outcome: match result.outcome {
                crate::audit::operation::Outcome::Done => "done",
                crate::audit::operation::Outcome::Refused => "refused",
            }
            .to_owned(),
            message: result.message,
        },
        Err(error) => CollectingRequest {
            id: "-".to_owned(),
            span,
            outcome: NOT_ANSWERED.to_owned(),
            message: error.to_string(),
        },
    }
}
