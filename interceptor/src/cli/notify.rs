//! Reports the daemon's state to the service manager (sd_notify(3)), if there is one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable with the service manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Sends a state, one `NAME=value` per line. Failure to deliver it is only logged.
pub(super) fn notify(state: &str) {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify the service manager: {state}");
    }
}

/// For `RELOADING=1`: systemd needs the monotonic time in microseconds.
pub(super) fn reloading() -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let microseconds = now.map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000);
    format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")
}
