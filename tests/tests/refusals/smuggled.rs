//! Requests with two readings, and what a request says about itself.

use interceptor_tests::Lab;
use serde_json::json;

use super::{HOST, policy};

#[test]
fn h1_h3_h6_requests_with_two_readings_are_refused_and_the_connection_closed() {
    let cases: &[(&str, &str)] = &[
        (
            "CL and TE",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 4\r\ntransfer-encoding: \
             chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: H\r\n\r\n",
        ),
        (
            "TE and CL",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ntransfer-encoding: chunked\r\ncontent-length: \
             4\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: H\r\n\r\n",
        ),
        (
            "two lengths",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 4\r\ncontent-length: \
             5\r\n\r\nabcde",
        ),
        (
            "a list of lengths",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 4, 5\r\n\r\nabcde",
        ),
        (
            "a signed length",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: +4\r\n\r\nabcd",
        ),
        ("a hex length", "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 0x4\r\n\r\nabcd"),
        (
            "an unknown coding",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked not last",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ntransfer-encoding: chunked, \
             identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "TE in HTTP/1.0",
            "POST /v1/models HTTP/1.0\r\nhost: H\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("no host", "GET /v1/models HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /v1/models HTTP/1.1\r\nhost: H\r\nhost: evil.test\r\n\r\n"),
        ("the same host twice", "GET /v1/models HTTP/1.1\r\nhost: H\r\nhost: H\r\n\r\n"),
        ("a list of hosts", "GET /v1/models HTTP/1.1\r\nhost: H, evil.test\r\n\r\n"),
        ("userinfo in host", "GET /v1/models HTTP/1.1\r\nhost: evil.test@H\r\n\r\n"),
        ("a space before the colon", "GET /v1/models HTTP/1.1\r\nhost : H\r\n\r\n"),
        ("a folded line", "GET /v1/models HTTP/1.1\r\nhost: H\r\nx-a: b\r\n c\r\n\r\n"),
        ("an empty name", "GET /v1/models HTTP/1.1\r\nhost: H\r\n: x\r\n\r\n"),
        ("NUL in a value", "GET /v1/models HTTP/1.1\r\nhost: H\r\nx-a: b\0c\r\n\r\n"),
        ("a bare CR in a value", "GET /v1/models HTTP/1.1\r\nhost: H\r\nx-a: b\rc\r\n\r\n"),
        ("an unknown version", "GET /v1/models HTTP/1.9\r\nhost: H\r\n\r\n"),
    ];
    for &(name, case) in cases {
        Lab::test(|lab| {
            let bytes = case
                .replace("host: H", &format!("host: {HOST}"))
                .replace("@H", &format!("@{HOST}"));
            let bytes = bytes.replace(" : H", &format!(" : {HOST}"));
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).send(
                &format!("{HOST}:443"),
                Some(HOST),
                bytes.as_bytes(),
            );
            let text = outcome.out();
            assert!(
                text.starts_with("HTTP/1.1 400 ")
                    || text.starts_with("HTTP/1.0 400 ")
                    || text.starts_with("HTTP/1.1 421 "),
                "{name}: {text:?}"
            );
            // Where the host alone is wrong, it is still clear where the next request begins.
            assert!(
                outcome.code() == Some(0) || name.contains("host"),
                "{name}: the connection was left open"
            );
            assert_eq!(
                text.lines().filter(|line| line.starts_with("HTTP/1.")).count(),
                1,
                "{name}: more than one answer: {text}"
            );
            assert_eq!(lab.seen().len(), 0, "{name}");
        });
    }
}

#[test]
fn o2_what_a_request_says_cannot_break_a_record() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": [HOST] } });
        let path = "/a%0A%7B%22decision%22:%22allow%22%7D/\"quoted\"\u{7f}";
        let bytes = format!(
            "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: \x1b[2J\r\nconnection: \
             close\r\n\r\n"
        );
        let outcome = lab.sandbox(&policy).at_origin(HOST).send(
            &format!("{HOST}:443"),
            Some(HOST),
            bytes.as_bytes(),
        );
        // Whatever the decision, each line of the audit file is one object with known fields, and
        // exactly one is about this request.
        let requests = outcome.audit.iter().filter(|record| record.kind == "request").count();
        assert_eq!(requests, 1, "{:#?}", outcome.audit);
    });
}
