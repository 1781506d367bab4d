//! A proxy built on the published hudsucker crate: it mints a certificate for each name, and puts a
//! key into each request. `TCP_NODELAY` is set on both sides.
//!
//! `hudsucker-peer AUTHORITY AUTHORITY_KEY ROOTS KEY ORIGIN`: four files, and the address of every
//! name. It prints two addresses: of the proxy that speaks HTTP/1.1 to the origin, and of the one
//! that speaks HTTP/2.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Result, bail};
use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::hyper::header::{AUTHORIZATION, HeaderValue};
use hudsucker::hyper::{Request, Uri};
use hudsucker::hyper_util::rt::TokioIo;
use hudsucker::rcgen::{Issuer, KeyPair};
use hudsucker::rustls::crypto::aws_lc_rs;
use hudsucker::rustls::pki_types::CertificateDer;
use hudsucker::rustls::pki_types::pem::PemObject;
use hudsucker::rustls::{ClientConfig, RootCertStore};
use hudsucker::{Body, HttpContext, HttpHandler, Proxy, RequestOrResponse};
use hyper_rustls::HttpsConnectorBuilder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The size of the certificate cache.
const CERTIFICATES: u64 = 10_000;

#[derive(Clone)]
struct Inject(HeaderValue);

impl HttpHandler for Inject {
    async fn handle_request(
        &mut self,
        _: &HttpContext,
        mut request: Request<Body>,
    ) -> RequestOrResponse {
        if request.method() != "CONNECT" {
            request.headers_mut().insert(AUTHORIZATION, self.0.clone());
        }
        request.into()
    }
}

/// Every name resolves to the origin.
#[derive(Clone)]
struct ToOrigin(SocketAddr);

impl tower_service::Service<Uri> for ToOrigin {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let origin = self.0;
        Box::pin(async move {
            let stream = TcpStream::connect(origin).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// Accepted sockets inherit its options.
fn listener() -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok(socket.listen(1024)?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificate, key, roots, secret, origin] = &arguments[..] else {
        bail!("usage: hudsucker-peer AUTHORITY AUTHORITY_KEY ROOTS KEY ORIGIN");
    };
    let origin: SocketAddr = origin.parse()?;
    let secret = std::fs::read_to_string(secret)?;
    let mut inject = HeaderValue::try_from(format!("Bearer {}", secret.trim()))?;
    inject.set_sensitive(true);
    let mut trusted = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots)? {
        trusted.add(root?)?;
    }
    let mut proxies = Vec::new();
    for h2 in [false, true] {
        let pair = KeyPair::from_pem(&std::fs::read_to_string(key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(certificate)?, pair)?;
        let authority = RcgenAuthority::new(issuer, CERTIFICATES, aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trusted.clone())
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let connector = match h2 {
            true => connector.enable_http2().wrap_connector(ToOrigin(origin)),
            false => connector.enable_http1().wrap_connector(ToOrigin(origin)),
        };
        let listener = listener()?;
        println!("{}", listener.local_addr()?);
        let proxy = Proxy::builder()
            .with_listener(listener)
            .with_ca(authority)
            .with_http_connector(connector)
            .with_http_handler(Inject(inject.clone()))
            .build()?;
        proxies.push(tokio::spawn(proxy.start()));
    }
    for proxy in proxies {
        proxy.await??;
    }
    Ok(())
}
