//! Whether the ages at which time is read again fit what GitHub keeps: one that does not is of no use, in silence.

use super::super::reader::Report;
use super::super::units::show_duration;
use super::entity::Read;
use crate::audit::Lane;
use crate::pipeline::Settings;
use std::time::Duration;

/// Warns of a last look that never comes, and of ages that no lane reaches.
pub(in super::super) fn check(report: &Report, entities: &[Read], collect: &Settings) {
    for entity in entities {
        for lane in &entity.settings.lanes {
            let Some(kept) = lane.retention else { continue };
            last_look(report, entity, lane.lane, kept, collect);
        }
    }
    let lanes = || entities.iter().flat_map(|entity| &entity.settings.lanes);
    for &age in &collect.sweep_ages {
        if lanes().next().is_some() && !lanes().any(|lane| reaches(lane.retention, age)) {
            let shown = show_duration(age);
            report.warning(
                "collect.sweep_ages",
                format!("{shown:?} is of no use: GitHub keeps no lane that long"),
                "take it out, or write an age below the retention",
            );
        }
    }
}

fn reaches(kept: Option<Duration>, age: Duration) -> bool {
    kept.is_none_or(|kept| age < kept)
}

fn last_look(report: &Report, entity: &Read, lane: Lane, kept: Duration, collect: &Settings) {
    let (key, margin) = match lane {
        Lane::Web => ("collect.last_look_web", collect.last_look_web),
        Lane::Git => ("collect.last_look_git", collect.last_look_git),
        // it has none
        Lane::GraphQl => return,
    };
    if margin.is_zero() || margin.saturating_add(collect.settling) < kept {
        return;
    }
    let (name, kept, margin) = (&entity.settings.name, show_duration(kept), show_duration(margin));
    report.warning(
        key,
        format!(
            "there is no last look at lane {lane} of entity {name}: {margin:?} before its expiry \
             is not later than settling, since GitHub keeps it for {kept:?}"
        ),
        "write a shorter one, or \"0s\" for none; see that the entity's retention is right",
    );
}
