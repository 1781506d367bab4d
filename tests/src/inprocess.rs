//! The proxy within this process: real listeners, TLS and origins, but no kernel half. Clients
//! connect straight to the listeners, each of which stands for one port. For tests of the library
//! (its metrics), and for measurements without the kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use interceptor::accept::accept;
use interceptor::audit::Audit;
use interceptor::credential::Keyring;
use interceptor::proxy::{Runtime, RuntimeOptions, Sandbox, Serving};
use interceptor::seam::{Destinations, Listeners};
use interceptor::upstream::{Overrides, Upstream, UpstreamOptions};
use interceptor_policy::{Catalogue, Document, Policy};
use nix::sys::socket::{SockaddrIn, getsockname};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::lab::Lab;

/// The original destination of every connection.
const ASKED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The state that sandboxes share.
///
/// # Panics
/// When it cannot be set up.
pub fn runtime(lab: &Lab, audit: Audit, names: &[&str]) -> Arc<Runtime> {
    let overrides: Vec<_> = names
        .iter()
        .flat_map(|name| {
            [format!("{name}:443:{}", lab.origin()), format!("{name}:80:{}", lab.plain())]
        })
        .map(|text| text.parse().expect("a rule of --resolve"))
        .collect();
    let overrides: Overrides = overrides.into_iter().collect();
    let upstream = Upstream::new(UpstreamOptions { overrides, ..UpstreamOptions::default() });
    let upstream_ca = vec![lab.directory().join("upstream-ca.pem")];
    Runtime::new(RuntimeOptions { upstream, upstream_ca, roots: vec![], audit }).expect("a runtime")
}

/// A sandbox being served.
#[derive(Debug)]
pub struct Served {
    /// Dropping it ends the sandbox.
    pub serving: Serving,
    /// The listener for its connections to port 443.
    pub tls: SocketAddr,
    /// The same for port 80.
    pub plain: SocketAddr,
    /// Its resolver.
    pub dns: SocketAddr,
}

impl Served {
    /// Serves a sandbox in tasks of the current runtime.
    ///
    /// # Panics
    /// If the policy is invalid, or the sandbox cannot be set up.
    pub fn start(runtime: &Arc<Runtime>, id: &str, policy: &Value) -> Served {
        let (policy, keyring) = rules(policy);
        let sandbox = Sandbox::new(runtime, id, policy, keyring).expect("a sandbox");
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let (tls, plain) = (listen(), listen());
        let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let (to_tls, to_plain) = (address(&tls), address(&plain));
        let to_dns = dns.local_addr().expect("it is bound");
        let destinations = Arc::new(ByListener { tls: to_tls.port() });
        let self_test_token = "unused".to_owned();
        let listeners =
            Listeners { tcp4: tls, tcp6: Some(plain), dns4: dns, dns6: None, self_test_token };
        let serving = sandbox.serve(listeners, destinations, accept).expect("it is served");
        Served { serving, tls: to_tls, plain: to_plain, dns: to_dns }
    }

    /// The roots that a client of this sandbox trusts.
    ///
    /// # Panics
    /// If the CA's certificate is invalid.
    pub fn trust(&self) -> Arc<ClientConfig> {
        let pem = self.serving.sandbox().ca_pem();
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        roots.add(certificate).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has both versions");
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }
}

/// A policy and its keys.
///
/// # Panics
/// If it is invalid.
pub fn rules(policy: &Value) -> (Policy, Keyring) {
    let parsed = Document::parse(&policy.to_string()).expect("a policy");
    let policy = Policy::compile(&parsed.document, &Catalogue::builtin()).expect("a policy");
    let keyring = Keyring::load(&policy, None).expect("its keys");
    (policy, keyring)
}

/// A connection over TLS to `name`.
///
/// # Errors
/// If nothing answers, or the handshake fails.
pub async fn connect(
    to: SocketAddr,
    name: &str,
    trust: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned())?;
    TlsConnector::from(trust).connect(name, stream).await.context("TLS")
}

/// An HTTP/1.1 client on a stream.
///
/// # Errors
/// When the stream has ended.
pub async fn client<S>(stream: S) -> Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends one request and reads its answer to the end.
///
/// # Errors
/// If the connection ends first.
pub async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &str,
    host: &str,
    path: &str,
) -> Result<Response<Bytes>> {
    sender.ready().await?;
    let request =
        Request::builder().method(method).uri(path).header("host", host).body(Full::default())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}

/// Tells the port by the listener.
struct ByListener {
    tls: u16,
}

impl Destinations for ByListener {
    fn original(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
        let port = getsockname::<SockaddrIn>(socket.as_raw_fd())?.port();
        Ok(Some((ASKED, if port == self.tls { 443 } else { 80 }).into()))
    }
}
