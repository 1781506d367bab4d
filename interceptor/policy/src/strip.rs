//! What is removed from requests to governed hosts: any other authentication than the credential's,
//! cookies, and headers that give the origin another path or host than the one that was judged. The
//! names are data (`data/authentication.json`).
//!
//! Servers accept one name in many spellings: CGI and its heirs turn every character other than
//! letters and digits into `_`, PHP does so in query parameters, and frameworks fold case and take
//! `apiKey` for `api_key`. So names are compared by their letters and digits alone, and for the
//! prefixes and suffixes in the file, with `-` for every other character.

mod usual;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use percent_encoding::percent_decode;
use serde::Deserialize;

use self::usual::Usual;
use super::credential::{Credential, Form};

/// Names up to this length stay on the stack; nearly every header's name is shorter.
const USUAL: usize = 64;
/// How many layers of percent-encoding a parameter's name may have.
const DECODED: usize = 8;

/// Fields that frame a message or concern one connection (RFC 9110 section 7.6.1, RFC 9112), and
/// `host`.
const FRAMING: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// Headers that override a request's method, by their letters.
const OVERRIDES: [&str; 5] = [
    "xhttpmethodoverride",
    "xhttpmethod",
    "xmethodoverride",
    "httpmethodoverride",
    "methodoverride",
];
/// The length of the shortest of them.
const SHORTEST_OVERRIDE: usize = "xhttpmethod".len();

/// Names that an API needs although they are on the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keeps {
    /// Headers.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Query parameters.
    #[serde(default)]
    pub query: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "description")]
    _description: String,
    headers: Vec<Group>,
    query: Vec<Group>,
    addressing: Vec<Group>,
    protocols: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    names: Vec<String>,
    #[serde(rename = "source")]
    _source: String,
}

/// Names, as [`Folded`] compares them.
#[derive(Clone, Debug, Default)]
struct Names {
    exact: HashSet<Box<[u8]>>,
    begin: Vec<Box<[u8]>>,
    end: Vec<Box<[u8]>>,
}

/// The lists of the data file.
struct Lists {
    headers: Names,
    query: Names,
    addressing: Names,
    protocols: Names,
}

static LISTS: LazyLock<Lists> = LazyLock::new(|| {
    // The file is part of this crate and a test reads it: it is valid.
    #[expect(clippy::expect_used, reason = "embedded data, read by a test")]
    let file: File = serde_json::from_str(include_str!("../data/authentication.json"))
        .expect("the embedded list of authentication is valid");
    let names = |groups: &[Group]| Names::of(groups.iter().flat_map(|group| &group.names));
    Lists {
        headers: names(&file.headers),
        query: names(&file.query),
        addressing: names(&file.addressing),
        protocols: names(&file.protocols),
    }
});

/// A name in the two forms that are compared.
struct Folded {
    stack: [u8; USUAL],
    heap: Vec<u8>,
    length: usize,
}

impl Folded {
    fn of(name: &[u8]) -> Folded {
        let mut folded = Folded { stack: [0; USUAL], heap: Vec::new(), length: name.len() };
        if name.len() > USUAL {
            folded.heap = name.to_vec();
        } else {
            folded.stack[..name.len()].copy_from_slice(name);
        }
        for byte in folded.bytes() {
            *byte = if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
        }
        folded
    }

    fn bytes(&mut self) -> &mut [u8] {
        if self.length > USUAL { &mut self.heap } else { &mut self.stack[..self.length] }
    }

    /// Lower case, with `-` for what is neither a letter nor a digit.
    fn dashed(&mut self) -> &[u8] {
        self.bytes()
    }

    /// Letters and digits alone. Overwrites the dashed form.
    fn bare(&mut self) -> &[u8] {
        let bytes = self.bytes();
        let mut kept = 0;
        for at in 0..bytes.len() {
            if bytes[at] != b'-' {
                bytes[kept] = bytes[at];
                kept += 1;
            }
        }
        &bytes[..kept]
    }
}

fn bare(name: &str) -> Box<[u8]> {
    Folded::of(name.as_bytes()).bare().into()
}

impl Names {
    fn of<'a>(names: impl Iterator<Item = &'a String>) -> Names {
        let mut all = Names::default();
        for name in names {
            let dashed = |part: &str| Folded::of(part.as_bytes()).dashed().into();
            if let Some(begin) = name.strip_suffix('*') {
                all.begin.push(dashed(begin));
            } else if let Some(end) = name.strip_prefix('*') {
                all.end.push(dashed(end));
            } else {
                all.exact.insert(bare(name));
            }
        }
        all
    }

    fn begins(&self, dashed: &[u8]) -> bool {
        self.begin.iter().any(|begin| dashed.starts_with(begin))
    }

    fn ends(&self, dashed: &[u8]) -> bool {
        self.end.iter().any(|end| dashed.ends_with(end))
    }
}

/// What is removed from requests that one credential authenticates. Built once per policy.
#[derive(Clone, Debug)]
pub struct Strip {
    /// Headers and parameters that carry a credential of the same host.
    own_headers: HashSet<Box<[u8]>>,
    own_query: HashSet<Box<[u8]>>,
    /// The names the service needs.
    kept_headers: HashSet<Box<[u8]>>,
    kept_query: HashSet<Box<[u8]>>,
    cookies: bool,
    /// Headers that pass.
    passing: Usual,
}

impl Strip {
    /// Builds it for `credential`, which shares hosts with `neighbours`.
    pub(super) fn new<'a>(
        credential: &Credential,
        neighbours: impl Iterator<Item = &'a Credential>,
    ) -> Strip {
        let set = |names: &[String]| names.iter().map(|name| bare(name)).collect();
        let mut strip = Strip {
            own_headers: HashSet::new(),
            own_query: HashSet::new(),
            kept_headers: set(&credential.keeps.headers),
            kept_query: set(&credential.keeps.query),
            cookies: credential.cookies,
            passing: Usual::default(),
        };
        for form in neighbours.flat_map(|neighbour| &neighbour.forms) {
            match form {
                Form::Header { name, .. } => strip.own_headers.insert(bare(name)),
                Form::Basic { .. } => strip.own_headers.insert(bare("authorization")),
                Form::Query { name } => strip.own_query.insert(bare(name)),
                Form::SigV4 => strip.own_headers.insert(bare("authorization")),
            };
        }
        strip.passing = Usual::new(|name| !strip.removes(name));
        strip
    }

    /// Whether cookies pass, in both directions.
    pub fn passes_cookies(&self) -> bool {
        self.cookies
    }

    /// Whether a header of this name is removed.
    pub fn header(&self, name: &str) -> bool {
        !self.passing.holds(name) && self.removes(name)
    }

    fn removes(&self, name: &str) -> bool {
        let lists = &*LISTS;
        let mut name = Folded::of(name.as_bytes());
        let listed = {
            let dashed = name.dashed();
            [&lists.headers, &lists.addressing]
                .iter()
                .any(|list| list.begins(dashed) || list.ends(dashed))
        };
        let bare = name.bare();
        match bare {
            b"cookie" | b"cookie2" => !self.cookies,
            bare if self.own_headers.contains(bare) => true,
            bare if self.kept_headers.contains(bare) => false,
            bare => {
                listed
                    || lists.headers.exact.contains(bare)
                    || lists.addressing.exact.contains(bare)
            }
        }
    }

    /// Whether a query parameter, `name=value`, is removed: some server may read its name as one
    /// that authenticates, percent-encoded or with the brackets of a list.
    pub fn parameter(&self, parameter: &str) -> bool {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        let decoded = decoded(name);
        let whole = decoded.split(|byte| *byte == b'=').next().unwrap_or_default();
        let outer = whole.split(|byte| *byte == b'[').next().unwrap_or_default();
        // PHP turns an unclosed bracket into `_`.
        self.parameter_name(outer) || (outer.len() < whole.len() && self.parameter_name(whole))
    }

    fn parameter_name(&self, name: &[u8]) -> bool {
        let lists = &*LISTS;
        let mut name = Folded::of(name);
        let listed = {
            let dashed = name.dashed();
            lists.query.begins(dashed) || lists.query.ends(dashed) || lists.headers.ends(dashed)
        };
        let bare = name.bare();
        self.own_query.contains(bare)
            || !self.kept_query.contains(bare)
                && (listed
                    || lists.query.exact.contains(bare)
                    || lists.headers.exact.contains(bare))
    }
}

impl Strip {
    /// Whether an entry of `sec-websocket-protocol` carries authentication: clients that cannot set
    /// headers append it to a parameter's name, after a dot.
    fn protocol_part(&self, part: &[u8]) -> bool {
        let lists = &*LISTS;
        let mut name = Folded::of(part);
        let begins = lists.protocols.begins(name.dashed());
        begins || lists.protocols.exact.contains(name.bare()) || self.parameter_name(part)
    }

    /// The entries of `sec-websocket-protocol` without authentication; `None` if no entry has any.
    /// An entry that only announces authentication is removed with the next entry, which holds it.
    pub fn kept_protocols<'a>(&self, entries: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
        let mut kept = Vec::new();
        let mut announced = false;
        for entry in entries {
            let parts =
                || entry.split(|byte| b". \"=:/".contains(byte)).filter(|part| !part.is_empty());
            let authenticates = parts().any(|part| self.protocol_part(part));
            if !announced && !authenticates {
                kept.push(*entry);
            }
            announced = authenticates && parts().count() == 1 && !entry.contains(&b'.');
        }
        (kept.len() < entries.len()).then_some(kept)
    }

    /// A query without the removed parameters, the rest byte for byte; `None` if nothing is
    /// removed.
    pub fn kept_query(&self, query: &str) -> Option<String> {
        if !query.split(['&', ';']).any(|parameter| self.parameter(parameter)) {
            return None;
        }
        let mut kept = String::new();
        // Some servers also end a parameter at `;`, so those parameters are judged too. Each keeps
        // the separator before it.
        let mut rest = query;
        let (mut mark, mut first) = ("", true);
        while !rest.is_empty() || !mark.is_empty() {
            let end = rest.find(['&', ';']).unwrap_or(rest.len());
            let (parameter, behind) = rest.split_at(end);
            if !self.parameter(parameter) {
                kept.push_str(if first { "" } else { mark });
                kept.push_str(parameter);
                first = false;
            }
            let next = behind.len().min(1);
            (mark, rest) = behind.split_at(next);
        }
        Some(kept)
    }
}

/// A parameter's name with its percent-encoding undone, and with ASCII for characters that case
/// folding turns into ASCII letters.
fn decoded(name: &str) -> Cow<'_, [u8]> {
    let mut decoded = Cow::Borrowed(name.as_bytes());
    for _ in 0..DECODED {
        if !decoded.contains(&b'%') {
            break;
        }
        if decoded.windows(2).any(|pair| pair.eq_ignore_ascii_case(b"%u")) {
            decoded = Cow::Owned(without_u(&decoded));
        }
        decoded = Cow::Owned(percent_decode(&decoded).collect());
    }
    if decoded.is_ascii() {
        return decoded;
    }
    let text = String::from_utf8_lossy(&decoded).into_owned();
    Cow::Owned(
        text.chars().flat_map(char::to_uppercase).collect::<String>().to_lowercase().into_bytes(),
    )
}

/// A name with `%uXXXX` undone, which some servers decode.
fn without_u(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(byte) = name.get(at) {
        let code = match name.get(at..at + 6) {
            Some([b'%', b'u' | b'U', digits @ ..]) if digits.iter().all(u8::is_ascii_hexdigit) => {
                std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        match code.and_then(char::from_u32) {
            Some(character) => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at += 6;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// The framing or hop-by-hop field that a server may mistake a header for because of `_` or a
/// similar character in its name, although HTTP does not (RFC 9112 section 11.2).
pub fn resembles_framing(name: &str) -> Option<&'static str> {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    let mut name = Folded::of(name.as_bytes());
    let name = name.bare();
    FRAMING
        .into_iter()
        .find(|framing| framing.bytes().filter(|byte| *byte != b'-').eq(name.iter().copied()))
}

/// Whether a header of this name overrides a request's method.
pub fn is_method_override(name: &str) -> bool {
    // Length and first letter rule out most headers without copying.
    name.len() >= SHORTEST_OVERRIDE
        && name
            .trim_start_matches(|first: char| !first.is_ascii_alphanumeric())
            .starts_with(['x', 'X', 'h', 'H', 'm', 'M'])
        && overrides_method(name.as_bytes())
}

fn overrides_method(name: &[u8]) -> bool {
    let mut folded = Folded::of(name);
    let bare = folded.bare();
    OVERRIDES.iter().any(|name| name.as_bytes() == bare)
}

/// The methods that a query's `_method` asks for: Rails, Symfony, Laravel and others read it.
pub fn query_overrides(query: &str) -> impl Iterator<Item = String> {
    query.split(['&', ';']).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        // Most queries have none.
        if !name.bytes().any(|byte| matches!(byte, b'd' | b'D' | b'%')) {
            return None;
        }
        let name = decoded(name);
        let outer = name.strip_suffix(b"[]").unwrap_or(&name);
        if Folded::of(outer).dashed() != b"-method" && !overrides_method(outer) {
            return None;
        }
        let value: Vec<u8> = percent_decode(value.as_bytes()).collect();
        Some(String::from_utf8_lossy(&value).replace('+', " "))
    })
}
