//! `--version`: ours, librdkafka's with its features, and the features that this program was built with.

use rdkafka::ClientConfig;
use std::sync::OnceLock;

/// The long form.
pub(super) fn long() -> &'static str {
    static LONG: OnceLock<String> = OnceLock::new();
    LONG.get_or_init(text)
}

fn text() -> String {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let builtin = ClientConfig::new()
        .create_native_config()
        .and_then(|config| config.get("builtin.features"))
        .unwrap_or_else(|_| "unknown".to_owned());
    let sim = if cfg!(feature = "sim") { "sim" } else { "none" };
    format!(
        "{}\nlibrdkafka: {librdkafka} ({})\nfeatures: {sim}",
        env!("CARGO_PKG_VERSION"),
        builtin.split(',').map(str::trim).collect::<Vec<_>>().join(", ")
    )
}
