//! Sandboxes under enforcement, one or many: all of `attach` and `serve`, and a part of `run`.
//!
//! [`Enforced`] is one cgroup with its kernel programs and its proxy. [`Fleet`] holds a daemon's
//! sandboxes, which are created, shown, changed and removed independently; they share the process
//! and nothing else.
//!
//! Most functions wait for processes or the kernel: call them within a tokio runtime, from threads
//! that may block.

mod approvals;
mod enforced;
mod error;
mod exhausted;
mod feed;
mod manager;
mod member;
mod pins;
mod place;
mod policy_edit;
mod policy_files;
mod predecessor;
mod reload;
mod rules;
mod run;
mod stale;
mod succession;
mod text_digest;
mod trust;
mod watch;

pub(crate) use approvals::{
    Answer, ApprovalEvent, DecideError, LeaseError, LeaseView, QuestionView, ScopeError, Terms,
};
pub(crate) use enforced::{CgroupTarget, Enforced};
pub(crate) use error::FleetError;
pub(crate) use feed::{Feed, FeedEvent, FeedView};
pub(crate) use manager::{Fleet, FleetOptions, NewSandbox};
pub(crate) use member::{Member, MemberDescription, RunDescription};
pub(crate) use pins::Pins;
pub(crate) use place::{Netns, Visit, check_id};
pub(crate) use policy_edit::{EditError, PolicyEdit};
pub(crate) use policy_files::{DaemonsFiles, PolicyFiles};
pub(crate) use predecessor::Predecessor;
pub(crate) use rules::{Compiling, GivenPolicies, LoadedPolicy, Source, hide_keys, without_keys};
pub(crate) use stale::{Adopt, sweep};
pub(crate) use text_digest::TextDigest;
