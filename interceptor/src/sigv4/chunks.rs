//! Bodies in AWS's own chunks, inside whatever frames them on the connection.
//!
//! A chunk is its length in hexadecimal, its signature where it is signed, a line end, that many
//! bytes and a line end; the last has none, and trailers may follow it. Each signature covers the
//! one before it, the first that of the request. Signed chunks are held until they are verified,
//! at most [`MOST_CHUNK`] bytes, and go on with a signature of ours in place of theirs; nothing
//! else changes, so the length of the body stays. Chunks that are not signed pass as they come.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::check::Verified;
use super::keys::{Context, SigningKey};
use super::payload::{DECODED_LENGTH, Digest, Payload, TRAILER};
use super::sign::Signed;
use super::signature::Signature;

/// The longest chunk that is held. Clients send 8 KiB to 128 KiB.
pub(crate) const MOST_CHUNK: u64 = 1024 * 1024;
/// The longest line: a length and a signature, or a trailer.
const LONGEST_LINE: usize = 1024;
/// The most bytes of all trailers.
const MOST_TRAILERS: usize = 8 * 1024;
/// What stands before a chunk's signature.
const EXTENSION: &[u8] = b";chunk-signature=";
/// The trailer that signs the others.
const TRAILER_SIGNATURE: &[u8] = b"x-amz-trailer-signature";

/// Why a body in chunks is not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkProblem {
    /// It is framed otherwise than it says.
    #[error("the chunks of its body are malformed")]
    Malformed,
    /// A signed chunk is too long to be held.
    #[error("a signed chunk of its body is longer than {MOST_CHUNK} bytes; send smaller ones")]
    TooLong,
    /// A signature is wrong.
    #[error("the signature of a chunk of its body does not match")]
    Mismatch,
    /// The chunks have another length than the header says.
    #[error("its body has another length than x-amz-decoded-content-length says")]
    Length,
    /// A trailer was not named in the header.
    #[error("its body has a trailer that x-amz-trailer does not name")]
    Trailer,
    /// It ends too early.
    #[error("its body ends before its last chunk")]
    Short,
}

/// One side's chain of signatures.
#[derive(Debug)]
struct Chain {
    key: SigningKey,
    before: Signature,
}

/// The two chains of signed chunks.
#[derive(Debug)]
pub(crate) struct Sealed {
    context: Context,
    theirs: Chain,
    ours: Chain,
}

impl Sealed {
    fn chunk(&mut self, data: &[u8], given: &Signature) -> Result<&Signature, ChunkProblem> {
        let digest = Digest::of(data);
        let expected = self.theirs.key.chunk(&self.context, &self.theirs.before, &digest);
        if !expected.is(given) {
            return Err(ChunkProblem::Mismatch);
        }
        self.theirs.before = expected;
        self.ours.before = self.ours.key.chunk(&self.context, &self.ours.before, &digest);
        Ok(&self.ours.before)
    }

    fn trailer(&mut self, fields: &[u8], given: &Signature) -> Result<&Signature, ChunkProblem> {
        let digest = Digest::of(fields);
        let expected = self.theirs.key.trailer(&self.context, &self.theirs.before, &digest);
        if !expected.is(given) {
            return Err(ChunkProblem::Mismatch);
        }
        self.ours.before = self.ours.key.trailer(&self.context, &self.ours.before, &digest);
        Ok(&self.ours.before)
    }
}

#[derive(Debug)]
enum State {
    /// At the line before a chunk.
    Line,
    /// Within a chunk that is not signed: so many bytes are left.
    Data(u64),
    /// A signed chunk is being held: its length and signature.
    Held { length: usize, line: Bytes, given: Signature },
    /// Behind a chunk's bytes.
    LineEnd,
    /// At a trailer.
    Trailer,
    /// Behind the end.
    Over,
}

/// A body in chunks on its way.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    /// What came and was not passed on: less than a line, or a chunk that is held.
    buffer: BytesMut,
    sealed: Option<Sealed>,
    /// The names that trailers may have; `None` where there are none.
    trailers: Option<Vec<String>>,
    /// The canonical form of the trailers so far.
    fields: Vec<u8>,
    has_trailer: bool,
    /// The length that the header says, and what came of it.
    length: Option<u64>,
    seen: u64,
}

impl Chunks {
    /// The body of a verified request that was signed again. `headers` are those that it came with.
    pub(crate) fn new(verified: &Verified, signed: Signed, headers: &HeaderMap) -> Chunks {
        let Verified { claim, payload, context, key } = verified;
        let trailers = || {
            let values = headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
            let names = values.flat_map(|value| value.split(','));
            names.map(|name| name.trim().to_ascii_lowercase()).collect::<Vec<_>>()
        };
        let (is_signed, has_trailers) = match payload {
            Payload::SignedChunks { trailer } => (true, *trailer),
            _ => (false, true),
        };
        let length =
            headers.get(DECODED_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let sealed = is_signed.then(|| Sealed {
            context: context.clone(),
            theirs: Chain { key: key.clone(), before: claim.signature.clone() },
            ours: Chain { key: signed.key, before: signed.signature },
        });
        Chunks {
            state: State::Line,
            buffer: BytesMut::new(),
            sealed,
            trailers: has_trailers.then(trailers),
            fields: Vec::new(),
            has_trailer: false,
            length,
            seen: 0,
        }
    }

    /// What may be sent now that this came.
    ///
    /// # Errors
    /// The body must not be sent on.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<Bytes, ChunkProblem> {
        self.buffer.extend_from_slice(data);
        let mut out = BytesMut::with_capacity(data.len());
        while self.step(&mut out)? {}
        Ok(out.freeze())
    }

    /// Whether all of it came.
    ///
    /// # Errors
    /// Not all.
    pub(crate) fn finish(&self) -> Result<(), ChunkProblem> {
        match self.state {
            State::Over => Ok(()),
            _ => Err(ChunkProblem::Short),
        }
    }

    /// Takes one step; `false` if it needs more.
    fn step(&mut self, out: &mut BytesMut) -> Result<bool, ChunkProblem> {
        match &self.state {
            State::Line => {
                let Some(line) = self.line()? else { return Ok(false) };
                self.begin(line, out)?;
            }
            State::Data(left) => {
                let left = *left;
                if self.buffer.is_empty() {
                    return Ok(false);
                }
                let taken = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                out.extend_from_slice(&self.buffer[..taken]);
                self.buffer.advance(taken);
                let left = left - taken as u64;
                self.state = if left == 0 { State::LineEnd } else { State::Data(left) };
            }
            State::Held { length, .. } => {
                if self.buffer.len() < *length {
                    return Ok(false);
                }
                self.release(out)?;
            }
            State::LineEnd => {
                if self.buffer.len() < 2 {
                    return Ok(false);
                }
                self.line_end(out)?;
                self.state = State::Line;
            }
            State::Trailer => {
                let Some(line) = self.line()? else { return Ok(false) };
                self.trailer(&line, out)?;
            }
            State::Over if self.buffer.is_empty() => return Ok(false),
            State::Over => return Err(ChunkProblem::Malformed),
        }
        Ok(true)
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<Option<Bytes>, ChunkProblem> {
        let end = self.buffer.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return match self.buffer.len() < LONGEST_LINE {
                true => Ok(None),
                false => Err(ChunkProblem::Malformed),
            };
        };
        let mut line = self.buffer.split_to(end + 1).freeze();
        line.truncate(end);
        match line.strip_suffix(b"\r") {
            Some(text) if !text.contains(&b'\r') => Ok(Some(line.slice_ref(text))),
            _ => Err(ChunkProblem::Malformed),
        }
    }

    fn line_end(&mut self, out: &mut BytesMut) -> Result<(), ChunkProblem> {
        if !self.buffer.starts_with(b"\r\n") {
            return Err(ChunkProblem::Malformed);
        }
        self.buffer.advance(2);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// At a chunk, behind its line.
    fn begin(&mut self, line: Bytes, out: &mut BytesMut) -> Result<(), ChunkProblem> {
        let (size, given) = match &self.sealed {
            None => (&line[..], None),
            Some(_) => {
                let at = line.len().checked_sub(EXTENSION.len() + Signature::LENGTH);
                let at = at.ok_or(ChunkProblem::Malformed)?;
                let signature = line[at..].strip_prefix(EXTENSION);
                let signature = signature.and_then(|text| std::str::from_utf8(text).ok());
                let signature = signature.and_then(Signature::parse);
                (&line[..at], Some(signature.ok_or(ChunkProblem::Malformed)?))
            }
        };
        let length = length(size).ok_or(ChunkProblem::Malformed)?;
        self.seen = self.seen.checked_add(length).ok_or(ChunkProblem::Malformed)?;
        let most = self.length.unwrap_or(u64::MAX);
        if self.seen > most || length == 0 && self.length.is_some_and(|told| told != self.seen) {
            return Err(ChunkProblem::Length);
        }
        match given {
            Some(_) if length > MOST_CHUNK => Err(ChunkProblem::TooLong),
            Some(given) => {
                let line = line.slice_ref(size);
                let length = usize::try_from(length).map_err(|_| ChunkProblem::TooLong)?;
                self.state = State::Held { length, line, given };
                Ok(())
            }
            None => {
                out.extend_from_slice(&line);
                out.extend_from_slice(b"\r\n");
                self.state = if length == 0 { State::Trailer } else { State::Data(length) };
                Ok(())
            }
        }
    }

    /// A signed chunk is there.
    fn release(&mut self, out: &mut BytesMut) -> Result<(), ChunkProblem> {
        let state = std::mem::replace(&mut self.state, State::LineEnd);
        let (State::Held { length, line, given }, Some(sealed)) = (state, &mut self.sealed) else {
            return Err(ChunkProblem::Malformed);
        };
        let data = self.buffer.split_to(length);
        let ours = sealed.chunk(&data, &given)?;
        for part in [&line[..], EXTENSION, ours.as_str().as_bytes(), b"\r\n", &data] {
            out.extend_from_slice(part);
        }
        if length == 0 {
            self.state = State::Trailer;
        }
        Ok(())
    }

    /// A line behind the last chunk.
    fn trailer(&mut self, line: &[u8], out: &mut BytesMut) -> Result<(), ChunkProblem> {
        let needs_signature = self.sealed.is_some() && self.trailers.is_some();
        if line.is_empty() {
            if needs_signature && !self.has_trailer {
                return Err(ChunkProblem::Malformed);
            }
            out.extend_from_slice(b"\r\n");
            self.state = State::Over;
            return Ok(());
        }
        let names = self.trailers.as_ref().ok_or(ChunkProblem::Malformed)?;
        let colon = line.iter().position(|byte| *byte == b':').ok_or(ChunkProblem::Malformed)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let Some(sealed) = self.sealed.as_mut().filter(|_| name == TRAILER_SIGNATURE) {
            let given = std::str::from_utf8(value).ok().and_then(Signature::parse);
            let given = given.filter(|_| !self.has_trailer).ok_or(ChunkProblem::Malformed)?;
            let before = line.strip_suffix(value).ok_or(ChunkProblem::Malformed)?;
            let ours = sealed.trailer(&self.fields, &given)?;
            for part in [before, ours.as_str().as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
            self.has_trailer = true;
            return Ok(());
        }
        let lower = name.to_ascii_lowercase();
        if self.has_trailer || !names.iter().any(|known| known.as_bytes() == lower) {
            return Err(ChunkProblem::Trailer);
        }
        for part in [&lower[..], b":", value, b"\n"] {
            self.fields.extend_from_slice(part);
        }
        if self.fields.len() > MOST_TRAILERS {
            return Err(ChunkProblem::Malformed);
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// The length of a chunk.
fn length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}
