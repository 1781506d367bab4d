//! Errors and warnings about a policy document: a position and a message. A message never contains
//! a value of the document, because a value may be a misplaced key; the pointer and the line say
//! where to look.

/// The most errors, and the most warnings, reported for one document: a thousand wrong lines are
/// usually one mistake.
pub(crate) const MAX_PROBLEMS: usize = 1000;

/// Drops problems beyond [`MAX_PROBLEMS`], and says so.
pub(super) fn bound(problems: &mut Vec<Problem>) {
    if problems.len() > MAX_PROBLEMS {
        problems.truncate(MAX_PROBLEMS);
        let message = format!("only the first {MAX_PROBLEMS} are listed");
        problems.push(Problem::new("", message));
    }
}

/// An error or a warning about a policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The JSON pointer (RFC 6901) to the value concerned; empty for the document as a whole.
    pub pointer: String,
    /// What is wrong and how to fix it.
    pub message: String,
    /// The line of the document, counted from 1, if known.
    pub line: Option<usize>,
}

impl Problem {
    /// A problem whose line is not known yet.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { pointer: pointer.into(), message: message.into(), line: None }
    }
}

/// `base` with one more reference token, escaped as RFC 6901 section 3 says.
pub fn child_pointer(base: &str, token: &str) -> String {
    let mut pointer = String::with_capacity(base.len() + token.len() + 1);
    pointer.push_str(base);
    pointer.push('/');
    for character in token.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
    pointer
}

/// Prefixes of well-known services' keys.
const KEY_PREFIXES: [&str; 17] = [
    "sk-",
    "sk_",
    "rk_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "gsk_",
    "xai-",
    "hf_",
    "glpat-",
    "xox",
    "SG.",
    "pplx-",
    "r8_",
    "ntn_",
    "lin_api_",
];

/// Whether the name of a field looks like a key; messages must not repeat it then.
pub fn looks_like_key(name: &str) -> bool {
    let any = |class: fn(&u8) -> bool| name.as_bytes().iter().any(class);
    let mixed =
        any(u8::is_ascii_digit) && any(u8::is_ascii_lowercase) && any(u8::is_ascii_uppercase);
    name.len() >= 20 && (mixed || KEY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// The candidate that `word` most likely misspells, if one is close enough to suggest.
pub fn nearest_word<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let tolerance = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| {
            let plain = candidate.to_ascii_lowercase().replace('-', "_");
            // A prefix counts as a near miss at any length: `user` for `username`.
            let cut =
                folded.len() >= 3 && (plain.starts_with(&folded) || folded.starts_with(&plain));
            let distance = strsim::damerau_levenshtein(&folded, &plain);
            (if cut { distance.min(tolerance) } else { distance }, candidate)
        })
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean X?`, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    match nearest_word(word, candidates) {
        Some(candidate) => format!("; did you mean `{candidate}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_escape_tilde_and_slash() {
        assert_eq!(child_pointer("", "a"), "/a");
        assert_eq!(child_pointer("/a", "x/y~z"), "/a/x~1y~0z");
    }

    #[test]
    fn a_field_named_like_a_key_is_recognised() {
        for key in
            ["sk-abcdefghijklmnopqrstuvw", "ghp_abcdefghijklmnop1234", "Xa81kdleEoq0plsmdjeiqw"]
        {
            assert!(looks_like_key(key), "{key}");
        }
        for name in [
            "openai",
            "billing-production-2024",
            "requests_per_second_per_host",
            "my-company.internal/api",
        ] {
            assert!(!looks_like_key(name), "{name}");
        }
    }

    #[test]
    fn a_near_miss_is_suggested_and_a_far_one_is_not() {
        let fields = ["network", "network_profile", "credentials", "credentials_v2"];
        assert_eq!(nearest_word("netwrok", fields), Some("network"));
        assert_eq!(nearest_word("Network", fields), Some("network"));
        assert_eq!(nearest_word("credentials-v2", fields), Some("credentials_v2"));
        assert_eq!(nearest_word("banana", fields), None);
    }
}
