//! Finds a rule in a list that shares a host with a given rule, without comparing each of them.

use std::collections::HashMap;

use ipnet::IpNet;

use super::compile::overlap;
use super::network_rule::Target;

/// The targets of a list, indexed for overlap.
#[derive(Debug, Default)]
pub(super) struct Targets<'a> {
    names: HashMap<&'a str, usize>,
    below: HashMap<&'a str, usize>,
    /// Every parent of a name or `*.name` in the list.
    parents: HashMap<&'a str, usize>,
    nets: Vec<(IpNet, usize)>,
    /// A target of the list, or `*` itself.
    some: Option<usize>,
    any: Option<usize>,
}

impl<'a> Targets<'a> {
    /// Indexes the targets, each with a value.
    pub(super) fn of(targets: impl IntoIterator<Item = (&'a Target, usize)>) -> Targets<'a> {
        let mut all = Targets::default();
        for (target, about) in targets {
            all.some.get_or_insert(about);
            let (own, name) = match target {
                Target::Any => {
                    all.any.get_or_insert(about);
                    continue;
                }
                Target::Net(net) => {
                    all.nets.push((*net, about));
                    continue;
                }
                Target::Name(name) => (&mut all.names, name.as_str()),
                Target::Below(name) => (&mut all.below, name.as_str()),
            };
            own.entry(name).or_insert(about);
            for parent in parents(name) {
                all.parents.entry(parent).or_insert(about);
            }
        }
        all
    }

    /// The value of a target that shares a host with `target`.
    pub(super) fn overlapping(&self, target: &Target) -> Option<usize> {
        let found = match target {
            Target::Any => self.some.as_ref(),
            Target::Name(name) => self
                .names
                .get(name.as_str())
                .or_else(|| parents(name.as_str()).find_map(|parent| self.below.get(parent))),
            Target::Below(name) => {
                let name = name.as_str();
                let wider = || parents(name).find_map(|parent| self.below.get(parent));
                self.below.get(name).or_else(|| self.parents.get(name)).or_else(wider)
            }
            Target::Net(_) => {
                let nets = self.nets.iter();
                let mut shared = nets.filter(|(net, _)| overlap(&Target::Net(*net), target));
                shared.next().map(|(_, about)| about)
            }
        };
        found.or(self.any.as_ref()).copied()
    }
}

/// The parents of a name, nearest first.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[dot + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::network_rule::NetworkRule;
    use super::*;

    fn target() -> impl Strategy<Value = Target> {
        let name = proptest::collection::vec("[ab]{1,2}", 1..4).prop_map(|labels| labels.join("."));
        let texts = prop_oneof![
            4 => name.clone().prop_map(|name| format!("{name}.t")),
            4 => name.prop_map(|name| format!("*.{name}.t")),
            2 => (0_u8..4, 0_u8..4, 8_u8..=32).prop_map(|(a, b, n)| format!("10.{a}.{b}.0/{n}")),
            1 => Just("*".to_owned()),
        ];
        texts.prop_filter_map("no rule", |text| {
            NetworkRule::parse(&text).ok().map(|(rule, _)| rule.target)
        })
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_comparing_each_target(
            list in proptest::collection::vec(target(), 0..12), one in target()
        ) {
            let numbered = list.iter().enumerate().map(|(index, target)| (target, index));
            let targets = Targets::of(numbered);
            match targets.overlapping(&one) {
                Some(found) => prop_assert!(overlap(&list[found], &one)),
                None => prop_assert!(!list.iter().any(|target| overlap(target, &one))),
            }
        }
    }
}
