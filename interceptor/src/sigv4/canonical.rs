//! The canonical form of a request: the one text that its signature is made of.

use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use zeroize::Zeroizing;

/// All but the unreserved characters (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request, as far as it can be signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// The path as it stands in the request.
    pub(crate) path: &'a str,
    /// The query as it stands in the request, without the mark.
    pub(crate) query: &'a str,
    /// The value of `host`.
    pub(crate) host: &'a str,
    /// The headers; `host` is taken from the field above.
    pub(crate) headers: &'a HeaderMap,
}

impl Message<'_> {
    /// The canonical form over these headers. It may hold a session token.
    pub(super) fn canonical(
        &self,
        covered: &[String],
        payload: &str,
        is_s3: bool,
        without: impl Fn(&str) -> bool,
    ) -> Zeroizing<String> {
        let path = if is_s3 { path_of_s3(self.path) } else { path(self.path) };
        let query = query(self.query, without);
        let mut text = Zeroizing::new(String::with_capacity(
            256 + path.len() + query.len() + 96 * covered.len(),
        ));
        for part in [self.method, "\n", &path, "\n", &query, "\n"] {
            text.push_str(part);
        }
        for name in covered {
            text.push_str(name);
            text.push(':');
            if name == "host" {
                push_trimmed(&mut text, self.host.as_bytes());
            } else {
                for (number, value) in self.headers.get_all(name).iter().enumerate() {
                    if number > 0 {
                        text.push(',');
                    }
                    push_trimmed(&mut text, value.as_bytes());
                }
            }
            text.push('\n');
        }
        for part in ["\n", &covered.join(";"), "\n", payload] {
            text.push_str(part);
        }
        text
    }
}

/// A value without blanks around it, and with one for each run of them.
fn push_trimmed(text: &mut String, value: &[u8]) {
    let words = value.split(|byte| *byte == b' ' || *byte == b'\t');
    for (number, word) in words.filter(|word| !word.is_empty()).enumerate() {
        if number > 0 {
            text.push(' ');
        }
        // What is not UTF-8 was not signed by any client either.
        text.push_str(&String::from_utf8_lossy(word));
    }
}

fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, UNRESERVED).to_string()
}

/// The path of S3: each segment as it is meant, encoded once.
fn path_of_s3(path: &str) -> String {
    let segment = |segment: &str| {
        let decoded: Vec<u8> = percent_decode(segment.as_bytes()).collect();
        encode(&decoded)
    };
    let path: Vec<String> = path.split('/').map(segment).collect();
    rooted(path.join("/"))
}

/// The path of every other service: normalised, and encoded as it stands in the request, hence
/// twice.
fn path(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let ends = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    let mut text = String::new();
    for segment in &kept {
        text.push('/');
        text.push_str(&encode(segment.as_bytes()));
    }
    if ends && !kept.is_empty() {
        text.push('/');
    }
    rooted(text)
}

fn rooted(path: String) -> String {
    if path.is_empty() { "/".to_owned() } else { path }
}

/// The parameters, decoded and encoded anew, in order.
fn query(query: &str, without: impl Fn(&str) -> bool) -> String {
    let given = query.split('&').filter(|parameter| !parameter.is_empty() && !without(parameter));
    let mut parameters: Vec<(String, String)> = given
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let anew = |text: &str| encode(&percent_decode(text.as_bytes()).collect::<Vec<u8>>());
            (anew(name), anew(value))
        })
        .collect();
    parameters.sort();
    let pairs: Vec<String> =
        parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}
