//! The writer's half: numbers lines, seals them, and finds where the chain of an existing file ended.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{ChainKey, ENDED, Mac, NO_SANDBOX, ORIGIN, RESUMED, ROTATED, STARTED};
use crate::audit::{Record, line};

/// How the next file, or part of a file, is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// With a record that starts a chain.
    Start,
    /// With one that goes on where the same file ends.
    Resume,
    /// With one that goes on where the file before ended.
    Rotate,
}

/// A chain that is being written.
#[derive(Debug)]
pub(in crate::audit) struct Chain {
    key: ChainKey,
    /// The MAC of the last line that was written, or is about to be.
    last: Mac,
    /// The number of the next.
    next: u64,
    /// What must be written before anything else.
    opening: Option<Opening>,
}

/// A place in the chain, to return to when lines after it could not be written.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Place(Mac, u64);

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Chain {
    /// A chain that goes on after the last whole line of what is there; nothing, or what is no line of a chain, has a new one
    /// started. Also says whether something is there that it cannot go on after.
    pub(in crate::audit) fn after(key: ChainKey, last_line: Option<&[u8]>) -> (Chain, bool) {
        let fresh = |key| Chain { key, last: ORIGIN, next: 0, opening: Some(Opening::Start) };
        let Some(line) = last_line else { return (fresh(key), false) };
        match end_of(line) {
            Some((last, next)) => (Chain { key, last, next, opening: Some(Opening::Resume) }, false),
            None => (fresh(key), true),
        }
    }

    /// Another file follows.
    pub(in crate::audit) fn rotate(&mut self) {
        // One that has not begun begins there.
        if self.opening.is_none() {
            self.opening = Some(Opening::Rotate);
        }
    }

    /// The line that must be written before any other, sealed; `None` where none must.
    pub(in crate::audit) fn opening(&mut self) -> Option<String> {
        let opening = self.opening?;
        let (event, previous) = match opening {
            Opening::Start => (STARTED, None),
            Opening::Resume => (RESUMED, None),
            Opening::Rotate => (ROTATED, Some(self.last)),
        };
        Some(self.own(event, previous))
    }

    /// The line of [`Chain::opening`] has been written.
    pub(in crate::audit) fn opened(&mut self) {
        self.opening = None;
    }

    /// The last line, sealed.
    pub(in crate::audit) fn ending(&mut self) -> String {
        self.own(ENDED, None)
    }

    fn own(&mut self, event: &'static str, previous: Option<Mac>) -> String {
        let mut text = String::new();
        line::append(&mut text, &Record::lifecycle(&NO_SANDBOX.into(), event));
        if let Some(previous) = previous {
            text.truncate(text.len() - END.len());
            text.push_str(",\"prev\":\"");
            super::push_hex(&mut text, &previous);
            text.push_str("\"}\n");
        }
        self.seal(&mut text, 0);
        text
    }

    /// Seals the line that begins at `start` and ends `text`.
    pub(in crate::audit) fn seal(&mut self, text: &mut String, start: usize) {
        text.truncate(text.len() - END.len());
        // Writing to a String cannot fail.
        let _ = write!(text, ",\"seq\":{}", self.next);
        self.last = self.key.mac(&self.last, &text.as_bytes()[start..]);
        self.next = self.next.wrapping_add(1);
        text.push_str(",\"mac\":\"");
        super::push_hex(text, &self.last);
        text.push_str("\"}\n");
    }

    /// Where the chain is now.
    pub(in crate::audit) fn place(&self) -> Place {
        Place(self.last, self.next)
    }

    /// Returns to where the chain was after `written`, whole lines that were sealed from `place` on: what was sealed after
    /// them was not written.
    pub(in crate::audit) fn rewind(&mut self, place: Place, written: &[u8]) {
        let last = written.strip_suffix(b"\n").map(|lines| {
            let start = memchr::memrchr(b'\n', lines).map_or(0, |at| at + 1);
            &lines[start..]
        });
        (self.last, self.next) = last.and_then(end_of).unwrap_or((place.0, place.1));
    }
}

/// What every line ends with.
const END: &str = "}\n";

/// The MAC of a line without its line feed, and the number of the line that follows it.
fn end_of(line: &[u8]) -> Option<(Mac, u64)> {
    let (content, mac) = super::split(line)?;
    // The content is an object but for its last brace.
    let mut object = Vec::with_capacity(content.len() + 1);
    object.extend_from_slice(content);
    object.push(b'}');
    let numbered: Numbered = serde_json::from_slice(&object).ok()?;
    Some((mac, numbered.seq.checked_add(1)?))
}
