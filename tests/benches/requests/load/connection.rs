//! A connection to the contender, and requests on it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Way;
use crate::world::{HOST, KEY_VARIABLE};

/// How long a connection, or the head of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than the head of any proxy's answer to `CONNECT`.
const CONNECT_HEAD: usize = 4096;

/// Where connections go.
pub(crate) struct Target {
    way: Way,
    h1: TlsConnector,
    h2: TlsConnector,
    /// The authentication of every request.
    pub(crate) authorization: String,
}

/// A connection, ready for requests.
pub(crate) enum Sender {
    H1(http1::SendRequest<Upload>),
    H2(http2::SendRequest<Upload>),
}

/// A request body of this many bytes.
pub(crate) struct Upload {
    left: u64,
    piece: Bytes,
}

impl Target {
    pub(crate) fn new(way: &Way) -> Result<Arc<Target>> {
        let roots = roots(way)?;
        // In the sandbox this is a placeholder.
        let key = std::env::var(KEY_VARIABLE).unwrap_or_else(|_| "nothing".to_owned());
        Ok(Arc::new(Target {
            way: way.clone(),
            h1: tls(roots.clone(), b"http/1.1")?,
            h2: tls(roots, b"h2")?,
            authorization: format!("Bearer {key}"),
        }))
    }

    /// The address to connect to for `host`.
    pub(crate) async fn address(&self, host: &str, h2: bool) -> Result<SocketAddr> {
        let fixed = if h2 { self.way.to_h2.or(self.way.to) } else { self.way.to };
        match fixed {
            Some(address) => Ok(address),
            None => {
                let mut addresses = tokio::net::lookup_host((host, 443)).await?;
                addresses.next().context("the name leads nowhere")
            }
        }
    }

    /// Connects to the contender over TCP.
    pub(crate) async fn tcp(&self, host: &str, to: SocketAddr) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(to).await.context("connect")?;
        stream.set_nodelay(true)?;
        if self.way.connect {
            let head = format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                ensure!(answer.len() < CONNECT_HEAD, "the answer to CONNECT has no end");
                ensure!(stream.read_buf(&mut answer).await? > 0, "no answer to CONNECT");
            }
            let answer = String::from_utf8_lossy(&answer);
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        Ok(stream)
    }

    pub(crate) async fn connect(&self, host: &str, to: SocketAddr, h2: bool) -> Result<Sender> {
        tokio::time::timeout(PATIENCE, self.connect_patiently(host, to, h2))
            .await
            .context("connecting")?
    }

    async fn connect_patiently(&self, host: &str, to: SocketAddr, h2: bool) -> Result<Sender> {
        let stream = self.tcp(host, to).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let tls = if h2 { &self.h2 } else { &self.h1 };
        let stream = TokioIo::new(tls.connect(name, stream).await.context("TLS")?);
        if h2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(1 << 20)
                .handshake(stream)
                .await?;
            tokio::spawn(connection);
            return Ok(Sender::H2(sender));
        }
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Sender::H1(sender))
    }

    /// The usual host.
    pub(crate) async fn connection(&self, h2: bool) -> Result<Sender> {
        let to = self.address(HOST, h2).await?;
        self.connect(HOST, to, h2).await
    }

    /// A request; with `up`, it uploads a body of that length.
    pub(crate) async fn ask(
        &self,
        sender: &mut Sender,
        host: &str,
        path: &str,
        up: Option<u64>,
    ) -> Result<Response<Incoming>> {
        let request = Request::builder().method(if up.is_some() { "PUT" } else { "GET" });
        let request = request.header("authorization", &self.authorization);
        let body = Upload { left: up.unwrap_or(0), piece: Bytes::from_static(&[0x5a; 64 << 10]) };
        let response = match sender {
            Sender::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request.uri(path).header("host", host).body(body)?).await?
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                let request = request.version(Version::HTTP_2).uri(format!("https://{host}{path}"));
                sender.send_request(request.body(body)?).await?
            }
        };
        ensure!(response.status().is_success(), "it answered {}", response.status());
        Ok(response)
    }

    /// Sends a request and reads its whole answer. Returns the answer's length.
    pub(crate) async fn fetch(
        &self,
        sender: &mut Sender,
        host: &str,
        path: &str,
        up: Option<u64>,
    ) -> Result<u64> {
        let (mut body, mut bytes) = (self.ask(sender, host, path, up).await?.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(bytes)
    }

    pub(crate) fn way(&self) -> &Way {
        &self.way
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Waking<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = self.left.min(self.piece.len() as u64);
        self.left -= length;
        let piece = self.piece.slice(..length as usize);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn roots(way: &Way) -> Result<RootCertStore> {
    let trust = way.trust.clone().or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(trust.context("nothing says what to trust")?)?
    {
        // A bundle may hold certificates that rustls rejects.
        let _ = roots.add(certificate?);
    }
    Ok(roots)
}

fn tls(roots: RootCertStore, protocol: &[u8]) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
