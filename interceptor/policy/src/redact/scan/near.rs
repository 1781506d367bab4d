//! Dismisses escapes that are part of no key because of what stands beside them.
//!
//! # Why no key is missed
//! Whatever the escapes, one stretch of a key shows without them an unbroken part, which has twice
//! the length of a sample and which the samples are taken from ([`super::grams`]). If that part is
//! written without escapes, or with those that are in the samples, it is found as it is. Otherwise
//! consider its first other escape. Every character of the part is itself, or begins with a
//! character that begins escapes; so the first such character begins a character of the key. If it
//! is in the first half, a sample follows when escapes are undone from there on; else a sample
//! stands right before it, as it is.
//!
//! Hexadecimal bytes with separators are not compared with samples: the first escape in a key of
//! them is followed or preceded by eight digits that may be a key's.
//!
//! That first character may be no escape by itself, but become one when the escapes behind it are
//! undone: `\u00` and an escaped `41`. So what stands directly before an escape counts as well.

use memchr::memchr3;

use super::escape::{Reading, introducers, read};
use super::look::HEX;
use super::run::LONGEST_SEPARATOR;
use super::separated::GAP;
use super::{LEVELS, Scanner};

/// How many bytes with their escapes undone are looked at.
const VIEW: usize = 128;

/// The longest escape, after any number of backslashes: the name of a character, escaped eight
/// times over, or as many digits.
const LONGEST_ESCAPE: usize = 64;

/// The beginning of a text with its escapes undone.
struct View {
    bytes: [u8; VIEW],
    length: usize,
    /// Whether the text goes on, so that the last bytes may still change.
    cut: bool,
}

/// What a text begins with.
#[derive(PartialEq, Eq)]
enum Read {
    /// Digits of bytes that may stand in a key.
    Digits,
    /// Something else, which shows here.
    Other(usize),
    /// Too few bytes to tell.
    End,
}

impl Scanner {
    /// Whether the escape of `byte` at `at`, or one that begins directly before it but not before
    /// `least`, may be the first in the last stretch of a key.
    pub(super) fn may_spell(&self, text: &[u8], at: usize, byte: u8, least: usize) -> bool {
        // A separator stands behind a digit, or behind another one.
        if !self.stands[usize::from(byte)]
            && !at.checked_sub(1).is_some_and(|before| self.classes.is_among(text[before]))
        {
            return false;
        }
        if self.is_beside_a_sample(text, at) {
            return true;
        }
        let least = least.max(at.saturating_sub(LONGEST_ESCAPE));
        for here in (least..at).rev() {
            match text[here] {
                b'\\' if text[here + 1] == b'\\' => {}
                b'%' | b'\\' | b'&' => match read(&text[here..], Reading::All) {
                    Some((byte, _)) if !self.may_occur(byte) => return false,
                    None if never_an_escape(&text[here..]) => return false,
                    _ if self.is_beside_a_sample(text, here) => return true,
                    _ => {}
                },
                byte if byte.is_ascii_alphanumeric() || b"#;{".contains(&byte) => {}
                _ => return false,
            }
        }
        false
    }

    fn is_beside_a_sample(&self, text: &[u8], at: usize) -> bool {
        self.is_before_a_sample(&text[at..]) || self.is_behind_a_sample(&text[..at])
    }

    /// Whether a byte may occur in a spelling, or in one that is still escaped.
    fn may_occur(&self, byte: u8) -> bool {
        self.occurs[usize::from(byte)]
    }

    /// Whether `text` ends with a sample, or with digits of bytes that may stand in a key.
    fn is_behind_a_sample(&self, text: &[u8]) -> bool {
        let width = self.grams.width();
        let slashes = text.iter().rev().take_while(|byte| **byte == b'\\').count();
        let text = &text[..text.len() - slashes];
        let Some(sample) = text.len().checked_sub(width).map(|from| &text[from..]) else {
            return false;
        };
        if self.is_sample(sample) {
            return true;
        }
        let mut digits = [0; 8];
        let (mut left, mut gap, mut end) = (digits.len(), 0, text.len());
        while let Some(byte) = text[..end].last()
            && left > 0
            && gap <= LONGEST_SEPARATOR
            && self.classes.is_among(*byte)
        {
            end -= 1;
            match byte {
                b'x' | b'X' if text[..end].ends_with(b"0") => end -= 1,
                _ if byte.is_ascii_hexdigit() => {
                    left -= 1;
                    digits[left] = *byte;
                    gap = 0;
                }
                // Line ends in strings within strings.
                b'\\' => {}
                _ => gap += 1,
            }
            if text.len() - end > VIEW {
                return true;
            }
        }
        left == 0 && self.are_of_bytes(&digits)
    }

    /// Whether `text` begins with such, once its escapes are undone.
    fn is_before_a_sample(&self, text: &[u8]) -> bool {
        // The first few bytes nearly always tell.
        let lengths = [self.grams.width(), VIEW / 4, VIEW].into_iter();
        let told = |length| self.is_before(&self.undone_once(text, false, length));
        lengths.map(told).find_map(|told| told).unwrap_or(true)
    }

    /// Whether a text begins with a sample at one of the levels; `None` if it ends too early.
    fn is_before(&self, view: &View) -> Option<bool> {
        let width = self.grams.width();
        let mut again;
        let mut view = view;
        for _ in 0..LEVELS {
            let seen = &view.bytes[..view.length];
            if view.length < width {
                return (!view.cut).then_some(false);
            }
            let read = self.begins_with_digits(seen);
            if self.is_sample(&seen[..width]) || read == Read::Digits {
                return Some(true);
            }
            // The bytes before the first escape are the same at every further level.
            let first = memchr3(b'%', b'\\', b'&', seen).unwrap_or(seen.len());
            match read {
                Read::Other(at) if first >= width && at < first => return Some(false),
                Read::End if view.cut => return None,
                _ if first == seen.len() => return (!view.cut).then_some(false),
                _ => {}
            }
            let next = self.undone_once(seen, view.cut, VIEW);
            // Where nothing changes, nothing ever will.
            let settled = next.bytes[..next.length] == seen[..next.length];
            if let Read::Other(at) = read
                && settled
                && at.max(width) + longest_escape(seen[first]) <= next.length
            {
                return Some(false);
            }
            again = next;
            view = &again;
        }
        Some(false)
    }

    /// Whether `text` begins with digits of bytes that may all stand in a key.
    fn begins_with_digits(&self, text: &[u8]) -> Read {
        let mut digits = [0; 8];
        let mut at = 0;
        for digit in &mut digits {
            let gap = self.classes.gap(text, at);
            at += gap;
            match text.get(at) {
                None => return Read::End,
                Some(next) if gap <= GAP && next.is_ascii_hexdigit() => *digit = *next,
                Some(_) => return Read::Other(at),
            }
            at += 1;
        }
        if self.are_of_bytes(&digits) { Read::Digits } else { Read::Other(at - 1) }
    }

    /// Whether these digits, of whole bytes or cut at both ends, are of bytes that stand in keys.
    fn are_of_bytes(&self, digits: &[u8; 8]) -> bool {
        let stands = |pairs: &[u8]| {
            pairs.as_chunks::<2>().0.iter().all(|[high, low]| {
                self.stands[usize::from(HEX[usize::from(*high)] << 4 | HEX[usize::from(*low)])]
            })
        };
        stands(digits) || stands(&digits[1..])
    }

    /// The first `most` bytes of `text` with its escapes undone, or those before a byte that no
    /// spelling contains. If `open`, `text` goes on beyond its end.
    fn undone_once(&self, text: &[u8], open: bool, most: usize) -> View {
        let mut view = View { bytes: [0; VIEW], length: 0, cut: false };
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            let (byte, length) = match byte {
                b'%' | b'\\' | b'&' => {
                    let escape = read(&text[at..], Reading::All);
                    let needed = escape.map_or(longest_escape(*byte), |(_, length)| length + 1);
                    if open && text.len() - at < needed {
                        break;
                    }
                    if escape.is_none() && never_an_escape(&text[at..]) {
                        return view;
                    }
                    // A run of backslashes counts as one.
                    escape.unwrap_or_else(|| (*byte, introducers(&text[at..])))
                }
                _ => (*byte, 1),
            };
            if !self.may_occur(byte) {
                return view;
            }
            if view.length == most {
                view.cut = true;
                break;
            }
            view.bytes[view.length] = byte;
            view.length += 1;
            at += length;
        }
        view.cut |= open;
        view
    }
}

/// Whether what begins like an escape but is none will be none when the escapes behind it are
/// undone either: what would have to change is not escaped.
fn never_an_escape(text: &[u8]) -> bool {
    let text = &text[introducers(text) - 1..];
    let literal = |byte: &u8| byte.is_ascii_alphanumeric() || b"#{;".contains(byte);
    let fixed = match text {
        [b'%' | b'\\', b'u', ..] => 5,
        [b'\\', b'x', ..] => 3,
        [b'%', ..] => 2,
        _ => LONGEST_ESCAPE,
    };
    let behind = &text[1..text.len().min(1 + fixed)];
    match behind.iter().position(|byte| !literal(byte)) {
        Some(end) => !matches!(behind[end], b'%' | b'\\' | b'&'),
        None => behind.len() == fixed && fixed < LONGEST_ESCAPE && !behind.contains(&b'{'),
    }
}

/// The length of the longest escape that begins with this; a run of backslashes counts as one.
fn longest_escape(first: u8) -> usize {
    match first {
        b'%' => 6,
        b'\\' => 12,
        // A name, escaped eight times over.
        _ => LONGEST_ESCAPE,
    }
}
