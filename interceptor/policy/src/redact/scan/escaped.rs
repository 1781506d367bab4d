//! Finds the runs of a text that may hold a key with escapes.
//!
//! Such a run is at least as long as the shortest spelling and has an escape that may be part of a
//! key ([`super::look`], [`super::telling`]). In most texts full of escapes no run is as long as
//! that, because spaces, quotes and brackets end a run. Where many are too short, the search looks
//! for words of eight visible bytes in a row, at many places at once, before it walks along the
//! next.
//!
//! # Why no window with such a run is dismissed
//! A spelling consists of visible bytes and of line breaks, each with sixteen visible bytes
//! directly before it ([`may_break`](super::run::Classes::may_break)). Consider one with an escape
//! at least [`BEFORE`] bytes behind the beginning of a window and [`BEHIND`] before its end. If
//! [`BEHIND`] visible bytes precede or follow the escape, or the spelling has no break, the window
//! contains enough visible bytes for [`Scanner::words`] aligned words of them in a row. If not,
//! the line of the escape is short and ends in a break or begins behind one: the sixteen bytes
//! before that break contain an aligned word, and lie in the window.
//!
//! # Cost
//! A constant number of steps for each byte, whatever the text.

use std::ops::Range;

use super::Scanner;
use super::escape::{HIGH, ONES, Reading, WORD};
use super::look::look_for_escapes;

/// Behind a run that is too short, a window is looked at first within this distance.
const NEAR: usize = 64;
/// The bytes that are looked at together.
const WINDOW: usize = 512;
/// How far before an escape the window begins: half of a shortest line, the line break with its
/// indent, sixteen bytes, and the rest of a word.
const BEFORE: usize = 104;
/// How far behind the last escape the window ends.
const BEHIND: usize = 40;

/// The most words in a row that are asked for.
const MOST_WORDS: usize = (BEHIND - WORD + 1) / WORD;

/// How many whole aligned words any `length` bytes contain, at most as many as are asked for; zero
/// if not even a line is certain to contain one.
pub(super) fn words_in(length: usize) -> usize {
    ((length + 1).saturating_sub(WORD) / WORD).min(MOST_WORDS)
}

impl Scanner {
    /// Calls `visit` with each run that is long enough for a spelling and has an escape that tells
    /// ([`super::telling`]), from left to right.
    pub(super) fn each_escaped_run(
        &self,
        text: &[u8],
        reading: Reading,
        visit: &mut dyn FnMut(Range<usize>),
    ) {
        // What is before `next` is dealt with; `done` and `short` are the ends of the last run and
        // of the last one that was too short. Before `open`, there may be a long one.
        let (mut next, mut done, mut short, mut open) = (0, 0, 0, 0);
        look_for_escapes(text, self.every_escape, |at| {
            if at < next || !self.escape_tells(text, at, reading) {
                return next;
            }
            // Where one is, there may be many more.
            if short > 0 && at < short + NEAR && at >= open {
                open = at + WINDOW - BEFORE - BEHIND;
                let base = at.checked_sub(BEFORE).filter(|_| self.words > 0);
                let window = base.and_then(|base| Some((base, text[base..].first_chunk()?)));
                if window.is_some_and(|(base, window)| !self.may_hold_a_run(text, base, window)) {
                    (next, short) = (open, open);
                    return next;
                }
            }
            let start = self.classes.run_before(text, at, done.max(at.saturating_sub(self.most)));
            done = self.classes.run_behind(text, at);
            next = done;
            if done - start >= self.shortest {
                visit(start..done);
            } else {
                short = done;
            }
            next
        });
    }

    /// Whether a run with an escape in the middle of this window may be long enough.
    fn may_hold_a_run(&self, text: &[u8], base: usize, window: &[u8; WINDOW]) -> bool {
        let least = u64::from(self.classes.least_visible()) * ONES;
        let words = window.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word));
        // One bit for each word of visible bytes. The subtraction borrows only behind a byte that
        // is not visible itself.
        let visible = words.zip(0..).fold(0_u64, |bits, (word, place)| {
            bits | u64::from((word.wrapping_sub(least) | word) & HIGH == 0) << place
        });
        if (1..self.words).fold(visible, |row, by| row & visible >> by) != 0 {
            return true;
        }
        let mut ends = visible & !(visible >> 1);
        while ends != 0 {
            let end = base + (ends.trailing_zeros() as usize + 1) * WORD;
            let rest = text[end..].iter().take(WORD);
            let line = end + rest.take_while(|byte| self.classes.is_visible(**byte)).count();
            if may_end_a_line(text, line) {
                return true;
            }
            ends &= ends - 1;
        }
        false
    }
}

/// Whether a line break inside a spelling may begin at `at`, or an indent behind an escaped one.
fn may_end_a_line(text: &[u8], at: usize) -> bool {
    match text.get(at) {
        Some(b'\r' | b'\n') => true,
        Some(b' ' | b'\t') => matches!(&text[..at], [.., b'\\', b'n' | b'r']),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner(length: usize) -> Scanner {
        let key = &"sk-Rx8~c1f0/b6d2e+A9zQ77mLx0wT5uV3yB1nC4q8Hs2".repeat(2)[..length];
        let placeholder = "p".repeat(length);
        Scanner::new([(key.as_bytes(), placeholder.as_bytes())].into_iter())
    }

    fn visited(scanner: &Scanner, text: &str) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        scanner.each_escaped_run(text.as_bytes(), Reading::All, &mut |run| runs.push(run));
        runs
    }

    #[test]
    fn every_long_run_is_visited_wherever_it_and_its_escape_are() {
        for length in [8, 15, 20, 31, 44, 90] {
            let scanner = scanner(length);
            let shortest = scanner.shortest;
            for escape in ["%41", r"\\u002b", "&#43;", r"\u{2b}"] {
                let others = shortest - escape.len().min(shortest);
                for before in 0..=others {
                    let run =
                        format!("{}{escape}{}", "x".repeat(before), "y".repeat(others - before));
                    for from in (0..9).chain([26, 27, 50, 91, 92, 93, 94, 130, 250]) {
                        for behind in [0, 8, 39, 600] {
                            let text =
                                format!("{}{run}{}", "%41,".repeat(from), " &".repeat(behind));
                            let at = 4 * from..4 * from + run.len();
                            let runs = visited(&scanner, &text);
                            assert!(runs.contains(&at), "{length} {run} {from} {behind}: {runs:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn runs_of_several_lines_are_visited() {
        let scanner = scanner(44);
        for end in ["\n", "\r\n", "\n\t ", "\r\n                                ", "\\n  "] {
            for (first, last) in [(16, 30), (41, 3), (100, 5), (17, 120)] {
                for escape in (0..=first - 3).chain(first..=first + last - 3) {
                    let mut lines = "x".repeat(first + last);
                    lines.replace_range(escape..escape + 3, "%41");
                    let run = format!("{}{end}{}", &lines[..first], &lines[first..]);
                    for from in [0, 3, 26, 27, 91, 92, 93, 150, 300] {
                        let text = format!("{}{run}{}", "%41,".repeat(from), " &".repeat(400));
                        let whole = |visited: &Range<usize>| {
                            visited.start <= 4 * from && visited.end >= 4 * from + run.len()
                        };
                        let runs = visited(&scanner, &text);
                        assert!(runs.iter().any(whole), "{text:?}: {runs:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn short_runs_are_not_visited() {
        for text in [
            r#"{"text":"one\ntwo \"three\"\tfour\r\nfive\b\f caf\/e"}"#,
            "<p>fish &amp; chips&nbsp;&lt;b&gt; it&#39;s &quot;x&quot;&copy;",
            "%41,%41,\\u0041,&#65;,",
        ] {
            assert!(visited(&scanner(44), &text.repeat(40)).is_empty(), "{text}");
        }
    }
}
