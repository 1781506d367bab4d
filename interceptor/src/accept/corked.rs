//! A stream below a TLS server that sends the session ticket together with the first response.
//!
//! After the client's Finished, a TLS 1.3 server sends only tickets (RFC 8446, section 4.6.1), and
//! no client waits for one. Sent alone, a ticket costs a system call here and wakes a client that
//! waits for something else.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite as _, ReadBuf};

use super::prefixed::Prefixed;
use crate::wrapped::{Data, Wrapper, write_through};

/// The type of an encrypted record (RFC 8446, section 5.1). No handshake record of TLS 1.2 has it.
const ENCRYPTED: u8 = 23;
/// The longest flight to hold back. A ticket takes about 230 bytes.
const LONGEST: usize = 1024;

/// The progress of the handshake.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Our flight is not written, or not all of it.
    Writing,
    /// Our flight is written; the client has not answered yet.
    Written,
    /// The client has answered.
    Answered,
    /// The handshake is over.
    Over,
}

/// A stream that holds the handshake's last flight back until the next write.
pub(super) struct Corked {
    inner: Prefixed,
    stage: Stage,
    held: BytesMut,
}

impl Corked {
    /// A stream for a handshake that is about to begin.
    pub(super) fn new(inner: Prefixed) -> Corked {
        Corked { inner, stage: Stage::Writing, held: BytesMut::new() }
    }

    /// Call when the handshake is over: nothing more is held back.
    pub(super) fn end_handshake(&mut self) {
        self.stage = Stage::Over;
    }

    fn on_handshake(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        let length = data.len();
        let is_last = self.stage == Stage::Answered && data.first().first() == Some(&ENCRYPTED);
        if is_last && self.held.is_empty() && length <= LONGEST {
            data.each(length, |piece| self.held.extend_from_slice(piece));
            return Poll::Ready(Ok(length));
        }
        let written = ready!(self.uncorked(cx, data))?;
        self.stage = if written == length { Stage::Written } else { Stage::Writing };
        Poll::Ready(Ok(written))
    }

    /// Writes the bytes held back, then `data`.
    fn uncorked(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let mut all = vec![IoSlice::new(&self.held)];
            match data {
                Data::Whole(bytes) => all.push(IoSlice::new(bytes)),
                Data::Pieces(pieces) => {
                    all.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
                }
            }
            let stream = Pin::new(&mut self.inner);
            let written = ready!(stream.poll_write_vectored(cx, &all))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let held = self.held.len();
            if written < held {
                self.held.advance(written);
                continue;
            }
            self.held = BytesMut::new();
            if written > held {
                return Poll::Ready(Ok(written - held));
            }
        }
        data.write(&mut self.inner, cx)
    }
}

impl AsyncRead for Corked {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stage != Stage::Written {
            return Pin::new(&mut this.inner).poll_read(cx, out);
        }
        let before = out.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, out))?;
        if out.filled().len() > before {
            this.stage = Stage::Answered;
        }
        Poll::Ready(Ok(()))
    }
}

impl Wrapper for Corked {
    type Inner = Prefixed;

    fn inner(&self) -> Option<&Prefixed> {
        Some(&self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut Prefixed> {
        Some(&mut self.inner)
    }

    #[inline]
    fn on_write(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        if self.stage != Stage::Over {
            return self.on_handshake(cx, data);
        }
        if !self.held.is_empty() {
            return self.uncorked(cx, data);
        }
        data.write(&mut self.inner, cx)
    }
}

write_through!(Corked);

impl Drop for Corked {
    fn drop(&mut self) {
        // The alert of a failed handshake is encrypted like a ticket.
        if !self.held.is_empty() {
            let _ = self.inner.stream.try_write(&self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use interceptor_policy::Host;
    use rustls::client::Resumption;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

    use super::*;
    use crate::tls::ca::Ca;
    use crate::tls::server::ServerConfigs;

    const NAME: &str = "api.example.com";

    /// A server that answers one byte with five, and a client that trusts it.
    struct Pair {
        configs: Arc<ServerConfigs>,
        client: TlsConnector,
    }

    impl Pair {
        fn new(version: &'static SupportedProtocolVersion) -> Pair {
            let ca = Ca::new("test").unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(ca.certificate_der().to_vec())).unwrap();
            let mut client = ClientConfig::builder_with_provider(crate::tls::provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            client.resumption = Resumption::in_memory_sessions(4);
            let configs = ServerConfigs::new(ca, 10, 10, Arc::default()).unwrap();
            Pair { configs: Arc::new(configs), client: TlsConnector::from(Arc::new(client)) }
        }

        /// The outcome of the handshake, and how many bytes followed it before the client wrote.
        async fn exchange(&self) -> (HandshakeKind, usize) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let config = self.configs.get(&Host::parse(NAME).unwrap()).unwrap();
            let (told, shaken) = tokio::sync::oneshot::channel();
            let server = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let prefixed = Prefixed { first: BytesMut::new(), stream };
                let acceptor = rustls::server::Acceptor::default();
                let start = LazyConfigAcceptor::new(acceptor, Corked::new(prefixed)).await.unwrap();
                let mut stream = start.into_stream(config).await.unwrap();
                stream.get_mut().0.end_handshake();
                told.send(()).unwrap();
                stream.read_u8().await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let mut stream = self.client.connect(name, stream).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            shaken.await.unwrap();
            let mut early = [0; 1];
            let early = stream.get_ref().0.try_read(&mut early).unwrap_or(0);
            stream.write_u8(1).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "hello");
            server.await.unwrap();
            (kind, early)
        }
    }

    #[tokio::test]
    async fn a_ticket_comes_with_the_first_response_and_is_good() {
        let pair = Pair::new(&version::TLS13);
        assert_eq!(pair.exchange().await, (HandshakeKind::Full, 0));
        assert_eq!(pair.exchange().await, (HandshakeKind::Resumed, 0));
    }

    #[tokio::test]
    async fn tls_1_2_waits_for_nothing() {
        let pair = Pair::new(&version::TLS12);
        assert_eq!(pair.exchange().await, (HandshakeKind::Full, 0));
        assert_eq!(pair.exchange().await, (HandshakeKind::Resumed, 0));
    }

    #[tokio::test]
    async fn what_is_held_at_the_end_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut corked = Corked::new(Prefixed { first: BytesMut::new(), stream });
        corked.write_all(&[22, 3, 3]).await.unwrap();
        client.write_all(b"answer").await.unwrap();
        corked.read_exact(&mut [0; 6]).await.unwrap();
        corked.write_all(&[23, 3, 3, 0, 1, 9]).await.unwrap();
        let mut received = [0; 3];
        client.read_exact(&mut received).await.unwrap();
        drop(corked);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [23, 3, 3, 0, 1, 9]);
    }
}
