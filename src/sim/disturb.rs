//! Answers and bodies that are not what they should be.

use super::answer::{Answer, Step};
use super::faults::Faults;
use super::inject::{Cut, Plan, Reply};
use super::rng::{u64_of, usize_of};
use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use std::io::Write as _;
use std::time::Duration;

const DOCS: &str =
    "https://docs.github.com/enterprise-cloud@latest/rest/enterprise-admin/audit-log";

/// Most bytes of one filler header, below the limit of HTTP/2's encoder.
const FILLER_BYTES: usize = 8_000;

/// Gives an answer its body, compressed if `gzip`, cut and slowed down as planned. The bytes that are sent.
pub(crate) fn body(
    answer: &mut Answer,
    mut body: Vec<u8>,
    gzip: bool,
    plan: &Plan,
    faults: &Faults,
) -> usize {
    if plan.cut == Some(Cut::Json) {
        body.truncate(body.len() / 2);
        while body.last() == Some(&b']') {
            body.pop();
        }
    }
    if gzip {
        body = compressed(&body).unwrap_or(body);
        answer.header("content-encoding", "gzip");
    }
    let (bytes, body) = (body.len(), Bytes::from(body));
    answer.steps = match plan.cut {
        Some(cut @ (Cut::Reset | Cut::Length | Cut::Chunks)) => {
            if cut != Cut::Chunks {
                answer.header("content-length", bytes.to_string());
            }
            let last = if cut == Cut::Reset { Step::Reset } else { Step::Break };
            let half = body.slice(..bytes / 2);
            // the wait lets the first half leave before the connection ends
            vec![Step::Data(half), Step::Sleep(Duration::from_millis(15)), last]
        }
        _ if plan.drip => drops(&body, faults),
        _ => vec![Step::Data(body)],
    }
    .into();
    bytes
}

fn drops(body: &Bytes, faults: &Faults) -> Vec<Step> {
    let piece = usize_of(faults.drip_bytes).max(1);
    let pause = Step::Sleep(Duration::from_millis(faults.drip_ms));
    (0..body.len())
        .step_by(piece)
        .flat_map(|from| {
            let to = from.saturating_add(piece).min(body.len());
            [Step::Data(body.slice(from..to)), pause.clone()]
        })
        .collect()
}

/// Compressed quickly; `None` cannot happen in memory.
pub(crate) fn compressed(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// A redirect.
pub(crate) fn redirect(status: u16, location: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    let mut answer = Answer::message(status, "Moved", DOCS);
    answer.header("location", location);
    answer
}

/// The answer of a fault that needs nothing but its settings.
pub(crate) fn reply(reply: Reply, slug: &str, faults: &Faults) -> Answer {
    match reply {
        Reply::ServerError(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            Answer::new(status, "text/html", "<html><body><h1>Unicorn!</h1></body></html>")
        }
        Reply::Html => Answer::new(
            StatusCode::OK,
            "text/html; charset=utf-8",
            "<!DOCTYPE html><html><head><title>Sign in</title></head><body>[proxy]</body></html>",
        ),
        Reply::Object => {
            Answer::message(StatusCode::OK, "Something went wrong, but not with the status.", DOCS)
        }
        Reply::Unauthorized => Answer::message(StatusCode::UNAUTHORIZED, "Bad credentials", DOCS),
        Reply::NotFound => Answer::message(StatusCode::NOT_FOUND, "Not Found", DOCS),
        Reply::Forbidden => {
            Answer::message(StatusCode::FORBIDDEN, "Must have admin rights to Repository.", DOCS)
        }
        Reply::Sso => {
            let mut answer = Answer::message(
                StatusCode::FORBIDDEN,
                "Resource protected by organization SAML enforcement. You must grant your Personal Access token access to this organization.",
                "https://docs.github.com/articles/authenticating-to-a-github-organization-with-saml-single-sign-on/",
            );
            let url = format!("https://github.com/orgs/{slug}/sso?authorization_request=A1B2C3");
            answer.header("x-github-sso", format!("required; url={url}"));
            answer
        }
        Reply::Bomb => bomb(faults.bomb_bytes),
        Reply::HugeHeaders => huge_headers(faults.huge_header_bytes),
        Reply::Reset => {
            let mut answer = Answer::new(StatusCode::OK, "application/json", Bytes::new());
            answer.reset = true;
            answer
        }
        _ => Answer::message(StatusCode::INTERNAL_SERVER_ERROR, "not a reply", DOCS),
    }
}

/// `[`, then spaces: one gzip stream whose pieces of 1 MiB are the same few bytes, as each piece begins anew.
fn bomb(bytes: u64) -> Answer {
    const PIECE: usize = 1 << 20;
    let mut answer = Answer::new(StatusCode::OK, "application/json; charset=utf-8", Bytes::new());
    answer.header("content-encoding", "gzip");
    let pieces = (bytes / u64_of(PIECE)).max(1);
    let (open, spaces) = (deflated(b"["), deflated(&vec![b' '; PIECE]));
    let (mut crc, mut piece) = (Crc::new(), Crc::new());
    crc.update(b"[");
    piece.update(&vec![b' '; PIECE]);
    (0..pieces).for_each(|_| crc.combine(&piece));
    let mut end = vec![0x01, 0x00, 0x00, 0xff, 0xff];
    end.extend_from_slice(&crc.sum().to_le_bytes());
    end.extend_from_slice(&crc.amount().to_le_bytes());
    let header = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    let filler = std::iter::repeat_n(Step::Data(spaces), usize_of(pieces));
    let begin = [Step::Data(header), Step::Data(open)];
    answer.steps = begin.into_iter().chain(filler).chain([Step::Data(end.into())]).collect();
    answer
}

/// A piece of a deflate stream that refers to nothing before it.
fn deflated(bytes: &[u8]) -> Bytes {
    let mut deflate = Compress::new(Compression::fast(), false);
    let mut out = Vec::with_capacity(1 << 16);
    // a megabyte of spaces is some kilobytes: the buffer holds it
    drop(deflate.compress_vec(bytes, &mut out, FlushCompress::Full));
    out.into()
}

fn huge_headers(bytes: u64) -> Answer {
    let mut answer = Answer::new(StatusCode::OK, "application/json; charset=utf-8", "[]");
    let filler = HeaderValue::from_bytes(&[b'x'; FILLER_BYTES]);
    for number in 0..=usize_of(bytes) / FILLER_BYTES {
        let name = HeaderName::try_from(format!("x-filler-{number}"));
        if let (Ok(name), Ok(filler)) = (name, &filler) {
            answer.headers.insert(name, filler.clone());
        }
    }
    answer
}
