//! A record as one JSON line (RFC 8259), fields in the order of docs/audit.md.
//!
//! Written by hand because names and paths come from the sandbox and end up in terminals: besides
//! what JSON requires, it escapes every character that controls a terminal, reorders text or is
//! invisible. Parsing restores the original text.

use std::fmt::Write as _;
use std::time::Duration;

use super::Record;

/// Appends `record` and a line feed to `out`.
pub(super) fn append(out: &mut String, record: &Record) {
    out.push_str("{\"ts\":\"");
    // Writing to a String cannot fail, here and below.
    let _ = write!(out, "{:.6}", record.time);
    out.push('"');
    text(out, "sandbox", &record.sandbox);
    let _ = write!(out, ",\"id\":\"{}\"", record.id);
    word(out, "kind", record.kind.as_str());
    if let Some(decision) = record.decision {
        word(out, "decision", decision.as_str());
    }
    if let Some(name) = record.reason.map(|reason| reason.as_str()).or(record.event) {
        word(out, "type", name);
    }
    if let Some(filter) = record.filter {
        word(out, "filter", filter.as_str());
    }
    if let Some(rule) = &record.rule {
        text(out, "rule", &rule.text);
    }
    if let Some(credential) = &record.credential {
        text(out, "credential", credential);
    }
    if let Some(host) = &record.host {
        text(out, "host", host);
    }
    if let Some(ip) = record.ip {
        let _ = write!(out, ",\"ip\":\"{}\"", ip.to_canonical());
    }
    if let Some(port) = record.port {
        let _ = write!(out, ",\"port\":{port}");
    }
    if let Some(protocol) = record.protocol {
        word(out, "protocol", protocol.as_str());
    }
    request(out, record);
    if let Some(alert) = record.alert {
        word(out, "alert", alert);
    }
    if let Some(dropped) = record.dropped {
        let _ = write!(out, ",\"dropped\":{dropped}");
    }
    if let Some(message) = &record.message {
        text(out, "message", message);
    }
    out.push_str("}\n");
}

/// Appends the fields of a request and its response.
fn request(out: &mut String, record: &Record) {
    if let Some(method) = &record.method {
        text(out, "method", method);
    }
    if let Some(path) = &record.path {
        text(out, "path", path);
    }
    if let Some(status) = record.status {
        let _ = write!(out, ",\"status\":{status}");
    }
    if let Some(bytes) = record.bytes_up {
        let _ = write!(out, ",\"bytes_up\":{bytes}");
    }
    if let Some(bytes) = record.bytes_down {
        let _ = write!(out, ",\"bytes_down\":{bytes}");
    }
    if let Some(duration) = record.duration {
        let _ = write!(out, ",\"duration_ms\":{}", Milliseconds(duration));
    }
    if let Some(keys) = record.key_echoed {
        let _ = write!(out, ",\"key_echoed\":{keys}");
    }
}

/// A duration in milliseconds to the microsecond, e.g. `12.345`.
struct Milliseconds(Duration);

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let microseconds = self.0.as_micros();
        write!(f, "{}.{:03}", microseconds / 1000, microseconds % 1000)
    }
}

/// A field with one of our own names as its value, which needs no escaping.
fn word(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":\"");
    out.push_str(value);
    out.push('"');
}

/// A field with a value that may come from the sandbox.
fn text(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":\"");
    escape(out, value);
    out.push('"');
}

fn escape(out: &mut String, value: &str) {
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.push_str(value);
        return;
    }
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if steers_or_hides(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            _ => out.push(character),
        }
    }
}

/// Control characters (C0, DEL, C1), line and paragraph separators, bidirectional controls, and
/// invisible characters.
pub(crate) fn steers_or_hides(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::audit::{Kind, Protocol, RequestId, Verdict};
    use interceptor_policy::{Filter, Reason, Rule};

    fn line(record: &Record) -> String {
        let mut out = String::new();
        append(&mut out, record);
        out
    }

    #[test]
    fn every_field_is_written_in_the_order_of_the_specification() {
        let sandbox: Arc<str> = "s1".into();
        let rule = Rule { text: "POST /v1/chat".into(), pointer: "/x".into() };
        let record = Record::new(&sandbox, RequestId::new(), Kind::Request, Verdict::Deny)
            .reason(Reason::EndpointDenied)
            .filter(Filter::Endpoint)
            .rule(Some(Arc::new(rule)))
            .credential("openai")
            .host("api.openai.com")
            .ip("::ffff:192.0.2.7".parse().unwrap())
            .port(443)
            .protocol(Protocol::H2)
            .method("POST")
            .path("/v1/files?key=secret")
            .status(403)
            .bytes(17, 0)
            .duration(Duration::from_nanos(12_345_678));
        let id = record.id.to_string();
        let line = line(&record);
        let (ts, rest) = line.split_at(r#"{"ts":"2026-01-01T00:00:00.000000Z","#.len());
        assert!(
            ts.starts_with(r#"{"ts":"2"#) && ts.ends_with(r#"Z","#) && ts.as_bytes()[26] == b'.',
            "{ts}"
        );
        assert_eq!(
            rest,
            format!(
                "\"sandbox\":\"s1\",\"id\":\"{id}\",\"kind\":\"request\",\"decision\":\"deny\",\"\
                 type\":\"endpoint_denied\",\"filter\":\"endpoint\",\"rule\":\"POST \
                 /v1/chat\",\"credential\":\"openai\",\"host\":\"api.openai.com\",\"ip\":\"192.0.\
                 2.7\",\"port\":443,\"protocol\":\"h2\",\"method\":\"POST\",\"path\":\"/v1/files\"\
                 ,\"status\":403,\"bytes_up\":17,\"bytes_down\":0,\"duration_ms\":12.345}}\n"
            )
        );
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let record = Record::lifecycle(&"s1".into(), "sandbox_started");
        let value: serde_json::Value = serde_json::from_str(&line(&record)).unwrap();
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["id", "kind", "sandbox", "ts", "type"]);
        assert_eq!(value["type"], "sandbox_started");
    }

    #[test]
    fn o2_no_character_can_break_steer_or_hide_in_a_line() {
        let hostile = [
            "evil\n{\"decision\":\"allow\"}",
            "\u{1b}[2J\u{1b}]0;owned\u{7}",
            "a\u{9b}31mb\u{7f}\u{0}",
            "\u{202e}moc.live\u{2066}\u{200f}\u{61c}",
            "line\u{2028}paragraph\u{2029}\u{85}",
            "quote\"back\\slash\r\t",
            "tag\u{e0041}\u{feff}\u{200b}",
            "harmless ünïcödé 漢字 🦀",
        ];
        for text in hostile {
            for sandbox in ["s1", text] {
                let record =
                    Record::new(&sandbox.into(), RequestId::new(), Kind::Dns, Verdict::Deny)
                        .host(text)
                        .method(text)
                        .path(text)
                        .credential(text);
                let line = line(&record);
                let body = line.strip_suffix('\n').unwrap();
                assert!(!body.chars().any(steers_or_hides), "{body:?}");
                let value: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(value["sandbox"], sandbox);
                for field in ["host", "method", "path", "credential"] {
                    assert_eq!(value[field], text, "{field}");
                }
                assert_eq!(value["decision"], "deny");
            }
        }
    }
}
