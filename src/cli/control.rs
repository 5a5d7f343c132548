//! What commands share that change something: who does it, the request to the owner of the state, its answer, and the
//! record of it all on the operations topic.

use super::{Exit, Output};
use crate::audit::operation::{
    Operation, Outcome, PARTITION, REASON_BYTES_MAX, Request, RequestResult, Statement, VERSION,
};
use crate::audit::{Actor, EntityName, OperationId, OperationRecord, Topic};
use crate::config::Config;
use crate::config::units::{parse_duration, show_duration};
use crate::daemon::offline::{self, OfflineError};
use crate::github::EntitySettings;
use crate::kafka;
use crate::kafka::consumer::{Event, ReadError, Stream, StreamLimits, StreamRecord, TopicReader};
use crate::kafka::operations::{AppendError, append};
use crate::kafka::ownership::StartError;
use crate::state::StateError;
use crate::time::wall_ms;
use clap::Args;
use std::sync::Arc;
use std::time::Duration;

/// An answer that was on its way when the request expired is still waited for.
const GRACE: Duration = Duration::from_secs(5);
/// After this time without an answer the user is told what is waited for.
const QUIET: Duration = Duration::from_secs(3);
const LIMITS: StreamLimits = StreamLimits {
    batch_bytes_max: 256 << 10,
    queue_bytes_max: 1 << 20,
    prefetch_bytes_max: 1 << 20,
};

/// What every command takes that changes something.
#[derive(Debug, Clone, Args)]
pub(super) struct RequestArgs {
    /// Name of the entity; needed where the configuration has several
    #[arg(long, value_name = "NAME")]
    pub(super) entity: Option<String>,
    /// Why: kept in the record of this act
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(super) reason: Option<String>,
    /// How long the daemon's answer is waited for; it does nothing after that
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_wait)]
    pub(super) wait: Duration,
    /// Do it here and now, without a daemon: when none runs
    #[arg(long)]
    pub(super) offline: bool,
    /// Answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn parse_reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why in a few words".to_owned()),
        text if text.len() > REASON_BYTES_MAX => {
            Err(format!("of {} bytes, at most {REASON_BYTES_MAX} are kept", text.len()))
        }
        text => Ok(text.to_owned()),
    }
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(wait) if wait >= Duration::from_secs(1) => Ok(wait),
        Ok(_) => Err("shorter than a second".to_owned()),
        Err(problem) => Err(format!("{problem}: write for instance 30s or 2m")),
    }
}

/// Whoever runs this command.
pub(super) fn actor() -> Actor {
    crate::daemon::me()
}

/// A new id.
pub(super) fn operation_id() -> OperationId {
    OperationId::new(rand::random())
}

/// Records an act that needed no owner, and returns its id. `what` is a word (`replay`, ...).
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

/// The entity that a command is about: the one named, or the only one. Complains otherwise.
pub(super) fn entity_of<'a>(
    config: &'a Config,
    wanted: Option<&str>,
    out: &mut Output,
) -> Result<&'a EntitySettings, Exit> {
    let names = || {
        let names: Vec<_> = config.entities.iter().map(|entity| entity.name.as_str()).collect();
        names.join(", ")
    };
    match (wanted, config.entities.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => {
            out.complain(format!("name the entity with --entity: {}", names()));
            Err(Exit::Usage)
        }
        (Some(wanted), all) => {
            all.iter().find(|entity| entity.name.as_str() == wanted).ok_or_else(|| {
                let names = names();
                out.complain(format!(
                    "entity {wanted:?} is not in the configuration, which has: {names}"
                ));
                Exit::NotFound
            })
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The request could not be written, or it is not known whether it was.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// The operations topic cannot be read.
    #[error("answers cannot be read: {0}")]
    Read(#[from] ReadError),
    /// Without a daemon it could not be done.
    #[error("{0}")]
    Offline(#[from] OfflineError),
    /// Nobody answered.
    #[error(
        "no daemon has answered within {}, and none will do it any more: see that ghauditd runs with entity {entity} \
         (`ghauditd status`); where none runs, --offline does it here", show_duration(*.waited)
    )]
    Silent {
        /// The entity.
        entity: EntityName,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The thread ended.
    #[error("the program is stopping")]
    Stopping,
}

impl RequestError {
    fn exit(&self) -> Exit {
        match self {
            Self::Silent { .. } => Exit::Declined,
            Self::Offline(
                OfflineError::State(StateError::Busy { .. })
                | OfflineError::Start(StartError::OwnedByOther { .. }),
            ) => Exit::Fenced,
            Self::Offline(OfflineError::Start(error)) if !error.is_retriable() => Exit::Refused,
            _ => Exit::Unexpected,
        }
    }
}

/// Asks the owner of an entity's state for a change, and waits for its answer: done, or refused. With `--offline` this
/// process is the owner for as long as it takes. `told` hears what is waited for.
pub(super) async fn request(
    config: &Config,
    entity: &EntityName,
    operation: Operation,
    args: &RequestArgs,
    told: impl FnMut(&str),
) -> Result<RequestResult, RequestError> {
    let at_ms = wall_ms();
    let wait_ms = i64::try_from(args.wait.as_millis()).unwrap_or(i64::MAX);
    let request = Request {
        version: VERSION,
        id: operation_id(),
        entity: entity.clone(),
        by: actor(),
        at_ms,
        expires_ms: at_ms.saturating_add(wait_ms),
        reason: args.reason.clone(),
        operation,
    };
    if args.offline {
        return Ok(offline::execute(config, request).await?);
    }
    ask(config, request, args.wait, told).await
}

async fn ask(
    config: &Config,
    request: Request,
    wait: Duration,
    mut told: impl FnMut(&str),
) -> Result<RequestResult, RequestError> {
    let kafka = Arc::new(config.kafka.clone());
    let (id, entity) = (request.id.clone(), request.entity.clone());
    // from before the request: the answer cannot be missed
    let mut answers = listen(&kafka, &entity).await?;
    append(kafka, &OperationRecord::Request(request)).await?;
    let silent = tokio::time::sleep(wait.saturating_add(GRACE));
    let quiet = tokio::time::sleep(QUIET);
    let (mut silent, mut quiet) = (std::pin::pin!(silent), std::pin::pin!(quiet));
    let mut is_told = false;
    loop {
        let event = tokio::select! {
            () = &mut silent => return Err(RequestError::Silent { entity, waited: wait }),
            () = &mut quiet, if !is_told => {
                is_told = true;
                told(&format!("waiting up to {} for the daemon to answer", show_duration(wait)));
                continue;
            }
            event = answers.next() => event.ok_or(RequestError::Stopping)?,
        };
        match event {
            Event::Records(batch) => {
                let records = batch.iter().filter_map(|it| OperationRecord::decode(it.bytes).ok());
                for record in records {
                    if let OperationRecord::Result(result) = record
                        && result.request == id
                    {
                        return Ok(result);
                    }
                }
            }
            Event::Trouble { message, .. } => told(&format!("answers cannot be read: {message}")),
            Event::OutOfRange => return Err(RequestError::Stopping),
            Event::Healed => {}
        }
    }
}

/// A reader of what is written to the operations topic about an entity from now on.
async fn listen(
    kafka: &Arc<kafka::settings::Settings>,
    entity: &EntityName,
) -> Result<Stream, RequestError> {
    let settings = Arc::clone(kafka);
    let end = tokio::task::spawn_blocking(move || {
        TopicReader::new(&settings)?.high_watermark(settings.topic(Topic::Operations), PARTITION)
    });
    let end = end.await.map_err(|_| RequestError::Stopping)??;
    let key = entity.as_str().as_bytes().to_vec();
    let encode = move |record: StreamRecord<'_>, out: &mut Vec<u8>| {
        if record.key() == Some(&key) {
            out.extend_from_slice(record.value().unwrap_or_default());
        }
    };
    let group = format!("{}-control", kafka.id_prefix);
    let stream = Stream::start(kafka, "answers", &group, LIMITS, encode)?;
    stream.assign(0, kafka.topic(Topic::Operations), PARTITION, end);
    Ok(stream)
}

/// Asks, and prints the answer.
pub(super) fn run(
    config: &Config,
    entity: &EntityName,
    operation: Operation,
    args: &RequestArgs,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    let asked = super::block_on(async {
        request(config, entity, operation, args, |words| out.complain(words)).await
    })?;
    let result = match asked {
        Ok(result) => result,
        Err(error) => {
            out.complain(&error);
            return Ok(error.exit());
        }
    };
    let exit = if result.outcome == Outcome::Done { Exit::Ok } else { Exit::Declined };
    if args.json {
        out.json(&result)?;
    } else if result.outcome == Outcome::Done {
        out.line(&result.message)?;
    } else {
        out.complain(format!("refused: {}", result.message));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_reason_or_a_wait_is_told() {
        assert_eq!(parse_reason(" ticket 42 ").unwrap(), "ticket 42");
        assert!(parse_reason(" ").unwrap_err().contains("say why"));
        assert!(parse_reason(&"x".repeat(1001)).unwrap_err().contains("at most 1000"));
        assert_eq!(parse_wait("2m").unwrap(), Duration::from_mins(2));
        assert!(parse_wait("100ms").unwrap_err().contains("shorter"));
        assert!(parse_wait("30").unwrap_err().contains("without a unit"));
    }

    #[test]
    fn nobody_answers_in_words() {
        let entity = EntityName::try_from("acme".to_owned()).unwrap();
        let silent = RequestError::Silent { entity, waited: Duration::from_secs(30) };
        assert_eq!(silent.exit(), Exit::Declined);
        insta::assert_snapshot!(silent, @"no daemon has answered within 30s, and none will do it any more: see that ghauditd runs with entity acme (`ghauditd status`); where none runs, --offline does it here");
    }
}
