//! Requests of the interceptor's own, to the services that give keys: one request, one answer.
//!
//! A [`Client`] takes the sandbox's road (`--resolve`, the upstream proxy, its roots), but no
//! policy judges where it goes: the operator named the service, so its address may be private.
//! A redirect is not followed, a coding that was not offered is not decoded, and an answer has a
//! bound and a deadline. What a service says is nobody's to read but its source's: no error quotes
//! it.
//!
//! The HTTP library does not zeroize its buffers; they are freed with the connection, which ends
//! with the answer.

mod answer;
#[cfg(test)]
pub(crate) mod doubles;
mod error;
mod request;
#[cfg(test)]
mod tests;

use std::fmt;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use interceptor_policy::{Catalogue, Host, Policy, Scheme, ServiceUrl, check};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

pub(crate) use self::answer::Answer;
pub(crate) use self::error::FetchError;
pub(crate) use self::request::Request;
use crate::upstream::{Road, Terms, Upstream};

/// Any host and any address: the operator named it.
const ANYWHERE: &str = r#"{"network":{"allow":["*","0.0.0.0/0","::/0"]}}"#;
/// The most bytes and fields of an answer's head.
const MOST_HEAD: usize = 32 * 1024;
const MOST_FIELDS: usize = 100;

/// Asks services, by one road.
pub(crate) struct Client {
    upstream: Upstream,
    road: Road,
    /// To this host's own services, which no proxy can reach.
    direct: Road,
    policy: Policy,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client on this road.
    ///
    /// # Errors
    /// None that can happen: that any host is permitted is a constant.
    pub(crate) fn new(upstream: Upstream, road: Road) -> Result<Client, FetchError> {
        let policy = check(ANYWHERE, &Catalogue::builtin()).policy.ok_or(FetchError::Failed)?;
        let direct = Road::direct(road.tls.anew());
        Ok(Client { upstream, road, direct, policy })
    }

    /// Sends a request, and waits for its whole answer on this thread, however long the service
    /// makes it wait, at most `limit`. Any status but a redirect is an answer.
    ///
    /// # Errors
    /// Why there is no answer; see [`FetchError`].
    pub(crate) fn send(&self, request: &Request, limit: Duration) -> Result<Answer, FetchError> {
        // A thread of its own: this one may belong to a runtime, which must not be blocked in it.
        thread::scope(|scope| {
            let name = "fetch".to_owned();
            let sending = thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, || self.send_here(request, limit));
            sending.map_err(FetchError::Unstarted)?.join().unwrap_or(Err(FetchError::Failed))
        })
    }

    fn send_here(&self, request: &Request, limit: Duration) -> Result<Answer, FetchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(FetchError::Unstarted)?;
        let answer = runtime.block_on(async {
            let exchange = tokio::time::timeout(limit, self.exchange(request));
            exchange.await.unwrap_or(Err(FetchError::Timeout(limit)))
        });
        runtime.shutdown_background();
        answer
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, FetchError> {
        let ServiceUrl { scheme, host, port, .. } = &request.url;
        let is_loopback = matches!(host, Host::Ip(address) if address.is_loopback());
        let road = if is_loopback { &self.direct } else { &self.road };
        let terms = Terms { policy: &self.policy, road };
        // Its connections to name servers belong to this runtime.
        let upstream = self.upstream.separate();
        let dialed = upstream.connect(terms, *scheme, host, *port).await?;
        if *scheme == Scheme::Http {
            return speak(dialed.stream, request).await;
        }
        let name = match host {
            Host::Ip(address) => ServerName::IpAddress((*address).into()),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|_| FetchError::Tls("has a name that no certificate can hold"))?,
        };
        let connector =
            TlsConnector::from(request.tls.as_ref().unwrap_or_else(|| road.tls.h1()).clone());
        let secured = connector.connect(name, dialed.stream).await;
        speak(secured.map_err(|error| FetchError::of_tls(&error))?, request).await
    }
}

/// One exchange on a connection of its own.
async fn speak<S>(stream: S, request: &Request) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST_HEAD).max_headers(MOST_FIELDS);
    let shaken = builder.handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|_| FetchError::Http)?;
    let request = request.message()?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|_| FetchError::Http)?;
        answer::read(response).await
    };
    // Nobody else drives the connection, which ends with the exchange.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // What came before its end is still read; what is missing is the exchange's error.
        _ = connection => exchange.await,
    }
}
