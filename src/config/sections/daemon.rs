//! `[collect]`, `[state]`, `[admin]`, `[daemon]`.

use super::super::DaemonSettings;
use super::super::reader::Table;
use super::super::units::show_duration;
use super::{Surroundings, seconds};
use crate::{admin, pipeline, state};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the state is when neither the configuration nor systemd says so.
const DEFAULT_STATE_DIR: &str = "/var/lib/ghauditd";
/// Where health and metrics are served unless the operator says otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:9464";

/// Reads `[collect]`; with it: whether every entity may overlap with others.
pub(in super::super) fn collect(root: &mut Table<'_>) -> (pipeline::Settings, bool) {
    let mut table = root.table("collect");
    let mut settings = pipeline::Settings::default();
    let durations = [
        ("settling", &mut settings.settling, seconds(1)..=seconds(86_400)),
        ("poll_interval_min", &mut settings.poll_interval_min, seconds(1)..=seconds(3600)),
        ("poll_interval_max", &mut settings.poll_interval_max, seconds(1)..=seconds(3600)),
    ];
    for (key, value, range) in durations {
        *value = table.duration(key, range).unwrap_or(*value);
    }
    let days = |days: u64| Duration::from_hours(24 * days);
    let last_looks = [
        ("last_look_web", &mut settings.last_look_web),
        ("last_look_git", &mut settings.last_look_git),
    ];
    for (key, value) in last_looks {
        *value = table.duration(key, Duration::ZERO..=days(90)).unwrap_or(*value);
    }
    if let Some(ages) = table.durations("sweep_ages", seconds(1)..=days(3650)) {
        if let Some(age) = ages.iter().find(|age| **age <= settings.settling) {
            let (age, settling) = (show_duration(*age), show_duration(settings.settling));
            table.fault(
                "sweep_ages",
                format!("{age:?} is not above settling ({settling:?}), at which all is read again"),
                "write only ages above it",
            );
        }
        settings.sweep_ages = ages;
    }
    if settings.poll_interval_min > settings.poll_interval_max {
        table.fault(
            "poll_interval_min",
            "is longer than poll_interval_max",
            "make it the shorter one of the two",
        );
    }
    if let Some(pages) = table.integer("batch_pages", 1..=100) {
        settings.batch_pages_max = usize::try_from(pages).unwrap_or(settings.batch_pages_max);
    }
    if let Some(bytes) = table.bytes("batch_bytes", 1 << 20..=256 << 20) {
        settings.batch_bytes_max = bytes;
    }
    if let Some(reserve) = table.integer("budget_reserve", 0..=15_000) {
        settings.budget_reserve = u64::try_from(reserve).unwrap_or(0);
    }
    if let Some(levels) = table.durations("runway_warnings", seconds(60)..=days(3650)) {
        settings.runway_warnings = levels;
    }
    let allow_overlap = table.boolean("allow_overlap", false);
    table.finish();
    (settings, allow_overlap)
}

/// Reads `[state]`.
pub(in super::super) fn state(root: &mut Table<'_>, around: &Surroundings<'_>) -> state::Settings {
    let mut table = root.table("state");
    // systemd separates several folders by colons; ours is the first
    let from_systemd = || {
        let first = around.environment.get("STATE_DIRECTORY")?.split(':').next()?;
        Some(PathBuf::from(first))
    };
    let dir =
        table.path("dir").or_else(from_systemd).unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    let memory_bytes_max = table.bytes("memory_bytes", 1 << 20..=4 << 30).unwrap_or(24 << 20);
    table.finish();
    state::Settings { dir, memory_bytes_max }
}

/// Reads `[admin]`.
pub(in super::super) fn admin(root: &mut Table<'_>) -> admin::Settings {
    let mut table = root.table("admin");
    let text = table.text("listen").unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let remedy = "write \"127.0.0.1:PORT\", \"[::1]:PORT\" or \"off\"";
    let listen = match text.parse::<SocketAddr>() {
        _ if text == "off" => None,
        Ok(address) if address.ip().is_loopback() => Some(address),
        Ok(_) => {
            table.fault(
                "listen",
                format!("{text:?} is not on loopback, and these pages have no password"),
                remedy,
            );
            None
        }
        Err(_) => {
            table.fault("listen", format!("{text:?} is not an address with a port"), remedy);
            None
        }
    };
    table.finish();
    admin::Settings { listen }
}

/// Reads `[daemon]`.
pub(in super::super) fn daemon(root: &mut Table<'_>) -> DaemonSettings {
    let mut table = root.table("daemon");
    let grace =
        table.duration("grace", seconds(1)..=seconds(600)).unwrap_or(Duration::from_secs(20));
    table.finish();
    DaemonSettings { grace }
}
