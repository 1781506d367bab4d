//! The paths in a source, as far as they can be told without a compiler.

use std::collections::BTreeSet;

/// A name that a `use` declaration brings in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) path: Vec<String>,
    pub(crate) name: String,
    /// Whether it is visible outside of the module.
    pub(crate) is_exported: bool,
}

/// The names that a source brings in, and the rest of it.
pub(crate) fn uses(text: &str) -> (Vec<Use>, String) {
    let (mut found, mut rest, mut left) = (Vec::new(), String::new(), text);
    while let Some(at) = declaration(left) {
        let (before, after) = left.split_at(at);
        let (visibility, tree) = match after.strip_prefix("use ") {
            Some(tree) => (visibility(before), tree),
            None => unreachable!("{after}"),
        };
        let Some((tree, after)) = tree.split_once(';') else { break };
        let mut names = Vec::new();
        expand(&[], tree, &mut names);
        found.extend(names.into_iter().map(|(path, name)| Use {
            path,
            name,
            is_exported: visibility,
        }));
        rest.push_str(before);
        left = after;
    }
    rest.push_str(left);
    (found, rest)
}

/// Where the next `use` declaration begins.
fn declaration(text: &str) -> Option<usize> {
    let starts = text.match_indices("use ").map(|(at, _)| at);
    starts.into_iter().find(|at| {
        let line = text[..*at].rsplit('\n').next().unwrap_or_default().trim_start();
        let tree = text[*at..].split(';').next().unwrap_or_default();
        // Text that only reads like one has other characters.
        (line.is_empty() || is_visibility(line))
            && tree.chars().all(|next| next.is_alphanumeric() || " \n_:{},*".contains(next))
    })
}

fn is_visibility(line: &str) -> bool {
    line == "pub " || (line.starts_with("pub(") && line.ends_with(") "))
}

fn visibility(before: &str) -> bool {
    is_visibility(before.rsplit('\n').next().unwrap_or_default().trim_start())
}

/// Expands the tree of a `use` declaration into paths with the names they get.
fn expand(prefix: &[String], tree: &str, out: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(list) = tree.strip_prefix('{') {
        for branch in split(list.trim_end().trim_end_matches('}')) {
            expand(prefix, branch, out);
        }
    } else if let Some((first, rest)) = tree.split_once("::") {
        expand(&[prefix, &[first.trim().to_owned()]].concat(), rest, out);
    } else if !tree.is_empty() {
        let (item, name) = tree.split_once(" as ").unwrap_or((tree, tree));
        let last = prefix.last().map_or("", String::as_str);
        let (path, name) = match item {
            "self" => (prefix.to_vec(), if name == "self" { last } else { name }),
            _ => ([prefix, &[item.to_owned()]].concat(), name),
        };
        out.push((path, name.trim().to_owned()));
    }
}

/// Splits a list at the commas that are not inside of braces.
fn split(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, next) in list.char_indices() {
        match next {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[from..]);
    parts
}

/// The paths of two names and more, and all words that begin a path or stand alone.
pub(crate) fn paths(text: &str) -> (Vec<Vec<String>>, BTreeSet<String>) {
    let (mut paths, mut words, mut path) = (Vec::new(), BTreeSet::new(), Vec::<String>::new());
    let (mut left, mut is_module) = (text, false);
    while let Some(start) = left.find(|next: char| next.is_alphabetic() || next == '_') {
        let continues = start == 2 && left.starts_with("::");
        let word = &left[start..];
        let end = word.find(|next: char| !next.is_alphanumeric() && next != '_');
        let (word, after) = word.split_at(end.unwrap_or(word.len()));
        if !continues && path.len() > 1 {
            paths.push(std::mem::take(&mut path));
        }
        if !continues {
            path.clear();
        }
        path.push(word.to_owned());
        if !continues && !is_module {
            words.insert(word.to_owned());
        }
        is_module = word == "mod";
        left = after;
    }
    if path.len() > 1 {
        paths.push(path);
    }
    (paths, words)
}

#[test]
fn declarations_are_read_with_all_their_names() {
    let text = "use std::io;\npub(super) use a::{b::{self, C as D}, e};\nfn f() { \n    use \
                super::g;\n    x::y(z::Z::w) }\nmod m;\n";
    let (found, rest) = uses(text);
    let shown: Vec<String> = found
        .iter()
        .map(|each| format!("{} {} {}", each.path.join("::"), each.name, each.is_exported))
        .collect();
    let expected =
        ["std::io io false", "a::b b true", "a::b::C D true", "a::e e true", "super::g g false"];
    assert_eq!(shown, expected);
    let (paths, words) = paths(&rest);
    let shown: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(shown, ["x::y", "z::Z::w"]);
    assert!(words.contains("x") && !words.contains("w") && !words.contains("io"));
    assert!(!words.contains("m"));
}
