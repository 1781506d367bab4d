//! One daemon takes the sandboxes of another over, and no connection is refused meanwhile (`ARCHITECTURE.md`, "Hand-over").
//!
//! The new daemon asks over the control socket of the old one; what follows there is this conversation, one JSON message with its
//! length before it at a time, descriptors beside it (SCM_RIGHTS, unix(7)):
//!
//! ```text
//!  new                                old
//!  Hello ───────────────────────────▶         nothing is made, changed or removed from now on
//!        ◀─────────────────────────── Begin   and the control socket's listener
//!        ◀─────────────────────────── Set     one a set of programs, with the maps
//!        ◀─────────────────────────── Member  one a sandbox, with its listeners
//!  Ready ───────────────────────────▶         accepts no more: what comes waits in the listeners' queues
//!        ◀─────────────────────────── Names   of each sandbox, in parts; Paused after the last
//!  Serving ─────────────────────────▶         drains, and ends
//!        ◀─────────────────────────── Yours
//! ```
//!
//! Then the conversation stays open until the old daemon has ended, so that a policy that is replaced, or a sandbox that is removed, is
//! so for every connection: see `fleet::Predecessor`.
//!
//! If the new one is gone or silent before `Serving`, the old one goes on as if nothing had been. The listeners are the same
//! sockets in both, the programs and maps in the kernel the same objects; so there is no moment without either.

mod give;
mod take;

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fleet::FleetError;
use crate::ipc::SentPath;
use crate::proxy::{HandedNames, HandedSandbox};

pub(crate) use give::give;
pub(crate) use take::{connect, take};

/// What the connection switches to.
pub(crate) const PROTOCOL: &str = "interceptor-takeover";
/// The version of the conversation, to be raised with every change of it.
const VERSION: u32 = 1;
/// How long each side waits for the other's next word. The new daemon has policies to compile in that time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the new daemon says.
#[derive(Debug, Serialize, Deserialize)]
enum Asks {
    /// First, so that two that do not understand each other change nothing.
    Hello { version: u32, layout: u32 },
    /// Everything is prepared.
    Ready,
    /// Every sandbox is being served.
    Serving,
}

/// What the old daemon says.
#[derive(Debug, Serialize, Deserialize)]
enum Tells {
    /// Not now, and why.
    Refused(String),
    /// What follows. The listener of the control socket comes along.
    Begin { sets: usize, members: usize },
    /// The maps of a set of programs come along.
    Set,
    /// A sandbox. Its listeners come along, and the lock of its pins.
    Member(Box<HandedMember>),
    /// A part of the names and accounts of a sandbox, which is counted as it came.
    Names { member: usize, names: HandedNames },
    /// The last of them was told.
    Paused,
    /// The sandboxes are the new daemon's.
    Yours,
}

/// A sandbox on its way.
#[derive(Debug, Serialize, Deserialize)]
struct HandedMember {
    id: String,
    cgroup: SentPath,
    cgroup_id: u64,
    /// The directory with what its programs trust.
    trust: SentPath,
    created: String,
    changed: String,
    /// The document, with something in the place of each key that stood in it.
    policy: Value,
    /// The file that the document is in.
    source: Option<SentPath>,
    proxy: HandedSandbox,
    /// Which set of programs is on its cgroup, counted as they came.
    set: usize,
    /// Where they are pinned, and the directory that is locked.
    pins: SentPath,
    base: SentPath,
    /// Whether there are listeners for IPv6.
    has_v6: bool,
}

/// Why sandboxes were not handed over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    /// The conversation broke off.
    #[error("the other daemon is gone or silent: {0}")]
    Lost(#[from] io::Error),
    /// It says no.
    #[error("the other daemon does not hand its sandboxes over: {0}")]
    Refused(String),
    /// It says something out of turn, or that cannot be.
    #[error("the other daemon said what was not expected: {0}")]
    Unexpected(&'static str),
    /// A sandbox could not be taken over.
    #[error("sandbox {id} could not be taken over: {why}")]
    Member {
        /// Its id.
        id: String,
        /// Why.
        why: String,
    },
    /// The fleet is not to be handed over now.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}
