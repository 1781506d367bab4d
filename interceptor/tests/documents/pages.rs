//! Markdown, as far as these tests need it, and the form of pages.

use std::fs;
use std::path::{Path, PathBuf};

use super::{files, root};

/// A fenced block.
pub(super) struct Block {
    /// The info string after the fence.
    pub(super) language: String,
    /// Its content.
    pub(super) text: String,
    /// The page, and the line of the fence.
    pub(super) place: String,
}

/// The pages of the repository.
pub(super) fn pages() -> Vec<(PathBuf, String)> {
    let pages = files(&["md"]);
    assert!(
        pages.iter().any(|(path, _)| path == Path::new("docs/policy.md")),
        "the pages are not found"
    );
    pages
}

/// The fenced blocks of a page.
pub(super) fn blocks(path: &Path, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block {
                    language: language.trim().to_owned(),
                    text: String::new(),
                    place: format!("{}:{}", path.display(), number + 1),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence is not closed", path.display());
    blocks
}

/// A page without its fenced blocks, lines kept.
pub(super) fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        prose.push_str(if fenced || fence { "" } else { line });
        prose.push('\n');
    }
    prose
}

/// The code spans of a page.
pub(super) fn spans(text: &str) -> Vec<String> {
    let prose = prose(text).replace("\n\n", "\u{0}");
    let paragraphs = prose.split('\u{0}');
    let inside = |paragraph: &str| {
        paragraph
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|span| span.replace('\n', " "))
            .collect::<Vec<_>>()
    };
    paragraphs.flat_map(inside).collect()
}

#[test]
fn lines_of_text_have_at_most_100_columns() {
    for (path, text) in pages() {
        for (number, line) in prose(&text).lines().enumerate() {
            // A table row cannot be broken.
            let long = line.chars().count() > 100 && !line.starts_with('|');
            assert!(!long, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(
        readme.lines().count() <= 150,
        "{} lines: the rest belongs in docs/",
        readme.lines().count()
    );
}

#[test]
fn the_readme_shows_what_the_demonstration_prints() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let demonstration = fs::read_to_string(root().join("tests/src/bin/demo.rs")).unwrap();
    let shown = blocks(Path::new("README.md"), &readme);
    let shown = shown.iter().find(|block| block.text.starts_with("an allowed request")).unwrap();
    let titles: Vec<&str> = shown
        .text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(title, _)| title)
        .collect();
    assert!(titles.iter().filter(|title| !title.is_empty()).count() >= 4, "{titles:?}");
    for title in titles {
        assert!(demonstration.contains(title), "the demonstration has no {title:?}");
    }
}
