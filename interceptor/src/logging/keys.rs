//! Keeps the real keys of all sandboxes out of the log.
//!
//! Keys are searched for in groups, compiled lazily at the first line after a change. So a line
//! costs one search per [`TOGETHER`] sandboxes with keys, a change recompiles one group, and a
//! process that logs nothing compiles nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use interceptor_policy::redact::scan::Scanner;
use zeroize::Zeroizing;

/// The number of sandboxes per group.
const TOGETHER: usize = 256;

/// Keys that must not be logged.
pub(crate) trait Secrets: Send + Sync {
    /// Calls `tell` with every key and its replacement.
    fn each(&self, tell: &mut dyn FnMut(&[u8], &[u8]));

    /// A number that changes with the keys.
    fn version(&self) -> u64;
}

/// Removes the keys when dropped.
#[derive(Debug)]
pub(crate) struct KeptOut {
    group: usize,
    id: u64,
}

impl Drop for KeptOut {
    fn drop(&mut self) {
        let mut groups = groups();
        if let Some(group) = groups.0.get_mut(self.group) {
            group.members.retain(|member| member.id != self.id);
            group.scanner = None;
        }
        COMPILED.store(None);
    }
}

struct Registered {
    id: u64,
    secrets: Weak<dyn Secrets>,
    version: u64,
}

#[derive(Default)]
struct Group {
    members: Vec<Registered>,
    /// `None` until compiled.
    scanner: Option<Arc<Scanner>>,
}

/// The groups, at stable positions, and the last id assigned.
struct Groups(Vec<Group>, u64);

static GROUPS: Mutex<Groups> = Mutex::new(Groups(Vec::new(), 0));

/// The compiled scanners; `None` if out of date.
static COMPILED: ArcSwapOption<Vec<Arc<Scanner>>> = ArcSwapOption::const_empty();

/// Every step leaves them consistent.
fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps keys out of the log until the returned value is dropped. `None` without keys.
pub(crate) fn keep_out(secrets: &Arc<impl Secrets + 'static>) -> Option<KeptOut> {
    let mut any = false;
    secrets.each(&mut |_, _| any = true);
    if !any {
        return None;
    }
    let mut groups = groups();
    let Groups(groups, last) = &mut *groups;
    *last += 1;
    let secrets: Weak<dyn Secrets> = Arc::downgrade(secrets) as _;
    let member = Registered { id: *last, secrets, version: 0 };
    let place =
        groups.iter().position(|group| group.members.len() < TOGETHER).unwrap_or(groups.len());
    if place == groups.len() {
        groups.push(Group::default());
    }
    groups[place].members.push(member);
    groups[place].scanner = None;
    COMPILED.store(None);
    Some(KeptOut { group: place, id: *last })
}

/// Call after keys have changed.
pub(crate) fn changed() {
    let mut groups = groups();
    for group in &mut groups.0 {
        let is_old = |member: &Registered| {
            member.secrets.upgrade().is_none_or(|secrets| secrets.version() != member.version)
        };
        if group.members.iter().any(is_old) {
            group.scanner = None;
        }
    }
    COMPILED.store(None);
}

/// The line with keys replaced; `None` if it contains none.
pub(super) fn cleaned(line: &[u8]) -> Option<Vec<u8>> {
    let scanners = COMPILED.load_full().unwrap_or_else(compile);
    scanners.iter().fold(None, |cleaned: Option<Vec<u8>>, scanner| {
        scanner.replace(cleaned.as_deref().unwrap_or(line)).or(cleaned)
    })
}

/// Compiles the changed groups.
fn compile() -> Arc<Vec<Arc<Scanner>>> {
    let mut groups = groups();
    let scanners =
        groups.0.iter_mut().filter(|group| !group.members.is_empty()).map(Group::scanner);
    let scanners = Arc::new(scanners.collect::<Vec<_>>());
    // Under the lock, so that no change intervenes.
    COMPILED.store(Some(Arc::clone(&scanners)));
    scanners
}

impl Group {
    fn scanner(&mut self) -> Arc<Scanner> {
        if let Some(scanner) = &self.scanner {
            return Arc::clone(scanner);
        }
        let mut pairs: Vec<(Zeroizing<Vec<u8>>, Vec<u8>)> = Vec::new();
        for member in &mut self.members {
            let Some(secrets) = member.secrets.upgrade() else { continue };
            // Before reading the keys, so that a change meanwhile is noticed.
            member.version = secrets.version();
            secrets
                .each(&mut |key, place| pairs.push((Zeroizing::new(key.to_vec()), place.to_vec())));
        }
        let pairs = pairs.iter().map(|(key, place)| (key.as_slice(), place.as_slice()));
        let scanner = Arc::new(Scanner::new(pairs));
        self.scanner = Some(Arc::clone(&scanner));
        scanner
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Keys of this test, `NAME-N-real-key-of-a-test`, of which `version` counts the rotations.
    struct Keys(String, AtomicU64);

    impl Keys {
        fn new(name: &str) -> Arc<Keys> {
            Arc::new(Keys(name.to_owned(), AtomicU64::new(1)))
        }

        fn key(&self) -> String {
            format!("{}-{}-real-key-of-a-test", self.0, self.version())
        }
    }

    impl Secrets for Keys {
        fn each(&self, tell: &mut dyn FnMut(&[u8], &[u8])) {
            tell(self.key().as_bytes(), b"put-in-its-place");
        }

        fn version(&self) -> u64 {
            self.1.load(Ordering::Relaxed)
        }
    }

    fn line_of(keys: &Keys) -> Option<String> {
        cleaned(format!("a line with {} in it\n", keys.key()).as_bytes())
            .map(|line| String::from_utf8(line).unwrap())
    }

    #[test]
    fn o1_keys_of_many_sandboxes_are_kept_out_of_a_line_as_long_as_they_exist() {
        let all: Vec<Arc<Keys>> =
            (0..3 * TOGETHER).map(|number| Keys::new(&format!("k{number}"))).collect();
        let mut kept: Vec<Option<KeptOut>> = all.iter().map(keep_out).collect();
        for keys in &all {
            assert_eq!(line_of(keys).as_deref(), Some("a line with put-in-its-place in it\n"));
        }
        let text = [all[0].key(), all[TOGETHER].key(), all[3 * TOGETHER - 1].key()].join(" ");
        let clean = String::from_utf8(cleaned(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(clean, ["put-in-its-place"; 3].join(" "), "one of each group, in one line");
        kept[1] = None;
        assert_eq!(line_of(&all[1]), None, "keys that are gone are not kept for the log's sake");
        assert!(line_of(&all[0]).is_some() && line_of(&all[2]).is_some());
        drop(kept);
        assert!(all.iter().all(|keys| line_of(keys).is_none()));
    }

    #[test]
    fn o1_a_key_that_was_rotated_is_kept_out_at_once() {
        let keys = Keys::new("rotated");
        let kept = keep_out(&keys);
        assert!(kept.is_some() && line_of(&keys).is_some());
        keys.1.fetch_add(1, Ordering::Relaxed);
        changed();
        assert!(line_of(&keys).is_some());
    }

    #[test]
    fn who_has_no_keys_costs_nothing() {
        struct None;
        impl Secrets for None {
            fn each(&self, _: &mut dyn FnMut(&[u8], &[u8])) {}
            fn version(&self) -> u64 {
                0
            }
        }
        assert!(keep_out(&Arc::new(None)).is_none());
    }
}
