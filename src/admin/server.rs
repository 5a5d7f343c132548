//! The pages: `/livez`, `/readyz`, `/metrics`, `/status`. Loopback only, read-only, no state of its own.

use super::Health;
use crate::health::Trouble;
use crate::metrics::Metrics;
use crate::status::{self, Board, Page};
use crate::time::{rfc3339_ms, wall_ms};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The format that Prometheus is told: `OpenMetrics` text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// One JSON object a line.
const REASONS_TYPE: &str = "application/x-ndjson";

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is not on loopback: these pages have no password.
    #[error("admin.listen {0} is not on loopback: write 127.0.0.1:PORT")]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error(
        "cannot listen on {address} for health and metrics ({source}): choose another admin.listen, or \"off\""
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("health and metrics cannot be served any longer ({0})")]
    Serve(std::io::Error),
}

#[derive(Clone)]
struct Pages {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    board: Arc<Board>,
    started_ms: i64,
}

/// Takes the address, so that a fault shows before the daemon says that it is ready.
///
/// # Errors
/// The address is not on loopback, or taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    if !address.ip().is_loopback() {
        return Err(ServerError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })
}

/// Serves the pages until `stop` is cancelled.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    board: Arc<Board>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .route("/status", get(status))
        .with_state(Pages { metrics, health, board, started_ms: wall_ms() });
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(ServerError::Serve)
}

/// 200 while every loop makes progress; else 503 and the loops that do not.
async fn livez(State(pages): State<Pages>) -> Response {
    answer(&pages.health.stalled())
}

/// 200 when nothing is starting or degraded; else 503 and the reasons.
async fn readyz(State(pages): State<Pages>) -> Response {
    answer(&pages.health.reasons())
}

async fn page(State(pages): State<Pages>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], pages.metrics.render()).into_response()
}

/// How everything stands: [`Page`].
async fn status(State(pages): State<Pages>) -> Response {
    let (entities, archive) = pages.board.read();
    let shown = |it: Trouble| status::Trouble {
        part: it.part,
        reason: it.reason,
        since: rfc3339_ms(it.since_ms),
        until: it.until_ms.map(rfc3339_ms),
    };
    let (trouble, earlier) =
        pages.health.troubles().into_iter().map(shown).partition(|it| it.until.is_none());
    let page = Page {
        version: status::VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: rfc3339_ms(pages.started_ms),
        now: rfc3339_ms(wall_ms()),
        ready: pages.health.ready(),
        trouble,
        earlier,
        entities,
        archive,
    };
    // plain values: cannot fail
    let text = serde_json::to_string(&page).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn answer<T: serde::Serialize>(problems: &[T]) -> Response {
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    let mut lines = String::new();
    for problem in problems {
        // texts and numbers: cannot fail
        lines.push_str(&serde_json::to_string(problem).unwrap_or_default());
        lines.push('\n');
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, REASONS_TYPE)], lines).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_follow_the_health() {
        let health = Arc::new(Health::new());
        let stop = CancellationToken::new();
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served =
            serve(listener, Arc::default(), Arc::clone(&health), Arc::default(), stop.clone());
        let asked = async {
            assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
            health.set_degraded("archive", "1 gap is not acknowledged");
            let answer = ask(address, "/readyz").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            let line =
                r#"{"part":"archive","state":"degraded","reason":"1 gap is not acknowledged"}"#;
            assert!(answer.contains(line), "{answer}");

            assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
            health.named_wait("collector", "nothing", Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(5)).await;
            let answer = ask(address, "/livez").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains(r#""name":"collector""#), "{answer}");

            let answer = ask(address, "/metrics").await;
            assert!(answer.contains("ghauditd_build_info{"), "{answer}");
            assert!(answer.ends_with("# EOF\n"), "{answer}");
            let answer = ask(address, "/status").await;
            let page: Page =
                serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            assert_eq!((page.ready, page.trouble.len()), (false, 1), "{page:?}");
            assert_eq!(page.trouble[0].part, "archive");
            assert!(ask(address, "/elsewhere").await.starts_with("HTTP/1.1 404"));
            stop.cancel();
        };
        let (served, ()) = tokio::join!(served, asked);
        served.unwrap();
    }

    #[tokio::test]
    async fn only_loopback_is_listened_on() {
        let refused = bind("0.0.0.0:0".parse().unwrap()).await;
        assert!(matches!(refused, Err(ServerError::NotLoopback(_))));
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("admin.listen"), "{error}");
    }
}
