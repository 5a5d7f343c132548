//! Composition root: from a configuration to parts and tasks, and back to an end.

use crate::config::Config;

/// What the command line says besides the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Missing topics are created although others hold data.
    pub init: bool,
}

/// Why the daemon has ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another instance owns the state.
    #[error("another instance owns the state in Kafka: {0}")]
    Fenced(String),
    /// Topics or saved state are not as they must be.
    #[error("refused to start: {0}")]
    Refused(String),
    /// The archive stopped.
    #[error("the archive stopped: {0}")]
    ArchiveStopped(String),
    /// Anything else.
    #[error("{0}")]
    Unexpected(String),
}

/// Runs until asked to stop.
///
/// # Errors
/// The daemon ended unasked; the variant decides the exit code.
#[expect(clippy::unused_async, reason = "the signature that the parts are being joined under")]
pub async fn run(config: Config, options: RunOptions) -> Result<(), DaemonError> {
    Err(DaemonError::Unexpected(format!(
        "this build checks configurations only ({} entities, init: {})",
        config.entities.len(),
        options.init
    )))
}
