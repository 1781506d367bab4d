//! Finds every spelling of every key in a text.
//!
//! It searches the text as it is; then the digits alone where separated hexadecimal bytes seem to
//! be; then each run with escapes ([`super::escaped`]) with its escapes undone, if that shows part
//! of a key ([`super::layers`]), and in that the same again. Each part of a text is read once at
//! each of at most [`LEVELS`](super::LEVELS) depths, whatever it contains.

use std::ops::Range;

use super::escape::{Decoded, Reading, may_escape, read, unescape};
use super::grams::Hit;
use super::layers::Layers;
use super::run::{break_length, escaped_break_length};
use super::{LEVELS, Scanner};

/// A whole key in a text.
pub(super) struct Match {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) pattern: usize,
    /// The position of each character of the pattern; `None` if they are contiguous.
    pub(super) spans: Option<Vec<Range<usize>>>,
}

impl Match {
    /// The same match in the text that `decoded` was read from, which begins at `from`.
    pub(super) fn outside(self, decoded: &Decoded, from: usize) -> Match {
        let outer = |inner: Range<usize>| {
            let (first, last) = (&decoded.spans[inner.start], &decoded.spans[inner.end - 1]);
            from + first.start as usize..from + last.end as usize
        };
        let spans: Vec<Range<usize>> = match self.spans {
            Some(spans) => spans.into_iter().map(outer).collect(),
            None => (self.start..self.end).map(|at| outer(at..at + 1)).collect(),
        };
        let whole = outer(self.start..self.end);
        Match { start: whole.start, end: whole.end, pattern: self.pattern, spans: Some(spans) }
    }
}

impl Scanner {
    /// The matches that begin at or after `from`, left to right and without overlaps; the longest
    /// of several at one position.
    pub(super) fn matches(&self, text: &[u8], from: usize) -> Vec<Match> {
        let mut found = Vec::new();
        if text.len() < self.shortest {
            return found;
        }
        self.narrow(text, &mut found);
        self.wide(text, &mut found);
        if found.is_empty() { found } else { self.chosen(found, from) }
    }

    /// Those of all matches that are replaced.
    pub(super) fn chosen(&self, mut found: Vec<Match>, from: usize) -> Vec<Match> {
        found.retain(|hit| hit.start >= from && hit.end - hit.start <= self.longest);
        let simple = |hit: &Match| (hit.pattern, hit.spans.is_some());
        found.sort_by(|a, b| (a.start, b.end, simple(a)).cmp(&(b.start, a.end, simple(b))));
        let mut end = 0;
        found.retain(|hit| {
            let free = hit.start >= end;
            end = if free { hit.end } else { end };
            free
        });
        found
    }

    /// Searches text in single bytes.
    pub(super) fn narrow(&self, text: &[u8], found: &mut Vec<Match>) {
        self.search(text, Reading::All, 0, found);
        if self.own_escapes {
            for reading in [Reading::Percent, Reading::Backslash, Reading::Reference] {
                self.escaped(text, reading, 0, found);
            }
        }
    }

    fn search(&self, text: &[u8], reading: Reading, level: usize, found: &mut Vec<Match>) {
        self.plain(text, reading, level, found);
        self.separated(text, (reading, level), found);
        if level < LEVELS {
            self.escaped(text, reading, level, found);
        }
    }

    /// Searches for spellings without separators, with line breaks and at most the usual escapes.
    pub(super) fn plain(
        &self,
        text: &[u8],
        reading: Reading,
        level: usize,
        found: &mut Vec<Match>,
    ) {
        let mut done = 0;
        self.grams.each(text, |hit| {
            if !self.stands(text, hit) {
                return;
            }
            let whole = if hit.skip == 0 {
                self.around(text, hit.at, hit.pattern, hit.offset)
            } else {
                None
            };
            if let Some(hit) = whole {
                let known = found.last().is_some_and(|last| {
                    (last.start, last.end, last.pattern) == (hit.start, hit.end, hit.pattern)
                });
                if !known {
                    found.push(hit);
                }
            }
            // The rest may be escaped, or more of it.
            if level < LEVELS && hit.at >= done {
                done = self.run_undone(text, hit.at, done, (reading, level), found);
            }
        });
    }

    /// Searches the run around `at` with its escapes undone. Returns its end.
    pub(super) fn run_undone(
        &self,
        text: &[u8],
        at: usize,
        done: usize,
        (reading, level): (Reading, usize),
        found: &mut Vec<Match>,
    ) -> usize {
        let least = done.max(at.saturating_sub(self.most));
        let run = self.classes.run_before(text, at, least)..self.classes.run_behind(text, at);
        let end = run.end;
        if may_escape(&text[run.clone()]) {
            self.undone(text, run, reading, level, found);
        }
        end
    }

    /// Whether a sample really is the one its hash suggests.
    pub(super) fn stands(&self, text: &[u8], hit: Hit) -> bool {
        let pattern = &self.patterns[hit.pattern];
        let (mut here, end) = (hit.at + hit.skip, hit.at + self.grams.width());
        for expected in &pattern.find[hit.offset..] {
            if here >= end {
                break;
            }
            let rest = text.get(here..).unwrap_or_default();
            let literal = rest.first().is_some_and(|byte| pattern.encoding.same(*byte, *expected));
            here += match read(rest, Reading::All) {
                _ if literal => 1,
                Some((byte, length)) if pattern.encoding.same(byte, *expected) => length,
                _ => return false,
            };
        }
        true
    }

    /// Whether these bytes are a sample of a pattern. Exact, unlike their hash.
    pub(super) fn is_sample(&self, bytes: &[u8]) -> bool {
        let mut stands = false;
        self.grams.look(bytes, 0, &mut |hit| stands |= self.stands(bytes, hit));
        stands
    }

    /// Searches a run with its escapes undone.
    fn undone(
        &self,
        text: &[u8],
        run: Range<usize>,
        reading: Reading,
        level: usize,
        found: &mut Vec<Match>,
    ) {
        if run.len() < self.shortest {
            return;
        }
        let decoded = unescape(&text[run.clone()], reading);
        let mut inner = Vec::new();
        self.search(&decoded.bytes, reading, level + 1, &mut inner);
        found.extend(inner.into_iter().map(|hit| hit.outside(&decoded, run.start)));
    }

    /// The match whose character `offset` is at `at`.
    pub(super) fn around(
        &self,
        text: &[u8],
        at: usize,
        pattern: usize,
        offset: usize,
    ) -> Option<Match> {
        let (find, encoding) = (&self.patterns[pattern].find[..], self.patterns[pattern].encoding);
        let start = at.checked_sub(offset);
        if let Some(start) = start.filter(|start| encoding.begins(&text[*start..], find)) {
            return Some(Match { start, end: start + find.len(), pattern, spans: None });
        }
        let same = |pair: &(&u8, &u8)| encoding.same(*pair.0, *pair.1);
        let stands = |at: usize, index: usize| {
            text.get(at).is_some_and(|byte| encoding.same(*byte, find[index]))
        };
        let behind = text[at..].iter().zip(&find[offset..]).take_while(same).count();
        let before =
            text[..at].iter().rev().zip(find[..offset].iter().rev()).take_while(same).count();
        if !encoding.wraps() || before + behind < self.grams.reach() {
            return None;
        }
        let mut places = vec![0; find.len()];
        let mut here = at;
        for index in (0..offset).rev() {
            // After a backslash, `n` is not a character of base64.
            if let Some(start) = self.classes.any_break_before(text, here) {
                here = start;
            }
            here = here.checked_sub(1).filter(|at| stands(*at, index))?;
            places[index] = here;
        }
        let mut here = at;
        for (index, place) in places.iter_mut().enumerate().skip(offset) {
            if !stands(here, index) {
                let rest = text.get(here..)?;
                let length = break_length(rest).max(escaped_break_length(rest));
                (length > 0 && self.classes.may_break(text, here)).then_some(())?;
                here += length;
                stands(here, index).then_some(())?;
            }
            *place = here;
            here += 1;
        }
        let spans = places.iter().map(|place| *place..place + 1).collect();
        Some(Match { start: *places.first()?, end: here, pattern, spans: Some(spans) })
    }

    /// Searches text with its escapes undone.
    fn escaped(&self, text: &[u8], reading: Reading, level: usize, found: &mut Vec<Match>) {
        let mut layers = Layers::default();
        let mut shown = false;
        self.each_escaped_run(text, reading, &mut |run| {
            if self.run_shows(text, run.clone(), (reading, level), &mut layers) {
                shown = true;
                self.undone(text, run, reading, level, found);
            }
        });
        if shown {
            layers.wipe();
        }
    }
}
