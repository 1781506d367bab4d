//! What a member's `run`, the process that accepts its connection, and the process that makes the
//! sandbox say to each other, in messages of [`Channel`].
//!
//! Whatever comes from the member is a claim: who the member is, the kernel says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::access::{Grants, Rule};
use crate::cli::plan::Plan;
use crate::credential::HandedKeys;
use crate::ipc::{Secret, SentPath};
use crate::sandbox::handover::Channel;
use crate::sandbox::resources::{Bounded, Resources};
use crate::sandbox::rlimits::ResourceLimits;

/// The program's version: both ends must be of one.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A member's first message. Beside it come descriptors: the working directory, standard input,
/// output and error, a pipe for the records, and a terminal if there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The version of the member's program.
    pub(super) version: String,
    /// What to start.
    pub(super) plan: Plan,
    /// By which policy it is judged.
    pub(super) policy: Wanted,
    /// Files that the sandbox must not read, besides the policy's.
    pub(super) hidden: Vec<SentPath>,
    /// `--resolve`.
    pub(super) resolve: Vec<String>,
    /// The content of the files of `--upstream-ca`.
    pub(super) upstream_ca: Vec<String>,
    /// What is logged at the member's standard error.
    pub(super) log: Log,
    /// Whether the member's `run` is in the foreground of its terminal.
    pub(super) foreground: bool,
}

/// How many descriptors come with a request, without a terminal.
pub(super) const DESCRIPTORS: usize = 5;

/// The policy that a member wants.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wanted {
    /// The operator's policy of this name.
    Named {
        /// Its name.
        name: String,
        /// The member's secret for stable placeholders, in hexadecimal.
        secret: Option<Secret>,
    },
    /// The member's own.
    Own(Box<OwnPolicy>),
}

/// A policy that a member brings, with all that it names.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OwnPolicy {
    /// What messages call it.
    pub(super) name: String,
    /// The document; it may hold keys.
    pub(super) text: Secret,
    /// The hosts of the package registries that the member uses.
    pub(super) registries: Vec<String>,
    /// Its keys and their placeholders.
    pub(super) keys: HandedKeys,
    /// Variables that hold keys.
    pub(super) key_variables: Vec<String>,
    /// Files that the sandbox must not read.
    pub(super) hidden: Vec<SentPath>,
    /// Its file, and its text without keys.
    pub(super) shown: Option<(SentPath, String)>,
}

/// What is logged.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Log {
    /// As RUST_LOG.
    pub(super) filter: String,
    /// Whether lines are JSON objects.
    pub(super) json: bool,
}

/// A later message of a member.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    /// Sends the command, or its whole process group, a signal.
    Signal(i32, bool),
    /// Gives the command the terminal, and continues it.
    Lend,
}

/// A message to a member.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    /// The command is about to start.
    Starts {
        /// Variables that stay outside because the policy names no credential for them.
        withheld: Vec<String>,
        /// Variables that stay outside because they hold a key.
        with_key: Vec<String>,
        /// The address that lets a browser in to the page, if there is one.
        page: Option<Secret>,
    },
    /// Job control stopped the command with this signal.
    Stopped(i32),
    /// The command has ended.
    Ended {
        /// Its exit status.
        status: i32,
        /// The limits that it reached.
        reached: Vec<Bounded>,
    },
    /// Nothing was started, or the sandbox was ended: why.
    Failed(String),
}

/// What the process that accepts connections is told by the daemon; the listening socket comes
/// with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opening {
    /// The group whose members may connect.
    pub(super) group: u32,
    /// What they may do.
    pub(super) rules: Vec<Rule>,
    /// How many sandboxes there may be at once.
    pub(super) sandboxes: usize,
    /// The operator's options for each sandbox.
    pub(super) operator: Operator,
}

/// The options that the operator gave the daemon for every sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Operator {
    /// `--resolve`.
    pub(super) resolve: Vec<String>,
    /// `--upstream-ca`.
    pub(super) upstream_ca: Vec<PathBuf>,
    /// `--base-urls`.
    pub(super) base_urls: bool,
}

/// What the daemon tells it later.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Turn {
    /// Another daemon accepts connections now: the sandboxes go on to their ends.
    Over,
}

/// Who a member is, and what the member may do; the connection comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Admitted {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The supplementary groups of the process that connected.
    pub(super) groups: Vec<u32>,
    /// The limits of that process.
    pub(super) limits: ResourceLimits,
    /// What its cgroup may use.
    pub(super) bounds: Resources,
    pub(super) grants: Grants,
    pub(super) operator: Operator,
}

/// Tells a member something; one who does not listen misses it.
pub(super) fn tell(member: &Channel, event: &Event) {
    if let Err(error) = member.send(event, &[]) {
        tracing::debug!(%error, "a member cannot be told");
    }
}
