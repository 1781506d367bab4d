//! WebSockets and other upgrades in HTTP/1.1. The handshake is handled like any request. After the
//! origin's 101, bytes are relayed, counted and time-limited, and those from the origin are
//! searched for real keys.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use interceptor_policy::Reason;
use interceptor_policy::redact::{Ended, Redactor, StreamGuard};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::body::Download;
use super::exchange::Exchange;
use super::flight::Flight;
use super::inject::strip_hop_by_hop;
use super::offers::Switch;
use super::redact::{Guarded, Unguarded};
use super::refuse::too_many;
use crate::audit::Protocol;
use crate::credential::KeyWatch;
use crate::proxy::budget::Allowance;
use crate::tunnel::{Carried, one_way_wrapped};
use crate::upstream::pool::Answer;

/// Both ends of an upgraded connection, and its guards.
#[derive(Debug)]
pub(super) struct Wires {
    /// The sandbox's half.
    pub sandbox: OnUpgrade,
    /// The protocol.
    pub switch: Switch,
    /// The keys to search for, if any.
    pub redactor: Option<Redactor>,
    /// Tells of those that become known.
    pub watch: KeyWatch,
    /// How much may still be sent to this host.
    pub allowance: Option<Allowance>,
}

/// Answers 101 and relays until either side ends, in a task owned by the sandbox.
pub(super) fn switch(
    mut flight: Box<Flight<'_>>,
    mut response: Response<Answer>,
    wires: Wires,
) -> Response<Download> {
    let Wires { sandbox, switch, redactor, watch, allowance } = wires;
    let origin = hyper::upgrade::on(&mut response);
    let mut guard = None;
    if let Some(redactor) = redactor {
        let found = redactor.headers(response.headers_mut());
        if let Err(error) = flight.exchange.echoed(found) {
            return too_many(flight, error);
        }
        guard = Some(match switch {
            Switch::WebSocket => redactor.web_socket(),
            Switch::Other(_) | Switch::None => redactor.unknown_protocol(),
        });
    }
    let idle = flight.limits().tunnel_idle_timeout;
    let Flight { context, mut exchange, .. } = *flight;
    exchange.note(|record| {
        record.status = Some(StatusCode::SWITCHING_PROTOCOLS.as_u16());
        // A handshake that the origin declines stays HTTP.
        record.protocol = match switch {
            Switch::WebSocket => Some(Protocol::Ws),
            Switch::Other(_) => Some(Protocol::Tcp),
            Switch::None => record.protocol,
        };
    });
    exchange.forwarded();
    let span = exchange.span().clone();
    let carried = Carried::new(exchange.metrics().clone(), allowance);
    let ends = Ends {
        over: context.over.clone(),
        close: context.close.clone(),
        cut: exchange.cut().unwrap_or_default(),
    };
    let open = Upgraded { sandbox, origin, guard, watch, carried };
    let carries = carry(open, idle, ends, exchange);
    let task = context.sandbox.tasks.spawn(carries.instrument(span));
    *context.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    switched(response)
}

/// The 101 response to the sandbox.
fn switched(response: Response<Answer>) -> Response<Download> {
    let (mut head, _) = response.into_parts();
    let protocol = head.headers.get(UPGRADE).cloned();
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(UPGRADE, protocol);
    }
    Response::from_parts(head, Download::unrecorded(Bytes::new()))
}

/// What ends an upgraded connection from outside: whatever would cut off its request or close its
/// connection.
struct Ends {
    over: CancellationToken,
    close: CancellationToken,
    cut: CancellationToken,
}

/// Both halves of an upgraded connection.
struct Upgraded {
    sandbox: OnUpgrade,
    origin: OnUpgrade,
    guard: Option<StreamGuard>,
    watch: KeyWatch,
    carried: Carried,
}

/// Relays an upgraded connection until it ends, and records it.
async fn carry(open: Upgraded, idle: Duration, ends: Ends, mut exchange: Exchange) {
    let Upgraded { sandbox, origin, guard, watch, carried } = open;
    let Ends { over, close, cut } = ends;
    let ended = tokio::select! {
        ended = both_ways((sandbox, origin), guard, watch, &carried) => ended,
        silent = carried.silence(idle) => silent,
        () = over.cancelled() => Ok(()),
        () = close.cancelled() => Ok(()),
        () = cut.cancelled() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "upgraded connection ended");
        match error.get_ref().and_then(|error| error.downcast_ref::<Ended>()) {
            Some(Ended::Key) => {
                // It ends either way; past the limit the record says so.
                let _ = exchange.echoed(1 + exchange.keys_echoed());
            }
            Some(Ended::Broken(_)) => {
                exchange.note(|record| record.reason = Some(Reason::UpstreamProtocol));
            }
            Some(Ended::Late(_)) => {
                exchange.note(|record| record.reason = Some(Reason::KeysChanged));
            }
            None => {}
        }
    }
    let revoked = (close.is_cancelled() || cut.is_cancelled()).then_some(Reason::HostDenied);
    exchange.ended(carried.limit().or_else(|| exchange.activity().limit()).or(revoked));
    exchange.up().store(carried.up.load(Ordering::Relaxed), Ordering::Relaxed);
    exchange.note_down(carried.down.load(Ordering::Relaxed));
}

/// Relays both directions; bytes from the origin pass its guard.
async fn both_ways(
    (sandbox, origin): (OnUpgrade, OnUpgrade),
    guard: Option<StreamGuard>,
    watch: KeyWatch,
    carried: &Carried,
) -> io::Result<()> {
    let (sandbox, origin) = tokio::try_join!(sandbox, origin).map_err(io::Error::other)?;
    let (from_sandbox, to_sandbox) = tokio::io::split(TokioIo::new(sandbox));
    let (from_origin, to_origin) = tokio::io::split(TokioIo::new(origin));
    let up = one_way_wrapped(from_sandbox, to_origin, |bytes| carried.take_up(bytes));
    let count = |bytes| carried.take_down(bytes);
    let down = async {
        match guard {
            Some(guard) => {
                let guarded = Guarded::new(from_origin, guard).following(watch);
                one_way_wrapped(guarded, to_sandbox, count).await
            }
            None => one_way_wrapped(Unguarded::new(from_origin, watch), to_sandbox, count).await,
        }
    };
    tokio::try_join!(up, down).map(|_| ())
}
