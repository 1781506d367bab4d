//! What `run` starts: everything learnt with the caller's own rights, as plain data. The process
//! that makes the sandbox need not open any of the caller's paths to learn it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use serde::{Deserialize, Serialize};

use super::bounds::Bound;
use crate::ipc::{SentPath, Strings};
use crate::sandbox::handover::Secrets;
use crate::sandbox::resources::{self, Bounded, Resources};

/// A limit that the caller may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Asked {
    /// Not set.
    Usual,
    /// `none`.
    Unlimited,
    /// A number.
    Most(u64),
    /// A number that the caller did not choose.
    AtMost(u64),
}

/// A run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The id of the sandbox.
    pub(super) id: String,
    /// Whether it has a network namespace of its own.
    pub(super) isolated: bool,
    /// Whether user namespaces work inside.
    pub(super) nesting: bool,
    /// `--pids-limit`.
    pub(super) processes: Asked,
    /// `--memory`.
    pub(super) memory: Asked,
    /// The command and its arguments.
    pub(super) command: Strings,
    /// The caller's environment, `NAME=value` each.
    pub(super) environment: Strings,
    /// The variables that options pass or set.
    pub(super) given: Strings,
    /// The working directory.
    pub(super) directory: SentPath,
    /// The signals that the command ignores; `None` for those of the process that starts it.
    pub(super) ignored: Option<Vec<i32>>,
    /// The umask of the command; `None` keeps that of the process that starts it.
    pub(super) umask: Option<u32>,
    /// Whether services get base URLs.
    pub(super) base_urls: bool,
    /// Whether warnings are suppressed.
    pub(super) quiet: bool,
    /// Whether there is a page.
    pub(super) page: bool,
    /// Bundles of roots that the sandbox's CA is added to, symlinks resolved.
    pub(super) bundles: Vec<SentPath>,
    /// Whether to look for the bundles of packages.
    pub(super) search_bundles: bool,
    /// Directories to hide.
    pub(super) hidden_directories: Vec<SentPath>,
    /// What to hide of home directories.
    pub(super) secrets: Secrets,
}

impl Asked {
    /// From an option.
    pub(super) fn of(option: Option<Bound>) -> Asked {
        match option {
            None => Asked::Usual,
            Some(Bound(None)) => Asked::Unlimited,
            Some(Bound(Some(most))) => Asked::Most(most),
        }
    }

    fn or(self, usual: Option<u64>) -> Option<u64> {
        match self {
            Asked::Usual => usual,
            Asked::Unlimited => None,
            Asked::Most(most) | Asked::AtMost(most) => Some(most),
        }
    }
}

impl Plan {
    /// The limits of the sandbox.
    pub(super) fn resources(&self) -> Resources {
        resources_asked(self.processes, self.memory)
    }

    /// The default limits of a sandbox.
    pub(super) fn usual_resources() -> Resources {
        Resources { processes: Some(resources::PROCESSES), memory: resources::most_memory() }
    }

    /// Whether the caller set this limit.
    pub(super) fn is_asked(&self, resource: Bounded) -> bool {
        let asked = match resource {
            Bounded::Processes => self.processes,
            Bounded::Memory => self.memory,
        };
        matches!(asked, Asked::Unlimited | Asked::Most(_))
    }

    /// The caller's variables.
    pub(super) fn variables(&self) -> Vec<(OsString, OsString)> {
        let split = |line: &OsString| {
            let bytes = line.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
            let (name, value) = (bytes[..at].to_vec(), bytes[at + 1..].to_vec());
            Some((OsString::from_vec(name), OsString::from_vec(value)))
        };
        self.environment.0.iter().filter_map(split).collect()
    }
}

/// The limits of a sandbox, given what the caller asked for.
pub(super) fn resources_asked(processes: Asked, memory: Asked) -> Resources {
    let usual = Plan::usual_resources();
    Resources { processes: processes.or(usual.processes), memory: memory.or(usual.memory) }
}

/// Variables as lines, `NAME=value` each.
pub(super) fn lines(variables: Vec<(OsString, OsString)>) -> Strings {
    let line = |(mut line, value): (OsString, OsString)| {
        line.push("=");
        line.push(value);
        line
    };
    Strings(variables.into_iter().map(line).collect())
}
