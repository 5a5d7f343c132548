//! `ghauditd man [DIR]`.

use super::{Exit, Output};
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;

/// Print the manual page, or write the pages of all commands into a folder
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  ghauditd man | man -l -
  ghauditd man /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Folder for the pages ghauditd.1, ghauditd-run.1, ...; without it the main page is printed
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let definition = super::definition();
    if let Some(dir) = &args.dir {
        clap_mangen::generate_to(definition, dir)
            .with_context(|| format!("cannot write the pages into {}", dir.display()))?;
        return Ok(Exit::Ok);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(definition).render(&mut page)?;
    out.bytes(&page)?;
    Ok(Exit::Ok)
}
