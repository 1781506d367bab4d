//! The writer's half: numbers and seals lines, and finds the end of the chain in an existing file.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{ChainKey, ENDED, Mac, NO_SANDBOX, ORIGIN, RESUMED, ROTATED, STARTED};
use crate::audit::Record;
use crate::audit::line::{self, Clock};

/// How the next file, or part of a file, begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// With a record that starts a chain.
    Start,
    /// With one that continues the chain of the same file.
    Resume,
    /// With one that continues the chain of the previous file.
    Rotate,
}

/// A chain being written.
#[derive(Debug)]
pub(in crate::audit) struct Chain {
    key: ChainKey,
    /// The MAC of the last line sealed.
    last: Mac,
    /// The number of the next line.
    next: u64,
    /// The opening record still to be written.
    opening: Option<Opening>,
}

/// A position in the chain, to return to if later lines cannot be written.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Position(Mac, u64);

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Chain {
    /// Continues the chain after the last complete line of the file, or starts a new one if there
    /// is none or it is not sealed. Also tells whether the file holds a line that cannot be
    /// continued.
    pub(in crate::audit) fn after(key: ChainKey, last_line: Option<&[u8]>) -> (Chain, bool) {
        let fresh = |key| Chain { key, last: ORIGIN, next: 0, opening: Some(Opening::Start) };
        let Some(line) = last_line else { return (fresh(key), false) };
        match end_of(line) {
            Some((last, next)) => {
                (Chain { key, last, next, opening: Some(Opening::Resume) }, false)
            }
            None => (fresh(key), true),
        }
    }

    /// The next file begins.
    pub(in crate::audit) fn rotate(&mut self) {
        // A chain that has not started yet starts in the next file.
        if self.opening.is_none() {
            self.opening = Some(Opening::Rotate);
        }
    }

    /// The sealed opening line, if it is still to be written.
    pub(in crate::audit) fn opening(&mut self) -> Option<String> {
        let opening = self.opening?;
        let (event, previous) = match opening {
            Opening::Start => (STARTED, None),
            Opening::Resume => (RESUMED, None),
            Opening::Rotate => (ROTATED, Some(self.last)),
        };
        Some(self.own(event, previous))
    }

    /// Confirms that the line of [`Chain::opening`] was written.
    pub(in crate::audit) fn opened(&mut self) {
        self.opening = None;
    }

    /// The sealed closing line.
    pub(in crate::audit) fn ending(&mut self) -> String {
        self.own(ENDED, None)
    }

    fn own(&mut self, event: &'static str, previous: Option<Mac>) -> String {
        let mut text = String::new();
        line::append(
            &mut text,
            &mut Clock::default(),
            &Record::lifecycle(&NO_SANDBOX.into(), event),
        );
        if let Some(previous) = previous {
            text.truncate(text.len() - END.len());
            text.push_str(",\"prev\":\"");
            super::push_hex(&mut text, &previous);
            text.push_str("\"}\n");
        }
        self.seal(&mut text, 0);
        text
    }

    /// Seals the last line of `text`, which starts at `start`.
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

    /// The current position.
    pub(in crate::audit) fn place(&self) -> Position {
        Position(self.last, self.next)
    }

    /// Returns to the position after `written`, the complete lines sealed since `place`: later ones
    /// were not written.
    pub(in crate::audit) fn rewind(&mut self, place: Position, written: &[u8]) {
        let last = written.strip_suffix(b"\n").map(|lines| {
            let start = memchr::memrchr(b'\n', lines).map_or(0, |at| at + 1);
            &lines[start..]
        });
        (self.last, self.next) = last.and_then(end_of).unwrap_or((place.0, place.1));
    }
}

/// The end of every line.
const END: &str = "}\n";

/// The MAC of a line without its line feed, and the number of the next line.
fn end_of(line: &[u8]) -> Option<(Mac, u64)> {
    let (content, mac) = super::split(line)?;
    // The content is an object without its closing brace.
    let mut object = Vec::with_capacity(content.len() + 1);
    object.extend_from_slice(content);
    object.push(b'}');
    let numbered: Numbered = serde_json::from_slice(&object).ok()?;
    Some((mac, numbered.seq.checked_add(1)?))
}
