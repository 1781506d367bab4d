//! The refusals of the programs, from their ring to whoever wants to hear of each sandbox's.
//!
//! A thread sleeps until the ring holds something. What does not fit, or comes faster than a sandbox may report, the programs only
//! count; the count is passed on too.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Map, MapData, RingBuf};
use interceptor_ebpf::layout::{self, cause, join};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::KernelError;
use super::maps::Maps;
use crate::seam::{Cause, Refusal, Refusals};

/// How long after a refusal the counts of what was dropped are looked at, and how often at most.
const COUNT_AFTER: Duration = Duration::from_secs(1);

/// Whoever hears of one sandbox.
struct Listener {
    refusals: Arc<dyn Refusals>,
    /// The count of dropped reports that it has heard of.
    dropped: u64,
    /// Whether something was reported since that count was looked at: what is dropped comes after what is reported.
    is_due: bool,
}

impl Listener {
    /// Passes on how much was dropped.
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
    /// Of the ring: another process may go on with it.
    descriptor: OwnedFd,
    ring: Mutex<RingBuf<MapData>>,
    /// The thread that reads. There is one at a time, also of all processes that have the ring.
    reader: Mutex<Option<Reader>>,
    listeners: Mutex<HashMap<u64, Listener>>,
    maps: Arc<Maps>,
}

impl fmt::Debug for Reports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Reports {
    /// Of a loaded object.
    pub(super) fn take(object: &mut Ebpf, maps: Arc<Maps>) -> Result<Arc<Self>, KernelError> {
        let map = object.take_map("REFUSALS").ok_or(KernelError::Incomplete { part: "REFUSALS" })?;
        Self::of(map, maps)
    }

    /// Of the ring that another process has made.
    pub(super) fn open(descriptor: OwnedFd, maps: Arc<Maps>) -> Result<Arc<Self>, KernelError> {
        let map = MapData::from_fd(descriptor).and_then(Map::from_map_data);
        let action = "opened from a descriptor handed over";
        Self::of(map.map_err(|source| KernelError::Map { map: "REFUSALS", action, source })?, maps)
    }

    fn of(map: Map, maps: Arc<Maps>) -> Result<Arc<Self>, KernelError> {
        let failed = |source| KernelError::Map { map: "REFUSALS", action: "mapped", source };
        let ring = RingBuf::try_from(map).map_err(failed)?;
        let descriptor = ring.as_fd().try_clone_to_owned();
        let descriptor = descriptor
            .map_err(|source| KernelError::Io { action: "duplicate the ring of refusals", source })?;
        let (ring, reader) = (Mutex::new(ring), Mutex::default());
        Ok(Arc::new(Self { descriptor, ring, reader, listeners: Mutex::default(), maps }))
    }

    /// The ring's descriptor, by which another process goes on with it: see [`Self::open`].
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Begins to read, if nothing does yet.
    pub(super) fn begin(self: &Arc<Self>) -> Result<(), KernelError> {
        let mut reader = lock(&self.reader);
        if reader.is_none() {
            *reader = Some(Reader::start(self)?);
        }
        Ok(())
    }

    /// Reads no more, so that another process may.
    pub(super) fn end(&self) {
        let reader = lock(&self.reader).take();
        drop(reader);
    }

    /// Passes the refusals of a sandbox on from now.
    pub(super) fn listen(&self, sandbox: u64, refusals: Arc<dyn Refusals>) {
        let dropped = self.maps.dropped_reports(sandbox);
        lock(&self.listeners).insert(sandbox, Listener { refusals, dropped, is_due: false });
    }

    /// Passes nothing of a sandbox's on any more: whoever has the ring now does.
    pub(super) fn leave(&self, sandbox: u64) {
        lock(&self.listeners).remove(&sandbox);
    }

    /// Passes on what is left of a sandbox's, and nothing after that.
    pub(super) fn forget(&self, sandbox: u64) {
        self.flush(sandbox);
        lock(&self.listeners).remove(&sandbox);
    }

    /// Passes on every refusal up to now, and how many of the sandbox were dropped.
    pub(super) fn flush(&self, sandbox: u64) {
        self.drain();
        let dropped = self.maps.dropped_reports(sandbox);
        if let Some(listener) = lock(&self.listeners).get_mut(&sandbox) {
            listener.count(dropped);
        }
    }

    /// Passes on what the ring holds.
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

    /// Passes on what was dropped; says whether to look again.
    fn count(&self) -> bool {
        let mut again = false;
        for (sandbox, listener) in lock(&self.listeners).iter_mut().filter(|(_, listener)| listener.is_due) {
            listener.count(self.maps.dropped_reports(*sandbox));
            again |= listener.is_due;
        }
        again
    }

    /// Waits until the ring holds something, `stop` is written to, or the time is over.
    fn wait(&self, stop: &EventFd, limit: PollTimeout) -> Waited {
        // The descriptor is the ring's for as long as this value lives; the lock is not held while waiting.
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
    let mut ready = [PollFd::new(ring, PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
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

/// The thread that reads; dropping this ends it.
#[derive(Debug)]
pub(super) struct Reader {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts to read.
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
    // While something comes, and once more after the last.
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

/// As the proxy knows it.
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

/// The count of dropped reports in the words of the map's value.
pub(super) fn dropped(words: [u32; layout::Reported::WORDS]) -> u64 {
    let [.., low, high] = words;
    join([low, high])
}

/// Nothing is half done when a thread panics here, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
