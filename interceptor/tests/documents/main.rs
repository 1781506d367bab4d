//! Checks the documents against the product: policies and commands that a reader may copy, links,
//! attacks and their tests, and examples.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod commands;
mod links;
mod pages;
mod policies;
mod sources;
mod width;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The files of the repository with one of these extensions: their paths in it, and their texts.
fn files(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    fn read(directory: &Path, extensions: &[&str], into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                // Build output and version control.
                if !["target", ".git", "corpus", "artifacts"].contains(&&*name) {
                    read(&path, extensions, into);
                }
            } else if path.extension().is_some_and(|own| extensions.iter().any(|one| own == *one)) {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    read(&root(), extensions, &mut paths);
    paths.sort();
    let text = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    };
    paths.into_iter().map(text).collect()
}

/// The names of all functions.
fn functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in files(&["rs"]) {
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('('))
            {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// The ids that a name begins with: `k1_k2_every_way_…` has K1 and K2.
fn ids(name: &str) -> Vec<String> {
    let is_id = |part: &&str| {
        let (letter, number) = part.split_at_checked(1).unwrap_or_default();
        "kdthrcpxo".contains(letter)
            && !letter.is_empty()
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    name.split('_').take_while(is_id).map(str::to_uppercase).collect()
}

#[test]
fn the_page_of_attacks_names_exactly_the_tests_named_after_attacks() {
    let page = fs::read_to_string(root().join("docs/attacks.md")).unwrap();
    let mut rows = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        if cells[0].starts_with("| ---") {
            continue;
        }
        let id = cells[0].trim_start_matches("| ").to_owned();
        let tests: BTreeSet<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || cells[3].len() > 3, "{id}: neither a test nor a reason");
        assert!(rows.insert(id.clone(), tests).is_none(), "{id} stands twice");
    }
    assert!(rows.len() > 100, "{} rows were read", rows.len());
    let functions = functions();
    for (id, tests) in &rows {
        for test in tests {
            assert!(functions.contains(*test), "{id}: there is no test {test}");
        }
    }
    for name in &functions {
        // `h2` alone is HTTP/2.
        for id in ids(name).iter().filter(|_| name.len() > 12) {
            let row = rows.get(id).unwrap_or_else(|| panic!("{name}: there is no row {id}"));
            assert!(row.contains(name.as_str()), "{name} is missing in the row of {id}");
        }
    }
}
