//! The simulated GitHub (feature `sim`): for the demo, the tests and the benches.
//!
//! It speaks GitHub's REST audit log over HTTP: parameters, `Link` forms, cursors, `created:` in whole seconds, the
//! three-month default, retention, rate limits and headers. [`Faults`] has a switch for each thing that GitHub, or
//! something that poses as it, may do. It also answers an organization's audit log in GraphQL.
//!
//! # How the log is made
//!
//! Nothing is stored. Entry `i` of a lane, its time, its id and its bytes are pure functions of the seed, the
//! entity's slug, the lane and `i` (`timeline`, `body`). A query is answered by binary search over the indexes.
//! So a log of a million entries costs no memory, two runs with the same seed and the same start of the clock have the same log, and
//! [`Sim::journal`] can tell afterwards everything that was ever visible.
//!
//! Reading order: `config`, `faults`, `access`, `timeline`, `log`, `service`, `listener`.

mod access;
mod answer;
mod apps;
mod body;
mod catalogue;
pub mod cli;
mod clock;
mod config;
mod cursor;
mod disturb;
mod faults;
mod graphql;
mod inject;
mod journal;
mod limits;
mod listener;
mod log;
mod node;
mod page;
mod phrase;
mod premade;
mod query;
mod rng;
mod server;
mod service;
mod shape;
mod state;
mod stats;
mod timeline;
mod tls;

pub use config::{SimApp, SimClock, SimConfig, SimEntity, SimInstallation, SimToken, Traffic};
pub use faults::{FaultError, Faults};
pub use journal::JournalEntry;
pub use server::{Sim, serve_forever};
pub use stats::SimStats;
