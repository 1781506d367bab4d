//! The HTTP/1.1 filter: hyper and an independent reader based on httparse see the same requests in
//! its output, and the output is the same however the input is cut.

#[path = "../src/http/linger.rs"]
mod linger;
#[allow(dead_code, reason = "the target uses a part")]
#[path = "../src/http/strict/mod.rs"]
mod strict;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::pieces::{self, Stream};
use strict::{Ceilings, Strict, Upgrade};

const HEADERS: usize = 100;
const CEILINGS: Ceilings =
    Ceilings { head_bytes: 1024, headers: HEADERS, time: Duration::from_secs(3600) };

/// The parts of a request on which both readers must agree.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    whole: bool,
}

/// The output, whether a message was refused, and whether reading failed.
#[derive(Debug, PartialEq)]
struct Filtered {
    passed: Vec<u8>,
    refused: bool,
    failed: bool,
}

/// Checks one input.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let Some((lengths, text)) = pieces::read(data) else { return };
    let runtime = pieces::runtime();
    let whole = runtime.block_on(filter(text, &[usize::MAX]));
    let cut = runtime.block_on(filter(text, &lengths));
    assert_eq!(whole, cut);
    assert_eq!(whole, runtime.block_on(filter(text, &[1])));
    let mut passed = &whole.passed[..];
    if whole.refused {
        let stand_in = [strict::REFUSED_METHOD.as_bytes(), b" / HTTP/1.1\r\n"].concat();
        let at = memchr::memmem::rfind(passed, &stand_in).expect("a refusal is reported");
        passed = &passed[..at];
    }
    let own = requests(passed);
    let hyper = runtime.block_on(served(passed));
    assert!(hyper.len() <= own.len(), "{hyper:#?}\n{own:#?}");
    assert_eq!(hyper[..], own[..hyper.len()]);
    if hyper.len() < own.len() {
        let last = hyper.last().expect("hyper takes the first request that passes");
        let closes = own[hyper.len() - 1].fields.iter().any(|(name, value)| {
            name == "connection" && String::from_utf8_lossy(value).to_lowercase().contains("close")
        });
        assert!(closes || last.target.starts_with("1.0 "), "hyper stops behind {last:?}");
    }
}

/// Reads everything the filter lets through. Declines every upgrade.
async fn filter(text: &[u8], lengths: &[usize]) -> Filtered {
    let stream = Stream::new(pieces::cut(text, lengths));
    let (mut strict, notes) = Strict::new(stream, BytesMut::new(), || CEILINGS);
    let mut passed = Vec::new();
    let mut failed = false;
    loop {
        let mut room = [0; 512];
        let mut out = ReadBuf::new(&mut room);
        let result = poll_fn(|context| {
            Poll::Ready(match Pin::new(&mut strict).poll_read(context, &mut out) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            })
        });
        match result.await {
            None => notes.upgrade(Upgrade::Declined),
            Some(Ok(())) if out.filled().is_empty() => break,
            Some(Ok(())) => passed.extend_from_slice(out.filled()),
            Some(Err(_)) => {
                failed = true;
                break;
            }
        }
    }
    Filtered { passed, refused: notes.refused().is_some(), failed }
}

/// The requests in the output, by httparse and RFC 9112 section 6.
fn requests(mut rest: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        // An empty line may stand before a request line.
        let text = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let mut fields = [httparse::EMPTY_HEADER; HEADERS];
        let mut head = httparse::Request::new(&mut fields);
        let length = match head.parse(text) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => {
                assert!(text.is_empty(), "a part of a head came through: {}", text.escape_ascii());
                return all;
            }
            Err(error) => panic!("{error}: {}", text.escape_ascii()),
        };
        let minor = head.version.unwrap_or_default();
        let target = head.path.unwrap_or_default();
        // An absolute URL without a path has the path `/`.
        let target = target.parse().map_or(target.to_owned(), |uri: http::Uri| uri.to_string());
        let mut seen = Seen {
            method: head.method.unwrap_or_default().to_owned(),
            target: format!("1.{minor} {target}"),
            ..Seen::default()
        };
        seen.fields = head
            .headers
            .iter()
            .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
            .collect();
        seen.fields.sort();
        rest = body(&mut seen, &text[length..]);
        let whole = seen.whole;
        all.push(seen);
        if !whole {
            return all;
        }
    }
}

/// Reads the body of a request. Returns the bytes after it.
fn body<'a>(seen: &mut Seen, rest: &'a [u8]) -> &'a [u8] {
    let field = |wanted: &str| {
        let mut values = seen.fields.iter().filter(|(name, _)| name == wanted);
        let value = values.next().map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        assert!(values.next().is_none(), "two of {wanted}");
        value
    };
    match (field("content-length"), field("transfer-encoding")) {
        (Some(_), Some(_)) => panic!("both came through"),
        (None, None) => seen.whole = true,
        (Some(length), None) => {
            let length: u64 = length.parse().expect("a length");
            let there = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            seen.body = rest[..there].to_vec();
            seen.whole = there as u64 == length;
            return &rest[there..];
        }
        (None, Some(coding)) => {
            assert!(coding.eq_ignore_ascii_case("chunked"), "{coding}");
            return chunks(seen, rest);
        }
    }
    rest
}

fn chunks<'a>(seen: &mut Seen, mut rest: &'a [u8]) -> &'a [u8] {
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(rest) else {
            return rest;
        };
        rest = &rest[line..];
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; HEADERS];
            if let Ok(httparse::Status::Complete((length, _))) =
                httparse::parse_headers(rest, &mut fields)
            {
                seen.whole = true;
                rest = &rest[length..];
            }
            return rest;
        }
        let there = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        seen.body.extend_from_slice(&rest[..there]);
        rest = &rest[there..];
        let Some(behind) = rest.strip_prefix(b"\r\n") else { return rest };
        rest = behind;
    }
}

/// The requests that hyper reads from it.
async fn served(text: &[u8]) -> Vec<Seen> {
    let all: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let kept = all.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let kept = kept.clone();
        async move {
            let (parts, mut body) = request.into_parts();
            let number = kept.borrow().len();
            let minor = u8::from(parts.version == http::Version::HTTP_11);
            kept.borrow_mut().push(Seen {
                method: parts.method.to_string(),
                target: format!("1.{minor} {}", parts.uri),
                fields: fields(&parts.headers),
                ..Seen::default()
            });
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let data = frame.into_data().unwrap_or_default();
                        kept.borrow_mut()[number].body.extend_from_slice(&data);
                    }
                    Some(Err(_)) => break,
                    None => {
                        kept.borrow_mut()[number].whole = true;
                        break;
                    }
                }
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::FORBIDDEN;
            Ok::<_, Infallible>(response)
        }
    });
    let stream = TokioIo::new(Stream::new(vec![text]));
    let connection = http1::Builder::new()
        .half_close(true)
        .timer(TokioTimer::new())
        .serve_connection(stream, service);
    let _ = connection.await;
    std::mem::take(&mut *all.borrow_mut())
}

fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.sort();
    fields
}
