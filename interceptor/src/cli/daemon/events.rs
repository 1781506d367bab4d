//! Server-sent events: the audit stream of a sandbox as it happens.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{self, Address, ApiError, ApiRequest};

/// The largest event accepted, in bytes.
const LONGEST: usize = 4 << 20;
/// Characters that a path segment or query value need not escape.
const LITERAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Event {
    /// `record`, `dropped` or `end`; empty if unnamed.
    pub(in crate::cli) name: String,
    /// The event's data.
    pub(in crate::cli) data: String,
}

/// Percent-encodes a path segment or query value.
pub(in crate::cli) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, LITERAL).to_string()
}

/// The path of a sandbox's audit stream.
pub(in crate::cli) fn path(sandbox: &str, query: &[(&str, String)]) -> String {
    let mut path = format!("/v1/sandboxes/{}/audit", encoded(sandbox));
    for (number, (name, value)) in query.iter().enumerate() {
        path.push(if number == 0 { '?' } else { '&' });
        path.push_str(&format!("{name}={}", encoded(value)));
    }
    path
}

/// A stream of events.
#[derive(Debug)]
pub(in crate::cli) struct Events {
    body: Incoming,
    parser: EventParser,
    ready: VecDeque<Event>,
    path: PathBuf,
}

/// Begins to follow what is at a path.
///
/// # Errors
/// If the daemon cannot be reached, or refuses.
pub(in crate::cli) async fn begin(socket: &Address, path: &str) -> Result<Events, ApiError> {
    let body = client::begin(socket, ApiRequest::get(path)).await?.into_body();
    let (parser, ready) = (EventParser::default(), VecDeque::new());
    Ok(Events { body, parser, ready, path: socket.path.clone() })
}

impl Events {
    /// The next event; within, `None` for a sign of life without one. `None` at the end.
    ///
    /// # Errors
    /// If the stream breaks off.
    pub(in crate::cli) async fn next(&mut self) -> Result<Option<Option<Event>>, ApiError> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(Some(Some(event)));
        }
        let Some(frame) = self.body.frame().await else { return Ok(None) };
        let frame = frame.map_err(|error| ApiError::Malformed {
            path: self.path.clone(),
            what: format!("the stream broke off: {error}"),
        })?;
        if let Some(data) = frame.data_ref() {
            self.ready.extend(self.parser.add(data));
        }
        Ok(Some(self.ready.pop_front()))
    }
}

/// Calls `each` with every event until the stream ends, the time is up or the user interrupts.
pub(in crate::cli) fn follow(
    socket: &Address,
    path: &str,
    limit: Option<Duration>,
    mut each: impl FnMut(Event) -> io::Result<()>,
) -> Result<(), ApiError> {
    super::block_on(async {
        let mut events = tokio::select! {
            begun = begin(socket, path) => begun?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
        let up = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(up);
        loop {
            let next = tokio::select! {
                next = events.next() => next?,
                () = &mut up => return Ok(()),
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = reader_left() => return Ok(()),
            };
            match next {
                None => return Ok(()),
                Some(event) => event.map_or(Ok(()), &mut each)?,
            }
        }
    })
}

/// Completes when the reader of standard output is gone.
async fn reader_left() {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let out = io::stdout();
        let mut descriptors =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&out), nix::poll::PollFlags::empty())];
        if nix::poll::poll(&mut descriptors, nix::poll::PollTimeout::ZERO)
            .is_ok_and(|ready| ready > 0)
        {
            return;
        }
    }
}

/// Assembles events from a byte stream.
#[derive(Debug, Default)]
struct EventParser {
    line: Vec<u8>,
    name: String,
    data: String,
    /// Set while skipping an oversized line or event.
    too_long: bool,
}

impl EventParser {
    /// The events that these bytes complete.
    fn add(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut complete = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.line.len() < LONGEST {
                    self.line.push(byte);
                } else {
                    self.too_long = true;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                if !std::mem::take(&mut self.too_long) && !data.is_empty() {
                    complete.push(Event { name, data });
                }
            } else if let Some(value) = line.strip_prefix(b"event:") {
                self.name = String::from_utf8_lossy(value.trim_ascii()).into_owned();
            } else if let Some(value) = line.strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                if self.data.len() + value.len() > LONGEST {
                    self.too_long = true;
                } else {
                    if !self.data.is_empty() {
                        self.data.push('\n');
                    }
                    self.data.push_str(&String::from_utf8_lossy(value));
                }
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let text = ": a comment\n\nevent: record\nid: 1\ndata: {\"a\":1}\n\ndata:{\"b\":\r\ndata: \
                    2}\r\n\r\n: ping\n\ndata: cut";
        for size in 1..text.len() {
            let mut events = EventParser::default();
            let found: Vec<Event> =
                text.as_bytes().chunks(size).flat_map(|piece| events.add(piece)).collect();
            assert_eq!(found, [event("record", "{\"a\":1}"), event("", "{\"b\":\n2}")]);
        }
        let mut events = EventParser::default();
        let long = format!("data: {}\n\ndata: x\n\n", "y".repeat(LONGEST));
        assert_eq!(events.add(long.as_bytes()), [event("", "x")]);
    }

    #[test]
    fn what_is_put_into_a_path_stays_one_segment() {
        assert_eq!(
            path("a/../b?c", &[("host", "x&y=z".into()), ("decision", "deny".into())]),
            "/v1/sandboxes/a%2F..%2Fb%3Fc/audit?host=x%26y%3Dz&decision=deny"
        );
    }
}
