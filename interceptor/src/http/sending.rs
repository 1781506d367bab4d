//! The state of a request body that those who wait for the response must know, and how long they
//! wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use interceptor_policy::{Deny, Limits, Reason};
use tokio::sync::{Notify, oneshot};

use super::refuse::deny::refusal;
use crate::tunnel::pulse::Pulse;
use crate::words;

/// Why the body ended early.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", deny.message)]
pub(crate) struct Broken {
    /// What the sandbox is told, if it still can be.
    pub deny: Deny,
    /// What the record says.
    pub ends: Reason,
}

impl Broken {
    /// `limits.body_bytes` was reached.
    pub(crate) fn too_large(most: u64) -> Broken {
        let message = format!(
            "the body is larger than {}, the limit for one request; send less, or raise \
             limits.body_bytes",
            words::count(most, "byte")
        );
        let deny = refusal(Reason::LimitExceeded, message);
        Broken { deny: Deny { status: 413, ..deny }, ends: Reason::LimitExceeded }
    }

    /// The sandbox sent nothing for `limits.idle_timeout_seconds`.
    pub(crate) fn idle(idle: Duration) -> Broken {
        let message = format!(
            "no data of the request's body arrived for {idle:?}, which is \
             limits.idle_timeout_seconds; send it without such pauses, or raise the limit"
        );
        let deny = refusal(Reason::LimitExceeded, message);
        Broken { deny: Deny { status: 408, ..deny }, ends: Reason::IdleTimeout }
    }

    /// It is malformed, or the sandbox closed the connection early.
    pub(super) fn of(error: &hyper::Error) -> Broken {
        let ends = if is_malformed(error) { Reason::RequestMalformed } else { Reason::Aborted };
        let message =
            "the body of the request is malformed or was cut short; it was not sent completely";
        Broken { deny: refusal(Reason::RequestMalformed, message.to_owned()), ends }
    }
}

impl From<Deny> for Broken {
    fn from(deny: Deny) -> Broken {
        Broken { ends: deny.reason, deny }
    }
}

/// Whether a body broke the rules of its protocol, rather than being cut short.
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

/// State of the request body for those who wait for the response.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    pub(super) pulse: Pulse,
    /// Nothing more is to be sent.
    done: AtomicBool,
    ended: Notify,
    /// The sandbox is the one being waited for.
    pub(super) starved: AtomicBool,
    /// The body was polled before or has begun: everything before it is written, or will be.
    pub(super) flushed: AtomicBool,
    /// The origin is responding. From then on, the response's timeouts apply to both sides.
    pub(super) answered: AtomicBool,
    pub(super) broken: OnceLock<Broken>,
    gone: Mutex<Gone>,
}

/// Whether the body was dropped, and who waits for that. The message says whether it broke the
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

    /// Resolves when the body is dropped, to whether it broke the rules of its protocol.
    pub(crate) fn let_go(&self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        // Nothing panics while the lock is held.
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        match *gone {
            Gone::Yes(malformed) => drop(tell.send(malformed)),
            Gone::Not(_) => *gone = Gone::Not(Some(tell)),
        }
        told
    }

    /// The body was dropped.
    pub(super) fn gone(&self, malformed: bool) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Gone::Not(Some(waiting)) = std::mem::replace(&mut *gone, Gone::Yes(malformed)) {
            let _ = waiting.send(malformed);
        }
    }

    /// Why it ended early.
    pub(crate) fn broken(&self) -> Option<&Broken> {
        self.broken.get()
    }

    /// The origin began to answer.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The response is over: from now on only the sandbox is waited for, to send the rest of the
    /// body.
    pub(crate) fn answer_over(&self) {
        self.answered.store(false, Ordering::Relaxed);
    }

    /// Whether an HTTP/1.1 origin can have received the head.
    pub(crate) fn head_was_sent(&self) -> bool {
        self.flushed.load(Ordering::Relaxed) || self.broken().is_none()
    }

    /// Waits for `answer` while the body makes progress, and after its end for as long as a
    /// response may take.
    ///
    /// # Errors
    /// Who was waited for when the limit expired.
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

/// What was waited for when the limit expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Impatience {
    /// The origin's response; the origin has the whole request.
    Response,
    /// The origin, which does not read the body.
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

    /// Who is given up on, and after how long, while `during` acts on the body.
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
    async fn a_stalled_side_is_given_up_on_by_its_own_limit_and_on_time() {
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
    async fn each_activity_restarts_the_timer() {
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
