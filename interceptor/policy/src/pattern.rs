//! Path patterns: the `paths` of an endpoint rule.
//!
//! - Without a wildcard a pattern is a prefix on a segment boundary; one that ends in `/` matches
//!   itself and everything below.
//! - `*` is any number of characters of one segment, at least one if it is the whole segment; a
//!   final `/*` matches everything below, but not the path itself. `?` is one character of a
//!   segment.
//! - `**` crosses segments and may match nothing; as a whole segment between slashes it stands for
//!   zero or more segments (`/a/**/b` matches `/a/b`), as in gitignore, globset and bash.
//! - `/.` is the root itself, `/`, and nothing below it: no other path has a segment `.`.
//! - A glob is anchored at both ends. `[`, `]`, `{`, `}` are errors.
//!
//! Patterns are canonicalised like paths, so `/%7euser` and `/~user` are the same pattern. They are
//! case-sensitive.

use super::glob::{Glob, Token};
use super::path::{self, CanonicalPath, PathError};

/// The pattern that matches the root alone.
pub(super) const ROOT: &str = "/.";

/// Why a text is not a path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not start with `/`.
    #[error("a path pattern starts with `/`")]
    NotAbsolute,
    /// `[`, `]`, `{` or `}`.
    #[error(
        "`[`, `]`, `{{` and `}}` are not part of path patterns: only `*`, `**` and `?` are \
         wildcards"
    )]
    Bracket,
    /// Three stars or more in a row.
    #[error("`***` is not a wildcard: write `*` (within a segment) or `**` (across segments)")]
    Stars,
    /// A query.
    #[error(
        "a path pattern has no query: `?` is the wildcard for one character, and queries are not \
         matched"
    )]
    Query,
    /// No request path can ever equal it.
    #[error("no request can have this path: {0}")]
    Path(PathError),
    /// More than 8192 characters.
    #[error("a path pattern has at most 8192 characters")]
    TooLong,
}

/// The longest pattern, in bytes: longer than any path a client sends on purpose.
const MAX_PATTERN: usize = 8192;

/// A segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Exactly this canonical text.
    Literal(Box<str>),
    /// `*`: any segment of at least one character, none of them `%2F`.
    Star,
    /// Text and wildcards.
    Glob(SegmentGlob),
}

/// A segment with wildcards and text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SegmentGlob {
    /// The literal text before the first wildcard.
    pub(super) prefix: Box<str>,
    /// The literal text after the last wildcard.
    pub(super) suffix: Box<str>,
    /// The whole segment.
    pub(super) glob: Glob,
}

/// The rest of a pattern after its leading segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing, or `/` and anything: a prefix on a segment boundary.
    Prefix,
    /// `/` and anything: a pattern that ends in `/`.
    Directory,
    /// Nothing.
    Exact,
    /// `/` and at least one character: a final `/*`.
    Below,
    /// `/` and what the glob matches: from the first segment that has `**`.
    Deep(SegmentGlob),
}

/// A path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    pub(super) segments: Vec<Segment>,
    pub(super) tail: Tail,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it is not a pattern, or no canonical path can match it; see [`PatternError`].
    pub fn parse(text: &str) -> Result<PathPattern, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let below = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        if text == ROOT {
            let segments = vec![Segment::Literal("".into())];
            return Ok(PathPattern { text: text.to_owned(), segments, tail: Tail::Exact });
        }
        if text.contains(['[', ']', '{', '}']) {
            return Err(PatternError::Bracket);
        }
        if text.contains("***") {
            return Err(PatternError::Stars);
        }
        if below.rsplit_once('?').is_some_and(|(_, query)| query.contains('=')) {
            return Err(PatternError::Query);
        }
        // The stand-ins for wildcards must not hide a segment that no path can have.
        CanonicalPath::parse(&text.replace(['*', '?'], "x")).map_err(PatternError::Path)?;
        let (segments, tail) = split(below)?;
        Ok(PathPattern { text: text.to_owned(), segments, tail })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has a wildcard.
    pub fn is_glob(&self) -> bool {
        self.text.contains(['*', '?'])
    }

    /// Whether the pattern matches a path. The index of a credential's rules answers this for all
    /// rules at once.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let mut rest = Some(&path.as_str()[1..]);
        for segment in &self.segments {
            let Some(text) = rest else { return false };
            let (head, tail) = split_segment(text);
            if !segment.matches(head) {
                return false;
            }
            rest = tail;
        }
        self.tail.matches(rest)
    }
}

impl Segment {
    pub(super) fn matches(&self, segment: &str) -> bool {
        match self {
            Segment::Literal(literal) => **literal == *segment,
            Segment::Star => is_star_segment(segment),
            Segment::Glob(glob) => glob.glob.matches(segment),
        }
    }
}

impl Tail {
    /// Whether it matches the rest of a path: `None` if nothing follows the leading segments, else
    /// the text after the slash.
    pub(super) fn matches(&self, rest: Option<&str>) -> bool {
        match self {
            Tail::Prefix => true,
            Tail::Directory => rest.is_some(),
            Tail::Exact => rest.is_none(),
            Tail::Below => rest.is_some_and(|rest| !rest.is_empty()),
            Tail::Deep(glob) => rest.is_some_and(|rest| glob.glob.matches(rest)),
        }
    }
}

/// Whether `*` alone matches a segment.
pub(super) fn is_star_segment(segment: &str) -> bool {
    !segment.is_empty() && !segment.contains("%2F")
}

/// Splits the text after a slash into its first segment and the text after the next slash.
pub(super) fn split_segment(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

/// Splits the text after the first slash of a pattern.
fn split(below: &str) -> Result<(Vec<Segment>, Tail), PatternError> {
    let glob = below.contains(['*', '?']);
    let mut segments = Vec::new();
    let mut rest = Some(below);
    while let Some(text) = rest {
        let (head, tail) = split_segment(text);
        if head.contains("**") {
            return Ok((segments, Tail::Deep(deep(text)?)));
        }
        if tail.is_none() {
            match head {
                "" if !glob => return Ok((segments, Tail::Directory)),
                "*" => return Ok((segments, Tail::Below)),
                _ => {}
            }
        }
        segments.push(segment(head)?);
        rest = tail;
    }
    Ok((segments, if glob { Tail::Exact } else { Tail::Prefix }))
}

fn segment(text: &str) -> Result<Segment, PatternError> {
    if text == "*" {
        return Ok(Segment::Star);
    }
    if !text.contains(['*', '?']) {
        return Ok(Segment::Literal(literal(text)?.into_boxed_str()));
    }
    let mut tokens = Vec::new();
    push_segment(&mut tokens, text)?;
    segment_glob(text, tokens).map(Segment::Glob)
}

/// The glob of a rest that has `**`.
fn deep(text: &str) -> Result<SegmentGlob, PatternError> {
    let mut tokens = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let (head, tail) = split_segment(text);
        match (head, tail) {
            ("**", Some(_)) => {
                tokens.push(Token::DeepSegments);
                rest = tail;
                continue;
            }
            ("*", None) => tokens.extend([Token::Any, Token::Deep]),
            ("*", Some(_)) => tokens.extend([Token::One, Token::Star]),
            _ => push_segment(&mut tokens, head)?,
        }
        if tail.is_some() {
            Glob::push_literal(&mut tokens, "/");
        }
        rest = tail;
    }
    segment_glob(text, tokens)
}

fn segment_glob(text: &str, tokens: Vec<Token>) -> Result<SegmentGlob, PatternError> {
    let wildcard = |character: char| matches!(character, '*' | '?');
    let prefix = text.split(wildcard).next().unwrap_or_default();
    let mut suffix = text.rsplit(wildcard).next().unwrap_or_default();
    // `**/x` also matches `x`: the slash after a segment wildcard is optional.
    if text.strip_suffix(suffix).is_some_and(|head| head.ends_with("**")) {
        suffix = suffix.strip_prefix('/').unwrap_or(suffix);
    }
    Ok(SegmentGlob {
        prefix: literal(prefix)?.into_boxed_str(),
        suffix: literal(suffix)?.into_boxed_str(),
        glob: Glob::new(tokens),
    })
}

/// The tokens of text with `*`, `**` and `?`.
fn push_segment(tokens: &mut Vec<Token>, text: &str) -> Result<(), PatternError> {
    let mut rest = text;
    while let Some(position) = rest.find(['*', '?']) {
        Glob::push_literal(tokens, &literal(&rest[..position])?);
        let (token, length) = match &rest.as_bytes()[position..] {
            [b'*', b'*', ..] => (Token::Deep, 2),
            [b'*', ..] => (Token::Star, 1),
            _ => (Token::One, 1),
        };
        tokens.push(token);
        rest = &rest[position + length..];
    }
    Glob::push_literal(tokens, &literal(rest)?);
    Ok(())
}

fn literal(text: &str) -> Result<String, PatternError> {
    path::canonicalise(text).map_err(PatternError::Path)
}
