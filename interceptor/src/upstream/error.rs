//! Why an origin could not be connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use interceptor_policy::{Deny, Reason};

/// Why [`Upstream::connect`](super::Upstream::connect) failed. The text is fit for the refusal that the sandbox sees.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Every address of the host is one that the policy refuses.
    #[error("{}", deny.message)]
    AddressDenied {
        /// The first of its addresses.
        address: IpAddr,
        /// What the policy says of it.
        deny: Box<Deny>,
    },
    /// The name does not exist.
    #[error("{host} does not exist (NXDOMAIN)")]
    NoSuchName {
        /// The name.
        host: String,
    },
    /// The name exists and has no address.
    #[error("{host} has no address")]
    NoAddresses {
        /// The name.
        host: String,
    },
    /// The name could not be looked up.
    #[error("cannot look up {host}: {problem}")]
    Lookup {
        /// The name.
        host: String,
        /// What the resolver says.
        problem: String,
    },
    /// No name server answered in time.
    #[error("no name server answered for {host} in time")]
    LookupTimeout {
        /// The name.
        host: String,
    },
    /// No address could be connected to.
    #[error("cannot connect to {host}: {}", list(attempts))]
    Unreachable {
        /// The host asked for.
        host: String,
        /// Each address dialled, and what came of it.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// No address answered in time.
    #[error("{host} did not answer on port {port} within {} s", limit.as_secs_f32())]
    Timeout {
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
        /// How long was waited.
        limit: Duration,
    },
}

impl UpstreamError {
    /// The `type` of the refusal.
    pub fn reason(&self) -> Reason {
        match self {
            UpstreamError::AddressDenied { deny, .. } => deny.reason,
            UpstreamError::NoSuchName { .. }
            | UpstreamError::NoAddresses { .. }
            | UpstreamError::Lookup { .. }
            | UpstreamError::Unreachable { .. } => Reason::UpstreamUnreachable,
            UpstreamError::LookupTimeout { .. } | UpstreamError::Timeout { .. } => Reason::UpstreamTimeout,
        }
    }

    /// What the policy says, where it is the policy that refuses.
    pub fn deny(&self) -> Option<&Deny> {
        match self {
            UpstreamError::AddressDenied { deny, .. } => Some(deny),
            _ => None,
        }
    }
}

fn list(attempts: &[(SocketAddr, io::Error)]) -> String {
    let each: Vec<String> = attempts.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    each.join("; ")
}
