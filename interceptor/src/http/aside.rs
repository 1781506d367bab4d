//! What rarely has anything to say, beside a connection that is polled several times a request: it
//! is polled when it was woken itself, not whenever its task is.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is polled when it was woken.
pub(super) struct Aside<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// Wakes `bell`.
    ringer: Waker,
    /// The task that `bell` wakes.
    task: Option<Waker>,
}

struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F: Future> Aside<F> {
    pub(super) fn new(future: F) -> Aside<F> {
        // The first time it is polled in any case.
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::default() });
        Aside { future: Box::pin(future), ringer: bell.clone().into(), bell, task: None }
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.task = Some(cx.waker().clone());
            *this.bell.task.lock().unwrap_or_else(PoisonError::into_inner) = this.task.clone();
        }
        // Looked at before it is taken back: a load costs less than an exchange.
        if !this.bell.rung.load(Ordering::Acquire) || !this.bell.rung.swap(false, Ordering::AcqRel)
        {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.ringer))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_polled_when_it_was_woken_and_not_with_its_task() {
        let (token, mut polls) = (CancellationToken::new(), 0);
        let cancelled = token.clone();
        let mut waiting = Box::pin(async move { cancelled.cancelled().await });
        let mut aside = Aside::new(std::future::poll_fn(|cx| {
            polls += 1;
            waiting.as_mut().poll(cx)
        }));
        for _ in 0..10 {
            let soon = tokio::time::timeout(Duration::from_millis(1), &mut aside);
            assert!(soon.await.is_err());
        }
        // From another task, and after the one that waits has changed.
        let waiter = tokio::spawn(async move { token.cancel() });
        aside.await;
        waiter.await.unwrap();
        assert_eq!(polls, 2);
    }
}
