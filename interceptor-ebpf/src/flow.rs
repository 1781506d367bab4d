//! How an original destination gets from the client's socket to the accepted one.
//!
//! `connect` leaves it in the client socket's storage. When the client's addresses are settled
//! (TCP_CONNECT_CB, before the first SYN) it goes into FLOWS; when the listener's side is
//! established (PASSIVE_ESTABLISHED_CB, before `accept` can return it, fast open included) it goes
//! from there into the accepted socket's storage. Between the two the client may close: then
//! STATE_CB removes it. Both ends run this program for the same sandbox, since the listener lives
//! in the sandbox's cgroup; another sandbox's end has another key.

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use interceptor_ebpf::{Endpoint, Flow};

use crate::context::{read, read_pointer};
use crate::maps;

/// What happens at one station.
#[inline(always)]
pub(crate) fn station(context: &SockOpsContext) {
    let Some(sandbox) = maps::sandbox() else { return };
    match read::<{ offset_of!(bpf_sock_ops, op) }>(context.as_ptr()) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opened(context, sandbox.id),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(context, sandbox.id),
        BPF_SOCK_OPS_STATE_CB => {
            // The second argument is the new state.
            if read::<{ offset_of!(bpf_sock_ops, __bindgen_anon_1) + 4 }>(context.as_ptr())
                == BPF_TCP_CLOSE
            {
                maps::close_flow(&flow(sandbox.id, context, local(context), remote(context)));
            }
        }
        _ => {}
    }
}

/// A client is about to send its SYN.
#[inline(always)]
fn opened(context: &SockOpsContext, sandbox: u64) {
    let Some(socket) = socket(context) else { return };
    let Some(redirection) = maps::remembered(socket) else { return };
    let server = remote(context);
    if server != redirection.target {
        return;
    }
    // First the promise to clean up, then the entry.
    if context.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32).is_err() {
        return;
    }
    maps::open_flow(&flow(sandbox, context, local(context), server), &redirection.original);
}

/// A listener has a new connection.
#[inline(always)]
fn accepted(context: &SockOpsContext, sandbox: u64) {
    let Some(socket) = socket(context) else { return };
    let key = flow(sandbox, context, remote(context), local(context));
    match maps::flow(&key) {
        Some(original) => {
            maps::hand_over(socket, &original);
            maps::close_flow(&key);
        }
        None => debug!(context, "accepted without a record, port={}", key.server_port),
    }
}

/// The key of a connection.
#[inline(always)]
fn flow(sandbox: u64, context: &SockOpsContext, client: Endpoint, server: Endpoint) -> Flow {
    // SAFETY: the helper takes the context.
    let netns = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
    Flow {
        sandbox,
        netns,
        client: client.address,
        server: server.address,
        client_port: client.port,
        server_port: server.port,
    }
}

/// The socket, which is not there for callbacks about a connection request.
#[inline(always)]
fn socket(context: &SockOpsContext) -> Option<*mut c_void> {
    let socket = read_pointer::<{ offset_of!(bpf_sock_ops, __bindgen_anon_2) }>(context.as_ptr());
    if socket.is_null() { None } else { Some(socket) }
}

/// The socket's own address.
#[inline(always)]
fn local(context: &SockOpsContext) -> Endpoint {
    let port = read::<{ offset_of!(bpf_sock_ops, local_port) }>(context.as_ptr());
    let address = if speaks_v4(context) {
        Endpoint::v4(read::<{ offset_of!(bpf_sock_ops, local_ip4) }>(context.as_ptr()), 0).address
    } else {
        words::<
            { offset_of!(bpf_sock_ops, local_ip6) },
            { offset_of!(bpf_sock_ops, local_ip6) + 4 },
            { offset_of!(bpf_sock_ops, local_ip6) + 8 },
            { offset_of!(bpf_sock_ops, local_ip6) + 12 },
        >(context)
    };
    Endpoint { address, port }
}

/// The other end's address.
#[inline(always)]
fn remote(context: &SockOpsContext) -> Endpoint {
    // The kernel shows this port, alone of the two, in network order in a 32-bit word.
    let port = u32::from_be(read::<{ offset_of!(bpf_sock_ops, remote_port) }>(context.as_ptr()));
    let address = if speaks_v4(context) {
        Endpoint::v4(read::<{ offset_of!(bpf_sock_ops, remote_ip4) }>(context.as_ptr()), 0).address
    } else {
        remote_words(context)
    };
    Endpoint { address, port }
}

/// The other end's IPv6 address.
#[inline(always)]
fn remote_words(context: &SockOpsContext) -> [u32; 4] {
    words::<
        { offset_of!(bpf_sock_ops, remote_ip6) },
        { offset_of!(bpf_sock_ops, remote_ip6) + 4 },
        { offset_of!(bpf_sock_ops, remote_ip6) + 8 },
        { offset_of!(bpf_sock_ops, remote_ip6) + 12 },
    >(context)
}

/// Whether packets are IPv4: an IPv4 socket, or an IPv6 one connected to a mapped address, whose
/// own address is not in mapped form yet when `connect` is under way.
#[inline(always)]
fn speaks_v4(context: &SockOpsContext) -> bool {
    const AF_INET: u32 = 2;
    read::<{ offset_of!(bpf_sock_ops, family) }>(context.as_ptr()) == AF_INET
        || Endpoint { address: remote_words(context), port: 0 }.is_v4()
}

/// Four words of the context.
#[inline(always)]
fn words<const A: usize, const B: usize, const C: usize, const D: usize>(
    context: &SockOpsContext,
) -> [u32; 4] {
    let context = context.as_ptr();
    [read::<A>(context), read::<B>(context), read::<C>(context), read::<D>(context)]
}
