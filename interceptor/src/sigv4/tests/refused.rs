//! What is refused whatever its signature: each with what is said.

use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};

use super::super::Problem;
use super::super::keys::Pair;
use super::{HOST, How, PLACEHOLDER, Sent, sign_by_aws};

fn at() -> Timestamp {
    "2026-02-03T04:05:06Z".parse().expect("a time")
}

fn plain() -> Sent {
    Sent {
        method: "PUT".to_owned(),
        path: "/key".to_owned(),
        query: String::new(),
        host: HOST.to_owned(),
        headers: HeaderMap::new(),
        body: b"body".to_vec(),
    }
}

fn signed(in_query: bool) -> Sent {
    sign_by_aws(&plain(), &PLACEHOLDER, How { service: "s3", in_query, at: at() })
}

/// What is said of a request after a change.
fn said(in_query: bool, change: impl FnOnce(&mut Sent)) -> String {
    let mut sent = signed(in_query);
    change(&mut sent);
    match sent.check(&PLACEHOLDER, at()) {
        Ok(_) => "nothing".to_owned(),
        Err(problem) => problem.to_string(),
    }
}

fn authorization(sent: &mut Sent, change: impl FnOnce(&str) -> String) {
    let value = sent.headers["authorization"].to_str().expect("text").to_owned();
    sent.set("authorization", &change(&value));
}

#[test]
fn c20_what_a_signature_must_cover_is_asked_for() {
    assert_eq!(said(false, |_| {}), "nothing");
    assert_eq!(said(true, |_| {}), "nothing");
    for (name, value) in [
        ("x-amz-copy-source", "/other/key"),
        ("x-amz-acl", "public-read"),
        ("x_amz_acl", "public-read"),
        ("content-type", "text/html"),
    ] {
        let text = said(false, |sent| sent.set(name, value));
        assert!(text.contains(&format!("does not cover the header `{name}`")), "{text}");
    }
    let text = said(true, |sent| sent.set("x-amz-acl", "public-read"));
    assert!(text.contains("does not cover the header `x-amz-acl`"), "{text}");
    let text = said(false, |sent| {
        authorization(sent, |value| value.replace("SignedHeaders=host;", "SignedHeaders="));
    });
    assert!(text.contains("does not cover the header `host`"), "{text}");
    let text = said(false, |sent| {
        authorization(sent, |value| value.replace("SignedHeaders=", "SignedHeaders=accept;"));
    });
    assert!(text.contains("does not match"), "{text}");
}

#[test]
fn c20_a_signature_stands_in_one_place_and_says_everything_once() {
    let url = signed(true).query;
    let text = said(false, |sent| sent.query = url);
    assert!(text.contains("in a header and in the query at once"), "{text}");
    let text = said(true, |sent| sent.set("authorization", "Bearer x"));
    assert!(text.contains("in a header and in the query at once"), "{text}");
    let text = said(false, |sent| sent.query = "X-Amz-Signature=0".to_owned());
    assert!(text.contains("lacks a parameter"), "{text}");
    let text = said(false, |sent| sent.set("x-amz-security-token", "token"));
    assert!(text.contains("session token"), "{text}");
    for (name, expected) in [
        ("x-amz-date", "date twice"),
        ("authorization", "`authorization` twice"),
        ("x-amz-content-sha256", "a header twice"),
    ] {
        let text = said(false, |sent| {
            let value: HeaderValue = sent.headers[name].clone();
            sent.headers.append(name, value);
        });
        assert!(text.contains(expected), "{name}: {text}");
    }
    for (from, to, expected) in [
        ("Signature=", "Signature=0, Signature=", "a part twice"),
        ("Signature=", "More=0, Signature=", "unknown part"),
        ("=host;x-amz-content-sha256;", "=x-amz-content-sha256;host;", "in order"),
        ("=host;", "=host;host;", "in order"),
        ("=host;", "=Host;", "lower case"),
        ("/20260203/", "/20260204/", "another than its own"),
        ("eu-central-1", "*", "a region and a service"),
        ("/aws4_request", "/aws4_request/x", "its credential is not"),
    ] {
        let text = said(false, |sent| authorization(sent, |value| value.replace(from, to)));
        assert!(text.contains(expected), "{from} {to}: {text}");
    }
}

#[test]
fn c20_a_signed_url_says_everything_once_and_holds_a_week_at_most() {
    let url = signed(true).query;
    let signature = url.split('&').find(|part| part.starts_with("X-Amz-Signature=")).unwrap();
    for (added, expected) in [
        ("X-Amz-Expires=900", "stands there twice"),
        (signature, "stands there twice"),
        ("x-amz-expires=900", "spelled otherwise"),
        ("X-Amz-%45xpires=900", "spelled otherwise"),
        ("X-Amz-Security-Token=x", "session token"),
        ("x-amz-security-token=x", "session token"),
        ("added=1", "does not match"),
    ] {
        let text = said(true, |sent| sent.query = format!("{url}&{added}"));
        assert!(text.contains(expected), "{added}: {text}");
    }
    for seconds in ["604801", "0", "%2B9", "-1", "", "99999999999999999999"] {
        let text = said(true, |sent| sent.query = url.replace("=900", &format!("={seconds}")));
        assert!(text.contains("604800"), "{seconds}: {text}");
    }
}

#[test]
fn c13_other_algorithms_and_other_keys_are_refused() {
    for (from, to, expected) in [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "Version 4A"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512", "not signed by AWS Signature Version 4"),
        ("AWS4-HMAC-SHA256 ", "AWS AKIA:", "not signed by AWS Signature Version 4"),
        (PLACEHOLDER.id, "AKIASOMEBODYELSE2345", "another access key than the placeholder"),
    ] {
        let text = said(false, |sent| authorization(sent, |value| value.replace(from, to)));
        assert!(text.contains(expected), "{text}");
    }
    let word = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD";
    let text = said(false, |sent| sent.set("x-amz-content-sha256", word));
    assert!(text.contains("Version 4A"), "{text}");
    let text = said(false, |sent| sent.set("x-amz-content-sha256", "STREAMING-SOMETHING"));
    assert!(text.contains("neither a digest nor one of the words"), "{text}");
    let other = Pair { secret: "another secret", ..PLACEHOLDER };
    let mut sent = sign_by_aws(&plain(), &other, How { service: "s3", in_query: false, at: at() });
    assert_eq!(sent.check(&PLACEHOLDER, at()).err(), Some(Problem::Mismatch));
    sent.headers.remove("authorization");
    assert!(sent.check(&PLACEHOLDER, at()).is_err());
}

#[test]
fn c20_a_signature_holds_for_a_while() {
    let minutes = SignedDuration::from_mins;
    for (in_query, later, expected) in [
        (false, minutes(14), None),
        (false, minutes(-14), None),
        (false, minutes(16), Some(Problem::Stale)),
        (false, minutes(-16), Some(Problem::Stale)),
        (true, minutes(14), None),
        (true, minutes(16), Some(Problem::Expired)),
        (true, minutes(-16), Some(Problem::Stale)),
    ] {
        let now = at().checked_add(later).expect("a time");
        let problem = signed(in_query).check(&PLACEHOLDER, now).err();
        assert_eq!(problem, expected, "{in_query} {later}");
    }
}

#[test]
fn a_request_may_have_its_date_as_http_does() {
    let mut sent = signed(false);
    sent.headers.remove("x-amz-date");
    sent.set("date", "Tue, 03 Feb 2026 04:05:06 GMT");
    let text = sent.check(&PLACEHOLDER, at()).expect_err("another canonical form").to_string();
    assert!(text.contains("does not match"), "{text}");
    sent.set("date", "yesterday");
    let text = sent.check(&PLACEHOLDER, at()).expect_err("no date").to_string();
    assert!(text.contains("no HTTP date"), "{text}");
}
