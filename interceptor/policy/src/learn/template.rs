//! Path templates: patterns that stand for similar paths.
//!
//! A segment that looks like an identifier (a number, a UUID, a hash, a ULID, a token) becomes `*`,
//! and so does one in whose place at least [`VARIES`] different ones were seen between the same
//! neighbours. A last segment needs [`VARIES_AT_END`], since a final `*` permits everything below.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::nearest::literal_pattern;
use crate::path::CanonicalPath;
use crate::pattern::{PathPattern, ROOT, is_star_segment};

/// How many different segments in one place make it a variable one.
const VARIES: usize = 3;
/// The same for the last segment.
const VARIES_AT_END: usize = 10;

/// The segments of a path or a template.
type Segments = Vec<String>;

/// The templates for each path, the most general first; the last one is the path itself.
pub(super) fn templates<'a>(
    paths: &BTreeSet<&'a CanonicalPath>,
) -> HashMap<&'a CanonicalPath, Vec<String>> {
    let plain: Vec<Segments> = paths.iter().map(|path| segments(path)).collect();
    let marked: Vec<Segments> = plain.iter().map(|segments| identifiers(segments)).collect();
    let varied = vary(marked.clone());
    let mut templates = HashMap::new();
    for (number, path) in paths.iter().enumerate() {
        let mut texts = vec![text(&varied[number]), text(&marked[number]), text(&plain[number])];
        if path.as_str() == "/" {
            // As a pattern `/` is every path; this one has no more than what ends in a slash.
            texts = vec!["/**/".to_owned(), "/".to_owned()];
        }
        texts.dedup();
        templates.insert(*path, texts);
    }
    templates
}

/// The template of one path.
pub(crate) fn of(path: &CanonicalPath) -> String {
    match path.as_str() {
        "/" => ROOT.to_owned(),
        _ => text(&identifiers(&segments(path))),
    }
}

/// Patterns that match the path, and hardly anything else: with one character left open, a pattern
/// is no prefix any more.
pub(super) fn exact(path: &CanonicalPath) -> impl Iterator<Item = PathPattern> {
    let text = literal_pattern(path);
    let open = |at: usize| -> Option<PathPattern> {
        let byte = *text.as_bytes().get(at)?;
        if !(byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)) || is_escape(&text, at) {
            return None;
        }
        PathPattern::parse(&format!("{}?{}", &text[..at], &text[at + 1..])).ok()
    };
    let patterns: Vec<PathPattern> = (1..text.len()).rev().filter_map(open).collect();
    patterns.into_iter()
}

/// Whether the byte is part of a percent-escape.
fn is_escape(text: &str, at: usize) -> bool {
    let percent = |back: usize| at >= back && text.as_bytes()[at - back] == b'%';
    percent(1) || percent(2)
}

fn segments(path: &CanonicalPath) -> Segments {
    literal_pattern(path)[1..].split('/').map(str::to_owned).collect()
}

fn text(segments: &[String]) -> String {
    format!("/{}", segments.join("/"))
}

fn identifiers(segments: &[String]) -> Segments {
    let mark = |(number, segment): (usize, &String)| {
        // A short number at the beginning is a version.
        let version = number == 0 && segment.len() < 4;
        let star = !version && is_identifier(segment) && is_star_segment(segment);
        if star { "*".to_owned() } else { segment.clone() }
    };
    segments.iter().enumerate().map(mark).collect()
}

/// Whether a segment looks like an identifier rather than a word.
fn is_identifier(segment: &str) -> bool {
    let count = |is: fn(&u8) -> bool| segment.bytes().filter(is).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let hex = count(u8::is_ascii_hexdigit);
    let length = segment.len();
    if length == 0 || digits == 0 {
        return false;
    }
    let dashes = segment.bytes().filter(|byte| *byte == b'-').count();
    let is_uuid = length == 36 && dashes == 4 && hex == 32;
    let is_hash = hex == length && length >= 7 && (letters > 0 || length >= 16);
    // ULIDs, and what services make of a prefix and something random: `file-9aXc0Qw3rT`.
    let is_random = |part: &str| {
        let digits = part.bytes().filter(u8::is_ascii_digit).count();
        part.len() >= 8 && digits > 0 && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let tail = segment.rsplit(['-', '_', ':']).next().unwrap_or(segment);
    let is_token = is_random(tail) && (tail.len() < length || length >= 20);
    digits == length || is_uuid || is_hash || is_token
}

/// Replaces the segments that vary.
fn vary(mut all: Vec<Segments>) -> Vec<Segments> {
    let longest = all.iter().map(Vec::len).max().unwrap_or_default();
    for at in 1..longest {
        // What stands before the place, how many segments there are, and, but for the last place,
        // the last segment: paths that agree in these are of one kind.
        let mut kinds: BTreeMap<(usize, Segments, Option<String>), Vec<usize>> = BTreeMap::new();
        for (number, segments) in all.iter().enumerate() {
            let Some(last) = segments.last().filter(|_| segments.len() > at) else { continue };
            let is_last = segments.len() == at + 1;
            // Directly below the root, different last segments are different resources.
            if (is_last && at < 2) || segments[at].is_empty() || !is_star_segment(&segments[at]) {
                continue;
            }
            let kind = (segments.len(), segments[..at].to_vec(), (!is_last).then(|| last.clone()));
            kinds.entry(kind).or_default().push(number);
        }
        for ((_, _, last), numbers) in kinds {
            let different: BTreeSet<&str> =
                numbers.iter().map(|number| all[*number][at].as_str()).collect();
            let enough = if last.is_some() { VARIES } else { VARIES_AT_END };
            if different.len() >= enough {
                numbers.iter().for_each(|number| all[*number][at] = "*".to_owned());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(paths: &[&str]) -> Vec<String> {
        let paths: Vec<CanonicalPath> =
            paths.iter().map(|path| CanonicalPath::parse(path).unwrap()).collect();
        let templates = templates(&paths.iter().collect());
        paths.iter().map(|path| templates[path][0].clone()).collect()
    }

    #[test]
    fn what_looks_like_an_identifier_becomes_a_star() {
        for (path, template) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/files/file-9aXc0Qw3rT/content", "/v1/files/*/content"),
            ("/repos/o/r/issues/17/comments", "/repos/o/r/issues/*/comments"),
            ("/x/123e4567-e89b-12d3-a456-426614174000", "/x/*"),
            ("/c/fe8abfc", "/c/*"),
            ("/c/9d7c3427894f0123456789abcdef0123456789ab", "/c/*"),
            ("/o/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/o/*"),
            ("/v1/models/gpt-4o", "/v1/models/gpt-4o"),
            ("/2/tweets", "/2/tweets"),
            ("/v1beta/models", "/v1beta/models"),
            ("/2024-06-01/x", "/2024-06-01/x"),
            ("/feedbeef", "/feedbeef"),
            ("/a/b%2F12345678901234567890", "/a/b%2F12345678901234567890"),
            ("/a/", "/a/"),
        ] {
            assert_eq!(each(&[path]), [template], "{path}");
        }
    }

    #[test]
    fn what_varies_between_the_same_neighbours_becomes_a_star() {
        let repositories = ["/repos/a/x/issues", "/repos/b/y/issues", "/repos/c/z/issues"];
        assert_eq!(
            each(&repositories),
            ["/repos/*/x/issues", "/repos/*/y/issues", "/repos/*/z/issues"]
                .map(|_| "/repos/*/*/issues")
        );
        // Two are not enough, and different resources do not vary.
        assert_eq!(each(&repositories[..2]), repositories[..2]);
        let resources = ["/v1/chat/completions", "/v1/images/edits", "/v1/audio/speech"];
        assert_eq!(each(&resources), resources);
        let many: Vec<String> = (b'a'..b'm').map(|c| format!("/en/wiki/{}", c as char)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(each(&many), vec!["/en/wiki/*"; 12]);
        assert_eq!(each(&many[..9]), many[..9]);
    }

    #[test]
    fn an_exact_pattern_has_nothing_below_it() {
        for text in ["/v1/models", "/a%20b", "/x/", "/é"] {
            let path = CanonicalPath::parse(text).or_else(|_| CanonicalPath::parse("/%C3%A9x"));
            let path = path.unwrap();
            let below = CanonicalPath::parse(&format!("{}/y", path.as_str())).unwrap();
            let patterns: Vec<PathPattern> = exact(&path).collect();
            assert!(!patterns.is_empty(), "{text}");
            for pattern in patterns {
                assert!(pattern.matches(&path) && !pattern.matches(&below), "{pattern:?}");
            }
        }
    }
}
