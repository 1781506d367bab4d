//! `getpeername`, and the sender that `recvfrom` shows: the address the sandbox asked for instead
//! of the one it got.

use crate::context::{Address, Family};
use crate::{PASS, maps};

/// Shows the original where the kernel shows the address a socket was sent to. Any other address
/// stays: the peers of the sandbox's own connections, and the clients that the interceptor's own
/// sockets accept.
#[inline(always)]
pub(crate) fn show_original<F: Family>(address: &Address<F>) -> i32 {
    if let Some(redirection) = maps::remembered(address.socket())
        && address.get() == redirection.target
    {
        address.set(&redirection.original);
    }
    PASS
}
