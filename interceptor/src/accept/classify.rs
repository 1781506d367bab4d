//! Recognises a connection's protocol by its first bytes. Pure.

/// The client connection preface of HTTP/2 (RFC 9113 section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method of an HTTP/1 request; anything longer is another protocol.
const MOST_METHOD: usize = 32;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A TLS handshake record (RFC 8446 section 5.1).
    Tls,
    /// HTTP/1.0 or 1.1 without TLS.
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
    /// Something else.
    Other,
}

/// The protocol that `first` begins, or `None` if more bytes are needed.
pub(crate) fn classify(first: &[u8]) -> Option<Spoken> {
    match first {
        [] => return None,
        // ContentType handshake, legacy_record_version 3.x.
        [0x16] => return None,
        [0x16, 0x03, ..] => return Some(Spoken::Tls),
        _ => {}
    }
    if H2_PREFACE.starts_with(&first[..first.len().min(H2_PREFACE.len())]) {
        return (first.len() >= H2_PREFACE.len()).then_some(Spoken::Http2);
    }
    // An empty line may precede a request line (RFC 9112 section 2.2).
    let line = first.strip_prefix(b"\r\n").unwrap_or(first);
    if line.is_empty() || first == b"\r" {
        return None;
    }
    if is_git(line) {
        return Some(Spoken::Other);
    }
    let word = line.iter().take_while(|byte| is_method_byte(**byte)).count();
    match line.get(word) {
        _ if word > MOST_METHOD => Some(Spoken::Other),
        None => None,
        Some(b' ') if word > 0 => target(&line[word + 1..]),
        Some(_) => Some(Spoken::Other),
    }
}

/// Any token character (RFC 9110 section 5.6.2), so that the refusal of an odd method can be
/// explained over HTTP.
fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A request in Git's own protocol (gitprotocol-pack(5)): a pkt-line that could pass for a method.
pub(super) fn is_git(first: &[u8]) -> bool {
    let digits = first.get(..4).is_some_and(|length| length.iter().all(u8::is_ascii_hexdigit));
    digits && first[4..].starts_with(b"git-")
}

/// What follows the method in HTTP/1: a path, `*`, an absolute URL or an authority, up to ` HTTP/`.
fn target(rest: &[u8]) -> Option<Spoken> {
    const MOST_TARGET: usize = 16 * 1024;
    match memchr::memchr(b'\n', &rest[..rest.len().min(MOST_TARGET)]) {
        Some(end) => {
            let is_http = memchr::memmem::find(&rest[..end], b"HTTP/").is_some();
            Some(if is_http { Spoken::Http1 } else { Spoken::Other })
        }
        // A request line has no control characters, and a client that sends them may be waiting for
        // an answer.
        None if has_controls(rest) => Some(Spoken::Other),
        None if rest.len() >= MOST_TARGET => Some(Spoken::Http1),
        // Hardly anything but a target begins with `/` or `http`, so there is no need to wait for
        // the whole line.
        None if rest.starts_with(b"/") || rest.starts_with(b"http") => Some(Spoken::Http1),
        None => None,
    }
}

/// Whether an incomplete line has control characters, apart from the CR that may end it.
fn has_controls(line: &[u8]) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line).iter().any(u8::is_ascii_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t3_first_bytes_tell_the_protocol() {
        let table: &[(&[u8], Option<Spoken>)] = &[
            (b"", None),
            (b"\x16", None),
            (b"\x16\x03\x01\x02\x00", Some(Spoken::Tls)),
            (b"\x16\x04", Some(Spoken::Other)),
            (b"\x80\x2e\x01\x03\x01", Some(Spoken::Other)),
            (b"G", None),
            (b"GET", None),
            (b"GET /", Some(Spoken::Http1)),
            (b"get / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"CONNECT a:443 HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"CONNECT a:443", None),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Spoken::Other)),
            (b"0032git", None),
            (b"0032git-upload-pack /x\0host=evil.test\0", Some(Spoken::Other)),
            (b"00aFgit-receive-pack /x\0host=evil.test\0", Some(Spoken::Other)),
            (b"GET /x\0y", Some(Spoken::Other)),
            (b"QUERY \x01", Some(Spoken::Other)),
            // Answered over HTTP, which can explain what is wrong.
            (b"GET /x\0y HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET /x HTTP/1.1\r", Some(Spoken::Http1)),
            (b"EHLO example.com\r\n", Some(Spoken::Other)),
            (b"\x05\x01\x00", Some(Spoken::Other)),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Some(Spoken::Other)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Other)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(Spoken::Other)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Other)),
        ];
        for (first, expected) in table {
            assert_eq!(classify(first), *expected, "{}", first.escape_ascii());
        }
    }

    #[test]
    fn more_bytes_never_change_the_result() {
        for whole in [
            b"GET /path HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x00\x05hello",
            b"SSH-2.0-x\r\n",
            b"0032git-upload-pack /x\0host=evil.test\0",
            b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        ] {
            let told: Vec<_> =
                (0..=whole.len()).filter_map(|end| classify(&whole[..end])).collect();
            assert!(told.iter().all(|spoken| *spoken == told[0]), "{}", whole.escape_ascii());
        }
    }
}
