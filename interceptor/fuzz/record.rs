//! A record's line: one line of JSON with the original texts, without terminal control characters.

#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/audit/id.rs"]
mod id;
#[allow(dead_code, unreachable_pub, reason = "the target uses a part")]
#[path = "../src/audit/record.rs"]
mod kept;
#[allow(dead_code, reason = "the target uses a part")]
#[path = "../src/audit/line.rs"]
mod line;

use std::time::Duration;

use serde_json::Value;

use id::RequestId;
use kept::{Kind, Protocol, Record, Verdict};

/// Checks a record with texts from the input, separated by 0xff.
///
/// # Panics
/// Where something does not hold.
pub fn check(data: &[u8]) {
    let texts: Vec<String> = data
        .split(|byte| *byte == 0xff)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let text = |at: usize| texts.get(at).map(String::as_str).unwrap_or_default();
    let number = data.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    let record = Record::new(&text(0).into(), RequestId::new(), Kind::Request, Verdict::Deny)
        .host(text(1))
        .method(text(2))
        .path(text(3))
        .credential(text(4))
        .message(text(5))
        .protocol(Protocol::H1)
        .bytes(number, 0)
        .duration(Duration::from_micros(number >> 12));
    let mut out = String::new();
    line::append(&mut out, &mut line::Clock::default(), &record);
    let body = out.strip_suffix('\n').expect("a line");
    assert!(!body.chars().any(line::steers_or_hides), "{body:?}");
    let value: Value = serde_json::from_str(body).expect("JSON");
    let path = text(3).split('?').next().unwrap_or_default();
    for (field, sent) in [
        ("sandbox", text(0)),
        ("host", text(1)),
        ("method", text(2)),
        ("path", path),
        ("credential", text(4)),
        ("message", text(5)),
        ("decision", "deny"),
        ("kind", "request"),
    ] {
        assert_eq!(value[field], sent, "{field}");
    }
    assert_eq!(value["bytes_up"], number);
    assert_eq!(value["id"], record.id.to_string());
}
