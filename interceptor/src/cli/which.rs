//! Chooses the policy of a run: a file, a name, an agent's, or one that is found; and adds what the
//! options say.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail};
use interceptor_policy::{
    Catalogue, Document, NetworkRule, Policy, did_you_mean, looks_like_key, strict_json,
};

use super::additions::{self, Additions, KeyFrom};
use super::person::Person;
use super::written::Written;
use super::{Common, agents, aws_variables, discovery, findings, trust};

/// What to type if there is no policy.
const NOTHING: &str = "\
there is no policy: no --policy, and no interceptor.json or
interceptor.jsonc here or above. Type one of
  interceptor init                 (writes interceptor.jsonc for what it finds)
  interceptor run --agent claude-code -- …   (see interceptor agents)
  interceptor run --allow api.example.com --key openai -- …
  interceptor run --profile unrestricted -- …   (any public host, no keys)";

/// The options of `run` that make a policy, or add to one.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Which {
    /// Use the policy of this agent; `interceptor agents` lists them.
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    agent: Option<String>,
    /// Also permit this host (a network rule, as `*.example.com:443`); repeatable.
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Also refuse this host; repeatable.
    #[arg(long, value_name = "RULE")]
    deny: Vec<String>,
    /// Also permit the hosts of this profile, listed by `interceptor profiles`; repeatable.
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// Also use the key of this service, from its own variable, another variable or a file;
    /// repeatable.
    #[arg(long, value_name = "SERVICE[=env:NAME|=file:PATH]")]
    key: Vec<String>,
}

/// The policy of a run.
pub(super) enum Chosen {
    /// One whose text is known.
    Text(Written),
    /// The operator's of this name, which only the daemon can read.
    Operators(String),
}

impl Which {
    /// As [`Which::choose`], for a run by the daemon: a name that is none of the person's own
    /// policies is one of the operator's.
    ///
    /// # Errors
    /// As [`Which::choose`], or if an option would change the operator's policy.
    pub(super) fn choose_by_daemon(
        &self,
        common: &Common,
        person: &Person,
        directory: &Path,
        catalogue: &Catalogue,
    ) -> anyhow::Result<(Chosen, Vec<OsString>)> {
        if let Some(name) = common.policy.as_ref().filter(|name| discovery::is_name(name)) {
            let own = discovery::own(person, name)?;
            let additions = self.additions(person, catalogue)?;
            let shown = name.display();
            return match own {
                Some(own) => Ok((Chosen::Text(join(own, &additions, catalogue)?), Vec::new())),
                None if !additions.is_empty() => bail!(
                    "there is no policy {shown} of yours, and nothing can be added to the \
                     operator's: leave out --allow, --deny, --profile and --key"
                ),
                None => Ok((Chosen::Operators(name.to_string_lossy().into_owned()), Vec::new())),
            };
        }
        let (written, variables) = self.choose(common, person, directory, catalogue)?;
        Ok((Chosen::Text(written), variables))
    }

    /// The policy, and the variables that the agent needs (`NAME=VALUE`).
    ///
    /// # Errors
    /// If there is none, it is not trusted, or an option is invalid.
    pub(super) fn choose(
        &self,
        common: &Common,
        person: &Person,
        directory: &Path,
        catalogue: &Catalogue,
    ) -> anyhow::Result<(Written, Vec<OsString>)> {
        let additions = self.additions(person, catalogue)?;
        let mut variables = Vec::new();
        let base = match (&common.policy, &self.agent) {
            (Some(name), _) if discovery::is_name(name) => Some(discovery::named(person, name)?),
            (Some(file), _) => Some(Written::read(file)?),
            (None, Some(name)) => {
                let agent = agents::known(name)?;
                variables = agents::variables(agent, person);
                let keys: Vec<&str> =
                    additions.keys.iter().map(|(service, _)| service.as_str()).collect();
                Some(agents::policy(agent, person, catalogue, &keys)?)
            }
            (None, None) => match discovery::nearest(person, directory)? {
                Some(path) => {
                    let found = discovery::read(person, &path)?;
                    Some(trust::require(person, found, catalogue)?)
                }
                None if additions.is_empty() => bail!(NOTHING),
                None => None,
            },
        };
        let base = base.unwrap_or_else(|| Written::without_file("the options", "{}".to_owned()));
        Ok((join(base, &additions, catalogue)?, variables))
    }

    /// A later text of the policy's file, with what the options add to it.
    ///
    /// # Errors
    /// If the text is no policy, or an option does not fit any more.
    pub(super) fn again(
        &self,
        written: Written,
        person: &Person,
        catalogue: &Catalogue,
    ) -> anyhow::Result<Written> {
        join(written, &self.additions(person, catalogue)?, catalogue)
    }

    /// What the options add, each checked on its own.
    fn additions(&self, person: &Person, catalogue: &Catalogue) -> anyhow::Result<Additions> {
        let mut errors: Vec<String> = Vec::new();
        for (option, rules) in [("--allow", &self.allow), ("--deny", &self.deny)] {
            for rule in rules {
                let wrong = NetworkRule::parse(rule).err();
                errors.extend(wrong.map(|error| format!("{option} {rule}: {error}")));
            }
        }
        let unknown = self.profile.iter().filter(|name| catalogue.profile(name).is_none());
        errors.extend(unknown.map(|name| unknown_profile(name, catalogue)));
        let mut keys = Vec::new();
        for key in &self.key {
            match key_from(key, person, catalogue) {
                Ok(key) => keys.push(key),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if !errors.is_empty() {
            bail!(errors.join("\ninterceptor: "));
        }
        let (allow, deny) = (self.allow.clone(), self.deny.clone());
        Ok(Additions { allow, deny, profiles: self.profile.clone(), keys })
    }
}

/// A service and the source of its key. Nothing after the `=` is repeated: it may be a key.
fn key_from(
    text: &str,
    person: &Person,
    catalogue: &Catalogue,
) -> anyhow::Result<(String, KeyFrom)> {
    let (service, source) = match text.split_once('=') {
        Some((service, source)) => (service, Some(source)),
        None => (text, None),
    };
    if looks_like_key(service) {
        bail!("--key takes the name of a service, and this looks like a key");
    }
    let from = match source {
        Some(source) => match source.split_once(':') {
            Some(("env", name)) if !name.is_empty() => KeyFrom::Variable(name.to_owned()),
            Some(("file", path)) if !path.is_empty() => KeyFrom::File(path.to_owned()),
            _ => bail!(
                "--key {service}: a key is never an argument; write {service}=env:NAME or \
                 {service}=file:PATH"
            ),
        },
        None => match catalogue.service(service) {
            Some(known) => {
                let set = known.env.iter().find(|name| person.given(name).is_some());
                let variable = set.or(known.env.first()).cloned().unwrap_or_default();
                let is_set = |name: &str| person.given(name).is_some();
                KeyFrom::Written(aws_variables::key_in(Some(known), &variable, &is_set))
            }
            None => return Err(unknown_service(service, catalogue)),
        },
    };
    Ok((service.to_owned(), from))
}

fn unknown_profile(name: &str, catalogue: &Catalogue) -> String {
    let names: Vec<&str> = catalogue.profiles().map(|(name, _)| name).collect();
    let hint = did_you_mean(name, names.iter().copied());
    let listed = names.join(", ");
    format!("--profile: unknown profile {name:?}{hint} (the profiles are: {listed})")
}

fn unknown_service(name: &str, catalogue: &Catalogue) -> anyhow::Error {
    let hint = did_you_mean(name, catalogue.services().map(|service| service.name.as_str()));
    anyhow::anyhow!("--key: unknown service {name:?}{hint} (see interceptor services)")
}

/// The policy with what the options add. Its own errors are reported first, with its own lines.
fn join(written: Written, additions: &Additions, catalogue: &Catalogue) -> anyhow::Result<Written> {
    if additions.is_empty() {
        return Ok(written);
    }
    let report = interceptor_policy::check(&written.text, catalogue);
    let Some(policy) = report.policy else {
        return Err(findings::invalid(&written.name, &written.text, &report.errors));
    };
    for (service, _) in &additions.keys {
        if catalogue.service(service).is_none() && policy.credential_named(service).is_none() {
            return Err(unknown_service(service, catalogue));
        }
    }
    let strict = strict_json(&written.text).map_err(|problem| anyhow::anyhow!(problem.message))?;
    let text = additions::joined(&strict, additions).context("cannot add the options")?;
    let parsed = Document::parse(&text)
        .and_then(|parsed| Policy::compile(&parsed.document, catalogue).map(drop));
    if let Err(errors) = parsed {
        return Err(findings::invalid("the policy with the options", &text, &errors));
    }
    Ok(Written { text, own: Some(written.text), ..written })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u32 = 54321;

    fn chosen(which: &Which, policy: &str) -> anyhow::Result<String> {
        let person = Person::with_variables(USER, &[("GH_TOKEN", "x")]);
        let catalogue = Catalogue::builtin();
        let base = Written::without_file("p.json", policy.to_owned());
        let additions = which.additions(&person, &catalogue)?;
        join(base, &additions, &catalogue).map(|written| written.text.to_string())
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn options_make_a_policy_or_add_to_one() {
        let which = Which {
            allow: strings(&["a.test"]),
            deny: strings(&["b.test"]),
            profile: strings(&["openai"]),
            key: strings(&["github", "openai=file:/k", "anthropic=env:MINE"]),
            ..Which::default()
        };
        let made: serde_json::Value = serde_json::from_str(&chosen(&which, "{}").unwrap()).unwrap();
        assert_eq!(
            made,
            serde_json::json!({
                "network": { "allow": ["a.test"], "deny": ["b.test"] },
                "network_profile": ["openai"],
                "credentials_v2": {
                    "github": { "key": { "env": "GH_TOKEN" } },
                    "openai": { "key": { "file": "/k" } },
                    "anthropic": { "key": { "env": "MINE" } },
                },
            })
        );
        let policy = r#"{ // ours
            "network": { "allow": ["c.test"], "passthrough": ["c.test"] },
            "network_profile": "openai",
            "credentials": { "openai": "sk-old" },
            "credentials_v2": { "own": { "key": "k", "hosts": ["own.test"] } },
        }"#;
        let which = Which { key: strings(&["openai=env:A", "own=env:B"]), ..which };
        let made: serde_json::Value =
            serde_json::from_str(&chosen(&which, policy).unwrap()).unwrap();
        assert_eq!(
            made,
            serde_json::json!({
                "network": {
                    "allow": ["c.test", "a.test"], "deny": ["b.test"], "passthrough": ["c.test"],
                },
                "network_profile": ["openai"],
                "credentials": {},
                "credentials_v2": {
                    "own": { "key": { "env": "B" }, "hosts": ["own.test"] },
                    "openai": { "key": { "env": "A" } },
                },
            })
        );
    }

    #[test]
    fn an_option_that_does_not_fit_is_refused_by_its_name_and_shows_no_key() {
        let allow = |rule: &str| Which { allow: strings(&[rule]), ..Which::default() };
        let key = |key: &str| Which { key: strings(&[key]), ..Which::default() };
        let profile = Which { profile: strings(&["opnai"]), ..Which::default() };
        for (which, policy, says) in [
            (allow("a b"), "{}", "--allow a b"),
            (profile, "{}", "did you mean `openai`?"),
            (key("opnai"), "{}", "did you mean `openai`?"),
            (key("own=env:A"), "{}", "unknown service \"own\""),
            (key("openai=sk-CANARY"), "{}", "openai=env:NAME"),
            (key("openai=literal:CANARY"), "{}", "openai=env:NAME"),
            (key("openai=env:"), "{}", "openai=env:NAME"),
            (key("openai=env:A-B"), "{}", "name of a variable"),
            (key("sk-CANARY0123456789abcdef"), "{}", "looks like a key"),
            (allow("a.test"), "{\"netwrok\":{}}", "p.json:1: error: unknown field `netwrok`"),
        ] {
            let error = format!("{:#}", chosen(&which, policy).unwrap_err());
            assert!(error.contains(says) && !error.contains("CANARY"), "{error}");
        }
        let all = Which {
            allow: strings(&["a b", "c d"]),
            profile: strings(&["opnai"]),
            key: strings(&["opnai", "openai=sk-CANARY"]),
            ..Which::default()
        };
        let error = format!("{:#}", chosen(&all, "{}").unwrap_err());
        assert_eq!(error.lines().count(), 5, "{error}");
    }
}
