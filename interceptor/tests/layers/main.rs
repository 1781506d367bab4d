//! Checks which module uses which: the code agrees with the table in ARCHITECTURE.md, and there are
//! no cycles, neither of modules nor of files. Test code is left out; a test may use anything.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod files;
mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, with the modules it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A source without comments and test code. Modules of tests that are files of their own are added
/// to `skipped`.
fn shipped(path: &Path, skipped: &mut BTreeSet<PathBuf>) -> String {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let stem = path.file_stem().unwrap();
    let directory = match stem.to_str() {
        Some("mod" | "lib" | "main") => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let mut kept = String::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim();
        at += 1;
        if line != "#[cfg(test)]" {
            kept.push_str(line.split("//").next().unwrap());
            kept.push('\n');
            continue;
        }
        let mut named = None;
        while lines[at].trim().starts_with("#[") {
            named = lines[at].split('"').nth(1).or(named);
            at += 1;
        }
        let item = lines[at].trim().trim_start_matches("pub(crate) ");
        if let Some(name) = item.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            let given = named.map(|file| path.parent().unwrap().join(file));
            skipped.insert(given.unwrap_or_else(|| directory.join(format!("{name}.rs"))));
            skipped.insert(directory.join(name));
            at += 1;
        } else if lines[at].ends_with(';') {
            at += 1;
        } else {
            // The item ends with the closing line of the same indentation.
            let indent = lines[at].len() - lines[at].trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| line.starts_with(&end));
            at += length.map_or(lines.len() - at, |length| length + 1);
        }
    }
    kept
}

/// The modules that a source names, after `crate::` or enough `super::`.
fn named(text: &str, depth: usize) -> BTreeSet<String> {
    let word = |text: &str| {
        let end =
            text.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    let listed = |text: &str| -> Vec<String> {
        let Some(list) = text.strip_prefix('{') else { return vec![word(text)] };
        let (mut nested, mut names, mut from) = (0, Vec::new(), 0);
        for (at, next) in list.char_indices() {
            match next {
                '{' => nested += 1,
                '}' if nested > 0 => nested -= 1,
                ',' | '}' if nested == 0 => {
                    names.push(word(list[from..at].trim()));
                    from = at + 1;
                    if next == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
        names
    };
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        if !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            found.extend(listed(&text[at + "crate::".len()..]));
        }
    }
    let up = "super::".repeat(depth);
    for (at, _) in text.match_indices(&up) {
        if !text[..at].ends_with("super::") && !text[at + up.len()..].starts_with("super::") {
            found.extend(listed(&text[at + up.len()..]));
        }
    }
    found
}

/// The crate's sources, without comments and test code.
fn sources() -> Vec<(PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut directories, mut skipped) = (Vec::new(), vec![source], BTreeSet::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => files.push((path.clone(), shipped(&path, &mut skipped))),
            }
        }
    }
    files.retain(|(path, _)| !path.ancestors().any(|part| skipped.contains(part)));
    files
}

/// The dependencies of the crate's modules, from their sources.
fn uses() -> Uses {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut uses = Uses::new();
    for (path, text) in sources() {
        let within = path.strip_prefix(&source).unwrap();
        let module =
            within.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        // `mod.rs` stands for its directory.
        let depth = within.iter().count() - usize::from(path.ends_with("mod.rs"));
        let used = uses.entry(module.clone()).or_default();
        used.extend(named(&text, depth).into_iter().filter(|name| *name != module));
    }
    let modules: BTreeSet<String> = uses.keys().cloned().collect();
    for (module, used) in &uses {
        let strange: Vec<_> = used.difference(&modules).collect();
        assert!(strange.is_empty(), "{module} names something that is not a module: {strange:?}");
    }
    uses
}

/// The dependencies according to ARCHITECTURE.md.
fn table() -> Uses {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let quoted =
        |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = text.lines().skip_while(|line| !line.starts_with("| module | subject | may use |"));
    let mut uses = Uses::new();
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [modules, _, used] = cells[..] else { panic!("not three columns: {row}") };
        for module in quoted(modules) {
            assert!(
                uses.insert(module, quoted(used).into_iter().collect()).is_none(),
                "twice: {row}"
            );
        }
    }
    uses
}

#[test]
fn the_table_of_modules_matches_the_code() {
    let (mut told, done) = (table(), uses());
    assert_eq!(told.remove("interceptor-policy"), Some(BTreeSet::new()), "it uses no module");
    assert!(done.len() > 20, "{} modules were read", done.len());
    let names = |uses: &Uses| uses.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&told), names(&done), "the modules in ARCHITECTURE.md and those in the code");
    for (module, used) in &done {
        assert_eq!(
            &told[module], used,
            "`{module}`: ARCHITECTURE.md (left) and the code (right) differ in what it may use"
        );
    }
}

#[test]
fn no_modules_use_each_other_directly_or_indirectly() {
    let mut left = uses();
    // A module that uses none of the remaining ones is below all of them.
    while !left.is_empty() {
        let below: Vec<String> = left
            .iter()
            .filter(|(_, used)| used.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        assert!(
            !below.is_empty(),
            "these modules use each other, directly or indirectly: {left:#?}"
        );
        left.retain(|module, _| !below.contains(module));
        left.values_mut().for_each(|used| used.retain(|module| !below.contains(module)));
    }
}

#[test]
fn names_in_a_source_are_resolved_as_the_compiler_does() {
    let text = "use crate::audit::Record;\nuse crate::{dns::{self, Names}, http};\nuse \
                super::super::tls::Authority;\nuse super::sibling;\nfn call() { \
                crate::words::count(1, 2); }";
    let expected = ["audit", "dns", "http", "tls", "words"].map(str::to_owned);
    assert_eq!(named(text, 2), BTreeSet::from(expected));
}
