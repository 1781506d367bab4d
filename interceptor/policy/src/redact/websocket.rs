//! Watches the frames of a WebSocket (RFC 6455), origin to sandbox, for real keys.
//!
//! The unit of search is the message: the payload of all its frames, and each control frame by
//! itself. Nothing waits at the end of a message. A key cannot be replaced in a message, whose
//! content may have any form: it ends the connection before the frame that completes it passes,
//! even if the end of a message lies within the key.
//!
//! A message in one frame stays in that frame. A message in several is cut into new frames, which a
//! proxy may do without an extension (section 5.4): bytes that may pass go in frames of their own,
//! and the last frame carries the held bytes. So bytes held inside a message never delay a control
//! frame, and each frame states its true length at once. While keys are searched for, no extension
//! is negotiated, so a frame with reserved bits is invalid.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::LateKey;
use super::guard::Ended;
use super::scan::{Scanner, Scrub};
use super::seam::Seam;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const LONGEST_CONTROL: usize = 125;
/// The longest header of a frame without a mask.
const LONGEST_HEADER: usize = 10;

/// The frames of one direction.
#[derive(Debug)]
pub(crate) struct Frames {
    scanner: Arc<Scanner>,
    scrub: Scrub,
    seam: Seam,
    /// The same for control frames, which may come between the frames of a message.
    controls: Seam,
    at: Pending,
    /// The message in progress.
    message: Option<Message>,
    out: BytesMut,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    opcode: u8,
    /// A frame of it has passed, so the next is a continuation.
    begun: bool,
}

#[derive(Debug)]
enum Pending {
    /// The header, as far as it has arrived.
    Header([u8; LONGEST_HEADER], usize),
    /// This many payload bytes of a message's last frame are still to come; its header has passed.
    Last(u64),
    /// This many payload bytes of a frame other than the last are still to come.
    Part(u64),
    /// A control frame's payload, as far as it has arrived.
    Control { opcode: u8, length: usize, payload: BytesMut },
}

/// A parsed header.
struct Header {
    last: bool,
    opcode: u8,
    length: u64,
}

impl Frames {
    pub(crate) fn new(scanner: &Arc<Scanner>) -> Frames {
        Frames {
            scanner: Arc::clone(scanner),
            scrub: Scrub::new(Arc::clone(scanner)),
            seam: Seam::new(Arc::clone(scanner)),
            controls: Seam::new(Arc::clone(scanner)),
            at: Pending::Header([0; LONGEST_HEADER], 0),
            message: None,
            out: BytesMut::new(),
        }
    }

    /// Searches with another scanner from here on.
    pub(crate) fn renew(&mut self, scanner: &Arc<Scanner>) -> Result<(), LateKey> {
        self.scrub.renew(scanner)?;
        self.seam.renew(scanner)?;
        self.controls.renew(scanner)?;
        self.scanner = Arc::clone(scanner);
        Ok(())
    }

    /// Takes bytes from the origin and returns those that may pass now.
    pub(crate) fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, Ended> {
        while !chunk.is_empty() {
            match &mut self.at {
                Pending::Header(bytes, there) => {
                    bytes[*there] = chunk.split_to(1)[0];
                    *there += 1;
                    if let Some(header) = header(&bytes[..*there])? {
                        self.begin(header)?;
                    }
                }
                Pending::Last(left) => {
                    let part = take(&mut chunk, left);
                    let over = *left == 0;
                    self.payload(part, over)?;
                }
                Pending::Part(left) => {
                    let part = take(&mut chunk, left);
                    let over = *left == 0;
                    let passed = self.searched(part)?;
                    self.fragment(&passed);
                    if over {
                        self.at = Pending::Header([0; LONGEST_HEADER], 0);
                    }
                }
                Pending::Control { length, payload, .. } => {
                    let missing = length.saturating_sub(payload.len()).min(chunk.len());
                    payload.extend_from_slice(&chunk.split_to(missing));
                    if payload.len() == *length {
                        self.control()?;
                    }
                }
            }
        }
        Ok(self.out.split().freeze())
    }

    /// The bytes before the error, which may still pass.
    pub(crate) fn passed(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// The origin ended its direction, possibly within a frame.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Ended> {
        let held = self.scrub.finish();
        if self.scrub.matches() > 0 {
            return Err(Ended::Key);
        }
        match self.at {
            Pending::Last(_) => self.out.extend_from_slice(&held),
            _ => self.fragment(&held),
        }
        Ok(self.out.split().freeze())
    }

    /// Handles a complete header.
    fn begin(&mut self, header: Header) -> Result<(), Ended> {
        let Header { last, opcode, length } = header;
        if opcode & 0x8 != 0 {
            // `header` has checked that it is short.
            let length = usize::try_from(length).unwrap_or(LONGEST_CONTROL).min(LONGEST_CONTROL);
            self.at = Pending::Control { opcode, length, payload: BytesMut::with_capacity(length) };
            return if length == 0 { self.control() } else { Ok(()) };
        }
        let message = match (self.message, opcode) {
            (Some(message), CONTINUATION) => message,
            (None, CONTINUATION) => {
                return Err(Ended::Broken("continues a message that never began"));
            }
            (Some(_), _) => return Err(Ended::Broken("begins a message inside another")),
            (None, opcode) => Message { opcode, begun: false },
        };
        if !last {
            self.message = Some(message);
            self.at = if length == 0 {
                Pending::Header([0; LONGEST_HEADER], 0)
            } else {
                Pending::Part(length)
            };
            return Ok(());
        }
        self.message = None;
        let whole =
            length.checked_add(self.scrub.owed() as u64).filter(|whole| *whole <= i64::MAX as u64);
        let whole = whole.ok_or(Ended::Broken("has an invalid length"))?;
        let opcode = if message.begun { CONTINUATION } else { message.opcode };
        put_header(&mut self.out, FIN | opcode, whole);
        self.at = Pending::Last(length);
        if length == 0 { self.payload(Bytes::new(), true) } else { Ok(()) }
    }

    /// Handles payload of the frame that ends a message.
    fn payload(&mut self, part: Bytes, over: bool) -> Result<(), Ended> {
        let passed = self.searched(part)?;
        self.out.extend_from_slice(&passed);
        if over {
            let held = self.scrub.boundary();
            self.out.extend_from_slice(&held);
            self.seam.end();
            self.at = Pending::Header([0; LONGEST_HEADER], 0);
            self.checked()?;
        }
        Ok(())
    }

    fn searched(&mut self, part: Bytes) -> Result<Bytes, Ended> {
        if self.seam.completes(&part) {
            return Err(Ended::Key);
        }
        let passed = self.scrub.push(part);
        self.checked()?;
        Ok(passed)
    }

    fn checked(&self) -> Result<(), Ended> {
        if self.scrub.matches() == 0 { Ok(()) } else { Err(Ended::Key) }
    }

    /// Passes on part of a message that continues.
    fn fragment(&mut self, part: &[u8]) {
        let Some(message) = self.message.as_mut().filter(|_| !part.is_empty()) else { return };
        let opcode = if message.begun { CONTINUATION } else { message.opcode };
        message.begun = true;
        put_header(&mut self.out, opcode, part.len() as u64);
        self.out.extend_from_slice(part);
    }

    /// Handles a complete control frame.
    fn control(&mut self) -> Result<(), Ended> {
        let at = std::mem::replace(&mut self.at, Pending::Header([0; LONGEST_HEADER], 0));
        let Pending::Control { opcode, payload, .. } = at else { return Ok(()) };
        let over_ends = self.controls.completes(&payload);
        self.controls.end();
        if over_ends || self.scanner.replace(&payload).is_some() {
            return Err(Ended::Key);
        }
        put_header(&mut self.out, FIN | opcode, payload.len() as u64);
        self.out.extend_from_slice(&payload);
        Ok(())
    }
}

/// Takes the next bytes of a payload with `left` bytes to come.
fn take(chunk: &mut Bytes, left: &mut u64) -> Bytes {
    let part = chunk.split_to(chunk.len().min(usize::try_from(*left).unwrap_or(usize::MAX)));
    *left -= part.len() as u64;
    part
}

/// The header of a frame; `None` when more of it is needed.
fn header(bytes: &[u8]) -> Result<Option<Header>, Ended> {
    let [first, rest @ ..] = bytes else { return Ok(None) };
    let (last, opcode) = (first & FIN != 0, first & 0x0f);
    if first & RESERVED != 0 {
        return Err(Ended::Broken("has a reserved bit set, which only an extension may do"));
    }
    if !matches!(opcode, 0..=2 | 8..=10) {
        return Err(Ended::Broken("has an opcode that RFC 6455 does not define"));
    }
    let [second, rest @ ..] = rest else { return Ok(None) };
    if second & MASKED != 0 {
        return Err(Ended::Broken("is masked, which only a client may do"));
    }
    let length = match (*second, rest) {
        (126, &[a, b, ..]) => u64::from(u16::from_be_bytes([a, b])),
        (127, &[a, b, c, d, e, f, g, h, ..]) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        (126 | 127, _) => return Ok(None),
        (length, _) => u64::from(length),
    };
    if opcode & 0x8 != 0 && (!last || length > LONGEST_CONTROL as u64) {
        return Err(Ended::Broken("is a control frame that is too long or fragmented"));
    }
    if length > i64::MAX as u64 {
        return Err(Ended::Broken("has an invalid length"));
    }
    Ok(Some(Header { last, opcode, length }))
}

/// Writes a header, the length in its shortest form.
fn put_header(out: &mut BytesMut, first: u8, length: u64) {
    out.extend_from_slice(&[first]);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..=125), _) => out.extend_from_slice(&[length]),
        (_, Ok(length)) => {
            out.extend_from_slice(&[126]);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[127]);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
