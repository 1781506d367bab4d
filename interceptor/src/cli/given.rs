//! A policy that is given on the command line: a file, `-` for standard input, or a name, as `run`
//! takes it.

use std::io;
use std::path::Path;

use interceptor_policy::{Catalogue, Policy, strict_json};
use zeroize::Zeroizing;

use super::person::Person;
use super::written::Written;
use super::{Common, discovery, findings};

/// Reads the policy. A name is looked up in the directories of the person who typed the command.
///
/// # Errors
/// If there is none, or it cannot be read.
pub(super) fn read(policy: &Path) -> anyhow::Result<Written> {
    match discovery::is_name(policy) {
        true => discovery::named(&Person::invoking()?, policy),
        false => Written::read(policy),
    }
}

/// The policy of `--policy`, or an empty one.
///
/// # Errors
/// As for [`read`].
pub(super) fn of(common: &Common) -> anyhow::Result<Written> {
    match &common.policy {
        None => Ok(Written::without_file("the default policy", "{}".to_owned())),
        Some(policy) => read(policy),
    }
}

/// Reads a policy for a reader of strict JSON, such as the daemon: without comments and trailing
/// commas. A text that cannot be a policy stays as it is, for that reader to refuse.
///
/// # Errors
/// As for [`read`].
pub(super) fn read_strict(policy: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = read(policy)?.text;
    Ok(strict_json(&text).unwrap_or(text))
}

/// Reads and compiles a policy.
///
/// # Errors
/// If it cannot be read, or is invalid: then with every error, as `check` prints them.
pub(super) fn load(policy: &Path, catalogue: &Catalogue) -> anyhow::Result<Policy> {
    let Written { name, text, .. } = read(policy)?;
    let report = interceptor_policy::check(&text, catalogue);
    report.policy.ok_or_else(|| findings::invalid(&name, &text, &report.errors))
}

/// Reads a policy to check: a name also stands for a file of that name here, if there is no such
/// policy.
///
/// # Errors
/// As for [`read`].
pub(super) fn read_or_file(person: &Person, policy: &Path) -> anyhow::Result<Written> {
    if !discovery::is_name(policy) {
        return Written::read(policy);
    }
    discovery::named(person, policy).or_else(|unknown| {
        let read = Written::read(policy);
        let missing = |error: &anyhow::Error| {
            let cause = error.root_cause().downcast_ref::<io::Error>();
            cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
        };
        read.map_err(|error| if missing(&error) { unknown } else { error })
    })
}
