//! The ClientHello (RFC 8446 section 4.1.2), parsed by rustls without consuming the bytes: a
//! passthrough connection is judged by its name and then forwarded unopened.

use std::io;

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A ClientHello with post-quantum key shares takes about 2 KiB; rustls refuses handshake messages
/// above 64 KiB.
const MOST_BYTES: usize = 64 * 1024 + 5;

/// Reads from `stream` into `buffer`, which may already hold the first bytes, until the ClientHello
/// is complete. Returns its server name (RFC 6066 section 3).
///
/// # Errors
/// `InvalidData` if it is not a ClientHello, `UnexpectedEof` if the stream ends early, or an error
/// of the stream.
pub(crate) async fn server_name<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        while fed < buffer.len() {
            let mut rest = &buffer[fed..];
            let taken = acceptor.read_tls(&mut rest)?;
            if taken == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            fed += taken;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    return Ok(accepted.client_hello().server_name().map(str::to_owned));
                }
                Ok(None) => {}
                Err((error, _alert)) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        if buffer.len() > MOST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
