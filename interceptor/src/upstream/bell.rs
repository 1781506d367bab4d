//! Wakes the task that drives a connection, except while that task itself causes the wake-up.
//!
//! hyper's body wakes its connection when somebody reads. A task that does both would wake itself
//! in every response: tokio would poll it once more for nothing, and start another worker thread to
//! look for work.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// How often to drive a connection before other tasks get their turn.
const ROUNDS: usize = 4;

/// The waker of a connection that is driven by the task that uses it.
#[derive(Debug)]
pub(super) struct Bell {
    ring: Arc<Ring>,
    /// Wakes `ring`.
    waker: Waker,
    /// The task that `ring` wakes.
    task: Option<Waker>,
}

#[derive(Debug, Default)]
struct Ring {
    rung: AtomicBool,
    /// The task is driving the connection, and checks `rung` before it suspends.
    attended: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    pub(super) fn new() -> Bell {
        let ring = Arc::new(Ring::default());
        Bell { waker: ring.clone().into(), ring, task: None }
    }

    /// Polls until `ask` is ready, or until driving the connection makes no more progress. Then a
    /// ring wakes the task.
    pub(super) fn attend<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut ask: impl FnMut() -> Poll<T>,
        mut drive: impl FnMut(&mut Context<'_>),
    ) -> Poll<T> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.set_task(Some(cx.waker().clone()));
        }
        self.ring.attended.store(true, SeqCst);
        let mut answer = ask();
        for _ in 0..ROUNDS {
            if answer.is_ready() {
                break;
            }
            self.ring.rung.store(false, SeqCst);
            drive(&mut Context::from_waker(&self.waker));
            answer = ask();
            if !self.ring.rung.load(SeqCst) {
                break;
            }
        }
        self.ring.attended.store(false, SeqCst);
        // After an answer, the next poll drives the connection anyway.
        if answer.is_pending() && self.ring.rung.load(SeqCst) {
            cx.waker().wake_by_ref();
        }
        answer
    }

    /// Wakes nobody and keeps no task alive until the next [`Self::attend`].
    pub(super) fn forget(&mut self) {
        if self.task.is_some() {
            self.set_task(None);
        }
    }

    fn set_task(&mut self, task: Option<Waker>) {
        self.task.clone_from(&task);
        *self.ring.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, SeqCst);
        if self.attended.load(SeqCst) {
            return;
        }
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll::{Pending, Ready};

    use super::*;

    #[derive(Debug, Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn what_rings_while_it_is_attended_is_looked_after_at_once() {
        let counter = Arc::new(Counter::default());
        let (waker, mut bell) = (counter.clone().into(), Bell::new());
        let (asked, driven) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ring = bell.waker.clone();
        let answer = bell.attend(
            &mut Context::from_waker(&waker),
            || {
                let turn = asked.fetch_add(1, SeqCst);
                // The first two polls ring; the third is ready.
                if turn == 2 {
                    return Ready(());
                }
                ring.wake_by_ref();
                Pending
            },
            |_| {
                driven.fetch_add(1, SeqCst);
            },
        );
        assert!(answer.is_ready());
        assert_eq!((driven.load(SeqCst), counter.0.load(SeqCst)), (2, 0));
    }

    #[test]
    fn a_bell_that_never_stops_gives_others_their_turn() {
        let counter = Arc::new(Counter::default());
        let (waker, mut bell) = (counter.clone().into(), Bell::new());
        let answer: Poll<()> = bell.attend(
            &mut Context::from_waker(&waker),
            || Pending,
            |cx| cx.waker().wake_by_ref(),
        );
        assert!(answer.is_pending());
        assert_eq!(counter.0.load(SeqCst), 1);
    }

    #[test]
    fn a_ring_later_wakes_the_task_unless_it_is_forgotten() {
        let counter = Arc::new(Counter::default());
        let (waker, mut bell) = (counter.clone().into(), Bell::new());
        let answer: Poll<()> = bell.attend(&mut Context::from_waker(&waker), || Pending, |_| {});
        assert!(answer.is_pending());
        bell.waker.wake_by_ref();
        assert_eq!(counter.0.load(SeqCst), 1);
        bell.forget();
        bell.waker.wake_by_ref();
        assert_eq!(counter.0.load(SeqCst), 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&counter), 1, "it keeps the task alive");
    }

    /// No ring is lost between the last check and the suspension: every number that another thread
    /// sends arrives.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rings_from_other_threads_are_not_lost() {
        let mut bell = Bell::new();
        let (sent, ring) = (Arc::new(AtomicUsize::new(0)), bell.waker.clone());
        let sending = sent.clone();
        let (next, turns) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            while turns.recv().is_ok() {
                sending.fetch_add(1, SeqCst);
                ring.wake_by_ref();
            }
        });
        for number in 1..=20_000 {
            next.send(()).unwrap();
            let arrived = poll_fn(|cx| {
                let seen = || if sent.load(SeqCst) >= number { Ready(()) } else { Pending };
                bell.attend(cx, seen, |_| {})
            });
            tokio::time::timeout(std::time::Duration::from_secs(20), arrived).await.unwrap();
        }
        drop(next);
        sender.join().unwrap();
    }
}
