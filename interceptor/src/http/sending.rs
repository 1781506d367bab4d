//! What those who wait for an answer must know of the request's body, and how long they wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use interceptor_policy::{Deny, Limits, Reason};
use tokio::sync::{Notify, oneshot};

use super::refuse::deny::refusal;
use crate::tunnel::pulse::Pulse;
use crate::words;

/// Why the body ends before its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", deny.message)]
pub(crate) struct Broken {
    /// What the sandbox is told, where it can still be told.
    pub deny: Deny,
    /// What the record says.
    pub ends: Reason,
}

impl Broken {
    /// `limits.body_bytes` was reached.
    pub(crate) fn too_large(most: u64) -> Broken {
        let message = format!(
            "the body goes beyond {}, the most that one request may send; send less, or raise \
             limits.body_bytes",
            words::count(most, "byte")
        );
        let deny = refusal(Reason::LimitExceeded, message);
        Broken { deny: Deny { status: 413, ..deny }, ends: Reason::LimitExceeded }
    }

    /// The sandbox sent nothing for `limits.idle_timeout_seconds`.
    pub(crate) fn idle(idle: Duration) -> Broken {
        let message = format!(
            "nothing of the request's body came for {idle:?}, which is \
             limits.idle_timeout_seconds; send it without such pauses, or raise the limit"
        );
        let deny = refusal(Reason::LimitExceeded, message);
        Broken { deny: Deny { status: 408, ..deny }, ends: Reason::IdleTimeout }
    }

    /// It is malformed, or the sandbox closed before its end.
    pub(super) fn of(error: &hyper::Error) -> Broken {
        let ends = if is_malformed(error) { Reason::RequestMalformed } else { Reason::Aborted };
        let message =
            "the body of the request is malformed or broke off; it was not sent to its end";
        Broken { deny: refusal(Reason::RequestMalformed, message.to_owned()), ends }
    }
}

impl From<Deny> for Broken {
    fn from(deny: Deny) -> Broken {
        Broken { ends: deny.reason, deny }
    }
}

/// Whether a body broke the rules of its protocol, rather than off.
pub(super) fn is_malformed(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            let kind = error.kind();
            return matches!(
                kind,
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput
            );
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_library();
        }
        source = cause.source();
    }
    error.is_parse()
}

/// What those who wait for the answer must know of the body.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    pub(super) pulse: Pulse,
    /// Nothing more is to be sent.
    done: AtomicBool,
    ended: Notify,
    /// It is the sandbox that is waited for.
    pub(super) starved: AtomicBool,
    /// The body was waited for, or began: what came before it is written, or will be.
    pub(super) flushed: AtomicBool,
    /// The origin answers: from then on its silence, and the sandbox's, are counted there.
    pub(super) answered: AtomicBool,
    pub(super) broken: OnceLock<Broken>,
    gone: Mutex<Gone>,
}

/// Whether the body was let go of, and whoever waits for that. What is told is whether it broke the
/// rules of its protocol.
#[derive(Debug)]
enum Gone {
    Not(Option<oneshot::Sender<bool>>),
    Yes(bool),
}

impl Default for Gone {
    fn default() -> Gone {
        Gone::Not(None)
    }
}

impl Sending {
    pub(super) fn end(&self) {
        self.pulse.beat();
        self.done.store(true, Ordering::Relaxed);
        self.ended.notify_one();
    }

    /// Tells when it is let go of whether it broke the rules of its protocol.
    pub(crate) fn let_go(&self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        // Nothing panics while it is held.
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        match *gone {
            Gone::Yes(malformed) => drop(tell.send(malformed)),
            Gone::Not(_) => *gone = Gone::Not(Some(tell)),
        }
        told
    }

    /// It is let go of.
    pub(super) fn gone(&self, malformed: bool) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Gone::Not(Some(waiting)) = std::mem::replace(&mut *gone, Gone::Yes(malformed)) {
            let _ = waiting.send(malformed);
        }
    }

    /// Why it ended before its end.
    pub(crate) fn broken(&self) -> Option<&Broken> {
        self.broken.get()
    }

    /// The origin began to answer.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Its answer is over: what of the body is still to come is the sandbox's to send.
    pub(crate) fn answer_over(&self) {
        self.answered.store(false, Ordering::Relaxed);
    }

    /// Whether the origin can have received the head, if the connection was HTTP/1.1.
    pub(crate) fn head_was_sent(&self) -> bool {
        self.flushed.load(Ordering::Relaxed) || self.broken().is_none()
    }

    /// Waits for `answer` as long as the body moves, then as long as an answer may take.
    ///
    /// # Errors
    /// The limit that is used up, and whether it is the sandbox that stands still.
    pub(crate) async fn patiently<F: Future>(
        &self,
        answer: F,
        limits: &Limits,
    ) -> Result<F::Output, Impatience> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let done = self.done.load(Ordering::Relaxed);
            let patience = if done { limits.response_timeout } else { limits.idle_timeout };
            let Some(left) = self.pulse.left(patience) else {
                return Err(match (done, self.starved.load(Ordering::Relaxed)) {
                    (true, _) => Impatience::Response,
                    (false, true) => Impatience::Sandbox,
                    (false, false) => Impatience::Origin,
                });
            };
            tokio::select! {
                answer = answer.as_mut() => return Ok(answer),
                () = self.ended.notified(), if !done => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

/// What an answer was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Impatience {
    /// The origin, which has the whole request.
    Response,
    /// The origin, which does not take the body.
    Origin,
    /// The sandbox, which does not send the body.
    Sandbox,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tokio::time::Instant;

    const IDLE: Duration = Duration::from_secs(300);
    const RESPONSE: Duration = Duration::from_secs(1800);

    fn limits() -> Limits {
        Limits { idle_timeout: IDLE, response_timeout: RESPONSE, ..Limits::default() }
    }

    /// What is given up on, and when, while `during` happens to the body.
    async fn given_up<F: Future>(during: impl FnOnce(Arc<Sending>) -> F) -> (Impatience, Duration) {
        let (sending, began) = (Arc::new(Sending::default()), Instant::now());
        let happening = async {
            during(sending.clone()).await;
            std::future::pending::<()>().await
        };
        let never = std::future::pending::<()>();
        let limits = limits();
        let ended = tokio::select! {
            ended = sending.patiently(never, &limits) => ended.unwrap_err(),
            () = happening => unreachable!("it never ends"),
        };
        (ended, began.elapsed())
    }

    fn about(took: Duration, expected: Duration) -> bool {
        took >= expected && took < expected + expected / 50
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_given_up_by_the_own_limit_and_on_time() {
        let (who, took) = given_up(|sending| async move { sending.end() }).await;
        assert!(who == Impatience::Response && about(took, RESPONSE), "{who:?} {took:?}");
        let (who, took) = given_up(|_| async {}).await;
        assert!(who == Impatience::Origin && about(took, IDLE), "{who:?} {took:?}");
        let starved = |sending: Arc<Sending>| async move {
            sending.starved.store(true, Ordering::Relaxed);
        };
        let (who, took) = given_up(starved).await;
        assert!(who == Impatience::Sandbox && about(took, IDLE), "{who:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_last_movement() {
        let slow = |sending: Arc<Sending>| async move {
            for _ in 0..10 {
                tokio::time::sleep(IDLE * 9 / 10).await;
                sending.pulse.beat();
            }
            sending.end();
        };
        let (who, took) = given_up(slow).await;
        let expected = IDLE * 9 + RESPONSE;
        assert!(who == Impatience::Response && about(took, expected), "{who:?} {took:?}");
    }
}
