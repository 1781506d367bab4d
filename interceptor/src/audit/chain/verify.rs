//! The reader's half: goes through files line by line and names the first that does not fit.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;

use super::{ChainKey, ENDED, Mac, ORIGIN, RESUMED, ROTATED, STARTED};

/// Checks a chain, from its first line on. Lines are given in order; after the first fault there is nothing more to learn.
#[derive(Debug)]
pub struct Verifier {
    key: ChainKey,
    /// The MAC and the number of the last line.
    last: Option<(Mac, u64)>,
    /// The last line says that the writer ended.
    ended: bool,
    /// The first lines of the chains seen so far.
    started: HashSet<Mac>,
    /// The MAC of the record that the first file goes on after.
    earlier: Option<Mac>,
    /// The number of the line within its file, from 1; 0 before the first.
    line: u64,
    records: u64,
}

/// What a chain that holds came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chained {
    /// How many lines there were, in all files.
    pub records: u64,
    /// Whether the last of them says that the writer ended there. Where it does not, lines after it may have been removed.
    pub ended: bool,
}

/// The first line that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line within its file, from 1; in a file that is empty, or ends too early, the one after the last.
    pub line: u64,
    /// Why.
    pub flaw: Flaw,
}

/// What is wrong with a line. Numbers are those of the records (`seq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It does not end in a line feed.
    Torn,
    /// It is no record.
    NotARecord,
    /// It is a record without a MAC, or with one in another form.
    Unsealed,
    /// It carries the number it should have: its content or its MAC was altered, or the key is another.
    Altered,
    /// It carries a higher number than it should: records are missing before it.
    Missing {
        /// The number that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// It carries a lower number than it should: it stands in the wrong place, or for a second time.
    Misplaced {
        /// The number that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// The first line of the first file neither starts a chain nor follows a rotation.
    Headless {
        /// Its number.
        found: u64,
    },
    /// The file goes on after another one than the one given before it.
    WrongFile {
        /// The number that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// A chain starts within a file.
    StartWithin,
    /// The chain of this file was given already.
    Again,
    /// The writer's last word is not there, which was to be expected.
    NoEnd,
    /// This is the record that the first file goes on after: the files are not in order.
    Late,
    /// There is no record at all.
    Empty,
}

/// What is remarkable about a line that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The first file goes on after the record with this number, which is in a file that is not given.
    Continues(u64),
    /// A chain starts here though another was given before; it is bound to it by nothing.
    NewChain {
        /// Whether the other one has its end.
        ended: bool,
    },
    /// The writer was started again here, and had not ended in good order before: it was killed, or lines were removed.
    Unclean,
}

/// What is looked at in a line's content.
#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    kind: String,
    #[serde(rename = "type", default)]
    event: Option<String>,
    #[serde(default)]
    prev: Option<String>,
    seq: Option<u64>,
}

impl Verifier {
    /// A verifier that has seen nothing.
    pub fn new(key: ChainKey) -> Verifier {
        Verifier {
            key,
            last: None,
            ended: false,
            started: HashSet::new(),
            earlier: None,
            line: 0,
            records: 0,
        }
    }

    /// The next line is the first of another file.
    pub fn next_file(&mut self) {
        self.line = 0;
    }

    /// Checks the next line, with its line feed.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Note>, Fault> {
        self.line += 1;
        match self.check(line) {
            Ok(note) => {
                self.records += 1;
                Ok(note)
            }
            Err(flaw) => Err(Fault { line: self.line, flaw }),
        }
    }

    /// Nothing follows. `expect_end`: the last line must be the writer's last word.
    pub fn end(&self, expect_end: bool) -> Result<Chained, Fault> {
        let flaw = match self.records {
            0 => Flaw::Empty,
            _ if expect_end && !self.ended => Flaw::NoEnd,
            records => return Ok(Chained { records, ended: self.ended }),
        };
        Err(Fault { line: self.line + 1, flaw })
    }

    fn check(&mut self, line: &[u8]) -> Result<Option<Note>, Flaw> {
        let line = line.strip_suffix(b"\n").ok_or(Flaw::Torn)?;
        let Some((sealed, mac)) = super::split(line) else {
            let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(line);
            return Err(if object.is_ok() { Flaw::Unsealed } else { Flaw::NotARecord });
        };
        let content: Content =
            serde_json::from_slice(&[sealed, b"}"].concat()).map_err(|_| Flaw::NotARecord)?;
        let seq = content.seq.ok_or(Flaw::Unsealed)?;
        let event = content.event.as_deref().filter(|_| content.kind == "lifecycle").unwrap_or_default();
        let before = self.before(event, &content, seq)?;
        // Nothing that the line says of itself counts until this.
        if !self.key.verify(&before.mac, sealed, &mac) {
            return Err(match seq.cmp(&before.seq) {
                std::cmp::Ordering::Equal => Flaw::Altered,
                std::cmp::Ordering::Greater => Flaw::Missing { expected: before.seq, found: seq },
                std::cmp::Ordering::Less => Flaw::Misplaced { expected: before.seq, found: seq },
            });
        }
        if seq != before.seq {
            return Err(Flaw::Altered);
        }
        if self.earlier == Some(mac) {
            return Err(Flaw::Late);
        }
        if self.last.is_none() && event == ROTATED {
            self.earlier = Some(before.mac);
        }
        if event == STARTED && !self.started.insert(mac) {
            return Err(Flaw::Again);
        }
        let note = if event == RESUMED && !self.ended { Some(Note::Unclean) } else { before.note };
        self.ended = event == ENDED;
        self.last = Some((mac, seq));
        Ok(note)
    }

    /// What a line that says this of itself must follow.
    fn before(&self, event: &str, content: &Content, seq: u64) -> Result<Before, Flaw> {
        let first = self.line == 1;
        let following = |(mac, last): (Mac, u64)| Before { mac, seq: last.wrapping_add(1), note: None };
        match (event, self.last) {
            (STARTED, last) if first => {
                let note = last.map(|_| Note::NewChain { ended: self.ended });
                Ok(Before { mac: ORIGIN, seq: 0, note })
            }
            (STARTED, _) => Err(Flaw::StartWithin),
            (ROTATED, last) if first => {
                let repeated =
                    content.prev.as_deref().and_then(|hex| super::from_hex(hex.as_bytes().try_into().ok()?));
                let mac = repeated.ok_or(Flaw::Altered)?;
                match last {
                    Some((last, number)) if last != mac => {
                        Err(Flaw::WrongFile { expected: number.wrapping_add(1), found: seq })
                    }
                    Some(last) => Ok(following(last)),
                    None => Ok(Before { mac, seq, note: Some(Note::Continues(seq.wrapping_sub(1))) }),
                }
            }
            (_, Some(last)) => Ok(following(last)),
            (_, None) => Err(Flaw::Headless { found: seq }),
        }
    }
}

/// What a line must follow, and what is remarkable about that.
struct Before {
    mac: Mac,
    seq: u64,
    note: Option<Note>,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Torn => f.write_str("is incomplete: it does not end in a line feed"),
            Flaw::NotARecord => f.write_str("is not a record: it was altered, or cut short"),
            Flaw::Unsealed => f.write_str("carries no MAC: it was altered, or written without --audit-chain"),
            Flaw::Altered => f.write_str("was altered, or the key is another"),
            Flaw::Missing { expected, found } if *found == expected.wrapping_add(1) => {
                write!(
                    f,
                    "holds record {found} where record {expected} belongs: one is missing, or out of place"
                )
            }
            Flaw::Missing { expected, found } => {
                let count = found.wrapping_sub(*expected);
                write!(
                    f,
                    "holds record {found} where record {expected} belongs: {count} are missing, or out of place"
                )
            }
            Flaw::Misplaced { expected, found } => {
                write!(
                    f,
                    "holds record {found} where record {expected} belongs: it stands here again, or out of place"
                )
            }
            Flaw::Headless { found } => write!(
                f,
                "holds record {found}, in the midst of a chain: what stood before it was removed, or is in a file that should be \
                 given before this one"
            ),
            Flaw::WrongFile { expected, found } => write!(
                f,
                "goes on at record {found} where record {expected} belongs: a file is missing before it, the end of that file was removed, \
                 or the order is wrong"
            ),
            Flaw::StartWithin => {
                f.write_str("starts a new chain within a file: what is before it cannot be relied on")
            }
            Flaw::Again => f.write_str("starts a chain that was given already"),
            Flaw::NoEnd => f.write_str("should be there: the record before it is not the writer's last word"),
            Flaw::Late => {
                f.write_str("is the one that the first file goes on after: give the files oldest first")
            }
            Flaw::Empty => f.write_str("should be there: there is no record"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Continues(seq) => {
                write!(f, "goes on after record {seq}, which is in a file that was not given")
            }
            Note::NewChain { ended: true } => f.write_str("starts a new chain after the end of the other"),
            Note::NewChain { ended: false } => f.write_str(
                "starts a new chain, and the one before has no end: records may be missing between them",
            ),
            Note::Unclean => f.write_str(
                "resumes a chain whose writer had not ended in good order: it was killed, or records before this one were \
                 removed while it was down",
            ),
        }
    }
}
