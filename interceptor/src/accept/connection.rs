//! One redirected connection, from its first bytes until another module serves it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use interceptor_policy::{Decision, Policy, Reason, Scheme};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::classify::{Spoken, classify};
use super::native;
use super::prefixed::Prefixed;
use super::raw;
use super::tls::tls;
use super::tunnelled::unless_refused;
use crate::audit::Protocol;
use crate::http::authority::Identity;
use crate::http::context::{Context, Early};
use crate::http::{self, activity::Activity};
use crate::proxy::Sandbox;

/// How long a connection at its maximum age may take to answer its pending requests.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Size in bytes of the first read.
const FIRST: usize = 4096;
/// How long to wait for the client on a port where the server speaks first. If its greeting format
/// is known, the client then gets a refusal instead of waiting.
const GREETING_AWAITED: Duration = Duration::from_secs(2);

/// The rest of a connection's work once its protocol is known. The state needed to find out is
/// dropped first.
pub(super) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves a connection to its end.
pub(super) async fn serve(sandbox: Arc<Sandbox>, stream: TcpStream, asked: SocketAddr) {
    let activity = Arc::<Activity>::default();
    let total = sandbox.limits().total_timeout;
    let arrival = Arrival::new(sandbox.clone(), asked, activity.clone());
    let old = async {
        after(total).await;
        // Set before the connection is dropped, because its record is written then.
        if activity.age() {
            tokio::time::sleep(LAST_WORDS).await;
        }
    };
    tokio::select! {
        () = attend(arrival, stream) => {}
        () = old => tracing::debug!("connection reached limits.total_timeout_seconds"),
    }
    if !activity.has_record() {
        // Rate-limited like refusals: a loop of connections without requests must not flood the
        // log.
        tokio::time::sleep(sandbox.refusals.turn()).await;
    }
}

/// Returns after that time; never, if there is none.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn attend(arrival: Arrival, mut stream: TcpStream) {
    if let Decision::Allow(allow) =
        arrival.rules.policy.decide_raw(&arrival.host(), arrival.asked.port())
    {
        if let Some(rest) = Box::pin(raw::serve(arrival, stream, allow)).await {
            rest.await;
        }
        return;
    }
    let mut first = BytesMut::new();
    let spoken = match recognise(&arrival, &mut stream, &mut first).await {
        Ok(Some(spoken)) => spoken,
        // Closed, or silent for too long, before it sent anything.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "connection ended before its protocol was known");
            return;
        }
    };
    let rest = match spoken {
        Spoken::Tls => Box::pin(tls(arrival, stream, first, None)).await,
        Spoken::Http1 | Spoken::Http2 => Some(clear(arrival, stream, first, spoken)),
        Spoken::Other => {
            let host = arrival.host();
            Some(Box::pin(unless_refused(arrival, stream, first, host, Protocol::Tcp, None)) as Rest)
        }
    };
    if let Some(rest) = rest {
        rest.await;
    }
}

/// Serves HTTP without TLS.
pub(super) fn clear(
    mut arrival: Arrival,
    stream: TcpStream,
    first: BytesMut,
    spoken: Spoken,
) -> Rest {
    if spoken == Spoken::Http2 {
        arrival.unasked.protocol = Some(Protocol::H2);
        let context = context(arrival, None, Protocol::H2, None);
        Box::pin(http::connection::h2(Prefixed { first, stream }, context))
    } else {
        arrival.unasked.protocol = Some(Protocol::H1);
        let context = context(arrival, None, Protocol::H1, None);
        Box::pin(http::connection::h1(stream, first, context))
    }
}

/// Reads until the protocol is known. `None` if the sandbox closed the connection or sent nothing
/// in time.
async fn recognise(
    arrival: &Arrival,
    stream: &mut TcpStream,
    first: &mut BytesMut,
) -> io::Result<Option<Spoken>> {
    let limits = arrival.rules.policy.limits();
    let awaits_greeting = native::server_speaks_first(arrival.asked.port());
    // A connection kept open in advance sends nothing yet; once begun, it must proceed.
    let silence = if awaits_greeting {
        GREETING_AWAITED.min(limits.header_timeout)
    } else {
        limits.idle_timeout
    };
    let begins = async {
        // A silent connection holds no buffer.
        stream.readable().await?;
        first.reserve(FIRST);
        stream.read_buf(first).await
    };
    match tokio::time::timeout(silence, begins).await {
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
                // It may have sent all it wanted: a half-close after a short message.
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

/// The state shared by the connection's requests. It holds no rules: they are loaded for each
/// request, and old keys must not stay in memory. Without an identity, it is that of a connection
/// without TLS.
pub(super) fn context(
    arrival: Arrival,
    identity: Option<Identity>,
    protocol: Protocol,
    early: Option<Early>,
) -> Context {
    let identity = identity.unwrap_or_else(|| clear_identity(&arrival));
    // A host named only by a request is judged with the request; this checks the host known now.
    let (host, port, open) = (identity.host.clone(), identity.port, identity.open);
    let permitted = move |policy: &Policy| {
        open || matches!(policy.decide_host(&host, port), Decision::Allow(_))
    };
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

/// Closes with a reset, so that the sandbox sees an error and not an empty response.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "cannot reset the connection; closing it");
    }
}
