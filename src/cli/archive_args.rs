//! The arguments of `ghauditd archive`; the work is done next door, in [`super::archive`].

use super::archive::{self, CatFormat, CatOptions};
use super::{Exit, Global, Output};
use clap::{Args, Subcommand};

const LONG_ABOUT: &str = "\
Look into the archive: which segments there are, and what is in them.

Reads the store that the configuration names; a running daemon is not disturbed, and Kafka is not needed.";

/// Look into the archive
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = "\
Examples:
  ghauditd archive list
  ghauditd archive cat github.audit.web | jq -r .action
  ghauditd archive cat github.audit.web --partition 0 --from 1000 --to 1100 --format lines")]
pub(super) struct ArchiveArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the segments of every partition, and the gaps
    List {
        /// Read each segment for its count and size, not only the newest of each partition
        #[arg(long)]
        long: bool,
        /// Answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print archived records
    Cat(CatArgs),
    /// Write down that every archive gap there is has been seen
    ///
    /// `/readyz` counts the archive as ready again from the next start of the daemon on.
    Acknowledge,
}

#[derive(Debug, Args)]
struct CatArgs {
    /// The topic
    topic: String,
    /// One partition; without it all, one after another
    #[arg(long, value_name = "NUMBER")]
    partition: Option<i32>,
    /// First offset
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from: i64,
    /// Offset after the last; without it to the end
    #[arg(long, value_name = "OFFSET")]
    to: Option<i64>,
    /// How records are shown
    #[arg(long, value_enum, default_value = "values")]
    format: CatFormat,
}

pub(super) fn run(args: ArchiveArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    let Some(settings) = loaded.config.archive else {
        out.complain("the configuration names no archive (archive.enabled = false)");
        return Ok(Exit::NotFound);
    };
    super::block_on(async {
        match args.command {
            Command::List { long, json } => archive::list(&settings, json, long, out).await,
            Command::Cat(cat) => archive::cat(&settings, &cat.into(), out).await,
            Command::Acknowledge => archive::acknowledge(&settings, out).await,
        }
    })?
}

impl From<CatArgs> for CatOptions {
    fn from(args: CatArgs) -> Self {
        let offsets = args.from..args.to.unwrap_or(i64::MAX);
        Self { topic: args.topic, partition: args.partition, offsets, format: args.format }
    }
}
