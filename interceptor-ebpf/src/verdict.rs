//! What becomes of a destination. The `connect` and `sendmsg` hooks of both families call these two
//! functions and nothing else decides; what they need from maps they ask through closures, so that
//! the host can test every case.

use crate::{Endpoint, Sandbox};

/// The port that reaches the resolver, whatever the address.
pub const DNS_PORT: u32 = 53;

/// What a hook does with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sandbox's own loopback: not ours to touch.
    Leave,
    /// `EPERM`.
    Refuse,
    /// Remember the destination and go there instead.
    Redirect(Endpoint),
}

/// TCP: every destination goes to the proxy, but the sandbox's own loopback, and what a deny
/// network covers.
///
/// Port 53 goes to the proxy on loopback too: a resolver that answers on 127.0.0.53 is not a way
/// round. A synthetic address stands for a name, which user space judges, so no network rule
/// applies to it. In a shared namespace loopback is the host's: what a rule allows goes to the
/// proxy, which also judges the port and dials.
#[inline(always)]
pub fn tcp(
    sandbox: &Sandbox,
    destination: &Endpoint,
    denied: impl FnOnce() -> bool,
    loopback_allowed: impl FnOnce() -> bool,
) -> Verdict {
    let redirect = if destination.port == DNS_PORT {
        true
    } else if destination.is_loopback() {
        if !sandbox.shares_netns() {
            return Verdict::Leave;
        }
        loopback_allowed() && !denied()
    } else {
        destination.is_synthetic() || !denied()
    };
    if redirect {
        to(if destination.is_v4() { sandbox.tcp4 } else { sandbox.tcp6 })
    } else {
        Verdict::Refuse
    }
}

/// UDP: port 53 goes to the resolver, the sandbox's own loopback is left alone, everything else is
/// refused.
#[inline(always)]
pub fn udp(sandbox: &Sandbox, destination: &Endpoint) -> Verdict {
    if destination.port == DNS_PORT {
        to(if destination.is_v4() { sandbox.dns4 } else { sandbox.dns6 })
    } else if destination.is_loopback() && !sandbox.shares_netns() {
        Verdict::Leave
    } else {
        Verdict::Refuse
    }
}

/// Redirects to a listener that exists; a family without one is refused.
#[inline(always)]
fn to(target: Endpoint) -> Verdict {
    if target.is_some() { Verdict::Redirect(target) } else { Verdict::Refuse }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::SHARED_NETNS;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::from(text.parse::<core::net::SocketAddr>().unwrap())
    }

    fn sandbox(flags: u32) -> Sandbox {
        Sandbox {
            id: 1,
            tcp4: endpoint("127.0.0.1:1001"),
            tcp6: endpoint("[::1]:1002"),
            dns4: endpoint("127.0.0.1:1003"),
            dns6: endpoint("[::1]:1004"),
            flags,
            ..Sandbox::default()
        }
    }

    fn redirect(text: &str) -> Verdict {
        Verdict::Redirect(endpoint(text))
    }

    #[test]
    fn tcp_is_judged_by_namespace_port_and_network() {
        use Verdict::{Leave, Refuse};
        let (v4, v6) = (redirect("127.0.0.1:1001"), redirect("[::1]:1002"));
        // destination, denied, loopback allowed, verdict in a private namespace, verdict in a
        // shared one
        let table = [
            ("192.0.2.1:443", false, false, v4, v4),
            ("[2001:db8::1]:443", false, false, v6, v6),
            ("[::ffff:192.0.2.1]:443", false, false, v4, v4),
            ("192.0.2.1:443", true, false, Refuse, Refuse),
            ("[::ffff:192.0.2.1]:443", true, true, Refuse, Refuse),
            ("198.18.0.1:443", true, false, v4, v4),
            ("[2001:2::1]:443", true, false, v6, v6),
            ("127.0.0.1:80", false, false, Leave, Refuse),
            ("127.0.0.1:80", false, true, Leave, v4),
            ("127.0.0.1:80", true, true, Leave, Refuse),
            ("[::1]:80", false, true, Leave, v6),
            ("0.0.0.0:80", false, false, Leave, Refuse),
            ("[::]:80", false, false, Leave, Refuse),
            ("127.0.0.53:53", true, false, v4, v4),
            ("[::1]:53", false, false, v6, v6),
            ("192.0.2.1:53", true, false, v4, v4),
            ("224.0.0.1:443", false, false, v4, v4),
        ];
        for (text, denied, allowed, private, shared) in table {
            for (flags, expected) in [(0, private), (SHARED_NETNS, shared)] {
                let verdict = tcp(&sandbox(flags), &endpoint(text), || denied, || allowed);
                assert_eq!(
                    verdict, expected,
                    "{text} denied={denied} allowed={allowed} flags={flags}"
                );
            }
        }
    }

    #[test]
    fn udp_reaches_the_resolver_or_the_own_loopback() {
        use Verdict::{Leave, Refuse};
        let (v4, v6) = (redirect("127.0.0.1:1003"), redirect("[::1]:1004"));
        let table = [
            ("192.0.2.1:53", v4, v4),
            ("127.0.0.53:53", v4, v4),
            ("[::ffff:192.0.2.1]:53", v4, v4),
            ("[2001:db8::1]:53", v6, v6),
            ("192.0.2.1:443", Refuse, Refuse),
            ("198.18.0.1:443", Refuse, Refuse),
            ("[2001:db8::1]:443", Refuse, Refuse),
            ("224.0.0.251:5353", Refuse, Refuse),
            ("255.255.255.255:67", Refuse, Refuse),
            ("127.0.0.1:9", Leave, Refuse),
            ("[::1]:9", Leave, Refuse),
            ("0.0.0.0:9", Leave, Refuse),
        ];
        for (text, private, shared) in table {
            for (flags, expected) in [(0, private), (SHARED_NETNS, shared)] {
                assert_eq!(udp(&sandbox(flags), &endpoint(text)), expected, "{text} flags={flags}");
            }
        }
    }

    #[test]
    fn k2_a_family_without_a_listener_is_refused() {
        let mut sandbox = sandbox(0);
        sandbox.tcp6 = Endpoint::default();
        sandbox.dns6 = Endpoint::default();
        assert_eq!(
            tcp(&sandbox, &endpoint("[2001:db8::1]:443"), || false, || false),
            Verdict::Refuse
        );
        assert_eq!(udp(&sandbox, &endpoint("[2001:db8::1]:53")), Verdict::Refuse);
    }
}
