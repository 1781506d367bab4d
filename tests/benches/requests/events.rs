//! The origin's source of server-sent events, behind nginx, which cannot make them: events at a
//! fixed pace, each with the time it was written.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Events of one stream, and the time between two.
const EVENTS: usize = 40;
const PACE: Duration = Duration::from_millis(5);

/// Serves until it is dropped.
pub(crate) struct Source {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl Source {
    pub(crate) fn start() -> Result<Source> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Ok(Source { address, _runtime: runtime })
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: \
                close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..EVENTS {
        pace.tick().await;
        let event = format!("data: {}\n\n", moment()?.as_nanos());
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    Ok(())
}

/// The time now, on the clock that all processes of a machine share.
pub(crate) fn moment() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// The time an event was written.
pub(crate) fn written(event: &str) -> Result<Duration> {
    let nanoseconds = event.strip_prefix("data: ").context("this is no event of ours")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
