//! A WebSocket after its handshake (RFC 6455): the handshake was judged as a request; from the origin's 101 on the bytes
//! are carried, counted and limited in time, and what an origin sends on a governed host is watched for the real key.

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
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tracing::Instrument as _;

use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use super::forward::answer_failure;
use super::inject::strip_hop_by_hop;
use super::redact::Guarded;
use super::refuse::refusal;
use super::serve::Judged;
use crate::policy::Reason;
use crate::proxy::budget::Allowance;
use crate::tunnel::Carried;

/// Bytes read at once, per direction.
const BUFFER: usize = 32 * 1024;

/// Answers 101 and carries the connection until it ends, in a task that the sandbox owns.
pub(crate) fn switch(
    context: &Arc<Context>,
    judged: &Judged,
    parts: &Parts,
    mut response: Response<Incoming>,
    sandbox: OnUpgrade,
    allowance: Option<Allowance>,
    mut exchange: Exchange,
) -> Response<Download> {
    let origin = hyper::upgrade::on(&mut response);
    let idle = judged.rules.policy.limits().tunnel_idle_timeout;
    let guard = match judged.redactor() {
        None => None,
        Some(Ok(redactor)) => {
            redactor.headers(response.headers_mut());
            Some(redactor.guard())
        }
        Some(Err(error)) => {
            let message = format!("the answer of `{}` was not passed on: {error}", judged.host);
            let deny = refusal(Reason::UpstreamProtocol, message);
            return answer_failure(judged, parts, deny, exchange);
        }
    };
    exchange.note(|record| record.status = Some(StatusCode::SWITCHING_PROTOCOLS.as_u16()));
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
            tracing::debug!(%error, "a WebSocket ended");
        }
        exchange.ended(carried.limit());
        up.store(carried.up.load(Ordering::Relaxed), Ordering::Relaxed);
        exchange.note_down(carried.down.load(Ordering::Relaxed));
    };
    let task = context.sandbox.tasks.spawn(carries.instrument(span));
    *context.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    let (mut head, _) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
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
