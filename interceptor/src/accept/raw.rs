//! Connections that a `tcp://` rule permits. Who speaks first decides: if the client begins with
//! HTTP, the connection is served as HTTP. TLS and anything else is tunnelled unopened, and so is a
//! server that greets first.
//!
//! If the client does not speak at once, the origin is dialled. So a server that speaks first is
//! heard without waiting for the client: its bytes are awaited, not a timeout.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use interceptor_policy::{Allow, Host};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::arrival::Arrival;
use super::classify::{Spoken, classify};
use super::prefixed::Prefixed;
use super::serve::{Rest, clear};
use super::tls::tls;
use super::tunnelled::tunnel;
use super::way::{DialResult, find};
use crate::audit::Protocol;

/// How long a client has to speak before the origin is dialled: HTTP needs no tunnel.
const HEAD_START: Duration = Duration::from_millis(50);
/// How long to wait for more from a client whose first bytes do not yet show whether it speaks
/// HTTP, or for any bytes if the origin cannot be reached: HTTP can explain that, other protocols
/// get a reset.
const LAST_WORD: Duration = Duration::from_millis(150);

/// Finds out how to serve a connection that a rule permits to be tunnelled. `None` if it ended.
pub(super) async fn serve(
    mut arrival: Arrival,
    mut stream: TcpStream,
    allow: Allow,
) -> Option<Rest> {
    let mut first = BytesMut::with_capacity(4096);
    let host = arrival.host();
    let (spoken, way) = meet(&arrival, &host, &mut stream, &mut first).await;
    // A dial for the tunnel counts as the request that arrives instead.
    arrival.unasked.counted = matches!(way, Some(Ok(_)));
    match spoken {
        Spoken::Http1 | Spoken::Http2 => Some(clear(arrival, stream, first, spoken)),
        Spoken::Tls => tls(arrival, stream, first, way).await,
        Spoken::Other => {
            let stream = Prefixed { first, stream };
            let tunnel = async move {
                tunnel(arrival, stream, host, Protocol::Tcp, &allow, way).await;
            };
            Some(Box::pin(tunnel))
        }
    }
}

/// Waits until either side has spoken. Returns the client's protocol, or `Other`, and the
/// connection to the origin if one was dialled.
async fn meet(
    arrival: &Arrival,
    host: &Host,
    stream: &mut TcpStream,
    first: &mut BytesMut,
) -> (Spoken, Option<DialResult>) {
    let begun = Instant::now();
    let mut deadline = begun + arrival.rules.policy.limits().header_timeout;
    let mut way: Option<DialResult> = None;
    let mut finding = pin!(async {
        sleep_until(begun + HEAD_START).await;
        find(arrival, host).await
    });
    loop {
        let is_looking = way.is_none();
        let greeted = async {
            match &mut way {
                // Also if it has closed or failed; the tunnel will notice.
                Some(Ok((dialed, _))) => dialed.stream.readable().await,
                _ => pending().await,
            }
        };
        tokio::select! {
            read = stream.read_buf(first) => match read {
                Ok(count) if count > 0 => {
                    if let Some(spoken) = classify(first) {
                        return (spoken, way);
                    }
                    // A byte or two may be all it sends until it is answered.
                    deadline = deadline.min(Instant::now() + LAST_WORD);
                }
                // It may have sent all it wanted and still be reading.
                _ => return (Spoken::Other, way),
            },
            found = &mut finding, if is_looking => {
                if found.is_err() {
                    deadline = deadline.min(Instant::now() + LAST_WORD);
                }
                way = Some(found);
            }
            () = greeted => return (Spoken::Other, way),
            () = sleep_until(deadline) => return (Spoken::Other, way),
        }
    }
}
