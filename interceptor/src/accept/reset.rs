//! Ends a connection with an error.

use tokio::net::TcpStream;

/// Closes with a reset, so that the sandbox sees an error and not an empty response.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "cannot reset the connection; closing it");
    }
}
