//! Messages on standard error besides the log: early warnings, alarms that `--quiet` does not
//! suppress, and the error that ends a command. One line each, as text or JSON like the log.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

/// Whether lines are JSON objects.
static JSON: AtomicBool = AtomicBool::new(false);
/// The variable that passes this to a sandbox's first process.
const VARIABLE: &str = "INTERCEPTOR_LOG_FORMAT";

/// The severity of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Worth knowing.
    Info,
    /// Works, but with a problem.
    Warning,
    /// Does not work.
    Error,
    /// The sandbox may not be enforced.
    Alarm,
}

/// Switches notices to JSON objects, or to text.
pub(crate) fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// The variable for our child processes, so that their notices use the same format.
pub(crate) fn environment() -> Option<(&'static str, &'static str)> {
    JSON.load(Ordering::Relaxed).then_some((VARIABLE, "json"))
}

/// Applies the [`environment`] that this process was given.
pub(crate) fn inherit() {
    set_json(std::env::var_os(VARIABLE).is_some_and(|format| format == "json"));
}

/// Prints information.
pub(crate) fn info(text: impl std::fmt::Display) {
    say(Level::Info, &text.to_string());
}

/// Prints a warning.
pub(crate) fn warning(text: impl std::fmt::Display) {
    say(Level::Warning, &text.to_string());
}

/// Prints an error.
pub(crate) fn error(text: impl std::fmt::Display) {
    say(Level::Error, &text.to_string());
}

/// Prints an error of several lines as it is; as one where lines are JSON objects.
pub(crate) fn report(text: impl std::fmt::Display) {
    if JSON.load(Ordering::Relaxed) {
        return error(text);
    }
    // Standard error may be closed or full.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints an alarm: a sandbox may not be enforced.
pub(crate) fn alarm(text: impl std::fmt::Display) {
    say(Level::Alarm, &text.to_string());
}

fn say(level: Level, text: &str) {
    // If standard error is closed or full, nothing else can be done.
    let _ = io::stderr().write_all(line(level, text).as_bytes());
}

/// One line, with its line feed.
pub(crate) fn line(level: Level, text: &str) -> String {
    if JSON.load(Ordering::Relaxed) { json(level, text) } else { plain(level, text) }
}

fn plain(level: Level, text: &str) -> String {
    let word = match level {
        Level::Info | Level::Error => "",
        Level::Warning => "warning: ",
        Level::Alarm => "ALARM: ",
    };
    format!("interceptor: {word}{text}\n")
}

/// With the same members as log lines.
fn json(level: Level, text: &str) -> String {
    let (level, alarm) = match level {
        Level::Info => ("INFO", false),
        Level::Warning => ("WARN", false),
        Level::Error => ("ERROR", false),
        Level::Alarm => ("ERROR", true),
    };
    let mut object = serde_json::json!({
        "timestamp": format!("{:.6}", Timestamp::now()),
        "level": level,
        "message": text,
        "target": "interceptor",
    });
    if alarm {
        object["alarm"] = true.into();
    }
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "two\nlines \"quoted\" \u{1b}[2J \u{0}";

    #[test]
    fn a_notice_is_one_json_object_on_one_line_whatever_it_says() {
        for (level, word) in
            [(Level::Warning, "WARN"), (Level::Alarm, "ERROR"), (Level::Info, "INFO")]
        {
            let line = json(level, HOSTILE);
            let body = line.strip_suffix('\n').unwrap();
            assert!(!body.contains('\n'));
            let value: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(
                (value["level"].as_str(), value["message"].as_str()),
                (Some(word), Some(HOSTILE))
            );
            assert_eq!(
                value["timestamp"].as_str().unwrap().len(),
                "2026-01-01T00:00:00.000000Z".len()
            );
        }
    }

    #[test]
    fn for_people_it_says_who_speaks() {
        assert_eq!(plain(Level::Warning, "it is late"), "interceptor: warning: it is late\n");
        assert_eq!(plain(Level::Error, "it failed"), "interceptor: it failed\n");
    }
}
