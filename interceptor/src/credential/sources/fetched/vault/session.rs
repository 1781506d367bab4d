//! What is known between two fetches: a token, a lease, a secret id that was unwrapped.

use std::fmt;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::super::super::problem::SourceProblem;
use super::answer::Found;

/// The share of a life after which it is renewed.
const DUE: f64 = 0.6;

/// What is known between two fetches.
#[derive(Default)]
pub(in super::super) struct Session {
    pub(super) token: Option<Token>,
    pub(super) lease: Option<Lease>,
    /// A token of a response, and the secret id that was in it.
    wrapped: Option<Unwrapped>,
}

/// A token, and what it stood for.
type Unwrapped = (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Forgets a token, and the lease that ends with it.
    pub(super) fn end(&mut self) {
        self.token = None;
        self.lease = None;
    }

    /// Forgets the token if another was given.
    pub(super) fn use_token(&mut self, given: &[u8]) {
        if self.token.as_ref().is_some_and(|token| token.expose() != given) {
            self.end();
        }
    }

    /// The secret id that was in this response.
    pub(super) fn unwrapped(&self, given: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (of, secret_id) = self.wrapped.as_ref()?;
        (of.as_slice() == given).then(|| secret_id.clone())
    }

    /// Keeps the secret id that was in a response.
    pub(super) fn keep_unwrapped(
        &mut self,
        given: &Zeroizing<Vec<u8>>,
        secret_id: &Zeroizing<Vec<u8>>,
    ) {
        self.wrapped = Some((given.clone(), secret_id.clone()));
    }
}

/// A life that was told at a moment.
#[derive(Clone, Copy)]
struct Life {
    begun: Instant,
    whole: Duration,
}

impl Life {
    fn new(whole: Duration) -> Life {
        Life { begun: Instant::now(), whole }
    }

    fn is_due(&self) -> bool {
        self.begun.elapsed() >= self.whole.mul_f64(DUE)
    }

    fn left(&self) -> Duration {
        self.whole.saturating_sub(self.begun.elapsed())
    }
}

/// A token of the server.
pub(super) struct Token {
    text: Zeroizing<Vec<u8>>,
    /// How long it lasted at first.
    whole: Duration,
    /// How long it lasts; `None` if it does not end, or nothing is known.
    life: Option<Life>,
    is_renewable: bool,
}

impl Token {
    /// Of `seconds`; 0 if it does not end.
    pub(super) fn new(text: Zeroizing<Vec<u8>>, seconds: u64, is_renewable: bool) -> Token {
        let whole = Duration::from_secs(seconds);
        let life = (seconds > 0).then(|| Life::new(whole));
        Token { text, whole, life, is_renewable }
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.text
    }

    /// Whether it is time to do something about its end.
    pub(super) fn is_due(&self) -> bool {
        self.life.is_some_and(|life| life.is_due())
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.is_renewable
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Notes the life that the server gave it now. Returns whether that is about what it was.
    pub(super) fn renewed(&mut self, seconds: u64, is_renewable: bool) -> bool {
        let granted = Duration::from_secs(seconds);
        self.life = (seconds > 0).then(|| Life::new(granted));
        self.is_renewable = is_renewable;
        seconds == 0 || granted >= self.whole / 2
    }

    /// How long it still lasts, if that is known.
    pub(super) fn left(&self) -> Option<Duration> {
        self.life.map(|life| life.left())
    }
}

/// A secret that was read, with its lease if it has one.
pub(super) struct Lease {
    id: Zeroizing<String>,
    key: Zeroizing<Vec<u8>>,
    /// How long it was good for at first.
    pub(super) whole: Duration,
    life: Option<Life>,
    is_renewable: bool,
}

impl Lease {
    /// The field of a secret.
    pub(super) fn new(found: Found, field: &str) -> Result<Lease, SourceProblem> {
        let Found { id, seconds, is_renewable, mut fields } = found;
        let key = fields.remove(field).flatten();
        let key = key.ok_or_else(|| SourceProblem::NoField(field.to_owned()))?;
        let whole = Duration::from_secs(seconds);
        let has_lease = !id.expose().is_empty() && seconds > 0;
        Ok(Lease {
            id: Zeroizing::new(id.expose().to_owned()),
            key: Zeroizing::new(key.expose().as_bytes().to_vec()),
            whole,
            life: has_lease.then(|| Life::new(whole)),
            is_renewable,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether it is time to renew it, and that may succeed.
    pub(super) fn is_due(&self) -> bool {
        self.is_renewable && self.life.is_some_and(|life| life.is_due())
    }

    /// How long it still lasts; `None` without a lease.
    pub(super) fn left(&self) -> Option<Duration> {
        self.life.map(|life| life.left())
    }

    /// The same with the life that the server gave it now; `None` if it comes to its end.
    pub(super) fn renewed(self, granted: Duration, is_renewable: bool) -> Option<Lease> {
        let is_enough = granted >= self.whole / 2;
        is_enough.then(|| Lease { life: Some(Life::new(granted)), is_renewable, ..self })
    }
}
