//! Finds hexadecimal bytes, or groups of them, with separators.
//!
//! A few bytes at regular distances show where such bytes may be. From there they are read for as
//! long as every group may be part of a key, which in dumps, dates and numbers is a group or two.
//! They are searched where the digits contain a sample of a key ([`super::grams`]).

use std::ops::Range;

use super::escape::{Decoded, HEX, Reading, WORD};
use super::find::Match;
use super::pattern::Encoding;
use super::run::{LONGEST_SEPARATOR, is_separator};
use super::{LEVELS, Scanner};

/// The longest gap between two digits: a separator and `0x`.
pub(super) const GAP: usize = LONGEST_SEPARATOR + 2;

/// After this many digits of characters of keys, the text is read to the end of the stretch.
const FEW: usize = 24;

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
            self.digits(around, start..end, found);
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
        while let Some(byte) = text.get(at) {
            // Digits without separators, of which a text can have the most.
            if digits.left >= WORD
                && let Some([eight @ .., next]) = text[at..].first_chunk::<9>()
                && eight.iter().fold(0, |any, byte| any | HEX[usize::from(*byte)]) < 16
                && !matches!(next, b'x' | b'X')
            {
                at += WORD;
                if digits.push_word(self, *eight) {
                    return Walked::Sample(at);
                }
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

    /// Extracts the hexadecimal digits alone.
    fn digits(&self, text: &[u8], part: Range<usize>, found: &mut Vec<Match>) {
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
        self.plain(&digits.bytes, Reading::All, LEVELS, &mut inner);
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

/// The last digits read.
struct Digits {
    last: u64,
    /// How many more are read before they are compared with the samples.
    left: usize,
}

impl Digits {
    fn new(scanner: &Scanner) -> Digits {
        Digits { last: 0, left: scanner.grams.width() }
    }

    /// Takes the next digit. Returns whether the last ones are a sample of a key; any stretch of
    /// the digits of a key that the samples are taken from contains digits compared.
    #[inline]
    fn push(&mut self, scanner: &Scanner, digit: u8) -> bool {
        self.last = self.last >> 8 | u64::from(digit) << 56;
        self.left -= 1;
        self.left == 0 && self.are_a_sample(scanner)
    }

    /// Takes the next eight, if as many are left. They are compared early rather than late.
    #[inline]
    fn push_word(&mut self, scanner: &Scanner, word: [u8; WORD]) -> bool {
        self.last = u64::from_le_bytes(word);
        if self.left < 2 * WORD {
            return self.are_a_sample(scanner);
        }
        self.left -= WORD;
        false
    }

    #[inline(never)]
    fn are_a_sample(&mut self, scanner: &Scanner) -> bool {
        self.left = scanner.grams.stretch() - scanner.grams.width() + 1;
        let last = self.last.to_le_bytes();
        scanner.is_sample(&last[last.len() - scanner.grams.width()..])
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
