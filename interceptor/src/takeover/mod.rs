//! One daemon takes over another's sandboxes without refusing a connection (`ARCHITECTURE.md`,
//! "Takeover").
//!
//! The new daemon asks over the old one's control socket, which then switches to this protocol:
//! length-prefixed JSON messages with descriptors beside them (SCM_RIGHTS, unix(7)):
//!
//! ```text
//!  new                                old
//!  Hello ───────────────────────────▶         nothing is made, changed or removed from now on
//!        ◀─────────────────────────── Begin   and the listeners of control socket and page
//!        ◀─────────────────────────── Set     one a set of programs, with the maps
//!        ◀─────────────────────────── Member  one a sandbox, with its listeners
//!  Ready ───────────────────────────▶         accepts no more: connections wait in the queues
//!        ◀─────────────────────────── Names   of each sandbox, in parts; Paused after the last
//!  Serving ─────────────────────────▶         drains, and ends
//!        ◀─────────────────────────── Yours
//! ```
//!
//! The conversation stays open until the old daemon has ended, so that replacing a policy or
//! removing a sandbox also affects the connections it still drains: see `fleet::Predecessor`.
//!
//! If the new daemon dies or falls silent before `Serving`, the old one continues as if nothing had
//! happened. Both hold the same sockets, programs and maps, so there is never a moment without
//! them.

mod give;
mod take;

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::entrance::{EntranceError, HandedEntrance};
use crate::fleet::{FleetError, TextDigest};
use crate::ipc::SentPath;
use crate::proxy::{HandedNames, HandedSandbox};

pub(crate) use give::give;
pub(crate) use take::{connect, take};

/// The protocol name in the HTTP upgrade.
pub(crate) const PROTOCOL: &str = "interceptor-takeover";
/// The protocol version; raise it with every change.
const VERSION: u32 = 2;
/// How long each side waits for the other's next message. The new daemon compiles the policies in
/// that time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages from the new daemon.
#[derive(Debug, Serialize, Deserialize)]
enum TakeoverRequest {
    /// Sent first, so that incompatible versions change nothing.
    Hello { version: u32, layout: u32 },
    /// Everything is prepared.
    Ready,
    /// Every sandbox is being served here.
    Serving,
}

/// Messages from the old daemon.
#[derive(Debug, Serialize, Deserialize)]
enum TakeoverReply {
    /// Refused, with the reason.
    Refused(String),
    /// Announces what follows; carries the control socket's listener and, if there is a page, its
    /// two sockets.
    Begin {
        sets: usize,
        members: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page: Option<HandedEntrance>,
    },
    /// A program set; carries its maps.
    Set,
    /// A sandbox; carries its listeners and the lock of its pins.
    Member(Box<HandedMember>),
    /// Part of a sandbox's names and byte counts. `member` is its position in the order sent.
    Names { member: usize, names: HandedNames },
    /// All names are sent.
    Paused,
    /// The new daemon owns the sandboxes now.
    Yours,
}

/// A sandbox being handed over.
#[derive(Debug, Serialize, Deserialize)]
struct HandedMember {
    id: String,
    cgroup: SentPath,
    cgroup_id: u64,
    /// The trust directory.
    trust: SentPath,
    created: String,
    changed: String,
    /// The policy document, with a placeholder for each key.
    policy: Value,
    /// The file the document came from.
    source: Option<SentPath>,
    /// What the file held then; older daemons do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_text: Option<TextDigest>,
    proxy: HandedSandbox,
    /// Which program set is on its cgroup, by position in the order sent.
    set: usize,
    /// The pin directory, and the directory whose lock came along.
    pins: SentPath,
    base: SentPath,
    /// Whether there are listeners for IPv6.
    has_v6: bool,
}

/// Why a takeover failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    /// The connection broke or timed out.
    #[error("the other daemon is gone or silent: {0}")]
    Lost(#[from] io::Error),
    /// The other daemon refused.
    #[error("the other daemon does not hand its sandboxes over: {0}")]
    Refused(String),
    /// Protocol error.
    #[error("the other daemon broke the protocol: {0}")]
    Unexpected(&'static str),
    /// The page cannot be served.
    #[error("--page: {0}")]
    Page(EntranceError),
    /// A sandbox could not be taken over.
    #[error("sandbox {id} could not be taken over: {why}")]
    Member {
        /// Its id.
        id: String,
        /// Why.
        why: String,
    },
    /// The fleet cannot be handed over now.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}
