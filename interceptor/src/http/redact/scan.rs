//! Finds the forms of real keys in a stream of chunks and writes the placeholder's instead.
//!
//! The result does not depend on how the stream was cut. Of a chunk, everything is passed on at once but a suffix that
//! may be the beginning of a match; that suffix is held until the next chunk, or the end, decides. Two things keep that
//! from delaying anybody:
//!
//! - What a key and its placeholder have in common at their beginning (`sk-`, `ghp_`) is passed on even so: it is the
//!   same in either case.
//! - No form of a key holds white space or a line end, so a complete server-sent event, or any text that ends in a line
//!   end, is never held.
//!
//! The search automaton knows only the first bytes of each form, at most eight and at most half; whole forms are in
//! zeroized memory, and a candidate is compared with them.

use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, Input, MatchKind};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::pattern::{Pattern, forms};

/// What to find and what to put in its place, compiled.
pub(crate) struct Scanner {
    fragments: AhoCorasick,
    patterns: Vec<Pattern>,
    /// The keys themselves in lower case, as they would stand in the name of a header.
    lowered: Vec<Zeroizing<Vec<u8>>>,
    first_bytes: [bool; 256],
    longest: usize,
    keeps_length: bool,
}

/// The suffix of a text that may begin a match.
struct Hold {
    /// Where it begins; the length of the text where there is none.
    start: usize,
    /// How many of its bytes come out the same whatever follows.
    settled: usize,
}

impl Scanner {
    /// A scanner for these keys, each with its placeholder.
    ///
    /// # Errors
    /// The keys together are too large for a search automaton (hundreds of megabytes).
    pub(crate) fn new<'a>(
        keys: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Scanner, aho_corasick::BuildError> {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut lowered = Vec::new();
        for (key, placeholder) in keys {
            patterns.extend(forms(key, placeholder));
            lowered.push(Zeroizing::new(key.to_ascii_lowercase()));
        }
        let fragments =
            patterns.iter().map(|pattern| &pattern.find[..(pattern.find.len().div_ceil(2)).min(8)]);
        let mut first_bytes = [false; 256];
        patterns
            .iter()
            .filter_map(|pattern| pattern.find.first())
            .for_each(|byte| first_bytes[usize::from(*byte)] = true);
        Ok(Scanner {
            fragments: AhoCorasickBuilder::new().match_kind(MatchKind::LeftmostFirst).build(fragments)?,
            longest: patterns.iter().map(|pattern| pattern.find.len()).max().unwrap_or(0),
            keeps_length: patterns.iter().all(|pattern| pattern.find.len() == pattern.replacement.len()),
            lowered,
            first_bytes,
            patterns,
        })
    }

    /// Whether there is nothing to find.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether every replacement is as long as what it replaces.
    pub(crate) fn keeps_length(&self) -> bool {
        self.keeps_length
    }

    /// Whether the name of a header, in lower case, holds a key.
    pub(crate) fn names_a_key(&self, name: &str) -> bool {
        self.lowered.iter().any(|key| name.as_bytes().windows(key.len()).any(|part| part == &key[..]))
    }

    /// The length of the longest match, and so how much on both sides of a place decides what is found there, bytes.
    pub(crate) fn reach(&self) -> usize {
        self.longest
    }

    /// Whether a match begins before `at` and ends behind it.
    pub(crate) fn straddles(&self, text: &[u8], at: usize) -> bool {
        let mut from = 0;
        while let Some((start, pattern)) = self.find(text, from).filter(|(start, _)| *start < at) {
            if start + pattern.find.len() > at {
                return true;
            }
            from = start + 1;
        }
        false
    }

    /// The text with every match replaced; `None` where it has none.
    pub(crate) fn replace(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.find(text, 0)?;
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some((start, pattern)) = self.find(text, at) {
            out.extend_from_slice(&text[at..start]);
            out.extend_from_slice(&pattern.replacement);
            at = start + pattern.find.len();
        }
        out.extend_from_slice(&text[at..]);
        Some(out)
    }

    /// The leftmost match at or behind `from`; of several there, the longest.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, &Pattern)> {
        let mut at = from;
        while let Some(candidate) = self.fragments.find(Input::new(text).range(at..)) {
            let here = &text[candidate.start()..];
            let matching = self.patterns.iter().filter(|pattern| here.starts_with(&pattern.find));
            if let Some(pattern) = matching.max_by_key(|pattern| pattern.find.len()) {
                return Some((candidate.start(), pattern));
            }
            at = candidate.start() + 1;
        }
        None
    }

    /// Which suffix of `text`, not beginning before `from`, must wait for what follows.
    fn hold(&self, text: &[u8], from: usize) -> Hold {
        let mut hold = Hold { start: text.len(), settled: usize::MAX };
        let window = from.max((text.len() + 1).saturating_sub(self.longest));
        for start in (window..text.len()).filter(|start| self.first_bytes[usize::from(text[*start])]) {
            let rest = &text[start..];
            let begins =
                |pattern: &Pattern| rest.len() < pattern.find.len() && pattern.find.starts_with(rest);
            if hold.start == text.len() {
                if !self.patterns.iter().any(begins) {
                    continue;
                }
                hold.start = start;
            }
            for pattern in &self.patterns {
                let complete = rest.starts_with(&pattern.find);
                if complete || begins(pattern) {
                    hold.settled = hold.settled.min(start - hold.start + pattern.shared);
                }
            }
        }
        hold.settled = hold.settled.min(text.len() - hold.start);
        hold
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("patterns", &self.patterns.len()).finish_non_exhaustive()
    }
}

/// One stream on its way through a [`Scanner`].
#[derive(Debug)]
pub(crate) struct Scrub {
    scanner: Arc<Scanner>,
    held: Held,
    /// How many of the held bytes were passed on already.
    passed: usize,
    matches: u64,
}

struct Held(Zeroizing<Vec<u8>>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Scrub {
    pub(crate) fn new(scanner: Arc<Scanner>) -> Scrub {
        Scrub { scanner, held: Held(Zeroizing::default()), passed: 0, matches: 0 }
    }

    /// How many matches were replaced so far.
    pub(crate) fn matches(&self) -> u64 {
        self.matches
    }

    /// How many bytes were taken and are still to come out, if nothing is replaced.
    pub(crate) fn owed(&self) -> usize {
        self.held.0.len() - self.passed
    }

    /// Takes a chunk and gives what can be passed on: the chunk itself, uncopied, where nothing in it matters.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Bytes {
        let scanner = Arc::clone(&self.scanner);
        if scanner.is_empty() || chunk.is_empty() {
            return chunk;
        }
        if self.held.0.is_empty() {
            return self.push_fresh(&scanner, chunk);
        }
        let within_reach = chunk.get(..scanner.longest - 1);
        if let Some(reach) = within_reach {
            let seam = Zeroizing::new([&self.held.0[..], reach].concat());
            if scanner.find(&seam, 0).is_none_or(|(start, _)| start >= self.held.0.len()) {
                // What was held began no match after all. Mostly it was with the client already, and nothing is copied.
                let owed = std::mem::take(&mut self.held.0);
                let owed = &owed[self.passed..];
                let fresh = self.push_fresh(&scanner, chunk);
                return if owed.is_empty() { fresh } else { [owed, &fresh].concat().into() };
            }
        }
        let text = Zeroizing::new([&self.held.0[..], &chunk].concat());
        self.advance(&scanner, &text, false)
    }

    /// Takes a chunk while nothing is held.
    fn push_fresh(&mut self, scanner: &Scanner, chunk: Bytes) -> Bytes {
        self.passed = 0;
        if scanner.find(&chunk, 0).is_some() {
            return self.advance(scanner, &chunk, false);
        }
        let hold = scanner.hold(&chunk, 0);
        self.keep(&chunk, &hold, 0);
        let passed = hold.start + self.passed;
        if passed == chunk.len() { chunk } else { chunk.slice(..passed) }
    }

    /// The end of a message inside the stream: gives what was held. Nothing spans it.
    pub(crate) fn boundary(&mut self) -> Bytes {
        self.finish()
    }

    /// The end of the stream: gives what was held.
    pub(crate) fn finish(&mut self) -> Bytes {
        let scanner = Arc::clone(&self.scanner);
        let text = std::mem::take(&mut self.held.0);
        self.advance(&scanner, &text, true)
    }

    /// Replaces what can be decided in `text`, of which the first `self.passed` bytes are with the client already, and
    /// holds the rest.
    fn advance(&mut self, scanner: &Scanner, text: &[u8], end: bool) -> Bytes {
        let passed = self.passed;
        let nothing = || Hold { start: text.len(), settled: 0 };
        let holding = |from| if end { nothing() } else { scanner.hold(text, from) };
        let mut out = BytesMut::with_capacity(text.len());
        let copy = |out: &mut BytesMut, from: usize, to: usize| {
            out.extend_from_slice(text.get(from.max(passed)..to).unwrap_or_default());
        };
        let mut at = 0;
        let mut hold = holding(at);
        while let Some((start, pattern)) = scanner.find(text, at).filter(|(start, _)| *start < hold.start) {
            copy(&mut out, at, start);
            // Bytes of the key that were released after a pause are no beginning of the replacement: give it whole.
            let shown = passed.saturating_sub(start);
            let shown = if shown <= pattern.shared { shown } else { 0 };
            out.extend_from_slice(&pattern.replacement[shown..]);
            self.matches += 1;
            at = start + pattern.find.len();
            if hold.start < at {
                hold = holding(at);
            }
        }
        copy(&mut out, at, hold.start);
        self.keep(text, &hold, passed.saturating_sub(hold.start));
        copy(&mut out, hold.start.max(passed), hold.start + self.passed);
        out.freeze()
    }

    /// Holds the suffix, of which `passed` bytes are with the client already.
    fn keep(&mut self, text: &[u8], hold: &Hold, passed: usize) {
        self.held.0.clear();
        self.held.0.extend_from_slice(&text[hold.start..]);
        self.passed = passed.max(hold.settled);
    }
}
