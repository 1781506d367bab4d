//! Finds where a spelling may be, by sampling a few bytes of the text at regular distances.
//!
//! Any stretch of a pattern that is unbroken in the text contains one whole sample. The table holds
//! the last such stretch of each pattern, because many keys share a prefix; for a pattern that may
//! be wrapped, it holds enough to contain an unbroken stretch wherever lines are broken. A sample
//! costs the same however many patterns there are.
//!
//! Samples are compared case-insensitively, because hexadecimal occurs in either case. The table
//! also holds samples with the usual escapes ([`spelt`]) in them.
//!
//! The hash has a random factor, so that no outsider can predict which samples collide.

use std::hash::{BuildHasher, RandomState};

use zeroize::Zeroizing;

use super::pattern::{Encoding, Pattern};

/// The number of samples tested before a branch.
const BLOCK: usize = 8;

/// The length of a line in a wrapped spelling that is always unbroken: no encoder makes shorter
/// lines.
pub(super) const LINE: usize = 16;

pub(super) struct Grams {
    /// The length of a sample in bytes, at most eight.
    width: usize,
    /// The distance between samples.
    stride: usize,
    /// An unbroken stretch of this length contains a sample.
    reach: usize,
    mask: u64,
    factor: u64,
    shift: u32,
    /// One bit per hash, set if a sample of some pattern has it.
    bits: Box<[u8]>,
    /// Where the entries of a hash begin, indexed without its lowest bits.
    index: Box<[u32]>,
    entries: Box<[Entry]>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u32,
    pattern: u32,
    offset: u32,
    skip: u32,
}

/// A sample of the text whose hash some pattern has.
#[derive(Clone, Copy)]
pub(super) struct Hit {
    /// The sample's position.
    pub(super) at: usize,
    pub(super) pattern: usize,
    /// The character of the pattern `skip` bytes after that; the sample may begin within an escape.
    pub(super) offset: usize,
    pub(super) skip: usize,
}

/// The bits of a hash for this number of samples: less than a hundredth of random text passes, and
/// the table stays in the nearest caches.
const SMALL: u32 = 16;
const LARGE: u32 = 19;

/// The bit that distinguishes upper from lower case letters; it is set in every digit.
const CASE: u64 = u64::MAX / 0xff * 0x20;

/// The number of hashes that share an index entry, as a power of two.
const SHARED: u32 = 7;

impl Grams {
    pub(super) fn new(patterns: &[Pattern]) -> Grams {
        let piece = |pattern: &Pattern| {
            let length = pattern.find.len();
            if pattern.encoding.wraps() { length.div_ceil(2) } else { length }
        };
        let reach = patterns.iter().map(piece).min().unwrap_or(LINE).clamp(1, LINE);
        let width = (reach / 2).clamp(1, 8);
        let mut samples = Vec::new();
        for (pattern, number) in patterns.iter().zip(0..) {
            let stretch = if pattern.encoding.wraps() { 2 * reach - 1 } else { reach };
            let from = pattern.find.len().saturating_sub(stretch);
            spellings(pattern, from, width, |gram, offset, skip| {
                samples.push((gram, number, offset, skip))
            });
        }
        let bits = if samples.len() <= 1 << 10 { SMALL } else { LARGE };
        let mut grams = Grams {
            width,
            stride: reach - width + 1,
            reach,
            mask: u64::MAX >> (64 - 8 * width),
            factor: RandomState::new().hash_one(0) | 1,
            shift: 64 - bits,
            bits: vec![0; 1 << (bits - 3)].into(),
            index: vec![0; (1 << (bits - SHARED)) + 1].into(),
            entries: Box::default(),
        };
        let mut entries: Vec<Entry> = samples
            .into_iter()
            .map(|(gram, pattern, offset, skip)| {
                let hash = grams.hash(*gram) as u32;
                Entry { hash, pattern, offset: offset as u32, skip: skip as u32 }
            })
            .collect();
        entries.sort_unstable();
        entries.dedup();
        for entry in &entries {
            grams.bits[(entry.hash >> 3) as usize] |= 1 << (entry.hash & 7);
            grams.index[(entry.hash >> SHARED) as usize + 1] += 1;
        }
        for place in 1..grams.index.len() {
            grams.index[place] += grams.index[place - 1];
        }
        grams.entries = entries.into();
        grams
    }

    /// The shortest unbroken stretch of a pattern that is noticed.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    fn hash(&self, word: u64) -> usize {
        (((word | CASE) & self.mask).wrapping_mul(self.factor) >> self.shift) as usize
    }

    /// The length of the last stretch of a long pattern that may be wrapped, which all samples are
    /// taken from.
    pub(super) fn stretch(&self) -> usize {
        2 * self.reach - 1
    }

    /// The length of a sample.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Calls `at` with each sample of the text that may be part of a pattern.
    pub(super) fn each(&self, text: &[u8], at: impl FnMut(Hit)) {
        // The constants for keys of usual lengths: compile-time constants halve the time.
        match (self.width, 64 - self.shift) {
            (8, SMALL) => self.each_by::<9, { 1 << (SMALL - 3) }>(text, at),
            (8, LARGE) => self.each_by::<9, { 1 << (LARGE - 3) }>(text, at),
            (_, SMALL) => self.each_by::<0, { 1 << (SMALL - 3) }>(text, at),
            _ => self.each_by::<0, { 1 << (LARGE - 3) }>(text, at),
        }
    }

    /// With a `STRIDE` of 9, samples are eight bytes wide. (With seven, the stride would be the
    /// same.)
    fn each_by<const STRIDE: usize, const BYTES: usize>(
        &self,
        text: &[u8],
        mut at: impl FnMut(Hit),
    ) {
        let Some(bits) = self.bits.first_chunk::<BYTES>() else { return };
        let stride = if STRIDE == 0 { self.stride } else { STRIDE };
        let mask = if STRIDE == 9 { u64::MAX } else { self.mask };
        let shift = 64 - (BYTES * 8).trailing_zeros();
        let factor = self.factor;
        let mut from = 0;
        let span = stride * (BLOCK - 1) + 8;
        while let Some(block) = text.get(from..from + span) {
            let mut any = 0;
            for sample in 0..BLOCK {
                let bytes = block[sample * stride..].first_chunk().copied();
                let word = (bytes.map_or(0, u64::from_le_bytes) | CASE) & mask;
                let hash = (word.wrapping_mul(factor) >> shift) as usize;
                any |= bits[(hash >> 3) & (BYTES - 1)] >> (hash & 7);
            }
            if any & 1 != 0 {
                for sample in 0..BLOCK {
                    self.look(text, from + sample * stride, &mut at);
                }
            }
            from += stride * BLOCK;
        }
        while from + self.width <= text.len() {
            self.look(text, from, &mut at);
            from += stride;
        }
    }

    /// Calls `at` if the sample at `from` may be part of a pattern.
    pub(super) fn look(&self, text: &[u8], from: usize, at: &mut impl FnMut(Hit)) {
        let word = word(&text[from..text.len().min(from + 8)]);
        let hash = self.hash(word);
        if (self.bits[hash >> 3] >> (hash & 7)) & 1 == 0 {
            return;
        }
        let place = hash >> SHARED;
        let (first, last) = (self.index[place] as usize, self.index[place + 1] as usize);
        for entry in &self.entries[first..last] {
            if entry.hash as usize == hash {
                let (offset, skip) = (entry.offset as usize, entry.skip as usize);
                at(Hit { at: from, pattern: entry.pattern as usize, offset, skip });
            }
        }
    }
}

/// The ways a character may be written in otherwise plain text: what URL and JSON encoders do to
/// the three base64 characters that are neither letters nor digits.
pub(super) fn spelt(byte: u8) -> &'static [&'static [u8]] {
    match byte {
        b'/' => &[b"/", br"\/", b"%2f"],
        b'+' => &[b"+", b"%2b"],
        b'=' => &[b"=", b"%3d"],
        _ => &[],
    }
}

/// Up to eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let length = bytes.len().min(8);
    word[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(word)
}

/// Calls `sample` with each `width` bytes that a text may contain of the pattern from `from` on,
/// its characters plain or in the usual escapes, with the first whole character in them and its
/// offset.
fn spellings(
    pattern: &Pattern,
    from: usize,
    width: usize,
    mut sample: impl FnMut(Zeroizing<u64>, usize, usize),
) {
    let literals = |at: usize| pattern.find[at..].first_chunk::<1>();
    let ways = |at: usize| -> Vec<&[u8]> {
        let usual = if pattern.encoding == Encoding::Wide { &[] } else { spelt(pattern.find[at]) };
        if usual.is_empty() {
            literals(at).into_iter().map(|one| &one[..]).collect()
        } else {
            usual.to_vec()
        }
    };
    for first in from..pattern.find.len() {
        for way in ways(first) {
            for inside in 0..way.len() {
                let (offset, skip) =
                    if inside == 0 { (first, 0) } else { (first + 1, way.len() - inside) };
                // The bytes so far, and the next character.
                let mut begun = vec![(Zeroizing::new(way[inside..].to_vec()), first + 1)];
                while let Some((mut bytes, next)) = begun.pop() {
                    if bytes.len() >= width {
                        bytes.truncate(width);
                        sample(Zeroizing::new(word(&bytes)), offset, skip);
                    } else if next < pattern.find.len() {
                        let longer =
                            |way: &[u8]| (Zeroizing::new([&bytes[..], way].concat()), next + 1);
                        begun.extend(ways(next).into_iter().map(longer));
                    }
                }
            }
        }
    }
}
