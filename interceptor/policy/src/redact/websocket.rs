//! Watches the frames of a WebSocket (RFC 6455), origin to sandbox, for real keys.
//!
//! What is searched is the message: the payload over all its frames, and each control frame by itself. At the end of a message
//! nothing waits. A key cannot be replaced in a message, whose content may be of any form: it ends the connection before
//! the frame that completes it has passed, also where the end of a message stands in it.
//!
//! A message in one frame keeps that frame. In a message of several, what may be passed on goes as frames of its own, and the last
//! frame brings what was held: without an extension a proxy may cut a message anew (section 5.4). So the bytes that wait inside a
//! message never hold up a control frame, and each frame says its true length at once. No extension is negotiated where a key is to be
//! looked for, so reserved bits mean that the frame is not what it seems.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

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
    /// The same for control frames, which stand between those of messages.
    controls: Seam,
    at: At,
    /// The message that is not at its end.
    message: Option<Message>,
    out: BytesMut,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    opcode: u8,
    /// A frame of it was passed on, so that the next is a continuation.
    begun: bool,
}

#[derive(Debug)]
enum At {
    /// The header, as far as it is there.
    Header([u8; LONGEST_HEADER], usize),
    /// So many payload bytes of the last frame of a message are to come; its header is out.
    Last(u64),
    /// So many of a frame that is not the last.
    Part(u64),
    /// A control frame's payload, of which this is there.
    Control { opcode: u8, length: usize, payload: BytesMut },
}

/// What a header says.
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
            at: At::Header([0; LONGEST_HEADER], 0),
            message: None,
            out: BytesMut::new(),
        }
    }

    /// Takes what the origin sent and gives what may be passed on now.
    pub(crate) fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, Ended> {
        while !chunk.is_empty() {
            match &mut self.at {
                At::Header(bytes, there) => {
                    bytes[*there] = chunk.split_to(1)[0];
                    *there += 1;
                    if let Some(header) = header(&bytes[..*there])? {
                        self.begin(header)?;
                    }
                }
                At::Last(left) => {
                    let part = take(&mut chunk, left);
                    let over = *left == 0;
                    self.payload(part, over)?;
                }
                At::Part(left) => {
                    let part = take(&mut chunk, left);
                    let over = *left == 0;
                    let passed = self.searched(part)?;
                    self.fragment(&passed);
                    if over {
                        self.at = At::Header([0; LONGEST_HEADER], 0);
                    }
                }
                At::Control { length, payload, .. } => {
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

    /// What was passed before that which was an error.
    pub(crate) fn passed(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// The origin has ended its direction, in the middle of a frame or not.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Ended> {
        let held = self.scrub.finish();
        if self.scrub.matches() > 0 {
            return Err(Ended::Key);
        }
        match self.at {
            At::Last(_) => self.out.extend_from_slice(&held),
            _ => self.fragment(&held),
        }
        Ok(self.out.split().freeze())
    }

    /// A header is whole.
    fn begin(&mut self, header: Header) -> Result<(), Ended> {
        let Header { last, opcode, length } = header;
        if opcode & 0x8 != 0 {
            // `header` has seen that it is short.
            let length = usize::try_from(length).unwrap_or(LONGEST_CONTROL).min(LONGEST_CONTROL);
            self.at = At::Control { opcode, length, payload: BytesMut::with_capacity(length) };
            return if length == 0 { self.control() } else { Ok(()) };
        }
        let message = match (self.message, opcode) {
            (Some(message), CONTINUATION) => message,
            (None, CONTINUATION) => return Err(Ended::Broken("continues no message")),
            (Some(_), _) => return Err(Ended::Broken("begins a message inside another")),
            (None, opcode) => Message { opcode, begun: false },
        };
        if !last {
            self.message = Some(message);
            self.at = if length == 0 { At::Header([0; LONGEST_HEADER], 0) } else { At::Part(length) };
            return Ok(());
        }
        self.message = None;
        let whole = length.checked_add(self.scrub.owed() as u64).filter(|whole| *whole <= i64::MAX as u64);
        let whole = whole.ok_or(Ended::Broken("has a length that no frame has"))?;
        let opcode = if message.begun { CONTINUATION } else { message.opcode };
        put_header(&mut self.out, FIN | opcode, whole);
        self.at = At::Last(length);
        if length == 0 { self.payload(Bytes::new(), true) } else { Ok(()) }
    }

    /// Payload of the frame that ends a message.
    fn payload(&mut self, part: Bytes, over: bool) -> Result<(), Ended> {
        let passed = self.searched(part)?;
        self.out.extend_from_slice(&passed);
        if over {
            let held = self.scrub.boundary();
            self.out.extend_from_slice(&held);
            self.seam.end();
            self.at = At::Header([0; LONGEST_HEADER], 0);
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

    /// Passes on a part of a message of which more is to come.
    fn fragment(&mut self, part: &[u8]) {
        let Some(message) = self.message.as_mut().filter(|_| !part.is_empty()) else { return };
        let opcode = if message.begun { CONTINUATION } else { message.opcode };
        message.begun = true;
        put_header(&mut self.out, opcode, part.len() as u64);
        self.out.extend_from_slice(part);
    }

    /// A control frame is whole.
    fn control(&mut self) -> Result<(), Ended> {
        let at = std::mem::replace(&mut self.at, At::Header([0; LONGEST_HEADER], 0));
        let At::Control { opcode, payload, .. } = at else { return Ok(()) };
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

/// The next bytes of a payload of which `left` are to come.
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
        return Err(Ended::Broken("is of a kind that RFC 6455 does not know"));
    }
    let [second, rest @ ..] = rest else { return Ok(None) };
    if second & MASKED != 0 {
        return Err(Ended::Broken("is masked, which only a client's may be"));
    }
    let length = match (*second, rest) {
        (126, &[a, b, ..]) => u64::from(u16::from_be_bytes([a, b])),
        (127, &[a, b, c, d, e, f, g, h, ..]) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        (126 | 127, _) => return Ok(None),
        (length, _) => u64::from(length),
    };
    if opcode & 0x8 != 0 && (!last || length > LONGEST_CONTROL as u64) {
        return Err(Ended::Broken("is a control frame that is too long or not whole"));
    }
    if length > i64::MAX as u64 {
        return Err(Ended::Broken("has a length that no frame has"));
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
