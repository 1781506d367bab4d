//! One sandbox of a fleet: what it is, what is shown of it, and the enforcement until it is removed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interceptor_policy::{Limits, Problem};
use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::Handle;

use super::{Enforced, Feed, FleetError, Rules, Source};
use crate::proxy::Sandbox;
use crate::sandbox::environment;

/// One sandbox.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// The directory of its cgroup.
    pub(crate) cgroup: PathBuf,
    /// That cgroup's id in the kernel.
    pub(crate) cgroup_id: u64,
    /// When it was put under enforcement.
    pub(crate) created: Timestamp,
    /// The public certificate of its authority, PEM.
    pub(crate) ca_pem: String,
    /// The directory with what its programs trust.
    pub(crate) trust: PathBuf,
    /// Its audit records.
    pub(crate) feed: Arc<Feed>,
    pub(super) sandbox: Arc<Sandbox>,
    base_urls: bool,
    about: Mutex<About>,
    /// `None` once it is being removed.
    enforced: Mutex<Option<Enforced>>,
    /// Held while the policy is replaced.
    replacing: Mutex<()>,
    /// Programs are missing, and it was said.
    has_hole: AtomicBool,
}

#[derive(Debug)]
struct About {
    shown: Value,
    warnings: Vec<Problem>,
    source: Source,
    environment: Vec<(String, String)>,
    changed: Timestamp,
    limits: Limits,
}

/// What is shown of a sandbox beyond what never changes.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// The policy without any key.
    pub(crate) policy: Value,
    /// What `interceptor check` would warn of.
    pub(crate) warnings: Vec<Problem>,
    /// Where the policy came from.
    pub(crate) source: Source,
    /// The credentials' variables with their placeholders.
    pub(crate) environment: Vec<(String, String)>,
    /// When the policy was last replaced, or the sandbox made.
    pub(crate) changed: Timestamp,
    /// The ceilings of the policy.
    pub(crate) limits: Limits,
}

/// What is known of a member besides what enforces its policy.
#[derive(Debug)]
pub(crate) struct Known {
    pub id: Arc<str>,
    pub cgroup: PathBuf,
    /// The cgroup's id in the kernel.
    pub cgroup_id: u64,
    /// The directory with what its programs trust.
    pub trust: PathBuf,
    /// Whether the variables that its programs are given name base URLs.
    pub base_urls: bool,
    /// The policy as it is shown.
    pub shown: Value,
    /// What is doubtful about it.
    pub warnings: Vec<Problem>,
    /// Where it came from.
    pub source: Source,
    /// When the member was made.
    pub created: Timestamp,
    /// When its policy was replaced, if it was.
    pub changed: Option<Timestamp>,
}

impl Member {
    /// A member of which this is known.
    pub(crate) fn new(known: Known, enforced: Enforced, feed: Arc<Feed>) -> Member {
        let Known { id, cgroup, cgroup_id, trust, base_urls, shown, warnings, source, created, changed } =
            known;
        let changed = changed.unwrap_or(created);
        let sandbox = enforced.sandbox().clone();
        let rules = sandbox.rules();
        let environment = environment::variables(&rules.policy, &rules.keyring, base_urls);
        let limits = sandbox.limits();
        Member {
            id,
            cgroup,
            cgroup_id,
            created,
            ca_pem: enforced.ca_pem.clone(),
            trust,
            base_urls,
            feed,
            sandbox,
            about: Mutex::new(About { shown, warnings, source, environment, changed, limits }),
            enforced: Mutex::new(Some(enforced)),
            replacing: Mutex::default(),
            has_hole: AtomicBool::new(false),
        }
    }

    /// What is shown of it now.
    pub(crate) fn summary(&self) -> Summary {
        let about = lock(&self.about);
        Summary {
            policy: about.shown.clone(),
            warnings: about.warnings.clone(),
            source: about.source.clone(),
            environment: about.environment.clone(),
            changed: about.changed,
            limits: about.limits,
        }
    }

    /// Replaces the policy: `read` makes the new rules, given the keyring of this moment, and nothing else replaces them meanwhile.
    /// Whatever it takes to read them (a key may be on a mount that hangs), the sandbox can be
    /// looked at and removed.
    pub(super) fn replace(
        &self,
        read: impl FnOnce(&crate::credential::Keyring) -> Result<Rules, FleetError>,
        close: bool,
    ) -> Result<(), FleetError> {
        let _replacing = lock(&self.replacing);
        match lock(&self.enforced).as_ref() {
            None => return Err(FleetError::Unknown),
            Some(enforced) if enforced.is_frozen => return Err(FleetError::Ending),
            Some(_) => {}
        }
        let Rules { policy, keyring, shown, warnings, source } = read(&self.sandbox.keyring())?;
        let mut enforced = lock(&self.enforced);
        let enforced = enforced.as_mut().ok_or(FleetError::Unknown)?;
        if enforced.is_frozen {
            return Err(FleetError::Ending);
        }
        let environment = environment::variables(&policy, &keyring, self.base_urls);
        let limits = *policy.limits();
        enforced.replace(policy, keyring, close)?;
        let changed = Timestamp::now();
        *lock(&self.about) = About { shown, warnings, source, environment, changed, limits };
        Ok(())
    }

    /// Sounds the alarm, once, when somebody has taken programs off the cgroup.
    pub(super) fn look_for_holes(&self) {
        let enforced = lock(&self.enforced);
        let Some(enforced) = enforced.as_ref() else { return };
        let lost = enforced.lost();
        // One that was removed since it was looked at has taken the programs along.
        if !lost.is_empty() && self.cgroup.exists() && !self.has_hole.swap(true, Ordering::Relaxed) {
            enforced.alarm(&lost);
        }
    }

    /// Looks at the enforcement, which nobody changes meanwhile. `None` once it is being removed.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Enforced) -> T) -> Option<T> {
        lock(&self.enforced).as_mut().map(work)
    }

    /// Takes the enforcement out: only the first call has it.
    pub(super) fn take(&self) -> Option<Enforced> {
        lock(&self.enforced).take()
    }

    /// Ends the enforcement: the proxy first, keys and all, then the programs. Only the first call does.
    pub(super) fn end(&self, tokio: &Handle) {
        if let Some(enforced) = lock(&self.enforced).take() {
            enforced.end(tokio);
            super::trust::remove(&self.trust);
        }
    }
}

/// What is behind these locks is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
