//! How wide lines are: sources of every language, rustfmt's strings and macros too, and prose.

use std::path::PathBuf;

use super::{files, root};

const COLUMNS: usize = 100;

/// The extensions of sources. Data, lock files and licences are not written by hand.
const SOURCES: [&str; 14] = [
    "c", "conf", "go", "java", "js", "mjs", "php", "py", "rb", "rs", "service", "sh", "toml",
    "yaml",
];

/// The eBPF object carries the text of the lines it is made of: to wrap these is to change it.
const IN_THE_OBJECT: &str = "interceptor-ebpf/src/context.rs";

/// Whether a line is too wide. Rows of a table, and addresses alone on their line, are not broken.
fn is_wide(line: &str) -> bool {
    let said = line.trim_start_matches([' ', '/', '!']);
    let address = said.contains("://") && said.split_whitespace().count() == 1;
    line.chars().count() > COLUMNS && !said.starts_with('|') && !address
}

#[test]
fn no_line_of_a_source_is_wider_than_100_columns() {
    let path = PathBuf::from(".ci/run");
    let script = std::fs::read_to_string(root().join(&path)).unwrap();
    let sources = files(&SOURCES);
    assert!(sources.len() > 800, "{} files were found", sources.len());
    let mut wide = Vec::new();
    for (path, text) in sources.into_iter().chain([(path, script)]) {
        let asm = |line: &str| path.ends_with(IN_THE_OBJECT) && line.trim().starts_with("asm!(");
        let lines = text.lines().enumerate().filter(|(_, line)| is_wide(line) && !asm(line));
        wide.extend(lines.map(|(number, _)| format!("{}:{}", path.display(), number + 1)));
    }
    assert!(wide.is_empty(), "wider than {COLUMNS} columns: {wide:#?}");
}

#[test]
fn no_line_of_a_document_is_wider_than_100_columns() {
    for (path, text) in files(&["md"]) {
        // What programs print, and pictures, stand between fences.
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            let wide = !fenced && is_wide(line);
            assert!(!wide, "{}:{} is wider than {COLUMNS} columns", path.display(), number + 1);
        }
    }
}

#[test]
fn a_wide_line_is_found_in_code_comments_and_prose() {
    let word = "x".repeat(COLUMNS);
    assert!(!is_wide(&word) && is_wide(&format!("{word}x")));
    assert!(
        is_wide(&format!("// see {word}")) && is_wide(&format!("fetch(\"https://{word}\", 1)"))
    );
    assert!(!is_wide(&format!("//! | {word} |")) && !is_wide(&format!("/// <https://{word}>")));
}

#[test]
fn the_readme_promises_the_rust_that_the_manifest_does() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let promised = format!("({} or newer)", line.unwrap().trim_matches('"'));
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&promised), "README.md does not say {promised}");
}
