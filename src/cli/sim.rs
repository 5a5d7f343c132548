//! `ghauditd sim`: the simulated GitHub, alone.

use super::Exit;
use crate::sim::cli::{self, SimArgs};

pub(super) fn run(args: SimArgs) -> anyhow::Result<Exit> {
    super::block_on(cli::run(args))??;
    Ok(Exit::Ok)
}
