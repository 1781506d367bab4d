//! Audit records read back from a file, one JSON object per line. Only what a policy needs to judge
//! the request again is kept. Lines that are not records are counted rather than fatal: a full disk
//! may have cut one.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use interceptor_policy::Recorded;

use crate::files;

/// The longest line read as a record, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Calls `each` with every record of an audit file, in order, until it returns `false`. Returns the
/// number of lines that are not records.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn each(path: &Path, each: impl FnMut(Recorded) -> bool) -> anyhow::Result<u64> {
    let context = || format!("cannot read the audit file {}", path.display());
    each_of(files::open(path).with_context(context)?.0, path, each)
}

/// As [`each`], with the records of a kept run.
///
/// # Errors
/// If they cannot be read.
pub(super) fn each_of(
    file: impl Read,
    path: &Path,
    mut each: impl FnMut(Recorded) -> bool,
) -> anyhow::Result<u64> {
    let context = || format!("cannot read the audit file {}", path.display());
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut unreadable = 0;
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).with_context(context)? == 0 {
            return Ok(unreadable);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(record) => {
                if !each(record) {
                    return Ok(unreadable);
                }
            }
            Err(_) => unreadable += 1,
        }
    }
}
