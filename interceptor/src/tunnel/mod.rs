//! Raw and passthrough connections: relays bytes both ways, unread, with splice(2), which moves
//! them between sockets without copying them through user space.
//!
//! Each direction ends on its own, so that a half-close passes through (RFC 9293 section 3.6). A
//! failure in either direction ends both, and so does silence in both for the idle limit.

pub(crate) mod pulse;
mod wrapped;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::pipe2;
use std::os::fd::AsRawFd as _;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::metrics::SandboxMetrics;
use crate::proxy::budget::Allowance;
use interceptor_policy::Reason;
use pulse::Pulse;
pub(crate) use wrapped::{carry_wrapped, one_way_wrapped};

/// The capacity of a pipe in bytes: larger pipes mean fewer system calls but more kernel memory per
/// tunnel.
const PIPE: usize = 256 * 1024;

/// Bytes relayed so far in each direction. Kept outside the tunnel's task, so that they can be read
/// after it was cancelled.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the sandbox.
    pub(crate) up: AtomicU64,
    /// To the sandbox.
    pub(crate) down: AtomicU64,
    /// The sandbox's metrics, which count them too.
    metrics: Arc<SandboxMetrics>,
    /// How much may still be sent to the host.
    allowance: Option<Allowance>,
    spent: AtomicBool,
    silent: AtomicBool,
    pulse: Pulse,
}

impl Carried {
    /// Starts at zero.
    pub(crate) fn new(metrics: Arc<SandboxMetrics>, allowance: Option<Allowance>) -> Carried {
        Carried { metrics, allowance, ..Carried::default() }
    }

    /// Counts bytes about to be sent to the origin.
    ///
    /// # Errors
    /// `QuotaExceeded` if they exceed `limits.bytes_up_per_host`.
    pub(crate) fn take_up(&self, bytes: u64) -> io::Result<()> {
        if let Some(Err(exceeded)) = self.allowance.as_ref().map(|allowance| allowance.take(bytes))
        {
            self.spent.store(true, Ordering::Relaxed);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, exceeded));
        }
        self.pulse.beat();
        self.up.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.up(bytes);
        Ok(())
    }

    /// Counts bytes sent to the sandbox.
    ///
    /// # Errors
    /// Never: these are not limited.
    pub(crate) fn take_down(&self, bytes: u64) -> io::Result<()> {
        self.pulse.beat();
        self.down.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.down(bytes);
        Ok(())
    }

    /// The limit that ended it: the quota was used up, or it was idle for too long.
    pub(crate) fn limit(&self) -> Option<Reason> {
        if self.spent.load(Ordering::Relaxed) {
            return Some(Reason::LimitExceeded);
        }
        self.silent.load(Ordering::Relaxed).then_some(Reason::TunnelIdleTimeout)
    }

    /// Fails after `idle` without activity, and records that as the reason.
    pub(crate) async fn silence(&self, idle: Duration) -> io::Result<()> {
        self.pulse.silence(idle).await;
        self.silent.store(true, Ordering::Relaxed);
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Relays bytes between the sandbox and the origin until both have closed, one fails, or neither
/// sends anything for `idle`.
///
/// # Errors
/// `TimedOut` after `idle`, or an error of the sockets.
pub(crate) async fn carry(
    sandbox: &TcpStream,
    origin: &TcpStream,
    carried: &Carried,
    idle: Duration,
) -> io::Result<()> {
    let both = async {
        tokio::try_join!(
            one_way(sandbox, origin, |bytes| carried.take_up(bytes)),
            one_way(origin, sandbox, |bytes| carried.take_down(bytes))
        )
    };
    tokio::select! {
        ended = both => ended.map(|_| ()),
        silent = carried.silence(idle) => silent,
    }
}

async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    count: impl Fn(u64) -> io::Result<()>,
) -> io::Result<()> {
    let (out, into) = pipe()?;
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        // The pipe is empty here, so only the socket can block.
        let filled = from
            .async_io(Interest::READABLE, || Ok(splice(from, None, &into, None, PIPE, flags)?))
            .await?;
        if filled == 0 {
            // The peer may already be gone.
            let _ = shutdown(to.as_raw_fd(), Shutdown::Write);
            return Ok(());
        }
        // Counted before sending, so that nothing is sent beyond the quota.
        count(filled as u64)?;
        let mut left = filled;
        while left > 0 {
            let moved = to
                .async_io(Interest::WRITABLE, || Ok(splice(&out, None, to, None, left, flags)?))
                .await?;
            left -= moved;
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // This fails if the user's pipe memory is used up (pipe(7)); the default 64 KiB work too.
    let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
    Ok((out, into))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_and_a_half_close_pass_both_ways() {
        let (mut client, sandbox) = pair().await;
        let (origin, mut server) = pair().await;
        let carried = Carried::default();
        let payload = vec![7_u8; 3_000_000];
        let tunnel = carry(&sandbox, &origin, &carried, Duration::from_secs(10));
        let talk = async {
            let echo = async {
                let mut received = Vec::new();
                server.read_to_end(&mut received).await.unwrap();
                server.write_all(&received).await.unwrap();
                server.shutdown().await.unwrap();
            };
            let ask = async {
                let (mut read, mut write) = client.split();
                let send = async {
                    write.write_all(&payload).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let mut back = Vec::new();
                let (_, read) = tokio::join!(send, read.read_to_end(&mut back));
                read.unwrap();
                assert_eq!(back.len(), payload.len());
            };
            tokio::join!(echo, ask);
        };
        let (ended, ()) = tokio::join!(tunnel, talk);
        ended.unwrap();
        assert_eq!(carried.up.load(Ordering::Relaxed), 3_000_000);
        assert_eq!(carried.down.load(Ordering::Relaxed), 3_000_000);
    }

    #[tokio::test]
    async fn a_silent_tunnel_ends() {
        let (_client, sandbox) = pair().await;
        let (origin, _server) = pair().await;
        let carried = Carried::default();
        let ended = carry(&sandbox, &origin, &carried, Duration::from_millis(20)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(carried.limit(), Some(Reason::TunnelIdleTimeout));
    }
}
