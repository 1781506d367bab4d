//! `socket(2)`: TCP and UDP; no other protocol of the internet families can be redirected, so none
//! is made.
//!
//! Raw, ICMP ("ping"), UDP-Lite, SCTP, DCCP, MPTCP and SMC sockets fail with `EPERM` here; where
//! the kernel lacks the protocol it says so itself (`EPROTONOSUPPORT`) before the hook. Families
//! beside AF_INET and AF_INET6 have no such hook: the launcher's seccomp filter is for them.

use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SockContext;
use aya_log_ebpf::debug;
use interceptor_ebpf::layout::cause;
use interceptor_ebpf::{Endpoint, Refusal};

use crate::context::read;
use crate::{PASS, REFUSE, maps};

/// `SOCK_STREAM`, from `include/linux/net.h`.
pub(crate) const SOCK_STREAM: u32 = 1;
/// `SOCK_DGRAM`, from `include/linux/net.h`.
pub(crate) const SOCK_DGRAM: u32 = 2;
/// `IPPROTO_TCP`, from `include/uapi/linux/in.h`.
pub(crate) const IPPROTO_TCP: u32 = 6;
/// `IPPROTO_UDP`, from `include/uapi/linux/in.h`.
pub(crate) const IPPROTO_UDP: u32 = 17;

/// Judges a new socket.
#[inline(always)]
pub(crate) fn create(context: &SockContext) -> i32 {
    let Some(sandbox) = maps::sandbox() else { return REFUSE };
    let socket = context.as_ptr();
    let kind = read::<{ offset_of!(bpf_sock, type_) }>(socket);
    let protocol = read::<{ offset_of!(bpf_sock, protocol) }>(socket);
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) | (SOCK_DGRAM, IPPROTO_UDP) => PASS,
        _ => {
            if sandbox.reports() {
                maps::report(&Refusal {
                    sandbox: sandbox.id,
                    cause: cause::SOCKET,
                    kind,
                    protocol,
                    destination: Endpoint::default(),
                });
            }
            debug!(context, "refused socket type={} protocol={}", kind, protocol);
            REFUSE
        }
    }
}
