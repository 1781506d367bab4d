//! The conversation that every general client has with the origin, in any language, and its
//! required outcome. A program takes the origin (`https://NAME`) as its argument and the
//! placeholder from `LAB_API_KEY`, sends it as a bearer token with each request, sets nothing about
//! certificates or proxies, and prints
//!
//! ```text
//! version VERSION OF THE CLIENT
//! echo STATUS              GET /v1/lab/echo, then the body: the head as the origin parsed it
//! upload STATUS BODY       POST /v1/lab/upload with 3 000 000 zero bytes
//! event N                  GET /v1/lab/events/3, as they come
//! refused STATUS BODY      DELETE /v1/models/m, which no rule permits
//! ```

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::origin::body::hex;
use crate::{Lab, Outcome};

/// The host that the programs speak to.
pub const HOST: &str = "api.example.test";
/// The arguments and variables of the programs.
pub const ORIGIN: &str = "https://api.example.test";
/// The length of the programs' upload.
const UPLOAD_BYTES: u64 = 3_000_000;

/// The policy of the conversation.
pub fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": ["GET", "POST"], "paths": ["/v1/"] }]))
}

/// Runs a program of the conversation and checks what the client and the origin saw.
///
/// # Panics
/// If anything differs.
#[track_caller]
pub fn hold(lab: &Lab, outcome: &Outcome, protocol: &str) {
    let text = format!("{}\n--- standard error\n{}", outcome.out(), outcome.tail());
    outcome.success();
    let out = outcome.out();
    println!("{out}"); // For --nocapture: what people see.
    let line = |start: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(start));
        line.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{text}")).to_owned()
    };
    let version = line("version ");
    assert!(version.chars().any(|character| character.is_ascii_digit()), "{text}");
    assert_eq!(line("echo "), "200", "{text}");
    // The echo of the client's request is what it sent.
    let shown = out.lines().find(|line| line.starts_with("authorization: Bearer "));
    let shown = shown.unwrap_or_else(|| panic!("the origin saw no bearer token:\n{text}"));
    assert!(shown.contains("proxy-managed") && !shown.contains(lab.key()), "{text}");
    let zeros = vec![0; UPLOAD_BYTES as usize];
    let hash = hex(digest::digest(&digest::SHA256, &zeros).as_ref());
    assert_eq!(line("upload "), format!("200 {UPLOAD_BYTES} {hash}"), "{text}");
    for number in 0..3 {
        assert!(out.lines().any(|line| line == format!("event {number}")), "{text}");
    }
    let refused = line("refused ");
    assert!(
        refused.starts_with("403 ") && refused.contains("\"type\":\"endpoint_denied\""),
        "{text}"
    );

    assert_real_key(lab, &["/v1/lab/echo", "/v1/lab/upload", "/v1/lab/events/3"]);
    for request in lab.seen() {
        assert_eq!((request.protocol, request.host.as_str()), (protocol, HOST), "{request:#?}");
    }
    outcome.one_denied("endpoint_denied");
}

/// The origin saw these requests and no other, each over TLS with the real key as its only bearer
/// token, none with a trace of a placeholder.
///
/// # Panics
/// When it saw anything else.
#[track_caller]
pub fn assert_real_key(lab: &Lab, paths: &[&str]) {
    let seen = lab.seen();
    assert_eq!(seen.iter().map(|request| request.path.as_str()).collect::<Vec<_>>(), paths);
    for request in seen {
        assert!(request.tls, "{request:#?}");
        assert_eq!(
            request.values("authorization"),
            [format!("Bearer {}", lab.key())],
            "{request:#?}"
        );
        assert_no_placeholder(&request);
    }
}

/// No field of the request, nor its query, holds a placeholder.
///
/// # Panics
/// When one does.
#[track_caller]
pub fn assert_no_placeholder(request: &crate::origin::record::Seen) {
    let fields = request.headers.iter().map(|(_, value)| value.as_str());
    let trace = fields.chain(request.query.as_deref()).find(|text| text.contains("proxy-managed"));
    assert_eq!(trace, None, "{request:#?}");
}
