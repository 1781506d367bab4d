//! A policy with its keys, and what may be shown of it.

use std::path::PathBuf;

use interceptor_policy::{Catalogue, Policy, Problem, check_besides};
use serde_json::Value;

use super::FleetError;
use crate::credential::{KeyProblem, Keyring};

/// Where a policy came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A request or a configuration held it: it changes only by another request.
    Given,
    /// This file, which is read again on SIGHUP.
    File(PathBuf),
}

/// A policy with its keys, and what may be shown of it.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The compiled policy.
    pub(crate) policy: Policy,
    /// The real keys and their placeholders.
    pub(crate) keyring: Keyring,
    /// The document without any key.
    pub(crate) shown: Value,
    /// What `interceptor check` would warn of.
    pub(crate) warnings: Vec<Problem>,
    /// Where the text came from.
    pub(crate) source: Source,
}

impl Rules {
    /// Compiles the text of a document, in which the outermost fields `besides` are somebody else's, and reads the keys. The
    /// placeholders of `previous` are kept, by credential.
    ///
    /// # Errors
    /// [`FleetError::Policy`] with everything that is wrong; nothing of it holds a key.
    pub(crate) fn read(
        text: &str,
        besides: &'static [&'static str],
        source: Source,
        catalogue: &Catalogue,
        previous: Option<&Keyring>,
    ) -> Result<Rules, FleetError> {
        Rules::with_keys(text, besides, source, catalogue, |policy| {
            Keyring::load(policy, previous).map_err(|errors| {
                let problem = |error: crate::credential::KeyError| {
                    let id = policy.credential_named(&error.credential);
                    let pointer = id.map(|id| policy.credential(id).key_pointer.clone()).unwrap_or_default();
                    let place = match error.problem {
                        KeyProblem::Unset => " in the daemon's environment",
                        _ => "",
                    };
                    Problem::new(pointer, format!("{error}{place}"))
                };
                errors.into_iter().map(problem).collect()
            })
        })
    }

    /// As [`Rules::read`], with keys that `keys` has for the policy.
    pub(crate) fn with_keys(
        text: &str,
        besides: &'static [&'static str],
        source: Source,
        catalogue: &Catalogue,
        keys: impl FnOnce(&Policy) -> Result<Keyring, Vec<Problem>>,
    ) -> Result<Rules, FleetError> {
        let report = check_besides(text, besides, catalogue);
        let Some(policy) = report.policy else { return Err(FleetError::Policy(report.errors)) };
        let keyring = keys(&policy).map_err(FleetError::Policy)?;
        let shown = shown(text, besides, &keyring);
        Ok(Rules { policy, keyring, shown, warnings: report.warnings, source })
    }
}

/// The document without the keys that stand in it. Should one stand where none belongs, a label for instance, its placeholder stands
/// there instead.
fn shown(text: &str, besides: &[&str], keyring: &Keyring) -> Value {
    let Ok(Value::Object(mut document)) = serde_json::from_str(text) else { return Value::Null };
    besides.iter().for_each(|field| drop(document.remove(*field)));
    let is_source = |key: &Value| key.is_object();
    if let Some(Value::Object(simple)) = document.get_mut("credentials") {
        simple.values_mut().filter(|key| !is_source(key)).for_each(|key| *key = Value::Null);
    }
    if let Some(Value::Object(credentials)) = document.get_mut("credentials_v2") {
        for credential in credentials.values_mut().filter_map(Value::as_object_mut) {
            if credential.get("key").is_some_and(|key| !is_source(key)) {
                credential.insert("key".to_owned(), Value::Null);
            }
        }
    }
    let plain = Value::Object(document);
    match keyring.redactor() {
        Ok(None) => plain,
        Ok(Some(redactor)) => match redactor.text(plain.to_string().as_bytes()) {
            None => plain,
            Some(replaced) => serde_json::from_slice(&replaced).unwrap_or(Value::Null),
        },
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rules, FleetError> {
        Rules::read(text, &["cgroup"], Source::Given, &Catalogue::builtin(), None)
    }

    #[test]
    fn what_is_shown_holds_no_key_wherever_it_stood() {
        let key = "sk-canary-0123456789abcdef";
        let text = format!(
            r#"{{"cgroup":"/x","image":"made with {key}","credentials":{{"openai":"{key}"}},
                "credentials_v2":{{"own":{{"key":"{key}-2","hosts":["a.example"],"env":"OWN"}}}}}}"#
        );
        let rules = read(&text).unwrap();
        let shown = rules.shown.to_string();
        assert!(!shown.contains("canary"), "{shown}");
        assert!(rules.shown.get("cgroup").is_none());
        assert_eq!(rules.shown["credentials"]["openai"], Value::Null);
        assert_eq!(rules.shown["credentials_v2"]["own"]["hosts"][0], "a.example");
        assert!(!format!("{rules:?}").contains("canary"));
    }

    #[test]
    fn errors_of_keys_point_at_their_place_and_all_errors_are_there() {
        let missing = read(r#"{"credentials":{"openai":{"env":"NO_SUCH_VARIABLE_HERE"}}}"#).unwrap_err();
        let FleetError::Policy(problems) = missing else { panic!("{missing}") };
        assert_eq!(problems[0].pointer, "/credentials/openai");
        let wrong = read(r#"{"netwrok":{},"limits":{"requests":0},"pid":1}"#).unwrap_err();
        let FleetError::Policy(problems) = wrong else { panic!("{wrong}") };
        let pointers: Vec<_> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/netwrok", "/pid", "/limits/requests"]);
    }
}
