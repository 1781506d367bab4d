//! Connections that a `tcp://` rule permits: whoever speaks first decides. A client that begins
//! HTTP is served as one; TLS and everything else is tunnelled unopened, and so is a server that
//! greets before the client has said anything.
//!
//! The origin is connected to as soon as the client has not spoken at once, so that a server that
//! speaks first is heard without waiting for the client: its bytes are what is waited for, not a
//! time.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use interceptor_policy::{Allow, Decision, Deny, Host, HostName, Policy, Reason};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::arrival::Arrival;
use super::classify::{Spoken, classify};
use super::connection::{Rest, clear};
use super::prefixed::Prefixed;
use super::tls::tls;
use super::tunnelled::tunnel;
use crate::audit::Protocol;
use crate::http::refuse::deny::refusal;
use crate::proxy::budget::Allowance;
use crate::upstream::Dialed;

/// How long a client has to speak before the origin is connected to: one that speaks HTTP needs no
/// tunnel.
const HEAD_START: Duration = Duration::from_millis(50);
/// How long a client has to go on that has not said enough to tell HTTP from anything else, and to
/// speak when the origin cannot be reached: HTTP has words for it, all else a reset.
const LAST_WORD: Duration = Duration::from_millis(150);

/// A connection to the origin of a tunnel, with what may be sent to it; or why there is none.
pub(super) type Way = Result<(Dialed, Option<Allowance>), Box<Deny>>;

/// Takes a connection that a rule permits to be tunnelled to where it is known how to serve it.
/// `None`: it ended.
pub(super) async fn serve(
    mut arrival: Arrival,
    mut stream: TcpStream,
    allow: Allow,
) -> Option<Rest> {
    let mut first = BytesMut::with_capacity(4096);
    let host = arrival.host();
    let (spoken, way) = meet(&arrival, &host, &mut stream, &mut first).await;
    // What was spent on the way to the origin counts for the request that comes instead.
    arrival.unasked.counted = matches!(way, Some(Ok(_)));
    match spoken {
        Spoken::Http1 | Spoken::Http2 => Some(clear(arrival, stream, first, spoken)),
        Spoken::Tls => tls(arrival, stream, first, way).await,
        Spoken::Other => {
            let stream = Prefixed { first, stream };
            let tunnel = async move {
                tunnel(arrival, stream, host, Protocol::Tcp, &allow, way).await;
            };
            Some(Box::pin(tunnel))
        }
    }
}

/// Waits until one side has spoken: what the client speaks, else `Other`, and the way to the origin
/// where it was looked for.
async fn meet(
    arrival: &Arrival,
    host: &Host,
    stream: &mut TcpStream,
    first: &mut BytesMut,
) -> (Spoken, Option<Way>) {
    let begun = Instant::now();
    let mut deadline = begun + arrival.rules.policy.limits().header_timeout;
    let mut way: Option<Way> = None;
    let mut finding = pin!(async {
        sleep_until(begun + HEAD_START).await;
        find(arrival, host).await
    });
    loop {
        let greeted = async {
            match &way {
                // Also when it has closed, or failed: the tunnel will tell.
                Some(Ok((dialed, _))) => drop(dialed.stream.readable().await),
                _ => pending().await,
            }
        };
        tokio::select! {
            read = stream.read_buf(first) => match read {
                Ok(count) if count > 0 => {
                    if let Some(spoken) = classify(first) {
                        return (spoken, way);
                    }
                    // A byte or two may be all that it has to say until it is answered.
                    deadline = deadline.min(Instant::now() + LAST_WORD);
                }
                // It may have said all it wanted to, and still want to hear.
                _ => return (Spoken::Other, way),
            },
            found = &mut finding, if way.is_none() => {
                if found.is_err() {
                    deadline = deadline.min(Instant::now() + LAST_WORD);
                }
                way = Some(found);
            }
            () = greeted => return (Spoken::Other, way),
            () = sleep_until(deadline) => return (Spoken::Other, way),
        }
    }
}

/// Connects to the origin of a tunnel.
pub(super) async fn find(arrival: &Arrival, host: &Host) -> Way {
    let policy = &arrival.rules.policy;
    let allowance = arrival
        .sandbox
        .budget
        .spend(host, 0, policy.limits())
        .map_err(|exceeded| refusal(Reason::LimitExceeded, exceeded.to_string()))?;
    match arrival.sandbox.upstream.connect(policy, host, arrival.asked.port()).await {
        Ok(dialed) => Ok((dialed, allowance)),
        Err(error) => Err(Box::new(match error.deny() {
            Some(deny) => deny.clone(),
            None => refusal(error.reason(), error.to_string()),
        })),
    }
}

/// Where TLS goes unopened, if it does: to the name that was looked up, or that it asks for, where
/// a `tcp://` rule or `passthrough` covers that; to an address where a `tcp://` rule covers that.
///
/// What was looked up and what is asked for inside must be one name (attack T10). No host of a
/// credential is ever tunnelled.
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

/// Whether a `tcp://` rule permits anything to be sent there.
fn is_raw(policy: &Policy, host: &Host, port: u16) -> bool {
    matches!(policy.decide_raw(host, port), Decision::Allow(_))
}

/// Whether a policy permits a tunnel: what a later one is asked of those that are open.
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
            r#"{ "network": { "allow": ["tcp://cache.test:6380", "tcp://10.1.0.0/16", "pinned.test", "tcp://*.wide.test", "api.wide.test"],
                              "passthrough": ["pinned.test"] },
                 "credentials_v2": { "mine": { "key": "k", "hosts": ["api.wide.test"] } } }"#,
        );
        let synthetic = "198.18.0.7";
        type Name = Option<&'static str>;
        let table: &[(&str, u16, Name, Name, Name)] = &[
            // The address asked for and its port, the name looked up, the name inside: where it
            // goes unopened.
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
            // A host of a credential, at any port.
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
