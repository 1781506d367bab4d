//! The programs: one entry point a hook, each a line over the module of its subject.
//!
//! All of them are attached to the cgroup of every sandbox, and tell the sandboxes apart by the
//! local storage of the cgroup they are attached to ([`maps::sandbox`]). What decides is
//! [`interceptor_ebpf::verdict`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "aya's macros make a public function of each entry point, without its documentation"
)]

mod connect;
mod context;
mod device;
mod dns;
mod flow;
mod listener;
mod maps;
mod peername;
mod socket;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext};

use crate::context::{Address, V4, V6};

/// What a hook returns to let the kernel go on.
const PASS: i32 = 1;
/// What a hook returns to fail the system call with `EPERM`, or to drop the packet.
const REFUSE: i32 = 0;

/// `connect(2)` to an IPv4 address, before the kernel looks at the address.
#[cgroup_sock_addr(connect4)]
pub fn interceptor_connect4(context: SockAddrContext) -> i32 {
    connect::connect(&Address::<V4>::new(context))
}

/// `connect(2)` to an IPv6 address, IPv4-mapped ones included.
#[cgroup_sock_addr(connect6)]
pub fn interceptor_connect6(context: SockAddrContext) -> i32 {
    connect::connect(&Address::<V6>::new(context))
}

/// `sendto`, `sendmsg`, `sendmmsg` with an address on an unconnected UDP socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn interceptor_sendmsg4(context: SockAddrContext) -> i32 {
    dns::send(&Address::<V4>::new(context))
}

/// The same to an IPv6 address. (A mapped one arrives at the IPv4 hook.)
#[cgroup_sock_addr(sendmsg6)]
pub fn interceptor_sendmsg6(context: SockAddrContext) -> i32 {
    dns::send(&Address::<V6>::new(context))
}

/// `recvfrom`, `recvmsg`, `recvmmsg` on a UDP socket that asks for the sender.
#[cgroup_sock_addr(recvmsg4)]
pub fn interceptor_recvmsg4(context: SockAddrContext) -> i32 {
    peername::show_original(&Address::<V4>::new(context))
}

/// The same on an IPv6 socket; the sender may be mapped IPv4.
#[cgroup_sock_addr(recvmsg6)]
pub fn interceptor_recvmsg6(context: SockAddrContext) -> i32 {
    peername::show_original(&Address::<V6>::new(context))
}

/// `getpeername(2)` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn interceptor_getpeername4(context: SockAddrContext) -> i32 {
    peername::show_original(&Address::<V4>::new(context))
}

/// `getpeername(2)` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn interceptor_getpeername6(context: SockAddrContext) -> i32 {
    peername::show_original(&Address::<V6>::new(context))
}

/// `socket(2)` of the families AF_INET and AF_INET6.
#[cgroup_sock(sock_create)]
pub fn interceptor_sock_create(context: SockContext) -> i32 {
    socket::create(&context)
}

/// The stations in the life of a TCP connection, at both of its ends.
#[sock_ops]
pub fn interceptor_sock_ops(context: SockOpsContext) -> u32 {
    flow::station(&context);
    1
}

/// Every packet that a socket of the cgroup sends, when its device is known.
#[cgroup_skb(egress)]
pub fn interceptor_egress(context: SkBuffContext) -> i32 {
    device::packet(&context)
}

/// Every packet that is about to reach a socket of the cgroup.
#[cgroup_skb(ingress)]
pub fn interceptor_ingress(context: SkBuffContext) -> i32 {
    device::packet(&context)
}

/// Never reached: the programs hold nothing that panics, and the verifier would refuse the loop.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers these programs call are for programs under a GPL-compatible licence only; the kernel
/// reads this section.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
