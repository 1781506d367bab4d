//! The plain definition of what is found, for tests: every position of every layer is compared with
//! every character of every pattern. It shares with the search how an escape is read, where a run
//! ends and what a line break and a separator are; it has no samples and dismisses nothing.

use std::ops::Range;

use super::escape::{Reading, may_escape, unescape};
use super::find::Match;
use super::{LEVELS, Scanner};

impl Scanner {
    /// Where keys are in a text, by the plain definition, as [`Scanner::found`] returns it.
    pub fn defined(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if !self.is_empty() {
            self.define(text, Reading::All, 0, &mut found);
            if self.own_escapes {
                for reading in [Reading::Percent, Reading::Backslash, Reading::Reference] {
                    self.define_runs(text, reading, 0, &mut found);
                }
            }
        }
        places(self.chosen(found, 0))
    }

    /// Where the search finds keys in a text without UTF-16.
    pub fn found(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if text.len() >= self.shortest {
            self.narrow(text, &mut found);
        }
        places(self.chosen(found, 0))
    }

    fn define(&self, text: &[u8], reading: Reading, level: usize, found: &mut Vec<Match>) {
        self.each_occurrence(text, found);
        let mut at = 0;
        while at < text.len() {
            let (start, end) = self.classes.separated(text, at, at);
            if end > start {
                self.digits(text, start..end, found, |digits, inner| {
                    self.each_occurrence(digits, inner);
                });
            }
            at = end.max(at + 1);
        }
        if level < LEVELS {
            self.define_runs(text, reading, level, found);
        }
    }

    fn define_runs(&self, text: &[u8], reading: Reading, level: usize, found: &mut Vec<Match>) {
        let mut at = 0;
        while at < text.len() {
            let run = self.classes.run_before(text, at, 0)..self.classes.run_behind(text, at);
            if may_escape(&text[run.clone()]) {
                let decoded = unescape(&text[run.clone()], reading);
                let mut inner = Vec::new();
                self.define(&decoded.bytes, reading, level + 1, &mut inner);
                found.extend(inner.into_iter().map(|hit| hit.outside(&decoded, run.start)));
            }
            at = run.end.max(at + 1);
        }
    }

    fn each_occurrence(&self, text: &[u8], found: &mut Vec<Match>) {
        for (number, pattern) in self.patterns.iter().enumerate() {
            for (offset, expected) in pattern.find.iter().enumerate() {
                for at in (0..text.len()).filter(|at| pattern.encoding.same(text[*at], *expected)) {
                    found.extend(self.around(text, at, number, offset));
                }
            }
        }
    }
}

fn places(found: Vec<Match>) -> Vec<Range<usize>> {
    found.into_iter().map(|hit| hit.start..hit.end).collect()
}
