//! Excerpts of a policy document for error messages: part of the line around the value, with
//! anything that may be a key masked.
//!
//! Masking follows the document's structure, so nothing is shown of a text that is not JSON. A
//! string is shown only where the schema has a name, host, method, pattern or limit, and only if it
//! looks like one; in a credential, only hosts and endpoints qualify. Every other value is masked.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use interceptor_policy::{Problem, child_pointer, string_end};
use serde::de::IgnoredAny;

/// How many bytes of a line are shown before the value, and in all.
const BEFORE: usize = 60;
const WIDTH: usize = 150;

/// The top-level fields whose values may be shown.
const SHOWN: [&str; 4] = ["image", "network", "network_profile", "limits"];
const SHOWN_IN_CREDENTIAL: [&str; 4] = ["hosts", "endpoints", "methods", "paths"];
const CREDENTIAL: [&str; 8] =
    ["key", "client_cert", "endpoints", "hosts", "inject", "env", "allow_plaintext", "cookies"];

/// A document prepared for excerpts.
pub(super) struct Excerpts<'a> {
    text: &'a str,
    /// The start of each line.
    lines: Vec<usize>,
    /// Whether the text is JSON.
    is_json: bool,
    /// The start of the value at each requested pointer, and at its parents.
    values: HashMap<String, usize>,
    /// Strings (without quotes) and other values to mask, in order.
    masked: Vec<Range<usize>>,
}

impl<'a> Excerpts<'a> {
    /// Scans a document for these problems, keeping only their positions. A text that is not JSON,
    /// or that nests too deep for a policy, yields no excerpts.
    pub(super) fn of<'p>(
        text: &'a str,
        problems: impl IntoIterator<Item = &'p Problem>,
    ) -> Excerpts<'a> {
        let mut wanted = HashSet::new();
        for problem in problems {
            let mut pointer = problem.pointer.as_str();
            while wanted.insert(pointer.to_owned())
                && let Some(at) = pointer.rfind('/')
            {
                pointer = &pointer[..at];
            }
        }
        let lines =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut walk = Walk { text, wanted, values: HashMap::new(), masked: Vec::new() };
        let is_json = text.len() <= interceptor_policy::MAX_BYTES
            && !interceptor_policy::is_too_deep(text)
            && serde_json::from_str::<IgnoredAny>(text).is_ok();
        if is_json {
            walk.document();
        }
        Excerpts { text, lines, is_json, values: walk.values, masked: walk.masked }
    }

    /// The excerpt for a problem.
    pub(super) fn of_problem(&self, problem: &Problem) -> Option<String> {
        if !self.is_json {
            return None;
        }
        let line = problem.line?.checked_sub(1)?;
        let start = *self.lines.get(line)?;
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let indent = self.text[start..end].len() - self.text[start..end].trim_start().len();
        let (start, end) =
            (start + indent, start + self.text[start..end].trim_end().len().max(indent));
        let at =
            self.position(&problem.pointer).filter(|at| (start..end).contains(at)).unwrap_or(start);
        let from = self.boundary(at.saturating_sub(BEFORE).max(start));
        let to = self.boundary((from + WIDTH).min(end));
        let mut shown = String::from(if from > start { "…" } else { "" });
        self.push(&mut shown, from..to);
        if to < end && !shown.ends_with('…') {
            shown.push('…');
        }
        Some(shown)
    }

    /// The start of the value at a pointer, or at its nearest known parent.
    fn position(&self, mut pointer: &str) -> Option<usize> {
        loop {
            if let Some(at) = self.values.get(pointer) {
                return Some(*at);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }

    /// The next character boundary.
    fn boundary(&self, mut at: usize) -> usize {
        while !self.text.is_char_boundary(at) {
            at += 1;
        }
        at
    }

    /// Appends a range of the text, masked parts as `…`.
    fn push(&self, shown: &mut String, range: Range<usize>) {
        let mut at = range.start;
        let first = self.masked.partition_point(|masked| masked.end <= range.start);
        for masked in self.masked[first..].iter().take_while(|masked| masked.start < range.end) {
            shown.push_str(&self.text[at..masked.start.max(at)]);
            if !shown.ends_with('…') {
                shown.push('…');
            }
            at = masked.end;
        }
        shown.push_str(&self.text[at.min(range.end)..range.end]);
    }
}

/// One pass over valid JSON.
struct Walk<'a> {
    text: &'a str,
    /// The pointers whose positions are kept.
    wanted: HashSet<String>,
    values: HashMap<String, usize>,
    masked: Vec<Range<usize>>,
}

/// An open list or object.
struct OpenValue {
    /// `None` if no position below it is wanted.
    pointer: Option<String>,
    /// The number of names that lead to it.
    depth: usize,
    /// The next element's index; `None` for an object.
    index: Option<usize>,
}

impl<'a> Walk<'a> {
    fn document(&mut self) {
        let bytes = self.text.as_bytes();
        let mut open: Vec<OpenValue> = Vec::new();
        // The names that lead to the next value, as written; list elements share the list's name.
        let mut names: Vec<&'a str> = Vec::new();
        // In an object, the pointer of the next value, once its name is read.
        let mut named: Option<Option<String>> = None;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let start = at;
            at += 1;
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b':' => continue,
                b',' => {
                    if let Some(OpenValue { index: Some(index), .. }) = open.last_mut() {
                        *index += 1;
                    }
                    continue;
                }
                b']' | b'}' => {
                    open.pop();
                    names.truncate(open.last().map_or(0, |outer| outer.depth));
                    continue;
                }
                _ => {}
            }
            if let (b'"', Some(object @ OpenValue { index: None, .. }), None) =
                (byte, open.last(), &named)
            {
                at = string_end(bytes, at);
                named = Some(self.name(object, &mut names, start..at));
                continue;
            }
            let pointer = named.take().unwrap_or_else(|| match open.last() {
                Some(OpenValue { pointer, index: Some(index), .. }) => {
                    let pointer = pointer.as_ref().map(|pointer| format!("{pointer}/{index}"));
                    pointer.filter(|pointer| self.wanted.contains(pointer))
                }
                _ => Some(String::new()),
            });
            if let Some(pointer) = &pointer {
                self.values.insert(pointer.clone(), start);
            }
            match byte {
                b'{' | b'[' => {
                    let index = (*byte == b'[').then_some(0);
                    open.push(OpenValue { pointer, depth: names.len(), index });
                }
                _ => at = self.scalar(start, &names),
            }
        }
    }

    /// Reads a name in an object, quotes included; returns the pointer of its value if wanted.
    fn name(
        &mut self,
        object: &OpenValue,
        names: &mut Vec<&'a str>,
        quoted: Range<usize>,
    ) -> Option<String> {
        let inner = quoted.start + 1..quoted.end - 1;
        let name = &self.text[inner.clone()];
        names.truncate(object.depth);
        if !may_show_name(names, name) {
            self.masked.push(inner);
        }
        names.push(name);
        let token: String = serde_json::from_str(&self.text[quoted]).unwrap_or_default();
        let pointer = object.pointer.as_ref().map(|pointer| child_pointer(pointer, &token));
        pointer.filter(|pointer| self.wanted.contains(pointer))
    }

    /// Reads a string, number or literal at `start`; returns its end.
    fn scalar(&mut self, start: usize, names: &[&'a str]) -> usize {
        let bytes = self.text.as_bytes();
        if bytes[start] == b'"' {
            let end = string_end(bytes, start + 1);
            let value = start + 1..end - 1;
            if !may_show(names) || !harmless(&self.text[value.clone()]) {
                self.masked.push(value);
            }
            return end;
        }
        let more = bytes[start + 1..].iter().position(|byte| b" \t\r\n,]}".contains(byte));
        let end = more.map_or(bytes.len(), |more| start + 1 + more);
        if !may_show(names) {
            self.masked.push(start..end);
        }
        end
    }
}

/// Whether a value at these names may be shown.
fn may_show(names: &[&str]) -> bool {
    match names {
        ["credentials_v2", _, fields @ ..] => {
            !fields.is_empty() && fields.iter().all(|field| SHOWN_IN_CREDENTIAL.contains(field))
        }
        [field, ..] => SHOWN.contains(field),
        [] => false,
    }
}

/// Whether a name may be shown: schema fields, credential names, and short names elsewhere.
fn may_show_name(names: &[&str], name: &str) -> bool {
    let short = name.len() <= 32 && !interceptor_policy::looks_like_key(name);
    match names {
        [] | ["credentials" | "credentials_v2"] => short,
        ["credentials_v2", _] => CREDENTIAL.contains(&name),
        _ => {
            may_show(names)
                && short
                && (names[0] != "credentials_v2" || SHOWN_IN_CREDENTIAL.contains(&name))
        }
    }
}

/// Whether a string is certainly a method, pattern or rule rather than a key.
fn harmless(text: &str) -> bool {
    let short =
        |limit: usize, separator: char| text.split(separator).all(|part| part.len() <= limit);
    let method = text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let pattern = text.starts_with('/') && short(32, '/');
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:/*-_[]".contains(&byte)
    };
    let host = text.contains(['.', ':', '*']) && text.bytes().all(plain) && short(24, '.');
    method || pattern || host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, pointer: &str, line: usize) -> Option<String> {
        let problem = Problem { line: Some(line), ..Problem::new(pointer, "wrong") };
        Excerpts::of(text, [&problem]).of_problem(&problem)
    }

    #[test]
    fn c5_no_value_of_a_credential_is_shown_whatever_it_looks_like() {
        for (text, pointer) in [
            (
                r#"{"credentials_v2":{"b":{"key":L"my.secret.key","hosts":[5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (
                r#"{"credentials_v2":{"b":{"kez":L"my.secret.key","hosts":[5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (
                r#"{"credentials_v2":{"b":{"key":{"value":L"my.secret.key"},"hosts":[5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (
                r#"{"credentials_v2":{"b":{"key":[L"my.secret.key"],"hosts":[5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (r#"{"credentials_v2":{"b":L"my.secret.key","c":5}}"#, "/credentials_v2/c"),
            (r#"{"credentials_v2":L"my.secret.key"}"#, "/credentials_v2"),
            (
                r#"{"credentials_v2":{"b":{"hosts":[{"my.secret.key":L1},5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (
                r#"{"credentials_v2":{"b":{"inject":{"header":L"my.secret.key"},"hosts":[5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (
                r#"{"credentials_v2":{"b":{"endpoints":[{"key":L"my.secret.key"}],"hosts":[5]}}}"#,
                "/credentials_v2/b/hosts/0",
            ),
            (r#"{"credentials":{"a":L"my.secret.key","b":5}}"#, "/credentials/b"),
            (r#"{"credentials":L["my.secret.key"]}"#, "/credentials"),
            (r#"{"\u0063redentials":{"a":L"my.secret.key"},"x":5}"#, "/x"),
            (r#"{"credential":{"a":L"my.secret.key"},"x":5}"#, "/x"),
            (r#"{"key":L"my.secret.key","x":5}"#, "/x"),
            (r#"[L"my.secret.key"]"#, ""),
            (r#"L"my.secret.key""#, ""),
        ] {
            for text in [text.replace('L', "\n"), text.replace('L', "")] {
                for line in 1..=2 {
                    let shown = shown(&text, pointer, line).unwrap_or_default();
                    assert!(!shown.contains("secret"), "{text}: {shown}");
                }
            }
        }
        let text =
            "{\"credentials_v2\":{\"b\":{\"key\":\n12345678,\"hosts\":[\"a_b.example.com\", 5]}}}";
        assert_eq!(
            shown(text, "/credentials_v2/b/hosts/0", 2).as_deref(),
            Some("…,\"hosts\":[\"a_b.example.com\", 5]}}}")
        );
    }

    #[test]
    fn nothing_is_shown_of_what_is_no_json() {
        for text in
            ["{\"key\": \"my.secret.key\" x}", "{\"a\": 1,\n", "", "\u{feff}{\"a.b\": \"c.d\"}"]
        {
            assert_eq!(shown(text, "", 1), None, "{text}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_value() {
        let rules: Vec<String> = (0..1000).map(|n| format!("\"host{n}.example.com\"")).collect();
        let text = format!("{{\"network\":{{\"allow\":[{},\"é\"]}}}}", rules.join(","));
        for (index, start, end) in [(0, "{\"network\":", "…"), (500, "…", "…"), (1000, "…", "}}")]
        {
            let shown = shown(&text, &format!("/network/allow/{index}"), 1).unwrap();
            assert!(
                shown.len() <= WIDTH + 10 && shown.starts_with(start) && shown.ends_with(end),
                "{shown}"
            );
            assert!(index == 1000 || shown.contains(&format!("host{index}.")), "{shown}");
        }
        assert_eq!(
            shown("{\n  \"network\": {\"allow\": [5]}\n}", "/network/allow/0", 2).as_deref(),
            Some("\"network\": {\"allow\": [5]}")
        );
    }
}
