//! One redirected connection, from its first bytes until another module serves it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use interceptor_policy::{Decision, Reason};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::arrival::Arrival;
use super::classify::{Spoken, classify};
use super::native;
use super::raw;
use super::serve::{Rest, clear};
use super::tls::tls;
use super::tunnelled::unless_refused;
use crate::audit::Protocol;
use crate::http::activity::Activity;
use crate::proxy::Sandbox;

/// How long a connection at its maximum age may take to answer its pending requests.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Size in bytes of the first read.
const FIRST: usize = 4096;
/// How long to wait for the client on a port where the server speaks first. If its greeting format
/// is known, the client then gets a refusal instead of waiting.
const GREETING_AWAITED: Duration = Duration::from_secs(2);

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

/// Finds out how to serve a connection, then serves it. What the first needs is in memory of its
/// own, which is given back before the second begins.
fn attend(arrival: Arrival, stream: TcpStream) -> impl Future<Output = ()> + Send {
    let finding = Box::pin(find_out(arrival, stream));
    async move {
        if let Some(rest) = finding.await {
            rest.await;
        }
    }
}

/// Finds out how to serve a connection. `None` if it ended.
async fn find_out(mut arrival: Arrival, mut stream: TcpStream) -> Option<Rest> {
    if arrival.rules.policy.may_ask() {
        arrival.peer = stream.as_fd().try_clone_to_owned().ok();
    }
    if let Decision::Allow(allow) =
        arrival.rules.policy.decide_raw(&arrival.host(), arrival.asked.port())
    {
        return raw::serve(arrival, stream, allow).await;
    }
    let mut first = BytesMut::new();
    let spoken = match recognise(&arrival, &mut stream, &mut first).await {
        Ok(Some(spoken)) => spoken,
        // Closed, or silent for too long, before it sent anything.
        Ok(None) => return None,
        Err(error) => {
            tracing::debug!(%error, "connection ended before its protocol was known");
            return None;
        }
    };
    match spoken {
        Spoken::Tls => Box::pin(tls(arrival, stream, first, None)).await,
        Spoken::Http1 | Spoken::Http2 => Some(clear(arrival, stream, first, spoken)),
        Spoken::Other => {
            let host = arrival.host();
            Some(Box::pin(unless_refused(arrival, stream, first, host, Protocol::Tcp, None)))
        }
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
