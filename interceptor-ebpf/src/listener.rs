//! Whether the interceptor still listens where a redirection leads.
//!
//! In a namespace that others share, the port of a dead interceptor is free for anybody to take,
//! and a sandbox would be led to whoever did. So there a redirection also asks for the socket at
//! its target, and wants the mark that user space puts on its own. In a private namespace only the
//! sandbox itself could take the port, and would speak to itself.

use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use interceptor_ebpf::{Endpoint, Sandbox};

use crate::maps;

/// `BPF_F_CURRENT_NETNS`: the namespace of the socket in the context.
const CURRENT_NETNS: u64 = u64::MAX;

/// A helper that finds a socket by its addresses.
type Lookup = unsafe fn(*mut c_void, *mut bpf_sock_tuple, u32, u64, u64) -> *mut bpf_sock;

/// The part of `struct bpf_sock_tuple` for IPv4: the far end, which is anybody, and the near one.
#[repr(C)]
struct Tuple4 {
    from: u32,
    to: u32,
    from_port: u16,
    to_port: u16,
}

/// The same for IPv6.
#[repr(C)]
struct Tuple6 {
    from: [u32; 4],
    to: [u32; 4],
    from_port: u16,
    to_port: u16,
}

/// Whether the TCP listener at `target` is the interceptor's.
#[inline(always)]
pub(crate) fn accepts(context: *mut c_void, target: &Endpoint, sandbox: &Sandbox) -> bool {
    is_own(context, target, sandbox, bpf_sk_lookup_tcp)
}

/// Whether the UDP socket at `target` is the interceptor's.
#[inline(always)]
pub(crate) fn resolves(context: *mut c_void, target: &Endpoint, sandbox: &Sandbox) -> bool {
    is_own(context, target, sandbox, bpf_sk_lookup_udp)
}

#[inline(always)]
fn is_own(context: *mut c_void, target: &Endpoint, sandbox: &Sandbox, lookup: Lookup) -> bool {
    let to_port = (target.port as u16).to_be();
    let find = |tuple: *mut c_void, size: usize| {
        // SAFETY: the tuple has the size that tells the helper its family, and lives beyond the
        // call.
        unsafe { lookup(context, tuple.cast(), size as u32, CURRENT_NETNS, 0) }
    };
    let socket = if target.is_v4() {
        let mut tuple = Tuple4 { from: 0, to: target.address[3], from_port: 0, to_port };
        find(ptr::from_mut(&mut tuple).cast(), size_of::<Tuple4>())
    } else {
        let mut tuple = Tuple6 { from: [0; 4], to: target.address, from_port: 0, to_port };
        find(ptr::from_mut(&mut tuple).cast(), size_of::<Tuple6>())
    };
    if socket.is_null() {
        return false;
    }
    let own = maps::is_own(socket.cast(), sandbox);
    // SAFETY: the reference that the lookup took.
    unsafe { bpf_sk_release(socket.cast()) };
    own
}
