//! WebSockets and other upgrades on HTTP/1.1. The handshake takes the way of every request; from the origin's 101 on the bytes
//! are carried, counted and limited in time, and what an origin sends is watched for real keys.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use interceptor_policy::Reason;
use interceptor_policy::redact::{Ended, Redactor};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tracing::Instrument as _;

use super::answer::too_many;
use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use super::inject::strip_hop_by_hop;
use super::offers::Switch;
use super::redact::Guarded;
use super::serve::Judged;
use crate::audit::Protocol;
use crate::proxy::budget::Allowance;
use crate::tunnel::Carried;

/// Bytes read at once, per direction.
const BUFFER: usize = 32 * 1024;

/// What is connected, and how it is watched.
#[derive(Debug)]
pub(super) struct Wires {
    /// The sandbox's half.
    pub sandbox: OnUpgrade,
    /// The protocol.
    pub switch: Switch,
    /// The keys to look for, where there are any.
    pub redactor: Option<Redactor>,
    /// What may still be sent to this host.
    pub allowance: Option<Allowance>,
}

/// Answers 101 and carries the connection until it ends, in a task that the sandbox owns.
pub(super) fn switch(
    context: &Arc<Context>,
    judged: &Judged,
    parts: &Parts,
    mut response: Response<Incoming>,
    wires: Wires,
    mut exchange: Exchange,
) -> Response<Download> {
    let Wires { sandbox, switch, redactor, allowance } = wires;
    let protocol = response.headers().get(UPGRADE).cloned();
    let origin = hyper::upgrade::on(&mut response);
    let idle = judged.rules.policy.limits().tunnel_idle_timeout;
    let mut guard = None;
    if let Some(redactor) = redactor {
        let found = redactor.headers(response.headers_mut());
        if let Err(error) = exchange.echoed(found) {
            return too_many(judged, parts, error, exchange);
        }
        guard = Some(match switch {
            Switch::WebSocket => redactor.web_socket(),
            Switch::Other(_) | Switch::None => redactor.unknown_protocol(),
        });
    }
    exchange.note(|record| {
        record.status = Some(StatusCode::SWITCHING_PROTOCOLS.as_u16());
        // A handshake that the origin declines is HTTP to its end.
        record.protocol = match switch {
            Switch::WebSocket => Some(Protocol::Ws),
            Switch::Other(_) => Some(Protocol::Tcp),
            Switch::None => record.protocol,
        };
    });
    exchange.forwarded();
    let span = exchange.span().clone();
    let over = context.over.clone();
    // A connection that was upgraded is closed as its handshake would be cut off, or as the connection that it was.
    let (close, cut) = (context.close.clone(), exchange.cut().unwrap_or_default());
    let carries = async move {
        let carried = Carried::new(exchange.metrics().clone(), allowance);
        let up = exchange.up();
        let both = async {
            let (sandbox, origin) = tokio::try_join!(sandbox, origin).map_err(io::Error::other)?;
            let (from_sandbox, to_sandbox) = tokio::io::split(TokioIo::new(sandbox));
            let (from_origin, to_origin) = tokio::io::split(TokioIo::new(origin));
            tokio::try_join!(one_way(from_sandbox, to_origin, |bytes| carried.take_up(bytes)), async {
                match guard {
                    Some(guard) => {
                        one_way(Guarded::new(from_origin, guard), to_sandbox, |bytes| {
                            carried.take_down(bytes)
                        })
                        .await
                    }
                    None => one_way(from_origin, to_sandbox, |bytes| carried.take_down(bytes)).await,
                }
            },)
        };
        let ended = tokio::select! {
            ended = both => ended.map(|_| ()),
            silent = carried.silence(idle) => silent,
            () = over.cancelled() => Ok(()),
            () = close.cancelled() => Ok(()),
            () = cut.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "upgraded connection ended");
            match error.get_ref().and_then(|error| error.downcast_ref::<Ended>()) {
                Some(Ended::Key) => {
                    // It ends in any case; with too many of them the record says so.
                    let _ = exchange.echoed(1 + exchange.keys_echoed());
                }
                Some(Ended::Broken(_)) => {
                    exchange.note(|record| record.reason = Some(Reason::UpstreamProtocol));
                }
                None => {}
            }
        }
        let revoked = (close.is_cancelled() || cut.is_cancelled()).then_some(Reason::HostDenied);
        exchange.ended(carried.limit().or_else(|| exchange.activity().limit()).or(revoked));
        up.store(carried.up.load(Ordering::Relaxed), Ordering::Relaxed);
        exchange.note_down(carried.down.load(Ordering::Relaxed));
    };
    let task = context.sandbox.tasks.spawn(carries.instrument(span));
    *context.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    let (mut head, _) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(UPGRADE, protocol);
    }
    Response::from_parts(head, Download::unrecorded(Bytes::new()))
}

/// Carries one direction to its end.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        count(read as u64)?;
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}
