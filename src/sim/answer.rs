//! What goes back over the wire: an answer with a body that may misbehave.

use super::rng::u64_of;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Set to have a connection reset, not closed.
pub(crate) type Kill = Arc<AtomicBool>;

/// One step of sending a body.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Send these bytes.
    Data(Bytes),
    /// Wait.
    Sleep(Duration),
    /// Break off. The connection ends.
    Break,
    /// Break off with a reset of the connection.
    Reset,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) steps: VecDeque<Step>,
    /// Wait before the headers.
    pub(crate) delay: Option<Duration>,
    /// Reset the connection in place of an answer.
    pub(crate) reset: bool,
}

impl Answer {
    /// An answer with a body.
    pub(crate) fn new(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        let mut headers = HeaderMap::with_capacity(32);
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let steps = VecDeque::from([Step::Data(body.into())]);
        Self { status, headers, steps, delay: None, reset: false }
    }

    /// A message of GitHub's, as JSON.
    pub(crate) fn message(status: StatusCode, message: &str, documentation: &str) -> Self {
        let body = format!(
            "{{\"message\":\"{message}\",\"documentation_url\":\"{documentation}\",\"status\":\"{}\"}}",
            status.as_u16()
        );
        Self::new(status, "application/json; charset=utf-8", body)
    }

    /// Sets a header. A value that HTTP does not allow is left out.
    pub(crate) fn header(&mut self, name: &'static str, value: impl AsRef<[u8]>) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_ref()) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
    }

    /// Turns into a 304 when the client has the body with the `ETag` of this answer.
    pub(crate) fn not_modified(&mut self, request: &http::request::Parts) -> bool {
        let known = request.headers.get(http::header::IF_NONE_MATCH);
        let same = known.is_some() && known == self.headers.get(http::header::ETAG);
        if same {
            self.status = StatusCode::NOT_MODIFIED;
            self.steps.clear();
        }
        same
    }

    /// For hyper.
    pub(crate) fn into_response(self, kill: Kill) -> Response<SimBody> {
        let mut response = Response::new(SimBody { steps: self.steps, sleep: None, kill });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// A body that may wait, break off, or reset its connection.
#[derive(Debug)]
pub(crate) struct SimBody {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    kill: Kill,
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.sleep = None;
            }
            match this.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Step::Sleep(time)) => this.sleep = Some(Box::pin(tokio::time::sleep(time))),
                Some(Step::Break) => {
                    return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                Some(Step::Reset) => {
                    this.kill.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.sleep.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let mut bytes = 0;
        for step in &self.steps {
            match step {
                Step::Data(data) => bytes += u64_of(data.len()),
                Step::Sleep(_) => {}
                Step::Break | Step::Reset => return SizeHint::default(),
            }
        }
        SizeHint::with_exact(bytes)
    }
}
