//! Reads kept runs.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, bail};
use interceptor_policy::{Catalogue, Policy};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde_json::Value;

use super::directory::{Directories, names, path_of};
use super::{MOST_POLICY, POLICY, RECORDS};
use crate::cli::person::Person;
use crate::cli::policy_file::describe;
use crate::files;

/// A run whose records are kept.
#[derive(Debug)]
pub(in crate::cli) struct PastRun {
    /// The file of its records, for messages.
    pub(in crate::cli) path: PathBuf,
    /// Its records.
    pub(in crate::cli) records: File,
    /// The name of its policy, for messages, and the document without its keys.
    policy: Option<(String, Value)>,
}

impl PastRun {
    /// The last run of the person who typed this command.
    ///
    /// # Errors
    /// If none is kept, or its records cannot be read.
    pub(in crate::cli) fn last() -> anyhow::Result<PastRun> {
        match PastRun::newest_first()?.next() {
            Some(run) => run,
            None => bail!(
                "no records of a run are kept for this user: `interceptor run` keeps them, except \
                 with --no-history"
            ),
        }
    }

    /// Every kept run, newest first.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(in crate::cli) fn newest_first()
    -> anyhow::Result<impl Iterator<Item = anyhow::Result<PastRun>>> {
        let person = Person::invoking()?;
        let found = person.act(|| match Directories::open(&person, false) {
            Ok(directories) => {
                let names = names(&directories.runs, RECORDS)?;
                Ok(Some((directories, names)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        let found = found.context("cannot read the records of past runs")?;
        Ok(found.into_iter().flat_map(move |(directories, names)| {
            let person = person.clone();
            names.into_iter().rev().map(move |name| {
                let run = person.act(|| PastRun::open(&directories, &name));
                run.with_context(|| format!("cannot read the records of the run {name}"))
            })
        }))
    }

    fn open(directories: &Directories, name: &str) -> io::Result<PastRun> {
        let records = regular(&directories.runs, name)?;
        let stem = name.strip_suffix(RECORDS).unwrap_or(name);
        // The records alone are still worth reading.
        let policy = read(&directories.policies, &format!("{stem}{POLICY}")).ok();
        let policy = policy.and_then(|mut kept| {
            let name = kept["name"].as_str()?.to_owned();
            Some((name, kept["document"].take()))
        });
        Ok(PastRun { path: path_of(&records), records, policy })
    }

    /// The policy that judged the run.
    ///
    /// # Errors
    /// If it was not kept, or is no longer valid, for example because a profile is gone.
    pub(in crate::cli) fn compiled(&self, catalogue: &Catalogue) -> anyhow::Result<Policy> {
        let again = "name the policy with --policy";
        let (name, document) = self
            .policy()
            .with_context(|| format!("the policy of this run was not kept: {again}"))?;
        if document.is_null() {
            bail!("the policy of this run ({name}) is the operator's, and was not kept: {again}");
        }
        let report = interceptor_policy::check(&document.to_string(), catalogue);
        report.policy.with_context(|| {
            let errors: Vec<String> = report.errors.iter().map(describe).collect();
            format!(
                "the policy of this run ({name}) is no longer valid: {}; {again}",
                errors.join("; ")
            )
        })
    }

    /// The policy that judged the run, without its keys, and its name.
    pub(in crate::cli) fn policy(&self) -> Option<(&str, &Value)> {
        self.policy.as_ref().map(|(name, document)| (name.as_str(), document))
    }
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<Value> {
    let mut text = Vec::new();
    regular(directory, name)?.take(MOST_POLICY as u64).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Opens a regular file; a symlink is refused.
pub(super) fn regular(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(files::unfit("it is not a regular file"));
    }
    Ok(file)
}
