//! What cutting a page and reading its facts costs for one entry, beside `serde_json` cutting the same page into raw
//! slices without reading anything.
//!
//! `cargo bench --bench page`. Prints the best of many rounds in nanoseconds an entry: pages of 100 entries, about 700
//! bytes each.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must stop")]

use bytes::Bytes;
use ghauditd::github::page;
use serde_json::value::RawValue;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

const ENTRIES: u32 = 100;
const ROUNDS: usize = 400;

fn main() {
    let body = page();
    let (mut ours, mut raw) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        ours = ours.min(ns(|| page::cut(black_box(&body)).unwrap().len()));
        raw = raw
            .min(ns(|| serde_json::from_slice::<Vec<&RawValue>>(black_box(&body)).unwrap().len()));
    }
    println!("{} bytes an entry", body.len() / usize::try_from(ENTRIES).unwrap());
    println!("  cut and read the facts          {ours:>6.0} ns an entry");
    println!("  serde_json: cut only            {raw:>6.0} ns an entry");
}

/// Nanoseconds an entry of one round.
fn ns(mut cut: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    let entries: usize = (0..20).map(|_| cut()).sum();
    start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(entries).unwrap())
}

/// A page of unlike entries, so that nothing is learnt by heart.
fn page() -> Bytes {
    let mut page = String::from("[");
    for i in 0..ENTRIES {
        let own = match i % 4 {
            0 => {
                r#""head_branch":"main","head_sha":"da39a3ee5e6b4b0d3255bfef95601890afd80709","workflow_run_id":998877,"#
            }
            1 => r#""transport_protocol_name":"ssh","repository_public":false,"#,
            2 => "",
            _ => r#""token_scopes":"read:org,repo,workflow","user_id":22,"#,
        };
        let comma = if i == 0 { "" } else { "," };
        let org = i % 7;
        write!(
            page,
            r#"{comma}{{"@timestamp":16069298745{i:02},"_document_id":"xJJFlFOhQ6b-5vaAFy9R{i:02}","action":"protected_branch.policy_override","active":true,{own}"actor":"octocat-{i}","actor_id":123{i},"actor_ip":"10.20.30.40","actor_is_bot":false,"actor_location":{{"country_code":"DE"}},"business":"octo-corp","business_id":4711,"created_at":16069298745{i:02},"external_identity_nameid":"octocat@example.com","hashed_token":"QmFzZTY0RW5jb2RlZFNIQTI1Ng==","operation_type":"modify","org":"octo-org-{org}","org_id":8812,"programmatic_access_type":"OAuth access token","repo":"octo-org/repository-{i}","repo_id":9912{i},"request_id":"A1B2:C3D4:E5F6:0789","token_id":99887766,"user":"hubot","visibility":"private"}}"#
        )
        .unwrap();
    }
    page.push(']');
    Bytes::from(page)
}
