//! The reader's half: checks files line by line and reports the first line that breaks the chain.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;

use super::{ChainKey, ENDED, Mac, ORIGIN, RESUMED, ROTATED, STARTED};

/// Verifies a chain. Feed it all lines in order; stop at the first fault.
#[derive(Debug)]
pub struct ChainVerifier {
    key: ChainKey,
    /// The MAC and the number of the last line.
    last: Option<(Mac, u64)>,
    /// Whether the last line is the closing record.
    ended: bool,
    /// The first lines of the chains seen so far.
    started: HashSet<Mac>,
    /// The MAC of the record that the first file continues from.
    earlier: Option<Mac>,
    /// The number of the line within its file, from 1; 0 before the first.
    line: u64,
    records: u64,
}

/// The result for an intact chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chained {
    /// The number of lines in all files.
    pub records: u64,
    /// Whether the last one is the closing record. If not, lines after it may have been removed.
    pub ended: bool,
}

/// The first line that breaks the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line within its file, from 1; one past the last line if a line is missing at the end.
    pub line: u64,
    /// Why.
    pub flaw: Flaw,
}

/// What is wrong with a line. Numbers are the records' `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It does not end in a line feed.
    Torn,
    /// It is not a record.
    NotARecord,
    /// It is a record without a well-formed MAC.
    Unsealed,
    /// Its number is right, but the MAC is not: the line was altered, or the key is wrong.
    Altered,
    /// Its number is too high: records are missing before it.
    Missing {
        /// The number that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// Its number is too low: it is misplaced or repeated.
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
    /// The file does not continue the previous one.
    WrongFile {
        /// The number that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// A chain starts in the middle of a file.
    StartWithin,
    /// This chain was already seen.
    Again,
    /// The expected closing record is missing.
    NoEnd,
    /// This is the record that the first file continues from: the files are out of order.
    Late,
    /// There are no records.
    Empty,
}

/// A note on a valid line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The first file continues from the record with this number, in a file that was not given.
    Continues(u64),
    /// A new chain starts here; nothing links it to the previous one.
    NewChain {
        /// Whether the previous one has its closing record.
        ended: bool,
    },
    /// The writer restarted here without a closing record: it was killed, or lines were removed.
    Unclean,
}

/// The fields checked in a line.
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

impl ChainVerifier {
    /// A verifier for a new chain.
    pub fn new(key: ChainKey) -> ChainVerifier {
        ChainVerifier {
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

    /// Ends the input. `expect_end` requires the closing record as the last line.
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
            let object: Result<serde_json::Map<String, serde_json::Value>, _> =
                serde_json::from_slice(line);
            return Err(if object.is_ok() { Flaw::Unsealed } else { Flaw::NotARecord });
        };
        let content: Content =
            serde_json::from_slice(&[sealed, b"}"].concat()).map_err(|_| Flaw::NotARecord)?;
        let seq = content.seq.ok_or(Flaw::Unsealed)?;
        let event =
            content.event.as_deref().filter(|_| content.kind == "lifecycle").unwrap_or_default();
        let before = self.before(event, &content, seq)?;
        // Until this check passes, nothing in the line is trusted.
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

    /// What a line with these fields must follow.
    fn before(&self, event: &str, content: &Content, seq: u64) -> Result<Before, Flaw> {
        let first = self.line == 1;
        let following =
            |(mac, last): (Mac, u64)| Before { mac, seq: last.wrapping_add(1), note: None };
        match (event, self.last) {
            (STARTED, last) if first => {
                let note = last.map(|_| Note::NewChain { ended: self.ended });
                Ok(Before { mac: ORIGIN, seq: 0, note })
            }
            (STARTED, _) => Err(Flaw::StartWithin),
            (ROTATED, last) if first => {
                let repeated = content
                    .prev
                    .as_deref()
                    .and_then(|hex| super::from_hex(hex.as_bytes().try_into().ok()?));
                let mac = repeated.ok_or(Flaw::Altered)?;
                match last {
                    Some((last, number)) if last != mac => {
                        Err(Flaw::WrongFile { expected: number.wrapping_add(1), found: seq })
                    }
                    Some(last) => Ok(following(last)),
                    None => {
                        Ok(Before { mac, seq, note: Some(Note::Continues(seq.wrapping_sub(1))) })
                    }
                }
            }
            (_, Some(last)) => Ok(following(last)),
            (_, None) => Err(Flaw::Headless { found: seq }),
        }
    }
}

/// What a line must follow, and a note on it.
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
            Flaw::Unsealed => {
                f.write_str("carries no MAC: it was altered, or written without --audit-chain")
            }
            Flaw::Altered => f.write_str("was altered, or the key is wrong"),
            Flaw::Missing { expected, found } if *found == expected.wrapping_add(1) => {
                write!(
                    f,
                    "holds record {found} where record {expected} belongs: one is missing or out \
                     of place"
                )
            }
            Flaw::Missing { expected, found } => {
                let count = found.wrapping_sub(*expected);
                write!(
                    f,
                    "holds record {found} where record {expected} belongs: {count} are missing or \
                     out of place"
                )
            }
            Flaw::Misplaced { expected, found } => {
                write!(
                    f,
                    "holds record {found} where record {expected} belongs: it is repeated or out \
                     of place"
                )
            }
            Flaw::Headless { found } => write!(
                f,
                "holds record {found}, from the middle of a chain: earlier records were removed, \
                 or are in a file to be given before this one"
            ),
            Flaw::WrongFile { expected, found } => write!(
                f,
                "continues at record {found} where record {expected} belongs: a file before it is \
                 missing or cut at its end, or the order is wrong"
            ),
            Flaw::StartWithin => f.write_str(
                "starts a new chain in the middle of a file: do not trust what precedes it",
            ),
            Flaw::Again => f.write_str("starts a chain that was already verified"),
            Flaw::NoEnd => f.write_str("should be the closing record, which is missing"),
            Flaw::Late => f.write_str(
                "is the record that the first file continues from: give the files oldest first",
            ),
            Flaw::Empty => f.write_str("is missing: there are no records"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Continues(seq) => {
                write!(f, "continues from record {seq}, in a file that was not given")
            }
            Note::NewChain { ended: true } => {
                f.write_str("starts a new chain after the end of the previous one")
            }
            Note::NewChain { ended: false } => f.write_str(
                "starts a new chain, and the previous one has no closing record: records may be \
                 missing between them",
            ),
            Note::Unclean => f.write_str(
                "resumes a chain without a closing record: the writer was killed, or records were \
                 removed while it was down",
            ),
        }
    }
}
