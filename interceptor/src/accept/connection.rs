//! One redirected connection, from its first bytes to the module that serves it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use interceptor_policy::{Decision, Host, Policy, Reason, Scheme};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::classify::{Spoken, classify};
use super::distrust::Client;
use super::native;
use super::prefixed::Prefixed;
use super::raw::{self, Way};
use super::tunnelled::unless_refused;
use crate::audit::Protocol;
use crate::http::authority::Identity;
use crate::http::context::{Context, Early};
use crate::http::refuse::deny::{named_placeholder, refusal};
use crate::http::{self, activity::Activity};
use crate::metrics::{Handshake, Side};
use crate::proxy::Sandbox;
use crate::tls::alert::certificate_alert;
use crate::tls::hello;
use crate::tls::server::MintError;
use crate::upstream::pool::Key;

/// The most that a TLS handshake with the sandbox may take (attack X3); less where `header_timeout_seconds` is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection whose time is up may take to tell its requests so.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Where a server would speak first, and how is known, a client is told that it may not, instead of
/// being left to wait.
const GREETING_AWAITED: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(super) async fn serve(sandbox: Arc<Sandbox>, stream: TcpStream, asked: SocketAddr) {
    let activity = Arc::<Activity>::default();
    let total = sandbox.limits().total_timeout;
    let arrival = Arrival::new(sandbox.clone(), asked, activity.clone());
    let old = async {
        after(total).await;
        // Noted before what it ends is dropped, and recorded by that.
        if activity.age() {
            tokio::time::sleep(LAST_WORDS).await;
        }
    };
    tokio::select! {
        () = attend(arrival, stream) => {}
        () = old => tracing::debug!("connection reached limits.total_timeout_seconds"),
    }
    if !activity.has_record() {
        // As with refusals: a loop of connections that ask nothing must not fill the log.
        tokio::time::sleep(sandbox.refusals.turn()).await;
    }
}

/// Returns after that time; never, when there is none.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn attend(arrival: Arrival, mut stream: TcpStream) {
    if let Decision::Allow(allow) = arrival.rules.policy.decide_raw(&arrival.host(), arrival.asked.port()) {
        return raw::serve(arrival, stream, allow).await;
    }
    let mut first = BytesMut::with_capacity(4096);
    let spoken = match recognise(&arrival, &mut stream, &mut first).await {
        Ok(Some(spoken)) => spoken,
        // Closed, or silent for too long, before it said anything.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "connection ended before its protocol was known");
            return;
        }
    };
    match spoken {
        Spoken::Tls => tls(arrival, stream, first, None).await,
        Spoken::Http1 | Spoken::Http2 => clear(arrival, stream, first, spoken).await,
        Spoken::Other => {
            let host = arrival.host();
            unless_refused(arrival, stream, first, host, Protocol::Tcp, None).await;
        }
    }
}

/// Serves HTTP in the clear.
pub(super) async fn clear(mut arrival: Arrival, stream: TcpStream, first: BytesMut, spoken: Spoken) {
    if spoken == Spoken::Http2 {
        arrival.unasked.protocol = Some(Protocol::H2);
        let context = context(arrival, None, Protocol::H2, None);
        http::connection::h2(Prefixed { first, stream }, context).await;
    } else {
        arrival.unasked.protocol = Some(Protocol::H1);
        let context = context(arrival, None, Protocol::H1, None);
        http::connection::h1(stream, first, context).await;
    }
}

/// Reads until the protocol is known. `None`: the sandbox closed, or said nothing in time.
async fn recognise(
    arrival: &Arrival,
    stream: &mut TcpStream,
    first: &mut BytesMut,
) -> io::Result<Option<Spoken>> {
    let limits = arrival.rules.policy.limits();
    let awaits_greeting = native::server_speaks_first(arrival.asked.port());
    // A connection that is kept for later says nothing yet; what has begun is to go on.
    let silence =
        if awaits_greeting { GREETING_AWAITED.min(limits.header_timeout) } else { limits.idle_timeout };
    match tokio::time::timeout(silence, stream.read_buf(first)).await {
        Ok(Ok(0)) => return Ok(None),
        Ok(read) => drop(read?),
        Err(_) if awaits_greeting => return Ok(Some(Spoken::Other)),
        Err(_) => {
            arrival.activity().end(Reason::IdleTimeout);
            return Ok(None);
        }
    }
    let more = async {
        loop {
            if let Some(spoken) = classify(first) {
                return Ok(Some(spoken));
            }
            if stream.read_buf(first).await? == 0 {
                // It may have said all it wanted to: a half-close after a short message.
                return Ok(Some(Spoken::Other));
            }
        }
    };
    tokio::time::timeout(limits.header_timeout, more).await.unwrap_or(Ok(Some(Spoken::Other)))
}

fn clear_identity(arrival: &Arrival) -> Identity {
    Identity {
        scheme: Scheme::Http,
        port: arrival.asked.port(),
        host: arrival.host(),
        open: arrival.lookup.is_none(),
        mismatch: None,
    }
}

/// What the requests of the connection have in common: nothing of the rules that hold now, which
/// are loaded for each of them, and whose keys are to be gone when others hold. Without an identity
/// that of a connection in the clear.
fn context(
    arrival: Arrival,
    identity: Option<Identity>,
    protocol: Protocol,
    early: Option<Early>,
) -> Context {
    let identity = identity.unwrap_or_else(|| clear_identity(&arrival));
    // The host that a request names is judged with the request; here, the one that is certain.
    let (host, port, open) = (identity.host.clone(), identity.port, identity.open);
    let permitted =
        move |policy: &Policy| open || matches!(policy.decide_host(&host, port), Decision::Allow(_));
    let close = CancellationToken::new();
    Context {
        _alive: arrival.sandbox.live.enter(&arrival.rules.policy, close.clone(), permitted),
        close,
        limits: *arrival.rules.policy.limits(),
        outdated: CancellationToken::new(),
        over: arrival.sandbox.stopping().child_token(),
        prepaid: AtomicBool::new(arrival.unasked.counted),
        activity: arrival.activity().clone(),
        _unasked: Box::new(arrival.unasked),
        sandbox: arrival.sandbox,
        identity,
        asked: arrival.asked,
        protocol,
        notes: None,
        early: Mutex::new(early),
        switched: Mutex::default(),
    }
}

/// A TLS connection: tunnelled unopened where the policy says so, else terminated. `way` is one to
/// the host of the arrival.
pub(super) async fn tls(mut arrival: Arrival, mut stream: TcpStream, mut first: BytesMut, way: Option<Way>) {
    arrival.unasked.protocol = Some(Protocol::Tls);
    let policy = &arrival.rules.policy;
    let patience = HANDSHAKE.min(policy.limits().header_timeout);
    if policy.may_tunnel_tls() {
        let anything = raw::permits(policy, &arrival.host(), arrival.asked.port(), Protocol::Tcp);
        let read = tokio::time::timeout(patience, hello::server_name(&mut stream, &mut first)).await;
        let sni = match read {
            Ok(Ok(sni)) => sni,
            // No ClientHello that rustls can read: whatever it is, it may be carried where anything
            // may.
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData && anything => None,
            ended => {
                if ended.is_err() {
                    arrival.activity().end(Reason::HeaderTimeout);
                }
                tracing::debug!("TLS connection ended before its ClientHello was complete");
                return;
            }
        };
        let sni = sni.and_then(|name| match Host::parse(&name) {
            Ok(Host::Name(name)) => Some(name),
            _ => None,
        });
        if let Some(host) = raw::unopened(policy, arrival.asked, arrival.lookup.as_ref(), sni.as_ref()) {
            let way = way.filter(|_| host == arrival.host());
            // Unopened, nothing could be explained; and the name would be looked up outside (attack C1).
            let named = sni.as_ref().or(arrival.lookup.as_ref());
            if let Some(id) = named.and_then(|name| arrival.rules.keyring.named_in(name.as_str())) {
                let deny = named_placeholder(policy, id);
                arrival.refused(Some(Protocol::Tls), &host, &deny);
                return reset(stream);
            }
            return unless_refused(arrival, stream, first, host, Protocol::Tls, way).await;
        }
    }
    // What was dialled for a tunnel is of no use to HTTP.
    drop(way);
    let accepting = LazyConfigAcceptor::new(Acceptor::default(), Prefixed { first, stream });
    let handshake = match tokio::time::timeout(patience, accepting).await {
        Ok(Ok(handshake)) => handshake,
        ended => {
            let end = if ended.is_err() { Handshake::TimedOut } else { Handshake::Failed };
            arrival.sandbox.metrics.handshake(Side::Sandbox, end);
            if let Handshake::TimedOut = end {
                arrival.activity().end(Reason::HeaderTimeout);
            }
            tracing::debug!("TLS connection ended before its ClientHello was complete");
            return;
        }
    };
    let hello = handshake.client_hello();
    let offers_h2 = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == b"h2"));
    let sni = hello.server_name().map(str::to_owned);
    let client = Client::of(hello.cipher_suites());
    let identity = tls_identity(&arrival, sni.as_deref());
    arrival.is_for(&identity.host, identity.mismatch.is_some());
    let leaf = match (&identity.mismatch, sni.as_deref().map(Host::parse)) {
        // The handshake is completed for the name asked for, so that the refusal can be explained over HTTP.
        (Some(_), Some(Ok(name))) => name,
        _ => identity.host.clone(),
    };
    let config = match arrival.sandbox.certificates.get(&leaf) {
        Ok(config) => config,
        Err(error) => {
            if let MintError::RateLimited { .. } = error {
                let message = format!("{error}; raise limits.mints_per_second");
                let refusal = refusal(Reason::LimitExceeded, message);
                arrival.refused(Some(Protocol::Tls), &leaf, &refusal);
            } else {
                tracing::error!(%error, "cannot mint a certificate; closing the connection");
            }
            return;
        }
    };
    // What was spent on the way to an address is not spent on the host that was named then.
    arrival.unasked.counted &= identity.host == arrival.host();
    let early = early(&arrival, &identity, offers_h2);
    arrival.unasked.counted |= early.is_some();
    arrival.unasked.shown = Some((leaf.clone(), client));
    let shaken = tokio::time::timeout(patience, handshake.into_stream(config)).await;
    let end = match &shaken {
        Ok(Ok(_)) => Handshake::Done,
        Ok(Err(_)) => Handshake::Failed,
        Err(_) => Handshake::TimedOut,
    };
    arrival.sandbox.metrics.handshake(Side::Sandbox, end);
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(host = %leaf, %error, "client aborted the TLS handshake");
            // Node.js is gone before the last bytes of the handshake: it has seen the certificate.
            let alert = certificate_alert(&error);
            if alert.is_some() || error.kind() != io::ErrorKind::InvalidData {
                arrival.activity().closed(alert);
            }
            return;
        }
        Err(_) => return arrival.activity().end(Reason::HeaderTimeout),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        arrival.unasked.protocol = Some(Protocol::H2);
        http::connection::h2(stream, context(arrival, Some(identity), Protocol::H2, early)).await;
    } else {
        arrival.unasked.protocol = Some(Protocol::H1);
        let context = context(arrival, Some(identity), Protocol::H1, early);
        http::connection::h1(stream, BytesMut::new(), context).await;
    }
}

fn tls_identity(arrival: &Arrival, sni: Option<&str>) -> Identity {
    // A server name that is no host name, or an address (RFC 6066 forbids it), names nobody.
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

/// Begins to connect to the origin while the handshake with the sandbox goes on, where the request is likely to follow.
fn early(arrival: &Arrival, identity: &Identity, h2: bool) -> Option<Early> {
    let policy = &arrival.rules.policy;
    if identity.mismatch.is_some()
        || matches!(&identity.host, Host::Name(name) if arrival.rules.keyring.in_name(name.as_str()))
        || !matches!(policy.decide_host(&identity.host, identity.port), Decision::Allow(_))
    {
        return None;
    }
    let credential = match policy.governing(Scheme::Https, &identity.host, identity.port)[..] {
        [] => None,
        [only] => Some(only),
        // Which one is meant is known with the request.
        _ => return None,
    };
    let (generation, host) = (arrival.rules.generation, identity.host.clone());
    let key = Key::new(generation, Scheme::Https, host, identity.port, credential);
    let pool = arrival.sandbox.pool.clone();
    if pool.has(&key, h2) {
        return None;
    }
    // The origin sees a connection, whatever comes of it: it counts as the request that it is for.
    if !arrival.unasked.counted {
        arrival.sandbox.budget.spend(&identity.host, 0, policy.limits()).ok()?;
    }
    let (rules, wanted) = (arrival.rules.clone(), key.clone());
    let task = tokio::spawn(async move { pool.get(&rules.policy, &wanted, h2).await });
    Some(Early { key, task })
}

/// Closes with a reset, so that the sandbox sees an error and not an empty answer.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "cannot reset the connection; closing it");
    }
}
