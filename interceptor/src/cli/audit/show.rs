//! Formats a record as one readable line.

use std::fmt::Write as _;

use super::record::ParsedRecord;
use crate::cli::policy_file::printable;
use crate::words;

/// The most characters shown of a text, so that lines stay readable.
const LONGEST: usize = 120;

/// Text safe for a terminal, truncated.
pub(super) fn short(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One line, without its line feed. `colour` adds terminal escape sequences.
pub(super) fn line(record: &ParsedRecord, colour: bool) -> String {
    let mut out = time(&record.ts);
    let decision = record.decision.as_deref().unwrap_or("-");
    let shown = format!("{:5}", short(decision));
    let code = match decision {
        "allow" => "32",
        "deny" => "31",
        _ => "2",
    };
    // Writing to a String cannot fail, here and below.
    let _ = if colour {
        write!(out, " \u{1b}[{code}m{shown}\u{1b}[0m")
    } else {
        write!(out, " {shown}")
    };
    let _ = write!(out, " {:10} {}", short(&record.kind), short(&record.sandbox));
    let method = record
        .method
        .as_deref()
        .or(record.protocol.as_deref().filter(|_| record.kind != "request"));
    for part in
        method.into_iter().chain(Some(destination(record).as_str()).filter(|text| !text.is_empty()))
    {
        let _ = write!(out, " {}", short(part));
    }
    if let Some(status) = record.status {
        let _ = write!(out, " {status}");
    }
    if let Some(reason) = &record.reason {
        let _ = write!(out, " {}", short(reason));
    }
    if let Some(dropped) = record.dropped {
        let what = match record.reason.as_deref() {
            Some("refusals_dropped") => "refusal",
            Some("dns_records_dropped") => "look-up",
            _ => "record",
        };
        let _ = write!(out, " ({} not recorded here)", words::count(dropped, what));
    }
    if let Some(credential) = &record.credential {
        let _ = write!(out, " credential={}", short(credential));
    }
    if let Some(rule) = &record.rule {
        let _ = write!(out, " rule={:?}", short(rule));
    }
    if let (Some(up), Some(down)) = (record.bytes_up, record.bytes_down) {
        let _ = write!(out, " up={up} down={down}");
    }
    if let Some(duration) = record.duration_ms {
        let _ = write!(out, " {duration:.1}ms");
    }
    if let Some(id) = record.id.as_deref() {
        let _ = write!(out, " id={}", short(id));
    }
    out
}

/// Host, port and path; default ports are omitted.
fn destination(record: &ParsedRecord) -> String {
    let mut out = record.destination().to_owned();
    if let Some(port) =
        record.port.filter(|port| record.kind != "request" || !matches!(port, 80 | 443))
    {
        let _ = write!(out, ":{port}");
    }
    out.push_str(record.path.as_deref().unwrap_or_default());
    out
}

/// The time to the millisecond.
pub(super) fn time(ts: &str) -> String {
    // `2026-01-31T12:00:00.123456Z`; any other form is shown unchanged.
    match (ts.get(..23), ts.strip_suffix('Z')) {
        (Some(milliseconds), Some(_)) if ts.is_ascii() && ts.len() == 27 => {
            short(&format!("{milliseconds}Z"))
        }
        _ => short(ts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_that_says_what_happened() {
        let text = br#"{"ts":"2026-01-31T12:00:00.123456Z","sandbox":"s1","id":"abc",
            "kind":"request","decision":"deny","type":"endpoint_denied","filter":"endpoint",
            "credential":"openai","host":"api.openai.com","port":443,"protocol":"h2",
            "method":"DELETE","path":"/v1/files/f","status":403,"bytes_up":1,"bytes_down":2,
            "duration_ms":1.25}"#;
        let record = ParsedRecord::parse(text).unwrap();
        assert_eq!(
            line(&record, false),
            "2026-01-31T12:00:00.123Z deny  request    s1 DELETE api.openai.com/v1/files/f 403 \
             endpoint_denied credential=openai up=1 down=2 1.2ms id=abc"
        );
        assert!(line(&record, true).contains("\u{1b}[31mdeny \u{1b}[0m"));
        let text = br#"{"ts":"2026-01-31T12:00:00.123456Z","sandbox":"s1","id":"def",
            "kind":"connection","decision":"allow","ip":"192.0.2.1","port":5432,
            "protocol":"tcp"}"#;
        let record = ParsedRecord::parse(text).unwrap();
        assert_eq!(
            line(&record, false),
            "2026-01-31T12:00:00.123Z allow connection s1 tcp 192.0.2.1:5432 id=def"
        );
    }

    #[test]
    fn o2_nothing_in_a_record_breaks_the_line_or_steers_the_terminal() {
        let hostile = "\u{1b}[2J\nfake\r\u{9b}31m\u{202e}x\u{2028}\u{7f}\u{200b}\u{e0041}";
        let all = || Some(hostile.to_owned());
        let record = ParsedRecord {
            ts: hostile.into(),
            sandbox: hostile.into(),
            id: all(),
            kind: hostile.into(),
            decision: Some("deny".into()),
            reason: all(),
            rule: all(),
            credential: all(),
            host: all(),
            method: all(),
            path: all(),
            protocol: all(),
            ..ParsedRecord::default()
        };
        let shown = line(&record, false);
        assert!(!shown.chars().any(crate::audit::steers_or_hides), "{shown:?}");
        assert!(shown.contains("\\u{1b}[2J\\u{a}fake"), "{shown}");
        let long = ParsedRecord { path: Some("/x".repeat(5000)), ..ParsedRecord::default() };
        assert!(line(&long, false).chars().count() < 200);
        // A decision of somebody else's making is not shown as one of ours.
        let odd = ParsedRecord { decision: all(), ..ParsedRecord::default() };
        assert!(!line(&odd, false).chars().any(crate::audit::steers_or_hides));
    }
}
