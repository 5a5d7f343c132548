//! Where sources, Kafka, seen ids and the archive meet. Loops: [`collector`], [`archiver`], [`replay`]. Pure: [`schedule`],
//! [`allot`], [`budget`], [`plan`].

pub mod allot;
pub mod answer;
pub mod arbiter;
pub mod archiver;
pub mod budget;
pub mod buffer;
pub mod collector;
pub mod cost;
pub mod optional;
pub mod partition;
pub mod pause;
pub mod plan;
pub mod rebuild;
pub mod reconcile;
pub mod record;
pub mod replay;
pub mod requests;
pub mod runway;
pub mod schedule;
pub mod seen;
pub mod status;

use crate::audit::lane::LaneRules;
use crate::audit::{Lane, SweepAges};
use std::time::Duration;

/// How entries are collected. From `[collect]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Age at which nothing late is expected any more.
    pub settling: Duration,
    /// Ages, besides settling, at which collected time is read again.
    pub sweep_ages: Vec<Duration>,
    /// How long before its expiry the `web` lane's time is read for the last time; zero: never.
    pub last_look_web: Duration,
    /// The same for the `git` lane.
    pub last_look_git: Duration,
    /// Shortest time between two polls of a tail.
    pub poll_interval_min: Duration,
    /// Longest time between two polls of a tail.
    pub poll_interval_max: Duration,
    /// Most pages in one transaction.
    pub batch_pages_max: usize,
    /// Most bytes of pages in one transaction, and as many fetched ahead.
    pub batch_bytes_max: usize,
    /// Requests of each hour's limit that are left to others.
    pub budget_reserve: u64,
    /// Runways below which the operator is told.
    pub runway_warnings: Vec<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settling: Duration::from_mins(10),
            sweep_ages: vec![Duration::from_hours(24)],
            last_look_web: Duration::from_hours(24),
            last_look_git: Duration::from_hours(12),
            poll_interval_min: Duration::from_secs(15),
            poll_interval_max: Duration::from_mins(1),
            batch_pages_max: 10,
            batch_bytes_max: 8 << 20,
            budget_reserve: 0,
            runway_warnings: [72, 24, 6].map(Duration::from_hours).to_vec(),
        }
    }
}

impl Settings {
    /// The rules of a lane that GitHub keeps for `retention` (`None`: unlimited).
    pub fn rules(&self, lane: Lane, retention: Option<Duration>) -> LaneRules {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let (settling_s, retention_s) = (seconds(self.settling), retention.map(seconds));
        let further: &[Duration] = if lane == Lane::GraphQl { &[] } else { &self.sweep_ages };
        let further_s: Vec<i64> = further.iter().copied().map(seconds).collect();
        let last_look = match lane {
            Lane::Web => self.last_look_web,
            Lane::Git => self.last_look_git,
            // what it shows late, the sweeps of the web lane find: one sweep makes its frontier
            Lane::GraphQl => Duration::ZERO,
        };
        let margin_s = (!last_look.is_zero()).then(|| seconds(last_look));
        let sweeps = SweepAges::new(settling_s, &further_s, retention_s, margin_s);
        LaneRules { readers: 1, lane, retention_s, settling_s, sweeps }
    }
}
