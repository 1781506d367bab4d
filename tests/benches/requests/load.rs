//! The load: a process that is told on standard input what to ask for, a line for each measurement, and answers with a line.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What to ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) host: String,
    /// `None`: where the name leads.
    pub(crate) to: Option<SocketAddr>,
    /// Roots, PEM; `None`: what `SSL_CERT_FILE` names.
    pub(crate) trust: Option<PathBuf>,
    pub(crate) path: String,
    pub(crate) h2: bool,
    /// A connection for each request, with a whole handshake.
    pub(crate) fresh: bool,
    /// Requests in progress at once; each on its own connection in HTTP/1.1, all on one in HTTP/2.
    pub(crate) at_once: usize,
    pub(crate) seconds: f64,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) requests: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Latencies in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) error: Option<String>,
}

/// Runs what standard input says, to its end.
pub(crate) fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for line in std::io::stdin().lock().lines() {
        let load: Load = serde_json::from_str(&line?)?;
        let done = runtime.block_on(run(&load));
        let done = done.unwrap_or_else(|error| Done { error: Some(format!("{error:#}")), ..Done::default() });
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        out.flush()?;
    }
    Ok(())
}

async fn run(load: &Load) -> Result<Done> {
    let to = match load.to {
        Some(to) => to,
        None => (load.host.as_str(), 443).to_socket_addrs()?.next().context("the name leads nowhere")?,
    };
    let target = Arc::new(Target { load: load.clone(), to, tls: tls(load)? });
    let shared = if load.h2 && !load.fresh { Some(target.connect().await?) } else { None };
    let began = Instant::now();
    let deadline = began + Duration::from_secs_f64(load.seconds);
    let workers: Vec<_> =
        (0..load.at_once).map(|_| tokio::spawn(work(target.clone(), shared.clone(), deadline))).collect();
    let (mut times, mut bytes) = (Vec::new(), 0);
    for worker in workers {
        let (more, read) = worker.await??;
        times.extend(more);
        bytes += read;
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(!times.is_empty(), "nothing was answered");
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
    Ok(Done { requests: times.len(), bytes, seconds, p50: at(50), p99: at(99), error: None })
}

struct Target {
    load: Load,
    to: SocketAddr,
    tls: TlsConnector,
}

#[derive(Clone)]
enum Sender {
    H1(Arc<tokio::sync::Mutex<http1::SendRequest<Full<Bytes>>>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Target {
    async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(self.to).await.context("connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.load.host.clone())?;
        let stream: TlsStream<TcpStream> = self.tls.connect(name, stream).await.context("TLS")?;
        let stream = TokioIo::new(stream);
        if self.load.h2 {
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
        Ok(Sender::H1(Arc::new(tokio::sync::Mutex::new(sender))))
    }

    /// One request; the bytes of its answer.
    async fn ask(&self, sender: &mut Sender) -> Result<u64> {
        let request = Request::builder().method("GET");
        let (host, path) = (&self.load.host, &self.load.path);
        let response = match sender {
            Sender::H1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                let request = request.uri(path).header("host", host).body(Full::default())?;
                sender.send_request(request).await?
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                let request = request.version(Version::HTTP_2).uri(format!("https://{host}{path}"));
                sender.send_request(request.body(Full::default())?).await?
            }
        };
        ensure!(response.status() == 200, "it answered {}", response.status());
        let (mut body, mut bytes) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(bytes)
    }
}

async fn work(
    target: Arc<Target>,
    shared: Option<Sender>,
    deadline: Instant,
) -> Result<(Vec<Duration>, u64)> {
    let (mut times, mut bytes, mut kept) = (Vec::new(), 0, shared);
    while Instant::now() < deadline {
        let start = Instant::now();
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => target.connect().await?,
        };
        bytes += target.ask(&mut sender).await?;
        times.push(start.elapsed());
        kept = (!target.load.fresh).then_some(sender);
    }
    Ok((times, bytes))
}

fn tls(load: &Load) -> Result<TlsConnector> {
    let trust = load.trust.clone().or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(trust.context("nothing says what to trust")?)? {
        // A bundle may hold what rustls does not take.
        let _ = roots.add(certificate?);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if load.h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
