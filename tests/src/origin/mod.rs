//! The "internet" of a test: HTTP origins on loopback, over TLS (HTTP/1.1 and HTTP/2 by ALPN, a
//! certificate for any name) and in plain HTTP, that record every request they parsed and answer by
//! its path ([`answer`]); and listeners of other kinds ([`listen`]).

pub mod answer;
pub mod api;
pub mod body;
mod git;
pub mod listen;
pub mod names;
pub mod record;
pub mod websocket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::{ByName, Ca, Flaw};
use record::Records;

/// The shared state of a lab's origins: their records, and the gate that a test opens.
#[derive(Debug, Default)]
pub struct Shared {
    /// The requests that were parsed.
    pub records: Records,
    /// Opened by the test; `/gated` waits for it.
    pub gate: tokio::sync::Notify,
    /// The pieces that the test has said so far; `/said` answers with each of them. An empty one is
    /// the end.
    pub said: tokio::sync::watch::Sender<Vec<Bytes>>,
    /// Connections accepted so far, including failed TLS handshakes.
    pub connections: AtomicUsize,
    /// TLS handshakes that failed.
    pub failed_handshakes: AtomicUsize,
    /// TLS handshakes that resumed a session.
    pub resumed_handshakes: AtomicUsize,
    /// Requests whose client went away before the answer was complete.
    pub vanished: AtomicUsize,
    /// The directory of the repositories served at `/OWNER/NAME.git/`, and the token they require.
    pub repositories: OnceLock<(PathBuf, String)>,
    /// Whether the API of models opens no WebSocket.
    pub refuses_websockets: AtomicBool,
    /// Files served at their paths, with precedence: media type and content.
    pub files: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
}

/// An HTTP origin.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// The properties of a connection that its requests share.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) number: usize,
    pub(crate) sni: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) tls: bool,
}

impl Origin {
    /// An origin over TLS. `protocols` are offered by ALPN in this order; `flaws` are names whose
    /// certificate is bad.
    pub fn tls(
        runtime: &Handle,
        shared: Arc<Shared>,
        ca: Arc<Ca>,
        protocols: &[&str],
        flaws: Vec<(String, Flaw)>,
    ) -> Origin {
        let config = server_config(ca, protocols, flaws);
        Origin::start(runtime, shared, Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// An origin over TLS that asks clients for a certificate of this root (PEM), and requires one
    /// if `required`.
    pub fn mutual(
        runtime: &Handle,
        shared: Arc<Shared>,
        ca: Arc<Ca>,
        protocols: &[&str],
        (root, required): (&str, bool),
    ) -> Origin {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(root.as_bytes()).expect("a root");
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has both versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_cert_resolver(Arc::new(ByName::new(ca, vec![])));
        config.alpn_protocols = protocols.iter().map(|&name| name.as_bytes().to_vec()).collect();
        Origin::start(runtime, shared, Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// A plain HTTP/1.1 origin.
    pub fn plain(runtime: &Handle, shared: Arc<Shared>) -> Origin {
        Origin::start(runtime, shared, None)
    }

    fn start(runtime: &Handle, shared: Arc<Shared>, tls: Option<TlsAcceptor>) -> Origin {
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        Origin { address, accepting: runtime.spawn(accept(listener, shared, tls)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The common name in a certificate.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

fn server_config(ca: Arc<Ca>, protocols: &[&str], flaws: Vec<(String, Flaw)>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has both versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(ca, flaws)));
    config.alpn_protocols = protocols.iter().map(|&name| name.as_bytes().to_vec()).collect();
    config
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            let number = shared.connections.fetch_add(1, Ordering::SeqCst);
            // Without it Nagle's algorithm would distort measurements of the proxy.
            let _ = stream.set_nodelay(true);
            serve(stream, number, shared, tls).await;
        });
    }
}

async fn serve(stream: TcpStream, number: usize, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let Some(tls) = tls else {
        let connection = Connection { number, sni: None, client: None, tls: false };
        return serve_http1(stream, connection, shared).await;
    };
    let Ok(stream) = tls.accept(stream).await else {
        shared.failed_handshakes.fetch_add(1, Ordering::SeqCst);
        return;
    };
    let session = stream.get_ref().1;
    let client = session.peer_certificates().and_then(|chain| common_name(chain.first()?));
    let sni = session.server_name().map(str::to_owned);
    if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        shared.resumed_handshakes.fetch_add(1, Ordering::SeqCst);
    }
    let connection = Connection { number, sni, client, tls: true };
    if session.alpn_protocol() == Some(b"h2") {
        serve_http2(stream, connection, shared).await;
    } else {
        serve_http1(stream, connection, shared).await;
    }
}

// Both serve until the peer is done. Ignore errors of the connection; the test sees their effects.

async fn serve_http1<S>(stream: S, connection: Connection, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| handle(request, connection.clone(), shared.clone()));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn serve_http2<S>(stream: S, connection: Connection, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| handle(request, connection.clone(), shared.clone()));
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1000)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(
    request: hyper::Request<Incoming>,
    connection: Connection,
    shared: Arc<Shared>,
) -> Result<hyper::Response<body::Frames>, Infallible> {
    let index = shared.records.add(&request, &connection);
    let head = request.method() == hyper::Method::HEAD;
    let response = answer::answer(request, index, shared).await;
    Ok(if head { without_body(response) } else { response })
}

/// The answer to HEAD, which hyper leaves to its users over HTTP/2.
fn without_body(response: hyper::Response<body::Frames>) -> hyper::Response<body::Frames> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.insert("content-length", length.into());
    }
    hyper::Response::from_parts(parts, body::Frames::none())
}
