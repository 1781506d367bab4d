//! Sandboxes under enforcement, one or many: what `attach` and `serve` do, and the part of it that `run` does too.
//!
//! [`Enforced`] is one cgroup with its kernel programs and its proxy. [`Fleet`] is the table of those that one daemon holds: made,
//! shown, given a new policy and removed while the others go on; sandboxes share the process and nothing else.
//!
//! Most of it waits for other processes and for the kernel: call it from threads that may be blocked, within a tokio runtime.

mod enforced;
mod error;
mod feed;
mod manager;
mod member;
mod pins;
mod place;
mod predecessor;
mod rules;
mod stale;
mod trust;
mod watch;

pub(crate) use enforced::{Enforced, Place};
pub(crate) use error::FleetError;
pub(crate) use feed::{Feed, Heard, Listener};
pub(crate) use manager::{Fleet, FleetOptions, NewSandbox};
pub(crate) use member::{Known, Member};
pub(crate) use pins::Pins;
pub(crate) use place::{Netns, Visit, check_id};
pub(crate) use predecessor::Predecessor;
pub(crate) use rules::{Rules, Source};
pub(crate) use stale::{Adopt, sweep};
