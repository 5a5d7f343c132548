//! What has happened so far.

use std::collections::BTreeMap;

/// Counters of a running simulated GitHub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimStats {
    /// TCP connections accepted.
    pub connections: u64,
    /// Requests, whatever the answer.
    pub requests: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Faults that struck, by the name of their switch.
    pub faults: BTreeMap<&'static str, u64>,
    /// Pages of entries answered with 200.
    pub pages: u64,
    /// Entries in those pages, doubles counted twice.
    pub entries_served: u64,
    /// Bytes of those pages as sent, after compression.
    pub body_bytes: u64,
    /// Pages of entries answered in GraphQL, a part or with holes too.
    pub graphql_pages: u64,
    /// Entries in those pages.
    pub graphql_entries: u64,
    /// Requests over the hourly limit.
    pub over_limit: u64,
    /// Requests of Apps, as themselves, that were refused for their JWT.
    pub apps_refused: u64,
    /// Requests to audit logs by user: that of the token, else the token itself; `installation/ID` for an App's.
    pub by_user: BTreeMap<String, u64>,
    /// Requests that came to the other host, to which redirects and links lead astray.
    pub elsewhere_requests: u64,
    /// Those of them that carried an `Authorization` header. Must stay 0.
    pub elsewhere_authorized: u64,
}
