//! Runs of ordinary users: the members of a group, for whom the daemon makes sandboxes.
//!
//! Four processes take part. The member's own `run` (`client`) finds out with the member's rights
//! all that a run needs to know, and has the terminal. The process that accepts its connection
//! (`door`) learns from the kernel who that is, and reads nothing. One process for each sandbox
//! (`supervisor`) reads the request, judges what the member may have, and goes the way of `run`
//! by root. The daemon itself (`daemon`) only starts the second, before it gives up its rights.

pub(super) mod access;
mod client;
mod daemon;
mod deadline;
pub mod door;
mod judged;
mod peer;
mod relay;
mod request;
pub mod supervisor;
mod wire;

pub(super) use client::{Connection, connect, typed};
pub(super) use daemon::open;
pub(super) use request::{Asking, Judged};
