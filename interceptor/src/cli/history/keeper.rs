//! Writes the records of a running `run` into its file of the history.

use std::fs::File;
use std::io::{Seek as _, Write as _};

use jiff::Timestamp;
use serde_json::json;

use super::MOST_BYTES;
use crate::audit::{Observer, Record, RequestId};
use crate::notice;

/// How many bytes are buffered for one write.
const PIECE: usize = 256 * 1024;

/// Keeps the records of one run, up to a limit: the sandbox decides how many there are.
pub(in crate::cli) struct Keeper {
    file: File,
    sandbox: String,
    /// Complete lines that are not written yet.
    buffer: Vec<u8>,
    /// How many records are in `buffer`.
    waiting: u64,
    /// How many more bytes will be kept.
    left: u64,
    /// How many records are not kept.
    lost: u64,
    /// Whether writing failed; nothing is written after that.
    failed: bool,
}

impl Keeper {
    /// Keeps the records of `sandbox` in an empty file, up to the limit.
    pub(in crate::cli) fn new(file: File, sandbox: &str) -> Keeper {
        Keeper {
            file,
            sandbox: sandbox.to_owned(),
            buffer: Vec::new(),
            waiting: 0,
            left: MOST_BYTES,
            lost: 0,
            failed: false,
        }
    }

    #[cfg(test)]
    pub(super) fn with_limit(self, left: u64) -> Keeper {
        Keeper { left, ..self }
    }

    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let before = self.file.stream_position();
        if let Err(error) = self.file.write_all(&self.buffer) {
            // Remove a partial line: it would count as an unreadable record.
            let _ = before.and_then(|before| self.file.set_len(before));
            self.failed = true;
            self.lost += self.waiting;
            notice::warning(format_args!(
                "cannot keep all records of this run for `interceptor audit last`: {error}"
            ));
        }
        self.buffer.clear();
        self.waiting = 0;
    }

    /// The line that says how many records are missing.
    fn lost_line(&self) -> Vec<u8> {
        let line = json!({
            "ts": format!("{:.6}", Timestamp::now()),
            "sandbox": self.sandbox,
            "id": RequestId::new().to_string(),
            "kind": "lifecycle",
            "type": "audit_dropped",
            "dropped": self.lost,
        });
        format!("{line}\n").into_bytes()
    }
}

impl Observer for Keeper {
    fn record(&mut self, _record: &Record, line: &str) {
        match self.left.checked_sub(line.len() as u64) {
            Some(left) if !self.failed => {
                self.left = left;
                self.buffer.extend_from_slice(line.as_bytes());
                self.waiting += 1;
                if self.buffer.len() >= PIECE {
                    self.write();
                }
            }
            _ => {
                // Once one record is left out, all later ones are, so that there are no gaps.
                self.left = 0;
                self.lost += 1;
            }
        }
    }

    fn pause(&mut self, ended: bool) {
        self.write();
        if ended && self.lost > 0 && !self.failed {
            self.buffer = self.lost_line();
            self.write();
        }
    }
}
