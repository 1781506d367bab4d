//! The living sources of this process, and the thread that fetches them ahead of their end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::due;
use super::living::{Living, Measured};
use super::origin::Origin;

/// The longest wait of the thread, so that it notices sources that are gone.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Registry {
    all: Vec<Weak<Living>>,
    /// Whether the thread runs.
    is_timed: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { all: Vec::new(), is_timed: false });
/// Every step leaves it consistent.
fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source of a credential's key: the one that there is, or a new one.
pub(crate) fn living(origin: Origin, credential: &str) -> Arc<Living> {
    let living = find(origin);
    living.serves(credential);
    living
}

fn find(origin: Origin) -> Arc<Living> {
    let mut registry = registry();
    let known = registry.all.iter().filter_map(Weak::upgrade);
    let mut known = known.filter(|living| living.is(&origin));
    if let Some(living) = known.next() {
        return living;
    }
    drop(known);
    let living = Arc::new(Living::new(origin));
    registry.all.retain(|living| living.strong_count() > 0);
    registry.all.push(Arc::downgrade(&living));
    registry.keep_time();
    living
}

/// Starts the thread that fetches keys ahead of their end. It has the rights of the thread that
/// starts it, and so have those that it starts: call this before taking on somebody else's.
pub(crate) fn keep_time() {
    registry().keep_time();
}

impl Registry {
    fn keep_time(&mut self) {
        if !self.is_timed {
            // Without the thread, a key is fetched again when a request finds that it has expired.
            let timed = thread::Builder::new().name("key-sources".to_owned()).spawn(time);
            self.is_timed = timed.is_ok();
        }
    }
}

/// Begins each fetch when it is due. It goes on where there is no source any more: the next may
/// come from a thread with other rights.
fn time() {
    loop {
        // First, so that no change falls between the look and the wait.
        let seen = due::changes();
        let living: Vec<Arc<Living>> = registry().all.iter().filter_map(Weak::upgrade).collect();
        let now = Instant::now();
        let mut wait = LONGEST_WAIT;
        for living in &living {
            match living.due() {
                Some(due) if due <= now => living.begin(),
                Some(due) => wait = wait.min(due - now),
                None => {}
            }
        }
        drop(living);
        due::wait(seen, wait);
    }
}

/// What is known, by the names of credentials.
pub(crate) fn measured() -> BTreeMap<String, Measured> {
    let living: Vec<Arc<Living>> = registry().all.iter().filter_map(Weak::upgrade).collect();
    let mut all: BTreeMap<String, Measured> = BTreeMap::new();
    for living in living {
        let (names, one) = living.measure();
        for name in names {
            let sum = all.entry(name).or_default();
            sum.fetches += one.fetches;
            sum.failures += one.failures;
            sum.age = sum.age.max(one.age);
            sum.left = match (sum.left, one.left) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    all
}
