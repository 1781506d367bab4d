//! What a request offers or asks for that decides whether its response can be searched for keys:
//! content codings, message compression, ranges, other protocols. If a sandbox has keys, nothing
//! that would hide them is offered, to any host, and an origin that uses what was not offered is
//! refused (`respond`).
//!
//! # Other protocols
//! WebSockets are read frame by frame. Other protocols a client may upgrade to (SPDY/3.1 of older
//! Kubernetes clients, Docker's `tcp`) are opaque bytes: they are relayed to hosts that get no key
//! and refused with an explanation on those that do. An offer of another HTTP version or of TLS
//! concerns the connection only and is ignored, as RFC 9110 section 7.8 permits.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE,
    SEC_WEBSOCKET_EXTENSIONS, TE, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, Version};

use interceptor_policy::redact::ranges::{Range, Widened};
use interceptor_policy::redact::{Redactor, digests, is_grpc};

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// Azure storage reads this before `range`, and so do its clients.
const MS_RANGE: HeaderName = HeaderName::from_static("x-ms-range");

/// Fields that ask for a range or a coding, reduced to letters and digits: servers may read `_` or
/// `.` in a name as `-`, and some know an older `request-range`.
const OFFERS: [&str; 10] = [
    "acceptencoding",
    "aim",
    "grpcacceptencoding",
    "ifrange",
    "range",
    "requestrange",
    "secwebsocketextensions",
    "te",
    "xacceptencoding",
    "xmsrange",
];

/// The protocol a request asks to switch to, other than HTTP versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// None.
    None,
    /// WebSocket.
    WebSocket,
    /// Any other: the value of `upgrade`.
    Other(HeaderValue),
}

impl Switch {
    /// The protocol the request asks for.
    pub(super) fn asked(parts: &Parts) -> Switch {
        if parts.version != Version::HTTP_11 || !asks_for_upgrade(&parts.headers) {
            return Switch::None;
        }
        let others: Vec<&[u8]> = protocols(&parts.headers).filter(|name| !is_own(name)).collect();
        match &others[..] {
            [] => Switch::None,
            [name] if name.eq_ignore_ascii_case(b"websocket") && parts.method == Method::GET => {
                Switch::WebSocket
            }
            names => {
                HeaderValue::from_bytes(&names.join(&b", "[..])).map_or(Switch::None, Switch::Other)
            }
        }
    }

    /// The value of `upgrade`.
    pub(super) fn value(&self) -> Option<HeaderValue> {
        match self {
            Switch::None => None,
            Switch::WebSocket => Some(HeaderValue::from_static("websocket")),
            Switch::Other(value) => Some(value.clone()),
        }
    }

    /// Whether the response switches to an offered protocol.
    pub(super) fn taken_up(&self, headers: &HeaderMap) -> bool {
        let Some(offered) = self.value() else { return false };
        let mut named = protocols(headers);
        let (Some(name), None) = (named.next(), named.next()) else { return false };
        offered
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|offer| offer.trim_ascii().eq_ignore_ascii_case(name))
    }
}

/// Whether a request asks to switch protocols (RFC 9110 section 7.8), by the HTTP/1.1 filter's
/// rule.
pub(super) fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers.get_all(CONNECTION).iter().any(|value| {
            let mut options = value.as_bytes().split(|byte| *byte == b',');
            options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// The protocols that `upgrade` names.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers
        .get_all(UPGRADE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())
}

/// Whether a protocol is HTTP itself, or TLS beneath it: `h2c`, `HTTP/2.0`, `TLS/1.2`.
fn is_own(name: &[u8]) -> bool {
    let name = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Asks for a response that can be searched for keys. Returns the range asked for, if any.
pub(super) fn searchable(head: &mut Parts, redactor: &Redactor) -> Option<Widened> {
    let headers = &mut head.headers;
    let grpc = headers.contains_key(GRPC_ACCEPT_ENCODING) || is_grpc(headers);
    let asked = range(headers, &head.method, redactor);
    let widened = asked.and_then(|widened| Some((widened, widened.value()?)));
    let condition = headers.get(IF_RANGE).filter(|_| widened.is_some()).cloned();
    let offers: Vec<HeaderName> = headers
        .keys()
        // Only `te: trailers` is left at this point.
        .filter(|name| **name != TE && is_offer(name, widened.is_some()))
        .cloned()
        .collect();
    offers.iter().for_each(|name| drop(headers.remove(name)));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if grpc {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if let Some(condition) = condition {
        headers.insert(IF_RANGE, condition);
    }
    let (widened, value) = widened?;
    headers.insert(RANGE, value);
    Some(widened)
}

/// Whether a field asks for a range or a coding or, if a range is asked for, for a digest of it.
fn is_offer(name: &HeaderName, partial: bool) -> bool {
    let folded = || name.as_str().bytes().filter(u8::is_ascii_alphanumeric);
    let length = folded().count();
    OFFERS.iter().any(|offer| offer.len() == length && folded().eq(offer.bytes()))
        || partial && digests::is_asked_for(&folded().map(char::from).collect::<String>())
}

/// Whether a request trailer would be such an offer if it were merged into the head.
pub(super) fn is_offer_in_trailer(name: &HeaderName) -> bool {
    is_offer(name, true)
}

/// The range of a request, widened to include its surroundings. Only a single range is widened, and
/// only if redaction keeps lengths. Methods other than GET have no ranges (RFC 9110 section 14.2).
fn range(headers: &HeaderMap, method: &Method, redactor: &Redactor) -> Option<Widened> {
    let name = if headers.contains_key(MS_RANGE) { MS_RANGE } else { RANGE };
    let mut ranges = headers.get_all(name).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return None };
    if *method != Method::GET || !redactor.keeps_length() {
        return None;
    }
    Some(Range::parse(range.as_bytes())?.widened(redactor.reach()))
}

/// What hides a response's content from the search although it was not offered.
pub(super) fn hidden<B>(response: &Response<B>) -> Option<&'static str> {
    let headers = response.headers();
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Some(
            "uses a WebSocket extension that was not offered, so that it cannot be searched \
             for keys",
        );
    }
    let identity =
        |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if is_grpc(headers) && !headers.get_all(GRPC_ENCODING).iter().all(identity) {
        return Some(
            "has a grpc-encoding that was not offered, so that it cannot be searched for keys",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn asked(method: &str, version: Version, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method(method).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn redactor(placeholder: &str) -> Redactor {
        let keys = [(&b"billing0key1of2even3length"[..], placeholder.as_bytes())];
        Redactor::of(keys.into_iter()).unwrap()
    }

    #[test]
    fn which_protocol_a_request_asks_for() {
        let other = |text| Switch::Other(HeaderValue::from_static(text));
        for (method, upgrade, expected) in [
            ("GET", "websocket", Switch::WebSocket),
            ("GET", "WebSocket", Switch::WebSocket),
            ("POST", "websocket", other("websocket")),
            ("POST", "SPDY/3.1", other("SPDY/3.1")),
            ("POST", "tcp", other("tcp")),
            ("GET", "h2c", Switch::None),
            ("GET", "TLS/1.2", Switch::None),
            ("GET", "TLS/1.2, HTTP/2.0,", Switch::None),
            ("GET", "h2c, websocket", Switch::WebSocket),
            ("GET", "websocket, tcp", other("websocket, tcp")),
        ] {
            let fields = [("upgrade", upgrade), ("connection", "keep-alive, Upgrade")];
            assert_eq!(
                Switch::asked(&asked(method, Version::HTTP_11, &fields)),
                expected,
                "{upgrade}"
            );
            assert_eq!(
                Switch::asked(&asked(method, Version::HTTP_10, &fields)),
                Switch::None,
                "{upgrade}"
            );
            assert_eq!(
                Switch::asked(&asked(method, Version::HTTP_11, &fields[..1])),
                Switch::None,
                "not of this connection: {upgrade}"
            );
        }
    }

    #[test]
    fn an_origin_may_take_up_what_was_offered() {
        let answer = |upgrade| asked("GET", Version::HTTP_11, &[("upgrade", upgrade)]).headers;
        let spdy = Switch::Other(HeaderValue::from_static("SPDY/3.1, SPDY/3"));
        assert!(spdy.taken_up(&answer("spdy/3")) && spdy.taken_up(&answer("SPDY/3.1")));
        assert!(
            !spdy.taken_up(&answer("websocket")) && !spdy.taken_up(&answer("SPDY/3.1, SPDY/3"))
        );
        assert!(!spdy.taken_up(&HeaderMap::new()) && !Switch::None.taken_up(&answer("websocket")));
        assert!(Switch::WebSocket.taken_up(&answer("WebSocket")));
    }

    #[test]
    fn what_would_hide_a_key_is_not_offered() {
        let fields = [
            ("accept-encoding", "gzip, br"),
            ("accept-encoding", "zstd"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-encoding", "gzip"),
        ];
        let mut head = asked("POST", Version::HTTP_11, &fields);
        assert_eq!(searchable(&mut head, &redactor("proxy-managed-0f3a9c7be21d")), None);
        let all = |name| head.headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("accept-encoding"), ["identity"]);
        assert_eq!(all("grpc-accept-encoding"), ["identity"]);
        assert_eq!(all("grpc-encoding"), ["gzip"], "of the request's own body");
        assert!(all("sec-websocket-extensions").is_empty());
    }

    #[test]
    fn no_spelling_asks_for_a_part_or_a_coding() {
        let names = [
            "request-range",
            "request_range",
            "Request.Range",
            "if_range",
            "accept_encoding",
            "accept.encoding",
            "x-accept-encoding",
            "x_accept_encoding",
            "sec_websocket_extensions",
            "t_e",
            "a-im",
            "a_im",
            "x_ms_range",
            "r-ange",
        ];
        let fields = names.map(|name| (name, "bytes=5-16"));
        let redactor = redactor("proxy-managed-0f3a9c7be21d");
        let mut head = asked("GET", Version::HTTP_11, &fields);
        head.headers.insert("te", HeaderValue::from_static("trailers"));
        head.headers.insert("x-arrange", HeaderValue::from_static("1"));
        assert_eq!(searchable(&mut head, &redactor), None);
        let mut left: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept-encoding", "te", "x-arrange"]);

        let digests = [
            ("x-ms-range-get-content-md5", "true"),
            ("want_repr_digest", "sha-256=1"),
            ("x-amz-checksum-mode", "ENABLED"),
        ];
        let mut whole = asked("GET", Version::HTTP_11, &digests);
        assert_eq!(searchable(&mut whole, &redactor), None);
        assert_eq!(whole.headers.len(), 4, "of the whole they tell nothing");
        let mut part = asked("GET", Version::HTTP_11, &digests);
        part.headers.insert("range", HeaderValue::from_static("bytes=90000-90001"));
        part.headers.insert("x-ms-range", HeaderValue::from_static("bytes=0-0"));
        assert!(searchable(&mut part, &redactor).is_some());
        assert_eq!(part.headers.len(), 2, "{:?}", part.headers);
        assert_eq!(part.headers["range"], format!("bytes=0-{}", redactor.reach()));
    }

    #[test]
    fn a_single_range_is_widened_if_the_response_can_be_cut() {
        let even = redactor("proxy-managed-0f3a9c7be21d");
        let odd = redactor("proxy-managed-0f3a9c7be21d-and-more");
        let fields = |range| [("range", range), ("if-range", "\"tag\"")];
        let sent = |method: &str, range, redactor: &Redactor| {
            let mut head = asked(method, Version::HTTP_11, &fields(range));
            let asked = searchable(&mut head, redactor).is_some();
            assert_eq!(head.headers.contains_key("if-range"), asked, "{range}");
            head.headers.get("range").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(sent("GET", "bytes=0-", &even).as_deref(), Some("bytes=0-"));
        let widened = format!("bytes=0-{}", 5 + even.reach());
        assert_eq!(sent("GET", "bytes=1-5", &even), Some(widened));
        assert_eq!(sent("GET", "bytes=0-1,5-6", &even), None);
        assert_eq!(sent("HEAD", "bytes=0-1", &even), None);
        assert_eq!(
            sent("GET", "bytes=0-", &odd).as_deref(),
            Some("bytes=0-"),
            "it is cut to the key's length"
        );
    }
}
