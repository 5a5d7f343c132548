//! The arguments of `ghauditd replay`, and what they mean. Pure, but for the file of ids.

use crate::audit::operation::REASON_BYTES_MAX;
use crate::audit::replay::{Filter, IDS_MAX, ReplayId, TimeOf};
use crate::audit::{SavedName, Topic};
use crate::cli::times::{When, parse_when};
use crate::config::units::parse_duration;
use crate::kafka::settings::Settings;
use crate::pipeline::replay::Rate;
use clap::{Args, ValueEnum};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LONG_ABOUT: &str = "\
Send again what Kafka still holds, into a topic that is not live: a time, an entity, ids, or what came after a sequence.

Without --execute nothing is sent: it counts the records and bytes, and tells from which offsets they come, how long \
it takes, and what is no longer in Kafka (that is in the archive). Records are sent as they stand, key, value and \
headers, with the replay's id and the place where they stood as further headers. Each is sent exactly once, also when \
a replay is interrupted and goes on with --resume.

The time is that of the entry (an entry without one: of its record), because that is what \"last Tuesday\" means: an \
entry that was found late is among those of its day. So all records are looked at that came to Kafka from an hour \
before --from until now. With --by kafka the time is when the record came to Kafka.";

const EXAMPLES: &str = "\
Examples:
  ghauditd replay --from 2026-11-17 --to 2026-11-17 --to-topic siem.new      (what would be sent)
  ghauditd replay --from 2026-11-17 --to 2026-11-17 --to-topic siem.new --create-topic --execute
  ghauditd replay --from 36h --entity acme --action 'repo.*' --rate 200/s --to-topic siem --execute
  ghauditd replay --ids-file ids.txt --to-topic forensics --execute
  ghauditd replay --resume 20261118-091500-3fa2 --execute                    (after an interruption)";

/// Send again what Kafka still holds, into a topic that is not live
#[derive(Debug, Clone, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("what").multiple(true).required(true)
    .args(["from", "ids", "ids_file", "after_seq", "since_checkpoint", "resume"]))]
pub(in crate::cli) struct ReplayArgs {
    /// From this time on: a day (2026-11-17) or month (2026-11) of UTC, a time (2026-11-17T08:00:00Z), or how long ago
    /// (36h)
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    pub(super) from: Option<When>,
    /// Up to this time; a day or month belongs to it whole; without it up to now
    #[arg(long, value_name = "TIME", value_parser = parse_when, requires = "from")]
    pub(super) to: Option<When>,
    /// Which time counts
    #[arg(long, value_enum, value_name = "TIME", default_value = "entry")]
    pub(super) by: By,
    /// Only of this entity
    #[arg(long, value_name = "NAME")]
    pub(super) entity: Option<String>,
    /// Only what came after this sequence (`gh_seq`) of the entity: see `checkpoint show`
    #[arg(long, value_name = "N", requires = "entity")]
    pub(super) after_seq: Option<u64>,
    /// Only what came after a checkpoint of the entity that was saved under this name
    #[arg(long, value_name = "NAME", requires = "entity", conflicts_with = "after_seq")]
    pub(super) since_checkpoint: Option<SavedName>,
    /// Only actions that fit a pattern, as 'repo.*' or '*.{create,destroy}'; several times: one of them
    #[arg(long = "action", value_name = "PATTERN")]
    pub(super) actions: Vec<String>,
    /// Only the entry of this id (`_document_id`), with its revisions; several times: all of them
    #[arg(long = "id", value_name = "ID")]
    pub(super) ids: Vec<String>,
    /// Only the entries whose ids stand in a file, one a line
    #[arg(long, value_name = "FILE")]
    pub(super) ids_file: Option<PathBuf>,
    /// Which topics are read; pieces of large entries are sent as they stand, only where they are asked for
    #[arg(long = "source", value_enum, value_name = "KIND", value_delimiter = ',')]
    #[arg(default_value = "web,git,stream")]
    pub(super) sources: Vec<Source>,

    /// Where the records go; no topic of this installation
    #[arg(long, value_name = "TOPIC", required_unless_present = "resume")]
    pub(super) to_topic: Option<String>,
    /// Create that topic when it does not exist
    #[arg(long, requires = "to_topic")]
    pub(super) create_topic: bool,
    /// Partitions of a created topic; without it as many as data topics are given
    #[arg(long, value_name = "N", requires = "create_topic")]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub(super) partitions: Option<i32>,
    /// Replicas of a created topic; without it as many as other topics are given
    #[arg(long, value_name = "N", requires = "create_topic")]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(super) replication: Option<i32>,
    /// How long a created topic keeps records after they were sent to it
    #[arg(long, value_name = "TIME", requires = "create_topic", default_value = "30d")]
    #[arg(value_parser = parse_retention)]
    pub(super) retention: Duration,

    /// Records in a second, at most: 500/s, 10000/min, or `none`
    #[arg(long, value_name = "RATE", default_value = "5000/s", value_parser = parse_rate)]
    pub(super) rate: Rate,
    /// Send; without it only what would be sent is told
    #[arg(long)]
    pub(super) execute: bool,
    /// The name of this replay; without it a new one
    #[arg(long, value_name = "ID", value_parser = parse_id, requires = "to_topic")]
    pub(super) replay_id: Option<ReplayId>,
    /// Go on with a replay that was interrupted, where it stopped, with what it was begun with
    ///
    /// A process that still runs the same replay is stopped by that (it ends with exit code 5). Without --execute: what
    /// is left to be sent.
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    #[arg(conflicts_with_all = [
        "from", "to", "entity", "after_seq", "since_checkpoint", "actions", "ids", "ids_file", "to_topic", "replay_id",
    ])]
    pub(super) resume: Option<ReplayId>,
    /// Why, for the record in the operations topic
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(super) reason: Option<String>,
    /// Answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// When the entry happened
    Entry,
    /// When the record came to Kafka
    Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Source {
    /// All entries but those below
    Web,
    /// Git events
    Git,
    /// What only GitHub's own stream has
    Stream,
    /// Large entries in pieces, pages that could not be cut
    DeadLetters,
    /// All of these
    All,
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(Rate::UNLIMITED);
    }
    let (number, seconds) = match text.rsplit_once('/') {
        Some((number, "s")) => (number, 1),
        Some((number, "min")) => (number, 60),
        _ => (text, 1),
    };
    let records: Option<u32> = number.parse().ok().map(|records: u32| records / seconds);
    records
        .and_then(Rate::per_second)
        .ok_or_else(|| "write records in a second (500/s) or in a minute (10000/min), at least 1 in a second, or none".to_owned())
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

fn parse_reason(text: &str) -> Result<String, String> {
    if text.len() > REASON_BYTES_MAX {
        return Err(format!("at most {REASON_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

fn parse_id(text: &str) -> Result<ReplayId, String> {
    ReplayId::try_from(text.to_owned())
}

impl ReplayArgs {
    /// What is asked for; the error is for the user.
    pub(super) fn filter(&self, now_ms: i64) -> Result<Filter, String> {
        let from_ms = self.from.map(|when| when.start_ms(now_ms));
        // a day that goes on is sent as far as it has gone
        let to = self.to.filter(|when| {
            !matches!(when, When::Span(start_ms, end_ms) if (*start_ms..*end_ms).contains(&now_ms))
        });
        let to_ms = to.map(|when| when.end_ms(now_ms));
        if from_ms.is_some_and(|from| from >= now_ms) {
            return Err("--from lies in the future: nothing of then is in Kafka".to_owned());
        }
        if to_ms.is_some_and(|to| to > now_ms) {
            return Err(
                "--to lies in the future: a replay ends where Kafka ends now, leave it out"
                    .to_owned(),
            );
        }
        if let (Some(from), Some(to)) = (from_ms, to_ms)
            && from >= to
        {
            return Err("--from is not before --to: nothing lies between them".to_owned());
        }
        let filter = Filter {
            from_ms,
            to_ms,
            time: match self.by {
                By::Entry => TimeOf::Entry,
                By::Kafka => TimeOf::Kafka,
            },
            entity: self.entity.clone(),
            after_seq: self.after_seq,
            actions: self.actions.clone(),
            ids: self.all_ids()?,
        };
        filter.compile().map(|_| filter).map_err(|error| format!("--action: {error}"))
    }

    fn all_ids(&self) -> Result<BTreeSet<String>, String> {
        let mut ids: BTreeSet<String> = self.ids.iter().cloned().collect();
        if let Some(file) = &self.ids_file {
            let read = read_ids(file)?;
            if read.is_empty() {
                return Err(format!("{} holds no id: write one a line", file.display()));
            }
            ids.extend(read);
        }
        if ids.len() > IDS_MAX {
            let found = ids.len();
            return Err(format!("{found} ids are too many for one replay: give at most {IDS_MAX}"));
        }
        Ok(ids)
    }

    /// The topics that are read, by their names, in a fixed order; and whether the dead letters are among them.
    pub(super) fn topics(&self, settings: &Settings) -> (Vec<String>, bool) {
        let has = |source| self.sources.contains(&source) || self.sources.contains(&Source::All);
        let all = [
            (Source::Web, Topic::Web),
            (Source::Git, Topic::Git),
            (Source::Stream, Topic::Stream),
            (Source::DeadLetters, Topic::DeadLetter),
        ];
        let chosen = all.into_iter().filter(|(source, _)| has(*source));
        let names = chosen.map(|(_, topic)| settings.topic(topic).to_owned()).collect();
        (names, has(Source::DeadLetters))
    }
}

fn read_ids(file: &Path) -> Result<BTreeSet<String>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let ids = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(ids.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const NOW_MS: i64 = 1_795_176_000_000;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ReplayArgs,
    }

    fn parse(line: &str) -> Result<ReplayArgs, String> {
        let words = std::iter::once("replay").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_day_is_sent_whole() {
        let filter = |line: &str| parse(line).unwrap().filter(NOW_MS);
        let day = filter("--from 2026-11-17 --to 2026-11-17 --to-topic t").unwrap();
        let (from_ms, to_ms) = (day.from_ms.unwrap(), day.to_ms.unwrap());
        assert_eq!((from_ms, to_ms - from_ms), (1_794_873_600_000, 86_400_000));
        let today = filter("--from 2026-11-20 --to 2026-11-20 --to-topic t").unwrap();
        assert_eq!(today.to_ms, None, "as far as it has gone");
        assert!(filter("--from 2026-11-17 --to 2026-11-21 --to-topic t").is_err());
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("500/s").ok(), Rate::per_second(500));
        assert_eq!(parse_rate("500").ok(), Rate::per_second(500));
        assert_eq!(parse_rate("6000/min").ok(), Rate::per_second(100));
        assert_eq!(parse_rate("none"), Ok(Rate::UNLIMITED));
        for wrong in ["0", "0/s", "59/min", "many", "5/h", "-1", "5000000000"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn something_must_be_asked_for() {
        for wrong in [
            "--to-topic t",
            "--from 1h",
            "--to 1h --to-topic t",
            "--after-seq 3 --to-topic t",
            "--since-checkpoint s --to-topic t",
            "--entity e --since-checkpoint s --after-seq 3 --to-topic t",
            "--entity e --since-checkpoint current --to-topic t",
            "--resume r --from 1h",
            "--resume r --to-topic t",
            "--from 1h --to-topic t --partitions 3",
            "--from 1h --to-topic t --replay-id a/b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for right in ["--resume r", "--id x --to-topic t", "--entity e --after-seq 3 --to-topic t"]
        {
            assert!(parse(right).is_ok(), "{right}: {:?}", parse(right));
        }
    }

    #[test]
    fn wrong_times_and_patterns_have_their_words() {
        let rows = [
            ("--from 2026-11-21 --to-topic t", "--from lies in the future"),
            ("--from 2026-11-19 --to 2026-11-21 --to-topic t", "--to lies in the future"),
            ("--from 2026-11-19 --to 2026-11-18 --to-topic t", "--from is not before --to"),
            ("--from 1h --action a[b --to-topic t", "--action: action pattern"),
            ("--ids-file /no/such/file --to-topic t", "/no/such/file cannot be read"),
        ];
        for (line, words) in rows {
            let told = parse(line).unwrap().filter(NOW_MS).unwrap_err();
            assert!(told.contains(words), "{line}: {told}");
        }
    }

    #[test]
    fn ids_come_from_the_line_and_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\n\n  b \r\na\n").unwrap();
        let path = file.path().display();
        let filter = parse(&format!("--id c --ids-file {path} --to-topic t")).unwrap();
        let ids = filter.filter(NOW_MS).unwrap().ids;
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        std::fs::write(file.path(), "\n").unwrap();
        let told = parse(&format!("--ids-file {path} --to-topic t")).unwrap().filter(NOW_MS);
        assert!(told.unwrap_err().contains("holds no id"));
        let many: Vec<String> = (0..=IDS_MAX).map(|id| id.to_string()).collect();
        std::fs::write(file.path(), many.join("\n")).unwrap();
        let told = parse(&format!("--ids-file {path} --to-topic t")).unwrap().filter(NOW_MS);
        assert!(told.unwrap_err().contains("10001 ids are too many"));
    }

    #[test]
    fn topics_by_their_names() {
        let topics = |line: &str| parse(line).unwrap().topics(&Settings::default());
        let (names, dead_letters) = topics("--from 1h --to-topic t");
        assert_eq!(names, ["github.audit.web", "github.audit.git", "github.audit.stream"]);
        assert!(!dead_letters);
        let (names, dead_letters) = topics("--from 1h --to-topic t --source dead-letters,git");
        assert_eq!((names.len(), dead_letters), (2, true));
        assert_eq!(topics("--from 1h --to-topic t --source all").0.len(), 4);
    }
}
