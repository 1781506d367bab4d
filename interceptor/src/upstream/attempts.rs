//! Failed attempts to connect, in words.

use std::io;
use std::net::SocketAddr;

/// Each address with its error.
pub(super) fn list(attempts: &[(SocketAddr, io::Error)]) -> String {
    let each: Vec<String> =
        attempts.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    each.join("; ")
}
