//! `ghauditd checkpoint`: the saved state. `list`, `show`, `diff` and `export` read it without disturbing anybody; what
//! changes it is asked of its owner.

mod diff;
mod restore;
mod saved;

use super::{Exit, Global, Output};
use crate::audit::checkpoint::Backfill;
use crate::audit::{
    Actor, Checkpoint, EntityName, Lane, LaneState, Owner, SavedCopies, SavedName, Slice,
    SliceKind, Topic,
};
use crate::config::Config;
use crate::kafka::restore::{Restored, read_checkpoints};
use crate::time::{rfc3339_ms, rfc3339_s, span_s};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

const LONG_ABOUT: &str = "\
Show the checkpoints: how far each lane of each entity has been read, what is still open, and who owns the state. Keep \
copies of them, and go back to one.

What only shows reads the checkpoint topic; a running daemon is not disturbed. What changes something is asked of the \
running daemon and recorded, with who and why, on the operations topic. \"Read once\" means that GitHub was \
asked for that time after it had passed. \"Complete\" means that it was read again at the settling age or later, which \
finds what GitHub indexed late; what is indexed later still is looked for at the further sweep ages.";

/// Show the saved state, keep copies of it, go back to one
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = "\
Examples:
  ghauditd checkpoint list
  ghauditd checkpoint show acme
  ghauditd checkpoint save before-upgrade --reason 'ticket 42'
  ghauditd checkpoint restore before-upgrade
  ghauditd checkpoint show acme --json | jq '.entities[0].lanes.web.collected'")]
pub(super) struct CheckpointArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One line for each lane
    List {
        /// Answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// All that is saved of one entity, or of all
    Show {
        /// Name of the entity in the configuration
        entity: Option<String>,
        /// Show the copy of this name instead
        #[arg(long, value_name = "NAME")]
        saved: Option<SavedName>,
        /// Answer as JSON: times are epoch seconds, fields as in the checkpoint's public format
        #[arg(long)]
        json: bool,
    },
    Rebuild(super::rebuild::RebuildArgs),
    Diff(diff::DiffArgs),
    Save(saved::SaveArgs),
    Restore(restore::RestoreArgs),
    Export(saved::ExportArgs),
    Import(saved::ImportArgs),
    Delete(saved::DeleteArgs),
}

#[derive(Serialize)]
struct Answer<'a> {
    instance: Option<&'a str>,
    entities: Vec<EntityView<'a>>,
}

/// One entity's state, with what stands around it.
#[derive(Serialize)]
struct EntityView<'a> {
    entity: &'a str,
    configured: bool,
    partition: i32,
    owner: Option<&'a Owner>,
    sequence: u64,
    github_now_ms: Option<i64>,
    /// Per lane: end of the time that was read again after settling, epoch seconds.
    complete_up_to_s: BTreeMap<Lane, i64>,
    lanes: &'a BTreeMap<Lane, LaneState>,
    saved: Vec<SavedView<'a>>,
}

/// A named copy.
#[derive(Serialize)]
struct SavedView<'a> {
    name: &'a SavedName,
    at_ms: i64,
    by: &'a Actor,
    reason: Option<&'a str>,
    imported: bool,
    sequence: u64,
}

pub(super) fn run(
    args: &CheckpointArgs,
    global: &Global,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    if let Command::Rebuild(args) = &args.command {
        return super::rebuild::run(args, global, out);
    }
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    let config = loaded.config;
    match &args.command {
        Command::Rebuild(_) => Ok(Exit::Ok),
        Command::List { json } => {
            let restored = match read(&config, out)? {
                Ok(restored) => restored,
                Err(exit) => return Ok(exit),
            };
            let entities = views(&config, &restored);
            if *json {
                out.json(&Answer { instance: instance(&restored), entities })?;
            } else {
                list(&entities, out)?;
            }
            Ok(Exit::Ok)
        }
        Command::Show { entity, saved, json } => {
            show_entities(&config, entity.as_deref(), saved.as_ref(), *json, out)
        }
        Command::Diff(args) => diff::diff(args, &config, out),
        Command::Save(args) => saved::save(args, &config, out),
        Command::Restore(args) => restore::restore(args, &config, out),
        Command::Export(args) => saved::export(args, &config, out),
        Command::Import(args) => saved::import(args, &config, out),
        Command::Delete(args) => saved::delete(args, &config, out),
    }
}

/// All that is saved; complains when it cannot be read.
fn read(config: &Config, out: &mut Output) -> anyhow::Result<Result<Restored, Exit>> {
    let kafka = Arc::new(config.kafka.clone());
    Ok(super::block_on(read_checkpoints(kafka))?.map_err(|error| {
        out.complain(format!("checkpoints cannot be read: {error}"));
        if error.is_retriable() { Exit::Unexpected } else { Exit::Refused }
    }))
}

fn instance(restored: &Restored) -> Option<&str> {
    restored.genesis.as_ref().map(|genesis| genesis.instance.as_str())
}

fn show_entities(
    config: &Config,
    entity: Option<&str>,
    saved: Option<&SavedName>,
    json: bool,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    let mut restored = match read(config, out)? {
        Ok(restored) => restored,
        Err(exit) => return Ok(exit),
    };
    if let Some(name) = saved {
        let entity = match super::control::entity_of(config, entity, out) {
            Ok(entity) => &entity.name,
            Err(exit) => return Ok(exit),
        };
        let copy = restored.saved.get(entity).and_then(|copies| copies.get(name));
        let Some(copy) = copy.map(|saved| (*saved.checkpoint).clone()) else {
            out.complain(saved::unknown(entity, name, &restored));
            return Ok(Exit::NotFound);
        };
        restored.checkpoints = BTreeMap::from([(entity.clone(), copy)]);
    }
    let mut views = views(config, &restored);
    views.retain(|view| entity.is_none_or(|wanted| wanted == view.entity));
    if let (Some(wanted), true) = (entity, views.is_empty()) {
        out.complain(no_checkpoint(config, wanted));
        return Ok(Exit::NotFound);
    }
    if json {
        out.json(&Answer { instance: instance(&restored), entities: views })?;
    } else {
        views.iter().try_for_each(|view| show(view, out))?;
    }
    Ok(Exit::Ok)
}

fn no_checkpoint(config: &Config, wanted: &str) -> String {
    if config.entities.iter().any(|entity| entity.name.as_str() == wanted) {
        return format!("entity {wanted:?} has no checkpoint: it has not been collected yet");
    }
    format!("entity {wanted:?} is neither in the configuration nor in the checkpoints")
}

fn views<'a>(config: &Config, restored: &'a Restored) -> Vec<EntityView<'a>> {
    let count = config.kafka.partitions(Topic::Checkpoints);
    let view = |(name, checkpoint): (&'a EntityName, &'a Checkpoint)| {
        let partition = name.partition(count);
        EntityView {
            entity: name.as_str(),
            configured: config.entities.iter().any(|entity| entity.name == *name),
            partition,
            owner: restored.owners.get(&partition),
            sequence: checkpoint.sequence,
            github_now_ms: checkpoint.github_now_ms,
            complete_up_to_s: frontiers(config, name, checkpoint),
            lanes: &checkpoint.lanes,
            saved: restored.saved.get(name).map(saved_views).unwrap_or_default(),
        }
    };
    restored.checkpoints.iter().map(view).collect()
}

/// The copies of an entity, the oldest first.
fn saved_views(copies: &SavedCopies) -> Vec<SavedView<'_>> {
    let mut views = Vec::with_capacity(copies.len());
    for (name, saved) in copies {
        let (at_ms, by, reason) = (saved.at_ms, &saved.by, saved.reason.as_deref());
        let (imported, sequence) = (saved.imported, saved.checkpoint.sequence);
        views.push(SavedView { name, at_ms, by, reason, imported, sequence });
    }
    views.sort_by_key(|view| view.at_ms);
    views
}

/// What may be called complete depends on what the configuration says that GitHub keeps.
fn frontiers(config: &Config, name: &EntityName, checkpoint: &Checkpoint) -> BTreeMap<Lane, i64> {
    let now_s = checkpoint.github_now_ms.unwrap_or_default().div_euclid(1000);
    let entity = config.entities.iter().find(|entity| entity.name == *name);
    let lanes = entity.into_iter().flat_map(|entity| &entity.lanes);
    let frontier = |lane: &crate::github::LaneSettings| {
        let rules = config.collect.rules(lane.lane, lane.retention);
        Some((lane.lane, checkpoint.lanes.get(&lane.lane)?.frontier_s(&rules, now_s)?))
    };
    lanes.filter_map(frontier).collect()
}

fn list(views: &[EntityView<'_>], out: &mut Output) -> anyhow::Result<()> {
    if views.is_empty() {
        out.line("no checkpoint: nothing has been collected yet")?;
        return Ok(());
    }
    let head = [
        "ENTITY",
        "LANE",
        "COMPLETE UP TO",
        "READ ONCE UP TO",
        "TAIL FROM",
        "OPEN BACKFILL",
        "ENTRIES",
    ];
    let rows: Vec<_> = views.iter().flat_map(lane_rows).collect();
    out.table(&head, &rows)?;
    let rows: Vec<_> = views.iter().flat_map(saved_rows).collect();
    if !rows.is_empty() {
        out.line("")?;
        out.table(&["ENTITY", "SAVED AS", "AT", "BY", "SEQUENCE", "REASON"], &rows)?;
    }
    Ok(())
}

fn saved_rows(view: &EntityView<'_>) -> Vec<Vec<String>> {
    let row = |saved: &SavedView<'_>| {
        let imported = if saved.imported { " (imported)" } else { "" };
        vec![
            view.entity.to_owned(),
            saved.name.to_string(),
            rfc3339_ms(saved.at_ms),
            format!("{} on {}{imported}", saved.by.user, saved.by.host),
            saved.sequence.to_string(),
            saved.reason.unwrap_or("-").to_owned(),
        ]
    };
    view.saved.iter().map(row).collect()
}

fn lane_rows(view: &EntityView<'_>) -> Vec<Vec<String>> {
    let row = |(lane, state): (&Lane, &LaneState)| {
        let up_to = state.collected.as_slice().first().map(|span| rfc3339_s(span.1));
        let tail = state.slices.iter().find(|slice| slice.kind == SliceKind::Tail);
        let open = state.slices.iter().filter(|slice| slice.kind == SliceKind::Backfill).count();
        vec![
            view.entity.to_owned(),
            lane.to_string(),
            view.complete_up_to_s
                .get(lane)
                .map_or_else(|| "-".to_owned(), |&up_to| rfc3339_s(up_to)),
            up_to.unwrap_or_else(|| "-".to_owned()),
            tail.map_or_else(|| "-".to_owned(), |tail| rfc3339_s(tail.start_s)),
            if open == 0 { "-".to_owned() } else { format!("{open} slices") },
            state.entries.to_string(),
        ]
    };
    view.lanes.iter().map(row).collect()
}

fn show(view: &EntityView<'_>, out: &mut Output) -> anyhow::Result<()> {
    let configured = if view.configured { "" } else { " (not in the configuration: not read)" };
    out.line(format!("entity {}{configured}", view.entity))?;
    out.line(format!("  sequence: {}", view.sequence))?;
    let now = view.github_now_ms.map_or_else(|| "unknown".to_owned(), rfc3339_ms);
    out.line(format!("  GitHub's clock at the last commit: {now}"))?;
    let owner = view.owner.map_or_else(
        || "nobody".to_owned(),
        |owner| {
            let since = rfc3339_ms(owner.started_ms);
            format!("process {} on {}, started {since}", owner.pid, owner.host)
        },
    );
    out.line(format!("  owner of checkpoint partition {}: {owner}", view.partition))?;
    for (lane, state) in view.lanes {
        show_lane(*lane, state, view.complete_up_to_s.get(lane).copied(), out)?;
    }
    Ok(())
}

fn show_lane(
    lane: Lane,
    state: &LaneState,
    complete_up_to_s: Option<i64>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let began = rfc3339_s(state.began_s);
    out.line(format!("  lane {lane}: {} entries committed, began {began}", state.entries))?;
    for (from_s, to_s) in state.collected.as_slice() {
        out.line(format!("    read once: {} to {}", rfc3339_s(*from_s), rfc3339_s(*to_s)))?;
    }
    for swept in &state.swept {
        let age = span_s(swept.age_s);
        for (from_s, to_s) in swept.spans.as_slice() {
            let (from, to) = (rfc3339_s(*from_s), rfc3339_s(*to_s));
            out.line(format!("    read at the age of {age} or later: {from} to {to}"))?;
        }
    }
    if let Some(up_to_s) = complete_up_to_s {
        out.line(format!("    complete up to {}", rfc3339_s(up_to_s)))?;
    }
    for slice in &state.slices {
        out.line(format!("    {}", slice_line(slice)))?;
    }
    for backfill in &state.backfills {
        out.line(format!("    {}", backfill_line(backfill)))?;
    }
    Ok(())
}

fn slice_line(slice: &Slice) -> String {
    let from = rfc3339_s(slice.from_s);
    let span = slice.to_s.map_or_else(
        || format!("from {from} on, next query from {}", rfc3339_s(slice.start_s)),
        |to_s| format!("{from} to {}", rfc3339_s(to_s)),
    );
    let progress = match &slice.walk {
        Some(walk) => {
            let place = if walk.cursor.is_some() { "at a cursor" } else { "at its beginning" };
            let last = walk
                .last_s
                .map_or_else(String::new, |last| format!(", last entry of {}", rfc3339_s(last)));
            format!("walk {place}, {} new entries{last}", walk.new_entries)
        }
        None if slice.kind == SliceKind::Tail => "between polls".to_owned(),
        None => "waiting".to_owned(),
    };
    let confirming = if slice.confirming { ", asked again for what is new" } else { "" };
    let at =
        slice.sweep_age_s.map_or_else(String::new, |s| format!(" at the age of {}", span_s(s)));
    format!("{} {}{at}: {span}; {progress}{confirming}", slice.kind.as_str(), slice.id)
}

fn backfill_line(backfill: &Backfill) -> String {
    let span = format!("{} to {}", rfc3339_s(backfill.from_s), rfc3339_s(backfill.to_s));
    let state = backfill.empty_at_s.map_or_else(
        || format!("being read, {} entries so far", backfill.entries),
        |at| format!("unconfirmed: wholly empty at {}, asked again daily", rfc3339_s(at)),
    );
    format!("backfill {} as a whole: {span}; {state}", backfill.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::lane::LaneRules;
    use crate::audit::slice::{Query, Walk};
    use crate::cli::output::testing::printed;

    /// A Git lane that began on 2026-11-20 at noon and has read two of its slices.
    fn lane() -> LaneState {
        let now_s = 1_795_176_000;
        let day_s = 86_400;
        let sweeps = crate::audit::SweepAges::default();
        let retention_s = Some(7 * day_s);
        let rules = LaneRules { readers: 1, lane: Lane::Git, retention_s, settling_s: 600, sweeps };
        let mut lane = LaneState::begin(&rules, now_s);
        lane.slices.truncate(3);
        lane.collected.insert(now_s - 9 * day_s, now_s - 7 * day_s);
        let query = Query { from_s: now_s - 600, to_s: None };
        lane.slices[0].walk = Some(Walk {
            query,
            began_s: Some(now_s),
            cursor: crate::audit::Cursor::new("abc".to_owned()),
            new_entries: 12,
            newest_s: Some(now_s - 60),
            first_s: None,
            last_s: Some(now_s - 60),
            in_order: true,
        });
        lane.slices[2].confirming = true;
        let (from_s, to_s) = (now_s - day_s, now_s - day_s + 3600);
        lane.slices.push(Slice {
            sweep_age_s: Some(600),
            ..Slice::new(9, SliceKind::Sweep, from_s, Some(to_s), Some(now_s))
        });
        let mut spans = crate::audit::Intervals::default();
        spans.insert(now_s - 42 * day_s, from_s);
        lane.swept = vec![crate::audit::Swept { age_s: 600, spans }];
        lane.entries = 120;
        lane
    }

    #[test]
    fn a_lane_for_people() {
        let lanes = BTreeMap::from([(Lane::Git, lane())]);
        let owner = Owner {
            version: 1,
            run: "r".to_owned(),
            host: "ops1".to_owned(),
            pid: 42,
            started_ms: 1_795_170_000_000,
        };
        let name: SavedName = "before".parse().unwrap();
        let by = Actor { user: "alice".to_owned(), host: "ops1".to_owned(), pid: 7 };
        let view = EntityView {
            entity: "acme",
            configured: false,
            partition: 3,
            owner: Some(&owner),
            sequence: 120,
            github_now_ms: Some(1_795_176_000_000),
            complete_up_to_s: BTreeMap::from([(Lane::Git, 1_795_089_600)]),
            lanes: &lanes,
            saved: vec![SavedView {
                name: &name,
                at_ms: 1_795_170_000_000,
                by: &by,
                reason: Some("ticket 42"),
                imported: true,
                sequence: 100,
            }],
        };
        insta::assert_snapshot!(printed(|out| show(&view, out).unwrap()), @r#"
        entity acme (not in the configuration: not read)
          sequence: 120
          GitHub's clock at the last commit: 2026-11-20T12:00:00.000Z
          owner of checkpoint partition 3: process 42 on ops1, started 2026-11-20T10:20:00.000Z
          lane git: 120 entries committed, began 2026-11-20T12:00:00Z
            read once: 2026-11-11T12:00:00Z to 2026-11-13T12:00:00Z
            read at the age of 10m or later: 2026-10-09T12:00:00Z to 2026-11-19T12:00:00Z
            complete up to 2026-11-19T12:00:00Z
            tail 1: from 2026-11-20T11:50:00Z on, next query from 2026-11-20T11:50:00Z; walk at a cursor, 12 new entries, last entry of 2026-11-20T11:59:00Z
            backfill 2: 2026-10-09T12:00:00Z to 2026-11-13T12:10:00Z; waiting
            backfill 3: 2026-11-13T12:10:00Z to 2026-11-14T12:10:00Z; waiting, asked again for what is new
            sweep 9 at the age of 10m: 2026-11-19T12:00:00Z to 2026-11-19T13:00:00Z; waiting
            backfill 1 as a whole: 2026-10-09T12:00:00Z to 2026-11-20T11:50:00Z; being read, 0 entries so far
        "#);
        insta::assert_snapshot!(printed(|out| list(&[view], out).unwrap()), @r#"
        ENTITY  LANE  COMPLETE UP TO        READ ONCE UP TO       TAIL FROM             OPEN BACKFILL  ENTRIES
        acme    git   2026-11-19T12:00:00Z  2026-11-13T12:00:00Z  2026-11-20T11:50:00Z  2 slices       120

        ENTITY  SAVED AS  AT                        BY                        SEQUENCE  REASON
        acme    before    2026-11-20T10:20:00.000Z  alice on ops1 (imported)  100       ticket 42
        "#);
    }
}
