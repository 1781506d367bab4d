//! Undoes the content codings of a body (RFC 9110 8.4), piece by piece and in bounded memory.
//!
//! Encoded bytes go in; decoded pieces of at most [`PIECE`] bytes come out on request. A body that
//! decodes to a thousand times its size needs no more memory than any other, and a client that does
//! not read stops it. Everything that can be decoded from the bytes so far is returned at once, so
//! that a sender's flush reaches the client (`blocks`).

use std::fmt;
use std::io;

use async_compression::codecs::{
    BrotliDecoder, DecodeV2, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use async_compression::core::util::{PartialBuffer, WriteBuffer};
use async_compression::zstd::DParameter;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use interceptor_policy::redact::RedactError;

/// Maximum bytes in a decoded piece.
const PIECE: usize = 32 * 1024;

/// Minimum bytes of room worth decoding into.
const LEAST_ROOM: usize = 4 * 1024;

/// Maximum number of stacked codings.
const MOST_CODINGS: usize = 3;

/// RFC 9659: a zstd content coding has a window of at most 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// A supported content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 1952; several members are one body.
    Gzip,
    /// RFC 1950, or RFC 1951 without the wrapper, as many senders use it.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878; several frames are one body.
    Zstd,
}

/// The codings that a response declares, in the order they were applied, without `identity`.
pub(crate) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, RedactError> {
    let mut found = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_| RedactError::UnknownCoding)?;
        for name in value.split(',').map(|name| name.trim_matches([' ', '\t'])) {
            match name.to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" => found.push(Coding::Gzip),
                "deflate" => found.push(Coding::Deflate),
                "br" => found.push(Coding::Brotli),
                "zstd" => found.push(Coding::Zstd),
                _ => return Err(RedactError::UnknownCoding),
            }
        }
    }
    if found.len() > MOST_CODINGS { Err(RedactError::TooManyCodings) } else { Ok(found) }
}

/// Whether a response declares any coding, known or not.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let mut names = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','));
    names.any(|name| {
        !name.trim_ascii().is_empty() && !name.trim_ascii().eq_ignore_ascii_case(b"identity")
    })
}

/// A body passing through its decoders.
pub(crate) struct Decoding {
    /// In the order of decoding: the coding applied last comes first.
    stages: Vec<DecodeStage>,
    /// Zeroed output buffer from which pieces are split off.
    room: BytesMut,
}

impl Decoding {
    /// Undoes the codings, given in the order they were applied.
    pub(crate) fn new(codings: &[Coding]) -> Decoding {
        Decoding {
            stages: codings.iter().rev().map(|coding| DecodeStage::new(*coding)).collect(),
            room: BytesMut::new(),
        }
    }

    /// Takes the next bytes of the body. Call it only after [`Decoding::next`] returned `None`.
    pub(crate) fn feed(&mut self, wire: Bytes) {
        if let Some(outermost) = self.stages.first_mut() {
            outermost.input = wire;
        }
    }

    /// The next piece, never empty; `None` if more of the body is needed.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let innermost = self.stages.len().saturating_sub(1);
        let mut level = innermost;
        loop {
            let Some(stage) = self.stages.get_mut(level) else { return Ok(None) };
            match stage.next(&mut self.room)? {
                Some(piece) if level == innermost => return Ok(Some(piece)),
                Some(piece) => {
                    level += 1;
                    self.stages[level].input = piece;
                }
                None if level == 0 => return Ok(None),
                None => level -= 1,
            }
        }
    }

    /// Checks at the end of the body that it is complete.
    pub(crate) fn finish(&self) -> io::Result<()> {
        if self.stages.iter().any(|stage| stage.progress == Progress::Within) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the encoded body ends early",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stages.iter().map(|stage| stage.coding)).finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing was read yet, or a member has ended and another may follow.
    Before,
    Within,
    /// Only padding may follow.
    Ended,
}

struct DecodeStage {
    coding: Coding,
    decoder: Option<Box<dyn DecodeV2 + Send + Sync>>,
    input: Bytes,
    progress: Progress,
    /// An earlier member has ended.
    again: bool,
    /// The output was full, so the decoder may produce more without input.
    more: bool,
}

impl DecodeStage {
    fn new(coding: Coding) -> DecodeStage {
        let decoder: Option<Box<dyn DecodeV2 + Send + Sync>> = match coding {
            Coding::Gzip => Some(Box::new(GzipDecoder::new())),
            Coding::Brotli => Some(Box::new(BrotliDecoder::new())),
            Coding::Zstd => {
                Some(Box::new(ZstdDecoder::new_with_params(&[DParameter::window_log_max(
                    ZSTD_WINDOW_LOG,
                )])))
            }
            Coding::Deflate => None,
        };
        DecodeStage {
            coding,
            decoder,
            input: Bytes::new(),
            progress: Progress::Before,
            again: false,
            more: false,
        }
    }

    fn next(&mut self, room: &mut BytesMut) -> io::Result<Option<Bytes>> {
        loop {
            if self.progress == Progress::Ended {
                self.padding()?;
            }
            let starved = self.input.is_empty();
            if starved && !self.more {
                return Ok(None);
            }
            if self.progress == Progress::Before && !self.begin()? {
                continue;
            }
            let Some(decoder) = self.decoder.as_mut() else { return Ok(None) };
            if room.len() < LEAST_ROOM {
                *room = BytesMut::zeroed(PIECE);
            }
            let mut input = PartialBuffer::new(&self.input[..]);
            let mut output = WriteBuffer::new_initialized(&mut room[..]);
            let result = decoder.decode(&mut input, &mut output);
            let (read, written) = (input.written_len(), output.written_len());
            self.more = output.has_no_spare_space();
            self.input.advance(read);
            match result {
                Ok(true) => {
                    self.more = false;
                    self.again = true;
                    let several = matches!(self.coding, Coding::Gzip | Coding::Zstd);
                    self.progress = if several { Progress::Before } else { Progress::Ended };
                }
                Ok(false) if read == 0 && written == 0 && !starved => {
                    return Err(io::Error::other("the decoder makes no progress"));
                }
                Ok(false) => {}
                // Some decoders report an error when asked for more output without input and there
                // is none.
                Err(_) if starved && written == 0 => self.more = false,
                Err(error) => return Err(error),
            }
            if written > 0 {
                return Ok(Some(room.split_to(written).freeze()));
            }
        }
    }

    /// Skips zeros after the last gzip member, as gzip(1) does. Anything else after the end is an
    /// error.
    fn padding(&mut self) -> io::Result<()> {
        let zeros = self.coding == Coding::Gzip && self.input.iter().all(|byte| *byte == 0);
        if !self.input.is_empty() && !zeros {
            let text = "there is more after the end of the encoded body";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.input.clear();
        Ok(())
    }

    /// Begins a member with the input at hand. False if the input is padding instead.
    fn begin(&mut self) -> io::Result<bool> {
        if self.again {
            if self.coding == Coding::Gzip && self.input.first() == Some(&0) {
                self.progress = Progress::Ended;
                return Ok(false);
            }
            if let Some(decoder) = self.decoder.as_mut() {
                decoder.reinit()?;
            }
        }
        self.progress = Progress::Within;
        if self.decoder.is_none() {
            // A zlib header (RFC 1950 2.2) has compression method 8 in its low bits. Raw deflate
            // with these bits would start with a stored block whose padding is not zero, which
            // encoders do not write, or with a reserved block type.
            let wrapped =
                self.input.first().is_some_and(|first| first & 0x0f == 8 && first >> 4 <= 7);
            self.decoder = Some(if wrapped {
                Box::new(ZlibDecoder::new())
            } else {
                Box::new(DeflateDecoder::new())
            });
        }
        Ok(true)
    }
}
