//! Keys that cannot be loaded, as problems of the policy that names them.

use std::io::ErrorKind;

use interceptor_policy::{Document, KeySource, Policy, Problem};

use super::findings;
use crate::credential::{KeyError, KeyLocation, KeyProblem};

/// The problems of a policy with these errors, each at its credential's key.
pub(super) fn problems(policy: &Policy, errors: &[KeyError]) -> Vec<Problem> {
    let problem = |error: &KeyError| {
        let message = match (&error.place, error.problem.itself()) {
            (KeyLocation::Variable(name), KeyProblem::Unset) => {
                format!("the variable `{name}` is not set; set it where the interceptor runs")
            }
            (KeyLocation::File(path), _) if is_missing(error) => {
                format!("the file {} does not exist", path.display())
            }
            (KeyLocation::Variable(name), problem) => format!("the variable `{name}` {problem}"),
            (KeyLocation::File(path), problem) => format!("the file {} {problem}", path.display()),
            (KeyLocation::Document, problem) => format!("the key {problem}"),
            (KeyLocation::Aws, problem) => format!("the key for AWS {problem}"),
            (KeyLocation::Program(name), problem) => format!("the program {name:?} {problem}"),
            (KeyLocation::Service { kind, host }, problem) => format!("{kind} at {host} {problem}"),
        };
        Problem::new(error.pointer(policy), message)
    };
    errors.iter().map(problem).collect()
}

/// Whether there is no key at all, as on a machine that only checks the policy.
pub(super) fn is_missing(error: &KeyError) -> bool {
    is_absence(error.problem.itself())
}

fn is_absence(problem: &KeyProblem) -> bool {
    match problem {
        KeyProblem::Unset => true,
        KeyProblem::Unreadable(why) => why.kind() == ErrorKind::NotFound,
        KeyProblem::Part { problem, .. } => is_absence(problem),
        _ => false,
    }
}

/// The error about keys that cannot be loaded, as `check` prints it. `text` is the policy as it was
/// read, without the keys that options added.
pub(super) fn invalid(
    name: &str,
    text: &str,
    policy: &Policy,
    errors: &[KeyError],
    remedy: Option<String>,
) -> anyhow::Error {
    let document = Document::parse(text).map(|parsed| parsed.document).unwrap_or_default();
    let at = |(error, problem): (&KeyError, Problem)| {
        if is_written(&document, policy, &error.credential) {
            Problem { line: document.line(&problem.pointer), ..problem }
        } else {
            Problem::new("", format!("--key {}: {}", error.credential, problem.message))
        }
    };
    let problems: Vec<Problem> = errors.iter().zip(problems(policy, errors)).map(at).collect();
    findings::invalid_with(name, text, &problems, remedy)
}

/// Whether a document itself names the key that the policy has for a credential; options add no
/// other secrets.
fn is_written(document: &Document, policy: &Policy, credential: &str) -> bool {
    if policy.credential_named(credential).is_none() {
        return true;
    }
    let mut written = document.credentials.iter().chain(&document.credentials_v2);
    let written = written.find(|(name, _)| name == credential);
    let key = written.and_then(|(_, written)| {
        let certificate = written.client_cert.as_ref().map(|certificate| &certificate.key);
        written.key.as_ref().or(certificate)
    });
    let used = policy.credential_named(credential).map(|id| &policy.credential(id).key);
    match (key, used) {
        (Some(KeySource::Env(one)), Some(KeySource::Env(other))) => one == other,
        (Some(KeySource::File(one)), Some(KeySource::File(other))) => one == other,
        (Some(KeySource::Literal(_)), Some(KeySource::Literal(_))) => true,
        (Some(KeySource::Exec(one)), Some(KeySource::Exec(other))) => one == other,
        (Some(KeySource::Fetched(one)), Some(KeySource::Fetched(other))) => one == other,
        (Some(KeySource::Aws(one)), Some(KeySource::Aws(other))) => one == other,
        _ => false,
    }
}
