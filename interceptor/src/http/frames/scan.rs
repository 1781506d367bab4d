//! Parses HTTP/2 frames (RFC 9113 section 4.1) from a byte stream in constant memory: their
//! headers, and the first bytes of each payload.

/// The client's connection preface.
pub(super) const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// The length of a frame header.
pub(super) const HEAD: usize = 9;
/// How much of a payload is kept: ten settings, the numbers of a GOAWAY, or a head with only a
/// status.
pub(super) const SEEN: usize = 60;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
/// On DATA and HEADERS. The same bit on SETTINGS is ACK.
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const COMPRESSION_ERROR: u32 = 9;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: usize,
    /// The beginning of its payload.
    pub(super) seen: &'a [u8],
}

/// Parses the frames of one direction.
#[derive(Debug)]
pub(super) struct Scan {
    /// Bytes before the first frame.
    skip: usize,
    head: [u8; HEAD],
    /// How much of the frame's head was read, and how much of its payload is still to come.
    read: usize,
    left: usize,
    seen: [u8; SEEN],
    kept: usize,
}

impl Scan {
    pub(super) fn new(skip: usize) -> Scan {
        Scan { skip, head: [0; HEAD], read: 0, left: 0, seen: [0; SEEN], kept: 0 }
    }

    /// The stream of an incomplete frame of this kind.
    pub(super) fn within(&self, kind: u8) -> Option<u32> {
        (self.read == HEAD && self.head[3] == kind).then(|| self.stream())
    }

    /// Takes bytes and calls `each` for each frame that ends in them.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.read < HEAD {
                let count = (HEAD - self.read).min(bytes.len());
                self.head[self.read..self.read + count].copy_from_slice(&bytes[..count]);
                self.read += count;
                bytes = &bytes[count..];
                if self.read < HEAD {
                    return;
                }
                self.left = self.length();
                self.kept = 0;
            }
            let count = self.left.min(bytes.len());
            let keep = count.min(SEEN - self.kept);
            self.seen[self.kept..self.kept + keep].copy_from_slice(&bytes[..keep]);
            self.kept += keep;
            self.left -= count;
            bytes = &bytes[count..];
            if self.left == 0 {
                self.read = 0;
                each(Frame {
                    kind: self.head[3],
                    flags: self.head[4],
                    stream: self.stream(),
                    length: self.length(),
                    seen: &self.seen[..self.kept],
                });
            }
        }
    }

    /// The offset of the first frame that starts in the next `bytes`.
    pub(super) fn next_frame(&self, bytes: &[u8]) -> Option<usize> {
        match self.read {
            0 => Some(self.skip),
            HEAD => Some(self.left),
            read => {
                let missing = HEAD - read;
                let mut head = self.head;
                head[read..].copy_from_slice(bytes.get(..missing)?);
                Some(missing + length(&head))
            }
        }
    }

    /// The first of the frames whose header ends in the next `bytes` that is `wanted`, by kind,
    /// flags and stream: the offset of its first byte in them, and its stream.
    pub(super) fn find(
        &self,
        bytes: &[u8],
        wanted: impl Fn(u8, u8, u32) -> bool,
    ) -> Option<(usize, u32)> {
        let begun = if self.read == HEAD { 0 } else { self.read };
        let (mut head, mut known) = (self.head, begun);
        let mut at = if self.read == HEAD { self.left } else { self.skip };
        loop {
            let missing = HEAD - known;
            head[known..].copy_from_slice(bytes.get(at..at + missing)?);
            if wanted(head[3], head[4], stream(&head)) {
                return Some((at, stream(&head)));
            }
            at += missing + length(&head);
            known = 0;
        }
    }

    fn stream(&self) -> u32 {
        stream(&self.head)
    }

    fn length(&self) -> usize {
        length(&self.head)
    }
}

/// The frame at this offset, if it is complete; `seen` is then its whole payload.
pub(super) fn whole_frame(bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    let head: &[u8; HEAD] = bytes.get(at..)?.first_chunk()?;
    let (kind, flags, length) = (head[3], head[4], length(head));
    let seen = bytes.get(at + HEAD..at + HEAD + length)?;
    Some(Frame { kind, flags, stream: stream(head), length, seen })
}

fn stream(head: &[u8; HEAD]) -> u32 {
    let [.., a, b, c, d] = *head;
    u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff
}

fn length(head: &[u8; HEAD]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// Reads a 32-bit number from a payload.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a header block is a single field (RFC 7541 section 6), either indexed or a literal with
/// a name from the static table. A head with only a status is one.
pub(super) fn is_one_field(mut block: &[u8]) -> bool {
    // Dynamic table size updates may precede it.
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        block = after_number(*first, 0x1f, rest).unwrap_or_default();
    }
    match block {
        [first, rest @ ..] if first & 0x80 != 0 => after_number(*first, 0x7f, rest) == Some(&[]),
        [first, rest @ ..] => {
            let prefix = if first & 0x40 != 0 { 0x3f } else { 0x0f };
            let Some([length, value @ ..]) = after_number(*first, prefix, rest) else {
                return false;
            };
            first & prefix != 0 && usize::from(length & 0x7f) == value.len()
        }
        [] => false,
    }
}

/// What follows an integer (RFC 7541 section 5.1) with this first byte and prefix.
fn after_number(first: u8, prefix: u8, rest: &[u8]) -> Option<&[u8]> {
    if first & prefix != prefix {
        return Some(rest);
    }
    let last = rest.iter().position(|byte| byte & 0x80 == 0)?;
    Some(&rest[last + 1..])
}
