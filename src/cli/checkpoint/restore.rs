//! `ghauditd checkpoint restore`: back to a saved checkpoint. Tells what it means; does it only when told to.

use super::{read, saved::unknown};
use crate::audit::lane::LaneRules;
use crate::audit::operation::Operation;
use crate::audit::rewind::Rewound;
use crate::audit::{Checkpoint, Lane, Saved, SavedName};
use crate::cli::control::{self, RequestArgs};
use crate::cli::{Exit, Output};
use crate::config::Config;
use crate::daemon::offline;
use crate::github::EntitySettings;
use crate::pipeline::answer::{describe, details};
use crate::time::{rfc3339_ms, wall_ms};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

const LONG_ABOUT: &str = "\
Go back to a saved checkpoint: what was read since then is read again.

Only slices and cursors go back. The sequence and the ids that were seen never do, so whatever was committed is dropped \
when it comes again: consumers see nothing twice. What costs is requests. Without --execute it says what would be read \
again, and changes nothing.";

const EXAMPLES: &str = "\
Examples:
  ghauditd checkpoint restore before-upgrade
  ghauditd checkpoint restore before-upgrade --execute --reason 'token without rights since Tuesday'

To send again what Kafka has, to another consumer, is another thing: see `ghauditd offsets`.";

/// Go back to a saved checkpoint; says what that means, unless --execute
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct RestoreArgs {
    /// Its name
    name: SavedName,
    /// Do it; needs --reason
    #[arg(long, requires = "reason")]
    execute: bool,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Serialize)]
struct Answer<'a> {
    entity: &'a str,
    name: &'a str,
    dry_run: bool,
    saved_ms: i64,
    lanes: BTreeMap<Lane, serde_json::Value>,
}

pub(super) fn restore(
    args: &RestoreArgs,
    config: &Config,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    let entity = match control::entity_of(config, args.request.entity.as_deref(), out) {
        Ok(entity) => entity,
        Err(exit) => return Ok(exit),
    };
    let restored = match read(config, out)? {
        Ok(restored) => restored,
        Err(exit) => return Ok(exit),
    };
    let name = &entity.name;
    let copy = restored.saved.get(name).and_then(|copies| copies.get(&args.name));
    let (Some(copy), Some(current)) = (copy, restored.checkpoints.get(name)) else {
        out.complain(unknown(name, &args.name, &restored));
        return Ok(Exit::NotFound);
    };
    if let Some(complaint) = pending(config, current)? {
        out.complain(complaint);
        return Ok(Exit::Declined);
    }
    if args.execute {
        let digest = copy.checkpoint.digest();
        let operation = Operation::RestoreCheckpoint { name: args.name.clone(), digest };
        return control::run(config, name, operation, &args.request, out);
    }
    let now_s = current.github_now_ms.unwrap_or_else(wall_ms).div_euclid(1000);
    let (_, lanes) = current.rewound(&copy.checkpoint, &rules(config, entity), now_s);
    show(args, copy, current, &lanes, out)?;
    Ok(Exit::Ok)
}

fn rules(config: &Config, entity: &EntitySettings) -> BTreeMap<Lane, LaneRules> {
    let rules =
        |lane: &crate::github::LaneSettings| config.collect.rules(lane.lane, lane.retention);
    entity.lanes.iter().map(|lane| (lane.lane, rules(lane))).collect()
}

/// Whether something else is to be done first: what is shown could be otherwise when it is done.
fn pending(config: &Config, current: &Checkpoint) -> anyhow::Result<Option<String>> {
    let (kafka, entity) = (Arc::new(config.kafka.clone()), current.entity.clone());
    let waiting = crate::cli::block_on(offline::waiting(kafka, entity, current.operations_next))??;
    let now_ms = wall_ms();
    let first = waiting.into_iter().find(|it| it.request.expires_ms > now_ms);
    Ok(first.map(|it| {
        format!(
            "another request for entity {} is waiting for the daemon, from {}, until {}: try again after that",
            it.request.entity,
            it.request.by,
            rfc3339_ms(it.request.expires_ms)
        )
    }))
}

fn show(
    args: &RestoreArgs,
    copy: &Saved,
    current: &Checkpoint,
    lanes: &BTreeMap<Lane, Rewound>,
    out: &mut Output,
) -> anyhow::Result<()> {
    if args.request.json {
        out.json(&Answer {
            entity: current.entity.as_str(),
            name: args.name.as_str(),
            dry_run: true,
            saved_ms: copy.at_ms,
            lanes: lanes.iter().map(|(lane, rewound)| (*lane, details(rewound))).collect(),
        })?;
        return Ok(());
    }
    let reason = copy.reason.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
    out.line(format!(
        "going back to {} of {}, saved at {} by {}{reason}, would mean:",
        args.name,
        current.entity,
        rfc3339_ms(copy.at_ms),
        copy.by
    ))?;
    let lines = describe(lanes);
    if lines.is_empty() {
        out.line("  nothing was read since: nothing is read again")?;
    }
    for line in lines {
        out.line(format!("  {line}"))?;
    }
    out.line(format!(
        "The sequence stays at {}, and nothing that was committed is sent again.",
        current.sequence
    ))?;
    out.line("Nothing has been changed. To do it: --execute --reason TEXT")?;
    Ok(())
}
