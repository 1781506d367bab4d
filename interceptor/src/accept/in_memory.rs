//! A connection between two streams in memory, for counting what a request costs: as if its TLS had
//! been terminated, and as if its origin had been dialled. All that is between is what serves every
//! connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use interceptor_policy::{Host, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::arrival::Arrival;
use super::serve::context;
use crate::audit::Protocol;
use crate::http;
use crate::http::activity::Activity;
use crate::http::authority::Identity;
use crate::proxy::Sandbox;

/// Where everything leads. It is never dialled.
const ASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

/// Serves a sandbox's connection to `host`, HTTP/1.1 or HTTP/2 on both sides, until it ends.
///
/// # Errors
/// If HTTP cannot begin on `origin`.
#[doc(hidden)]
pub async fn serve_in_memory<C, O>(
    sandbox: Arc<Sandbox>,
    host: Host,
    (client, origin): (C, O),
    h2: bool,
) -> hyper::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    O: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let rules = sandbox.rules();
    let (scheme, port) = (Scheme::Https, ASKED.port());
    let credential = rules.policy.governing(scheme, &host, port).first().copied();
    let key = rules.pool_key(scheme, host.clone(), port, credential);
    drop(rules);
    sandbox.pool.adopt(key, origin, Some(ASKED), h2).await?;
    let arrival = Arrival::new(sandbox, ASKED, Arc::<Activity>::default());
    let identity = Identity { scheme, port, host, open: false, mismatch: None };
    let protocol = if h2 { Protocol::H2 } else { Protocol::H1 };
    let context = context(arrival, Some(identity), protocol, None);
    if h2 {
        http::connection::h2(client, context).await;
    } else {
        http::connection::h1(client, BytesMut::new(), context).await;
    }
    Ok(())
}
