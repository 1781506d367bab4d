//! The real keys that are kept out of the log, those of all sandboxes, searched for together.
//!
//! They are kept in groups, and a group is compiled when a line is written after a change of it: so
//! a line costs one search for each [`TOGETHER`] sandboxes with keys, a change one group, and a
//! process that logs nothing compiles nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use interceptor_policy::redact::scan::Scanner;
use zeroize::Zeroizing;

/// Of how many sandboxes the keys are searched for together.
const TOGETHER: usize = 256;

/// Keys that must not be logged.
pub(crate) trait Secrets: Send + Sync {
    /// Tells of every key, with what is written in its place.
    fn each(&self, tell: &mut dyn FnMut(&[u8], &[u8]));

    /// Another number after each change of the keys.
    fn version(&self) -> u64;
}

/// Has the keys forgotten when it is dropped.
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

struct Member {
    id: u64,
    secrets: Weak<dyn Secrets>,
    version: u64,
}

#[derive(Default)]
struct Group {
    members: Vec<Member>,
    /// `None` when it is to be compiled.
    scanner: Option<Arc<Scanner>>,
}

/// The groups, whose places stay the same, and the last id given.
struct Groups(Vec<Group>, u64);

static GROUPS: Mutex<Groups> = Mutex::new(Groups(Vec::new(), 0));

/// What lines are searched with; `None` when that is to be made anew.
static COMPILED: ArcSwapOption<Vec<Arc<Scanner>>> = ArcSwapOption::const_empty();

/// Every step leaves them whole.
fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps keys out of the log until what is returned is dropped. Without keys there is nothing to keep.
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
    let member = Member { id: *last, secrets, version: 0 };
    let place = groups.iter().position(|group| group.members.len() < TOGETHER).unwrap_or(groups.len());
    if place == groups.len() {
        groups.push(Group::default());
    }
    groups[place].members.push(member);
    groups[place].scanner = None;
    COMPILED.store(None);
    Some(KeptOut { group: place, id: *last })
}

/// To be called when keys have changed, by whoever holds them.
pub(crate) fn changed() {
    let mut groups = groups();
    for group in &mut groups.0 {
        let is_old = |member: &Member| {
            member.secrets.upgrade().is_none_or(|secrets| secrets.version() != member.version)
        };
        if group.members.iter().any(is_old) {
            group.scanner = None;
        }
    }
    COMPILED.store(None);
}

/// The line without any of the keys; `None` where it holds none.
pub(super) fn cleaned(line: &[u8]) -> Option<Vec<u8>> {
    let scanners = COMPILED.load_full().unwrap_or_else(compile);
    scanners.iter().fold(None, |cleaned: Option<Vec<u8>>, scanner| {
        scanner.replace(cleaned.as_deref().unwrap_or(line)).or(cleaned)
    })
}

/// Compiles the groups that have changed.
fn compile() -> Arc<Vec<Arc<Scanner>>> {
    let mut groups = groups();
    let scanners = groups.0.iter_mut().filter(|group| !group.members.is_empty()).map(Group::scanner);
    let scanners = Arc::new(scanners.collect::<Vec<_>>());
    // Under the lock, so that no change comes between.
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
            // Before the keys are read: one that changes meanwhile is noticed.
            member.version = secrets.version();
            secrets.each(&mut |key, place| pairs.push((Zeroizing::new(key.to_vec()), place.to_vec())));
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
        let all: Vec<Arc<Keys>> = (0..3 * TOGETHER).map(|number| Keys::new(&format!("k{number}"))).collect();
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
