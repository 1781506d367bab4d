//! CONNECT (RFC 9110 section 9.3.6): asks a proxy for a tunnel, and trusts nothing else in its
//! answer. Of that, only the status is ever shown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{HostName, Reason};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error, InvalidMessage};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::attempts::list;
use super::wire::Wire;
use crate::tls::refusal;

/// The longest head of an answer, and the most interim answers before it.
const MOST_HEAD: usize = 16 * 1024;
const MOST_INTERIM: usize = 8;
/// The most header fields of an answer.
const MOST_FIELDS: usize = 128;

/// Where a tunnel leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum TunnelEnd<'a> {
    /// An address that the policy has judged.
    Address(SocketAddr),
    /// A name that the proxy resolves.
    Name(&'a HostName, u16),
}

impl fmt::Display for TunnelEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunnelEnd::Address(address) => address.fmt(f),
            TunnelEnd::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Why an upstream proxy did not open a tunnel. Each message completes a sentence that starts with
/// the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProblem {
    /// Its name cannot be resolved.
    #[error("cannot be looked up: {0}")]
    Lookup(String),
    /// Connecting to it failed.
    #[error("cannot be connected to: {}", list(.0))]
    Unreachable(Vec<(SocketAddr, io::Error)>),
    /// It did not answer in time.
    #[error("did not answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The TLS handshake with it failed.
    #[error("{0}")]
    Tls(&'static str),
    /// It requires a credential, and there is none.
    #[error(
        "requires a credential ({0}): put it into `proxy_auth`, beside `proxy` in the policy's \
         `upstream`"
    )]
    CredentialMissing(u16),
    /// It rejects the credential.
    #[error("did not accept the credential of `upstream.proxy_auth` ({0}): renew or correct it")]
    CredentialRefused(u16),
    /// It refuses the tunnel.
    #[error(
        "refused the connection with status {0}: let its rules permit it, or name the host in \
         `upstream.no_proxy`"
    )]
    Refused(u16),
    /// It could not reach the destination.
    #[error("could not reach it either, and answered with status {0}")]
    Unable(u16),
    /// It redirects.
    #[error(
        "answered with a redirect (status {0}), which is not followed: name the proxy that \
         `upstream.proxy` should lead to"
    )]
    Redirect(u16),
    /// It does not speak HTTP.
    #[error("does not answer in HTTP: check its scheme and port in `upstream.proxy`")]
    Malformed,
    /// The head of its answer is too long.
    #[error("sent more than {MOST_HEAD} bytes of header")]
    TooLarge,
    /// It sent a body where the tunnel should begin.
    #[error("sent a body with its answer to CONNECT, where the tunnel must begin: fix the proxy")]
    Body,
    /// It closed the connection.
    #[error("ended the connection without an answer")]
    Closed,
}

impl ProxyProblem {
    /// The `type` of the refusal.
    pub(super) fn reason(&self) -> Reason {
        match self {
            ProxyProblem::Lookup(_)
            | ProxyProblem::Unreachable(_)
            | ProxyProblem::CredentialMissing(_)
            | ProxyProblem::CredentialRefused(_)
            | ProxyProblem::Refused(_) => Reason::UpstreamUnreachable,
            ProxyProblem::Unable(504) | ProxyProblem::Timeout(_) => Reason::UpstreamTimeout,
            ProxyProblem::Unable(_) => Reason::UpstreamUnreachable,
            ProxyProblem::Tls(_) => Reason::UpstreamTls,
            ProxyProblem::Redirect(_)
            | ProxyProblem::Malformed
            | ProxyProblem::TooLarge
            | ProxyProblem::Body
            | ProxyProblem::Closed => Reason::UpstreamProtocol,
        }
    }
}

impl From<io::Error> for ProxyProblem {
    fn from(_: io::Error) -> ProxyProblem {
        ProxyProblem::Closed
    }
}

/// Performs the TLS handshake with a proxy.
pub(super) async fn secure(
    stream: TcpStream,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
) -> Result<Wire, ProxyProblem> {
    let shaken = TlsConnector::from(config.clone()).connect(name, stream).await;
    shaken.map(Wire::tls).map_err(|error| {
        tracing::debug!(%error, "the TLS handshake with an upstream proxy failed");
        ProxyProblem::Tls(match refusal::of_io(&error) {
            Some(Error::InvalidCertificate(_)) => {
                "has a certificate that is not trusted for its name: name its root in \
                 `upstream.ca` or --upstream-ca"
            }
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => "does not speak TLS on that port; if it speaks plain HTTP there, write http://",
            Some(_) => "did not complete the TLS handshake",
            None => "ended the connection during the TLS handshake",
        })
    })
}

/// Asks for a tunnel.
pub(super) async fn connect(
    wire: &mut Wire,
    end: TunnelEnd<'_>,
    authorization: Option<Zeroizing<String>>,
) -> Result<(), ProxyProblem> {
    let request = request(end, authorization.as_deref().map(String::as_str));
    wire.write_all(&request).await?;
    wire.flush().await?;
    let mut left = MOST_HEAD;
    for _ in 0..=MOST_INTERIM {
        let head = wire.read_through(b"\r\n\r\n", left).await?.ok_or(ProxyProblem::TooLarge)?;
        left = left.saturating_sub(head.len());
        match judge(&head, authorization.is_some())? {
            Answer::Tunnel => return Ok(()),
            Answer::Interim => {}
        }
    }
    Err(ProxyProblem::TooLarge)
}

/// The request, in memory that is not reallocated while it grows: it may hold a credential.
fn request(end: TunnelEnd<'_>, authorization: Option<&str>) -> Zeroizing<Vec<u8>> {
    let end = end.to_string();
    let parts = ["CONNECT ", &end, " HTTP/1.1\r\nhost: ", &end, "\r\n"];
    let field = authorization.map(|value| ["proxy-authorization: ", value, "\r\n"]);
    let all = || parts.into_iter().chain(field.into_iter().flatten()).chain(["\r\n"]);
    let mut request = Zeroizing::new(Vec::with_capacity(all().map(str::len).sum()));
    all().for_each(|part| request.extend_from_slice(part.as_bytes()));
    request
}

/// An acceptable answer.
#[derive(Debug, PartialEq)]
enum Answer {
    /// The tunnel is open.
    Tunnel,
    /// An interim answer: another follows.
    Interim,
}

/// Judges the head of an answer. A 2xx that announces a body is refused, although RFC 9110 section
/// 9.3.6 says to ignore its framing: such a body would be read as the origin's bytes.
fn judge(head: &[u8], was_authorized: bool) -> Result<Answer, ProxyProblem> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(head).map_err(|_| ProxyProblem::Malformed)?;
    let status = response.code.filter(|_| parsed.is_complete()).ok_or(ProxyProblem::Malformed)?;
    match status {
        101 => Err(ProxyProblem::Malformed),
        100..=199 => Ok(Answer::Interim),
        200..=299 => {
            let frames = |field: &httparse::Header<'_>| {
                field.name.eq_ignore_ascii_case("transfer-encoding")
                    || (field.name.eq_ignore_ascii_case("content-length")
                        && field.value.trim_ascii() != b"0")
            };
            if response.headers.iter().any(frames) {
                return Err(ProxyProblem::Body);
            }
            Ok(Answer::Tunnel)
        }
        300..=399 => Err(ProxyProblem::Redirect(status)),
        // Tinyproxy answers a wrong password with 401.
        401 | 407 if was_authorized => Err(ProxyProblem::CredentialRefused(status)),
        401 | 407 => Err(ProxyProblem::CredentialMissing(status)),
        502..=504 => Err(ProxyProblem::Unable(status)),
        400..=599 => Err(ProxyProblem::Refused(status)),
        _ => Err(ProxyProblem::Malformed),
    }
}
