//! One sandbox of a fleet: what it is, what is shown of it, and the enforcement until it is removed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::Handle;

use super::{Enforced, Feed, FleetError, Rules, Source};
use crate::policy::{Limits, Problem};
use crate::proxy::Sandbox;

/// One sandbox.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: Arc<str>,
    /// The directory of its cgroup.
    pub cgroup: PathBuf,
    /// That cgroup's id in the kernel.
    pub cgroup_id: u64,
    /// When it was put under enforcement.
    pub created: Timestamp,
    /// The public certificate of its authority, PEM.
    pub ca_pem: String,
    /// The directory with what its programs trust.
    pub trust: PathBuf,
    /// Its audit records.
    pub feed: Arc<Feed>,
    pub(super) sandbox: Arc<Sandbox>,
    about: Mutex<About>,
    /// `None` once it is being removed.
    enforced: Mutex<Option<Enforced>>,
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
pub struct Summary {
    /// The policy without any key.
    pub policy: Value,
    /// What `interceptor check` would warn of.
    pub warnings: Vec<Problem>,
    /// Where the policy came from.
    pub source: Source,
    /// The credentials' variables with their placeholders.
    pub environment: Vec<(String, String)>,
    /// When the policy was last replaced, or the sandbox made.
    pub changed: Timestamp,
    /// The ceilings of the policy.
    pub limits: Limits,
}

impl Member {
    pub(super) fn new(
        id: Arc<str>,
        (cgroup, cgroup_id): (PathBuf, u64),
        trust: PathBuf,
        enforced: Enforced,
        about: (Value, Vec<Problem>, Source),
        feed: Arc<Feed>,
    ) -> Member {
        let sandbox = enforced.sandbox().clone();
        let created = Timestamp::now();
        let (shown, warnings, source) = about;
        let environment = sandbox.keyring().environment();
        let limits = sandbox.limits();
        Member {
            id,
            cgroup,
            cgroup_id,
            created,
            ca_pem: enforced.ca_pem.clone(),
            trust,
            feed,
            sandbox,
            about: Mutex::new(About { shown, warnings, source, environment, changed: created, limits }),
            enforced: Mutex::new(Some(enforced)),
        }
    }

    /// What is shown of it now.
    pub fn summary(&self) -> Summary {
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
    pub(super) fn replace(
        &self,
        read: impl FnOnce(&crate::credential::Keyring) -> Result<Rules, FleetError>,
        close: bool,
    ) -> Result<(), FleetError> {
        let mut enforced = lock(&self.enforced);
        let enforced = enforced.as_mut().ok_or(FleetError::Unknown)?;
        let Rules { policy, keyring, shown, warnings, source } = read(&self.sandbox.keyring())?;
        let environment = keyring.environment();
        let limits = *policy.limits();
        enforced.replace(policy, keyring, close)?;
        let changed = Timestamp::now();
        *lock(&self.about) = About { shown, warnings, source, environment, changed, limits };
        Ok(())
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
