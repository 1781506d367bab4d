//! The threads that read key files. A file may be on a mount that hangs, so each that is read has a
//! thread to itself. A thread that has read one waits a while for the next: with many sandboxes,
//! each of which looks at its files once a second, there is always one, and to start a thread costs
//! as much as the rest of a request.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a thread waits for work, and how many do.
const WAITS: Duration = Duration::from_secs(5);
const MOST_WAITING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// A thread that waits.
struct Waiting {
    number: u64,
    work: SyncSender<Work>,
}

/// Those that wait, and the last number.
static WAITING: Mutex<(Vec<Waiting>, u64)> = Mutex::new((Vec::new(), 0));

/// Every step leaves it consistent.
fn waiting() -> MutexGuard<'static, (Vec<Waiting>, u64)> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work on a thread that does nothing else meanwhile.
///
/// # Errors
/// If one is needed and cannot be started; the work is dropped.
pub(super) fn run(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut work: Work = Box::new(work);
    // The one that waited last, so that those beyond what is needed come to their end.
    let next = || waiting().0.pop();
    while let Some(thread) = next() {
        match thread.work.send(work) {
            Ok(()) => return Ok(()),
            Err(refused) => work = refused.0,
        }
    }
    let reader = thread::Builder::new().name("key-file".to_owned());
    reader.spawn(move || {
        let mut next = Some(work);
        while let Some(work) = next {
            work();
            next = wait();
        }
    })?;
    Ok(())
}

/// Waits for work; `None` if none comes, or enough others wait.
fn wait() -> Option<Work> {
    let (sender, coming): (SyncSender<Work>, Receiver<Work>) = sync_channel(1);
    let number = {
        let (all, last) = &mut *waiting();
        if all.len() >= MOST_WAITING {
            return None;
        }
        *last += 1;
        all.push(Waiting { number: *last, work: sender });
        *last
    };
    match coming.recv_timeout(WAITS) {
        Ok(work) => return Some(work),
        Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => {}
    }
    waiting().0.retain(|thread| thread.number != number);
    // If it was taken out before, its answer is sent or on its way.
    coming.recv().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_reads_again_and_one_that_hangs_keeps_nobody() {
        let ((said, heard), (release, held)) = (channel(), channel::<()>());
        let hanging = said.clone();
        run(move || {
            hanging.send(thread::current().id()).unwrap();
            let _ = held.recv();
        })
        .unwrap();
        let first = heard.recv().unwrap();
        let mut readers = std::collections::HashSet::new();
        for _ in 0..100 {
            let said = said.clone();
            run(move || said.send(thread::current().id()).unwrap()).unwrap();
            readers.insert(heard.recv().unwrap());
        }
        assert!(!readers.contains(&first));
        // One that has just spoken may not wait yet when the next is needed.
        assert!(readers.len() < 50, "{} threads for a hundred files", readers.len());
        drop(release);
    }
}
