//! The log: human or JSON lines on stderr. librdkafka's own lines come in through the crate `log`.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line, for machines.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Not a level, nor a list of directives.
    #[error(
        "{level:?} is not a log level ({source}): write error, warn, info, debug or trace, or MODULE=LEVEL,..."
    )]
    Level {
        /// What was written.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("the log is set up already ({0})")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Libraries that say at `info` and below what only their authors read; more of them on request by a directive.
const QUIETER: [&str; 6] =
    ["rdkafka=warn", "librdkafka=warn", "hyper=warn", "h2=warn", "aws=warn", "rustls=warn"];

/// The filter for `level`: a level, or directives such as `info,ghauditd::github=debug`.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refused = |source| TelemetryError::Level { level: level.to_owned(), source };
    let own = EnvFilter::builder().parse(level).map_err(refused)?;
    // a library that the operator names keeps what the operator says
    let quieter = QUIETER.iter().filter(|directive| {
        directive.split('=').next().is_none_or(|library| !level.contains(library))
    });
    quieter.into_iter().try_fold(own, |filter, directive| {
        Ok(filter.add_directive(directive.parse().map_err(refused)?))
    })
}

/// Sets up the process's log.
///
/// # Errors
/// `level` is no level, or the process has a log already.
pub fn start(format: Format, level: &str) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Human => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    }
    .map_err(TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken() {
        for level in ["info", "error", "info,ghauditd::github=trace", "librdkafka=debug,warn"] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_remedy() {
        let error = filter("ghauditd=loud").unwrap_err().to_string();
        assert!(
            error.contains("\"ghauditd=loud\"") && error.contains("error, warn, info"),
            "{error}"
        );
    }

    #[test]
    fn a_library_named_by_the_operator_is_not_quieted() {
        assert!(filter("info").unwrap().to_string().contains("librdkafka=warn"));
        assert!(!filter("librdkafka=debug").unwrap().to_string().contains("librdkafka=warn"));
    }
}
