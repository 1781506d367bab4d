//! The response to a refused request: JSON that a person or an agent can act on. It is a view of a
//! [`Deny`], and repeats only the request's host, method and path, so that no key is reflected.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode, Version};
use interceptor_policy::Deny;
use serde::Serialize;

use super::super::dialect;
use crate::audit::RequestId;

/// The header that distinguishes the interceptor's refusals from an origin's responses.
pub(crate) const DECISION_HEADER: HeaderName = HeaderName::from_static("x-interceptor-decision");

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    r#type: &'static str,
    message: &'a str,
    host: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    credential: Option<&'a str>,
    rule: Option<&'a str>,
    request_id: String,
}

/// The parts of the request echoed in the response.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    /// The host, if known.
    pub host: Option<&'a str>,
    /// The method as sent.
    pub method: Option<&'a str>,
    /// The path as sent, without query.
    pub path: Option<&'a str>,
    /// The name of the credential involved.
    pub credential: Option<&'a str>,
    /// Whether the same request may succeed a second later.
    pub retry: bool,
}

/// Builds the response. `close` means that the connection ends; only HTTP/1 says so in a header.
pub(crate) fn answer(
    deny: &Deny,
    about: About<'_>,
    id: RequestId,
    version: Version,
    close: bool,
) -> Response<Bytes> {
    let kind = deny.reason.as_str();
    let error = ErrorBody {
        r#type: kind,
        message: &deny.message,
        host: about.host,
        method: about.method,
        path: about.path,
        credential: about.credential,
        rule: deny.rule.as_ref().map(|rule| rule.text.as_str()),
        request_id: id.to_string(),
    };
    // Serialising strings and options cannot fail; even with an empty body, status and header would
    // be sent.
    let mut body = serde_json::to_vec(&Envelope { error }).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(deny.status).unwrap_or(StatusCode::FORBIDDEN);
    if version < Version::HTTP_2
        && let Some(phrase) = dialect::phrase::of(&deny.message)
    {
        response.extensions_mut().insert(phrase);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::try_from(format!("deny; reason={kind}")) {
        headers.insert(DECISION_HEADER, value);
    }
    if about.retry {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if close && version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
