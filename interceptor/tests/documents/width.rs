//! How wide lines are. Code is rustfmt's affair; this holds comments and prose to the same.

use super::files;

const COLUMNS: usize = 100;

/// Whether nothing can be done about a long line: tables and addresses are not broken.
fn may_be_long(line: &str) -> bool {
    line.starts_with('|') || line.contains("://")
}

#[test]
fn no_comment_is_wider_than_100_columns() {
    for (path, text) in files(&["rs"]) {
        for (number, line) in text.lines().enumerate() {
            let Some(said) = line.trim_start().strip_prefix("//") else { continue };
            let long = line.chars().count() > COLUMNS
                && !may_be_long(said.trim_start_matches(['/', '!']).trim_start());
            assert!(!long, "{}:{} is wider than {COLUMNS} columns", path.display(), number + 1);
        }
    }
}

#[test]
fn no_line_of_a_document_is_wider_than_100_columns() {
    for (path, text) in files(&["md"]) {
        // What programs print, and pictures, stand between fences.
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            let long = line.chars().count() > COLUMNS && !fenced && !may_be_long(line.trim_start());
            assert!(!long, "{}:{} is wider than {COLUMNS} columns", path.display(), number + 1);
        }
    }
}

#[test]
fn the_readme_promises_the_rust_that_the_manifest_does() {
    let manifest = std::fs::read_to_string(super::root().join("Cargo.toml")).unwrap();
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let promised = format!("({} or newer)", line.unwrap().trim_matches('"'));
    let readme = std::fs::read_to_string(super::root().join("README.md")).unwrap();
    assert!(readme.contains(&promised), "README.md does not say {promised}");
}
