//! A WebSocket after its handshake (RFC 6455): the handshake was judged as a request; from the origin's 101 on the bytes
//! are carried, counted and limited in time, and what an origin sends on a governed host is watched for the real key.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use super::forward::answer_failure;
use super::inject::strip_hop_by_hop;
use super::redact::Guarded;
use super::refuse::refusal;
use super::serve::Judged;
use crate::policy::Reason;
use crate::tunnel::{Carried, silence};

/// Bytes read at once, per direction.
const BUFFER: usize = 32 * 1024;

/// Answers 101 and carries the connection until it ends, in a task that the sandbox owns.
pub(crate) fn switch(
    context: &Arc<Context>,
    judged: &Judged,
    parts: &Parts,
    mut response: Response<Incoming>,
    sandbox: OnUpgrade,
    mut exchange: Exchange,
) -> Response<Download> {
    let origin = hyper::upgrade::on(&mut response);
    let idle = judged.rules.policy.limits().idle_timeout;
    let guard = match judged.redactor(context.identity.scheme, context.identity.port) {
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
    let id = exchange.id();
    let stop = context.sandbox.stopping();
    // A connection that was upgraded is closed as its handshake would be cut off, or as the connection that it was.
    let (close, cut) = (context.close.clone(), exchange.cut().unwrap_or_default());
    let context_of_it = context.clone();
    context.sandbox.tasks.spawn(async move {
        let carried = Carried::default();
        let up = exchange.up();
        let both = async {
            let (sandbox, origin) = tokio::try_join!(sandbox, origin).map_err(io::Error::other)?;
            let (from_sandbox, to_sandbox) = tokio::io::split(TokioIo::new(sandbox));
            let (from_origin, to_origin) = tokio::io::split(TokioIo::new(origin));
            tokio::try_join!(one_way(from_sandbox, to_origin, &carried.up), async {
                match guard {
                    Some(guard) => one_way(Guarded::new(from_origin, guard), to_sandbox, &carried.down).await,
                    None => one_way(from_origin, to_sandbox, &carried.down).await,
                }
            },)
        };
        let ended = tokio::select! {
            ended = both => ended.map(|_| ()),
            () = silence(&carried, idle) => Err(io::ErrorKind::TimedOut.into()),
            () = stop.cancelled() => Ok(()),
            () = close.cancelled() => Ok(()),
            () = cut.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%id, %error, "a WebSocket ended");
        }
        up.store(carried.up.load(Ordering::Relaxed), Ordering::Relaxed);
        exchange.add_down(carried.down.load(Ordering::Relaxed));
        // Until here the connection is among the sandbox's open ones.
        drop(context_of_it);
    });
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
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}
