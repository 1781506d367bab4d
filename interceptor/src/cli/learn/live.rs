//! `interceptor run --learn`: runs with every public host permitted and every key that is set
//! governed without endpoint rules, and writes the policy that the run needed.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use interceptor_policy::{Catalogue, Observations};
use serde_json::{Map, Value, json};

use super::output::{Output, Place};
use super::{learnt, tell_unkept};
use crate::audit::{Audit, Observer, Record};
use crate::cli::aws_variables::key_in;
use crate::cli::person::Person;
use crate::cli::policy_file::printable;
use crate::cli::{registries, trust};
use crate::notice;

/// Where the policy is written without `-o`.
const FILE: &str = "interceptor.jsonc";

/// The options of `run`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Learning {
    /// Permit every public host and every key that is set, and write the policy that the command
    /// needed, to interceptor.jsonc or the file of -o.
    #[arg(
        long,
        conflicts_with_all = ["policy", "agent", "allow", "deny", "profile", "key"]
    )]
    learn: bool,
    /// Where to write it.
    #[command(flatten)]
    output: Output,
}

/// Learns a policy from a run.
pub(in crate::cli) struct Learner {
    observed: Arc<Mutex<Observations>>,
    /// The policy of the run, without keys.
    base: Value,
    place: Place,
}

/// Receives the records of a running sandbox.
struct Watcher(Arc<Mutex<Observations>>);

impl Learning {
    /// The policy of a learning run; `None` if this run does not learn.
    ///
    /// # Errors
    /// If an option needs --learn, or the profiles cannot be read.
    pub(in crate::cli) fn document(
        &self,
        environment: &[(OsString, OsString)],
    ) -> anyhow::Result<Option<Value>> {
        if !self.learn {
            anyhow::ensure!(self.output.is_empty(), "-o and --force need --learn");
            return Ok(None);
        }
        Ok(Some(open_document(&registries::catalogue(None)?, environment)))
    }

    /// Starts to learn. Opens the directory of the file now, because the sandbox may replace it
    /// later.
    ///
    /// # Errors
    /// If the file could not be written.
    pub(in crate::cli) fn begin(
        &self,
        audit: &Audit,
        person: &Person,
        base: Option<Value>,
    ) -> anyhow::Result<Option<Learner>> {
        let Some(base) = base else { return Ok(None) };
        let file = self.output.file.clone().unwrap_or_else(|| PathBuf::from(FILE));
        let place = self.output.place(person, &file)?;
        let observed = Arc::new(Mutex::new(Observations::default()));
        audit.observe(Box::new(Watcher(Arc::clone(&observed))));
        Ok(Some(Learner { observed, base, place }))
    }
}

impl Learner {
    /// Writes the policy; call after the last record.
    ///
    /// # Errors
    /// If there is none, or it cannot be written.
    pub(in crate::cli) fn end(self, person: &Person) -> anyhow::Result<()> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let learnt = learnt(&observed, Some(&self.base), &registries::catalogue(None)?, false)?;
        let (text, path) = (learnt.to_jsonc(), self.place.path());
        self.place.write(person, &text)?;
        trust::record(person, &std::path::absolute(path)?, &text)?;
        tell_unkept(&learnt);
        notice::info(format_args!("wrote {}", printable(&path.display().to_string())));
        Ok(())
    }
}

impl Observer for Watcher {
    fn record(&mut self, record: &Record, line: &str) {
        // Nothing is learnt from look-ups and events.
        let decides = record.decision.is_some() && record.kind != crate::audit::Kind::Dns;
        if let Some(record) = decides.then(|| serde_json::from_str(line).ok()).flatten() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).add(&record);
        }
    }

    fn pause(&mut self, _ended: bool) {}
}

/// A document that permits every public host, and governs the hosts of each service whose variable
/// is set.
fn open_document(catalogue: &Catalogue, environment: &[(OsString, OsString)]) -> Value {
    let is_set = |name: &str| {
        environment.iter().any(|(known, value)| known == OsStr::new(name) && !value.is_empty())
    };
    let mut credentials = Map::new();
    let mut taken: Vec<&str> = Vec::new();
    for service in catalogue.services() {
        // One variable can carry one placeholder only.
        let own = service.env.iter().all(|variable| !taken.contains(&variable.as_str()));
        if let Some(variable) = service.env.iter().find(|variable| own && is_set(variable)) {
            taken.extend(service.env.iter().map(String::as_str));
            credentials.insert(
                service.name.clone(),
                json!({ "key": key_in(Some(service), variable, &is_set) }),
            );
        }
    }
    match credentials.is_empty() {
        true => json!({}),
        false => json!({ "credentials_v2": credentials }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_are_set_are_governed_without_rules() {
        let catalogue = Catalogue::builtin();
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let environment =
            [pair("OPENAI_API_KEY", "k"), pair("ANTHROPIC_API_KEY", ""), pair("PATH", "/bin")];
        let document = open_document(&catalogue, &environment);
        let openai = json!({ "key": { "env": "OPENAI_API_KEY" } });
        assert_eq!(document, json!({ "credentials_v2": { "openai": openai } }));
        assert_eq!(open_document(&catalogue, &[]), json!({}));
        // With every variable set it is still a policy.
        let all: Vec<_> = catalogue
            .services()
            .flat_map(|service| service.env.iter().map(|name| pair(name, "k")))
            .collect();
        let document = open_document(&catalogue, &all).to_string();
        let report = interceptor_policy::check(&document, &catalogue);
        assert!(report.policy.is_some(), "{:?}", report.errors);
    }
}
