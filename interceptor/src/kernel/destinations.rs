//! Looks up the original destination of an accepted connection by its socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use aya::maps::MapError;

use super::maps::Maps;
use crate::seam::Destinations;

/// Reads the socket storage of accepted sockets.
pub(super) struct Accepted(pub(super) Arc<Maps>);

impl Destinations for Accepted {
    fn original(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
        self.0.accepted(socket).map_err(|error| match error {
            MapError::SyscallError(error) => error.io_error,
            error => io::Error::other(error),
        })
    }
}
