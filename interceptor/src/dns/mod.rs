//! Names and their synthetic addresses.
//!
//! The sandbox's only resolver. It answers every name with a synthetic address that stands for the
//! name, so that the following connection reveals its destination. Only the proxy resolves names,
//! when it dials. Few queries leave the host: for permitted names, whether they exist, and the few
//! record types that programs need; for other names, none.

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

pub(crate) use names::Names;
pub(crate) use server::{DnsOptions, DnsRules, DnsServer};
