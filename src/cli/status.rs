//! `ghauditd status`: how everything stands, from the running daemon; from the checkpoints where none runs.

use super::{Exit, Global, Output};
use crate::config::Config;
use crate::config::units::show_duration;
use crate::kafka::restore::read_checkpoints;
use crate::pipeline::status as entity_status;
use crate::status::{
    ArchiveStatus, CredentialStatus, EntityStatus, LaneStatus, Page, SliceStatus, Trouble, VERSION,
};
use clap::Args;
use serde::Serialize;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const LONG_ABOUT: &str = "\
Show how everything stands: up to when each lane is complete, how far behind it is, when data will be lost if nothing \
changes (runway), what is open, what is left of the request budgets, how far the archive is, and what is or was the matter, \
with the remedy.

Asks the running daemon at admin.listen. Where none answers, it shows what the checkpoints in Kafka say, and that no \
daemon answers (exit code 1).";

const EXAMPLES: &str = "\
Examples:
  ghauditd status
  ghauditd status --why               and why each open slice does or does not get its next request
  ghauditd status --watch
  ghauditd status --json | jq '.entities[].lanes[] | {lane, runway_s, lost_from}'";

/// Most bytes of the daemon's answer: a thousand entities have less than 1 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Clears the screen and goes to its corner.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Show how everything stands
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// Show the open slices, and why each gets its next request or not
    #[arg(long)]
    why: bool,
    /// Show it again every two seconds, until interrupted
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the configuration has admin.listen = \"off\", so the daemon cannot be asked")]
    Off,
    #[error("no daemon answers at http://{0}/status ({1}): see `systemctl status ghauditd`")]
    Silent(SocketAddr, String),
    #[error(
        "what answers at http://{0}/status is not a ghauditd that this program knows ({1}): see that admin.listen is right \
         and both are of the same version"
    )]
    Strange(SocketAddr, String),
}

/// What is said when no daemon answers.
#[derive(Serialize)]
struct FromCheckpoints<'a> {
    daemon: String,
    entities: &'a [EntityStatus],
}

pub(super) fn run(args: &StatusArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    super::block_on(async {
        loop {
            let asked = ask(&loaded.config).await;
            if args.watch && std::io::stdout().is_terminal() {
                out.bytes(CLEAR.as_bytes())?;
            }
            let exit = match asked {
                Ok(page) if args.json => out.json(&page).map(|()| Exit::Ok)?,
                Ok(page) => show(&page, args.why, out).map(|()| Exit::Ok)?,
                Err(error) => without_daemon(&error, &loaded.config, args, out).await?,
            };
            if !args.watch {
                return Ok(exit);
            }
            out.flush()?;
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(exit),
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
        }
    })?
}

async fn ask(config: &Config) -> Result<Page, AskError> {
    let address = config.admin.listen.ok_or(AskError::Off)?;
    let silent = |error: reqwest::Error| AskError::Silent(address, innermost(&error));
    let strange = |cause: String| AskError::Strange(address, cause);
    crate::github::client::install_crypto_provider();
    // never by a proxy: it is this host
    let client = reqwest::Client::builder().no_proxy().timeout(ASK_TIMEOUT);
    let client = client.build().map_err(silent)?;
    let mut answer = client.get(format!("http://{address}/status")).send().await.map_err(silent)?;
    if !answer.status().is_success() {
        return Err(strange(format!("status {}", answer.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(silent)? {
        if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
            return Err(strange(format!("more than {} MiB", ANSWER_BYTES_MAX >> 20)));
        }
        body.extend_from_slice(&chunk);
    }
    let page: Page = serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))?;
    if page.version > VERSION {
        return Err(strange(format!("version {} of its status", page.version)));
    }
    Ok(page)
}

/// The cause at the bottom: the rest repeats the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

async fn without_daemon(
    error: &AskError,
    config: &Config,
    args: &StatusArgs,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    out.complain(error);
    let restored = match read_checkpoints(Arc::new(config.kafka.clone())).await {
        Ok(restored) => restored,
        Err(error) => {
            out.complain(format!("checkpoints cannot be read either: {error}"));
            return Ok(Exit::Unexpected);
        }
    };
    let wall_ms = crate::time::wall_ms();
    let entity = |entity: &crate::github::EntitySettings| {
        let checkpoint = restored.checkpoints.get(&entity.name)?;
        let rules = entity
            .lanes
            .iter()
            .map(|lane| (lane.lane, config.collect.rules(lane.lane, lane.retention)))
            .collect();
        // nobody collects: the time that runs away is the host's
        let now_ms = checkpoint.github_now_ms.map(|then| then.max(wall_ms));
        Some(entity_status::entity(checkpoint, &rules, now_ms, Vec::new(), |_, _| None))
    };
    let entities: Vec<EntityStatus> = config.entities.iter().filter_map(entity).collect();
    if args.json {
        out.json(&FromCheckpoints { daemon: error.to_string(), entities: &entities })?;
    } else {
        out.line("from the checkpoints in Kafka, as they were committed last:")?;
        entities.iter().try_for_each(|entity| show_entity(entity, args.why, out))?;
    }
    Ok(Exit::Unexpected)
}

fn show(page: &Page, why: bool, out: &mut Output) -> anyhow::Result<()> {
    let ready = if page.ready { "ready" } else { "not ready" };
    let Page { program, pid, started, now, .. } = page;
    out.line(format!("ghauditd {program}, process {pid}, since {started}: {ready} at {now}"))?;
    page.entities.iter().try_for_each(|entity| show_entity(entity, why, out))?;
    if let Some(archive) = &page.archive {
        show_archive(archive, out)?;
    }
    show_troubles("trouble", &page.trouble, out)?;
    show_troubles("earlier trouble, over", &page.earlier, out)
}

fn show_entity(entity: &EntityStatus, why: bool, out: &mut Output) -> anyhow::Result<()> {
    let now = entity.github_now.as_deref().unwrap_or("unknown");
    out.line("")?;
    out.line(format!(
        "entity {}: sequence {}, GitHub's clock {now}",
        entity.entity, entity.sequence
    ))?;
    let head = ["LANE", "COMPLETE UP TO", "TAIL FROM", "BEHIND", "RUNWAY", "OPEN", "ENTRIES"];
    let rows: Vec<Vec<String>> = entity.lanes.iter().map(lane_row).collect();
    out.table(&head, &rows)?;
    for lane in &entity.lanes {
        for span in &lane.unconfirmed {
            out.line(format!(
                "  lane {}: {} to {} was wholly empty: unconfirmed, asked again daily",
                lane.lane, span.from, span.to
            ))?;
        }
    }
    for credential in &entity.credentials {
        out.line(format!("  {}", credential_line(credential)))?;
    }
    if why {
        let head = ["LANE", "SLICE", "FROM", "TO", "READ", "ENTRIES", "WHY"];
        let rows = entity
            .lanes
            .iter()
            .flat_map(|lane| lane.slices.iter().map(|slice| slice_row(&lane.lane, slice)));
        out.table(&head, &rows.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn lane_row(lane: &LaneStatus) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let runway = match (lane.runway_s, &lane.lost_from) {
        (Some(left), Some(at)) if left > 0 => format!("{}, until {at}", span(left)),
        (Some(_), Some(at)) => format!("DATA IS BEING LOST since {at}"),
        _ => "unlimited".to_owned(),
    };
    vec![
        lane.lane.clone(),
        or_dash(&lane.complete_up_to),
        or_dash(&lane.tail_from),
        lane.behind_s.map_or_else(|| "-".to_owned(), span),
        runway,
        open(&lane.slices),
        lane.entries.to_string(),
    ]
}

/// `2 backfill, 1 sweep`.
fn open(slices: &[SliceStatus]) -> String {
    let count = |kind| slices.iter().filter(|slice| slice.kind == kind).count();
    let counts = ["backfill", "sweep"].map(|kind| (count(kind), kind));
    let shown: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

fn slice_row(lane: &str, slice: &SliceStatus) -> Vec<String> {
    let age = slice.age_s.map_or_else(String::new, |age| format!(" at {}", span(age)));
    vec![
        lane.to_owned(),
        format!("{} {}{age}", slice.kind, slice.id),
        slice.from.clone(),
        slice.to.clone().unwrap_or_else(|| "open".to_owned()),
        slice.percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %")),
        slice.entries.to_string(),
        slice.why.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn credential_line(it: &CredentialStatus) -> String {
    let budget = match (it.limit, it.remaining, &it.resets) {
        (Some(limit), Some(remaining), Some(resets)) => {
            format!("{remaining} of {limit} requests left until {resets}")
        }
        _ => "no limit is known".to_owned(),
    };
    let aside = it.set_aside.as_ref().map_or_else(String::new, |why| format!("; set aside: {why}"));
    format!("credential {}: {budget}{aside}", it.credential)
}

fn show_archive(archive: &ArchiveStatus, out: &mut Output) -> anyhow::Result<()> {
    out.line("")?;
    let ArchiveStatus { partitions, behind_records, gaps, .. } = archive;
    let placed = if archive.placed { "" } else { "not in place yet, " };
    let stored = archive.last_stored.as_deref().unwrap_or("never since its start");
    out.line(format!(
        "archive: {placed}{partitions} partitions, {behind_records} offsets and {} behind, last stored {stored}, {gaps} gaps not acknowledged",
        span(archive.behind_s)
    ))?;
    Ok(())
}

fn show_troubles(head: &str, troubles: &[Trouble], out: &mut Output) -> anyhow::Result<()> {
    if !troubles.is_empty() {
        out.line("")?;
        out.line(format!("{head}:"))?;
    }
    for Trouble { part, reason, since, until } in troubles {
        let until = until.as_ref().map_or_else(String::new, |until| format!(" to {until}"));
        out.line(format!("  {since}{until}  {part}: {reason}"))?;
    }
    Ok(())
}

/// A span in its two greatest units.
fn span(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let coarse = match seconds {
        0..3_600 => seconds,
        3_600..172_800 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let (mut left, mut shown) = (coarse, Vec::new());
    for (unit, name) in units {
        if left >= unit {
            shown.push(format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    if shown.is_empty() { show_duration(Duration::ZERO) } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::testing::printed;
    use crate::status::SpanStatus;

    fn page() -> Page {
        let text = |text: &str| Some(text.to_owned());
        let slice = |id, kind: &str, age_s, why: Option<&str>| SliceStatus {
            id,
            kind: kind.to_owned(),
            age_s,
            from: "2026-11-12T00:00:00Z".to_owned(),
            to: (kind != "tail").then(|| "2026-11-13T00:00:00Z".to_owned()),
            percent: (kind != "tail").then_some(40),
            entries: 12,
            why: why.map(str::to_owned),
        };
        let lane = LaneStatus {
            lane: "git".to_owned(),
            entries: 120,
            complete_up_to: text("2026-11-19T12:00:00Z"),
            tail_from: text("2026-11-20T11:59:00Z"),
            behind_s: Some(3_720),
            runway_s: Some(2 * 86_400 + 7_260),
            lost_from: text("2026-11-22T14:01:00Z"),
            slices: vec![
                slice(1, "tail", None, Some("between polls")),
                slice(2, "backfill", None, Some("next: earliest deadline")),
                slice(3, "sweep", Some(86_400), None),
            ],
            unconfirmed: vec![SpanStatus {
                from: "2026-10-01T00:00:00Z".to_owned(),
                to: "2026-10-02T00:00:00Z".to_owned(),
            }],
        };
        let lost = LaneStatus {
            lane: "web".to_owned(),
            runway_s: Some(-5),
            slices: Vec::new(),
            unconfirmed: Vec::new(),
            ..lane.clone()
        };
        let trouble = |until: Option<&str>| Trouble {
            part: "kafka/acme".to_owned(),
            reason: "no answer from Kafka at kafka:9092: see that it runs".to_owned(),
            since: "2026-11-20T11:00:00.000Z".to_owned(),
            until: until.map(str::to_owned),
        };
        let credential = CredentialStatus {
            credential: "first".to_owned(),
            limit: Some(1_750),
            remaining: Some(312),
            resets: text("2026-11-20T12:31:05Z"),
            set_aside: None,
        };
        let revoked = CredentialStatus {
            credential: "second".to_owned(),
            limit: None,
            remaining: None,
            resets: None,
            set_aside: text("401 (Bad credentials), tried again at 2026-11-20T12:15:00Z"),
        };
        Page {
            version: VERSION,
            program: "0.1.0".to_owned(),
            pid: 42,
            started: "2026-11-20T02:20:00.000Z".to_owned(),
            now: "2026-11-20T12:00:00.000Z".to_owned(),
            ready: false,
            trouble: vec![trouble(None)],
            earlier: vec![trouble(Some("2026-11-20T11:10:00.000Z"))],
            entities: vec![EntityStatus {
                entity: "acme".to_owned(),
                github_now: text("2026-11-20T12:00:00.000Z"),
                sequence: 240,
                lanes: vec![lost, lane],
                credentials: vec![credential, revoked],
            }],
            archive: Some(ArchiveStatus {
                placed: true,
                partitions: 14,
                behind_records: 6,
                behind_s: 75,
                last_stored: text("2026-11-20T11:58:45.000Z"),
                gaps: 0,
                trouble: None,
            }),
        }
    }

    #[test]
    fn a_page_for_people() {
        insta::assert_snapshot!(printed(|out| show(&page(), true, out).unwrap()));
    }

    #[test]
    fn spans_in_two_units() {
        let spans = [0, 59, 3_661, 172_800 + 3_661, -5].map(span);
        assert_eq!(spans, ["0s", "59s", "1h 1m", "2d 1h", "0s"]);
    }
}
