//! UDP without `connect`: datagrams to port 53 go to the resolver, of which [`crate::peername`]
//! hides the answer's source.
//!
//! A socket remembers the last server it was sent to, which is enough for a client that asks
//! several servers the same question on one socket and takes the first answer from any of them
//! (musl does).

use interceptor_ebpf::layout::cause;
use interceptor_ebpf::verdict::{self, Verdict};

use crate::context::{Address, Family};
use crate::{PASS, REFUSE, connect, listener, maps};

/// Judges the destination of a datagram.
#[inline(always)]
pub(crate) fn send<F: Family>(address: &Address<F>) -> i32 {
    let Some(sandbox) = maps::sandbox() else { return REFUSE };
    if maps::is_own(address.socket(), sandbox) {
        return PASS;
    }
    let destination = address.get();
    // `send` on an IPv6 socket that is connected to a mapped address comes here with the address
    // `connect` was given, which is the resolver's: redirected already, and the record must stay.
    if maps::remembered(address.socket())
        .is_some_and(|redirection| redirection.target == destination)
    {
        return PASS;
    }
    match verdict::udp(sandbox, &destination) {
        // The record stays: a socket may be connected to a resolver and send to its own loopback
        // too.
        Verdict::Leave => PASS,
        verdict => connect::carry_out(
            address,
            sandbox,
            &destination,
            verdict,
            cause::PROTOCOL,
            listener::resolves,
        ),
    }
}
