//! Refusals for clients that show their users nothing of an answer but what their own protocol has a place for. Status and
//! fields stay those of every refusal (SPEC 6); these clients find the reason besides where they look:
//!
//! - git prints the body of what was refused before anything else, as `remote: …`, if its type is `text/plain` (`remote-curl.c`).
//! - gRPC clients take `grpc-status` and `grpc-message` before the HTTP status
//!   (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Responses"), and take
//!   a body that is no message of theirs for a broken stream: they are told by the head alone.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::policy::Deny;

/// What `grpc-message` escapes: all but space and visible ASCII, and the percent sign itself.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
/// How much of a message a header takes, bytes before escaping: clients limit the size of a head, often to 8 KiB.
const LONGEST: usize = 1000;

/// Says the reason where the client that asked with these fields looks for it.
pub(super) fn speak(response: &mut Response<Bytes>, asked: &HeaderMap, deny: &Deny) {
    let begins = |name, start: &[u8]| {
        asked.get(name).is_some_and(|value: &HeaderValue| value.as_bytes().starts_with(start))
    };
    if begins(USER_AGENT, b"git/") {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    } else if begins(CONTENT_TYPE, b"application/grpc") && begins(TE, b"trailers") {
        *response.body_mut() = Bytes::new();
        let status = grpc_status(response.status());
        let headers = response.headers_mut();
        headers.insert("grpc-status", HeaderValue::from_static(status));
        let short = &deny.message[..deny.message.floor_char_boundary(LONGEST)];
        if let Ok(message) = HeaderValue::try_from(utf8_percent_encode(short, MESSAGE).to_string()) {
            headers.insert("grpc-message", message);
        }
    }
}

/// The gRPC status that says the same (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        // PERMISSION_DENIED
        403 => "7",
        // RESOURCE_EXHAUSTED
        413 | 429 | 431 => "8",
        // UNAVAILABLE
        502 => "14",
        // DEADLINE_EXCEEDED
        504 => "4",
        // INVALID_ARGUMENT
        _ => "3",
    }
}

#[cfg(test)]
mod tests {
    use super::super::refuse::{About, answer, refusal};
    use super::*;
    use crate::audit::RequestId;
    use crate::policy::Reason;

    fn said(asked: &[(&'static str, &'static str)], message: &str) -> Response<Bytes> {
        let deny = refusal(Reason::EndpointDenied, message.to_owned());
        let mut response = answer(&deny, About::default(), RequestId::new(), http::Version::HTTP_2, false);
        let field = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        speak(&mut response, &asked.iter().map(field).collect(), &deny);
        assert_eq!(response.status(), 403);
        response
    }

    fn is_json(response: &Response<Bytes>) -> bool {
        serde_json::from_slice::<serde_json::Value>(response.body()).is_ok()
    }

    #[test]
    fn git_is_told_in_plain_text_and_others_in_json() {
        let git = said(&[("user-agent", "git/2.39.5")], "no");
        assert_eq!(git.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let other = said(&[("user-agent", "curl/8"), ("content-type", "application/grpc")], "no");
        assert_eq!(other.headers()[CONTENT_TYPE], "application/json");
        assert!(is_json(&git) && is_json(&other) && !other.headers().contains_key("grpc-status"));
    }

    #[test]
    fn grpc_is_told_in_its_own_fields_within_a_bound() {
        let grpc = |message| said(&[("content-type", "application/grpc+proto"), ("te", "trailers")], message);
        let response = grpc("50 % of\nnaïve");
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "50 %25 of%0Ana%C3%AFve");
        assert!(response.body().is_empty());
        assert!(grpc(&"ï".repeat(5000)).headers()["grpc-message"].len() <= 3 * LONGEST);
    }
}
