//! How the S3 client is made: TLS, credentials, time-outs, and no retries of its own.

use crate::archive::store::StoreError;
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::tls;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use url::{Host, Url};

/// Clocks may differ by so much: the server's decides what is past.
const SKEW_MS_MAX: i64 = 60_000;

/// Which bucket, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bucket name.
    pub bucket: String,
    /// Key prefix; empty or ending in `/`.
    pub prefix: String,
    /// Region.
    pub region: String,
    /// Endpoint other than AWS. Plain http only on loopback.
    pub endpoint: Option<Url>,
    /// Whether the bucket stands in the path instead of the host name.
    pub path_style: bool,
    /// PEM file with certificate authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `Content-MD5` is sent too (old Ceph verifies that, and ignores SHA-256).
    pub content_md5: bool,
}

pub(super) async fn client(options: &Options) -> Result<aws_sdk_s3::Client, StoreError> {
    let refused = |message: String| StoreError::Refused { message };
    if let Some(endpoint) = &options.endpoint
        && endpoint.scheme() != "https"
        && !is_loopback(endpoint)
    {
        return Err(refused(format!(
            "archive.endpoint {endpoint} is plain http and not on this host: entries would travel in the clear; \
             use https, with archive.ca_file for a private authority"
        )));
    }
    let mut trust = tls::TrustStore::default();
    if let Some(path) = &options.ca_file {
        let pem = std::fs::read(path)
            .map_err(|error| refused(format!("archive.ca_file {}: {error}", path.display())))?;
        trust = trust.with_pem_certificate(pem);
    }
    let context = tls::TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| refused(format!("TLS for the store: {error}")))?;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .tls_context(context)
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(30))
        .operation_attempt_timeout(Duration::from_mins(2))
        .build();
    let shared = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new(options.region.clone()))
        .timeout_config(timeouts)
        // A put whose outcome is unknown must be looked up, not repeated.
        .retry_config(RetryConfig::disabled())
        .load()
        .await;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(options.path_style)
        // We compute and compare SHA-256 ourselves; another checksum beside it would only cost.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(ClockWatch::default());
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint.as_str());
    }
    Ok(aws_sdk_s3::Client::from_conf(config.build()))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Compares the server's clock with ours: retain-until dates come from ours, and the server's decides what is past.
#[derive(Debug, Default)]
struct ClockWatch {
    warned: AtomicBool,
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for ClockWatch {
    fn name(&self) -> &'static str {
        "ClockWatch"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
            return Ok(());
        };
        let since = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let server_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let skew_ms = crate::time::wall_ms().saturating_sub(server_ms);
        if skew_ms.abs() > SKEW_MS_MAX {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    skew_seconds = skew_ms / 1000,
                    "the store's clock differs from ours: locks end earlier or later than meant; set the clocks right"
                );
            }
        } else {
            self.warned.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_each_form() {
        for (text, expected) in [
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000", true),
            ("http://localhost:9000", true),
            ("http://localhost.example:9000", false),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(text).unwrap()), expected, "{text}");
        }
    }
}
