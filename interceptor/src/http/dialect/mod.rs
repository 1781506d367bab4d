//! Refusals for clients that show only what their own protocol has a place for. The status and
//! fields of a refusal stay the same; the reason is added where these clients look:
//!
//! - HTTP/1.1 clients that print the status line (wget, pip, Maven): [`phrase`].
//! - git prints a refused response's body first, as `remote: …`, if its type is `text/plain`
//!   (`remote-curl.c`). So does the go command (`cmd/go/internal/web`).
//! - gRPC clients prefer `grpc-status` and `grpc-message` to the HTTP status
//!   (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Responses"). They take any
//!   body that is not a gRPC message for a broken stream, so they get only a head.
//! - npm, GraphQL, JSON-RPC, cargo and container engines read members of their own from a JSON
//!   body: [`json`].

mod asked;
mod json;
pub(super) mod phrase;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{Response, StatusCode};
use interceptor_policy::Deny;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

pub(super) use asked::Asked;
pub(super) use json::{MOST_CALL, may_be_a_call};

/// The characters that `grpc-message` escapes: all but space and visible ASCII, and the percent
/// sign.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
/// Maximum message bytes in a header, before escaping: clients limit the size of a head, often to 8
/// KiB.
const LONGEST: usize = 1000;

/// Puts the reason where the client looks for it.
pub(super) fn speak(response: &mut Response<Bytes>, asked: &Asked<'_>, deny: &Deny) {
    if asked.begins(USER_AGENT, "git/") || asked.is_go_command() {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    } else if asked.begins(CONTENT_TYPE, "application/grpc") && asked.begins(TE, "trailers") {
        *response.body_mut() = Bytes::new();
        let status = grpc_status(response.status());
        let headers = response.headers_mut();
        headers.insert("grpc-status", HeaderValue::from_static(status));
        let short = &deny.message[..deny.message.floor_char_boundary(LONGEST)];
        if let Ok(message) = HeaderValue::try_from(utf8_percent_encode(short, MESSAGE).to_string())
        {
            headers.insert("grpc-message", message);
        }
    } else {
        json::speak(response, asked, deny);
    }
}

/// The equivalent gRPC status (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
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
mod tests;
