//! Groups similar paths: `/v1/files/file-a1b2c3d4` is counted as `/v1/files/*`.

/// How many segments are kept.
const DEPTH: usize = 6;
/// The minimum length of a segment that may be an identifier rather than a word.
const LONG: usize = 8;

/// Replaces each segment that looks like an identifier by `*`, and everything beyond six segments
/// by `**`.
pub(super) fn of(path: &str) -> String {
    let mut out = String::with_capacity(path.len().min(64));
    for (depth, segment) in path.split('/').enumerate() {
        if depth > 0 {
            out.push('/');
        }
        if depth > DEPTH {
            out.push_str("**");
            break;
        }
        out.push_str(if is_identifier(segment) { "*" } else { segment });
    }
    out
}

/// A number, a long segment with a digit, or a very long segment.
fn is_identifier(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    !segment.is_empty()
        && (digits == segment.len()
            || (segment.len() >= LONG && digits > 0)
            || segment.len() > 4 * LONG)
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_are_collapsed_and_words_are_not() {
        for (path, pattern) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/files/file-a1b2c3d4", "/v1/files/*"),
            ("/repos/o/r/issues/17/comments", "/repos/o/r/issues/*/comments"),
            ("/x/123e4567-e89b-12d3-a456-426614174000", "/x/*"),
            ("/", "/"),
            ("", ""),
            ("/a/", "/a/"),
            ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/**"),
            ("*", "*"),
        ] {
            assert_eq!(super::of(path), pattern, "{path}");
        }
    }
}
