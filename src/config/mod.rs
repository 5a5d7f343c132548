//! What the operator says: loaded from a TOML file and `GHAUDITD__SECTION__KEY`, checked all at once.

mod environment;
mod fault;
pub mod load;
mod reader;
mod sections;
pub mod units;

pub use environment::Environment;
pub use fault::{Fault, Faults};
pub use load::{Loaded, load};

use crate::{admin, archive, github, kafka, pipeline, state};
use std::collections::BTreeMap;
use std::time::Duration;

/// A configuration without faults.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server.NAME]`.
    pub servers: BTreeMap<String, github::ServerSettings>,
    /// `[[entity]]`.
    pub entities: Vec<github::EntitySettings>,
    /// `[collect]`.
    pub collect: pipeline::Settings,
    /// `[kafka]`.
    pub kafka: kafka::settings::Settings,
    /// `[archive]`; `None`: nothing is archived (`archive.enabled = false`).
    pub archive: Option<archive::Settings>,
    /// `[state]`.
    pub state: state::Settings,
    /// `[admin]`.
    pub admin: admin::Settings,
    /// `[daemon]`.
    pub daemon: DaemonSettings,
}

/// From `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// How long a stop may take.
    pub grace: Duration,
}
