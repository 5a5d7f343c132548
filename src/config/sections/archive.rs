//! `[archive]`: where the topics are kept for good.

use super::super::reader::Table;
use super::super::units::show_duration;
use super::server::ca_file;
use super::{days, has_user, is_loopback, seconds};
use crate::archive::{LockMode, Settings, StoreSettings};
use std::time::Duration;
use url::Url;

/// Longest retention that needs no second word: a locked object cannot be taken back.
const RETENTION_CEILING: Duration = days(3653);
/// Longest retention at all: S3 Object Lock's own limit.
const RETENTION_MAX: Duration = days(36_500);

/// What only one of the stores knows.
const DIR_KEYS: [&str; 2] = ["path", "immutable"];
const S3_KEYS: [&str; 7] =
    ["bucket", "prefix", "region", "endpoint", "path_style", "ca_file", "content_md5"];

/// Reads the section; `None` when nothing is to be archived, or when the store is at fault.
pub(in super::super) fn read(root: &mut Table<'_>) -> Option<Settings> {
    let mut table = root.table("archive");
    let enabled = table.boolean("enabled", true);
    refuse_secrets(&mut table);
    let name = archive_name(&mut table);
    let store = store(&mut table, enabled);
    let lock_mode = table
        .choice(
            "lock_mode",
            &[
                ("governance", LockMode::Governance),
                ("compliance", LockMode::Compliance),
                ("none", LockMode::None),
            ],
        )
        .unwrap_or(LockMode::Governance);
    warn_without_lock(&table, lock_mode);
    let retention = retention(&mut table);
    let segment_bytes_max = table.bytes("segment_bytes", 64 << 10..=64 << 20).unwrap_or(8 << 20);
    let segment_records_max = table.integer("segment_records", 1..=10_000_000).unwrap_or(200_000);
    let segment_age_max =
        table.duration("segment_age", seconds(1)..=days(1)).unwrap_or(Duration::from_mins(15));
    let zstd_level = table.integer("zstd_level", 1..=19).unwrap_or(1);
    let buffer_bytes_max = table.bytes("buffer_bytes", 1 << 20..=4 << 30).unwrap_or(32 << 20);
    check_buffer(&table, segment_bytes_max, buffer_bytes_max);
    table.finish();
    if !enabled {
        return None;
    }
    Some(Settings {
        name,
        store: store?,
        lock_mode,
        retention,
        segment_bytes_max,
        segment_records_max,
        segment_age_max,
        zstd_level,
        buffer_bytes_max,
    })
}

fn refuse_secrets(table: &mut Table<'_>) {
    for key in ["access_key_id", "secret_access_key", "session_token"] {
        table.refuse(
            key,
            "credentials stand in the configuration",
            "use the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), \
             AWS_SHARED_CREDENTIALS_FILE or the host's role",
        );
    }
}

fn archive_name(table: &mut Table<'_>) -> String {
    let name = table.text("name").unwrap_or_else(|| "main".to_owned());
    let plain =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if name.len() > 100
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        table.fault(
            "name",
            format!("{name:?} is not a name for an archive"),
            "write 1 to 100 characters of a-z 0-9 . _ - that begin with a letter or digit",
        );
    }
    name
}

fn store(table: &mut Table<'_>, enabled: bool) -> Option<StoreSettings> {
    let has_store = table.has("store");
    let is_dir = table.choice("store", &[("dir", true), ("s3", false)]);
    let dir = dir(table);
    let s3 = s3(table);
    match is_dir {
        None if has_store || !enabled => return None,
        None => {
            table.missing(
                "store",
                "write \"s3\" or \"dir\" and where it is, or enabled = false if nothing shall be archived",
            );
            return None;
        }
        Some(_) => {}
    }
    let dir_chosen = is_dir?;
    let (chosen, foreign) = if dir_chosen { ("dir", &S3_KEYS[..]) } else { ("s3", &DIR_KEYS[..]) };
    for key in foreign.iter().filter(|key| table.has(key)) {
        table.fault(key, format!("has no meaning for store = {chosen:?}"), "take it out");
    }
    if dir_chosen {
        if dir.is_none() && !table.has("path") {
            table.missing("path", "write the folder of the archive");
        }
        return dir;
    }
    for key in ["bucket", "region"].into_iter().filter(|key| !table.has(key)) {
        let remedy = if key == "bucket" {
            "write the name of a bucket that was made with Object Lock"
        } else {
            "write the bucket's region, for servers without regions \"us-east-1\""
        };
        table.missing(key, remedy);
    }
    s3
}

fn dir(table: &mut Table<'_>) -> Option<StoreSettings> {
    let path = table.path("path");
    let immutable = table.boolean("immutable", true);
    Some(StoreSettings::Dir { path: path?, immutable })
}

fn s3(table: &mut Table<'_>) -> Option<StoreSettings> {
    let bucket = bucket(table);
    let mut prefix = table.text("prefix").unwrap_or_default();
    if prefix.starts_with('/') || prefix.contains("//") {
        table.fault(
            "prefix",
            "begins with a slash or has two in a row",
            "write it like \"github-audit/\"",
        );
    }
    if !prefix.is_empty() && !prefix.ends_with('/') {
        prefix.push('/');
    }
    let region = table.text("region");
    let endpoint = endpoint(table);
    let path_style = table.boolean("path_style", endpoint.is_some());
    let ca_file = ca_file(table, "ca_file");
    let content_md5 = table.boolean("content_md5", false);
    Some(StoreSettings::S3 {
        bucket: bucket?,
        prefix,
        region: region?,
        endpoint,
        path_style,
        ca_file,
        content_md5,
    })
}

fn bucket(table: &mut Table<'_>) -> Option<String> {
    let bucket = table.text("bucket")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (3..=255).contains(&bucket.len()) && bucket.chars().all(plain) {
        return Some(bucket);
    }
    table.fault(
        "bucket",
        format!("{bucket:?} is not the name of a bucket"),
        "write the name alone, without s3:// and slashes",
    );
    None
}

fn endpoint(table: &mut Table<'_>) -> Option<Url> {
    let text = table.text("endpoint")?;
    match Url::parse(&text) {
        Ok(url) if has_user(&url) => table.fault(
            "endpoint",
            "holds a user name or password",
            "take them out: credentials come from the environment or the host's role",
        ),
        Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && url.host().is_some()) => {
            if url.scheme() == "http" && !is_loopback(&url) {
                table.report.warning(
                    table.path_of("endpoint"),
                    "is plain http: entries travel in the clear",
                    "write https:// and, for a private authority, ca_file",
                );
            }
            return Some(url);
        }
        Ok(_) => table.fault("endpoint", "is not an http(s) URL", "write \"https://HOST:PORT\""),
        Err(error) => {
            table.fault(
                "endpoint",
                format!("is not a URL ({error})"),
                "write \"https://HOST:PORT\"",
            );
        }
    }
    None
}

fn warn_without_lock(table: &Table<'_>, lock_mode: LockMode) {
    if lock_mode == LockMode::None {
        table.report.warning(
            table.path_of("lock_mode"),
            "is \"none\": objects can be deleted and replaced, retention is only written down",
            "write \"governance\" or \"compliance\"",
        );
    }
}

fn retention(table: &mut Table<'_>) -> Duration {
    let raised = table.boolean("retention_over_ten_years", false);
    let Some(retention) = table.duration("retention", days(1)..=RETENTION_MAX) else {
        return days(1);
    };
    if retention > RETENTION_CEILING && !raised {
        table.fault(
            "retention",
            format!(
                "{} is more than ten years, and no locked object can be taken back",
                show_duration(retention)
            ),
            "write less, or retention_over_ten_years = true if it is no slip of the pen",
        );
    }
    retention
}

/// A buffer must hold at least one segment before compression, or nothing would ever be sealed by size.
fn check_buffer(table: &Table<'_>, segment_bytes: usize, buffer_bytes: usize) {
    if buffer_bytes < segment_bytes {
        table.fault(
            "buffer_bytes",
            "is less than segment_bytes, so that a segment could never grow to its size",
            "make it at least twice segment_bytes",
        );
    }
}
