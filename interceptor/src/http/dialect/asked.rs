//! Who asks, as far as a request tells.

use http::Uri;
use http::header::{HeaderMap, USER_AGENT};

/// The parts of a request that identify the client.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Asked<'a> {
    /// Its fields.
    pub(in crate::http) headers: &'a HeaderMap,
    /// Its target.
    pub(in crate::http) uri: &'a Uri,
    /// Its body, if it [may be a call](super::may_be_a_call); otherwise empty.
    pub(in crate::http) body: &'a [u8],
}

impl Asked<'_> {
    pub(super) fn begins(&self, name: http::HeaderName, start: &str) -> bool {
        self.headers.get(name).is_some_and(|value| {
            let head = value.as_bytes().get(..start.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
        })
    }

    /// Whether the go command is asking a module proxy (<https://go.dev/ref/mod#goproxy-protocol>);
    /// it sends only the user agent of Go's HTTP library.
    pub(super) fn is_go_command(&self) -> bool {
        let path = self.uri.path();
        self.begins(USER_AGENT, "go-http-client/")
            && (path.contains("/@v/")
                || path.ends_with("/@latest")
                || path.starts_with("/sumdb/")
                || self.uri.query().is_some_and(|query| query.contains("go-get=1")))
    }
}
