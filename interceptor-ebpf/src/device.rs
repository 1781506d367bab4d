//! The last wall: no packet of the sandbox leaves or arrives by another device than `lo`.
//!
//! Where the namespace has nothing but `lo` it never says no. Elsewhere (the host's namespace, a
//! container's with a link) it stops what no other hook sees: sockets from before the attach,
//! protocols nobody thought of, and whoever would call on the sandbox from outside. It reads no
//! packet, so fragments and extension headers are nothing to it.

use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::SkBuffContext;

use crate::context::read;
use crate::{PASS, REFUSE, maps};

/// `LOOPBACK_IFINDEX` of `include/net/flow.h`: in every namespace, `lo` is device 1.
const LOOPBACK_IFINDEX: u32 = 1;

/// Judges a packet by its device.
#[inline(always)]
pub(crate) fn packet(context: &SkBuffContext) -> i32 {
    // One rule for all hooks: what is not configured sends nothing, not even to itself.
    if maps::sandbox().is_none() {
        return REFUSE;
    }
    if read::<{ offset_of!(__sk_buff, ifindex) }>(context.as_ptr()) == LOOPBACK_IFINDEX {
        PASS
    } else {
        REFUSE
    }
}
