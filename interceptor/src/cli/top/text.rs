//! Texts for the screen. What a sandbox chose (hosts, paths, methods) and every other text from
//! elsewhere becomes a [`Plain`] before it is shown: printable ASCII, each character one cell wide,
//! with all else written out. So no escape sequence, no line end, no reordering, and no character
//! whose width the terminal and this program might judge differently can move or hide anything.

use std::fmt;
use std::ops::Deref;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// What stands where something was cut.
const CUT: &str = "..";
/// The longest text that is kept, in bytes.
const LONGEST: usize = 16 * 1024;

/// A text of printable ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Plain(Box<str>);

impl Plain {
    /// A text with everything else written out.
    pub(super) fn of(text: &str) -> Plain {
        let mut out = String::with_capacity(text.len().min(LONGEST));
        for character in text.chars() {
            if out.len() > LONGEST {
                out.push_str(CUT);
                break;
            }
            match character {
                ' '..='~' => out.push(character),
                other => out.extend(other.escape_unicode()),
            }
        }
        Plain(out.into())
    }

    /// A string or a number; empty if there is none.
    pub(super) fn of_value(value: &Value) -> Plain {
        match value {
            Value::String(text) => Plain::of(text),
            Value::Null => Plain::default(),
            other => Plain::of(&other.to_string()),
        }
    }
}

impl Deref for Plain {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text of exactly this width: cut, or with spaces after it.
pub(super) fn fit(text: &str, width: usize) -> String {
    let plain = Plain::of(text);
    if plain.len() <= width {
        return format!("{:width$}", &*plain);
    }
    let kept = width.saturating_sub(CUT.len());
    format!("{}{}", &plain[..kept], &CUT[..width - kept])
}

/// The lines of a text at this width, broken at spaces where there are any.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let plain = Plain::of(text);
    let mut rest: &str = &plain;
    let mut lines = Vec::new();
    while rest.len() > width.max(1) {
        let most = width.max(1);
        let at = rest[..=most].rfind(' ').filter(|at| *at > most / 2);
        let (line, after) = match at {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => rest.split_at(most),
        };
        lines.push(line.to_owned());
        rest = after;
    }
    lines.push(rest.to_owned());
    lines
}

/// The time of day of a timestamp, here.
pub(super) fn clock(time: &Value) -> Plain {
    let time = time.as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let text = time.map(|time| time.to_zoned(TimeZone::system()).strftime("%T").to_string());
    Plain::of(&text.unwrap_or_default())
}

/// How long is left, as minutes and seconds.
pub(super) fn left(until: Timestamp, now: Timestamp) -> String {
    let left = until.as_millisecond().saturating_sub(now.as_millisecond());
    let seconds = u64::try_from(left).unwrap_or(0).div_ceil(1000);
    if seconds >= 3600 {
        let minutes = seconds.div_ceil(60);
        return format!("{} h {} min", minutes / 60, minutes % 60);
    }
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// A duration in milliseconds.
pub(super) fn took(milliseconds: &Value) -> String {
    match milliseconds.as_f64() {
        None => String::new(),
        Some(time) if time < 1.0 => "<1 ms".to_owned(),
        Some(time) if time < 10_000.0 => format!("{time:.0} ms"),
        Some(time) => format!("{:.1} s", time / 1000.0),
    }
}

/// A number of bytes.
pub(super) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if !unit.is_empty() && value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A number with separators between thousands.
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What a record is about.
pub(super) fn subject(record: &Value) -> Plain {
    let is_request = record["kind"] == "request";
    let port = record["port"].as_u64().filter(|port| !(is_request && [80, 443].contains(port)));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    let host = record["host"].as_str().unwrap_or_else(|| text("ip"));
    Plain::of(&match text("kind") {
        "request" => format!("{host}{port}{}", text("path")),
        "dns" => format!("look-up of {host}{port}"),
        _ => format!("{} to {host}{port}", record["protocol"].as_str().unwrap_or("connection")),
    })
}

/// An edit of a policy in words: what is added where.
pub(super) fn edit(patch: &Value) -> Plain {
    let each = patch.as_array().into_iter().flatten().map(|one| {
        let (op, value) = (one["op"].as_str().unwrap_or_default(), one["value"].to_string());
        let path = one["path"].as_str().unwrap_or_default();
        match (op, path.strip_suffix("/-")) {
            ("add", Some(list)) => format!("add {value} to {list}"),
            ("add", None) => format!("add {value} at {path}"),
            _ => format!("{op} {path}"),
        }
    });
    Plain::of(&each.collect::<Vec<_>>().join(", and "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn o2_every_character_of_a_text_is_one_cell_and_steers_nothing() {
        let hostile =
            "\u{1b}[2J\u{9b}31m\r\n\t\u{202e}\u{200b}\u{feff}\u{301}日\u{1f600}é\u{e0041}";
        let shown = Plain::of(hostile);
        assert!(shown.chars().all(|one| (' '..='~').contains(&one)), "{shown}");
        assert!(shown.starts_with("\\u{1b}[2J\\u{9b}31m\\u{d}\\u{a}"), "{shown}");
        assert!(Plain::of(&"x".repeat(1 << 20)).len() < 17 * 1024);
    }

    #[test]
    fn texts_are_cut_and_wrapped_to_what_there_is() {
        assert_eq!(
            (fit("abc", 5), fit("abcdef", 5), fit("abc", 1)),
            ("abc  ".to_owned(), "abc..".to_owned(), ".".to_owned())
        );
        assert_eq!(fit("é", 4), "\\u..");
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("aaaaaaaaaa", 4), ["aaaa", "aaaa", "aa"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("abc", 0), ["a", "b", "c"]);
    }

    #[test]
    fn times_numbers_and_records_are_said_as_on_the_page() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        assert_eq!(left(at(65), at(0)), "1:05");
        assert_eq!(left(at(0), at(9)), "0:00");
        assert_eq!(left(at(3601), at(0)), "1 h 1 min");
        assert_eq!((took(&json!(0.2)), took(&json!(12_345))), ("<1 ms".into(), "12.3 s".into()));
        assert_eq!((bytes(1023), bytes(1536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!((number(1_234_567), number(999)), ("1,234,567".to_owned(), "999".to_owned()));
        let request = json!({ "kind": "request", "host": "a.test", "port": 443, "path": "/x" });
        assert_eq!(&*subject(&request), "a.test/x");
        let other = json!({ "kind": "connection", "ip": "10.0.0.1", "port": 443 });
        assert_eq!(&*subject(&other), "connection to 10.0.0.1:443");
        let patch = json!([{ "op": "add", "path": "/network/allow/-", "value": "a.test" }]);
        assert_eq!(&*edit(&patch), "add \"a.test\" to /network/allow");
    }
}
