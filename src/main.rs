//! Arguments -> command -> exit code.

use ghauditd::cli::{self, Output};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &mut Output::of_process()).into()
}
