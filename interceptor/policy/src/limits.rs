//! The ceilings of one sandbox, typed, with their defaults.

use std::time::Duration;

/// The ceilings of one sandbox. `None` means no ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at one time (`connections`, 1024).
    pub connections: u64,
    /// Requests in progress at one time (`requests`, 512).
    pub requests: u64,
    /// Bytes of a request head (`header_bytes`, 65536).
    pub header_bytes: u64,
    /// Header fields per request (`headers`, 128).
    pub headers: u64,
    /// Bytes of a request body (`body_bytes`).
    pub body_bytes: Option<u64>,
    /// How long a request head, or a TLS handshake, may take (`header_timeout_seconds`, 15).
    pub header_timeout: Duration,
    /// How long a connection may be without a request, an upload may stand still, or an answer may
    /// wait to be read (`idle_timeout_seconds`, 300).
    pub idle_timeout: Duration,
    /// How long the head of an answer, and each further part of it, may take
    /// (`response_timeout_seconds`, 1800).
    pub response_timeout: Duration,
    /// How long a tunnel or a WebSocket may be silent in both directions
    /// (`tunnel_idle_timeout_seconds`, 7440: RFC 5382, REQ-5).
    pub tunnel_idle_timeout: Duration,
    /// How long a connection may live (`total_timeout_seconds`).
    pub total_timeout: Option<Duration>,
    /// Sustained rate of certificate minting, per second (`mints_per_second`, 20).
    pub mints_per_second: u64,
    /// Burst of certificates before that rate applies (`mints_burst`, 200).
    pub mints_burst: u64,
    /// Requests per second to one host (`requests_per_second_per_host`).
    pub requests_per_second_per_host: Option<u64>,
    /// Bytes sent to one host over the sandbox's lifetime (`bytes_up_per_host`).
    pub bytes_up_per_host: Option<u64>,
    /// Audit records waiting to be written (`audit_backlog`, 8192).
    pub audit_backlog: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            requests: 512,
            header_bytes: 65_536,
            headers: 128,
            body_bytes: None,
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            response_timeout: Duration::from_secs(1800),
            tunnel_idle_timeout: Duration::from_secs(7440),
            total_timeout: None,
            mints_per_second: 20,
            mints_burst: 200,
            requests_per_second_per_host: None,
            bytes_up_per_host: None,
            audit_backlog: 8192,
        }
    }
}
