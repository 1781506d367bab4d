//! The pure core: a policy document becomes a compiled [`Policy`], and a request becomes a [`Decision`].
//!
//! Nothing here does I/O, is async, reads a clock or the environment, or knows TLS types.

mod decision;
mod request;

pub use decision::{Allow, CredentialId, Decision, Deny, Filter, NearMiss, Reason, Rule};
pub use request::{Request, Scheme};

/// to be replaced by the policy work
#[derive(Debug)]
pub struct Host;
/// to be replaced by the policy work
#[derive(Debug)]
pub struct Policy;
