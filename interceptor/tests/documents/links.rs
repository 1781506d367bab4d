//! Links between pages, and paths that pages name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::pages::{pages, prose, spans};
use super::root;

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        assert!(anchors.insert(anchor), "two headings are alike: {line}");
    }
    anchors
}

/// The targets of a page's links.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    let links = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    links.map(|(target, _)| target.to_owned()).collect()
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(normal.pop(), "{} leads outside", path.display()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[test]
fn every_link_leads_to_a_file_of_the_repository_and_every_anchor_to_a_heading() {
    let pages = pages();
    let headings: BTreeMap<&Path, BTreeSet<String>> =
        pages.iter().map(|(path, text)| (path.as_path(), anchors(text))).collect();
    let mut links = 0;
    for (path, text) in &pages {
        for target in targets(text) {
            let place = format!("{}: {target}", path.display());
            assert!(!target.contains("://"), "{place} leads outside the repository");
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match file {
                "" => path.clone(),
                file => normal(&path.parent().unwrap().join(file)),
            };
            assert!(root().join(&file).exists(), "{place}: there is no {}", file.display());
            if !anchor.is_empty() {
                let known =
                    headings.get(file.as_path()).unwrap_or_else(|| panic!("{place}: not a page"));
                assert!(known.contains(anchor), "{place}: no such heading among {known:?}");
            }
            links += 1;
        }
    }
    assert!(links > 50, "{links} links were found");
}

#[test]
fn every_source_path_that_a_page_names_exists() {
    let places =
        ["", "interceptor", "interceptor/src", "interceptor/policy/src", "tests", "xtask/src"];
    let there = |path: &str| places.iter().any(|place| root().join(place).join(path).exists());
    let mut named = 0;
    for (page, text) in pages().iter().filter(|(page, _)| page != Path::new("CHANGELOG.md")) {
        for span in spans(text) {
            let is_path = span.contains('/')
                && [".rs", ".json", ".o", ".toml"].iter().any(|end| span.ends_with(end))
                && !span.starts_with('/')
                // In somebody's home.
                && !span.starts_with("~/")
                && !span.contains(['*', ' ']);
            if is_path {
                assert!(there(&span), "{}: there is no {span}", page.display());
                named += 1;
            }
        }
    }
    assert!(named > 10, "{named} paths were found");
}
