//! One sandbox of a fleet: its description, and its enforcement until it is removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interceptor_policy::{Limits, Policy, Problem};
use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::Handle;

use super::{Enforced, Feed, FleetError, LoadedPolicy, Source, TextDigest};
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
    /// When enforcement began.
    pub(crate) created: Timestamp,
    /// Its CA certificate, PEM.
    pub(crate) ca_pem: String,
    /// The trust directory.
    pub(crate) trust: PathBuf,
    /// Its audit records.
    pub(crate) feed: Arc<Feed>,
    /// What is known of it if it is a `run`.
    pub(crate) run: Option<RunDescription>,
    pub(super) sandbox: Arc<Sandbox>,
    base_urls: bool,
    about: Mutex<PolicyDescription>,
    /// `None` once it is being removed.
    enforced: Mutex<Option<Enforced>>,
    /// Held while the policy is replaced.
    replacing: Mutex<()>,
    /// Programs are missing, and this has been reported.
    is_reported: AtomicBool,
}

#[derive(Debug)]
struct PolicyDescription {
    shown: Value,
    warnings: Vec<Problem>,
    source: Source,
    environment: Vec<(String, String)>,
    changed: Timestamp,
    limits: Limits,
}

/// What is known of a `run`.
#[derive(Clone, Debug)]
pub(crate) struct RunDescription {
    /// The user who runs the command.
    pub(crate) user: String,
    /// The command line, without keys.
    pub(crate) command: String,
    /// What its first policy is called.
    pub(crate) policy: String,
}

/// The changeable part of a sandbox's description.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// The policy without keys.
    pub(crate) policy: Value,
    /// The warnings of `interceptor check`.
    pub(crate) warnings: Vec<Problem>,
    /// The policy's origin.
    pub(crate) source: Source,
    /// The credentials' variables, with placeholders.
    pub(crate) environment: Vec<(String, String)>,
    /// When the policy was last replaced, or the sandbox created.
    pub(crate) changed: Timestamp,
    /// The policy's limits.
    pub(crate) limits: Limits,
}

/// A member's description, apart from its enforcement.
#[derive(Debug)]
pub(crate) struct MemberDescription {
    pub id: Arc<str>,
    pub cgroup: PathBuf,
    /// The cgroup's id in the kernel.
    pub cgroup_id: u64,
    /// The trust directory.
    pub trust: PathBuf,
    /// Whether its variables include base URLs.
    pub base_urls: bool,
    /// The policy as the API shows it.
    pub shown: Value,
    /// Its warnings.
    pub warnings: Vec<Problem>,
    /// Its origin.
    pub source: Source,
    /// When the member was created.
    pub created: Timestamp,
    /// When its policy was last replaced.
    pub changed: Option<Timestamp>,
    /// What is known of it if it is a `run`.
    pub run: Option<RunDescription>,
}

impl Member {
    /// Builds a member.
    pub(crate) fn new(known: MemberDescription, enforced: Enforced, feed: Arc<Feed>) -> Member {
        let MemberDescription {
            id,
            cgroup,
            cgroup_id,
            trust,
            base_urls,
            shown,
            warnings,
            source,
            created,
            changed,
            run,
        } = known;
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
            run,
            sandbox,
            about: Mutex::new(PolicyDescription {
                shown,
                warnings,
                source,
                environment,
                changed,
                limits,
            }),
            enforced: Mutex::new(Some(enforced)),
            replacing: Mutex::default(),
            is_reported: AtomicBool::new(false),
        }
    }

    /// Its current description.
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

    /// The file that its policy came from.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        lock(&self.about).source.path().map(Path::to_owned)
    }

    /// Whether the policy in force came from a file that held this text, key for key.
    pub(crate) fn is_of(&self, text: &str) -> bool {
        self.is_of_text(TextDigest::of(text).digits())
    }

    /// As [`Self::is_of`], of a text of which only the SHA-256 is known.
    pub(crate) fn is_of_text(&self, digits: &str) -> bool {
        match &lock(&self.about).source {
            Source::File { text: Some(own), .. } => own.digits() == digits,
            Source::File { text: None, .. } | Source::Given => false,
        }
    }

    /// When its policy was last replaced, or the sandbox created.
    pub(crate) fn changed(&self) -> Timestamp {
        lock(&self.about).changed
    }

    /// The policy in force, without its leases.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.sandbox.rules().policy.clone()
    }

    /// Replaces the policy: `read` builds the new rules from the current keyring, and nothing else
    /// replaces them meanwhile. However long that takes (a key may be on a hanging mount), the
    /// sandbox can still be inspected and removed.
    pub(crate) fn replace(
        &self,
        read: impl FnOnce(&crate::credential::Keyring) -> Result<LoadedPolicy, FleetError>,
        close: bool,
    ) -> Result<(), FleetError> {
        let _replacing = lock(&self.replacing);
        match lock(&self.enforced).as_ref() {
            None => return Err(FleetError::Unknown),
            Some(enforced) if enforced.is_frozen => return Err(FleetError::Ending),
            Some(_) => {}
        }
        let LoadedPolicy { policy, keyring, shown, warnings, source } =
            read(&self.sandbox.keyring())?;
        let mut enforced = lock(&self.enforced);
        let enforced = enforced.as_mut().ok_or(FleetError::Unknown)?;
        if enforced.is_frozen {
            return Err(FleetError::Ending);
        }
        let environment = environment::variables(&policy, &keyring, self.base_urls);
        let limits = *policy.limits();
        enforced.replace(policy, keyring, close)?;
        let changed = Timestamp::now();
        *lock(&self.about) =
            PolicyDescription { shown, warnings, source, environment, changed, limits };
        Ok(())
    }

    /// Whether the programs of this turn are certainly on the cgroup: [`Enforced::holds`].
    pub(super) fn holds_programs(&self, turn: usize) -> bool {
        lock(&self.enforced).as_ref().is_some_and(|enforced| enforced.holds(turn))
    }

    /// Raises the alarm, once, if somebody has detached programs from the cgroup.
    pub(super) fn check_programs(&self) {
        let enforced = lock(&self.enforced);
        let Some(enforced) = enforced.as_ref() else { return };
        let lost = enforced.lost();
        // A sandbox removed meanwhile took its programs along.
        if !lost.is_empty()
            && self.cgroup.exists()
            && !self.is_reported.swap(true, Ordering::Relaxed)
        {
            enforced.alarm(&lost);
        }
    }

    /// Runs `work` on the enforcement, under its lock. `None` once it is being removed.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Enforced) -> T) -> Option<T> {
        lock(&self.enforced).as_mut().map(work)
    }

    /// Takes the enforcement out; only the first call gets it.
    pub(super) fn take(&self) -> Option<Enforced> {
        lock(&self.enforced).take()
    }

    /// Ends the enforcement: the proxy and its keys first, then the programs. Only the first call
    /// does.
    pub(super) fn end(&self, tokio: &Handle) {
        if let Some(enforced) = lock(&self.enforced).take() {
            enforced.end(tokio);
            // Those of a `run` are inside of it.
            if self.run.is_none() {
                super::trust::remove(&self.trust);
            }
        }
    }
}

/// Values behind these locks are only replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
