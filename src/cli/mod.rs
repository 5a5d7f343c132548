//! The command line: one file per command, one writer, documented exit codes.

pub mod archive;
mod archive_args;
mod check;
mod checkpoint;
mod completions;
mod connect;
mod control;
#[cfg(feature = "sim")]
mod demo;
mod exit;
mod fit;
mod man;
mod offsets;
mod output;
mod run;
#[cfg(feature = "sim")]
mod sim;
mod status;
mod version;

pub use exit::Exit;
pub use output::{Closed, Output, OutputError};

use crate::config::{Environment, Faults, Loaded, load};
use crate::telemetry;
use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;

const LONG_ABOUT: &str = "\
Reads the audit log of GitHub enterprises and organizations before GitHub deletes it, puts every entry into Kafka \
exactly once, and moves the topics into write-once storage.

It runs as a daemon (`ghauditd run`, best under systemd). All else looks at what it does. It knows one \
configuration file in TOML; each key in it can be overridden by a variable GHAUDITD__SECTION__KEY.";

const EXAMPLES: &str = "\
Examples:
  ghauditd --config ./ghauditd.toml check            all faults of a configuration at once
  ghauditd --config ./ghauditd.toml check --connect  and try the token, the topics and the store
  ghauditd run                                       collect until SIGTERM
  GHAUDITD__KAFKA__BROKERS=kafka:9092 ghauditd run   with one key overridden";

/// GitHub's audit log to Kafka, exactly once, and on to write-once storage
#[derive(Debug, Parser)]
#[command(name = "ghauditd", version, long_about = LONG_ABOUT, max_term_width = 100)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "GHAUDITD_CONFIG")]
    #[arg(default_value = "/etc/ghauditd/ghauditd.toml", help_heading = "Global options")]
    pub config: PathBuf,
    /// How the log on stderr looks
    #[arg(long, global = true, value_enum, value_name = "FORMAT", env = "GHAUDITD_LOG_FORMAT")]
    #[arg(default_value = "human", help_heading = "Global options")]
    pub log_format: telemetry::Format,
    /// How much the log says: error, warn, info, debug, trace, or MODULE=LEVEL,...
    #[arg(long, global = true, value_name = "LEVEL", env = "GHAUDITD_LOG")]
    #[arg(default_value = "info", help_heading = "Global options")]
    pub log_level: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Status(status::StatusArgs),
    Checkpoint(checkpoint::CheckpointArgs),
    Offsets(offsets::OffsetsArgs),
    Archive(archive_args::ArchiveArgs),
    #[cfg(feature = "sim")]
    Sim(Box<crate::sim::cli::SimArgs>),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    #[cfg(feature = "sim")]
    Demo(demo::DemoArgs),
}

/// The command line's definition, for help, completions and man pages.
fn definition() -> clap::Command {
    Cli::command()
        .long_version(version::long())
        .after_long_help(format!("{EXAMPLES}\n\n{}", Exit::help()))
}

/// Parses the arguments and runs the command.
pub fn main(arguments: impl IntoIterator<Item = OsString>, out: &mut Output) -> Exit {
    let parsed = definition()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let ended = match parsed {
        Ok(cli) => dispatch(cli, out),
        Err(error) => explain(&error, out),
    };
    let ended = ended.and_then(|exit| out.flush().map(|()| exit).map_err(anyhow::Error::from));
    ended.unwrap_or_else(|error| {
        if matches!(error.downcast_ref(), Some(OutputError::Closed(_))) {
            return Exit::Ok;
        }
        out.complain(format!("{error:#}"));
        Exit::Unexpected
    })
}

fn dispatch(cli: Cli, out: &mut Output) -> anyhow::Result<Exit> {
    if let Err(error) = telemetry::start(cli.global.log_format, &cli.global.log_level) {
        out.complain(format!("--log-level: {error}"));
        return Ok(Exit::Usage);
    }
    match cli.command {
        Command::Run(args) => run::run(&args, &cli.global),
        Command::Check(args) => check::run(&args, &cli.global, out),
        Command::Status(args) => status::run(&args, &cli.global, out),
        Command::Checkpoint(args) => checkpoint::run(&args, &cli.global, out),
        Command::Offsets(args) => offsets::run(&args, &cli.global, out),
        Command::Archive(args) => archive_args::run(args, &cli.global, out),
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::run(*args),
        Command::Completions(args) => completions::run(&args, out),
        Command::Man(args) => man::run(&args, out),
        #[cfg(feature = "sim")]
        Command::Demo(args) => demo::run(&args, out),
    }
}

/// Help and version are answers; all else that clap says is a complaint.
fn explain(error: &clap::Error, out: &mut Output) -> anyhow::Result<Exit> {
    let text = error.render().to_string();
    if error.use_stderr() {
        out.complain(text.trim_end().trim_start_matches("error: "));
        return Ok(Exit::Usage);
    }
    out.bytes(text.as_bytes())?;
    Ok(Exit::Ok)
}

/// The configuration of the command line, with this process's environment.
fn load_config(global: &Global) -> Result<Loaded, Faults> {
    load(&global.config, &Environment::of_process())
}

/// The configuration for a command that is not `check`: complains about all faults at once.
fn config_or_complaints(global: &Global, out: &mut Output) -> Option<Loaded> {
    match load_config(global) {
        Ok(loaded) => Some(loaded),
        Err(Faults(faults)) => {
            let config = global.config.display();
            out.complain(format!("{config} has {}", check::counted(faults.len())));
            for fault in faults {
                out.complain(fault);
            }
            None
        }
    }
}

/// Runs a command's asynchronous part.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ghauditd")
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    // a blocked librdkafka call must not hold up the end: it owns nothing that is not in Kafka
    runtime.shutdown_background();
    Ok(done)
}
