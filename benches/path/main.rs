//! The whole path: simulated GitHub over TLS, the daemon as it is shipped, Kafka. Beside it raw librdkafka, which
//! produces the records that the daemon has produced, with their headers and keys, under the same settings, in
//! transactions of the same size. Ratios within one run; GitHub, daemon and raw producer are processes of their own.
//!
//! `scripts/bench --bench path [-- WHAT...]`, WHAT being `cpu`, `memory`, `live`; all without. Needs a broker.
//! `GHAUDITD_BENCH_RECORDS` (default 1,000,000) is the backlog of `memory`; the rows of `cpu` take a fifth of it each,
//! `GHAUDITD_BENCH_ROUNDS` (default 3) times, and the least CPU counts.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must stop")]
#![expect(clippy::disallowed_methods, reason = "a bench is told by its environment what to do")]

mod installation;
mod raw;
#[path = "../support.rs"]
mod support;

use installation::{Cost, GitHub, Installation, Plan};
use support::{number, variable};

const PAGES: [u32; 3] = [1, 10, 50];
const COMPRESSIONS: [&str; 3] = ["none", "lz4", "zstd"];
/// How close the entries of `cpu` lie: seen ids are filed by hour. That many make 9 million in 180 days.
const ENTRIES_AN_HOUR: u32 = 2_000;

fn main() {
    // `cargo test --benches` and the like: nothing to measure against.
    let Some(brokers) = variable("GHAUDITD_TEST_BROKERS") else {
        println!("not run: GHAUDITD_TEST_BROKERS is not set, use scripts/bench");
        return;
    };
    match variable("GHAUDITD_BENCH_PHASE").as_deref() {
        Some("github") => return installation::serve(),
        Some("raw") => return raw::run(&brokers),
        _ => {}
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|it| it == what);
    let records = number("GHAUDITD_BENCH_RECORDS", 1_000_000);
    if wants("cpu") {
        cpu(&brokers, records / 5);
    }
    if wants("memory") {
        memory(&brokers, records);
    }
    if wants("live") {
        live(&brokers);
    }
}

/// The least of several measurements: what other processes on the machine add, they add to the others.
fn least(costs: Vec<Cost>) -> Cost {
    costs.into_iter().min_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us)).unwrap()
}

fn cpu(brokers: &str, records: u32) {
    let rounds = number("GHAUDITD_BENCH_ROUNDS", 3);
    let hours = (records / ENTRIES_AN_HOUR).max(1);
    let github = GitHub::start(records, Some(hours * 3_600), 0.0);
    println!(
        "{records} entries, {ENTRIES_AN_HOUR} of each hour, from the first page to the last commit; us of process CPU an entry, the best of {rounds} rounds"
    );
    println!(
        "pages  codec |  raw |  identity more entries/s RSS MiB commit ms |   gzip  more entries/s RSS MiB"
    );
    for compression in COMPRESSIONS {
        for pages in PAGES {
            let (mut raw, mut identity, mut gzip) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let plan = Plan { pages, compression, ..Plan::default() };
                let installation = Installation::new(brokers, &github, plan);
                identity.push(installation.collect(records));
                raw.push(raw::measure(&installation, records));
                installation.remove_topics();
                let plan = Plan { gzip: true, ..plan };
                let installation = Installation::new(brokers, &github, plan);
                gzip.push(installation.collect(records));
                installation.remove_topics();
            }
            let (raw, identity, gzip) = (least(raw), least(identity), least(gzip));
            println!(
                "{pages:>5} {compression:>6} | {:>4.1} | {:>9.1} {:>4.1} {:>9.0} {:>7} {:>9.1} | {:>6.1} {:>5.1} {:>9.0} {:>7}",
                raw.cpu_us,
                identity.cpu_us,
                identity.cpu_us - raw.cpu_us,
                identity.entries_per_second,
                identity.rss_mib,
                identity.commit_ms,
                gzip.cpu_us,
                gzip.cpu_us - raw.cpu_us,
                gzip.entries_per_second,
                gzip.rss_mib,
            );
        }
    }
}

/// The daemon with its defaults and a `dir` archive, until the whole backlog is committed and archived.
fn memory(brokers: &str, records: u32) {
    for (name, span_s) in [("over 162 days", None), ("in one hour", Some(3_600))] {
        let github = GitHub::start(records, span_s, 0.0);
        let plan = Plan { gzip: true, archive: true, ..Plan::default() };
        let installation = Installation::new(brokers, &github, plan);
        let cost = installation.collect(records);
        println!(
            "backlog of {records} entries of {:.0} bytes {name}, collected and archived with the defaults: \
             peak RSS {} MiB, {:.0} entries/s, {:.1} us CPU an entry",
            cost.entry_bytes, cost.rss_mib, cost.entries_per_second, cost.cpu_us
        );
        installation.remove_topics();
    }
}

/// Live traffic, polled every second: each poll ends with a page of its own transaction.
fn live(brokers: &str) {
    let github = GitHub::start(100, None, 50.0);
    let plan = Plan { pages: 1, poll: "1s", ..Plan::default() };
    let installation = Installation::new(brokers, &github, plan);
    println!("{}", installation.live(60));
    installation.remove_topics();
}
