//! `check --connect`: tries what the configuration names. A bucket keeps one or two small objects, locked for a minute.

use super::fit;
use crate::archive::probe::{self, Property};
use crate::archive::{self, AnyStore, Store as _};
use crate::audit::Lane;
use crate::audit::slice::Query;
use crate::config::Config;
use crate::github::client::Client;
use crate::github::{
    CredentialId, EntitySettings, LaneSettings, PageRequest, Source as _, SourceError,
};
use crate::kafka::restore::read_checkpoints;
use crate::kafka::topics::TopicReport;
use crate::kafka::{ownership, topics};
use crate::metrics::Metrics;
use crate::time::wall_ms;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How one try went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It works.
    Ok,
    /// It works, and something should be seen to.
    Warning,
    /// It does not work.
    Failed,
    /// It could not be tried, because something before it failed.
    Skipped,
}

impl Verdict {
    /// The word in front of the line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Try {
    /// What was tried.
    pub(super) what: String,
    /// How it went.
    pub(super) verdict: Verdict,
    /// What was found, with the remedy where there is one.
    pub(super) message: String,
}

impl Try {
    pub(super) fn new(
        what: impl Into<String>,
        verdict: Verdict,
        message: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), verdict, message: message.into() }
    }
}

/// Tries everything, one after the other, each within the time-outs of its part.
pub(super) async fn all(config: &Config) -> Vec<Try> {
    let metrics = Arc::new(Metrics::default());
    let mut tries = Vec::new();
    let mut limits = BTreeMap::new();
    for entity in &config.entities {
        if let Some(limit) = entity_tries(config, entity, &metrics, &mut tries).await {
            limits.insert(entity.name.clone(), limit);
        }
    }
    kafka_tries(config, &metrics, &mut tries).await;
    // a first run has no checkpoints, and what is wrong with Kafka was said above
    if let Ok(restored) = read_checkpoints(Arc::new(config.kafka.clone())).await {
        tries.extend(fit::tries(config, &restored.checkpoints, &limits));
    }
    if let Some(settings) = &config.archive {
        archive_tries(settings, &mut tries).await;
    }
    tries
}

/// One page of one entry in each lane with each credential: shows the token, its scope, its budget and the way there. Returns
/// how many requests an hour they have together for REST (`u64::MAX`: no limit), as far as any of them worked.
async fn entity_tries(
    config: &Config,
    entity: &EntitySettings,
    metrics: &Arc<Metrics>,
    tries: &mut Vec<Try>,
) -> Option<u64> {
    let server = config.servers.get(&entity.server)?;
    let client = match Client::new(server, entity, Arc::clone(metrics)) {
        Ok(client) => client,
        Err(error) => {
            let what = format!("entity {}", entity.name);
            tries.push(Try::new(what, Verdict::Failed, error.to_string()));
            return None;
        }
    };
    let mut limits: BTreeMap<&CredentialId, u64> = BTreeMap::new();
    let own = CredentialId::of_entity(&entity.name);
    for credential in client.credentials() {
        let with = if *credential == own { String::new() } else { format!(", {credential}") };
        for lane in &entity.lanes {
            let what = format!("entity {}, lane {}{with}", entity.name, lane.lane);
            let (verdict, message, limit) = lane_try(&client, *lane, credential).await;
            tries.push(Try::new(what, verdict, message));
            if let Some(limit) = limit.filter(|_| lane.lane != Lane::GraphQl) {
                limits.insert(credential, limit);
            }
        }
    }
    limits.values().copied().reduce(u64::saturating_add)
}

async fn lane_try(
    client: &Client,
    lane: LaneSettings,
    credential: &CredentialId,
) -> (Verdict, String, Option<u64>) {
    const HOUR_S: i64 = 3600;
    let from_s = wall_ms() / 1000 - HOUR_S;
    let query = Query { from_s, to_s: None };
    let request = PageRequest { lane: lane.lane, query, cursor: None, per_page: 1 };
    match client.fetch(request, None, credential).await {
        Ok(page) => {
            let unit = if lane.lane == Lane::GraphQl { "points" } else { "requests" };
            let budget = page.budget.map_or_else(String::new, |budget| {
                format!("; {} of {} {unit} left in this hour", budget.remaining, budget.limit)
            });
            let limit = page.budget.map_or(u64::MAX, |budget| budget.limit);
            (Verdict::Ok, format!("the token may read it{budget}"), Some(limit))
        }
        Err(error @ SourceError::RateLimited { .. }) => {
            let message = format!("{error}: the token is known, its budget is used up");
            (Verdict::Warning, message, None)
        }
        Err(SourceError::NotOffered { message }) => {
            let message = format!("{message}: the lane is not read, take it out of `lanes`");
            (Verdict::Warning, message, None)
        }
        Err(error) => (Verdict::Failed, error.to_string(), None),
    }
}

async fn kafka_tries(config: &Config, metrics: &Arc<Metrics>, tries: &mut Vec<Try>) {
    let settings = Arc::new(config.kafka.clone());
    let brokers = format!("kafka {}", config.kafka.brokers);
    let write = "kafka, write access";
    match topics::describe(Arc::clone(&settings)).await {
        Ok(reports) => {
            tries.push(Try::new(brokers, Verdict::Ok, "brokers answer"));
            tries.extend(reports.iter().flat_map(topic_tries));
            if reports.iter().all(|report| report.partitions.is_none()) {
                let message = "no topic is there yet to try it with: the first start creates them";
                tries.push(Try::new(write, Verdict::Skipped, message));
                return;
            }
        }
        Err(error) => {
            tries.push(Try::new(brokers, Verdict::Failed, error.to_string()));
            tries.push(Try::new(write, Verdict::Skipped, "the topics could not be looked at"));
            return;
        }
    }
    let (verdict, message) = match ownership::probe_write(settings, Arc::clone(metrics)).await {
        Ok(()) => (Verdict::Ok, "a transaction was written to and aborted".to_owned()),
        Err(error) => (Verdict::Failed, error.to_string()),
    };
    tries.push(Try::new(write, verdict, message));
}

fn topic_tries(report: &TopicReport) -> Vec<Try> {
    let what = format!("topic {}", report.name);
    let named = |verdict, message: &String| Try::new(what.clone(), verdict, message);
    let problems = report.problems.iter().map(|message| named(Verdict::Failed, message));
    let warnings = report.warnings.iter().map(|message| named(Verdict::Warning, message));
    let mut tries: Vec<Try> = problems.chain(warnings).collect();
    if tries.is_empty() {
        let message = report.partitions.map_or_else(
            || "is not there yet: the first start creates it".to_owned(),
            |partitions| format!("{partitions} partitions, settings are good"),
        );
        tries.push(named(Verdict::Ok, &message));
    }
    tries
}

/// What the store must hold to before anything is archived to it.
async fn archive_tries(settings: &archive::Settings, tries: &mut Vec<Try>) {
    let what = format!("archive {}", settings.name);
    let probed = match AnyStore::open(settings).await {
        Ok(store) => {
            let probed = store.probe(settings).await;
            probed.map(|properties| (store.describe(), properties))
        }
        Err(error) => Err(error),
    };
    match probed {
        Ok((place, properties)) => {
            tries.push(Try::new(what.clone(), Verdict::Ok, format!("{place} answers")));
            tries.extend(properties.iter().map(|property| property_try(&what, property)));
        }
        Err(error) => tries.push(Try::new(what, Verdict::Failed, error.to_string())),
    }
}

fn property_try(what: &str, property: &Property) -> Try {
    let (verdict, words) = match property.verdict {
        probe::Verdict::Held => (Verdict::Ok, "holds"),
        probe::Verdict::NotProvable => (Verdict::Warning, "not provable"),
        probe::Verdict::Absent => (Verdict::Warning, "absent"),
        probe::Verdict::NotWanted => (Verdict::Ok, "not asked for"),
    };
    let detail = if property.detail.is_empty() { "" } else { ": " };
    let message = format!("{words}{detail}{}", property.detail);
    Try::new(format!("{what}, {}", property.name), verdict, message)
}
