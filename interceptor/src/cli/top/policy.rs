//! A sandbox's policy as lines, each with the pointer of what begins there.

use serde_json::Value;

use super::text::Plain;

/// A policy.
#[derive(Debug)]
pub(super) struct Document {
    /// Its sandbox.
    pub(super) sandbox: String,
    /// Where it came from, and what is to be said of it.
    pub(super) about: Vec<Plain>,
    /// Its lines.
    pub(super) lines: Vec<Plain>,
    /// The line that was asked for, from 0.
    pub(super) marked: Option<usize>,
}

impl Document {
    /// Of a sandbox's details, as the API shows them.
    pub(super) fn new(sandbox: String, details: &Value, marked: Option<&str>) -> Document {
        let file = details["policy_file"].as_str().unwrap_or("given without a file");
        let mut about = vec![Plain::of(file)];
        for warning in details["warnings"].as_array().into_iter().flatten() {
            let text = |field: &str| warning[field].as_str().unwrap_or_default();
            about.push(Plain::of(&format!("warning: {}: {}", text("pointer"), text("detail"))));
        }
        let policy = &details["policy"];
        let lines = match policy {
            Value::Null => Vec::new(),
            policy => lines(policy),
        };
        if lines.is_empty() {
            about.push(Plain::of("The policy is the operator's and is not shown."));
        }
        let marked = marked.and_then(|marked| line_of(&lines, marked));
        let lines = lines.into_iter().map(|line| Plain::of(&line.text)).collect();
        Document { sandbox, about, lines, marked }
    }
}

struct Line {
    text: String,
    pointer: Option<String>,
}

/// The number, from 1, of the line of a policy at which the value of a pointer begins.
pub(super) fn line_number(policy: &Value, pointer: &str) -> Option<usize> {
    line_of(&lines(policy), pointer).map(|at| at + 1)
}

fn line_of(lines: &[Line], pointer: &str) -> Option<usize> {
    lines.iter().position(|line| line.pointer.as_deref() == Some(pointer))
}

fn lines(policy: &Value) -> Vec<Line> {
    let mut out = Vec::new();
    write(policy, "", &Around::default(), &mut out);
    out
}

/// What stands around a value.
#[derive(Default)]
struct Around {
    indent: String,
    label: String,
    comma: &'static str,
}

fn write(value: &Value, pointer: &str, around: &Around, out: &mut Vec<Line>) {
    let Around { indent, label, comma } = around;
    let at = |text: String| Line { text, pointer: Some(pointer.to_owned()) };
    let (entries, open, shut): (Vec<(String, &Value)>, _, _) = match value {
        Value::Array(list) => (
            list.iter().enumerate().map(|(index, one)| (index.to_string(), one)).collect(),
            '[',
            ']',
        ),
        Value::Object(map) => {
            (map.iter().map(|(name, one)| (name.clone(), one)).collect(), '{', '}')
        }
        plain => return out.push(at(format!("{indent}{label}{plain}{comma}"))),
    };
    if entries.is_empty() {
        return out.push(at(format!("{indent}{label}{open}{shut}{comma}")));
    }
    out.push(at(format!("{indent}{label}{open}")));
    let last = entries.len() - 1;
    for (index, (name, inner)) in entries.iter().enumerate() {
        let label = match value {
            Value::Object(_) => format!("{}: ", Value::from(name.as_str())),
            _ => String::new(),
        };
        let comma = if index < last { "," } else { "" };
        let token = name.replace('~', "~0").replace('/', "~1");
        let around = Around { indent: format!("{indent}  "), label, comma };
        write(inner, &format!("{pointer}/{token}"), &around, out);
    }
    out.push(Line { text: format!("{indent}{shut}{comma}"), pointer: None });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_leads_to_the_line_of_its_value() {
        let policy = json!({ "a/b": { "list": ["x", {}], "n": 1 }, "z": null });
        let document = Document::new(
            "web".to_owned(),
            &json!({ "policy": policy, "policy_file": "/p.json" }),
            Some("/a~1b/list/1"),
        );
        let lines: Vec<&str> = document.lines.iter().map(|line| &**line).collect();
        assert_eq!(
            lines,
            [
                "{",
                "  \"a/b\": {",
                "    \"list\": [",
                "      \"x\",",
                "      {}",
                "    ],",
                "    \"n\": 1",
                "  },",
                "  \"z\": null",
                "}"
            ]
        );
        assert_eq!(document.marked, Some(4));
        assert_eq!(line_number(&policy, "/z"), Some(9));
        assert_eq!(line_number(&policy, "/none"), None);
    }

    #[test]
    fn a_policy_that_is_not_shown_says_so() {
        let document = Document::new("web".to_owned(), &json!({ "policy": null }), None);
        assert!(document.lines.is_empty() && document.about[1].contains("not shown"));
    }
}
