//! The scheduler: what one decision costs with 1, 100 and 1,000 entities, with one credential for all and with one for each.
//!
//! `cargo bench --bench schedule`. Prints microseconds of CPU a decision: a collector posts what it wants and is answered.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must stop")]

use ghauditd::audit::{EntityKind, EntityName, Lane};
use ghauditd::github::CredentialId;
use ghauditd::github::rate_limit::Budget;
use ghauditd::pipeline::allot::{Demand, Item, Rank, State};
use ghauditd::pipeline::arbiter::{Arbiter, Seat};
use ghauditd::pipeline::budget::{Now, Told};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const NOW_S: i64 = 1_790_000_000;
/// Slices with a deadline of each entity, besides two tails and two sweeps.
const SLICES: u64 = 14;

fn main() {
    for entities in [1, 100, 1_000] {
        for shared in [true, false] {
            let seats = seats(entities, shared);
            let rounds = 20_000 / entities.max(20);
            let begun = Instant::now();
            let mut decisions = 0_u32;
            for round in 0..rounds {
                for (number, seat) in seats.iter().enumerate() {
                    let now = Now { s: NOW_S, mono_ms: i64::try_from(round).unwrap() };
                    let turn = seat.ask(demand(number), now);
                    for (_, ticket) in black_box(turn.granted) {
                        let told = Budget { limit: 1750, remaining: 1000, reset_s: NOW_S + 1800 };
                        black_box(ticket.answered(Told::Budget(told), now));
                    }
                    decisions += 1;
                }
            }
            let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(decisions);
            let whose = if shared { "one credential for all" } else { "a credential each" };
            println!("{entities:>5} entities, {whose:<22} {micros:>9.1} us a decision");
        }
    }
}

fn seats(entities: usize, shared: bool) -> Vec<Seat> {
    let arbiter = Arc::new(Arbiter::new(0));
    let seat = |number: usize| {
        let name = EntityName::try_from(format!("org-{number}")).unwrap();
        let credential = if shared { "all".to_owned() } else { format!("of-{number}") };
        let seat = arbiter.seat(&name, EntityKind::Organization, &[CredentialId::new(&credential)]);
        drop(seat.ask(demand(number), Now { s: NOW_S, mono_ms: 0 }));
        seat
    };
    (0..entities).map(seat).collect()
}

fn demand(number: usize) -> Demand {
    let from_s = i64::try_from(number).unwrap() * 37;
    let item = |slice, rank, state| Item { lane: Lane::Web, slice, rank, from_s, state };
    let poll = |due_ms| Rank::Tail { due_ms, interval_ms: 60_000, pages: 1, walking: false };
    let mut items = vec![
        item(0, poll(60_000), State::Ready),
        item(1, poll(i64::try_from(number % 7).unwrap()), State::Ready),
        item(2, Rank::Leisure(600), State::Ready),
        item(3, Rank::Leisure(86_400), State::Ready),
    ];
    for slice in 0..SLICES {
        let deadline_s = NOW_S + from_s + i64::try_from(slice).unwrap() * 86_400;
        // only as many as there are credentials are looked at: see `schedule::wants`
        let why = ghauditd::pipeline::allot::Why::OwnTurn;
        let state = if slice == 0 { State::Ready } else { State::Waits(why) };
        items.push(item(4 + slice, Rank::Deadline(deadline_s), state));
    }
    Demand { items, last_was_tail: false, request_ms: 400 }
}
