//! What differs between two policies, in one line for people.

use std::collections::BTreeSet;

use interceptor_policy::{KeySource, LiteralKey, Policy};
use serde_json::{Map, Value};

use crate::cli::permits::cut;
use crate::cli::policy_file::printable;

/// The longest line, in characters, but for how much is left out.
const LONGEST: usize = 300;

/// The differences of two documents without keys, of their keys by name, and `whole`, which tells
/// how to see all, where that is too long. First what matters most, since whoever wrote the
/// documents decides how long the rest is.
pub(super) fn between(old: &Value, new: &Value, keys: Vec<String>, whole: &str) -> String {
    let mut parts = keys;
    let empty = Map::new();
    let fields = |document: &'_ Value| document.as_object().cloned().unwrap_or_default();
    let (before, after) = (fields(old), fields(new));
    let known = ["network", "network_profile", "credentials", "credentials_v2", "$schema"];
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let is_unlike = |name: &&String| before.get(*name) != after.get(*name);
    let mut others: Vec<&String> = names
        .into_iter()
        .filter(|name| !known.contains(&name.as_str()))
        .filter(is_unlike)
        .collect();
    others.sort_by_key(|name| *name != "upstream");
    parts.extend(others.iter().map(|name| format!("{name} changed")));
    let rest = |document: &Value| {
        let mut rest = document["network"].as_object().unwrap_or(&empty).clone();
        ["allow", "deny", "passthrough"].iter().for_each(|list| drop(rest.remove(*list)));
        rest
    };
    if rest(old) != rest(new) {
        parts.push("network changed".to_owned());
    }
    parts.extend(credentials(&all_credentials(old), &all_credentials(new)));
    let profiles = |document: &Value| texts(&document["network_profile"]);
    parts.extend(listed("profile", &profiles(old), &profiles(new)));
    let network = |document: &Value, list: &str| texts(&document["network"][list]);
    for list in ["passthrough", "allow", "deny"] {
        parts.extend(listed(list, &network(old, list), &network(new, list)));
    }
    if parts.is_empty() {
        return "no rule differs".to_owned();
    }
    let all = printable(&parts.join("; "));
    let short = cut(&all, LONGEST);
    if short == all { all } else { format!("{short}; for all of it: {whole}") }
}

/// Which keys that stand in the documents differ, and are all that a document without keys does not
/// show.
pub(super) fn keys(old: &Policy, new: &Policy) -> Vec<String> {
    let is_unlike = |old: &KeySource, new: &KeySource| {
        let (old, new) = (literals(old), literals(new));
        old.len() == new.len() && old != new
    };
    let changed = new.credentials().iter().filter(|new| {
        let old = old.credentials().iter().find(|old| old.name == new.name);
        old.is_some_and(|old| is_unlike(&old.key, &new.key))
    });
    let mut told: Vec<String> =
        changed.map(|one| format!("the key of {} changed", one.name)).collect();
    let auths = (&old.way_out().proxy_auth, &new.way_out().proxy_auth);
    if let (Some(old), Some(new)) = auths
        && is_unlike(old, new)
    {
        told.push("the key of upstream/proxy_auth changed".to_owned());
    }
    told
}

/// The keys that stand in a source.
fn literals(source: &KeySource) -> Vec<&LiteralKey> {
    let each = source.all().into_iter().filter_map(|source| match source {
        KeySource::Literal(key) => Some(key),
        _ => None,
    });
    each.collect()
}

/// A list's own differences: `allow +a -b`.
fn listed(name: &str, old: &BTreeSet<String>, new: &BTreeSet<String>) -> Option<String> {
    let more = new.difference(old).map(|text| format!("+{text}"));
    let less = old.difference(new).map(|text| format!("-{text}"));
    let all: Vec<String> = more.chain(less).collect();
    (!all.is_empty()).then(|| format!("{name} {}", all.join(" ")))
}

fn credentials(old: &Map<String, Value>, new: &Map<String, Value>) -> Option<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let told = names.into_iter().filter_map(|name| match (old.get(name), new.get(name)) {
        (None, Some(_)) => Some(format!("+{name}")),
        (Some(_), None) => Some(format!("-{name}")),
        (before, after) => (before != after).then(|| format!("{name} (changed)")),
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("credentials {}", told.join(" ")))
}

/// The credentials of both fields, by name.
fn all_credentials(document: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    if let Some(simple) = document["credentials"].as_object() {
        all.extend(simple.iter().map(|(name, key)| {
            (name.clone(), Value::Object(Map::from_iter([("key".to_owned(), key.clone())])))
        }));
    }
    all.extend(document["credentials_v2"].as_object().cloned().unwrap_or_default());
    all
}

/// The texts of a list, or of one alone.
fn texts(list: &Value) -> BTreeSet<String> {
    let one = list.as_str().into_iter().map(str::to_owned);
    let all = list.as_array().into_iter().flatten();
    one.chain(all.map(|text| text.as_str().map_or_else(|| text.to_string(), str::to_owned)))
        .collect()
}

#[cfg(test)]
mod tests {
    use interceptor_policy::Catalogue;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_is_named_once() {
        let old = json!({
            "network": { "allow": ["a.test", "b.test"], "deny": ["*"] },
            "network_profile": "openai",
            "credentials": { "openai": null },
            "credentials_v2": { "own": { "key": null, "endpoints": [] } },
        });
        let new = json!({
            "network": { "allow": ["b.test", "c.test"], "deny": ["*"], "passthrough": ["p.test"] },
            "network_profile": ["openai", "github"],
            "credentials_v2": { "own": { "key": null }, "github": { "key": { "env": "T" } } },
            "limits": { "requests": 3 },
            "upstream": { "proxy": "http://proxy.test" },
        });
        assert_eq!(
            between(&old, &new, Vec::new(), "look"),
            "upstream changed; limits changed; credentials +github -openai own (changed); profile \
             +github; passthrough +p.test; allow +c.test -a.test"
        );
        let between = |old: &Value, new: &Value| between(old, new, Vec::new(), "look");
        assert_eq!(between(&old, &old), "no rule differs");
        assert_eq!(between(&json!({}), &json!({ "network": {} })), "no rule differs");
    }

    #[test]
    fn a_key_that_differs_is_named_and_not_shown() {
        let policy = |own: &str, auth: &str| {
            let text = json!({
                "credentials": { "openai": "sk-same" },
                "credentials_v2": { "own": { "key": own, "hosts": ["own.test"] } },
                "upstream": { "proxy": "http://proxy.test:3128", "proxy_auth": auth },
            });
            let checked = interceptor_policy::check(&text.to_string(), &Catalogue::builtin());
            checked.policy.unwrap()
        };
        let (old, new) = (policy("CANARY-1", "u:CANARY-2"), policy("CANARY-3", "u:CANARY-4"));
        assert_eq!(keys(&old, &old), Vec::<String>::new());
        let expected = ["the key of own changed", "the key of upstream/proxy_auth changed"];
        assert_eq!(keys(&old, &new), expected);
        let shown = json!({});
        let line = between(&shown, &shown, keys(&old, &new), "look");
        assert_eq!(line, expected.join("; "));
    }

    #[test]
    fn what_a_policy_holds_neither_steers_the_terminal_nor_fills_it_nor_hides_a_key() {
        let many: Vec<String> = (0..1000).map(|number| format!("h{number}.test")).collect();
        let own = json!({ "own": { "key": { "file": "/k" } } });
        let new = json!({ "network": { "allow": many }, "\u{1b}[2J": 1, "credentials_v2": own });
        let line = between(&json!({}), &new, Vec::new(), "look");
        assert!(line.chars().count() <= LONGEST + 60 && !line.contains('\u{1b}'), "{line}");
        assert!(line.contains("credentials +own; allow +h0.test"), "{line}");
        assert!(line.ends_with(" more characters); for all of it: look"), "{line}");
        assert!(
            between(&json!({}), &json!({ "\u{1b}[2J": 1 }), Vec::new(), "").contains("\\u{1b}")
        );
    }
}
