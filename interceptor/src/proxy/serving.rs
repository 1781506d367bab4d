//! A sandbox being served: its listeners, and the tasks that accept on them. They can pause so that
//! another process accepts on the same sockets, and resume if that fails.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Sandbox;
use crate::audit::Record;
use crate::seam::{Destinations, Listeners};
use crate::upstream::pool::Generation;

/// How long connections may take to end when a sandbox stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Accepts a sandbox's connections on a listener until the sandbox stops or the token is cancelled.
/// The text is the answer at [`crate::seam::SELF_TEST`].
pub type Accept = fn(
    Arc<Sandbox>,
    TcpListener,
    Arc<dyn Destinations>,
    Arc<str>,
    CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// A sandbox being served; dropping it stops that.
pub struct Serving {
    sandbox: Arc<Sandbox>,
    /// Kept besides the tasks' copies, for a handover.
    listeners: Listeners,
    destinations: Arc<dyn Destinations>,
    accept: Accept,
    acceptors: TaskTracker,
    /// Stops the current acceptors.
    pause: CancellationToken,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Serving").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Serves the sandbox's listeners in tasks of the current runtime, until [`Serving::shutdown`]
    /// or until dropped.
    ///
    /// # Errors
    /// If a socket cannot be registered with the runtime.
    pub fn serve(
        self: &Arc<Self>,
        listeners: Listeners,
        destinations: Arc<dyn Destinations>,
        accept: Accept,
    ) -> io::Result<Serving> {
        let serving = Serving::begin(self, listeners, destinations, accept)?;
        self.audit.emit(Record::lifecycle(&self.id, "sandbox_started"));
        Ok(serving)
    }
}

impl Serving {
    pub(super) fn begin(
        sandbox: &Arc<Sandbox>,
        listeners: Listeners,
        destinations: Arc<dyn Destinations>,
        accept: Accept,
    ) -> io::Result<Serving> {
        let mut serving = Serving {
            sandbox: sandbox.clone(),
            listeners,
            destinations,
            accept,
            acceptors: TaskTracker::new(),
            pause: CancellationToken::new(),
        };
        serving.resume()?;
        sandbox.keep_house();
        Ok(serving)
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// Its listening sockets.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Begins to [`Self::pause`] without waiting.
    pub(crate) fn halt(&self) {
        self.pause.cancel();
    }

    /// Stops accepting connections and receiving queries: they wait in the sockets, which another
    /// process may share. Open connections continue. Returns when no name can be assigned an
    /// address any more.
    pub async fn pause(&self) {
        self.pause.cancel();
        self.acceptors.close();
        self.acceptors.wait().await;
    }

    /// Accepts again after [`Self::pause`].
    ///
    /// # Errors
    /// If a socket cannot be registered with the runtime.
    pub fn resume(&mut self) -> io::Result<()> {
        self.pause = CancellationToken::new();
        self.acceptors = TaskTracker::new();
        self.sandbox.asking.resume();
        let token: Arc<str> = self.listeners.self_test_token.as_str().into();
        for listener in
            [Some(&self.listeners.tcp4), self.listeners.tcp6.as_ref()].into_iter().flatten()
        {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let (sandbox, destinations) = (self.sandbox.clone(), self.destinations.clone());
            let accepting =
                (self.accept)(sandbox, listener, destinations, token.clone(), self.pause.clone());
            self.acceptors.spawn(self.sandbox.tasks.track_future(accepting));
        }
        for socket in
            [Some(&self.listeners.dns4), self.listeners.dns6.as_ref()].into_iter().flatten()
        {
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket.try_clone()?)?;
            let (dns, stop) = (self.sandbox.dns.clone(), self.sandbox.stopping());
            let pause = self.pause.clone();
            self.acceptors.spawn(self.sandbox.tasks.track_future(async move {
                tokio::select! {
                    () = dns.serve_udp(socket, pause) => {}
                    () = stop.cancelled() => {}
                }
            }));
        }
        Ok(())
    }

    /// Closes every connection, waits until their records are in the audit queue, and records the
    /// end.
    pub async fn shutdown(self) {
        self.sandbox.stop();
        self.farewell().await;
        self.sandbox.audit.emit(Record::lifecycle(&self.sandbox.id, "sandbox_stopped"));
    }

    /// After [`Self::pause`], when another process serves the sandbox: lets open connections
    /// finish, for at most `patience` or until `hurry` is cancelled, then closes the rest.
    pub async fn drain(self, patience: Duration, hurry: CancellationToken) {
        self.sandbox.audit.emit(Record::lifecycle(&self.sandbox.id, "sandbox_handed_over"));
        self.sandbox.drain();
        tokio::select! {
            () = self.sandbox.tasks.wait() => {}
            () = tokio::time::sleep(patience) => {
                tracing::info!(
                    sandbox = %self.sandbox.id,
                    "closing connections that did not end within {patience:?}"
                );
            }
            () = hurry.cancelled() => {}
        }
        self.sandbox.stop();
        self.farewell().await;
    }

    async fn farewell(&self) {
        if tokio::time::timeout(FAREWELL, self.sandbox.tasks.wait()).await.is_err() {
            tracing::warn!(sandbox = %self.sandbox.id, "some connections did not end in time");
        }
        self.sandbox.dns.flush();
        self.sandbox.pool.renew(Generation::next());
        self.sandbox.metrics.retire();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.pause.cancel();
        self.sandbox.stop();
        self.sandbox.metrics.retire();
    }
}
