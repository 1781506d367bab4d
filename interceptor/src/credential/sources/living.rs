//! One source, and the life of its key.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::KeySource;
use jiff::Timestamp;
use tokio::sync::watch;

use super::super::changes;
use super::super::former::{self, Former, Formers};
use super::super::key::RealKey;
use super::super::readers;
use super::due;
use super::origin::Origin;
use super::printed::Printed;
use super::problem::SourceProblem;

/// How long after a failure the next attempt is: doubled with each, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The least time between the end of a fetch and the next, however short a life its key has.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// The least time between two fetches because an origin refused the key: a sandbox can provoke such
/// answers.
const REFUSED_EVERY: Duration = Duration::from_secs(30);
/// How long a request waits for another key after an origin refused the one there is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer than the source itself a request waits.
const MARGIN: Duration = Duration::from_secs(5);
/// A fetch that ended so long ago counts as one that begins now.
const JUST_NOW: Duration = Duration::from_secs(1);

/// A source that several keyrings share.
#[derive(Debug)]
pub(crate) struct Living {
    origin: Origin,
    state: Mutex<State>,
    /// The number of the key there is; 0 before the first.
    version: AtomicU64,
    /// Counts fetches that ended, for those who wait in a task, and for those who block.
    ended: watch::Sender<u64>,
    ended_here: Condvar,
}

#[derive(Debug, Default)]
struct State {
    value: Option<Value>,
    /// The keys before it, which are still searched for.
    former: Formers,
    is_fetching: bool,
    failure: Option<Failure>,
    fetches: u64,
    failures: u64,
    /// When a fetch last began because an origin refused the key.
    refused: Option<Instant>,
    /// The credentials whose key it is.
    names: BTreeSet<String>,
}

/// A key, with its life.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// The key.
    pub(crate) key: Arc<RealKey>,
    /// Its number at this source.
    pub(crate) version: u64,
    fetched: Instant,
    life: Duration,
    until: Option<Timestamp>,
    /// Whether the source said when it ends.
    is_told: bool,
}

/// The attempts that failed since the last key came.
#[derive(Debug)]
struct Failure {
    problem: SourceProblem,
    ended: Instant,
    times: u32,
}

/// What is known of the sources of credentials of one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) fetches: u64,
    pub(crate) failures: u64,
    /// Since when its oldest key is there.
    pub(crate) age: Option<Duration>,
    /// How long the first of its keys to end still lasts.
    pub(crate) left: Option<Duration>,
}

/// The life of a key on its way to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Life {
    whole: Duration,
    left: Duration,
    #[serde(default)]
    is_told: bool,
}

impl Life {
    /// Of a key that has expired.
    pub(crate) const OVER: Life =
        Life { whole: Duration::ZERO, left: Duration::ZERO, is_told: false };
}

/// What a request finds.
enum Found {
    Good,
    /// Good, but refused by an origin, and another is being fetched.
    Refused,
    Fetching,
    Failed(SourceProblem),
    /// A key came and has ended already; the next fetch begins then.
    Soon(Instant),
    Due,
}

impl Value {
    /// When the next fetch is due.
    fn due(&self) -> Instant {
        self.earliest().max(self.fetched + self.life.mul_f64(0.8))
    }

    /// When the next fetch may begin, if no origin refuses the key.
    fn earliest(&self) -> Instant {
        self.fetched + LEAST_PAUSE
    }

    fn is_good(&self) -> bool {
        // The clock that goes on while the machine sleeps counts too.
        self.fetched.elapsed() < self.life && self.until.is_none_or(|end| Timestamp::now() < end)
    }

    fn left(&self) -> Duration {
        let left = self.life.saturating_sub(self.fetched.elapsed());
        let by_clock = self.until.map(|end| end.duration_since(Timestamp::now()));
        by_clock.map_or(left, |by_clock| left.min(by_clock.try_into().unwrap_or_default()))
    }

    /// Its life, for another process.
    pub(crate) fn life(&self) -> Life {
        Life { whole: self.life, left: self.left(), is_told: self.is_told }
    }

    /// A key of another process.
    fn taken(key: &Arc<RealKey>, Life { whole, left, is_told }: Life) -> Value {
        let now = Instant::now();
        let fetched = now.checked_sub(whole.saturating_sub(left)).unwrap_or(now);
        let until = Timestamp::now().checked_add(left).ok();
        Value { key: key.clone(), version: 0, fetched, life: whole, until, is_told }
    }

    /// As what it is once another is in use.
    pub(crate) fn retired(&self) -> Former {
        Former::of(self.key.clone(), self.left(), self.is_told)
    }
}

impl Failure {
    fn pause(&self) -> Duration {
        FIRST_PAUSE.saturating_mul(1 << self.times.saturating_sub(1).min(6)).min(LONGEST_PAUSE)
    }
}

impl State {
    /// Puts a key in the place of the one there is, which is searched for still.
    fn replace(&mut self, value: Value) {
        if let Some(before) = self.value.replace(value) {
            self.former.add(before.retired());
        }
        self.settle();
    }

    fn settle(&mut self) {
        if let Some(value) = &self.value {
            self.former.settle_source(&value.key);
        }
    }

    fn good(&self) -> Option<&Value> {
        self.value.as_ref().filter(|value| value.is_good())
    }

    fn found(&self) -> Found {
        if let Some(value) = self.good() {
            let is_refused = self.refused.is_some_and(|refused| refused > value.fetched);
            return if is_refused && self.is_fetching { Found::Refused } else { Found::Good };
        }
        match &self.failure {
            _ if self.is_fetching => Found::Fetching,
            Some(failure) if failure.ended.elapsed() < failure.pause() => {
                Found::Failed(failure.problem.clone())
            }
            Some(_) => Found::Due,
            None => match self.value.as_ref().map(Value::earliest) {
                Some(earliest) if earliest > Instant::now() => Found::Soon(earliest),
                _ => Found::Due,
            },
        }
    }
}

impl Living {
    /// Notes a credential whose key it is.
    pub(super) fn serves(&self, credential: &str) {
        self.state().names.insert(credential.to_owned());
    }

    pub(super) fn new(origin: Origin) -> Living {
        Living {
            origin,
            state: Mutex::default(),
            version: AtomicU64::new(0),
            ended: watch::Sender::new(0),
            ended_here: Condvar::new(),
        }
    }

    /// Whether it asks the same, with the same rights.
    pub(super) fn is(&self, origin: &Origin) -> bool {
        self.origin.is(origin)
    }

    /// Whether it is what a policy describes so.
    pub(crate) fn is_of(&self, source: &KeySource) -> bool {
        self.origin.is_of(source)
    }

    /// Every step leaves it consistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the key there is.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The last key that came, expired or not, and those before it.
    pub(crate) fn value(&self) -> Option<(Value, Formers)> {
        let state = self.state();
        state.value.clone().map(|value| (value, state.former.clone()))
    }

    /// A key that has not expired; fetched if there is none. Waits for it on this thread.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn read(&self) -> Result<Value, SourceProblem> {
        self.get(|_| false)
    }

    /// As [`Living::read`], but fetched even if there is one.
    ///
    /// # Errors
    /// Why there is no other.
    pub(crate) fn read_again(&self) -> Result<Value, SourceProblem> {
        let asked = Instant::now();
        self.get(|value| value.fetched + JUST_NOW < asked)
    }

    fn get(&self, is_old: impl Fn(&Value) -> bool) -> Result<Value, SourceProblem> {
        let mut state = self.state();
        let (first, mut has_waited) = (self.version(), false);
        loop {
            has_waited |= state.is_fetching;
            while state.is_fetching {
                state = self.ended_here.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            // One that came meanwhile is what was waited for, however soon it ended.
            let came = state.value.as_ref().filter(|value| value.version != first);
            if let Some(value) = came.or(state.good()).filter(|value| !is_old(value)) {
                return Ok(value.clone());
            }
            match (&state.failure, state.found()) {
                (_, Found::Failed(problem)) => return Err(problem),
                // What was waited for is what is told, however long that took.
                (Some(failure), _) if has_waited => return Err(failure.problem.clone()),
                (_, Found::Soon(earliest)) => {
                    let left = earliest.saturating_duration_since(Instant::now());
                    let waited = self.ended_here.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => break,
            }
        }
        state.is_fetching = true;
        drop(state);
        self.fetch()
    }

    /// Begins a fetch on a thread of its own, unless there is one under way.
    pub(crate) fn begin(self: &Arc<Self>) {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_fetching, true) {
            return;
        }
        drop(state);
        let living = self.clone();
        let begun = readers::run(move || drop(living.fetch()));
        if let Err(error) = begun {
            // Its result is told to those who wait.
            let _ = self.end(Err(SourceProblem::Unstarted(error.to_string())));
        }
    }

    /// Fetches, and ends what was begun.
    fn fetch(&self) -> Result<Value, SourceProblem> {
        // Another key would push one that lives out of the search in answers.
        if !self.state().former.have_room() {
            return self.end(Err(SourceProblem::TooMany(former::MOST)));
        }
        let fetched = catch_unwind(AssertUnwindSafe(|| self.origin.fetch()));
        self.end(fetched.unwrap_or(Err(SourceProblem::Unstarted("it failed here".to_owned()))))
    }

    fn end(&self, fetched: Result<Printed, SourceProblem>) -> Result<Value, SourceProblem> {
        let mut state = self.state();
        state.is_fetching = false;
        state.fetches += 1;
        let result = match fetched {
            Ok(Printed { key, life, until, is_told }) => {
                let version = self.version() + 1;
                let fetched = Instant::now();
                let key = Arc::new(key);
                let value = Value { key, version, fetched, life, until, is_told };
                state.replace(value.clone());
                state.failure = None;
                self.version.store(version, Ordering::Release);
                // Before anybody can take the key, who waits for this lock.
                changes::count();
                Ok(value)
            }
            Err(problem) => {
                let times = state.failure.as_ref().map_or(0, |failure| failure.times);
                let times = times.saturating_add(1);
                state.failures += 1;
                state.failure =
                    Some(Failure { problem: problem.clone(), ended: Instant::now(), times });
                Err(problem)
            }
        };
        drop(state);
        if let Err(problem) = &result {
            let names = self.state().names.iter().cloned().collect::<Vec<_>>().join(", ");
            tracing::warn!(credential = names, %problem, "no key from its source");
        }
        self.ended.send_modify(|ended| *ended += 1);
        self.ended_here.notify_all();
        due::changed();
        result
    }

    /// When the next fetch is due; `None` while one is under way, and before the first.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.state();
        if state.is_fetching {
            return None;
        }
        match (&state.failure, &state.value) {
            (Some(failure), _) => Some(failure.ended + failure.pause()),
            (None, Some(value)) => Some(value.due()),
            (None, None) => None,
        }
    }

    /// Waits until there is a key that has not expired. Where an origin refused the one there is
    /// (`is_refused`), also for another, for a while: only whoever was refused is held up by that.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn usable(self: &Arc<Self>, is_refused: bool) -> Result<(), SourceProblem> {
        let mut ended = self.ended.subscribe();
        let deadline = tokio::time::Instant::now() + self.origin.timeout() + MARGIN;
        loop {
            let found = self.state().found();
            match found {
                Found::Good => return Ok(()),
                Found::Refused if !is_refused => return Ok(()),
                Found::Refused => {
                    // The one there is may still be good for other requests.
                    let _ = tokio::time::timeout(PATIENCE, ended.changed()).await;
                    return Ok(());
                }
                Found::Failed(problem) => return Err(problem),
                Found::Soon(earliest) if earliest >= deadline.into_std() => {
                    return Err(SourceProblem::Expired);
                }
                Found::Soon(earliest) => {
                    let _ = tokio::time::timeout_at(earliest.into(), ended.changed()).await;
                    continue;
                }
                Found::Due => self.begin(),
                Found::Fetching => {}
            }
            if tokio::time::timeout_at(deadline, ended.changed()).await.is_err() {
                return Err(SourceProblem::Timeout(self.origin.timeout()));
            }
            // What was waited for is what is told, however long that took.
            let state = self.state();
            match &state.failure {
                Some(failure) if state.good().is_none() => return Err(failure.problem.clone()),
                _ => {}
            }
        }
    }

    /// An origin refused the key in a request that was made at `sent`: fetches another, once.
    pub(crate) fn refused(self: &Arc<Self>, sent: Instant) {
        let mut state = self.state();
        let Some(value) = &state.value else { return };
        let is_newer = value.fetched > sent;
        let is_soon = state.refused.is_some_and(|last| last.elapsed() < REFUSED_EVERY);
        if is_newer || is_soon || state.is_fetching {
            return;
        }
        state.former.prune();
        if state.former.len() >= former::MOST_REFUSED {
            return;
        }
        state.refused = Some(Instant::now());
        drop(state);
        self.begin();
    }

    /// Takes the key that another process had, and those before it. Of two, the one that lasts
    /// longer is used, and the other is searched for.
    pub(crate) fn take(&self, key: &Arc<RealKey>, life: Life, former: Formers) {
        let taken = Value::taken(key, life);
        let mut state = self.state();
        state.former.extend(former);
        match &state.value {
            Some(value) if value.left() >= taken.left() => {
                state.former.add(taken.retired());
                state.settle();
            }
            _ => state.replace(taken),
        }
        // Whoever has the key already learns of those before it.
        let version = self.version() + 1;
        if let Some(value) = &mut state.value {
            value.version = version;
        }
        self.version.store(version, Ordering::Release);
        changes::count();
        drop(state);
        due::changed();
    }

    /// The credentials whose key it is, and what is known of it.
    pub(super) fn measure(&self) -> (Vec<String>, Measured) {
        let state = self.state();
        let value = state.value.as_ref();
        let measured = Measured {
            fetches: state.fetches,
            failures: state.failures,
            age: value.map(|value| value.fetched.elapsed()),
            left: value.map(Value::left),
        };
        (state.names.iter().cloned().collect(), measured)
    }
}
