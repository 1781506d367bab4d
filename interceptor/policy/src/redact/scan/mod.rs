//! Finds the spellings of real keys in a stream of chunks and replaces them with the placeholder's.
//!
//! # What is held
//! The result does not depend on how the stream is cut into chunks. Each chunk passes at once
//! except for a suffix that may begin a spelling, which waits for the next chunk, the end of the
//! message, or the end of the stream. Only classes of bytes (`run`) and a fixed limit decide what
//! waits: for two streams of the same classes, the same bytes pass at the same time in chunks of
//! the same sizes, unless one of them contains a *whole* key. No pause ever releases anything.
//!
//! White space, quotes and closing braces end a run, so an event (it ends in a blank line), a line
//! of JSON, and any text with such an end pass at once.
//!
//! # What is found
//! The spellings in [`pattern`], with escapes (`escape`), line breaks and separators (`find`)
//! on top in any mixture, up to the limit on a spelling's length; all of that in UTF-16 too
//! (`wide`).

mod block;
mod escape;
mod escaped;
mod find;
mod grams;
mod layers;
mod look;
pub mod pattern;
#[cfg(any(test, feature = "reference"))]
mod reference;
mod respell;
mod run;
mod separated;
mod telling;
#[cfg(test)]
mod tests;
mod undo;
mod wide;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

pub use self::escape::{Reading, may_escape, unescape};
use self::escaped::words_in;
use self::find::Match;
use self::grams::Grams;
use self::pattern::{Encoding, Pattern, forms};
use self::run::{Classes, usual};
use super::LateKey;

/// How many layers of escapes are undone.
pub const LEVELS: usize = 3;

/// The smallest limit on held bytes; spellings of a key of 64 characters are at most half as long.
const LEAST_HELD: usize = 2048;

/// The longest spelling is at most this many times as long as the key.
const STRETCH: usize = 16;

/// How many passed bytes are kept as context before the held ones: lines and escapes may begin
/// there.
const CONTEXT: usize = 64;

/// The compiled keys and their replacements.
pub struct Scanner {
    patterns: Vec<Pattern>,
    grams: Grams,
    classes: Classes,
    /// The spellings in lower case, as they would appear in a header's name.
    lowered: Vec<Zeroizing<Vec<u8>>>,
    /// The bytes that a spelling can contain once its escapes are undone.
    stands: [bool; 256],
    /// Whether keys contain characters that begin escapes.
    own_escapes: bool,
    /// Whether keys contain unusual characters, so that any escape matters.
    every_escape: bool,
    shortest: usize,
    /// How many aligned words of visible bytes in a row the shortest spelling contains.
    words: usize,
    /// The longest spelling that is found: half of `most`.
    longest: usize,
    /// The most bytes held. A power of two, which reveals next to nothing about the keys.
    most: usize,
    /// The distances at which UTF-16 is searched for.
    wide_every: usize,
    /// The distances at which hexadecimal bytes with separators are searched for.
    look_every: usize,
    keeps_length: bool,
}

impl Scanner {
    /// A scanner for these keys, each with its placeholder.
    pub fn new<'a>(keys: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Scanner {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut lowered: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        let mut stands = [false; 256];
        let (mut longest, mut shortest, mut keeps_length) = (0, usize::MAX, true);
        let (mut unusual, mut own_escapes) = (false, false);
        for byte in 0..=255_u8 {
            stands[usize::from(byte)] = usual(byte) || b"\0%\\&#".contains(&byte);
        }
        for (key, placeholder) in keys {
            let new = forms(key, placeholder);
            for form in new.iter().filter(|form| form.encoding != Encoding::Wide) {
                let lower = Zeroizing::new(form.find.to_ascii_lowercase());
                if !lowered.contains(&lower) {
                    lowered.push(lower);
                }
            }
            patterns.extend(new);
            key.iter().for_each(|byte| stands[usize::from(*byte)] = true);
            unusual |= !key.iter().copied().all(usual);
            own_escapes |= may_escape(key);
            longest = longest.max(key.len());
            shortest = shortest.min(key.len());
            keeps_length &= key.len() == placeholder.len();
        }
        let classes = Classes::new(unusual);
        let most = (longest * STRETCH * 2).max(LEAST_HELD).next_power_of_two();
        let least = patterns.iter().map(|form| form.find.len()).min().unwrap_or(0);
        Scanner {
            grams: Grams::new(&patterns),
            classes,
            lowered,
            stands,
            own_escapes,
            every_escape: unusual || own_escapes,
            shortest: least,
            words: words_in(least),
            longest: most / 2,
            most,
            wide_every: shortest.saturating_mul(2).saturating_sub(8).clamp(1, 128),
            look_every: shortest.saturating_mul(2).saturating_sub(7).clamp(1, 128),
            keeps_length,
            patterns,
        }
    }

    /// Whether there is nothing to find.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether every replacement is as long as the text it replaces.
    pub fn keeps_length(&self) -> bool {
        self.keeps_length
    }

    /// How far from a position, in bytes, the text that decides on a match there can reach.
    pub fn reach(&self) -> usize {
        self.most
    }

    /// The longest spelling that is found.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Whether a match begins before `at` and ends after it.
    pub fn straddles(&self, text: &[u8], at: usize) -> bool {
        self.matches(text, 0).iter().any(|hit| hit.start < at && hit.end > at)
    }

    /// Whether the name of a header, in lower case, holds a key.
    pub fn names_a_key(&self, name: &str) -> bool {
        // Few names are as long as any spelling, so most are compared with none.
        let holds = |text: &[u8]| {
            self.lowered.iter().any(|form| text.windows(form.len()).any(|part| part == &form[..]))
        };
        if name.len() < self.shortest || self.is_empty() {
            return false;
        }
        let mut text = Zeroizing::new(name.as_bytes().to_vec());
        for _ in 0..LEVELS {
            let digits: Zeroizing<Vec<u8>> =
                Zeroizing::new(text.iter().copied().filter(u8::is_ascii_hexdigit).collect());
            if holds(&text) || holds(&digits) {
                return true;
            }
            if !may_escape(&text) {
                return false;
            }
            text = unescape(&text, Reading::All).bytes;
            text.make_ascii_lowercase();
        }
        holds(&text)
    }

    /// The text with every match replaced; `None` if it has none.
    pub fn replace(&self, text: &[u8]) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let matches = self.matches(text, 0);
        if matches.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(text.len());
        let (end, count) = self.replace_some(&mut out, text, 0, &matches, text.len());
        out.extend_from_slice(&text[end..]);
        (count > 0).then_some(out)
    }

    /// Appends `text` after `from` to `out`, replacing the matches that begin before `until`, up to
    /// the end of the last one. Returns that end and the number of matches.
    fn replace_some(
        &self,
        out: &mut Vec<u8>,
        text: &[u8],
        from: usize,
        matches: &[Match],
        until: usize,
    ) -> (usize, u64) {
        let (mut at, mut count) = (from, 0);
        for hit in matches.iter().take_while(|hit| hit.start < until) {
            out.extend_from_slice(&text[at..hit.start]);
            let pattern = &self.patterns[hit.pattern];
            match &hit.spans {
                Some(spans) => respell::write(out, text, spans, pattern),
                None => out.extend_from_slice(&pattern.replacement(&text[hit.start..hit.end])),
            }
            at = hit.end;
            count += 1;
        }
        (at, count)
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("patterns", &self.patterns.len()).finish_non_exhaustive()
    }
}

/// The state of one stream through a [`Scanner`].
#[derive(Debug)]
pub struct Scrub {
    scanner: Arc<Scanner>,
    held: Held,
    /// How many bytes in `held` have already passed and are kept as context.
    passed: usize,
    matches: u64,
}

/// Bytes, and the one before them, unless that is of another message.
#[derive(Default)]
struct Held(Zeroizing<Vec<u8>>, Option<u8>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Scrub {
    /// The state at the beginning of a stream.
    pub fn new(scanner: Arc<Scanner>) -> Scrub {
        Scrub { scanner, held: Held::default(), passed: 0, matches: 0 }
    }

    /// Searches with another scanner from here on, what is held too.
    ///
    /// # Errors
    /// The other would have held bytes that have passed.
    pub fn renew(&mut self, scanner: &Arc<Scanner>) -> Result<(), LateKey> {
        let (new, old) = (&scanner.classes, &self.scanner.classes);
        let holds_more = new.are_wider_than(old) || scanner.most > self.scanner.most;
        if holds_more && !new.wait_behind(self.passed, &self.held.0, self.held.1) {
            return Err(LateKey);
        }
        self.scanner = Arc::clone(scanner);
        Ok(())
    }

    /// The number of matches replaced so far.
    pub fn matches(&self) -> u64 {
        self.matches
    }

    /// The number of bytes held, assuming nothing in them is replaced.
    pub fn owed(&self) -> usize {
        self.held.0.len() - self.passed
    }

    /// Takes a chunk and returns the bytes that can pass: the chunk itself, uncopied, if nothing
    /// was held and nothing in it matters.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.scanner.is_empty() || chunk.is_empty() {
            return chunk;
        }
        let text = if self.held.0.is_empty() {
            chunk
        } else {
            Bytes::from([&self.held.0[..], &chunk].concat())
        };
        let (most, longest) = (self.scanner.most, self.scanner.longest);
        let mut hold = self.scanner.classes.tail(&text, most);
        // Half of an endless run passes at once, so that a stream of single bytes is not searched
        // again for each byte.
        if text.len() - hold == most {
            hold = text.len() - longest;
        }
        let hold = hold.max(self.passed);
        self.advance(text, hold)
    }

    /// The end of a message inside the stream: returns the held bytes. No key spans two messages.
    pub fn boundary(&mut self) -> Bytes {
        let text = std::mem::take(&mut *self.held.0);
        let end = text.len();
        let passed = self.advance(Bytes::from(text), end);
        self.held.1 = None;
        passed
    }

    /// The end of the stream: returns the held bytes.
    pub fn finish(&mut self) -> Bytes {
        self.boundary()
    }

    /// Returns `text` up to `hold`, except its first `self.passed` bytes, and holds the rest.
    fn advance(&mut self, text: Bytes, mut hold: usize) -> Bytes {
        let from = self.passed;
        // While all of it is held, there is nothing to decide.
        let matches = if hold == from { Vec::new() } else { self.scanner.matches(&text, from) };
        if matches.first().is_none_or(|hit| hit.start >= hold) {
            self.keep(&text, hold);
            return text.slice(from..hold);
        }
        let mut out = Vec::with_capacity(text.len());
        let (end, count) = self.scanner.replace_some(&mut out, &text, from, &matches, hold);
        self.matches += count;
        hold = hold.max(end);
        out.extend_from_slice(&text[end..hold]);
        self.keep(&text, hold);
        // Other owners keep the chunk; our own copy is wiped.
        if let Ok(text) = text.try_into_mut() {
            drop(Zeroizing::new(Vec::from(text)));
        }
        Bytes::from(out)
    }

    /// Holds `text` from `hold` on, with a little context before it.
    fn keep(&mut self, text: &[u8], hold: usize) {
        let from = if hold == text.len() { hold } else { hold.saturating_sub(CONTEXT) };
        let before = text[..from].last().copied().or(self.held.1);
        self.held = Held(Zeroizing::new(text[from..].to_vec()), before);
        self.passed = hold - from;
    }
}
