//! Listeners that speak no HTTP of their own: one that must receive nothing, a TCP echo, and an
//! origin that answers each connection with the test's own bytes, valid or not.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::record::Seen;
use super::{Shared, server_config};
use crate::ca::Ca;

/// A destination that counts what reaches it, over TCP and UDP on one port.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    reached: Arc<Reached>,
    tasks: [JoinHandle<()>; 2],
}

/// The contacts of a [`Recorder`].
#[derive(Debug, Default)]
struct Reached {
    contacts: Mutex<Contacts>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Contacts {
    /// The source of each connection and datagram.
    connections: Vec<SocketAddr>,
    datagrams: Vec<SocketAddr>,
    /// The sources of the recorder's own contacts, which show that it has seen everything before
    /// them.
    own: Vec<SocketAddr>,
    bytes: usize,
    first: Vec<u8>,
}

impl Reached {
    fn note(&self, change: impl FnOnce(&mut Contacts)) {
        change(&mut self.contacts.lock().expect("no recorder panicked"));
        self.more.notify_all();
    }

    /// Waits for one of the recorder's own contacts. Returns whether it arrived in time.
    fn sees(&self, time: Duration, own: impl Fn(&Contacts) -> bool) -> bool {
        let contacts = self.contacts.lock().expect("no recorder panicked");
        let waited = self.more.wait_timeout_while(contacts, time, |contacts| !own(contacts));
        !waited.expect("no recorder panicked").1.timed_out()
    }
}

/// The time limit for one of the recorder's own contacts.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

impl Recorder {
    /// Listens on a port of loopback.
    ///
    /// # Panics
    /// If no port is free for both protocols.
    pub fn start(runtime: &Handle) -> Recorder {
        let both = || {
            let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).ok()?;
            let socket = runtime.block_on(UdpSocket::bind(listener.local_addr().ok()?)).ok()?;
            Some((listener, socket))
        };
        let (listener, socket) = (0..100).find_map(|_| both()).expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        let reached = Arc::new(Reached::default());
        let tcp = runtime.spawn(record_connections(listener, reached.clone()));
        let udp = runtime.spawn(record_datagrams(socket, reached.clone()));
        Recorder { address, reached, tasks: [tcp, udp] }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Describes its contacts so far; `None` if there were none. It contacts itself first, so that
    /// everything sent earlier is included.
    ///
    /// # Panics
    /// If the recorder does not see its own contacts.
    pub fn reached(&self) -> Option<String> {
        self.settle();
        let contacts = self.reached.contacts.lock().expect("no recorder panicked");
        let own = contacts.own.len();
        let others = |all: &[SocketAddr]| {
            let mut rest = all.to_vec();
            for address in &contacts.own {
                let at = rest.iter().position(|from| from == address);
                at.map(|at| rest.remove(at));
            }
            rest.len()
        };
        let (connections, datagrams) = (others(&contacts.connections), others(&contacts.datagrams));
        let first = String::from_utf8_lossy(&contacts.first);
        (connections + contacts.bytes + datagrams > 0).then(|| {
            format!(
                "{connections} connections, {} bytes, {datagrams} datagrams, beginning {first:?} \
                 ({own} of its own aside)",
                contacts.bytes
            )
        })
    }

    /// Opens a connection and sends a datagram to itself, and waits until they are seen: both are
    /// queued after earlier contacts.
    fn settle(&self) {
        let stream = std::net::TcpStream::connect(self.address).expect("the recorder listens");
        let from = stream.local_addr().expect("a connected socket");
        let seen =
            self.reached.sees(SETTLED_WITHIN, |contacts| contacts.connections.contains(&from));
        assert!(seen, "the recorder does not see its own connection");
        self.reached.note(|contacts| contacts.own.push(from));
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let from = socket.local_addr().expect("a bound socket");
        // A full queue may drop it, so resend. Any of the resent ones counts as the recorder's own.
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut sent = 0;
        loop {
            assert!(Instant::now() < deadline, "the recorder does not see its own datagram");
            socket.send_to(b".", self.address).expect("loopback takes a datagram");
            sent += 1;
            if self
                .reached
                .sees(Duration::from_secs(1), |contacts| contacts.datagrams.contains(&from))
            {
                break;
            }
        }
        self.reached.note(|contacts| contacts.own.extend(vec![from; sent]));
    }
}

async fn record_connections(listener: TcpListener, reached: Arc<Reached>) {
    while let Ok((mut stream, from)) = listener.accept().await {
        reached.note(|contacts| contacts.connections.push(from));
        let reached = reached.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                reached.note(|contacts| {
                    contacts.bytes += read;
                    if contacts.first.len() < 4096 {
                        contacts.first.extend_from_slice(&buffer[..read]);
                    }
                });
            }
        });
    }
}

async fn record_datagrams(socket: UdpSocket, reached: Arc<Reached>) {
    let mut buffer = [0; 4096];
    while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
        reached.note(|contacts| contacts.datagrams.push(from));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A listener with one task per connection.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Sends back what it receives, and closes when the client has.
    pub fn echo(runtime: &Handle) -> Listener {
        Listener::with(runtime, |mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    }

    /// Sends first, then echoes: a protocol that is neither HTTP nor TLS.
    pub fn greeting(runtime: &Handle, greeting: &'static str) -> Listener {
        Listener::with(runtime, move |mut stream| async move {
            let _ = stream.write_all(greeting.as_bytes()).await;
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    }

    /// A TLS origin, HTTP/1.1 only, that answers the first request of each connection with `answer`
    /// verbatim, valid or not, and closes. The request is recorded like those of the other origins.
    pub fn scripted(
        runtime: &Handle,
        shared: Arc<Shared>,
        ca: Arc<Ca>,
        answer: &'static [u8],
    ) -> Listener {
        let tls = TlsAcceptor::from(Arc::new(server_config(ca, &["http/1.1"], vec![])));
        Listener::with(runtime, move |stream| {
            let (tls, shared) = (tls.clone(), shared.clone());
            async move {
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = tokio::time::timeout(
                        Duration::from_secs(20),
                        script(stream, answer, &shared),
                    )
                    .await;
                }
            }
        })
    }

    /// A TLS origin, HTTP/1.1 only, that passes each connection to `talk` with its first request,
    /// which is recorded like those of the other origins.
    pub fn talking<F>(
        runtime: &Handle,
        shared: Arc<Shared>,
        ca: Arc<Ca>,
        talk: impl Fn(String, TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
    ) -> Listener
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let tls = TlsAcceptor::from(Arc::new(server_config(ca, &["http/1.1"], vec![])));
        Listener::with(runtime, move |stream| {
            let (tls, shared, talk) = (tls.clone(), shared.clone(), talk.clone());
            async move {
                let talking = async {
                    let mut stream = tls.accept(stream).await?;
                    let Some(head) = read_head(&mut stream).await? else { return Ok(()) };
                    shared.records.push(Seen::from_head(&head));
                    talk(head, stream).await
                };
                let _ = tokio::time::timeout(Duration::from_secs(30), talking).await;
            }
        })
    }

    /// A TLS origin, HTTP/2 only, that keeps the raw bytes it receives and answers the first
    /// request of each connection with an empty 200. The lab does not record its requests.
    pub fn h2(runtime: &Handle, ca: Arc<Ca>) -> (Listener, Arc<Mutex<Vec<u8>>>) {
        let tls = TlsAcceptor::from(Arc::new(server_config(ca, &["h2"], vec![])));
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = bytes.clone();
        let listener = Listener::with(runtime, move |stream| {
            let (tls, kept) = (tls.clone(), kept.clone());
            async move {
                if let Ok(stream) = tls.accept(stream).await {
                    let _ =
                        tokio::time::timeout(Duration::from_secs(20), keep_h2(stream, &kept)).await;
                }
            }
        });
        (listener, bytes)
    }

    /// A listener that passes each connection to `serve`.
    pub fn with<F>(runtime: &Handle, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Listener
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        Listener { address, accepting: each_connection(runtime, listener, serve) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn each_connection<F>(
    runtime: &Handle,
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream));
        }
    })
}

async fn script(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &[u8],
    shared: &Shared,
) -> std::io::Result<()> {
    let Some(head) = read_head(&mut stream).await? else { return Ok(()) };
    shared.records.push(Seen::from_head(&head));
    stream.write_all(answer).await?;
    stream.shutdown().await
}

/// The head of a request and the bytes after it; `None` if the client closed first.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&buffer[..read]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// The necessary frames of RFC 9113: SETTINGS and its acknowledgement first, and after a HEADERS
/// frame arrives, HEADERS on stream 1 with `:status 200`, ending the stream.
async fn keep_h2(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    kept: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0]).await?;
    let mut buffer = [0; 4096];
    let mut own = Vec::new();
    let mut answered = false;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        own.extend_from_slice(&buffer[..read]);
        kept.lock().expect("no recorder panicked").extend_from_slice(&buffer[..read]);
        if !answered && h2_frames(&own).iter().any(|(kind, ..)| *kind == 1) {
            stream.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]).await?;
            answered = true;
        }
    }
}

/// The complete frames of a client after its preface: type, flags and payload.
pub fn h2_frames(bytes: &[u8]) -> Vec<(u8, u8, &[u8])> {
    const PREFACE: usize = 24;
    const HEAD: usize = 9;
    let mut rest = bytes.get(PREFACE..).unwrap_or_default();
    let mut frames = Vec::new();
    while let [high, middle, low, kind, flags, ..] = *rest {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let Some(payload) = rest.get(HEAD..HEAD + length) else { break };
        frames.push((kind, flags, payload));
        rest = &rest[HEAD + length..];
    }
    frames
}
