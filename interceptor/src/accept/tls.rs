//! A TLS connection from the sandbox: tunnelled unopened if the policy says so, otherwise
//! terminated with a certificate for the requested name.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use interceptor_policy::{Decision, Host, HostName, Reason, Scheme};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::arrival::Arrival;
use super::corked::Corked;
use super::distrust::Client;
use super::prefixed::Prefixed;
use super::reset::reset;
use super::serve::{Rest, context};
use super::tunnelled::unless_refused;
use super::way::{self, DialResult};
use crate::audit::Protocol;
use crate::http;
use crate::http::authority::Identity;
use crate::http::context::Early;
use crate::http::refuse::deny::{named_placeholder, refusal};
use crate::metrics::{Handshake, Side};
use crate::tls::alert::certificate_alert;
use crate::tls::hello;
use crate::tls::server::MintError;

/// The longest that a TLS handshake with the sandbox may take (attack X3), unless
/// `header_timeout_seconds` is shorter.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How to handle a connection after its ClientHello.
enum HelloOutcome {
    /// It ended before that.
    Ended,
    /// It is tunnelled to this host; `sni` is the name it asked for.
    Unopened { host: Host, sni: Option<HostName> },
    /// It is terminated.
    Terminated,
}

/// Finds out how to serve a TLS connection. `way` leads to the arrival's host. `None` if it ended.
pub(super) async fn tls(
    mut arrival: Arrival,
    mut stream: TcpStream,
    mut first: BytesMut,
    way: Option<DialResult>,
) -> Option<Rest> {
    arrival.unasked.protocol = Some(Protocol::Tls);
    match opening(&arrival, &mut stream, &mut first).await {
        HelloOutcome::Ended => None,
        HelloOutcome::Unopened { host, sni } => {
            let way = way.filter(|_| host == arrival.host());
            // An unopened refusal cannot be explained, and the name would be looked up outside
            // (attack C1).
            let named = sni.as_ref().or(arrival.lookup.as_ref());
            if let Some(id) = named.and_then(|name| arrival.rules.keyring.named_in(name.as_str())) {
                let deny = named_placeholder(&arrival.rules.policy, id);
                arrival.refused(Some(Protocol::Tls), &host, &deny);
                reset(stream);
                return None;
            }
            Some(Box::pin(unless_refused(arrival, stream, first, host, Protocol::Tls, way)))
        }
        HelloOutcome::Terminated => {
            // HTTP cannot use a connection dialled for a tunnel.
            drop(way);
            terminated(arrival, Corked::new(Prefixed { first, stream })).await
        }
    }
}

/// How long the sandbox's part of the handshake may take.
fn patience(arrival: &Arrival) -> Duration {
    HANDSHAKE.min(arrival.rules.policy.limits().header_timeout)
}

async fn opening(arrival: &Arrival, stream: &mut TcpStream, first: &mut BytesMut) -> HelloOutcome {
    let policy = &arrival.rules.policy;
    if !policy.may_tunnel_tls() {
        return HelloOutcome::Terminated;
    }
    let anything = way::permits(policy, &arrival.host(), arrival.asked.port(), Protocol::Tcp);
    let read = tokio::time::timeout(patience(arrival), hello::server_name(stream, first)).await;
    let sni = match read {
        Ok(Ok(sni)) => sni,
        // Not a ClientHello that rustls can read; it may still be tunnelled where anything may.
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData && anything => None,
        ended => {
            if ended.is_err() {
                arrival.activity().end(Reason::HeaderTimeout);
            }
            tracing::debug!("TLS connection ended before its ClientHello was complete");
            return HelloOutcome::Ended;
        }
    };
    let sni = sni.and_then(|name| match Host::parse(&name) {
        Ok(Host::Name(name)) => Some(name),
        _ => None,
    });
    match way::unopened(policy, arrival.asked, arrival.lookup.as_ref(), sni.as_ref()) {
        Some(host) => HelloOutcome::Unopened { host, sni },
        None => HelloOutcome::Terminated,
    }
}

/// Terminates TLS to serve the HTTP inside.
async fn terminated(mut arrival: Arrival, stream: Corked) -> Option<Rest> {
    let handshake = begun(&arrival, stream).await?;
    let hello = handshake.client_hello();
    let offers_h2 =
        hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == b"h2"));
    let sni = hello.server_name().map(str::to_owned);
    let client = Client::of(hello.cipher_suites());
    let identity = tls_identity(&arrival, sni.as_deref());
    arrival.is_for(&identity.host, identity.mismatch.is_some());
    let leaf = match (&identity.mismatch, sni.as_deref().map(Host::parse)) {
        // The handshake is completed for the requested name, so that the refusal can be explained
        // over HTTP.
        (Some(_), Some(Ok(name))) => name,
        _ => identity.host.clone(),
    };
    let config = config(&arrival, &leaf)?;
    // A dial to the address does not count for a host named only now.
    arrival.unasked.counted &= identity.host == arrival.host();
    let early = early(&arrival, &identity, offers_h2);
    arrival.unasked.counted |= early.is_some();
    arrival.unasked.shown = Some((leaf.clone(), client));
    let stream = match shaken(&arrival, handshake, config).await {
        // Boxed, because the functions it is passed to hold it in several places.
        Some(Ok(mut stream)) => {
            stream.get_mut().0.end_handshake();
            Box::new(stream)
        }
        Some(Err(error)) => {
            tracing::debug!(host = %leaf, %error, "client aborted the TLS handshake");
            // Node.js disconnects before the last handshake bytes, having seen the certificate.
            let alert = certificate_alert(&error);
            if alert.is_some() || error.kind() != io::ErrorKind::InvalidData {
                arrival.activity().closed(alert);
            }
            return None;
        }
        None => {
            arrival.activity().end(Reason::HeaderTimeout);
            return None;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        arrival.unasked.protocol = Some(Protocol::H2);
        let context = context(arrival, Some(identity), Protocol::H2, early);
        Some(Box::pin(http::connection::h2(stream, context)))
    } else {
        arrival.unasked.protocol = Some(Protocol::H1);
        let context = context(arrival, Some(identity), Protocol::H1, early);
        Some(Box::pin(http::connection::h1(stream, BytesMut::new(), context)))
    }
}

/// Reads the ClientHello. `None` if the connection ended or took too long.
async fn begun(arrival: &Arrival, stream: Corked) -> Option<StartHandshake<Corked>> {
    let accepting = LazyConfigAcceptor::new(Acceptor::default(), stream);
    match tokio::time::timeout(patience(arrival), accepting).await {
        Ok(Ok(handshake)) => Some(handshake),
        ended => {
            let end = if ended.is_err() { Handshake::TimedOut } else { Handshake::Failed };
            arrival.sandbox.metrics.handshake(Side::Sandbox, end);
            if let Handshake::TimedOut = end {
                arrival.activity().end(Reason::HeaderTimeout);
            }
            tracing::debug!("TLS connection ended before its ClientHello was complete");
            None
        }
    }
}

/// The server configuration for `leaf`. If there is none, the connection is refused, or the error
/// is logged.
fn config(arrival: &Arrival, leaf: &Host) -> Option<Arc<ServerConfig>> {
    match arrival.sandbox.certificates.get(leaf) {
        Ok(config) => Some(config),
        Err(error @ MintError::RateLimited { .. }) => {
            let message = format!("{error}; raise limits.mints_per_second");
            arrival.refused(Some(Protocol::Tls), leaf, &refusal(Reason::LimitExceeded, message));
            None
        }
        Err(error) => {
            tracing::error!(%error, "cannot mint a certificate; closing the connection");
            None
        }
    }
}

/// Completes the handshake. `None` if it took too long.
async fn shaken(
    arrival: &Arrival,
    handshake: StartHandshake<Corked>,
    config: Arc<ServerConfig>,
) -> Option<io::Result<TlsStream<Corked>>> {
    let shaken = tokio::time::timeout(patience(arrival), handshake.into_stream(config)).await;
    let end = match &shaken {
        Ok(Ok(_)) => Handshake::Done,
        Ok(Err(_)) => Handshake::Failed,
        Err(_) => Handshake::TimedOut,
    };
    arrival.sandbox.metrics.handshake(Side::Sandbox, end);
    shaken.ok()
}

fn tls_identity(arrival: &Arrival, sni: Option<&str>) -> Identity {
    // An SNI that is not a host name, or is an address (forbidden by RFC 6066), names no host.
    let named = sni.map(|text| match Host::parse(text) {
        Ok(Host::Name(name)) => Ok(name),
        _ => Err(text.to_owned()),
    });
    let (host, mismatch) = match (&arrival.lookup, named) {
        (Some(lookup), Some(Ok(name))) if name != *lookup => {
            (Host::Name(lookup.clone()), Some(name.as_str().to_owned()))
        }
        (_, Some(Err(text))) => (arrival.host(), Some(text)),
        (None, Some(Ok(name))) => (Host::Name(name), None),
        (_, _) => (arrival.host(), None),
    };
    Identity { scheme: Scheme::Https, port: arrival.asked.port(), host, open: false, mismatch }
}

/// Dials the origin during the handshake with the sandbox, if a request is likely to follow.
fn early(arrival: &Arrival, identity: &Identity, h2: bool) -> Option<Early> {
    let policy = &arrival.rules.policy;
    if identity.mismatch.is_some()
        | identity.host.name().is_some_and(|name| arrival.rules.keyring.in_name(name.as_str()))
        || !matches!(policy.decide_host(&identity.host, identity.port), Decision::Allow(_))
    {
        return None;
    }
    let credential = match policy.governing(Scheme::Https, &identity.host, identity.port)[..] {
        [] => None,
        // A certificate is presented for a request that is permitted, and for nothing else.
        [only] if arrival.rules.keyring.has_certificate(only) => return None,
        [only] => Some(only),
        // Only the request will show which one is used.
        _ => return None,
    };
    let host = identity.host.clone();
    let key = arrival.rules.pool_key(Scheme::Https, host, identity.port, credential);
    let pool = arrival.sandbox.pool.clone();
    if pool.has(&key, h2) {
        return None;
    }
    // The origin sees a connection either way, so it counts as the request it is for.
    if !arrival.unasked.counted {
        arrival.sandbox.budget.spend(&identity.host, 0, policy.limits()).ok()?;
    }
    let (rules, wanted) = (arrival.rules.clone(), key.clone());
    let task = tokio::spawn(async move { pool.get(rules.terms(), &wanted, h2).await });
    Some(Early { key, task })
}
