//! Names and their synthetic addresses.
//!
//! A sandbox's only resolver. It answers every name it is asked for with a synthetic address that stands for that name, so
//! that the connection which follows says where it is going; the proxy alone resolves names, when it dials. What leaves the
//! host is bounded: for a name that the policy permits, whether it exists, and the few record types that programs need;
//! for any other name, nothing.

mod answer;
mod budget;
mod ledger;
mod names;
mod question;
mod recall;
mod server;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use names::Names;
pub use server::{DnsOptions, DnsServer, Rules};
