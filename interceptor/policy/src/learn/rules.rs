//! The endpoint rules that permit what was permitted, and nothing of what was refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Usage;
use super::template;
use crate::path::CanonicalPath;
use crate::pattern::PathPattern;

/// A method and a path.
pub(super) type Call<'a> = (&'a str, CanonicalPath);

/// An endpoint rule, and how often each of its paths was used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LearntRule {
    /// Sorted; empty for any.
    pub(super) methods: Vec<String>,
    pub(super) paths: Vec<(String, Usage)>,
}

/// The patterns chosen for one method, or for any.
type Chosen = BTreeMap<String, PathPattern>;

/// The rules for a credential. With `wide`, every path that was permitted gets one.
pub(super) fn rules(
    permitted: &BTreeMap<Call<'_>, Usage>,
    refused: &BTreeSet<Call<'_>>,
    wide: bool,
) -> Vec<LearntRule> {
    let paths: BTreeSet<&CanonicalPath> = permitted.keys().map(|(_, path)| path).collect();
    let templates = template::templates(&paths);
    // Rules are in upper case: another spelling passes only where any method does.
    let column = |method: &str| (method == method.to_ascii_uppercase()).then(|| method.to_owned());
    let mut calls: BTreeMap<Option<String>, Vec<&CanonicalPath>> = BTreeMap::new();
    for (method, path) in permitted.keys() {
        calls.entry(column(method)).or_default().push(path);
    }
    let mut chosen: BTreeMap<Option<String>, Chosen> = BTreeMap::new();
    // Any method comes first, and covers calls of the others.
    for (method, mut paths) in calls {
        if let Some(any) = chosen.get(&None) {
            paths.retain(|path| !any.values().any(|pattern| pattern.matches(path)));
        }
        let refused: Vec<&CanonicalPath> = refused
            .iter()
            .filter(|(other, _)| method.as_deref().is_none_or(|method| method == *other))
            .map(|(_, path)| path)
            .collect();
        let patterns = choose(&paths, &refused, &templates, wide);
        chosen.insert(method, needed(patterns, &paths));
    }
    let mut methods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (method, patterns) in &chosen {
        for text in patterns.keys() {
            // An entry without a method is for any.
            methods.entry(text.clone()).or_default().extend(method.clone());
        }
    }
    let any = chosen.remove(&None).unwrap_or_default();
    let mut grouped: BTreeMap<Vec<String>, Vec<(String, Usage)>> = BTreeMap::new();
    for (text, mut methods) in methods {
        if any.contains_key(&text) {
            methods.clear();
        }
        let Ok(pattern) = PathPattern::parse(&text) else { continue };
        let mut usage = Usage::default();
        for ((method, path), used) in permitted {
            let admitted = methods.is_empty() || methods.iter().any(|one| one == method);
            if admitted && pattern.matches(path) {
                usage.add(used);
            }
        }
        grouped.entry(methods).or_default().push((text, usage));
    }
    grouped.into_iter().map(|(methods, paths)| LearntRule { methods, paths }).collect()
}

/// A pattern for each path, the most general that matches nothing refused. A path for which there
/// is none is left out or, with `wide`, gets the one that matches the least.
fn choose(
    paths: &[&CanonicalPath],
    refused: &[&CanonicalPath],
    templates: &HashMap<&CanonicalPath, Vec<String>>,
    wide: bool,
) -> Chosen {
    let mut chosen = Chosen::new();
    let mut known: HashMap<String, Option<PathPattern>> = HashMap::new();
    let fits = |pattern: &PathPattern| !refused.iter().any(|path| pattern.matches(path));
    for path in paths {
        let texts = templates.get(*path).map_or(&[][..], Vec::as_slice);
        let general = texts.iter().find_map(|text| {
            let pattern = known
                .entry(text.clone())
                .or_insert_with(|| PathPattern::parse(text).ok().filter(fits));
            pattern.clone().filter(|pattern| pattern.matches(path))
        });
        let least = || {
            let covered =
                |pattern: &PathPattern| refused.iter().filter(|path| pattern.matches(path)).count();
            let own = texts.iter().filter_map(|text| PathPattern::parse(text).ok());
            own.filter(|pattern| pattern.matches(path)).min_by_key(covered)
        };
        let pattern = general
            .or_else(|| template::exact(path).find(fits))
            .or_else(|| wide.then(least).flatten());
        chosen.extend(pattern.map(|pattern| (pattern.as_str().to_owned(), pattern)));
    }
    chosen
}

/// The patterns without those that others make superfluous.
fn needed(mut patterns: Chosen, paths: &[&CanonicalPath]) -> Chosen {
    let matched: BTreeMap<String, Vec<usize>> = patterns
        .iter()
        .map(|(text, pattern)| {
            let head = text.split(['*', '?']).next().unwrap_or_default();
            let numbers = paths.iter().enumerate().filter(|(_, path)| {
                // Cheaper than the match, and false for most.
                path.as_str().starts_with(head) && pattern.matches(path)
            });
            (text.clone(), numbers.map(|(number, _)| number).collect())
        })
        .collect();
    let mut times = vec![0_usize; paths.len()];
    matched.values().flatten().for_each(|number| times[*number] += 1);
    // The narrowest first; of equal ones, the longest.
    let mut order: Vec<&String> = matched.keys().collect();
    order.sort_by_key(|text| (matched[*text].len(), std::cmp::Reverse(text.len())));
    for text in order {
        if matched[text].iter().all(|number| times[*number] > 1) {
            matched[text].iter().for_each(|number| times[*number] -= 1);
            patterns.remove(text);
        }
    }
    patterns
}
