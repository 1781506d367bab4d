//! Fits a request to the connection it goes out on: the host it names and how its body is framed.

use std::fmt::Write as _;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRAILER, TRANSFER_ENCODING};
use http::{Method, Request, Uri, Version};
use hyper::body::Body as _;
use interceptor_policy::{Deny, Filter, Host, Reason, Scheme};

use super::trailers::announced;
use crate::upstream::body::{Carriage, Outgoing};
use crate::upstream::pool::PoolKey;

/// The value of `Host`, or `:authority` in HTTP/2: the judged host, with its port unless it is the
/// scheme's default.
pub(super) fn authority(key: &PoolKey) -> String {
    let mut text = match &key.host {
        Host::Name(name) => {
            let mut text = String::with_capacity(name.as_str().len() + ":65535".len());
            text.push_str(name.as_str());
            text
        }
        Host::Ip(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        Host::Ip(address) => address.to_string(),
    };
    if key.port != key.scheme.default_port() {
        // Writing to a String cannot fail.
        let _ = write!(text, ":{}", key.port);
    }
    text
}

/// Fits the request to the protocol of its connection.
pub(super) fn address(
    request: &mut Request<Outgoing>,
    key: &PoolKey,
    h2: bool,
) -> Result<(), Deny> {
    let malformed = |_| Deny {
        reason: Reason::RequestMalformed,
        status: Reason::RequestMalformed.status(),
        filter: Filter::Request,
        rule: None,
        credential: None,
        message: "the host cannot be written in a request".to_owned(),
        nearest: None,
    };
    let authority = authority(key);
    if h2 {
        let mut uri = request.uri().clone().into_parts();
        uri.scheme = Some(match key.scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        });
        uri.authority = Some(authority.parse().map_err(|_| malformed(()))?);
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| malformed(()))?;
        request.headers_mut().remove(HOST);
        request.headers_mut().remove(TRANSFER_ENCODING);
        request.body_mut().carried(Carriage::All);
        *request.version_mut() = Version::HTTP_2;
    } else {
        let value = HeaderValue::try_from(authority).map_err(|_| malformed(()))?;
        // A request built for HTTP/2 and sent again has a scheme and an authority in its target.
        if request.uri().authority().is_some() {
            let target = request.uri().path_and_query().cloned();
            *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
        }
        request.headers_mut().insert(HOST, value);
        // Connection-specific fields are listed in Connection (RFC 9110 section 10.1.4).
        if request.headers().contains_key(TE) && !request.headers().contains_key(CONNECTION) {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
        }
        frame(request);
        *request.version_mut() = Version::HTTP_11;
    }
    Ok(())
}

/// Sets the body's framing where hyper would not: it sends no body with GET and HEAD unless told
/// to, and trailers only after chunks.
fn frame(request: &mut Request<Outgoing>) {
    let over = request.body().is_end_stream();
    let unknown = request.body().size_hint().exact().is_none();
    let bodiless = matches!(*request.method(), Method::GET | Method::HEAD);
    let trailers = request.headers().contains_key(TRAILER);
    if !over && (trailers || (bodiless && unknown)) {
        request.headers_mut().remove(CONTENT_LENGTH);
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let chunked = !over && (unknown || trailers);
    let names = if chunked { announced(request.headers()) } else { Vec::new() };
    request.body_mut().carried(Carriage::Announced(names));
}
