//! Seen ids: what looking up and storing costs for one entry, in the collector's own pattern.
//!
//! `cargo bench --bench seen`. Prints nanoseconds of CPU an entry; pages of 100 entries, batches of 10 pages.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must stop")]

use ghauditd::audit::{Bucket, EntityName, Fingerprint, SeenLane, SourceKind, Verdict};
use ghauditd::state::{Buckets, Pending, Settings};
use std::hint::black_box;
use std::path::Path;

const ENTRIES: u32 = 1_000_000;
const BATCH: usize = 1_000;
const MEMORY_BYTES_MAX: usize = 24 << 20;

fn main() {
    let fingerprints: Vec<Fingerprint> = (0..ENTRIES)
        .map(|id| Fingerprint::new(&id.to_be_bytes(), b"{}", SourceKind::Rest))
        .collect();
    for (name, hour_entries) in [("20,000 an hour", 20_000), ("all in one hour", ENTRIES)] {
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = open(dir.path());
        let at = |index: usize| {
            Bucket(500_000 + i64::try_from(index).unwrap() / i64::from(hour_entries))
        };
        let new = pass(&mut buckets, &fingerprints, at, Verdict::New);
        let known = pass(&mut buckets, &fingerprints, at, Verdict::Known);
        let memory_kib = buckets.memory_bytes() >> 10;
        let flush = timed(1, || buckets.flush().unwrap());
        drop(buckets);
        let mut reopened = None;
        let open_ns = timed(1, || reopened = Some(open(dir.path())));
        let cold = pass(reopened.as_mut().unwrap(), &fingerprints, at, Verdict::Known);
        println!("{ENTRIES} fingerprints, {name}:");
        println!("  look up and store a new one     {new:>9.0} ns an entry");
        println!("  look up a known one             {known:>9.0} ns an entry");
        println!("  the same after a restart        {cold:>9.0} ns an entry");
        println!(
            "  flush {:.1} ms, open {:.1} ms, {memory_kib} KiB in memory",
            flush / 1e6,
            open_ns / 1e6
        );
    }
    let hash = timed(ENTRIES, || {
        for id in 0..ENTRIES {
            black_box(Fingerprint::new(&id.to_be_bytes(), black_box(&[7; 700]), SourceKind::Rest));
        }
    });
    println!("fingerprint of a 700-byte entry    {hash:>9.0} ns");
}

fn open(dir: &Path) -> Buckets {
    let settings = Settings { dir: dir.to_owned(), memory_bytes_max: MEMORY_BYTES_MAX };
    Buckets::open(&settings, "bench").unwrap()
}

fn pass(
    buckets: &mut Buckets,
    fingerprints: &[Fingerprint],
    at: impl Fn(usize) -> Bucket,
    expected: Verdict,
) -> f64 {
    let entity = EntityName::try_from("acme".to_owned()).unwrap();
    let mut pending = Pending::default();
    timed(ENTRIES, || {
        for (batch, chunk) in fingerprints.chunks(BATCH).enumerate() {
            for (index, fingerprint) in (batch * BATCH..).zip(chunk) {
                let searched = [at(index), Bucket::NONE];
                let verdict =
                    buckets.verdict(&entity, SeenLane::Web, &searched, fingerprint, &pending);
                assert_eq!(verdict.unwrap(), expected);
                if expected.is_stored() {
                    pending.insert(SeenLane::Web, at(index), *fingerprint);
                }
            }
            buckets.commit(&entity, &mut pending).unwrap();
        }
    })
}

/// Nanoseconds of CPU for each of `count`: other processes on the machine do not count.
fn timed(count: u32, mut work: impl FnMut()) -> f64 {
    let start = cpu_ns();
    work();
    (cpu_ns() - start) / f64::from(count)
}

/// CPU time of this thread: the first number of its schedstat (Linux, `Documentation/scheduler/sched-stats.rst`).
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
