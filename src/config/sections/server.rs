//! `[server.NAME]`: GitHub servers.

use super::super::reader::Table;
use super::{has_user, is_loopback, read_small_file, seconds};
use crate::github::ServerSettings;
use crate::github::client::check_base_url;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Name of the server that needs no table.
const DEFAULT_SERVER: &str = "github";
/// REST base of the server that needs no table.
const DEFAULT_BASE_URL: &str = "https://api.github.com/";
/// The version that every supported server knows (GHES 3.17 and later, GHEC).
const DEFAULT_API_VERSION: &str = "2022-11-28";

/// Reads all servers. The default server is always there. One that is at fault is `None`: it is named, and unusable.
pub(in super::super) fn read(root: &mut Table<'_>) -> BTreeMap<String, Option<ServerSettings>> {
    let mut servers = BTreeMap::new();
    for (name, mut table) in root.named("server") {
        let settings = read_one(&name, &mut table);
        table.finish();
        servers.insert(name, settings);
    }
    servers.entry(DEFAULT_SERVER.to_owned()).or_insert_with(default_server);
    servers
}

fn default_server() -> Option<ServerSettings> {
    Some(with_defaults(DEFAULT_SERVER, Url::parse(DEFAULT_BASE_URL).ok()?))
}

fn with_defaults(name: &str, base_url: Url) -> ServerSettings {
    ServerSettings {
        name: name.to_owned(),
        base_url,
        api_version: DEFAULT_API_VERSION.to_owned(),
        ca_file: None,
        proxy: None,
        gzip: true,
        connect_timeout: Duration::from_secs(10),
        first_byte_timeout: Duration::from_secs(30),
        between_bytes_timeout: Duration::from_secs(15),
        request_timeout: Duration::from_mins(2),
        header_bytes_max: 64 << 10,
        body_bytes_max: 32 << 20,
    }
}

fn read_one(name: &str, table: &mut Table<'_>) -> Option<ServerSettings> {
    let base_url = base_url(name, table);
    let fallback = Url::parse(DEFAULT_BASE_URL).ok()?;
    let mut settings = with_defaults(name, base_url.clone().unwrap_or(fallback));
    if let Some(version) = table.text("api_version") {
        check_api_version(table, &version);
        settings.api_version = version;
    }
    settings.ca_file = ca_file(table, "ca_file");
    settings.proxy = proxy(table);
    settings.gzip = table.boolean("gzip", settings.gzip);
    let timeouts = [
        ("connect_timeout", &mut settings.connect_timeout),
        ("first_byte_timeout", &mut settings.first_byte_timeout),
        ("between_bytes_timeout", &mut settings.between_bytes_timeout),
        ("request_timeout", &mut settings.request_timeout),
    ];
    for (key, timeout) in timeouts {
        *timeout = table.duration(key, seconds(1)..=seconds(3600)).unwrap_or(*timeout);
    }
    if settings.first_byte_timeout > settings.request_timeout {
        table.fault(
            "request_timeout",
            "is shorter than first_byte_timeout",
            "make it longer: it holds for the whole request",
        );
    }
    if let Some(bytes) = table.bytes("header_bytes_max", 4 << 10..=1 << 20) {
        settings.header_bytes_max = bytes;
    }
    if let Some(bytes) = table.bytes("body_bytes_max", 1 << 20..=256 << 20) {
        settings.body_bytes_max = bytes;
    }
    base_url.map(|_| settings)
}

/// The server that a table names, `github` where it names none.
pub(super) fn chosen(
    table: &mut Table<'_>,
    servers: &BTreeMap<String, Option<ServerSettings>>,
) -> Option<String> {
    let name = table.text("server").unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    if servers.contains_key(&name) {
        return Some(name);
    }
    let known: Vec<_> = servers.keys().cloned().collect();
    table.fault(
        "server",
        format!("there is no server {name:?}"),
        format!("add [server.{name}] with its base_url, or write one of: {}", known.join(", ")),
    );
    None
}

fn base_url(name: &str, table: &mut Table<'_>) -> Option<Url> {
    let Some(text) = table.text("base_url") else {
        if name == DEFAULT_SERVER {
            return Url::parse(DEFAULT_BASE_URL).ok();
        }
        table.missing("base_url", "write the REST base, for GHES \"https://HOST/api/v3/\"");
        return None;
    };
    match Url::parse(&text) {
        Ok(mut url) => {
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            match check_url(&url) {
                Ok(()) => {
                    warn_about_path(table, &url);
                    return Some(url);
                }
                Err((problem, remedy)) => table.fault("base_url", problem, remedy),
            }
        }
        Err(error) => table.fault(
            "base_url",
            format!("is not a URL ({error})"),
            "write it in full, for example \"https://api.github.com/\"",
        ),
    }
    None
}

/// What a base URL must be for a token to be sent to it, and for the API to be there.
fn check_url(url: &Url) -> Result<(), (String, String)> {
    let fault = |problem: &str, remedy: &str| Err((problem.to_owned(), remedy.to_owned()));
    if let Err(words) = check_base_url(url) {
        let (problem, remedy) = words.split_once(": ").unwrap_or((&words, "write https://HOST/"));
        return fault(problem, remedy);
    }
    let host = url.host_str().unwrap_or_default();
    if matches!(host, "github.com" | "www.github.com") {
        return fault("is the web site, not the REST API", "write \"https://api.github.com/\"");
    }
    if host.ends_with(".ghe.com") && !host.starts_with("api.") {
        let remedy = "write \"https://api.SUBDOMAIN.ghe.com/\"";
        return fault("is the web site, not the REST API", remedy);
    }
    Ok(())
}

fn warn_about_path(table: &Table<'_>, url: &Url) {
    let is_api = url.host_str().is_some_and(|host| host.starts_with("api."));
    if !is_api && !is_loopback(url) && url.path() != "/api/v3/" {
        table.report.warning(
            table.path_of("base_url"),
            "does not end in /api/v3/, where a GitHub Enterprise Server has its REST API",
            "write \"https://HOST/api/v3/\" unless a gateway moves it",
        );
    }
}

fn check_api_version(table: &Table<'_>, version: &str) {
    if version.parse::<jiff::civil::Date>().is_err() || version.len() != 10 {
        table.fault(
            "api_version",
            format!("{version:?} is not a date, as GitHub's API versions are"),
            format!("write \"{DEFAULT_API_VERSION}\" or take the key out"),
        );
    }
}

/// A file of certificates in PEM form.
pub(super) fn ca_file(table: &mut Table<'_>, key: &'static str) -> Option<PathBuf> {
    let path = table.path(key)?;
    match read_small_file(&path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => return Some(path),
        Ok(_) => table.fault(
            key,
            format!("{} holds no certificate in PEM form", path.display()),
            "convert it: openssl x509 -inform der -in FILE -out FILE.pem",
        ),
        Err(problem) => table.fault(key, problem, "check the path and the file's permissions"),
    }
    None
}

fn proxy(table: &mut Table<'_>) -> Option<Url> {
    let text = table.text("proxy")?;
    match Url::parse(&text) {
        Ok(url) if has_user(&url) => table.fault(
            "proxy",
            "holds a user name or password, and this file is no place for a secret",
            "use a proxy that knows this host by its address",
        ),
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host().is_none() => {
            table.fault("proxy", "is not the URL of an HTTP proxy", "write \"http://HOST:PORT\"");
        }
        Ok(url) => return Some(url),
        Err(error) => {
            table.fault("proxy", format!("is not a URL ({error})"), "write \"http://HOST:PORT\"");
        }
    }
    None
}
