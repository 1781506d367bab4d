//! The sandboxes of one daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::{Catalogue, Proxy, strict_json};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::exhausted;
use super::feed::Feeds;
use super::watch::watch;
use super::{
    Compiling, Enforced, FeedEvent, FleetError, GivenPolicies, LoadedPolicy, Member,
    MemberDescription, Predecessor, Source, Visit, check_id,
};
use crate::audit::Record;
use crate::credential::{Keyring, Sources};
use crate::kernel::Enforcer;
use crate::proxy::Runtime;
use crate::sandbox::launch;

/// How long to wait for the id of a sandbox that is being removed.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// What a fleet is built from.
#[derive(Debug)]
pub(crate) struct FleetOptions {
    /// The shared part of the proxy.
    pub(crate) runtime: Arc<Runtime>,
    /// The kernel's programs.
    pub(crate) enforcer: Enforcer,
    /// The service catalogue and profiles.
    pub(crate) catalogue: Catalogue,
    /// The policy file for sandboxes created without a policy.
    pub(crate) default_policy: Option<PathBuf>,
    /// The directory for trust files, one subdirectory per sandbox.
    pub(crate) trust: PathBuf,
    /// Whether the sandboxes' variables include base URLs (`--base-urls`).
    pub(crate) base_urls: bool,
    /// The upstream proxy in place of the policies' own (`--upstream-proxy`).
    pub(crate) proxy: Option<Proxy>,
    /// What living sources are read with.
    pub(crate) sources: Sources,
    /// How a policy file is read.
    pub(crate) read: fn(&Path) -> Result<Zeroizing<String>, String>,
    /// The user who may use the control socket besides root.
    pub(crate) owner: u32,
    /// How a document is read that came in a request, if not with this process's rights and
    /// environment.
    pub(crate) given: Option<Arc<dyn GivenPolicies>>,
}

/// The sandboxes of one daemon.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(super) options: FleetOptions,
    table: Mutex<MemberTable>,
    pub(super) feeds: Arc<Feeds>,
    tokio: Handle,
    pub(super) hurry: CancellationToken,
    pub(super) predecessor: OnceLock<Predecessor>,
}

#[derive(Debug, Default)]
pub(super) struct MemberTable {
    pub(super) slots: BTreeMap<Arc<str>, MemberSlot>,
    pub(super) is_ending: bool,
    /// Another process is taking over: nothing may be created, changed or removed.
    pub(super) is_frozen: bool,
}

#[derive(Debug)]
pub(super) enum MemberSlot {
    /// The id is reserved; the self-test on this cgroup (by id) has not passed yet.
    Beginning(u64),
    Running(Arc<Member>),
    /// Being removed from this cgroup (by id); the id stays reserved until that is done.
    Ending(u64),
}

/// The request for a new sandbox.
#[derive(Debug)]
pub(crate) struct NewSandbox {
    /// Its id; random if `None`.
    pub(crate) id: Option<String>,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// The process whose network namespace it uses; must be in the cgroup.
    pub(crate) pid: Option<i32>,
    /// The network namespace, if not that of a process of the cgroup.
    pub(crate) netns: Option<PathBuf>,
    /// Whether that namespace was made for this sandbox alone.
    pub(crate) private_network: bool,
    /// Its policy and keys.
    pub(crate) rules: LoadedPolicy,
}

impl Fleet {
    /// Whether the sandboxes' variables include base URLs.
    pub(crate) fn base_urls(&self) -> bool {
        self.options.base_urls
    }

    /// The metrics as OpenMetrics text.
    pub(crate) fn metrics(&self) -> String {
        self.options.runtime.metrics().encode()
    }

    /// An empty fleet; spawns its background tasks on the current runtime.
    pub(crate) fn new(options: FleetOptions) -> Arc<Fleet> {
        let fleet = Fleet::idle(options);
        tokio::spawn(watch(Arc::downgrade(&fleet), Fleet::list, Fleet::cgroup_gone));
        // Subscribed now, so that no record of the first sandbox is missed.
        let (feeds, stream) = (fleet.feeds.clone(), fleet.options.runtime.audit.subscribe());
        tokio::spawn(async move { feeds.pass_on(stream).await });
        fleet
    }

    /// An empty fleet without background tasks.
    pub(super) fn idle(options: FleetOptions) -> Arc<Fleet> {
        Arc::new(Fleet {
            options,
            table: Mutex::default(),
            feeds: Arc::default(),
            tokio: Handle::current(),
            hurry: CancellationToken::new(),
            predecessor: OnceLock::new(),
        })
    }

    /// The user who may use the control socket besides root.
    pub(crate) fn owner(&self) -> u32 {
        self.options.owner
    }

    /// The shared part of the proxy.
    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.options.runtime
    }

    /// What policies are compiled with.
    pub(crate) fn compiling(&self) -> Compiling<'_> {
        let FleetOptions { catalogue, proxy, sources, .. } = &self.options;
        Compiling { catalogue, proxy: proxy.as_ref(), sources }
    }

    /// Whether programs were run, and are not any more.
    pub(crate) fn lost_programs(&self) -> bool {
        self.options.sources.runs.as_ref().is_ok_and(|programs| programs.has_ended())
    }

    /// The service catalogue and profiles.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.options.catalogue
    }

    /// Compiles a document and reads its keys.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`].
    pub(crate) fn rules(
        &self,
        text: &str,
        besides: &'static [&'static str],
    ) -> Result<LoadedPolicy, FleetError> {
        LoadedPolicy::read(text, besides, Source::Given, self.compiling(), None)
    }

    /// The rules for sandboxes created without a policy: the default policy file as it is now.
    /// Without one: any public host, no keys.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`], and when the file cannot be read.
    pub(crate) fn default_rules(&self) -> Result<LoadedPolicy, FleetError> {
        match &self.options.default_policy {
            Some(path) => self.rules_of_file(path, None),
            None => self.rules("{}", &[]),
        }
    }

    /// Reads the rules from a file.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`], and when the file cannot be read.
    pub(crate) fn rules_of_file(
        &self,
        path: &Path,
        previous: Option<&Keyring>,
    ) -> Result<LoadedPolicy, FleetError> {
        let text = (self.options.read)(path).map_err(|message| {
            FleetError::Policy(vec![interceptor_policy::Problem::new("", message)])
        })?;
        self.rules_of_text(path, &text, previous)
    }

    /// The rules that a file holds in this text, which may have comments.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`].
    pub(super) fn rules_of_text(
        &self,
        path: &Path,
        text: &str,
        previous: Option<&Keyring>,
    ) -> Result<LoadedPolicy, FleetError> {
        let source = Source::file(path, text);
        let strict = strict_json(text);
        // A text that cannot be a policy is refused for what it is.
        let strict = strict.as_deref().map_or(text, String::as_str);
        LoadedPolicy::read(strict, &[], source, self.compiling(), previous)
    }

    /// Enforces on a cgroup and tests it from inside. Blocks meanwhile.
    ///
    /// # Errors
    /// If the request is invalid or the host lacks something. Nothing stays then.
    pub(crate) fn create(&self, new: NewSandbox) -> Result<Arc<Member>, FleetError> {
        let id: Arc<str> = match new.id {
            Some(id) => {
                check_id(&id)?;
                id.into()
            }
            None => launch::random_id()?.into(),
        };
        let visit = Visit::find(&new.cgroup, new.pid, new.netns.as_deref())
            .map_err(exhausted::explain)?
            .private(new.private_network)?;
        self.take_id(&id, visit.cgroup_id)?;
        let begun = self.begin(&id, visit, new.rules).map_err(exhausted::explain);
        let mut table = self.table();
        match begun {
            Ok(member) => {
                table.slots.insert(id, MemberSlot::Running(member.clone()));
                let ends = table.is_ending;
                drop(table);
                if ends {
                    self.remove(&member.id)?;
                    return Err(FleetError::Ending);
                }
                Ok(member)
            }
            Err(error) => {
                table.slots.remove(&id);
                self.feeds.close(&id);
                Err(error)
            }
        }
    }

    /// Reserves an id; waits if its sandbox is just being removed.
    fn take_id(&self, id: &Arc<str>, cgroup_id: u64) -> Result<(), FleetError> {
        let patience = Instant::now() + GIVEN_BACK;
        loop {
            let mut table = self.table();
            match table.slots.get(id) {
                _ if table.is_ending || table.is_frozen => return Err(FleetError::Ending),
                None => {
                    table.slots.insert(id.clone(), MemberSlot::Beginning(cgroup_id));
                    return Ok(());
                }
                Some(MemberSlot::Ending(_)) if Instant::now() < patience => {}
                Some(_) => return Err(FleetError::IdTaken),
            }
            drop(table);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn begin(
        &self,
        id: &Arc<str>,
        visit: Visit,
        rules: LoadedPolicy,
    ) -> Result<Arc<Member>, FleetError> {
        let feed = self.feeds.open(id);
        let LoadedPolicy { policy, keyring, shown, warnings, source } = rules;
        let options = &self.options;
        let enforced =
            Enforced::enter(&options.runtime, &options.enforcer, id, &visit, (policy, keyring))?;
        tracing::info!(
            sandbox = %id,
            cgroup = %visit.cgroup.display(),
            "self-test passed; enforcing"
        );
        let trust = match super::trust::write(
            &options.trust,
            visit.cgroup_id,
            &enforced.sandbox().trust_pem(),
        ) {
            Ok(trust) => trust,
            Err(error) => {
                enforced.end(&self.tokio);
                return Err(error);
            }
        };
        let known = MemberDescription {
            id: id.clone(),
            cgroup: visit.cgroup,
            cgroup_id: visit.cgroup_id,
            trust,
            base_urls: options.base_urls,
            shown,
            warnings,
            source,
            created: Timestamp::now(),
            changed: None,
            run: None,
        };
        Ok(Arc::new(Member::new(known, enforced, feed)))
    }

    /// The sandbox with this id.
    ///
    /// # Errors
    /// [`FleetError::Unknown`], also while it is being created or removed.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Member>, FleetError> {
        match self.table().slots.get(id) {
            Some(MemberSlot::Running(member)) => Ok(member.clone()),
            _ => Err(FleetError::Unknown),
        }
    }

    /// The records of every sandbox from now on. Whoever reads the sandboxes' feeds afterwards
    /// misses none, and may see some twice.
    pub(crate) fn records(&self) -> tokio::sync::broadcast::Receiver<FeedEvent> {
        self.feeds.follow()
    }

    /// Every sandbox, sorted by id.
    pub(crate) fn list(&self) -> Vec<Arc<Member>> {
        let table = self.table();
        let running = table.slots.values().filter_map(|slot| match slot {
            MemberSlot::Running(member) => Some(member.clone()),
            MemberSlot::Beginning(_) | MemberSlot::Ending(_) => None,
        });
        running.collect()
    }

    /// The id of every sandbox's cgroup, including those being created or removed.
    pub(crate) fn cgroups(&self) -> Vec<u64> {
        let table = self.table();
        let number = |slot: &MemberSlot| match slot {
            MemberSlot::Running(member) => member.cgroup_id,
            MemberSlot::Beginning(number) | MemberSlot::Ending(number) => *number,
        };
        table.slots.values().map(number).collect()
    }

    /// Removes a sandbox: revokes its keys, ends and records its connections, then detaches the
    /// programs. Blocks meanwhile.
    ///
    /// # Errors
    /// [`FleetError::Unknown`]
    pub(crate) fn remove(&self, id: &str) -> Result<(), FleetError> {
        self.outlive_predecessor(true);
        let member = {
            let mut table = self.table();
            let is_held = table.is_frozen && !table.is_ending;
            let (Some(key), Some(slot)) = (
                table.slots.get_key_value(id).map(|(key, _)| key.clone()),
                table.slots.get_mut(id),
            ) else {
                return Err(FleetError::Unknown);
            };
            if is_held {
                return Err(FleetError::Ending);
            }
            let MemberSlot::Running(member) = slot else {
                return Err(FleetError::Unknown);
            };
            let member = member.clone();
            table.slots.insert(key, MemberSlot::Ending(member.cgroup_id));
            member
        };
        member.end(&self.tokio);
        // By now its last record is delivered to followers, or lost and counted.
        self.tokio.block_on(self.options.runtime.audit.flush());
        self.table().slots.remove(id);
        let feeds = self.feeds.clone();
        self.tokio.spawn(async move { feeds.retire(&member.id, &member.feed).await });
        Ok(())
    }

    /// Makes the previous daemon end, so that no request is judged by outdated rules: at once, or
    /// after it has drained. Blocks until then.
    pub(super) fn outlive_predecessor(&self, at_once: bool) {
        if let Some(predecessor) = self.predecessor.get() {
            if at_once {
                predecessor.hurry();
            }
            predecessor.wait();
        }
    }

    /// Undoes a failed start: cgroups that were closed stay closed. Blocks.
    pub(crate) fn withdraw(&self) {
        self.table().is_ending = true;
        for member in self.list() {
            if member.with(|enforced| enforced.was_closed()) == Some(true) {
                member.take().into_iter().for_each(Enforced::keep_programs);
            } else {
                member.end(&self.tokio);
            }
        }
    }

    /// This process's programs, which can also adopt another's.
    pub(crate) fn enforcer(&self) -> &Enforcer {
        &self.options.enforcer
    }

    /// Removes every sandbox and refuses new ones.
    pub(crate) async fn end(self: &Arc<Self>) {
        self.table().is_ending = true;
        let mut removals = tokio::task::JoinSet::new();
        for member in self.list() {
            let fleet = self.clone();
            removals.spawn_blocking(move || {
                // Unknown: somebody else has just removed it.
                let _ = fleet.remove(&member.id);
            });
        }
        while removals.join_next().await.is_some() {}
    }

    /// Removes a sandbox whose cgroup is gone.
    fn cgroup_gone(&self, member: &Member) {
        tracing::info!(
            sandbox = %member.id,
            cgroup = %member.cgroup.display(),
            "cgroup gone; sandbox removed"
        );
        self.options.runtime.audit.emit(Record::lifecycle(&member.id, "cgroup_removed"));
        // Unknown: somebody else has just removed it.
        let _ = self.remove(&member.id);
    }

    /// Every step leaves the table consistent.
    pub(super) fn table(&self) -> MutexGuard<'_, MemberTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
