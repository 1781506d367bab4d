//! What `run` keeps for its user: the audit records of the last runs, and the policy of each, so
//! that later commands need neither a path nor sudo.
//!
//! Both are below `$XDG_STATE_HOME/interceptor`, which no sandbox can see. Everything there is
//! opened with the user's rights and without following symlinks.

mod directory;
mod document;
mod keeper;
mod options;
mod past;
#[cfg(test)]
mod tests;

use directory::keep;
pub(super) use directory::{child, make_state_directory, state};
pub(super) use document::{kept_document, kept_policy};
use keeper::Keeper;
pub(super) use options::{History, hidden_state};
pub(super) use past::PastRun;

/// The records of runs, one file each.
const RUNS: &str = "runs";
/// The policies of runs, without keys, one file each.
const POLICIES: &str = "run-policies";
/// How many runs are kept.
const MOST_RUNS: usize = 20;
/// How many bytes of a run's records are kept.
const MOST_BYTES: u64 = 32 << 20;
/// The largest policy that is kept, in bytes.
const MOST_POLICY: usize = 4 << 20;
/// The suffix of a file of records.
const RECORDS: &str = ".jsonl";
/// The suffix of a policy.
const POLICY: &str = ".json";
