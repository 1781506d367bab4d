//! What one sandbox asks a person, and the leases that answers have given.
//!
//! A request that is refused for want of a rule waits here, if the policy says so: as one of those
//! that ask the same question. An answer makes a [`Lease`] or a refusal. Nothing here judges a
//! request, and no lease outlives its time or its uses.

mod decide;
mod desk;
pub(crate) mod feed;
mod handed;
mod lease;
mod question;
#[cfg(test)]
mod races;
mod scope;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use decide::{Answer, DecideError, LeaseError, Terms};
pub(crate) use desk::{Desk, MOST_WAITING, Seat, Waiting};
pub(crate) use handed::HandedLease;
pub(crate) use lease::Lease;
pub(crate) use question::{AskError, Asked, Verdict};
pub(crate) use scope::{LeaseScope, ScopeError};
pub(crate) use view::{ApprovalEvent, LeaseView, QuestionView};
