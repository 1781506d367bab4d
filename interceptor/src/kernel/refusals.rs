//! Reads the programs' refusals from their ring buffer and delivers them per sandbox.
//!
//! A thread sleeps until the ring holds something. Refusals that do not fit, or exceed a sandbox's
//! reporting rate, are only counted by the programs; the count is delivered too.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Map, MapData, RingBuf};
use interceptor_ebpf::layout::{self, cause};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::KernelError;
use super::maps::Maps;
use crate::seam::{Cause, Refusal, Refusals};

/// Delay from a refusal to checking the drop counts, and the minimum interval between checks.
const COUNT_AFTER: Duration = Duration::from_secs(1);

/// The receiver of one sandbox's refusals.
struct RefusalReceiver {
    refusals: Arc<dyn Refusals>,
    /// The drop count it was last told.
    dropped: u64,
    /// Whether something was reported since the last check; drops only follow reports.
    is_due: bool,
}

impl RefusalReceiver {
    /// Delivers the increase of the drop count.
    fn count(&mut self, dropped: u64) {
        if dropped > self.dropped {
            self.refusals.dropped(dropped - self.dropped);
            self.dropped = dropped;
        } else {
            self.is_due = false;
        }
    }
}

/// The ring's reader.
pub(super) struct Reports {
    /// The ring's descriptor, which another process may continue with.
    descriptor: OwnedFd,
    ring: Mutex<RingBuf<MapData>>,
    /// The reader thread. Only one may run at a time, across all processes that have the ring.
    reader: Mutex<Option<Reader>>,
    listeners: Mutex<HashMap<u64, RefusalReceiver>>,
    maps: Arc<Maps>,
}

impl fmt::Debug for Reports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Reports {
    /// From a loaded object.
    pub(super) fn take(object: &mut Ebpf, maps: Arc<Maps>) -> Result<Arc<Self>, KernelError> {
        let map =
            object.take_map("REFUSALS").ok_or(KernelError::Incomplete { part: "REFUSALS" })?;
        Self::of(map, maps)
    }

    /// From a ring that another process created.
    pub(super) fn open(descriptor: OwnedFd, maps: Arc<Maps>) -> Result<Arc<Self>, KernelError> {
        let map = MapData::from_fd(descriptor).and_then(Map::from_map_data);
        let action = "opened from a descriptor handed over";
        Self::of(map.map_err(|source| KernelError::Map { map: "REFUSALS", action, source })?, maps)
    }

    fn of(map: Map, maps: Arc<Maps>) -> Result<Arc<Self>, KernelError> {
        let failed = |source| KernelError::Map { map: "REFUSALS", action: "mapped", source };
        let ring = RingBuf::try_from(map).map_err(failed)?;
        let descriptor = ring.as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|source| KernelError::Io {
            action: "duplicate the ring of refusals",
            source,
        })?;
        let (ring, reader) = (Mutex::new(ring), Mutex::default());
        Ok(Arc::new(Self { descriptor, ring, reader, listeners: Mutex::default(), maps }))
    }

    /// The ring's descriptor, from which another process continues: see [`Self::open`].
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Starts the reader thread unless it runs.
    pub(super) fn begin(self: &Arc<Self>) -> Result<(), KernelError> {
        let mut reader = lock(&self.reader);
        if reader.is_none() {
            *reader = Some(Reader::start(self)?);
        }
        Ok(())
    }

    /// Stops the reader thread, so that another process can read.
    pub(super) fn end(&self) {
        let reader = lock(&self.reader).take();
        drop(reader);
    }

    /// Delivers a sandbox's refusals to `refusals` from now on.
    pub(super) fn listen(&self, sandbox: u64, refusals: Arc<dyn Refusals>) {
        let dropped = self.maps.dropped_reports(sandbox);
        lock(&self.listeners).insert(sandbox, RefusalReceiver { refusals, dropped, is_due: false });
    }

    /// Stops delivering a sandbox's refusals; the ring's new reader delivers them.
    pub(super) fn stop_delivery(&self, sandbox: u64) {
        lock(&self.listeners).remove(&sandbox);
    }

    /// Delivers a sandbox's remaining refusals and stops.
    pub(super) fn forget(&self, sandbox: u64) {
        self.flush(sandbox);
        lock(&self.listeners).remove(&sandbox);
    }

    /// Delivers every refusal so far, and the sandbox's drop count.
    pub(super) fn flush(&self, sandbox: u64) {
        self.drain();
        let dropped = self.maps.dropped_reports(sandbox);
        if let Some(listener) = lock(&self.listeners).get_mut(&sandbox) {
            listener.count(dropped);
        }
    }

    /// Delivers everything in the ring.
    fn drain(&self) {
        let mut ring = lock(&self.ring);
        let mut listeners = lock(&self.listeners);
        while let Some(item) = ring.next() {
            let Some(refusal) = layout::Refusal::from_bytes(&item) else { continue };
            if let Some(listener) = listeners.get_mut(&refusal.sandbox) {
                listener.is_due = true;
                listener.refusals.refused(&translate(&refusal));
            }
        }
    }

    /// Delivers drop counts; returns whether to check again.
    fn count(&self) -> bool {
        let mut again = false;
        for (sandbox, listener) in
            lock(&self.listeners).iter_mut().filter(|(_, listener)| listener.is_due)
        {
            listener.count(self.maps.dropped_reports(*sandbox));
            again |= listener.is_due;
        }
        again
    }

    /// Waits until the ring has data, `stop` is signalled, or `limit` passes.
    fn wait(&self, stop: &EventFd, limit: PollTimeout) -> Waited {
        // The duplicate keeps the descriptor valid; the lock is not held while waiting.
        let ring = lock(&self.ring).as_fd().try_clone_to_owned();
        let Ok(ring) = ring else { return Waited::Ended };
        wait(ring.as_fd(), stop, limit)
    }
}

/// What ended a wait.
enum Waited {
    Refusals,
    Nothing,
    Ended,
}

fn wait(ring: BorrowedFd<'_>, stop: &EventFd, limit: PollTimeout) -> Waited {
    let mut ready =
        [PollFd::new(ring, PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, limit) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(_) => return Waited::Ended,
    }
    if ready[1].any().unwrap_or(true) {
        Waited::Ended
    } else if ready[0].any().unwrap_or(false) {
        Waited::Refusals
    } else {
        Waited::Nothing
    }
}

/// The reader thread; dropping this stops it.
#[derive(Debug)]
pub(super) struct Reader {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts the thread.
    pub(super) fn start(reports: &Arc<Reports>) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Io { action: "read the programs' refusals", source };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let stop = Arc::new(stop);
        let (stopped, reports) = (Arc::clone(&stop), Arc::clone(reports));
        let thread = thread::Builder::new()
            .name("kernel-refusals".to_owned())
            .spawn(move || read(&reports, &stopped))
            .map_err(failed)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Only a full counter (2^64 - 2 stops) fails this.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(reports: &Reports, stop: &EventFd) {
    // When to check the drop counts: while refusals arrive, and once after the last.
    let mut count_at: Option<Instant> = None;
    loop {
        let left = count_at.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
        });
        let waited = reports.wait(stop, limit);
        reports.drain();
        match waited {
            Waited::Ended => return,
            Waited::Refusals => count_at = count_at.or(Some(Instant::now() + COUNT_AFTER)),
            Waited::Nothing => {}
        }
        if count_at.is_some_and(|at| at <= Instant::now()) {
            count_at = reports.count().then(|| Instant::now() + COUNT_AFTER);
        }
    }
}

/// Translates to the type the proxy knows.
fn translate(refusal: &layout::Refusal) -> Refusal {
    let cause = match refusal.cause {
        cause::NETWORK => Cause::Network,
        cause::LIMIT => Cause::Limit,
        cause::UNSERVED => Cause::Unserved,
        _ => Cause::Protocol,
    };
    let destination = (refusal.cause != cause::SOCKET).then(|| refusal.destination.into());
    Refusal { cause, protocol: refusal.protocol, destination }
}

/// A panic leaves nothing half done here, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
