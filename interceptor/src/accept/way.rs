//! Whether a connection may be tunnelled, and the way to its origin.

use interceptor_policy::{Decision, Deny, Host, HostName, Policy, Reason, Scheme};

use super::arrival::Arrival;
use crate::audit::Protocol;
use crate::http::refuse::deny::refusal;
use crate::proxy::budget::Allowance;
use crate::upstream::Dialed;

/// A connection to the origin of a tunnel, with how much may be sent to it, or why there is none.
pub(super) type DialResult = Result<(Dialed, Option<Allowance>), Box<Deny>>;

/// Connects to the origin of a tunnel.
pub(super) async fn find(arrival: &Arrival, host: &Host) -> DialResult {
    let policy = &arrival.rules.policy;
    let allowance = arrival
        .sandbox
        .budget
        .spend(host, 0, policy.limits())
        .map_err(|exceeded| refusal(Reason::LimitExceeded, exceeded.to_string()))?;
    let (terms, port) = (arrival.rules.terms(), arrival.asked.port());
    // What is tunnelled goes the way of TLS, whatever it is.
    match arrival.sandbox.upstream.connect(terms, Scheme::Https, host, port).await {
        Ok(dialed) => Ok((dialed, allowance)),
        Err(error) => Err(Box::new(match error.deny() {
            Some(deny) => deny.clone(),
            None => refusal(error.reason(), error.to_string()),
        })),
    }
}

/// The host to which TLS is tunnelled unopened, if any. That is the name looked up or in the SNI,
/// if a `tcp://` rule or `passthrough` covers it, or an address that a `tcp://` rule covers.
///
/// The name looked up and the SNI must be the same (attack T10). A credential's host is never
/// tunnelled.
pub(super) fn unopened(
    policy: &Policy,
    asked: std::net::SocketAddr,
    lookup: Option<&HostName>,
    sni: Option<&HostName>,
) -> Option<Host> {
    let port = asked.port();
    let name = match (lookup, sni) {
        (Some(lookup), Some(sni)) if lookup != sni => return None,
        (lookup, sni) => lookup.or(sni),
    };
    if let Some(name) = name {
        let host = Host::Name(name.clone());
        if policy.governs(&host, port) {
            return None;
        }
        if policy.is_passthrough(name, port) || is_raw(policy, &host, port) {
            return Some(host);
        }
    }
    let address = Host::Ip(asked.ip());
    (lookup.is_none() && is_raw(policy, &address, port)).then_some(address)
}

/// Whether a `tcp://` rule permits raw TCP to it.
fn is_raw(policy: &Policy, host: &Host, port: u16) -> bool {
    matches!(policy.decide_raw(host, port), Decision::Allow(_))
}

/// Whether a policy permits a tunnel; asked of each new policy for open tunnels.
pub(super) fn permits(policy: &Policy, host: &Host, port: u16, protocol: Protocol) -> bool {
    matches!(decide(policy, host, port, protocol), Decision::Allow(_))
}

/// Judges a tunnel.
pub(super) fn decide(policy: &Policy, host: &Host, port: u16, protocol: Protocol) -> Decision {
    let passes = |name: &HostName| protocol == Protocol::Tls && policy.is_passthrough(name, port);
    if host.name().is_some_and(passes) && !policy.governs(host, port) {
        policy.decide_host(host, port)
    } else {
        policy.decide_raw(host, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::test_support::policy;

    #[test]
    fn t10_tls_is_tunnelled_by_one_name_or_not_at_all() {
        let policy = policy(
            r#"{ "network": { "allow": ["tcp://cache.test:6380", "tcp://10.1.0.0/16", "pinned.test",
                                        "tcp://*.wide.test", "api.wide.test"],
                              "passthrough": ["pinned.test"] },
                 "credentials_v2": { "mine": { "key": "k", "hosts": ["api.wide.test"] } } }"#,
        );
        let synthetic = "198.18.0.7";
        type Name = Option<&'static str>;
        let table: &[(&str, u16, Name, Name, Name)] = &[
            // The address, its port, the name looked up, the SNI: the host it is tunnelled to.
            (synthetic, 6380, Some("cache.test"), Some("cache.test"), Some("cache.test")),
            (synthetic, 6380, Some("cache.test"), None, Some("cache.test")),
            (synthetic, 6380, Some("cache.test"), Some("other.test"), None),
            (synthetic, 443, Some("cache.test"), Some("cache.test"), None),
            ("192.0.2.9", 6380, None, Some("cache.test"), Some("cache.test")),
            ("192.0.2.9", 6380, None, None, None),
            ("10.1.2.3", 6380, None, None, Some("10.1.2.3")),
            ("10.1.2.3", 6380, None, Some("inside.test"), Some("10.1.2.3")),
            ("10.1.2.3", 443, None, Some("api.wide.test"), None),
            (synthetic, 443, Some("pinned.test"), Some("pinned.test"), Some("pinned.test")),
            (synthetic, 443, Some("pinned.test"), None, Some("pinned.test")),
            (synthetic, 443, Some("pinned.test"), Some("cache.test"), None),
            ("192.0.2.9", 443, None, Some("pinned.test"), Some("pinned.test")),
            (synthetic, 9000, Some("a.wide.test"), None, Some("a.wide.test")),
            // A credential's host, on any port.
            (synthetic, 443, Some("api.wide.test"), Some("api.wide.test"), None),
            (synthetic, 9000, Some("api.wide.test"), None, None),
            (synthetic, 9000, Some("a.wide.test"), Some("api.wide.test"), None),
        ];
        let named = |text: &str| match Host::parse(text).unwrap() {
            Host::Name(name) => name,
            Host::Ip(_) => unreachable!(),
        };
        for (address, port, lookup, sni, expected) in table {
            let asked = std::net::SocketAddr::new(address.parse().unwrap(), *port);
            let (looked_up, inside) = (lookup.map(named), sni.map(named));
            let found = unopened(&policy, asked, looked_up.as_ref(), inside.as_ref());
            let expected = expected.map(|text| Host::parse(text).unwrap());
            assert_eq!(found, expected, "{address}:{port}, {lookup:?}, {sni:?}");
            if let Some(host) = found {
                assert!(permits(&policy, &host, *port, Protocol::Tls), "{host}:{port}");
            }
        }
    }
}
