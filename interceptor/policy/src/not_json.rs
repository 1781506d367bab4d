//! Explains to an author why a text is not JSON, and recognises files in another format.

/// One sentence for a text that serde_json refuses. It quotes nothing of the text.
pub fn not_json(text: &str, error: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "the document is empty".to_owned();
    }
    match other_format(text) {
        Some(format) => format!("this looks like {format}; a policy is a JSON document"),
        None => {
            format!("this is not valid JSON: {} (column {})", without_place(error), error.column())
        }
    }
}

/// The message of serde_json, without the line and column at its end.
pub fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// The format of the first line that is neither blank nor a comment.
fn other_format(text: &str) -> Option<&'static str> {
    let is_name = |name: &str| {
        let name = name.trim().trim_matches(['"', '\'']);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    let mut lines = text.lines().map(str::trim_end);
    let line = lines.find(|line| !line.is_empty() && !line.trim_start().starts_with('#'))?;
    if line == "---" || line.starts_with("%YAML") || line.starts_with("- ") {
        return Some("YAML");
    }
    let table = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if table.is_some_and(|name| is_name(name.trim_start_matches('[').trim_end_matches(']'))) {
        return Some("TOML");
    }
    match line.find([':', '=']).map(|at| line.split_at(at)) {
        Some((name, rest)) if is_name(name) && rest.starts_with('=') => Some("TOML"),
        Some((name, rest)) if is_name(name) && (rest == ":" || rest.starts_with(": ")) => {
            Some("YAML")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        not_json(text, &serde_json::from_str::<serde_json::Value>(text).unwrap_err())
    }

    #[test]
    fn the_message_for_another_format_names_it() {
        for text in ["network:\n  allow: []\n", "# ours\n---\nnetwork:\n", "limits: {}\n", "- a\n"]
        {
            assert_eq!(said(text), "this looks like YAML; a policy is a JSON document", "{text:?}");
        }
        for text in ["[network]\nallow = []\n", "network_profile = \"closed\"\n", "[[a.b]]\n"] {
            assert_eq!(said(text), "this looks like TOML; a policy is a JSON document", "{text:?}");
        }
        for text in ["", " \n\t"] {
            assert_eq!(said(text), "the document is empty");
        }
        assert_eq!(said("{\n  \"a\": 1,\n}"), "this is not valid JSON: trailing comma (column 1)");
        assert!(
            said("sk-canary").starts_with("this is not valid JSON: ")
                && !said("sk-canary").contains("sk-")
        );
    }
}
