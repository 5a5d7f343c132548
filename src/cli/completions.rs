//! `ghauditd completions SHELL`.

use super::{Exit, Output};
use clap::Args;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  ghauditd completions bash > /etc/bash_completion.d/ghauditd")]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::definition(), "ghauditd", &mut script);
    out.bytes(&script)?;
    Ok(Exit::Ok)
}
