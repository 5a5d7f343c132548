//! Health and metrics over HTTP, on loopback, read-only.

pub mod server;

pub use crate::health::Health;

use std::net::SocketAddr;

/// From `[admin]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens; `None`: not at all. Loopback only.
    pub listen: Option<SocketAddr>,
}
