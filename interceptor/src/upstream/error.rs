//! Why connecting to an origin failed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use interceptor_policy::{Deny, Reason};

use super::attempts::list;
use super::proxy::ProxyProblem;

/// Why a connection to an origin failed. The text may be shown to the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The policy refuses every address of the host.
    #[error("{}", deny.message)]
    AddressDenied {
        /// The first address.
        address: IpAddr,
        /// The policy's refusal.
        deny: Box<Deny>,
    },
    /// The name does not exist.
    #[error("{host} does not exist (NXDOMAIN)")]
    NoSuchName {
        /// The name.
        host: String,
    },
    /// The name exists but has no address.
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
        /// The resolver's error.
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
        /// Each address dialled, with its error.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The upstream proxy opened no tunnel.
    #[error("the upstream proxy {proxy} {problem}")]
    Proxy {
        /// Its URL, which holds no credential.
        proxy: String,
        /// What it did instead.
        problem: ProxyProblem,
    },
    /// No address answered in time.
    #[error("{host} did not answer on port {port} within {} s", limit.as_secs_f32())]
    Timeout {
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
        /// The time limit.
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
            UpstreamError::Proxy { problem, .. } => problem.reason(),
            UpstreamError::LookupTimeout { .. } | UpstreamError::Timeout { .. } => {
                Reason::UpstreamTimeout
            }
        }
    }

    /// The policy's refusal, if the policy refused.
    pub fn deny(&self) -> Option<&Deny> {
        match self {
            UpstreamError::AddressDenied { deny, .. } => Some(deny),
            _ => None,
        }
    }
}
