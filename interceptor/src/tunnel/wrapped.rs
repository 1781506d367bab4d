//! Relaying between streams that are not both sockets, through buffers.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::Carried;

/// Read buffer per direction, when busy and when idle.
const BUFFER: usize = 32 * 1024;
const SMALL_BUFFER: usize = 1024;

/// As [`super::carry`], for streams that are not both sockets.
///
/// # Errors
/// As for [`super::carry`].
pub(crate) async fn carry_wrapped(
    sandbox: &mut (impl AsyncRead + AsyncWrite + Unpin),
    origin: &mut (impl AsyncRead + AsyncWrite + Unpin),
    carried: &Carried,
    idle: Duration,
) -> io::Result<()> {
    let (from_sandbox, to_sandbox) = tokio::io::split(sandbox);
    let (from_origin, to_origin) = tokio::io::split(origin);
    let both = async {
        tokio::try_join!(
            one_way_wrapped(from_sandbox, to_origin, |bytes| carried.take_up(bytes)),
            one_way_wrapped(from_origin, to_sandbox, |bytes| carried.take_down(bytes))
        )
    };
    tokio::select! {
        ended = both => ended.map(|_| ()),
        silent = carried.silence(idle) => silent,
    }
}

/// Relays one direction to its end.
///
/// # Errors
/// Of either stream, or of `count`.
pub(crate) async fn one_way_wrapped(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; SMALL_BUFFER];
    loop {
        let read = poll_fn(|cx| {
            let mut room = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut from).poll_read(cx, &mut room);
            let read = room.filled().len();
            if polled.is_pending() && buffer.len() > SMALL_BUFFER {
                buffer = vec![0; SMALL_BUFFER];
            }
            polled.map_ok(|()| read)
        })
        .await?;
        if read == 0 {
            return to.shutdown().await;
        }
        count(read as u64)?;
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        if read == SMALL_BUFFER && read == buffer.len() {
            buffer = vec![0; BUFFER];
        }
    }
}
