//! Reads a stream line by line with a length limit, so that a file of another kind cannot exhaust
//! memory.

use std::io::{self, BufRead};

/// The longest line read as a record, in bytes.
const LONGEST: usize = 1 << 20;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A complete line, without its line feed.
    Whole(Vec<u8>),
    /// A line longer than any record, with its length in bytes.
    TooLong(u64),
}

/// Assembles lines from chunks.
#[derive(Debug, Default)]
pub(super) struct Lines {
    part: Vec<u8>,
    /// Bytes of the current line that were not kept in `part`.
    left_out: u64,
}

impl Lines {
    /// The next complete line; `None` at the current end of the stream.
    pub(super) fn next(&mut self, from: &mut impl BufRead) -> io::Result<Option<Line>> {
        loop {
            let piece = match from.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                return Ok(None);
            }
            let end = memchr::memchr(b'\n', piece);
            let line = &piece[..end.unwrap_or(piece.len())];
            if self.left_out == 0 && self.part.len() + line.len() <= LONGEST {
                self.part.extend_from_slice(line);
            } else {
                self.left_out += line.len() as u64;
            }
            let used = end.map_or(piece.len(), |end| end + 1);
            from.consume(used);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    /// The unfinished last line, if any; call when no more input follows.
    pub(super) fn rest(&mut self) -> Option<Line> {
        (!self.part.is_empty() || self.left_out > 0).then(|| self.take())
    }

    fn take(&mut self) -> Line {
        let (part, left_out) = (std::mem::take(&mut self.part), std::mem::take(&mut self.left_out));
        if left_out == 0 { Line::Whole(part) } else { Line::TooLong(part.len() as u64 + left_out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_long_ones_are_left_out() {
        let long = "x".repeat(LONGEST + 5);
        let text = format!("one\n\n{long}\ntwo\nhal");
        let mut from = text.as_bytes();
        let mut lines = Lines::default();
        let mut next = || lines.next(&mut from).unwrap();
        assert_eq!(next(), Some(Line::Whole(b"one".to_vec())));
        assert_eq!(next(), Some(Line::Whole(vec![])));
        assert_eq!(next(), Some(Line::TooLong(LONGEST as u64 + 5)));
        assert_eq!(next(), Some(Line::Whole(b"two".to_vec())));
        assert_eq!(next(), None);
        // What comes later completes the line.
        assert_eq!(lines.next(&mut &b"f\nmore"[..]).unwrap(), Some(Line::Whole(b"half".to_vec())));
        assert_eq!(lines.next(&mut &b""[..]).unwrap(), None);
        assert_eq!(lines.rest(), None);
        assert_eq!(lines.next(&mut &b"more"[..]).unwrap(), None);
        assert_eq!((lines.rest(), lines.rest()), (Some(Line::Whole(b"more".to_vec())), None));
    }
}
