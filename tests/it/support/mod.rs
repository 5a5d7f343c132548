//! What integration tests stand on: real brokers, real S3 servers, the compiled daemon. No part is imitated.
//!
//! `make test` starts one shared broker and one shared S3 server and tells the tests where they are
//! (`GHAUDITD_TEST_*`, see `scripts/test`). A test that kills its broker or its store starts its own.

pub(crate) mod daemon;
pub(crate) mod kafka;
pub(crate) mod s3;
pub(crate) mod world;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An environment variable of the test run; empty counts as unset.
#[expect(
    clippy::disallowed_methods,
    reason = "scripts/test tells the tests where the shared parts are"
)]
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// An environment variable that `make test` sets.
pub(crate) fn env_of_make_test(name: &str) -> String {
    env(name).unwrap_or_else(|| {
        panic!("{name} is not set: run `make test`, or `scripts/test --test it NAME` for one test")
    })
}

/// The full counts of `make torture`, rather than the few of `make test`.
pub(crate) fn torture() -> bool {
    env("GHAUDITD_TORTURE").is_some()
}

/// The seed of this run, printed so that a failure can be repeated with `GHAUDITD_TEST_SEED`.
pub(crate) fn seed() -> u64 {
    let seed = env("GHAUDITD_TEST_SEED")
        .map_or_else(rand::random, |seed| seed.parse().expect("GHAUDITD_TEST_SEED is a number"));
    println!("GHAUDITD_TEST_SEED={seed}");
    seed
}

/// A name that no other test of any run has: fits topics, buckets, entities (lower case, digits, hyphens, at most 40
/// characters when `name` has at most 20).
pub(crate) fn unique(name: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{:x}-{count}-{:04x}", std::process::id(), rand::random::<u16>())
}

/// Where logs of daemons, commands and own servers go. `scripts/test` searches all of it for the tokens of the tests.
pub(crate) fn logs() -> PathBuf {
    let folder = env("GHAUDITD_TEST_LOGS")
        .map_or_else(|| std::env::temp_dir().join("ghauditd-test-logs"), PathBuf::from);
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

/// A token as GitHub's look, unlike any other; `scripts/test` fails when a log holds one.
pub(crate) fn secret_token() -> String {
    format!("ghp_SECRETTESTTOKEN{:016x}", rand::random::<u64>())
}

/// A port of the loopback that nobody uses. It lies below the range for outgoing connections, which could otherwise
/// take it before its server does.
pub(crate) fn free_port() -> u16 {
    for _ in 0..200 {
        let port = rand::random_range(15_000..31_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 15000 and 31000");
}

/// Waits until `check` says yes; panics with `what` after `timeout`.
pub(crate) async fn wait_until<F>(timeout: Duration, what: &str, mut check: F)
where
    F: AsyncFnMut() -> bool,
{
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < timeout, "{what}: not within {timeout:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn script_path(name: &str) -> PathBuf {
    env("GHAUDITD_TEST_SCRIPTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"), PathBuf::from)
        .join(name)
}

/// Runs `scripts/NAME ARGS` and gives its standard output; panics with its messages when it fails.
async fn script(name: &str, args: &[&str]) -> String {
    let mut command = tokio::process::Command::new(script_path(name));
    command.args(args).stdin(Stdio::null());
    if let Some(libs) = env("GHAUDITD_TEST_KAFKA_LIBS") {
        command.env("KAFKA_LIBS", libs);
    }
    let output = command.output().await.unwrap_or_else(|error| panic!("scripts/{name}: {error}"));
    checked(&format!("scripts/{name} {}", args.join(" ")), output)
}

/// The same for a destructor, which cannot wait asynchronously; a failure is printed.
fn script_in_drop(name: &str, args: &[&str]) {
    match std::process::Command::new(script_path(name)).args(args).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        other => println!("scripts/{name} {}: {other:?}", args.join(" ")),
    }
}

fn checked(what: &str, output: Output) -> String {
    assert!(
        output.status.success(),
        "{what}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap_or_else(|_| panic!("{what}: output is not UTF-8"))
}

mod tests {
    use super::*;

    #[test]
    fn unique_names_differ_and_fit_a_bucket() {
        let (one, two) = (unique("abc"), unique("abc"));
        assert_ne!(one, two);
        assert!(one.len() <= 40, "{one}");
        assert!(
            one.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "{one}"
        );
    }

    #[tokio::test]
    #[should_panic(expected = "the moon falls: not within")]
    async fn waiting_ends() {
        wait_until(Duration::from_millis(120), "the moon falls", async || false).await;
    }
}
