//! Tells an engine why a container did not start: engines read the runtime's own log, and show its
//! last error.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use serde_json::json;

use crate::oci::arguments::RuntimeLog;

/// Adds a line to the log that a runtime's arguments name, in the format that they name. Without
/// such a log, standard error has the reason.
pub(super) fn log(arguments: &[OsString], reason: &str) {
    let Some(log) = RuntimeLog::of(arguments) else { return };
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let line = if log.json {
        json!({ "level": "error", "msg": reason, "time": time }).to_string()
    } else {
        format!("time={} level=error msg={}", json!(time), json!(reason))
    };
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK);
    if let Ok(mut file) = options.open(&log.file)
        && file.metadata().is_ok_and(|found| !found.file_type().is_block_device())
    {
        let _ = writeln!(file, "{line}");
    }
}
