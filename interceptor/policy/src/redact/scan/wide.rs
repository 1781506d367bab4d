//! UTF-16 of ASCII in either byte order. Its characters are searched like any text.
//!
//! Only visible characters count, because only they are held ([`super::run`]).

use std::ops::Range;

use zeroize::{Zeroize, Zeroizing};

use super::Scanner;
use super::escape::Decoded;
use super::find::Match;
use super::layers::Layers;
use super::run::count_back;

const EVEN: u64 = u64::MAX / 0xffff * 0xff;

impl Scanner {
    /// Searches UTF-16.
    pub(super) fn wide(&self, text: &[u8], found: &mut Vec<Match>) {
        let every = self.wide_every;
        let (mut from, mut done) = (0, 0);
        let mut layers = Layers::default();
        let mut look = |at: usize| {
            let window = text.get(at..).and_then(|rest| rest.first_chunk());
            if at < done || !window.is_some_and(looks_wide) {
                return;
            }
            let run = run_through(text, at, done);
            done = run.end.max(at + 1);
            self.run(text, run, &mut layers, found);
        };
        while let Some(block) = text.get(from..from + every * 7 + 8) {
            let mut any = false;
            for sample in 0..8 {
                let window = block[sample * every..].first_chunk();
                any |= window.is_some_and(looks_wide);
            }
            if any {
                (0..8).for_each(|sample| look(from + sample * every));
            }
            from += every * 8;
        }
        (from..text.len()).step_by(every).for_each(look);
    }

    fn run(&self, text: &[u8], run: Range<usize>, layers: &mut Layers, found: &mut Vec<Match>) {
        let mut rest = run.start + usize::from(text[run.start] == 0)..run.end;
        // In pieces that overlap by the longest spelling, so that one that shows something costs
        // little more than the others.
        while rest.len().div_ceil(2) >= self.shortest {
            let part = rest.start..rest.end.min(rest.start + 4 * self.most);
            self.part(text, part.clone(), layers, found);
            rest.start = if part.end == rest.end { rest.end } else { part.end - 2 * self.longest };
        }
    }

    /// Searches a part that begins with a character and has a NUL behind each.
    fn part(&self, text: &[u8], part: Range<usize>, layers: &mut Layers, found: &mut Vec<Match>) {
        let mut narrow: Vec<u8> = text[part.clone()].iter().step_by(2).copied().collect();
        if !self.shows(&narrow, layers) {
            return;
        }
        narrow.zeroize();
        layers.wipe();
        let mut narrow = Decoded::default();
        for at in part.step_by(2) {
            narrow.push(text[at], at, at + 1);
        }
        let mut inner = Vec::new();
        self.narrow(&narrow.bytes, &mut inner);
        found.extend(inner.into_iter().map(|hit| hit.outside(&narrow, 0)));
    }
}

/// Whether every other byte, but not every byte, is zero.
#[inline(always)]
fn looks_wide(window: &[u8; 8]) -> bool {
    let word = u64::from_le_bytes(*window);
    (word & EVEN == 0) ^ (word & !EVEN == 0)
}

/// The stretch of visible characters separated by NULs that contains `at`, not before `least`.
fn run_through(text: &[u8], at: usize, least: usize) -> Range<usize> {
    let fits = |nul: &mut bool, byte: u8| {
        let fits = if *nul { byte == 0 } else { byte.is_ascii_graphic() };
        *nul = !*nul;
        fits
    };
    let mut nul = text[at] == 0;
    let mut back = !nul;
    let start = at - count_back(&text[least..at], |byte| fits(&mut back, byte));
    let length = text[at..].iter().take_while(|byte| fits(&mut nul, **byte)).count();
    start..at + length
}

/// Whether the match at `spans` is UTF-16: nothing else has a NUL after its first byte.
pub(super) fn is_wide(text: &[u8], spans: &[Range<usize>]) -> bool {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return false };
    last.end - first.start > 1 && text[first.start + 1] == 0
}

/// The characters of a match without the NULs, and the position of each part among them.
pub(super) fn narrowed(
    text: &[u8],
    spans: &[Range<usize>],
) -> (Zeroizing<Vec<u8>>, Vec<Range<usize>>) {
    let from = spans.first().map_or(0, |span| span.start);
    let end = spans.last().map_or(0, |span| span.end);
    let bytes = Zeroizing::new(text[from..end].iter().step_by(2).copied().collect());
    let inner = |at: usize| (at - from).div_ceil(2);
    (bytes, spans.iter().map(|span| inner(span.start)..inner(span.end)).collect())
}

/// Appends `narrow` to `out` with a NUL between each two characters.
pub(super) fn widen(out: &mut Vec<u8>, narrow: &[u8]) {
    for (at, byte) in narrow.iter().enumerate() {
        if at > 0 {
            out.push(0);
        }
        out.push(*byte);
    }
}
