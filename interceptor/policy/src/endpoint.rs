//! The endpoint rules of one credential, compiled into a tree of path segments.
//!
//! A request walks the tree along its own segments. Each node tries at most one literal child, the
//! `*` child, and the globs whose literal text fits, so the cost depends on the length of the path
//! and not on the number of rules. If several rules match, the first in the document is reported.

use std::collections::HashMap;
use std::sync::Arc;

use super::aws::{AwsScope, AwsScopes};
use super::decision::Rule;
use super::path::CanonicalPath;
use super::pattern::{self, PathPattern, Segment, SegmentGlob, Tail};

/// One path of an endpoint rule, with its methods.
#[derive(Clone, Debug)]
pub(super) struct EndpointRule {
    /// Upper-case; empty for any.
    pub(super) methods: Arc<[String]>,
    pub(super) pattern: PathPattern,
    /// The scopes of AWS signatures that it is for.
    pub(super) aws: Option<Arc<AwsScopes>>,
    pub(super) rule: Arc<Rule>,
    /// It permits only what a person approves.
    pub(super) ask: bool,
    /// The pointer to the `{methods, paths}` object.
    pub(super) pointer: Arc<str>,
}

impl EndpointRule {
    pub(super) fn admits(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|one| one == method)
    }
}

/// Index of a rule in [`Endpoints::rules`].
type EndpointIndex = u32;

/// The rules that end at one node, by method.
#[derive(Clone, Debug, Default)]
struct Methods {
    any: Option<EndpointIndex>,
    each: HashMap<String, EndpointIndex>,
}

impl Methods {
    fn add(&mut self, methods: &[String], index: EndpointIndex) {
        if methods.is_empty() {
            self.any.get_or_insert(index);
        }
        for method in methods {
            self.each.entry(method.clone()).or_insert(index);
        }
    }

    fn at(&self, method: &str) -> Option<EndpointIndex> {
        match (self.any, self.each.get(method).copied()) {
            (Some(any), Some(each)) => Some(any.min(each)),
            (any, each) => any.or(each),
        }
    }

    fn first(&self) -> Option<EndpointIndex> {
        self.any.into_iter().chain(self.each.values().copied()).min()
    }
}

/// Globs, indexed by the longer of their literal prefix and suffix.
#[derive(Clone, Debug)]
struct Globs<V> {
    prefixes: Affixes<V>,
    suffixes: Affixes<V>,
}

#[derive(Clone, Debug)]
struct Affixes<V> {
    lengths: Vec<usize>,
    globs: HashMap<Box<str>, HashMap<SegmentGlob, V>>,
}

impl<V> Default for Globs<V> {
    fn default() -> Self {
        let empty = || Affixes { lengths: Vec::new(), globs: HashMap::new() };
        Globs { prefixes: empty(), suffixes: empty() }
    }
}

impl<V> Globs<V> {
    /// The value of a glob; `make` creates it if the glob is new.
    fn entry(&mut self, glob: &SegmentGlob, make: impl FnOnce() -> V) -> &mut V {
        let by_prefix = glob.prefix.len() >= glob.suffix.len();
        let (affixes, key) = if by_prefix {
            (&mut self.prefixes, &glob.prefix)
        } else {
            (&mut self.suffixes, &glob.suffix)
        };
        if let Err(position) = affixes.lengths.binary_search(&key.len()) {
            affixes.lengths.insert(position, key.len());
        }
        let globs = affixes.globs.entry(key.clone()).or_default();
        globs.entry(glob.clone()).or_insert_with(make)
    }

    /// The value of exactly this glob.
    fn get(&self, glob: &SegmentGlob) -> Option<&V> {
        let affixes = [(&self.prefixes, &glob.prefix), (&self.suffixes, &glob.suffix)];
        let mut globs = affixes.into_iter().filter_map(|(affixes, key)| affixes.globs.get(key));
        globs.find_map(|globs| globs.get(glob))
    }

    /// The values of the globs that match all of `text`.
    fn matching<'a>(&'a self, text: &str, mut visit: impl FnMut(&'a V)) {
        let prefixes = self.prefixes.lengths.iter().map_while(|length| text.get(..*length));
        let prefixes = prefixes.filter_map(|prefix| self.prefixes.globs.get(prefix));
        let ends = self.suffixes.lengths.iter().map_while(|length| text.len().checked_sub(*length));
        let suffixes = ends.filter_map(|start| text.get(start..));
        let suffixes = suffixes.filter_map(|suffix| self.suffixes.globs.get(suffix));
        for (_, value) in
            prefixes.chain(suffixes).flatten().filter(|(glob, _)| glob.glob.matches(text))
        {
            visit(value);
        }
    }
}

/// A node of the tree.
#[derive(Clone, Debug, Default)]
struct Branch {
    literals: HashMap<Box<str>, usize>,
    star: Option<usize>,
    globs: Globs<usize>,
    prefix: Methods,
    directory: Methods,
    exact: Methods,
    below: Methods,
    deep: Globs<Methods>,
    /// The first rule at or below this node.
    first: Option<EndpointIndex>,
}

/// The result of a walk.
#[derive(Clone, Copy, Debug, Default)]
struct WalkResult {
    /// The first rule whose path and method match.
    rule: Option<EndpointIndex>,
    /// The first rule whose path matches.
    path: Option<EndpointIndex>,
    /// The first rule at the deepest node reached, and its depth.
    deepest: Option<(usize, EndpointIndex)>,
}

/// The rules' verdict on a method and a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// This rule permits it.
    Permitted(&'a EndpointRule),
    /// This rule matches the path but not the method.
    Method(&'a EndpointRule),
    /// This rule matches the method and the path, but not the scope of the signature.
    Scope(&'a EndpointRule),
    /// No rule matches the path; this one shares the most leading segments.
    Path(Option<&'a EndpointRule>),
}

/// The compiled endpoint rules of a credential.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    rules: Vec<EndpointRule>,
    /// A tree for each condition beside method and path; usually one, without any.
    trees: Vec<(Option<Arc<AwsScopes>>, Tree)>,
}

/// Rules under the same condition, by the segments of their paths.
#[derive(Clone, Debug)]
struct Tree {
    nodes: Vec<Branch>,
}

impl Endpoints {
    pub(super) fn new(rules: Vec<EndpointRule>) -> Endpoints {
        let mut trees: Vec<(Option<Arc<AwsScopes>>, Tree)> = Vec::new();
        let mut places: HashMap<Option<Arc<AwsScopes>>, usize> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            let place = *places.entry(rule.aws.clone()).or_insert(trees.len());
            if place == trees.len() {
                trees.push((rule.aws.clone(), Tree { nodes: vec![Branch::default()] }));
            }
            // A document of 1 MiB cannot hold more rules than this can count.
            let index = EndpointIndex::try_from(index).unwrap_or(EndpointIndex::MAX);
            trees[place].1.insert(index, rule);
        }
        Endpoints { rules, trees }
    }

    /// Judges a method, as sent, a path, and the scope of a signature.
    pub(super) fn judge(
        &self,
        method: &str,
        path: &CanonicalPath,
        scope: Option<AwsScope<'_>>,
    ) -> Outcome<'_> {
        let mut found = WalkResult::default();
        let mut outside = WalkResult::default();
        for (scopes, tree) in &self.trees {
            let is_admitted = scopes.as_ref().is_none_or(|scopes| scopes.admit(scope));
            let found = if is_admitted { &mut found } else { &mut outside };
            tree.walk(0, Some(&path.as_str()[1..]), 0, method, found);
        }
        let rule = |index: EndpointIndex| &self.rules[index as usize];
        if let (None, Some(index)) = (found.rule, outside.rule) {
            return Outcome::Scope(rule(index));
        }
        if found.deepest.is_none() {
            found = WalkResult { rule: None, ..outside };
        }
        match found {
            WalkResult { rule: Some(index), .. } => Outcome::Permitted(rule(index)),
            WalkResult { path: Some(index), .. } => Outcome::Method(rule(index)),
            WalkResult { deepest, .. } => Outcome::Path(deepest.map(|(_, index)| rule(index))),
        }
    }

    /// The rules, in the order of the document.
    pub(super) fn rules(&self) -> &[EndpointRule] {
        &self.rules
    }

    /// An earlier rule that already decides everything that rule `index` would. Only rules under
    /// the same condition are compared, and of those patterns along the same segments, or through
    /// `*`, so it may miss one but never names a wrong one.
    pub(super) fn shadow(&self, index: usize) -> Option<&EndpointRule> {
        let rule = self.rules.get(index)?;
        let (_, tree) = self.trees.iter().find(|(scopes, _)| *scopes == rule.aws)?;
        self.rules.get(tree.shadow(rule, index)? as usize)
    }
}

impl Tree {
    fn insert(&mut self, index: EndpointIndex, rule: &EndpointRule) {
        let mut at = 0;
        self.nodes[at].first.get_or_insert(index);
        for segment in &rule.pattern.segments {
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(literal) => *node.literals.entry(literal.clone()).or_insert(fresh),
                Segment::Star => *node.star.get_or_insert(fresh),
                Segment::Glob(glob) => *node.globs.entry(glob, || fresh),
            };
            if at == fresh {
                self.nodes.push(Branch { first: Some(index), ..Branch::default() });
            }
        }
        let node = &mut self.nodes[at];
        let methods = match &rule.pattern.tail {
            Tail::Prefix => &mut node.prefix,
            Tail::Directory => &mut node.directory,
            Tail::Exact => &mut node.exact,
            Tail::Below => &mut node.below,
            Tail::Deep(glob) => node.deep.entry(glob, Methods::default),
        };
        methods.add(&rule.methods, index);
    }

    fn shadow(&self, rule: &EndpointRule, index: usize) -> Option<EndpointIndex> {
        let mut shadows: Vec<Option<EndpointIndex>> =
            if rule.methods.is_empty() { vec![None] } else { vec![None; rule.methods.len()] };
        let mut take = |methods: &Methods| {
            for (position, shadow) in shadows.iter_mut().enumerate() {
                let found =
                    rule.methods.get(position).map_or(methods.any, |method| methods.at(method));
                lower(shadow, found.filter(|found| (*found as usize) < index));
            }
        };
        self.covering(0, &rule.pattern, 0, &mut take);
        shadows.into_iter().collect::<Option<Vec<EndpointIndex>>>()?.into_iter().max()
    }

    /// Visits the ends of patterns that match whatever `pattern` matches.
    fn covering<'a>(
        &'a self,
        at: usize,
        pattern: &PathPattern,
        depth: usize,
        take: &mut impl FnMut(&'a Methods),
    ) {
        let node = &self.nodes[at];
        take(&node.prefix);
        if let Some(segment) = pattern.segments.get(depth) {
            // At least one more segment follows.
            take(&node.directory);
            let child = match segment {
                Segment::Literal(literal) => {
                    if !literal.is_empty() {
                        take(&node.below);
                    }
                    if let Some(child) = node.star.filter(|_| pattern::is_star_segment(literal)) {
                        self.covering(child, pattern, depth + 1, take);
                    }
                    node.literals.get(literal)
                }
                Segment::Star => {
                    take(&node.below);
                    node.star.as_ref()
                }
                Segment::Glob(glob) => {
                    take(&node.below);
                    node.globs.get(glob)
                }
            };
            if let Some(child) = child {
                self.covering(*child, pattern, depth + 1, take);
            }
            return;
        }
        match &pattern.tail {
            Tail::Prefix => {}
            Tail::Directory => take(&node.directory),
            Tail::Exact => take(&node.exact),
            Tail::Below => {
                take(&node.directory);
                take(&node.below);
            }
            Tail::Deep(glob) => {
                take(&node.directory);
                if let Some(methods) = node.deep.get(glob) {
                    take(methods);
                }
            }
        }
    }

    /// Visits a node with the rest of the path. A tree has one way to each node, so none is visited
    /// twice, and the longest pattern bounds the depth.
    fn walk(
        &self,
        at: usize,
        rest: Option<&str>,
        depth: usize,
        method: &str,
        found: &mut WalkResult,
    ) {
        let node = &self.nodes[at];
        if let Some(first) = node.first
            && found.deepest.is_none_or(|(deepest, index)| {
                (depth, std::cmp::Reverse(first)) > (deepest, std::cmp::Reverse(index))
            })
        {
            found.deepest = Some((depth, first));
        }
        found.take(&node.prefix, method);
        let Some(rest) = rest else {
            found.take(&node.exact, method);
            return;
        };
        found.take(&node.directory, method);
        if !rest.is_empty() {
            found.take(&node.below, method);
        }
        node.deep.matching(rest, |methods| found.take(methods, method));
        let (head, tail) = pattern::split_segment(rest);
        if let Some(child) = node.literals.get(head) {
            self.walk(*child, tail, depth + 1, method, found);
        }
        if let Some(child) = node.star.filter(|_| pattern::is_star_segment(head)) {
            self.walk(child, tail, depth + 1, method, found);
        }
        node.globs.matching(head, |child| self.walk(*child, tail, depth + 1, method, found));
    }
}

impl WalkResult {
    fn take(&mut self, methods: &Methods, method: &str) {
        lower(&mut self.rule, methods.at(method));
        lower(&mut self.path, methods.first());
    }
}

fn lower(known: &mut Option<EndpointIndex>, index: Option<EndpointIndex>) {
    if let Some(index) = index {
        *known = Some(known.map_or(index, |known| known.min(index)));
    }
}
