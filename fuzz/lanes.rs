//! The rules of collecting, beside a GitHub that is a list: whatever comes, whatever is killed, aborted or lost, and
//! whatever the clock does, each entry is committed exactly once, or expired and is named in a gap.
//!
//! Real: schedule, buffer, plan, lane rules, intervals, filing, clock, checkpoints. Played: HTTP, Kafka, time.

mod collector;
mod server;

use crate::decisions::Decisions;
use collector::Collector;
use ghauditd::audit::lane::LaneRules;
use ghauditd::audit::{Lane, SweepAges};
use server::Server;

const DAY_S: i64 = 86_400;

/// Turns that a healthy world may need until everything is collected.
const TURNS_MAX: usize = 4_000;

#[test]
fn lanes_beside_a_list() {
    bolero::check!()
        .with_max_len(400_usize)
        .for_each(|bytes: &[u8]| run(&mut Decisions::new(bytes)));
}

fn run(decisions: &mut Decisions<'_>) {
    let lane = Lane::ALL[decisions.below(2)];
    let retention_s = [None, Some(DAY_S), Some(3 * DAY_S), Some(40 * DAY_S)][decisions.below(4)];
    let settling_s = [60, 600, 3_600][decisions.below(3)];
    let sweeps = match decisions.below(3) {
        0 => SweepAges::default(),
        1 => SweepAges::new(settling_s, &[], retention_s, None),
        _ => SweepAges::new(settling_s, &[3 * settling_s], retention_s, Some(6 * 3_600)),
    };
    let readers = [1, 2, 5][decisions.below(3)];
    let rules = LaneRules { readers, lane, retention_s, settling_s, sweeps };
    let mut server = Server::new(decisions, retention_s);
    let mut collector = Collector::new(decisions, rules.clone());
    while !decisions.is_empty() {
        match decisions.byte() {
            0..=119 => collector.turn(&mut server, decisions),
            120..=159 => {
                let seconds = i64::from(decisions.byte() % 60);
                pass(&mut server, &mut collector, seconds, decisions);
            }
            160..=183 => {
                let seconds = 60 * i64::from(decisions.byte());
                pass(&mut server, &mut collector, seconds, decisions);
            }
            184..=191 => {
                let seconds = DAY_S * i64::from(decisions.byte() % 8) / 2;
                pass(&mut server, &mut collector, seconds, decisions);
            }
            192..=199 => {
                // a host that slept: its monotonic clock stood still
                server.pass(60 * i64::from(decisions.byte()), decisions);
            }
            200..=215 => collector.killed(),
            216..=223 => server.forget_cursors(),
            224..=239 => server.burst(decisions),
            _ => {
                for _ in 0..8 {
                    collector.turn(&mut server, decisions);
                }
            }
        }
    }
    // from here on nothing goes wrong any more
    for turn in 0..TURNS_MAX {
        if collector.is_done() && server.uncollected(&collector, &rules).is_empty() {
            return collector.check_once();
        }
        collector.healthy_turn(&mut server);
        if turn % 16 == 0 {
            pass(&mut server, &mut collector, 20, decisions);
        }
        if turn % 500 == 499 {
            pass(&mut server, &mut collector, settling_s, decisions);
        }
    }
    panic!(
        "not collected: {:?}\n{:#?}\n{:?}",
        server.uncollected(&collector, &rules),
        collector.state(),
        server
    );
}

fn pass(
    server: &mut Server,
    collector: &mut Collector,
    seconds: i64,
    decisions: &mut Decisions<'_>,
) {
    server.pass(seconds, decisions);
    collector.pass(seconds);
}
