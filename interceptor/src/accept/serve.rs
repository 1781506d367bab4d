//! Connections whose protocol is known, on their way to HTTP.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use bytes::BytesMut;
use interceptor_policy::{Decision, Policy, Scheme};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::classify::Spoken;
use super::prefixed::Prefixed;
use crate::audit::Protocol;
use crate::http;
use crate::http::authority::Identity;
use crate::http::context::{Context, Early};

/// The rest of a connection's work once its protocol is known. The state needed to find out is
/// dropped first.
pub(super) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

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
        peer: arrival.peer,
        protocol,
        notes: None,
        early: Mutex::new(early),
        switched: Mutex::default(),
    }
}
