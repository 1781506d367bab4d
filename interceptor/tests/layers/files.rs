//! Which file uses which: no two files use each other, directly or indirectly. A name counts where
//! it is used, and leads to the file that defines it, through re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::paths::{Use, paths, uses};
use super::sources;

/// A module's path from the crate's root.
type Module = Vec<String>;

/// What is left of a circle, and why.
const DEFENDED: &[(&[&str], &str)] = &[];

struct Source {
    file: String,
    uses: Vec<Use>,
    /// Paths outside of `use` declarations, and all words there.
    paths: Vec<Vec<String>>,
    words: BTreeSet<String>,
}

/// All modules that are files.
struct Crate(BTreeMap<Module, Source>);

impl Crate {
    fn read() -> Crate {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let modules = sources().into_iter().map(|(path, text)| {
            let file = path.strip_prefix(&root).unwrap().to_owned();
            let (uses, rest) = uses(&text);
            let (paths, words) = paths(&rest);
            (module(&file), Source { file: file.display().to_string(), uses, paths, words })
        });
        Crate(modules.filter(|(module, _)| *module != ["lib"] && *module != ["main"]).collect())
    }

    /// The modules whose files define what a path names that stands in `within`.
    fn resolve(&self, within: &Module, path: &[String], depth: usize) -> Option<Module> {
        assert!(depth < 16, "{within:?}: {path:?} leads nowhere");
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Module::new(),
            "self" => within.clone(),
            "super" => {
                let mut at = parent(within)?;
                while rest.first().is_some_and(|next| next == "super") {
                    (at, rest) = (parent(&at)?, &rest[1..]);
                }
                at
            }
            name => {
                let child = [&within[..], &[name.to_owned()]].concat();
                if !self.0.contains_key(&child) {
                    let mut imports = self.0.get(within)?.uses.iter();
                    let import =
                        imports.find(|each| each.name == *name && each.path[0] != *name)?;
                    let path = [&import.path[..], rest].concat();
                    return self.resolve(within, &path, depth + 1);
                }
                child
            }
        };
        for (index, name) in rest.iter().enumerate() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if self.0.contains_key(&child) {
                at = child;
                continue;
            }
            let imports = self.0.get(&at).map(|source| &source.uses[..]).unwrap_or_default();
            let Some(import) = imports.iter().find(|each| each.name == *name) else {
                return Some(at);
            };
            let path = [&import.path[..], &rest[index + 1..]].concat();
            // What another crate defines is used where it is imported from.
            return self.resolve(&at, &path, depth + 1).or(Some(at));
        }
        // A module by itself: what counts is what is used of it.
        None
    }

    fn edges(&self) -> Edges<'_> {
        let mut edges = BTreeMap::<_, BTreeSet<_>>::new();
        for (module, source) in &self.0 {
            // What a module only passes on, to others or to its own children, it does not use.
            let used = source.uses.iter().filter(|each| {
                let child = [&module[..], &each.path[..1]].concat();
                let is_passed_on = each.is_exported || self.0.contains_key(&child);
                !is_passed_on || source.words.contains(&each.name) || each.name == "*"
            });
            let named = used.map(|each| &each.path).chain(&source.paths);
            let found = named.filter_map(|path| self.resolve(module, path, 0));
            let files = found.filter_map(|module| self.0.get(&module)).map(|found| &found.file[..]);
            let from = &source.file[..];
            edges.entry(from).or_default().extend(files.filter(|file| *file != from));
        }
        edges
    }
}

fn parent(module: &Module) -> Option<Module> {
    module.split_last().map(|(_, parent)| parent.to_vec())
}

fn module(file: &Path) -> Module {
    let file: PathBuf = file.with_extension("");
    let names = file.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name != "mod").collect()
}

type Edges<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn reached<'a>(edges: &Edges<'a>, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(file) = left.pop() {
        left.extend(edges[file].iter().filter(|next| reached.insert(**next)));
    }
    reached
}

/// The files that use each other, by group.
fn circles(edges: &Edges<'_>) -> BTreeSet<BTreeSet<String>> {
    let reached: Edges<'_> = edges.keys().map(|file| (*file, reached(edges, file))).collect();
    let among = |file: &&str| {
        let others = reached[*file].iter().filter(|other| reached[**other].contains(*file));
        others.map(|other| (*other).to_owned()).collect::<BTreeSet<_>>()
    };
    edges.keys().map(among).filter(|group| !group.is_empty()).collect()
}

#[test]
fn no_files_use_each_other_directly_or_indirectly() {
    let read = Crate::read();
    let edges = read.edges();
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 800, "{edges:#?}");
    let defended: BTreeSet<BTreeSet<String>> = DEFENDED
        .iter()
        .map(|(files, _)| files.iter().map(|file| (*file).to_owned()).collect())
        .collect();
    let found = circles(&edges);
    let shown: Vec<_> = found
        .difference(&defended)
        .map(|group| {
            let inside = |file: &String| {
                let uses = edges[&file[..]].iter().filter(|used| group.contains(**used));
                format!("{file} -> {}", uses.copied().collect::<Vec<_>>().join(" "))
            };
            group.iter().map(inside).collect::<Vec<_>>()
        })
        .collect();
    assert!(shown.is_empty(), "these files use each other: {shown:#?}");
    let gone: Vec<_> = defended.difference(&found).collect();
    assert!(gone.is_empty(), "no longer circles: {gone:#?}");
}

#[test]
fn names_lead_to_the_files_that_define_them() {
    let source = |file: &str, text: &str| {
        let (uses, rest) = uses(text);
        let (paths, words) = paths(&rest);
        let file = PathBuf::from(file);
        (module(&file), Source { file: file.display().to_string(), uses, paths, words })
    };
    let read = Crate(BTreeMap::from([
        source("a/mod.rs", "mod b;\nmod c;\npub use b::{Thing as Other, Used};\nfn f(_: Used) {}"),
        source("a/b.rs", "pub struct Thing; pub struct Used;"),
        source(
            "a/c.rs",
            "use super::Other;\nuse super::b;\nfn f() { b::Used; super::super::d::g() }",
        ),
        source("d.rs", "use crate::a;\npub fn g() { std::mem::take(a::own); }"),
    ]));
    let set = |files: &[&'static str]| files.iter().copied().collect::<BTreeSet<&str>>();
    let edges = read.edges();
    let expected = [
        ("a/mod.rs", set(&["a/b.rs"])),
        ("a/b.rs", set(&[])),
        ("a/c.rs", set(&["a/b.rs", "d.rs"])),
        ("d.rs", set(&["a/mod.rs"])),
    ];
    assert_eq!(edges, BTreeMap::from(expected));
    assert_eq!(circles(&edges), BTreeSet::new());
    let both = BTreeMap::from([("x", set(&["y"])), ("y", set(&["x"])), ("z", set(&["x"]))]);
    assert_eq!(circles(&both), BTreeSet::from([["x", "y"].map(str::to_owned).into()]));
}
