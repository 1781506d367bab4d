//! Finds hexadecimal bytes, or groups of them, with separators.
//!
//! A few bytes at regular distances show where such bytes may be. From there they are read for as
//! long as every group may be part of a key, which in dumps, dates and numbers is a group or two.
//! They are searched where the digits contain a sample of a key ([`super::grams`]).

use std::ops::Range;

use super::block::{BEFORE, BLOCK, each};
use super::escape::{Decoded, HEX, Reading};
use super::find::Match;
use super::pattern::Encoding;
use super::run::{LONGEST_SEPARATOR, is_separator};
use super::{LEVELS, Scanner};

/// The longest gap between two digits: a separator and `0x`.
pub(super) const GAP: usize = LONGEST_SEPARATOR + 2;

/// After this many digits of characters of keys, the text is read to the end of the stretch.
const FEW: usize = 24;

/// A part of a block, in bytes.
const QUARTER: usize = BLOCK / 4;

/// What a stretch of hexadecimal bytes shows.
enum Walked {
    /// A sample of a key, in the digits before this.
    Sample(usize),
    /// Nothing: no key begins before this, unless it ends before it too.
    Nothing(usize),
}

impl Scanner {
    /// Searches hexadecimal bytes, or groups of them, with separators.
    pub(super) fn separated(
        &self,
        text: &[u8],
        (reading, level): (Reading, usize),
        found: &mut Vec<Match>,
    ) {
        self.each_separated(text, |at| {
            let around = &text[..text.len().min(at + self.most)];
            let (start, end) = self.classes.separated(around, at, at.saturating_sub(self.most));
            self.digits(around, start..end, found, |digits, inner| {
                self.plain(digits, Reading::All, LEVELS, inner);
            });
            // More of it may be escaped.
            if level < LEVELS {
                self.run_undone(text, at, 0, (reading, level), found);
            }
            end.min(at + self.longest)
        });
    }

    /// Calls `known` with a position in each stretch of hexadecimal bytes in whose digits a sample
    /// of a key is. It returns where to go on.
    pub(super) fn each_separated(&self, text: &[u8], mut known: impl FnMut(usize) -> usize) {
        let every = self.look_every;
        let (mut from, mut done) = (0, 0);
        let mut look = |at: usize| {
            let window = text.get(at..).and_then(|rest| rest.first_chunk());
            if at < done || window.is_none_or(|window| self.classes.looks_separated(window) == 0) {
                return;
            }
            done = match self.walk(text, at) {
                Walked::Sample(end) => known(end),
                Walked::Nothing(end) => end,
            };
        };
        while let Some(block) = text.get(from..from + every * 7 + 8) {
            let mut any = 0;
            for sample in 0..8 {
                let window = block[sample * every..].first_chunk();
                any |= window.map_or(0, |window| self.classes.looks_separated(window));
            }
            if any != 0 {
                (0..8).for_each(|sample| look(from + sample * every));
            }
            from += every * 8;
        }
        (from..text.len()).step_by(every).for_each(look);
    }

    /// Reads hexadecimal bytes with separators from the middle of one on, for as long as every
    /// group may be part of a key. If many digits are, it reads on to the end, so that no digit is
    /// read often.
    fn walk(&self, text: &[u8], from: usize) -> Walked {
        let mut digits = Digits::new(self);
        let (mut at, mut group, mut high) = (from, from, 0);
        // Whether the bytes that begin at the group's first or second digit may stand in a key. The
        // first group may begin within a byte.
        let mut fits = [true, true];
        let mut few = FEW;
        while few > 0 {
            let digit = text.get(at).copied().unwrap_or_default();
            let low = HEX[usize::from(digit)];
            if low > 15 || begins_prefix(text, at) {
                let gap = self.classes.gap(text, at);
                if !fits[(at - group) & 1] || gap == 0 || gap > GAP {
                    return Walked::Nothing(group);
                }
                at += gap;
                (group, fits) = (at, [true, false]);
                continue;
            }
            if at > group {
                fits[(at - group - 1) & 1] &= self.stands[usize::from(high << 4 | low)];
            }
            at += 1;
            if digits.push(self, digit) {
                return Walked::Sample(at);
            }
            if !fits[0] && !fits[1] {
                return Walked::Nothing(group);
            }
            high = low;
            few -= 1;
        }
        self.read_on(text, at, digits)
    }

    /// Reads to the end of the stretch. Of a whole block, only the digits compared are read.
    fn read_on(&self, text: &[u8], mut at: usize, mut digits: Digits) -> Walked {
        let by_block = digits.apart >= QUARTER;
        while let Some(byte) = text.get(at) {
            if by_block
                && digits.left >= digits.width
                && let Some(block) = at.checked_sub(BEFORE).and_then(|at| text[at..].first_chunk())
                && each(block, |[_, _, this, ..]| may_stand_among(this)) == u64::MAX
            {
                let places = each(block, |[_, before, this, next, ..]| {
                    let prefix = (this == b'0') & (next | 0x20 == b'x') & !is_digit(before);
                    is_digit(this) & !prefix
                });
                if let Some(end) = digits.skip(self, text, at, places) {
                    return Walked::Sample(end);
                }
                at += BLOCK;
            } else if HEX[usize::from(*byte)] < 16 {
                let prefix = begins_prefix(text, at);
                at += 1 + usize::from(prefix);
                if !prefix && digits.push(self, *byte) {
                    return Walked::Sample(at);
                }
            } else if self.classes.is_among(*byte) {
                at += 1;
            } else {
                break;
            }
        }
        Walked::Nothing(at)
    }

    /// Searches the hexadecimal digits of a part alone.
    pub(super) fn digits(
        &self,
        text: &[u8],
        part: Range<usize>,
        found: &mut Vec<Match>,
        search: impl Fn(&[u8], &mut Vec<Match>),
    ) {
        if part.len() <= self.shortest * 2 {
            return;
        }
        let mut digits = Decoded::default();
        let mut at = part.start;
        while at < part.end {
            if begins_prefix(&text[..part.end], at) {
                at += 2;
                continue;
            }
            if text[at].is_ascii_hexdigit() {
                digits.push(text[at], at, at + 1);
            }
            at += 1;
        }
        if digits.bytes.len() == part.len() {
            return;
        }
        let mut inner = Vec::new();
        search(&digits.bytes, &mut inner);
        inner.retain(|hit| self.patterns[hit.pattern].encoding == Encoding::Hexadecimal);
        let outer = inner.into_iter().map(|hit| hit.outside(&digits, 0));
        found.extend(outer.filter(|hit| separated_in_pairs(text, hit)));
    }
}

/// Whether `0x` stands here, before a group. Behind a digit, the `0` belongs to that digit's byte,
/// and the `x` to what follows.
#[inline]
fn begins_prefix(text: &[u8], at: usize) -> bool {
    text.get(at) == Some(&b'0')
        && matches!(text.get(at + 1), Some(b'x' | b'X'))
        && at.checked_sub(1).is_none_or(|before| HEX[usize::from(text[before])] > 15)
}

/// Whether a byte is a hexadecimal digit. No branches.
#[inline(always)]
fn is_digit(byte: u8) -> bool {
    (byte.wrapping_sub(b'0') < 10) | ((byte | 0x20).wrapping_sub(b'a') < 6)
}

/// Whether a byte may stand among hexadecimal bytes with separators. No branches.
#[inline(always)]
fn may_stand_among(byte: u8) -> bool {
    let digits = byte.wrapping_sub(b'0') < b';' - b'0' + 1;
    let letters = ((byte | 0x20).wrapping_sub(b'a') < 6) | (byte | 0x20 == b'x');
    let marks = (byte.wrapping_sub(b',') < 3) | (byte == b'_') | (byte == b'\\');
    let white = (byte == b' ') | (byte.wrapping_sub(b'\t') < 2) | (byte == b'\r');
    let escaped = (byte == b'n') | (byte == b'r') | (byte == b't');
    digits | letters | marks | white | escaped
}

/// The last digits read, and when they are compared with the samples next.
struct Digits {
    last: u64,
    /// How many more are read until the end of the next sample.
    left: usize,
    width: usize,
    /// The most digits between the beginnings of two samples. Any stretch of the digits of a key
    /// that the samples are taken from contains a whole one.
    apart: usize,
}

impl Digits {
    fn new(scanner: &Scanner) -> Digits {
        let width = scanner.grams.width();
        Digits { last: 0, left: width, width, apart: scanner.grams.stretch() - width + 1 }
    }

    /// Takes the next digit. Returns whether the last ones are a sample of a key.
    #[inline]
    fn push(&mut self, scanner: &Scanner, digit: u8) -> bool {
        self.last = self.last >> 8 | u64::from(digit) << 56;
        self.left -= 1;
        self.left == 0 && self.are_a_sample(scanner)
    }

    /// Takes the digits of the block at `at`, which are at `places`, if no sample has begun yet.
    /// Returns the end of one that is a key's. It compares the first digits of a quarter if the
    /// beginning of the next quarter would be too late.
    #[inline]
    fn skip(&mut self, scanner: &Scanner, text: &[u8], at: usize, places: u64) -> Option<usize> {
        for from in (0..BLOCK).step_by(QUARTER) {
            let mut here = places >> from;
            let count = (here & ((1 << QUARTER) - 1)).count_ones() as usize;
            if self.left < self.width + count {
                let mut end = at + from;
                for _ in 0..self.width {
                    if here != 0 {
                        end = at + from + here.trailing_zeros() as usize;
                        here &= here - 1;
                    } else {
                        end = self.next_digit(scanner, text, end)?;
                    }
                    self.last = self.last >> 8 | u64::from(text[end]) << 56;
                    end += 1;
                }
                if self.are_a_sample(scanner) {
                    return Some(end);
                }
                self.left = self.apart + self.width;
            }
            self.left -= count;
        }
        None
    }

    /// The position of the next digit from `at` on in the same stretch.
    #[cold]
    fn next_digit(&self, scanner: &Scanner, text: &[u8], mut at: usize) -> Option<usize> {
        loop {
            let byte = *text.get(at).filter(|byte| scanner.classes.is_among(**byte))?;
            if HEX[usize::from(byte)] < 16 && !begins_prefix(text, at) {
                return Some(at);
            }
            at += 1;
        }
    }

    #[inline(never)]
    fn are_a_sample(&mut self, scanner: &Scanner) -> bool {
        self.left = self.apart;
        let last = self.last.to_le_bytes();
        scanner.is_sample(&last[last.len() - self.width..])
    }
}

/// Whether the digits form whole bytes between separators, with at least one separator.
fn separated_in_pairs(text: &[u8], hit: &Match) -> bool {
    let spans = hit.spans.as_deref().unwrap_or_default();
    let mut gaps = spans.windows(2).zip(1..).filter(|(pair, _)| pair[0].end != pair[1].start);
    gaps.all(|(pair, digits)| {
        let gap = &text[pair[0].end..pair[1].start];
        let gap = gap.strip_suffix(b"0x").or(gap.strip_suffix(b"0X")).unwrap_or(gap);
        digits % 2 == 0 && is_separator(gap)
    })
}

#[cfg(test)]
mod tests {
    use super::super::run::Classes;
    use super::*;

    #[test]
    fn without_branches_the_classes_are_the_same() {
        let classes = Classes::new(false);
        for byte in 0..=255 {
            assert_eq!(may_stand_among(byte), classes.is_among(byte), "{byte}");
            assert_eq!(is_digit(byte), byte.is_ascii_hexdigit(), "{byte}");
        }
    }
}
