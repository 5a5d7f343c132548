//! Accepts connections and hands requests to an answerer. Speaks HTTP/1.1, and HTTP/2 where TLS agreed on it.

use super::answer::{Answer, Kill, SimBody};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Answers requests.
pub(crate) trait Answerer: Send + Sync + 'static {
    /// A connection was accepted.
    fn connected(&self) {}
    /// The answer to a request.
    fn answer(&self, request: &Parts, body: &[u8]) -> Answer;
}

/// Accepts until `stop`.
pub(crate) async fn accept<A: Answerer>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    answerer: Arc<A>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            // out of file descriptors, most likely: give connections time to end
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        answerer.connected();
        let connection = Connection {
            answerer: Arc::clone(&answerer),
            kill: Kill::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let (tls, stop) = (tls.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection.run(tcp, tls) => {}
            }
        });
    }
}

struct Connection<A> {
    answerer: Arc<A>,
    kill: Kill,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<A: Answerer> Connection<A> {
    /// Serves one connection to its end. How it ends is the client's matter.
    async fn run(self, tcp: TcpStream, tls: Option<TlsAcceptor>) {
        drop(tcp.set_nodelay(true));
        let io = ConnectionIo { tcp, kill: Arc::clone(&self.kill) };
        let Some(tls) = tls else {
            self.http1(io).await;
            return;
        };
        let Ok(io) = tls.accept(io).await else { return };
        if io.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(io).await;
        } else {
            self.http1(io).await;
        }
    }

    async fn http1(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = hyper::service::service_fn(|request| self.respond(request));
        let mut http = hyper::server::conn::http1::Builder::new();
        let served = http.auto_date_header(false).serve_connection(TokioIo::new(io), service).await;
        drop(served);
    }

    async fn http2(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let tasks = Tasks(self.tasks.clone());
        let this = Arc::new(self);
        let service = hyper::service::service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { this.respond(request).await }
        });
        let mut http = hyper::server::conn::http2::Builder::new(tasks);
        let served = http.auto_date_header(false).serve_connection(TokioIo::new(io), service).await;
        drop(served);
    }

    async fn respond(&self, request: Request<Incoming>) -> io::Result<Response<SimBody>> {
        let (request, body) = request.into_parts();
        let body = collected(body).await.ok_or(io::ErrorKind::InvalidData)?;
        let answer = self.answerer.answer(&request, &body);
        if let Some(delay) = answer.delay {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(delay) => {}
            }
        }
        if answer.reset {
            self.kill.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(answer.into_response(Arc::clone(&self.kill)))
    }
}

/// The body of a request; `None` when it breaks off or is too large for a query.
async fn collected(mut body: Incoming) -> Option<Vec<u8>> {
    const BYTES_MAX: usize = 1 << 20;
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > BYTES_MAX {
            return None;
        }
    }
    Some(bytes)
}

/// Runs the streams of HTTP/2 connections as tasks that have an end.
#[derive(Debug, Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn(future));
    }
}

/// A connection that ends with a reset once it is told so.
#[derive(Debug)]
struct ConnectionIo {
    tcp: TcpStream,
    kill: Arc<AtomicBool>,
}

impl ConnectionIo {
    fn alive(&self) -> io::Result<()> {
        let killed = self.kill.load(Ordering::Relaxed);
        if killed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Drop for ConnectionIo {
    fn drop(&mut self) {
        if self.alive().is_err() {
            drop(self.tcp.set_zero_linger());
        }
    }
}

impl AsyncRead for ConnectionIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.alive()?;
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for ConnectionIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.alive()?;
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive()?;
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive()?;
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alive()?;
        Pin::new(&mut self.tcp).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
