//! A record as one JSON line (RFC 8259), fields in the order of docs/audit.md.
//!
//! Written by hand because names and paths come from the sandbox and end up in terminals: besides
//! what JSON requires, it escapes every character that controls a terminal, reorders text or is
//! invisible. Parsing restores the original text.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::Record;
use super::id::LENGTH;

/// The second of the record before, as it is written: most records share it with the next.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<i64>,
    text: String,
}

impl Clock {
    /// Appends a time, to the microsecond.
    fn append(&mut self, out: &mut String, time: Timestamp) {
        let (second, Ok(fraction)) = (time.as_second(), u64::try_from(time.subsec_microsecond()))
        else {
            // Before 1970. Writing to a String cannot fail, here and below.
            let _ = write!(out, "{time:.6}");
            return;
        };
        if self.second != Some(second) {
            self.text.clear();
            let _ = write!(self.text, "{time:.0}");
            self.second = Some(second);
        }
        out.push_str(self.text.trim_end_matches('Z'));
        out.push('.');
        digits(out, fraction, 6);
        out.push('Z');
    }
}

/// Appends `record` and a line feed to `out`.
pub(super) fn append(out: &mut String, clock: &mut Clock, record: &Record) {
    if let Some(line) = &record.line {
        out.push_str(line);
        out.push('\n');
        return;
    }
    out.push_str("{\"ts\":\"");
    clock.append(out, record.time);
    out.push('"');
    text(out, "sandbox", &record.sandbox);
    word(out, "id", record.id.text(&mut [0; LENGTH]));
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
    if let Some(lease) = &record.lease {
        text(out, "lease", lease);
    }
    if let Some(host) = &record.host {
        text(out, "host", host);
    }
    if let Some(ip) = record.ip {
        address(out, ip.to_canonical());
    }
    if let Some(port) = record.port {
        number(out, "port", port.into());
    }
    if let Some(protocol) = record.protocol {
        word(out, "protocol", protocol.as_str());
    }
    request(out, record);
    if let Some(alert) = record.alert {
        word(out, "alert", alert);
    }
    if let Some(dropped) = record.dropped {
        number(out, "dropped", dropped);
    }
    if let Some(by) = &record.by {
        text(out, "by", by);
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
        number(out, "status", status.into());
    }
    if let Some(bytes) = record.bytes_up {
        number(out, "bytes_up", bytes);
    }
    if let Some(bytes) = record.bytes_down {
        number(out, "bytes_down", bytes);
    }
    if let Some(duration) = record.duration {
        milliseconds(out, duration);
    }
    if let Some(keys) = record.key_echoed {
        number(out, "key_echoed", keys);
    }
}

/// A duration in milliseconds to the microsecond, e.g. `12.345`.
fn milliseconds(out: &mut String, duration: Duration) {
    let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(out, "duration_ms", microseconds / 1000);
    out.push('.');
    digits(out, microseconds % 1000, 3);
}

fn address(out: &mut String, address: IpAddr) {
    out.push_str(",\"ip\":\"");
    match address {
        IpAddr::V4(v4) => {
            for (place, octet) in v4.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push('.');
                }
                digits(out, octet.into(), 1);
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
    out.push('"');
}

fn number(out: &mut String, name: &str, value: u64) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    digits(out, value, 1);
}

/// Appends a number, with zeros before it if it has fewer digits than `least`. Formatting takes
/// several times as long.
fn digits(out: &mut String, value: u64, least: usize) {
    const MOST: usize = 20;
    let (mut room, mut first, mut rest) = ([b'0'; MOST], MOST, value);
    while rest > 0 || MOST - first < least {
        first -= 1;
        room[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.push_str(str::from_utf8(&room[first..]).unwrap_or_default());
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
        append(&mut out, &mut Clock::default(), record);
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
    fn times_and_numbers_are_written_as_they_are_formatted() {
        let (mut clock, mut out) = (Clock::default(), String::new());
        let second = 1_780_000_000_i64;
        for (second, nanosecond) in
            [(second, 0), (second, 999_999_999), (second + 1, 1000), (0, 0), (-5, -123_456_789)]
        {
            let time = Timestamp::new(second, nanosecond).unwrap();
            out.clear();
            clock.append(&mut out, time);
            assert_eq!(out, format!("{time:.6}"));
        }
        for value in [0, 7, 10, 999, 1000, u64::MAX] {
            out.clear();
            digits(&mut out, value, 3);
            assert_eq!(out, format!("{value:03}"));
        }
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
