//! Words that sources and documents must not contain.

use super::files;
use super::pages::{pages, spans};

/// Names of documents that are not in the repository, split so that this file does not contain
/// them.
const OUTSIDE: [(&str, &str); 5] =
    [("SP", "EC"), ("ATTA", "CKS"), ("REV", "IEW"), ("DES", "IGN"), ("/work/", "shared")];

fn has_word(text: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !letter(text[..at].chars().next_back()) && !letter(text[at + word.len()..].chars().next())
    })
}

/// Whether a line names an entry of an external list: the word and a number.
fn names_entry(line: &str, word: &str) -> bool {
    let line = line.to_lowercase();
    line.match_indices(word)
        .any(|(at, _)| line[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn nothing_points_outside_the_repository() {
    let entries = [format!("{}{}", "iss", "ue "), format!("{}{}", "iss", "ue #")];
    let extensions =
        ["rs", "md", "toml", "json", "sh", "py", "js", "mjs", "go", "java", "c", "service"];
    let files = files(&extensions);
    assert!(files.len() > 400, "{} files were found", files.len());
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}: {line}", path.display(), number + 1);
            for (first, second) in OUTSIDE {
                assert!(!has_word(line, &format!("{first}{second}")), "{place}");
            }
            for entry in &entries {
                assert!(!names_entry(line, entry), "{place}");
            }
        }
    }
}

#[test]
fn a_word_is_found_on_its_own_and_not_within_another() {
    assert!(
        has_word("of SPEK 7", "SPEK") && has_word("SPEK", "SPEK") && has_word("(SPEK)", "SPEK")
    );
    assert!(!has_word("SPEKS", "SPEK") && !has_word("A_SPEK", "SPEK"));
    let word = format!("{}{}", "iss", "ue ");
    assert!(
        names_entry(&format!("see {word}7"), &word) && !names_entry(&format!("an {word}of"), &word)
    );
}

#[test]
fn names_in_pages_exist_in_the_product() {
    let sources: Vec<String> = files(&["rs", "json"])
        .into_iter()
        .filter(|(path, _)| {
            path.starts_with("interceptor") && !path.starts_with("interceptor/tests")
        })
        .map(|(_, text)| text)
        .collect();
    let known = |name: &str| sources.iter().any(|text| has_word(text, name));
    let mut checked = 0;
    for (path, text) in pages() {
        if !path.starts_with("docs") || path.ends_with("attacks.md") {
            continue;
        }
        for span in spans(&text) {
            let is_name = span.contains('_')
                && span.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if is_name && !span.ends_with('_') {
                // The metrics library appends these to counters and times.
                let metric = ["_total", "_seconds", "_info"]
                    .iter()
                    .find_map(|unit| span.strip_suffix(unit))
                    .unwrap_or(&span);
                assert!(known(&span) || known(metric), "{}: {span}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 60, "{checked} names were found");
}
