//! Who of the members may what: the policies of the operator's that they may use, and whether
//! they may bring their own.

use std::collections::BTreeSet;

use anyhow::bail;
use nix::unistd::Group;
use serde::{Deserialize, Serialize};

use crate::cli::discovery;
use crate::control::model::{AccessRule, OwnPolicies};

/// A rule of the configuration, its group looked up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::cli) struct Rule {
    /// The number of the group; `None` is every member.
    group: Option<u32>,
    policies: BTreeSet<String>,
    own: OwnPolicies,
}

/// What one member may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grants {
    /// The names of the operator's policies that the member may use.
    pub(super) policies: BTreeSet<String>,
    /// Whether the member may bring policies.
    pub(super) own: OwnPolicies,
}

/// The rules of a configuration. Without any, members may bring policies that reach public
/// addresses.
///
/// # Errors
/// If a group does not exist, or a name cannot be one of a policy.
pub(in crate::cli) fn rules(configured: Option<Vec<AccessRule>>) -> anyhow::Result<Vec<Rule>> {
    let Some(configured) = configured else {
        let own = OwnPolicies::Public;
        return Ok(vec![Rule { group: None, policies: BTreeSet::new(), own }]);
    };
    let mut rules = Vec::new();
    for (index, AccessRule { group, policies, own_policies }) in configured.into_iter().enumerate()
    {
        let place = format!("/access/{index}");
        let number = group_number(&group, &format!("{place}/group"))?;
        if let Some(name) = policies.iter().find(|name| !discovery::is_name(name.as_ref())) {
            bail!("{place}/policies: {name:?} is not the name of a policy (no slash, no dot)");
        }
        let policies = policies.into_iter().collect();
        rules.push(Rule { group: Some(number), policies, own: own_policies });
    }
    Ok(rules)
}

/// The number of a group.
///
/// # Errors
/// If it does not exist. `place` is where it is named.
pub(in crate::cli) fn group_number(name: &str, place: &str) -> anyhow::Result<u32> {
    match Group::from_name(name)? {
        Some(group) => Ok(group.gid.as_raw()),
        None => bail!("{place}: there is no group {name:?}; make it with: groupadd {name}"),
    }
}

impl Grants {
    /// What the rules grant to a process with these groups: all that any of them does.
    pub(super) fn of(rules: &[Rule], groups: &[u32]) -> Grants {
        let mut grants = Grants::default();
        let concerns = |rule: &&Rule| rule.group.is_none_or(|group| groups.contains(&group));
        for rule in rules.iter().filter(concerns) {
            grants.policies.extend(rule.policies.iter().cloned());
            grants.own = grants.own.max(rule.own);
        }
        grants
    }

    /// The granted policies, in words.
    pub(super) fn named(&self) -> String {
        let names: Vec<&str> = self.policies.iter().map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(text: &str) -> anyhow::Result<Vec<Rule>> {
        rules(Some(serde_json::from_str(text)?))
    }

    #[test]
    fn rules_add_up_and_nothing_is_granted_that_none_names() {
        let root = configured(
            r#"[{"group":"root","policies":["agent","review"]},
                {"group":"root","own_policies":"any-address"},
                {"group":"root","own_policies":true},
                {"group":"daemon","policies":["other"]}]"#,
        )
        .unwrap();
        let grants = Grants::of(&root, &[0, 54321]);
        assert_eq!(
            (grants.named().as_str(), grants.own),
            ("agent, review", OwnPolicies::AnyAddress)
        );
        assert_eq!(Grants::of(&root, &[54321]), Grants::default());
        assert_eq!(Grants::default().own, OwnPolicies::No);
        let usual = Grants::of(&rules(None).unwrap(), &[54321]);
        assert_eq!((usual.named().as_str(), usual.own), ("none", OwnPolicies::Public));
        assert_eq!(Grants::of(&configured("[]").unwrap(), &[0]), Grants::default());
    }

    #[test]
    fn a_rule_that_means_nothing_is_an_error() {
        for text in [
            r#"[{"group":"no-such-group"}]"#,
            r#"[{"group":"root","policies":["../x"]}]"#,
            r#"[{"group":"root","policies":["a.json"]}]"#,
            r#"[{"group":"root","own_policies":"all"}]"#,
            r#"[{"group":"root","own":true}]"#,
            r#"[{"policies":[]}]"#,
        ] {
            assert!(configured(text).is_err(), "{text}");
        }
    }
}
