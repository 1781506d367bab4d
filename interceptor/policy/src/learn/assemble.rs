//! The document that is learnt: the base's fields but for its rules, hosts and endpoint rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::observed::{Observations, Verdict};
use super::rules::{Call, LearntRule};
use super::{Usage, compiled, hosts, rules, write};
use crate::Policy;
use crate::catalogue::Catalogue;
use crate::decision::CredentialId;
use crate::message::bracketed;
use crate::network_rule::{NetworkRule, Target};
use crate::path::CanonicalPath;
use crate::problem::{Problem, child_pointer};
use crate::recorded::{Subject, Traffic};

/// The fields that are learnt anew.
const LEARNT: [&str; 4] = ["network", "network_profile", "credentials", "credentials_v2"];

/// What is to be learnt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Permit what was refused for want of a rule.
    pub(super) include_refused: bool,
    /// Permit what was permitted even where that covers something refused.
    pub(super) wide: bool,
}

/// A document, and what it was made from.
pub(super) struct Draft<'a> {
    pub(super) document: Value,
    pub(super) comments: BTreeMap<String, String>,
    pub(super) permitted: Vec<(&'a Subject, &'a Usage)>,
    pub(super) refused: Vec<&'a Subject>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        observed: &'a Observations,
        base: Option<&Value>,
        base_policy: Option<&Policy>,
        catalogue: &Catalogue,
        aim: Aim,
    ) -> Result<Draft<'a>, Vec<Problem>> {
        let included = |verdict: Verdict| {
            verdict == Verdict::Permitted || (aim.include_refused && verdict == Verdict::Unlisted)
        };
        let mut permitted: Vec<(&Subject, &Usage)> = Vec::new();
        let mut refused = Vec::new();
        for ((subject, verdict), usage) in &observed.subjects {
            match included(*verdict) {
                true => permitted.push((subject, usage)),
                false => refused.push(subject),
            }
        }
        let mut document = Map::new();
        for (field, value) in base.and_then(Value::as_object).into_iter().flatten() {
            if !LEARNT.contains(&field.as_str()) {
                document.insert(field.clone(), value.clone());
            }
        }
        let mut draft = Draft {
            document: Value::Object(document),
            comments: BTreeMap::new(),
            permitted,
            refused,
        };
        draft.credentials(base, catalogue)?;
        draft.endpoints(base, catalogue, aim.wide)?;
        draft.network(observed, base_policy, catalogue)?;
        draft.comment_on_all();
        Ok(draft)
    }

    /// Adds the credentials that requests used, without rules.
    fn credentials(
        &mut self,
        base: Option<&Value>,
        catalogue: &Catalogue,
    ) -> Result<(), Vec<Problem>> {
        let mut used: BTreeMap<&str, Vec<&Subject>> = BTreeMap::new();
        for (subject, _) in &self.permitted {
            if let Some(name) = &subject.credential {
                used.entry(name).or_default().push(subject);
            }
        }
        let mut credentials = Map::new();
        for (name, subjects) in used {
            let credential = credential(name, &subjects, base, catalogue)?;
            credentials.insert(name.to_owned(), credential);
        }
        if !credentials.is_empty() {
            self.document["credentials_v2"] = Value::Object(credentials);
        }
        Ok(())
    }

    /// Adds the endpoint rules of each credential.
    fn endpoints(
        &mut self,
        base: Option<&Value>,
        catalogue: &Catalogue,
        wide: bool,
    ) -> Result<(), Vec<Problem>> {
        let policy = compiled(&self.document, catalogue)?;
        // What the network refuses reaches no endpoint rule.
        let reached: BTreeSet<_> =
            self.permitted.iter().map(|(subject, _)| (&subject.host, subject.port)).collect();
        for (index, credential) in policy.credentials().iter().enumerate() {
            let id = CredentialId(index);
            let mut permitted: BTreeMap<Call<'_>, Usage> = BTreeMap::new();
            for (subject, usage) in &self.permitted {
                let own = subject.credential.as_deref() == Some(&credential.name);
                if let Some(call) = call(subject, &policy, id)
                    && (own || subject.credential.is_none())
                {
                    permitted.entry(call).or_default().add(usage);
                }
            }
            let refused: BTreeSet<Call<'_>> = self
                .refused
                .iter()
                .filter(|subject| reached.contains(&(&subject.host, subject.port)))
                .filter(|subject| !judged_by_another(subject, &credential.name, base, catalogue))
                .filter_map(|subject| call(subject, &policy, id))
                .filter(|call| !permitted.contains_key(call))
                .collect();
            let rules = rules::rules(&permitted, &refused, wide);
            let pointer = child_pointer("/credentials_v2", &credential.name);
            self.comment_on_rules(&format!("{pointer}/endpoints"), &rules);
            let endpoints: Vec<Value> = rules
                .iter()
                .map(|rule| {
                    let paths: Vec<&str> =
                        rule.paths.iter().map(|(path, _)| path.as_str()).collect();
                    json!({ "methods": rule.methods, "paths": paths })
                })
                .collect();
            self.document["credentials_v2"][&credential.name]["endpoints"] = endpoints.into();
        }
        Ok(())
    }

    fn comment_on_rules(&mut self, pointer: &str, rules: &[LearntRule]) {
        for (number, rule) in rules.iter().enumerate() {
            for (index, (_, usage)) in rule.paths.iter().enumerate() {
                // A rule with one path stands on one line.
                let place = match rule.paths.len() {
                    1 => format!("{pointer}/{number}"),
                    _ => format!("{pointer}/{number}/paths/{index}"),
                };
                self.comments.insert(place, write::used(usage));
            }
        }
    }

    fn network(
        &mut self,
        observed: &Observations,
        base: Option<&Policy>,
        catalogue: &Catalogue,
    ) -> Result<(), Vec<Problem>> {
        let policy = compiled(&self.document, catalogue)?;
        let is_governed = |host: &_| policy.governs(host, 443);
        let found = hosts::hosts(&self.permitted, &self.refused, observed, base, is_governed);
        let rules: Vec<&str> = found.allow.iter().map(|(rule, _)| rule.as_str()).collect();
        let mut network = json!({ "allow": rules });
        if rules.is_empty() {
            // An empty list alone would permit every host.
            network["deny"] = json!(["*"]);
        }
        if !found.passthrough.is_empty() {
            network["passthrough"] = found.passthrough.into();
        }
        self.document["network"] = network;
        for (number, (_, usage)) in found.allow.iter().enumerate() {
            self.comments.insert(format!("/network/allow/{number}"), write::used(usage));
        }
        Ok(())
    }

    fn comment_on_all(&mut self) {
        let mut all = Usage::default();
        self.permitted.iter().for_each(|(_, usage)| all.add(usage));
        if all.count > 0 {
            let used = write::used(&all);
            self.comments
                .insert(String::new(), format!("Learnt from audit records (UTC): {used}."));
        }
    }

    /// Adds what refuses `allowed`, as far as the base or the catalogue has it. Whether anything
    /// was added.
    pub(super) fn refuse(
        &mut self,
        allowed: &[&Subject],
        base: Option<&Value>,
        base_policy: Option<&Policy>,
        catalogue: &Catalogue,
    ) -> bool {
        let mut deny = BTreeSet::new();
        let mut needed: BTreeMap<String, Vec<&Subject>> = BTreeMap::new();
        for subject in allowed {
            if let Some(address) = subject.address {
                deny.insert(denying(address, base));
            }
            // The credential that was meant or misused, and those among which one had to be chosen.
            if let Some(name) = &subject.credential {
                let own = (!subject.misused).then_some(*subject);
                needed.entry(name.clone()).or_default().extend(own);
            }
            if let Some(policy) = base_policy.filter(|_| subject.traffic == Traffic::Request) {
                for id in policy.governing(subject.scheme(), &subject.host, subject.port) {
                    needed.entry(policy.credential(id).name.clone()).or_default();
                }
            }
        }
        for (name, subjects) in needed {
            let known = self.document.get("credentials_v2").and_then(|known| known.get(&name));
            if known.is_some() {
                continue;
            }
            let made = credential(&name, &subjects, base, catalogue);
            // One without hosts is no credential: nothing tells what it is for.
            if let Some(mut credential) = made.ok().filter(|made| made["hosts"] != json!([])) {
                credential["endpoints"] = json!([]);
                if let Some(members) = credential.as_object_mut()
                    && !subjects.is_empty()
                    && base_policy.is_none()
                {
                    members.remove("allow_plaintext");
                }
                self.document["credentials_v2"][&name] = credential;
            }
        }
        if !deny.is_empty() {
            let deny: Vec<String> = deny.into_iter().collect();
            self.document["network"]["deny"] = deny.into();
        }
        !allowed.is_empty()
    }
}

/// Whether the request presented a credential other than this one, so that this one's rules do not
/// judge it: what the base or the catalogue knows can be made part of the policy.
fn judged_by_another(
    subject: &Subject,
    credential: &str,
    base: Option<&Value>,
    catalogue: &Catalogue,
) -> bool {
    let Some(name) = subject.credential.as_deref().filter(|name| *name != credential) else {
        return false;
    };
    let in_base = |field: &str| base.and_then(|base| base.get(field)?.get(name)).is_some();
    in_base("credentials_v2") || in_base("credentials") || catalogue.service(name).is_some()
}

/// The method and path of a request that the credential's rules judge.
fn call<'a>(subject: &'a Subject, policy: &Policy, id: CredentialId) -> Option<Call<'a>> {
    if subject.traffic != Traffic::Request {
        return None;
    }
    let governing = policy.governing(subject.scheme(), &subject.host, subject.port);
    let path = governing.contains(&id).then(|| CanonicalPath::parse(&subject.path).ok())??;
    Some((&subject.method, path))
}

/// A credential without rules, as the base has it, or the catalogue, or the requests show it.
fn credential(
    name: &str,
    subjects: &[&Subject],
    base: Option<&Value>,
    catalogue: &Catalogue,
) -> Result<Value, Vec<Problem>> {
    let member = |field: &str| base?.get(field)?.get(name).cloned();
    let service = catalogue.service(name);
    let mut credential = match (member("credentials_v2"), member("credentials")) {
        (Some(Value::Object(mut members)), _) => {
            members.remove("endpoints");
            Value::Object(members)
        }
        (_, Some(key)) => json!({ "key": key }),
        _ => json!({ "key": { "env": variable(name, service.and_then(|one| one.env.first())) } }),
    };
    if subjects.iter().any(|subject| !subject.is_https) {
        credential["allow_plaintext"] = true.into();
    }
    if service.is_none() && credential.get("hosts").is_none() {
        credential["hosts"] = json!([]);
    }
    // Hosts that were used with it, which it does not govern yet.
    let mut hosts: Vec<Value> =
        credential.get("hosts").and_then(Value::as_array).cloned().unwrap_or_default();
    let alone = json!({ "credentials_v2": { name: credential } });
    let policy = match hosts.is_empty() && service.is_none() {
        true => None,
        false => Some(compiled(&alone, catalogue)?),
    };
    let governed = |subject: &Subject| {
        let governs = |policy: &Policy| {
            !policy.governing(subject.scheme(), &subject.host, subject.port).is_empty()
        };
        policy.as_ref().is_some_and(governs)
    };
    for subject in subjects.iter().filter(|subject| !governed(subject)) {
        let plain = !subject.is_https || subject.port == 443;
        let host = match plain {
            true => subject.host.to_string(),
            false => bracketed(&subject.host, subject.port),
        };
        if !hosts.contains(&host.as_str().into()) {
            hosts.push(host.into());
        }
    }
    if service.is_none() || !hosts.is_empty() {
        credential["hosts"] = hosts.into();
    }
    Ok(credential)
}

/// The variable for a key that nobody named.
fn variable(name: &str, known: Option<&String>) -> String {
    known.cloned().unwrap_or_else(|| {
        let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        format!("{}_API_KEY", name.chars().map(upper).collect::<String>())
    })
}

/// The deny rule of the base that covers an address, or one for the address alone.
fn denying(address: IpAddr, base: Option<&Value>) -> String {
    let rules = base.and_then(|base| base.pointer("/network/deny")?.as_array());
    let covers = |rule: &&str| {
        NetworkRule::parse(rule).is_ok_and(|(rule, _)| {
            let covers = matches!(&rule.target, Target::Net(net) if net.contains(&address));
            covers && !rule.is_catch_all()
        })
    };
    let found = rules.into_iter().flatten().filter_map(Value::as_str).find(covers);
    found.map_or_else(|| address.to_string(), str::to_owned)
}
