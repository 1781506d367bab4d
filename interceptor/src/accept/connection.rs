//! One redirected connection, from its first bytes to the module that serves it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::classify::{Spoken, classify};
use super::distrust::{self, Client};
use super::native;
use super::prefixed::Prefixed;
use crate::audit::{Protocol, Record, Verdict};
use crate::http::authority::Identity;
use crate::http::context::{Context, Early};
use crate::http::refuse::{named_placeholder, refusal};
use crate::http::{self, activity::Activity};
use crate::metrics::{Handshake, Side};
use crate::policy::{Decision, Host, Policy, Reason, Scheme};
use crate::proxy::Sandbox;
use crate::tls::hello;
use crate::tls::server::MintError;
use crate::tunnel::{Carried, carry};
use crate::upstream::pool::Key;

/// The most that a TLS handshake with the sandbox may take (ATTACKS X3); less where `header_timeout_seconds` is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Where a raw protocol is permitted, the server may be the one to speak first: how long the sandbox's first byte is awaited.
const SERVER_SPEAKS_FIRST: Duration = Duration::from_millis(150);

/// The same where no raw protocol is permitted: a client of such a server is told so instead of being left to wait.
const GREETING_AWAITED: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(super) async fn serve(sandbox: Arc<Sandbox>, stream: TcpStream, asked: SocketAddr) {
    let activity = Arc::<Activity>::default();
    let total = sandbox.limits().total_timeout;
    let arrival = Arrival::new(sandbox.clone(), asked, activity.clone());
    tokio::select! {
        () = attend(arrival, stream) => {}
        // Noted before what it ends is dropped, and recorded by that.
        () = async { after(total).await; activity.end(Reason::TotalTimeout) } => {
            tracing::debug!("a connection reached limits.total_timeout_seconds");
        }
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

async fn attend(mut arrival: Arrival, mut stream: TcpStream) {
    let mut first = BytesMut::with_capacity(4096);
    let spoken = match recognise(&arrival, &mut stream, &mut first).await {
        Ok(Some(spoken)) => spoken,
        // Closed, or silent for too long, before it said anything.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "a connection ended before its protocol was known");
            return;
        }
    };
    match spoken {
        Spoken::Tls => tls(arrival, stream, first).await,
        Spoken::Http1 => {
            arrival.unasked.protocol = Some(Protocol::H1);
            let context = context(arrival, None, Protocol::H1, None);
            http::connection::h1(stream, first, context).await;
        }
        Spoken::Http2 => {
            arrival.unasked.protocol = Some(Protocol::H2);
            let context = context(arrival, None, Protocol::H2, None);
            http::connection::h2(Prefixed { first, stream }, context).await;
        }
        Spoken::Other => raw(arrival, stream, first).await,
    }
}

/// Reads until the protocol is known. `None`: the sandbox closed, or said nothing in time.
async fn recognise(
    arrival: &Arrival,
    stream: &mut TcpStream,
    first: &mut BytesMut,
) -> io::Result<Option<Spoken>> {
    let limits = arrival.rules.policy.limits();
    let raw_permitted =
        matches!(arrival.rules.policy.decide_raw(&arrival.host(), arrival.asked.port()), Decision::Allow(_));
    let awaits_greeting = !raw_permitted && native::server_speaks_first(arrival.asked.port());
    // A connection that is kept for later says nothing yet; what has begun is to go on.
    let (silence, patience) = match (raw_permitted, awaits_greeting) {
        (true, _) => (SERVER_SPEAKS_FIRST, SERVER_SPEAKS_FIRST),
        (_, true) => (GREETING_AWAITED.min(limits.header_timeout), limits.header_timeout),
        _ => (limits.idle_timeout, limits.header_timeout),
    };
    match tokio::time::timeout(silence, stream.read_buf(first)).await {
        Ok(Ok(0)) => return Ok(None),
        Ok(read) => drop(read?),
        Err(_) if raw_permitted || awaits_greeting => return Ok(Some(Spoken::Other)),
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
    tokio::time::timeout(patience, more).await.unwrap_or(Ok(Some(Spoken::Other)))
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
        _unasked: arrival.unasked,
        sandbox: arrival.sandbox,
        identity,
        asked: arrival.asked,
        protocol,
        notes: None,
        early: Mutex::new(early),
        switched: Mutex::default(),
    }
}

/// A TLS connection: tunnelled unopened where the policy says so, else terminated.
async fn tls(mut arrival: Arrival, mut stream: TcpStream, mut first: BytesMut) {
    arrival.unasked.protocol = Some(Protocol::Tls);
    let policy = &arrival.rules.policy;
    let port = arrival.asked.port();
    let patience = HANDSHAKE.min(policy.limits().header_timeout);
    if policy.has_passthrough() {
        let read = tokio::time::timeout(patience, hello::server_name(&mut stream, &mut first)).await;
        let Ok(Ok(sni)) = read else {
            if read.is_err() {
                arrival.activity().end(Reason::HeaderTimeout);
            }
            tracing::debug!("a TLS connection ended before its ClientHello was whole");
            return;
        };
        let sni = sni.and_then(|name| match Host::parse(&name) {
            Ok(Host::Name(name)) => Some(name),
            _ => None,
        });
        if let Some(name) = sni.as_ref().or(arrival.lookup.as_ref())
            && policy.is_passthrough(name, port)
        {
            // Unopened, nothing could be explained; and the name would be looked up outside (ATTACKS C1).
            if let Some(id) = arrival.rules.keyring.named_in(name.as_str()) {
                let deny = named_placeholder(policy, id);
                arrival.refused(Some(Protocol::Tls), &Host::Name(name.clone()), &deny);
                return reset(stream);
            }
            // What was looked up and what is asked for inside must be one name (ATTACKS T10).
            let same =
                sni.as_ref().is_some_and(|sni| arrival.lookup.as_ref().is_none_or(|lookup| lookup == sni));
            if same {
                let host = Host::Name(name.clone());
                return passthrough(arrival, stream, first, host).await;
            }
        }
    }
    let accepting = LazyConfigAcceptor::new(Acceptor::default(), Prefixed { first, stream });
    let handshake = match tokio::time::timeout(patience, accepting).await {
        Ok(Ok(handshake)) => handshake,
        ended => {
            let end = if ended.is_err() { Handshake::TimedOut } else { Handshake::Failed };
            arrival.sandbox.metrics.handshake(Side::Sandbox, end);
            if let Handshake::TimedOut = end {
                arrival.activity().end(Reason::HeaderTimeout);
            }
            tracing::debug!("a TLS connection ended before its ClientHello was whole");
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
                tracing::error!(%error, "a certificate could not be minted; the connection is closed");
            }
            return;
        }
    };
    let early = early(&arrival, &identity, offers_h2);
    arrival.unasked.counted = early.is_some();
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
            tracing::debug!(host = %leaf, %error, "the sandbox ended the TLS handshake");
            arrival.unasked.alert = distrust::alert(&error);
            if let Some(alert) = arrival.unasked.alert {
                arrival.sandbox.distrust.warn(&arrival.sandbox.id, &leaf, alert, client);
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
    arrival.sandbox.budget.spend(&identity.host, 0, policy.limits()).ok()?;
    let (rules, wanted) = (arrival.rules.clone(), key.clone());
    let task = tokio::spawn(async move { pool.get(&rules.policy, &wanted, h2).await });
    Some(Early { key, task })
}

/// Carries TLS unopened to the origin of its name.
async fn passthrough(arrival: Arrival, stream: TcpStream, first: BytesMut, host: Host) {
    match arrival.rules.policy.decide_host(&host, arrival.asked.port()) {
        Decision::Allow(allow) => tunnel(arrival, stream, first, host, Protocol::Tls, &allow).await,
        Decision::Deny(refusal) => {
            arrival.refused(Some(Protocol::Tls), &host, &refusal);
            reset(stream);
        }
    }
}

/// Carries a protocol that is neither TLS nor HTTP, where the policy permits it.
async fn raw(arrival: Arrival, stream: TcpStream, first: BytesMut) {
    let host = arrival.host();
    match arrival.rules.policy.decide_raw(&host, arrival.asked.port()) {
        Decision::Allow(allow) => tunnel(arrival, stream, first, host, Protocol::Tcp, &allow).await,
        Decision::Deny(refusal) => {
            arrival.refused(Some(Protocol::Tcp), &host, &refusal);
            arrival.explain(stream, &first, &host, &refusal.message).await;
        }
    }
}

async fn tunnel(
    arrival: Arrival,
    stream: TcpStream,
    first: BytesMut,
    host: Host,
    protocol: Protocol,
    allow: &crate::policy::Allow,
) {
    let port = arrival.asked.port();
    let limits = *arrival.rules.policy.limits();
    let allowance = match arrival.sandbox.budget.spend(&host, 0, &limits) {
        Ok(allowance) => allowance,
        Err(exceeded) => {
            let refusal = refusal(Reason::LimitExceeded, exceeded.to_string());
            arrival.refused(Some(protocol), &host, &refusal);
            return arrival.explain(stream, &first, &host, &refusal.message).await;
        }
    };
    let dialed = arrival.sandbox.upstream.connect(&arrival.rules.policy, &host, port).await;
    let mut dialed = match dialed {
        Ok(dialed) => dialed,
        Err(error) => {
            let refusal = match error.deny() {
                Some(refusal) => refusal.clone(),
                None => refusal(error.reason(), error.to_string()),
            };
            arrival.refused(Some(protocol), &host, &refusal);
            return arrival.explain(stream, &first, &host, &refusal.message).await;
        }
    };
    let carried = Carried::new(arrival.sandbox.metrics.clone(), allowance);
    let mut entry = Entry {
        record: Some(arrival.record(Verdict::Allow, Some(protocol), &host)),
        sandbox: arrival.sandbox.clone(),
        since: arrival.since,
        activity: arrival.activity().clone(),
        carried: &carried,
    };
    if let Some(record) = &mut entry.record {
        record.filter = Some(allow.filter);
        record.rule = allow.rule.clone();
        record.ip = Some(dialed.address.ip());
    }
    let close = CancellationToken::new();
    let (named, is_tls) = (host.clone(), protocol == Protocol::Tls);
    let _alive = arrival.sandbox.live.enter(&arrival.rules.policy, close.clone(), move |policy| {
        match (&named, is_tls) {
            (Host::Name(name), true) => {
                policy.is_passthrough(name, port)
                    && matches!(policy.decide_host(&named, port), Decision::Allow(_))
            }
            _ => matches!(policy.decide_raw(&named, port), Decision::Allow(_)),
        }
    });
    let activity = arrival.activity().clone();
    // For as long as it lasts it keeps no keys of rules that hold no more.
    drop(arrival);
    let ended = async {
        carried.take_up(first.len() as u64)?;
        dialed.stream.write_all(&first).await?;
        carry(&stream, &dialed.stream, &carried, limits.tunnel_idle_timeout).await
    };
    tokio::select! {
        ended = ended => if let Err(error) = ended { tracing::debug!(%host, %error, "a tunnel ended") },
        () = close.cancelled() => {
            activity.end(Reason::HostDenied);
            tracing::debug!(%host, "a tunnel was closed: a new policy does not permit it");
            reset(stream);
        }
    }
}

/// The record of a tunnel: written when it is over, also when its task is cancelled.
struct Entry<'a> {
    record: Option<Record>,
    sandbox: Arc<Sandbox>,
    since: Instant,
    activity: Arc<Activity>,
    carried: &'a Carried,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        if let Some(record) = self.record.take() {
            let record = record
                .bytes(self.carried.up.load(Relaxed), self.carried.down.load(Relaxed))
                .duration(self.since.elapsed());
            let mut record = record;
            record.reason = self.carried.limit().or_else(|| self.activity.limit());
            self.sandbox.metrics.connection(&record);
            self.sandbox.audit.emit(record);
        }
    }
}

/// Closes with a reset, so that the sandbox sees an error and not an empty answer.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection could not be reset; it is closed");
    }
}
