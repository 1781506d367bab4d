//! Access control for a connection over loopback, where the kernel names no process: its socket
//! must have been made outside every sandbox.
//!
//! A sandbox's own connections never get here: the kernel redirects them to its proxy, and no proxy
//! dials a page. This is for sockets from before a sandbox was made around their process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::peer::{UNKNOWN, mount, outside_at};
use crate::fleet::Fleet;
use crate::kernel;
use crate::sandbox::cgroup;

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct SocketPeer {
    peer: SocketAddr,
    own: SocketAddr,
    /// The cgroup that its socket was made in and its user, once they are known.
    owner: OnceLock<(PathBuf, u32)>,
}

impl SocketPeer {
    /// The other end of an accepted connection.
    pub(crate) fn new(peer: SocketAddr, own: SocketAddr) -> SocketPeer {
        SocketPeer { peer, own, owner: OnceLock::new() }
    }

    /// Whether it is outside every sandbox now. Blocks briefly.
    ///
    /// # Errors
    /// Why it is not, or why that cannot be told.
    pub(crate) fn outside(&self, fleet: &Fleet) -> Result<(), &'static str> {
        let mount = mount()?;
        let (path, _) = match self.owner.get() {
            Some(owner) => owner,
            None => {
                let found = kernel::owner_of(self.peer, self.own)
                    .and_then(|owner| Ok((cgroup::find(&mount, owner.cgroup)?, owner.uid)))
                    .inspect_err(|error| tracing::debug!(%error, "cannot look at a socket"));
                let (path, uid) = found.map_err(|_| UNKNOWN)?;
                let path = path.ok_or(UNKNOWN)?;
                self.owner.get_or_init(|| (path, uid))
            }
        };
        outside_at(&mount, path, &fleet.cgroups())
    }

    /// Its user, once [`Self::outside`] has looked at it.
    pub(crate) fn uid(&self) -> Option<u32> {
        self.owner.get().map(|(_, uid)| *uid)
    }
}
