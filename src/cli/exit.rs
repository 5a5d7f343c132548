//! Exit codes: part of the interface, documented in `docs/exit-codes.md` and in `--help`.

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; a daemon: stopped as asked.
    Ok,
    /// Something unforeseen.
    Unexpected,
    /// The command line is wrong.
    Usage,
    /// The configuration has faults.
    Config,
    /// `check --connect` found something that does not work.
    Connect,
    /// Another instance owns the state in Kafka, or the state folder.
    Fenced,
    /// The state in Kafka, or a topic, is not as it must be.
    Refused,
    /// `archive`: the store refuses, or does not keep its contract.
    Archive,
    /// What was asked for does not exist.
    NotFound,
    /// A comparison (demo) found entries lost, doubled or changed.
    Mismatch,
    /// The daemon refused what a command asked for, or nobody answered.
    Declined,
}

impl Exit {
    /// All codes.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Unexpected,
        Self::Usage,
        Self::Config,
        Self::Connect,
        Self::Fenced,
        Self::Refused,
        Self::Archive,
        Self::NotFound,
        Self::Mismatch,
        Self::Declined,
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Connect => 4,
            Self::Fenced => 5,
            Self::Refused => 6,
            Self::Archive => 7,
            Self::NotFound => 8,
            Self::Mismatch => 9,
            Self::Declined => 10,
        }
    }

    /// What it means, as `--help` says it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done; a daemon: stopped as asked",
            Self::Unexpected => "something unforeseen: the message says what",
            Self::Usage => "the command line is wrong",
            Self::Config => "the configuration has faults: `ghauditd check` shows all of them",
            Self::Connect => "check --connect: something does not work",
            Self::Fenced => "another instance owns the state in Kafka, or the state folder",
            Self::Refused => "refused to start: topics or saved state are not as they must be",
            Self::Archive => {
                "the archive's store cannot be used: it refuses, or does not keep its contract"
            }
            Self::NotFound => "what was asked for does not exist",
            Self::Mismatch => "a comparison found entries lost, doubled or changed",
            Self::Declined => {
                "what was asked for was refused by the daemon, or nobody answered: nothing was changed"
            }
        }
    }

    /// The part of `--help` about exit codes.
    pub(super) fn help() -> String {
        let lines = Self::ALL.map(|exit| format!("  {}  {}", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_document() {
        let document = include_str!("../../docs/exit-codes.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(document.contains(&row), "docs/exit-codes.md has no row {row:?}");
        }
    }

    #[test]
    fn codes_are_their_own() {
        let codes: std::collections::BTreeSet<_> = Exit::ALL.map(Exit::code).into();
        assert_eq!(codes.len(), Exit::ALL.len());
    }
}
