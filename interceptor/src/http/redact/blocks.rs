//! Re-chunks a decoded body, so that the chunks a client sees do not follow those of the encoded
//! bytes.
//!
//! How much a chunk of encoded bytes decodes to tells how well that text compresses, and so whether
//! a text chosen by the client also appears elsewhere in the response. Decoded bytes are therefore
//! passed on in blocks of a fixed size. The remainder is passed on at the end or at a flush: the
//! sender chooses a flush by what it wrote, not by how that was encoded.

use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};

use super::decode::{Coding, Decoding};

/// The size of a block in bytes.
const BLOCK: usize = 4 * 1024;

/// Maximum bytes in the header of a stored brotli block.
const HEADER: usize = 4;

/// A body passing through its decoders, in blocks.
pub(super) struct DecodedBody {
    decoding: Decoding,
    flushes: Flushes,
    /// Decoded bytes that do not fill a block yet.
    held: BytesMut,
}

/// How a coding shows that its sender flushed.
enum Flushes {
    /// Stacked codings: a flush of one is not a flush of the other.
    Unknown,
    /// Flushes end in an empty stored block (RFC 1951 3.2.4), which ends in these four bytes. Holds
    /// the last four.
    Deflate([u8; 4]),
    /// A flush shows as an empty metadata block (RFC 7932 9.2) that pads the last byte, or as the
    /// end of stored bytes. Holds the end of the encoded bytes.
    Brotli(Vec<u8>),
    /// A flush ends a block.
    Zstd(ZstdFrames),
}

impl DecodedBody {
    /// Undoes the codings, given in the order they were applied.
    pub(super) fn new(codings: &[Coding]) -> DecodedBody {
        let flushes = match codings {
            [Coding::Gzip | Coding::Deflate] => Flushes::Deflate([0xff; 4]),
            [Coding::Brotli] => Flushes::Brotli(vec![0xff; HEADER]),
            [Coding::Zstd] => Flushes::Zstd(ZstdFrames::default()),
            _ => Flushes::Unknown,
        };
        DecodedBody { decoding: Decoding::new(codings), flushes, held: BytesMut::new() }
    }

    /// Takes the next bytes of the body. Call it only after [`DecodedBody::next`] returned `None`.
    pub(super) fn feed(&mut self, wire: Bytes) {
        self.flushes.see(&wire);
        self.decoding.feed(wire);
    }

    /// The next block, or what precedes a flush; `None` if more of the body is needed.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.held.len() < BLOCK {
            match self.decoding.next()? {
                Some(piece) => self.held.extend_from_slice(&piece),
                None if self.held.is_empty() => return Ok(None),
                None => {
                    let whole = self.decoding.finish().is_ok() || self.flushes.now(&self.held);
                    return Ok(whole.then(|| self.held.split().freeze()));
                }
            }
        }
        Ok(Some(self.held.split_to(BLOCK).freeze()))
    }

    /// Checks at the end of the body that it is complete. Returns what did not fill a block.
    pub(super) fn finish(&mut self) -> io::Result<Bytes> {
        self.decoding.finish()?;
        Ok(self.held.split().freeze())
    }
}

/// Shows the codings, never the content.
impl fmt::Debug for DecodedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decoding.fmt(f)
    }
}

impl Flushes {
    /// Follows the encoded bytes.
    fn see(&mut self, wire: &[u8]) {
        match self {
            Flushes::Unknown => {}
            Flushes::Deflate(last) => keep(last, wire),
            Flushes::Brotli(last) => {
                let wire = &wire[wire.len().saturating_sub(BLOCK + HEADER)..];
                last.drain(..(last.len() + wire.len()).saturating_sub(BLOCK + HEADER));
                last.extend_from_slice(wire);
            }
            Flushes::Zstd(frames) => frames.see(wire),
        }
    }

    /// Whether the encoded bytes so far end in a flush. `text` is the end of what they decode to.
    fn now(&self, text: &[u8]) -> bool {
        match self {
            Flushes::Unknown => false,
            Flushes::Deflate(last) => *last == [0, 0, 0xff, 0xff],
            // A few bits can match by chance, so the text must also end as events and lines do.
            Flushes::Brotli(last) => {
                let padded = last.last_chunk().is_some_and(|last| padded(*last));
                padded && text.ends_with(b"\n") || stored(last, text)
            }
            Flushes::Zstd(frames) => frames.between(),
        }
    }
}

/// Keeps the last bytes.
fn keep<const N: usize>(last: &mut [u8; N], wire: &[u8]) {
    let wire = &wire[wire.len().saturating_sub(N)..];
    last.rotate_left(wire.len());
    last[N - wire.len()..].copy_from_slice(wire);
}

/// Whether the bytes end in the six bits `000110` and zeros up to the byte boundary.
fn padded(last: [u8; 2]) -> bool {
    let bits = u16::from_le_bytes(last);
    // They end in the last byte, so they begin in it or in the last bits of the byte before.
    (3..=10).any(|from| bits >> from == 6)
}

/// Whether the encoded bytes end in a complete stored block that is the end of `text`.
fn stored(wire: &[u8], text: &[u8]) -> bool {
    let same = wire.iter().rev().zip(text.iter().rev()).take_while(|(one, other)| one == other);
    // Its header (RFC 7932 9.2): three bits, sixteen bits of its length minus one, a one, and zeros
    // up to the byte boundary.
    let is_header = |header: u32, length: u32| {
        (0..8).any(|zeros| header >> (12 - zeros) == 1 << 19 | (length - 1) << 3)
    };
    (1..).zip(same).any(|(length, _)| {
        let header = wire[..wire.len() - length as usize].last_chunk();
        header.is_some_and(|header| is_header(u32::from_le_bytes(*header), length))
    })
}

/// Follows the frames and blocks of zstd (RFC 8878 3.1).
#[derive(Default)]
struct ZstdFrames {
    next: ZstdField,
    field: [u8; 4],
    have: usize,
    /// Bytes before the next field.
    skip: u64,
    checksum: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ZstdField {
    #[default]
    Magic,
    /// Of a skippable frame.
    Size,
    Descriptor,
    Block,
}

impl ZstdFrames {
    fn see(&mut self, mut wire: &[u8]) {
        while !wire.is_empty() {
            if self.skip > 0 {
                let skipped = wire.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= skipped as u64;
                wire = &wire[skipped..];
                continue;
            }
            let length = match self.next {
                ZstdField::Magic | ZstdField::Size => 4,
                ZstdField::Descriptor => 1,
                ZstdField::Block => 3,
            };
            let taken = wire.len().min(length - self.have);
            self.field[self.have..self.have + taken].copy_from_slice(&wire[..taken]);
            self.have += taken;
            wire = &wire[taken..];
            if self.have == length {
                let field = u32::from_le_bytes(std::mem::take(&mut self.field));
                self.have = 0;
                self.read(field);
            }
        }
    }

    fn read(&mut self, field: u32) {
        self.next = match self.next {
            ZstdField::Magic if field & 0xffff_fff0 == 0x184d_2a50 => ZstdField::Size,
            ZstdField::Magic => ZstdField::Descriptor,
            ZstdField::Size => {
                self.skip = field.into();
                ZstdField::Magic
            }
            ZstdField::Descriptor => {
                let single = u64::from(field >> 5 & 1);
                let dictionary = [0, 1, 2, 4][(field & 3) as usize];
                let size = [single, 2, 4, 8][(field >> 6 & 3) as usize];
                self.skip = 1 - single + dictionary + size;
                self.checksum = field & 4 != 0;
                ZstdField::Block
            }
            ZstdField::Block => {
                let (last, repeated) = (field & 1 == 1, field >> 1 & 3 == 1);
                self.skip = if repeated { 1 } else { u64::from(field >> 3) };
                if last {
                    self.skip += if self.checksum { 4 } else { 0 };
                    ZstdField::Magic
                } else {
                    ZstdField::Block
                }
            }
        };
    }

    /// Whether a block has ended and the next has not begun.
    fn between(&self) -> bool {
        self.skip == 0 && self.have == 0 && matches!(self.next, ZstdField::Block | ZstdField::Magic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brotli_padding_is_recognised_at_every_bit() {
        for before in 0..8_u32 {
            for rest in [0_u16, 0xffff] {
                let bits = rest & ((1 << before) - 1) | 6 << before;
                let bytes = bits.to_le_bytes();
                let last = if before + 6 > 8 { bytes } else { [0x5a, bytes[0]] };
                assert!(padded(last), "{before} {last:?}");
            }
        }
        assert!(!padded([0x12, 0x34]) && !padded([0xff, 0xff]) && !padded([0, 0]));
    }

    #[test]
    fn the_end_of_a_stored_brotli_block_is_recognised_by_its_header() {
        let wire = |length: u32| {
            let header: u32 = (1 << 19 | (length - 1) << 3) << 8 | 0x5a;
            [&[1, 2][..], &header.to_le_bytes(), b"data\n\n"].concat()
        };
        assert!(stored(&wire(6), b"before data\n\n") && stored(&wire(6), b"data\n\n"));
        assert!(!stored(&wire(6), b"ata\n\n"), "it reaches further back than what is held");
        assert!(!stored(&wire(7), b"before data\n\n") && !stored(&wire(5), b"before data\n\n"));
        assert!(!stored(b"data\n\n", b"data\n\n") && !stored(&wire(6), b""));
    }

    #[test]
    fn the_last_bytes_are_kept_however_they_come() {
        for size in 1..=6 {
            let mut last = [0xff; 4];
            b"123456".chunks(size).for_each(|wire| keep(&mut last, wire));
            assert_eq!(&last, b"3456");
        }
    }
}
