//! Watches an upgraded connection, after a 101, for real keys.
//!
//! Nothing can be replaced inside foreign framing without breaking it, so a key ends the connection
//! before its last byte passes. In a WebSocket the messages are known (`websocket`). In any other
//! protocol only the bytes are: bytes that could continue as a key wait for more, but at most for
//! the caller's pause, and then pass like the end of a message.

use std::sync::Arc;

use bytes::Bytes;

use super::scan::{Scanner, Scrub};
use super::seam::Seam;
use super::websocket::Frames;
use super::{LateKey, Redactor};

/// Why an upgraded connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A real key was in the stream.
    #[error("the origin sent a real key through an upgraded connection")]
    Key,
    /// The origin violated the WebSocket protocol.
    #[error("a frame of the origin's WebSocket {0}")]
    Broken(&'static str),
    /// Part of a new key may have passed.
    #[error(transparent)]
    Late(#[from] LateKey),
}

/// The origin-to-sandbox direction of an upgraded connection.
#[derive(Debug)]
pub struct StreamGuard(Guarding);

#[derive(Debug)]
enum Guarding {
    WebSocket(Box<Frames>),
    Unknown { scrub: Scrub, seam: Seam },
}

impl StreamGuard {
    pub(super) fn web_socket(scanner: &Arc<Scanner>) -> StreamGuard {
        StreamGuard(Guarding::WebSocket(Box::new(Frames::new(scanner))))
    }

    pub(super) fn unknown(scanner: &Arc<Scanner>) -> StreamGuard {
        let (scrub, seam) = (Scrub::new(Arc::clone(scanner)), Seam::new(Arc::clone(scanner)));
        StreamGuard(Guarding::Unknown { scrub, seam })
    }

    /// Searches for these keys from here on.
    ///
    /// # Errors
    /// Nothing further may be passed on.
    pub fn renew(&mut self, redactor: &Redactor) -> Result<(), Ended> {
        let scanner = redactor.scanner();
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.renew(scanner)?,
            Guarding::Unknown { scrub, seam } => {
                scrub.renew(scanner)?;
                seam.renew(scanner)?;
            }
        }
        Ok(())
    }

    /// Takes bytes from the origin and returns those that may pass now.
    ///
    /// # Errors
    /// Nothing further may pass except what [`StreamGuard::passed`] returns.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, Ended> {
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.push(chunk),
            Guarding::Unknown { scrub, seam } => {
                if seam.completes(&chunk) {
                    return Err(Ended::Key);
                }
                let passed = scrub.push(chunk);
                checked(scrub, passed)
            }
        }
    }

    /// The origin ended its direction: returns the held bytes.
    ///
    /// # Errors
    /// Nothing further may be passed on.
    pub fn finish(&mut self) -> Result<Bytes, Ended> {
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.finish(),
            Guarding::Unknown { scrub, .. } => {
                let passed = scrub.finish();
                checked(scrub, passed)
            }
        }
    }

    /// The bytes before those that ended the connection, which may still pass.
    pub fn passed(&mut self) -> Bytes {
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.passed(),
            Guarding::Unknown { .. } => Bytes::new(),
        }
    }

    /// Whether bytes are held that [`StreamGuard::pause`] would return.
    pub fn waits(&self) -> bool {
        matches!(&self.0, Guarding::Unknown { scrub, .. } if scrub.owed() > 0)
    }

    /// Nothing has arrived for a while: returns the held bytes.
    ///
    /// # Errors
    /// Nothing further may be passed on.
    pub fn pause(&mut self) -> Result<Bytes, Ended> {
        match &mut self.0 {
            Guarding::WebSocket(_) => Ok(Bytes::new()),
            Guarding::Unknown { scrub, seam } => {
                let passed = scrub.boundary();
                seam.end();
                checked(scrub, passed)
            }
        }
    }
}

fn checked(scrub: &Scrub, passed: Bytes) -> Result<Bytes, Ended> {
    if scrub.matches() == 0 { Ok(passed) } else { Err(Ended::Key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"sk-real0123456789abcdefgh";

    fn guard() -> StreamGuard {
        let keys = [(KEY, &b"sk-proxy-managed-01234567"[..])];
        StreamGuard::unknown(&Arc::new(Scanner::new(keys.into_iter())))
    }

    #[test]
    fn bytes_that_could_continue_as_a_key_wait_for_a_pause_in_another_protocol() {
        let mut guard = guard();
        for text in [&b"sk-re"[..], &KEY[..KEY.len() - 1]] {
            assert_eq!(&guard.push(Bytes::from_static(b". ")).unwrap()[..], b". ");
            assert!(!guard.waits());
            let passed = guard.push(Bytes::copy_from_slice(text)).unwrap();
            assert!(guard.waits());
            assert_eq!([passed, guard.pause().unwrap()].concat(), text);
            assert!(!guard.waits());
        }
    }

    #[test]
    fn a_key_ends_the_stream_before_its_last_byte_even_across_a_pause() {
        for pause in [false, true] {
            for at in 1..KEY.len() {
                let mut guard = guard();
                guard.push(Bytes::copy_from_slice(&KEY[..at])).unwrap();
                if pause {
                    guard.pause().unwrap();
                }
                let rest = guard.push(Bytes::copy_from_slice(&KEY[at..]));
                let ended = rest.and_then(|_| guard.finish()).unwrap_err();
                assert!(
                    ended == Ended::Key && !ended.to_string().contains("real01"),
                    "{at} {pause}"
                );
            }
        }
    }
}
