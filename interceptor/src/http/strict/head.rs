//! The rules for a request head (RFC 9112 sections 2 to 6, RFC 9110 section 5). Pure.

use interceptor_policy::Reason;
use std::time::Duration;

use crate::words::count;

/// The method of the request that replaces a refused one. [`check`] lets no client send it.
pub(crate) const REFUSED_METHOD: &str = "INTERCEPTOR-REFUSED";

/// How a head frames its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    None,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// No body, and a request to switch protocols.
    Upgrade,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The type of the refusal.
    pub reason: Reason,
    /// Its HTTP status.
    pub status: u16,
    /// What is wrong and how to fix it.
    pub message: String,
}

impl Refused {
    /// 431 Request Header Fields Too Large.
    pub(crate) const TOO_LARGE: u16 = 431;
    /// 408 Request Timeout.
    pub(crate) const TOO_SLOW: u16 = 408;

    fn malformed(message: impl Into<String>) -> Refused {
        let reason = Reason::RequestMalformed;
        Refused { reason, status: reason.status(), message: message.into() }
    }

    fn path(message: impl Into<String>) -> Refused {
        let reason = Reason::PathAmbiguous;
        Refused { reason, status: reason.status(), message: message.into() }
    }

    pub(crate) fn head_too_large(most: usize) -> Refused {
        Refused {
            reason: Reason::LimitExceeded,
            status: Refused::TOO_LARGE,
            message: format!(
                "the request's head is larger than {}; send smaller headers, or raise \
                 limits.header_bytes",
                count(most as u64, "byte")
            ),
        }
    }

    pub(crate) fn head_too_slow(most: Duration) -> Refused {
        Refused {
            reason: Reason::LimitExceeded,
            status: Refused::TOO_SLOW,
            message: format!(
                "the request's head did not arrive within {most:?}, which is \
                 limits.header_timeout_seconds; send it faster, or raise the limit"
            ),
        }
    }

    pub(crate) fn too_many_headers(most: usize) -> Refused {
        Refused {
            reason: Reason::LimitExceeded,
            status: Refused::TOO_LARGE,
            message: format!(
                "the request has more than {}; send fewer, or raise limits.headers",
                count(most as u64, "header field")
            ),
        }
    }
}

/// Which bytes may stand in a token: looked up for each byte of each header name.
const TCHARS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_tchar(byte as u8);
        byte += 1;
    }
    table
};

/// A character of a token (RFC 9110 section 5.6.2).
const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The longest method let through; registered ones have at most 17 characters.
const MOST_METHOD: usize = 32;

/// Checks a complete head, including its final empty line.
pub(crate) fn check(head: &[u8], most_headers: usize) -> Result<Framing, Refused> {
    let mut lines = HeadLines(head.strip_suffix(b"\r\n").unwrap_or(head));
    let version = request_line(lines.next().unwrap_or_default())?;
    let mut fields = FramingFields::default();
    let mut count = 0;
    for line in lines {
        count += 1;
        if count > most_headers {
            return Err(Refused::too_many_headers(most_headers));
        }
        let (name, value) = field(line)?;
        fields.see(name, value)?;
    }
    fields.framing(version)
}

/// The lines of a head, split at CRLF; a bare CR or LF stays in a line, where it is refused.
struct HeadLines<'a>(&'a [u8]);

impl<'a> Iterator for HeadLines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let mut feeds = memchr::memchr_iter(b'\n', self.0);
        let (line, rest) = match feeds.find(|&at| at > 0 && self.0[at - 1] == b'\r') {
            Some(at) => (&self.0[..at - 1], &self.0[at + 1..]),
            None => (self.0, &[][..]),
        };
        self.0 = rest;
        Some(line)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn request_line(line: &[u8]) -> Result<Version, Refused> {
    let shape = || {
        Refused::malformed(
            "the request line is not a method, a target and a version separated by single spaces",
        )
    };
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(shape());
    };
    if method.is_empty() || method.len() > MOST_METHOD || !method.iter().copied().all(is_tchar) {
        return Err(Refused::malformed("the method is not a token of at most 32 characters"));
    }
    if method == REFUSED_METHOD.as_bytes() {
        return Err(Refused::malformed("that method is reserved"));
    }
    if target.is_empty() {
        return Err(shape());
    }
    check_target(method, target)?;
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => Err(Refused::malformed("the protocol version is neither 1.1 nor 1.0")),
    }
}

/// Checks an HTTP/2 head where hyper is lenient, by the same rules.
pub(crate) fn parsed(parts: &http::request::Parts) -> Result<(), Refused> {
    let method = parts.method.as_str();
    if method.len() > MOST_METHOD {
        return Err(Refused::malformed("the method is not a token of at most 32 characters"));
    }
    // CONNECT has no path; it is refused for being CONNECT.
    if let Some(target) = parts.uri.path_and_query() {
        check_target(method.as_bytes(), target.as_str().as_bytes())?;
    }
    let mut fields = FramingFields::default();
    for (name, value) in &parts.headers {
        fields.see(name.as_str().as_bytes(), value.as_bytes())?;
    }
    Ok(())
}

/// Checks a request target.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Refused> {
    if let Some(byte) = target.iter().find(|byte| !(0x21..=0x7e).contains(*byte) || **byte == b'#')
    {
        return Err(Refused::path(format!(
            "the request target contains the byte 0x{byte:02X}, which has no single meaning there; \
             percent-encode it"
        )));
    }
    // The HTTP library would answer these with an empty 400, so they are refused first.
    if method == b"CONNECT" && http::Uri::try_from(target).is_err() {
        return Err(Refused::malformed("the target of CONNECT is not a host and a port"));
    }
    if method != b"CONNECT" && !is_target(target) {
        return Err(Refused::path(
            "the request target is neither a path that begins with `/`, `*`, nor an absolute URL, \
             or contains a character that must be percent-encoded there",
        ));
    }
    Ok(())
}

/// Whether a target has a form of RFC 9112 section 3.2 that is allowed in a request to an origin.
fn is_target(target: &[u8]) -> bool {
    let parsed = http::Uri::try_from(target);
    match target {
        b"*" => true,
        [b'/', ..] => parsed.is_ok_and(|uri| uri.authority().is_none()),
        _ => parsed.is_ok_and(|uri| {
            uri.scheme().is_some()
                && uri.authority().is_some_and(|authority| !authority.host().is_empty())
        }),
    }
}

/// Splits a field line into name and value, without surrounding white space.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(Refused::malformed(
            "a header is folded over two lines, which is obsolete; send it on one line",
        ));
    }
    let colon = memchr::memchr(b':', line)
        .ok_or_else(|| Refused::malformed("a header line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| TCHARS[usize::from(*byte)]) {
        return Err(Refused::malformed(
            "a header name is empty or contains a character that is not allowed",
        ));
    }
    let value = value.trim_ascii();
    // RFC 9110 section 5.5 allows visible characters, spaces, tabs and obs-text. `trim_ascii` may
    // have removed a bare CR or LF, so the untrimmed value is checked.
    // Without an early end, many bytes are looked at together.
    let is_control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
    if line[colon + 1..].iter().fold(false, |found, byte| found | is_control(*byte)) {
        return Err(Refused::malformed("a header value contains a control character"));
    }
    Ok((name, value))
}

/// A chunk size: 1 to 16 hexadecimal digits and nothing else.
pub(super) fn chunk_size(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16)
        .ok()
        .filter(|size| *size <= i64::MAX as u64)
}

/// What the head's fields say about its framing.
#[derive(Default)]
struct FramingFields {
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    upgrade: bool,
    connection_upgrade: bool,
}

impl FramingFields {
    fn see(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        // The length rules out nearly every header without a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(Refused::malformed("there is more than one Host header"));
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.connection_upgrade |= value
                    .split(|byte| *byte == b',')
                    .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Refused::malformed("there is more than one Content-Length header"));
                }
                self.length = Some(length(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refused::malformed(
                        "the only accepted Transfer-Encoding is a single `chunked`",
                    ));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(self, version: Version) -> Result<Framing, Refused> {
        let upgrade = self.upgrade && self.connection_upgrade && version == Version::Http11;
        if upgrade && (self.chunked || self.length.is_some_and(|bytes| bytes > 0)) {
            return Err(Refused::malformed(
                "the request has both an upgrade and a body; send one or the other",
            ));
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refused::malformed(
                "the request has both Content-Length and Transfer-Encoding; send one",
            )),
            (None, true) if version == Version::Http10 => {
                Err(Refused::malformed("an HTTP/1.0 request cannot have a Transfer-Encoding"))
            }
            (None, true) => Ok(Framing::Chunked),
            (Some(bytes), false) if bytes > 0 => Ok(Framing::Length(bytes)),
            _ if self.upgrade && self.connection_upgrade && version == Version::Http11 => {
                Ok(Framing::Upgrade)
            }
            _ => Ok(Framing::None),
        }
    }
}

fn length(value: &[u8]) -> Result<u64, Refused> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| {
            !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit())
        })
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|length| *length <= i64::MAX as u64)
        .ok_or_else(|| Refused::malformed("Content-Length is not a plain decimal number"))
}

/// Why an incomplete head can no longer become valid: a bare LF, or a malformed first line.
pub(crate) fn cannot_be_head(head: &[u8]) -> Option<Refused> {
    if let Some(at) = memchr::memchr(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Some(Refused::malformed(
                "a line of the head ends in a bare LF; end lines in CRLF",
            ));
        }
        return request_line(&head[..at - 1]).err();
    }
    let method = head.split(|byte| *byte == b' ').next().unwrap_or_default();
    let impossible = method.len() > MOST_METHOD
        || !method.iter().copied().all(|byte| is_tchar(byte) || byte == b'\r');
    impossible.then(|| Refused::malformed("the request line does not begin with a method"))
}
