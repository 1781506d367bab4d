//! `connect(2)`: TCP to the proxy, UDP port 53 to the resolver, nothing else anywhere.
//!
//! The kernel runs these hooks for a non-blocking connect, for TCP fast open (`sendto` with
//! `MSG_FASTOPEN`, and `TCP_FASTOPEN_CONNECT`) and for io_uring too; not for `connect` with
//! `AF_UNSPEC`, which only undoes a connection.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use interceptor_ebpf::layout::cause;
use interceptor_ebpf::verdict::{self, Verdict};
use interceptor_ebpf::{Endpoint, Redirection, Refusal, Sandbox};

use crate::context::{Address, Family};
use crate::maps::{self, HalfOpen};
use crate::socket::{IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM};
use crate::{PASS, REFUSE, listener};

/// Judges the destination of a `connect`.
#[inline(always)]
pub(crate) fn connect<F: Family>(address: &Address<F>) -> i32 {
    let Some(sandbox) = maps::sandbox() else { return REFUSE };
    let destination = address.get();
    match (address.socket_type(), address.protocol()) {
        (SOCK_STREAM, IPPROTO_TCP) => {
            let (verdict, cause) = tcp(sandbox, &destination);
            carry_out(address, sandbox, &destination, verdict, cause, listener::accepts)
        }
        (SOCK_DGRAM, IPPROTO_UDP) => {
            // To sort the addresses of a name, C libraries connect a datagram socket to each and
            // ask for its source (RFC 6724): at an address that stands for a name that says
            // nothing, and the look-up of the name has a record of its own.
            let cause = if destination.is_synthetic() { SILENT } else { cause::PROTOCOL };
            let verdict = verdict::udp(sandbox, &destination);
            carry_out(address, sandbox, &destination, verdict, cause, listener::resolves)
        }
        _ => {
            report(address, sandbox, &destination, cause::PROTOCOL);
            REFUSE
        }
    }
}

/// A refusal that is not reported.
const SILENT: u32 = 0;

/// TCP, with the maps the verdict asks, and why it is refused if it is.
#[inline(always)]
fn tcp(sandbox: &Sandbox, destination: &Endpoint) -> (Verdict, u32) {
    // A sandbox at its limit is refused here, where the caller learns of it; in `sock_ops` it could
    // only be left without a record.
    let below_limit = HalfOpen::of(sandbox.id)
        .is_some_and(|count| count.get() < u64::from(sandbox.half_open_limit));
    let verdict = verdict::tcp(
        sandbox,
        destination,
        || maps::covers(sandbox.denied, &destination.address),
        || maps::covers(sandbox.allowed_loopback, &loopback(destination)),
    );
    match verdict {
        Verdict::Redirect(_) if !below_limit => (Verdict::Refuse, cause::LIMIT),
        verdict => (verdict, cause::NETWORK),
    }
}

/// The loopback address that an unspecified one stands for.
#[inline(always)]
fn loopback(destination: &Endpoint) -> [u32; 4] {
    let mut address = destination.address;
    if address[3] == 0 {
        address[3] = if destination.is_v4() { 0x7f00_0001_u32.to_be() } else { 1_u32.to_be() };
    }
    address
}

/// Does to the socket and to the address in the call what was decided. `cause` is why, if it is
/// refused; `is_there` asks whether the interceptor is at the target.
#[inline(always)]
pub(crate) fn carry_out<F: Family>(
    address: &Address<F>,
    sandbox: &Sandbox,
    destination: &Endpoint,
    verdict: Verdict,
    cause: u32,
    is_there: impl FnOnce(*mut c_void, &Endpoint, &Sandbox) -> bool,
) -> i32 {
    let mut cause = cause;
    match verdict {
        Verdict::Leave => {
            // The socket may have been redirected before and then disconnected: its record must not
            // stick to this connection.
            maps::forget(address.socket());
            return PASS;
        }
        Verdict::Refuse => {}
        Verdict::Redirect(target) => {
            if (!sandbox.shares_netns() || is_there(address.context().as_ptr(), &target, sandbox))
                && maps::remember(address.socket(), &Redirection { original: *destination, target })
            {
                address.set(&target);
                return PASS;
            }
            cause = cause::UNSERVED;
        }
    }
    report(address, sandbox, destination, cause);
    log_refused(address, destination);
    REFUSE
}

/// Tells user space of a refusal, if it wants to hear of it.
#[inline(always)]
fn report<F: Family>(address: &Address<F>, sandbox: &Sandbox, destination: &Endpoint, cause: u32) {
    if sandbox.reports() && cause != SILENT {
        maps::report(&Refusal {
            sandbox: sandbox.id,
            cause,
            kind: address.socket_type(),
            protocol: address.protocol(),
            destination: *destination,
        });
    }
}

/// One debug event. Off unless user space asks for it at load, when the verifier removes it from
/// the programs.
#[inline(always)]
fn log_refused<F: Family>(address: &Address<F>, destination: &Endpoint) {
    debug!(
        address.context(),
        "refused protocol={} destination=[{:i}]:{}",
        address.protocol(),
        octets(destination),
        destination.port
    );
}

/// The bytes of an address, for the log.
#[inline(always)]
fn octets(endpoint: &Endpoint) -> [u8; 16] {
    // SAFETY: both are 16 bytes without invalid values; the words hold the bytes in memory order.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(endpoint.address) }
}
