//! A policy with its keys, and the form of it that may be shown.

use std::path::{Path, PathBuf};

use interceptor_policy::{
    AwsKeys, Catalogue, FetchedSource, Policy, Problem, Proxy, check_besides,
};
use serde_json::Value;

use super::{FleetError, TextDigest};
use crate::credential::{KeyProblem, Keyring, Means, Sources};

/// Why no program is run, and no service asked, that a daemon's file names.
const OTHERS_FILE: &str = "somebody else than root can change the policy's file";

/// The origin of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Given in a request or the configuration; changes only by another request.
    Given,
    /// A file, which SIGHUP reloads.
    File {
        /// Its path.
        path: PathBuf,
        /// The text that was read there; unknown if an older daemon read it.
        text: Option<TextDigest>,
    },
}

impl Source {
    /// A file that holds this text.
    pub(crate) fn file(path: &Path, text: &str) -> Source {
        Source::File { path: path.to_owned(), text: Some(TextDigest::of(text)) }
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Source::Given => None,
            Source::File { path, .. } => Some(path),
        }
    }
}

/// What a policy is compiled with, besides its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compiling<'a> {
    /// The services and profiles.
    pub(crate) catalogue: &'a Catalogue,
    /// The upstream proxy in place of the policy's own.
    pub(crate) proxy: Option<&'a Proxy>,
    /// What living sources are read with.
    pub(crate) sources: &'a Sources,
}

/// A policy with its keys, and the form of it that may be shown.
#[derive(Debug)]
pub(crate) struct LoadedPolicy {
    /// The compiled policy.
    pub(crate) policy: Policy,
    /// The real keys and their placeholders.
    pub(crate) keyring: Keyring,
    /// The document without keys.
    pub(crate) shown: Value,
    /// The warnings of `interceptor check`.
    pub(crate) warnings: Vec<Problem>,
    /// Its origin.
    pub(crate) source: Source,
}

/// Reads documents that came in requests.
pub(crate) trait GivenPolicies: std::fmt::Debug + Send + Sync {
    /// As [`LoadedPolicy::read`], on behalf of this user.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`].
    fn read(&self, text: &str, previous: &Keyring, uid: u32) -> Result<LoadedPolicy, FleetError>;
}

impl LoadedPolicy {
    /// Compiles a document and reads its keys. The top-level fields `besides` are not the policy's
    /// and are ignored. Credentials keep their placeholders from `previous`.
    ///
    /// # Errors
    /// [`FleetError::Policy`] with every problem; no message contains a key.
    pub(crate) fn read(
        text: &str,
        besides: &'static [&'static str],
        source: Source,
        compiling: Compiling<'_>,
        previous: Option<&Keyring>,
    ) -> Result<LoadedPolicy, FleetError> {
        // What a file holds by now may be somebody else's; who gives a document is known.
        let runs_new = previous.is_none() || source == Source::Given;
        let sources = match source.path() {
            Some(path) if previous.is_none() => compiling.sources.accepting(path, OTHERS_FILE),
            _ => compiling.sources.clone(),
        };
        let environment = |name: &str| std::env::var_os(name);
        LoadedPolicy::with_keys(text, besides, source, compiling, |policy| {
            let means = Means { environment: &environment, seed: None, sources, runs_new };
            Keyring::load_with(policy, previous, &means).map_err(|errors| {
                let problem = |error: crate::credential::KeyError| {
                    let pointer = error.pointer(policy);
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

    /// As [`LoadedPolicy::read`], with the keys that `keys` provides.
    pub(crate) fn with_keys(
        text: &str,
        besides: &'static [&'static str],
        source: Source,
        compiling: Compiling<'_>,
        keys: impl FnOnce(&Policy) -> Result<Keyring, Vec<Problem>>,
    ) -> Result<LoadedPolicy, FleetError> {
        let report = check_besides(text, besides, compiling.catalogue);
        let Some(policy) = report.policy else { return Err(FleetError::Policy(report.errors)) };
        let policy = compiling.proxy.cloned().into_iter().fold(policy, Policy::with_proxy);
        let keyring = keys(&policy).map_err(FleetError::Policy)?;
        let shown = without_keys(text, besides, &keyring);
        Ok(LoadedPolicy { policy, keyring, shown, warnings: report.warnings, source })
    }
}

/// Replaces the keys of a document with null, and the secrets that its sources present.
pub(crate) fn hide_keys(document: &mut Value) {
    if let Some(Value::Object(simple)) = document.get_mut("credentials") {
        simple.values_mut().for_each(hide_key);
    }
    if let Some(Value::Object(credentials)) = document.get_mut("credentials_v2") {
        let keys = credentials.values_mut().filter_map(|credential| credential.get_mut("key"));
        keys.for_each(hide_key);
        let certificates = credentials.values_mut().filter_map(|one| one.get_mut("client_cert"));
        certificates.filter_map(|one| one.get_mut("key")).for_each(hide_key);
    }
    let auth = document.get_mut("upstream").and_then(|out| out.get_mut("proxy_auth"));
    auth.into_iter().for_each(hide_key);
}

/// A key that is written in a document, or one that its source presents.
fn hide_key(key: &mut Value) {
    match key {
        Value::Object(source) => {
            for (field, value) in source {
                match value {
                    Value::Object(_) => hide_key(value),
                    _ if is_secret(field) => *value = Value::Null,
                    _ => {}
                }
            }
        }
        literal => *literal = Value::Null,
    }
}

/// Whether a field of a source holds a secret.
fn is_secret(field: &str) -> bool {
    FetchedSource::SECRETS.contains(&field) || AwsKeys::FIELDS.contains(&field)
}

/// The document without its keys. A key in any other field, such as a label, is replaced by its
/// placeholder.
pub(crate) fn without_keys(text: &str, besides: &[&str], keyring: &Keyring) -> Value {
    let Ok(Value::Object(mut document)) = serde_json::from_str(text) else { return Value::Null };
    besides.iter().for_each(|field| drop(document.remove(*field)));
    let mut plain = Value::Object(document);
    hide_keys(&mut plain);
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

    fn read(text: &str) -> Result<LoadedPolicy, FleetError> {
        let (catalogue, sources) = (Catalogue::builtin(), Sources::none("not in this test"));
        let compiling = Compiling { catalogue: &catalogue, proxy: None, sources: &sources };
        LoadedPolicy::read(text, &["cgroup"], Source::Given, compiling, None)
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
    fn what_is_shown_holds_no_part_of_a_pair_for_aws() {
        let text = r#"{"cgroup":"/x","image":"canary-secret-0123456789",
            "credentials":{"aws":{"aws":{
            "access_key_id":"AKIACANARY","secret_access_key":"canary-secret-0123456789"}}}}"#;
        let rules = read(text).unwrap();
        let shown = rules.shown.to_string();
        assert!(!shown.contains("canary") && !shown.contains("CANARY"), "{shown}");
        assert!(rules.shown["credentials"]["aws"]["aws"]["secret_access_key"].is_null());
    }

    #[test]
    fn errors_of_keys_point_at_their_place_and_all_errors_are_there() {
        let missing =
            read(r#"{"credentials":{"openai":{"env":"NO_SUCH_VARIABLE_HERE"}}}"#).unwrap_err();
        let FleetError::Policy(problems) = missing else { panic!("{missing}") };
        assert_eq!(problems[0].pointer, "/credentials/openai");
        let wrong = read(r#"{"netwrok":{},"limits":{"requests":0},"pid":1}"#).unwrap_err();
        let FleetError::Policy(problems) = wrong else { panic!("{wrong}") };
        let pointers: Vec<_> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/netwrok", "/pid", "/limits/requests"]);
    }
}
