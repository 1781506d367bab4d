//! The table of the sandboxes that one daemon holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::Catalogue;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::feed::Feeds;
use super::{Enforced, FleetError, Known, Member, Predecessor, Rules, Source, Visit, check_id};
use crate::audit::Record;
use crate::files;
use crate::kernel::Enforcer;
use crate::proxy::Runtime;
use crate::sandbox::launch;

/// How long sandboxes that are being made or removed may take to be so before another process takes over.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// How long the files of one sandbox are waited for when all are read again.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long the id of a sandbox that is being removed is waited for.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// What a fleet is made of.
#[derive(Debug)]
pub(crate) struct FleetOptions {
    /// The proxy's part that all sandboxes share.
    pub(crate) runtime: Arc<Runtime>,
    /// The kernel's programs.
    pub(crate) enforcer: Enforcer,
    /// Services and profiles.
    pub(crate) catalogue: Catalogue,
    /// The policy of sandboxes that are made without one.
    pub(crate) default_policy: Option<PathBuf>,
    /// Where the files are that sandboxes' programs trust, a directory for each sandbox.
    pub(crate) trust: PathBuf,
    /// Whether the sandboxes' variables name base URLs too (`--base-urls`).
    pub(crate) base_urls: bool,
    /// How a policy file is read.
    pub(crate) read: fn(&std::path::Path) -> Result<String, String>,
}

/// The sandboxes of one daemon.
#[derive(Debug)]
pub(crate) struct Fleet {
    options: FleetOptions,
    table: Mutex<Table>,
    feeds: Arc<Feeds>,
    tokio: Handle,
    hurry: CancellationToken,
    predecessor: OnceLock<Predecessor>,
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<Arc<str>, Slot>,
    is_ending: bool,
    /// Another process is taking everything over: nothing is made, changed or removed meanwhile.
    is_frozen: bool,
}

#[derive(Debug)]
enum Slot {
    /// The id is taken; the self-test on the cgroup with this number has not passed yet.
    Beginning(u64),
    Running(Arc<Member>),
    /// Being removed from the cgroup with this number; the id is taken until that is done.
    Ending(u64),
}

/// A sandbox to be.
#[derive(Debug)]
pub(crate) struct NewSandbox {
    /// Its id; a random one if left out.
    pub(crate) id: Option<String>,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// The process whose network namespace it is; must be in the cgroup.
    pub(crate) pid: Option<i32>,
    /// The network namespace, where it is not that of a process of the cgroup.
    pub(crate) netns: Option<PathBuf>,
    /// Whether that namespace was made for this sandbox alone.
    pub(crate) private_network: bool,
    /// Its policy and keys.
    pub(crate) rules: Rules,
}

impl Fleet {
    /// Whether the sandboxes' variables name base URLs too.
    pub(crate) fn base_urls(&self) -> bool {
        self.options.base_urls
    }

    /// What is counted, as OpenMetrics text.
    pub(crate) fn metrics(&self) -> String {
        self.options.runtime.metrics().encode()
    }

    /// An empty one, which keeps itself up to date in tasks of the current runtime.
    pub(crate) fn new(options: FleetOptions) -> Arc<Fleet> {
        let fleet = Arc::new(Fleet {
            options,
            table: Mutex::default(),
            feeds: Arc::default(),
            tokio: Handle::current(),
            hurry: CancellationToken::new(),
            predecessor: OnceLock::new(),
        });
        tokio::spawn(super::watch::watch(Arc::downgrade(&fleet)));
        // Subscribed here: no record of the first sandbox is missed.
        let (feeds, stream) = (fleet.feeds.clone(), fleet.options.runtime.audit.subscribe());
        tokio::spawn(async move { feeds.pass_on(stream).await });
        fleet
    }

    /// The proxy's part that all sandboxes share.
    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.options.runtime
    }

    /// Services and profiles.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.options.catalogue
    }

    /// Makes the rules of a document.
    ///
    /// # Errors
    /// As [`Rules::read`].
    pub(crate) fn rules(&self, text: &str, besides: &'static [&'static str]) -> Result<Rules, FleetError> {
        Rules::read(text, besides, Source::Given, &self.options.catalogue, None)
    }

    /// The rules for sandboxes that are made without a policy: those of the default policy's file as it is now, else none: any
    /// public host, no key.
    ///
    /// # Errors
    /// As [`Rules::read`], and when the file cannot be read.
    pub(crate) fn default_rules(&self) -> Result<Rules, FleetError> {
        match &self.options.default_policy {
            Some(path) => self.rules_of_file(path.clone(), None),
            None => self.rules("{}", &[]),
        }
    }

    /// The rules in a file.
    ///
    /// # Errors
    /// As [`Rules::read`], and when the file cannot be read.
    pub(crate) fn rules_of_file(
        &self,
        path: PathBuf,
        previous: Option<&crate::credential::Keyring>,
    ) -> Result<Rules, FleetError> {
        let text = (self.options.read)(&path)
            .map_err(|message| FleetError::Policy(vec![interceptor_policy::Problem::new("", message)]))?;
        Rules::read(&text, &[], Source::File(path), &self.options.catalogue, previous)
    }

    /// Puts a cgroup under enforcement and proves from inside that it holds. Blocks while it does.
    ///
    /// # Errors
    /// What is wrong with the request, or what the host lacks. Nothing stays then.
    pub(crate) fn create(&self, new: NewSandbox) -> Result<Arc<Member>, FleetError> {
        let id: Arc<str> = match new.id {
            Some(id) => {
                check_id(&id)?;
                id.into()
            }
            None => launch::random_id()?.into(),
        };
        let visit = Visit::find(&new.cgroup, new.pid, new.netns.as_deref())?.private(new.private_network)?;
        self.take_id(&id, visit.cgroup_id)?;
        let begun = self.begin(&id, visit, new.rules);
        let mut table = self.table();
        match begun {
            Ok(member) => {
                table.slots.insert(id, Slot::Running(member.clone()));
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

    /// Takes an id, which one that is just being removed gives back.
    fn take_id(&self, id: &Arc<str>, cgroup_id: u64) -> Result<(), FleetError> {
        let patience = Instant::now() + GIVEN_BACK;
        loop {
            let mut table = self.table();
            match table.slots.get(id) {
                _ if table.is_ending || table.is_frozen => return Err(FleetError::Ending),
                None => {
                    table.slots.insert(id.clone(), Slot::Beginning(cgroup_id));
                    return Ok(());
                }
                Some(Slot::Ending(_)) if Instant::now() < patience => {}
                Some(_) => return Err(FleetError::IdTaken),
            }
            drop(table);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn begin(&self, id: &Arc<str>, visit: Visit, rules: Rules) -> Result<Arc<Member>, FleetError> {
        let feed = self.feeds.open(id);
        let Rules { policy, keyring, shown, warnings, source } = rules;
        let options = &self.options;
        let enforced = Enforced::enter(&options.runtime, &options.enforcer, id, &visit, (policy, keyring))?;
        tracing::info!(sandbox = %id, cgroup = %visit.cgroup.display(), "self-test passed; enforcing");
        let trust =
            match super::trust::write(&options.trust, visit.cgroup_id, &enforced.sandbox().trust_pem()) {
                Ok(trust) => trust,
                Err(error) => {
                    enforced.end(&self.tokio);
                    return Err(error);
                }
            };
        let known = Known {
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
        };
        Ok(Arc::new(Member::new(known, enforced, feed)))
    }

    /// The sandbox with this id.
    ///
    /// # Errors
    /// [`FleetError::Unknown`], also while it begins or ends.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Member>, FleetError> {
        match self.table().slots.get(id) {
            Some(Slot::Running(member)) => Ok(member.clone()),
            _ => Err(FleetError::Unknown),
        }
    }

    /// Every sandbox, by id.
    pub(crate) fn list(&self) -> Vec<Arc<Member>> {
        let table = self.table();
        let running = table.slots.values().filter_map(|slot| match slot {
            Slot::Running(member) => Some(member.clone()),
            Slot::Beginning(_) | Slot::Ending(_) => None,
        });
        running.collect()
    }

    /// The number of every sandbox's cgroup, also of those that begin or end.
    pub(crate) fn cgroups(&self) -> Vec<u64> {
        let table = self.table();
        let number = |slot: &Slot| match slot {
            Slot::Running(member) => member.cgroup_id,
            Slot::Beginning(number) | Slot::Ending(number) => *number,
        };
        table.slots.values().map(number).collect()
    }

    /// Replaces a policy, its text read by [`Rules::read`]; the placeholders stay. Blocks for a moment.
    ///
    /// # Errors
    /// [`FleetError::Unknown`], what is wrong with the policy, or what the kernel refuses; nothing has changed then.
    pub(crate) fn replace(&self, id: &str, text: &str, close: bool) -> Result<Arc<Member>, FleetError> {
        let member = self.get(id)?;
        self.outlive_predecessor(close);
        let catalogue = &self.options.catalogue;
        member.replace(|keyring| Rules::read(text, &[], Source::Given, catalogue, Some(keyring)), close)?;
        tracing::info!(sandbox = %id, close, "policy replaced");
        Ok(member)
    }

    /// Ends the enforcement of a sandbox: its keys are revoked first, then its connections ended and recorded, then the programs
    /// taken away. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`FleetError::Unknown`]
    pub(crate) fn remove(&self, id: &str) -> Result<(), FleetError> {
        self.outlive_predecessor(true);
        let member = {
            let mut table = self.table();
            let is_held = table.is_frozen && !table.is_ending;
            let (Some(key), Some(slot)) =
                (table.slots.get_key_value(id).map(|(key, _)| key.clone()), table.slots.get_mut(id))
            else {
                return Err(FleetError::Unknown);
            };
            if is_held {
                return Err(FleetError::Ending);
            }
            let Slot::Running(member) = slot else {
                return Err(FleetError::Unknown);
            };
            let member = member.clone();
            table.slots.insert(key, Slot::Ending(member.cgroup_id));
            member
        };
        member.end(&self.tokio);
        // Its last record has then been handed to those who follow, or is lost and counted.
        self.tokio.block_on(self.options.runtime.audit.flush());
        self.table().slots.remove(id);
        let feeds = self.feeds.clone();
        self.tokio.spawn(async move { feeds.retire(&member.id, &member.feed).await });
        Ok(())
    }

    /// Has everything stay as it is, for another process to take over; waits for what is under way. Blocks.
    ///
    /// # Errors
    /// [`FleetError::Ending`], also where another process is at it already, or what is under way does not come to its end.
    pub(crate) fn freeze(&self) -> Result<Vec<Arc<Member>>, FleetError> {
        // What is under way in the daemon before this one would be cut off by the end of this one.
        self.outlive_predecessor(false);
        {
            let mut table = self.table();
            if table.is_ending || table.is_frozen {
                return Err(FleetError::Ending);
            }
            table.is_frozen = true;
        }
        let until = Instant::now() + SETTLED_WITHIN;
        while self.table().slots.values().any(|slot| !matches!(slot, Slot::Running(_))) {
            if Instant::now() > until {
                self.thaw();
                return Err(FleetError::Ending);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.list())
    }

    /// Takes [`Self::freeze`] back.
    pub(crate) fn thaw(&self) {
        self.table().is_frozen = false;
    }

    /// The sandboxes are another process's now; `false`, where this one has begun to end them.
    pub(crate) fn part(&self) -> bool {
        let mut table = self.table();
        let parts = table.is_frozen && !table.is_ending;
        table.is_ending = true;
        parts
    }

    /// Cancelled when connections of before are to end at once: the process that has taken over is gone, or wants it.
    pub(crate) fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// The sandboxes were this one's before, and what was under way there is still.
    pub(crate) fn follow(&self, predecessor: Predecessor) {
        // There is one at most: taking over is how a fleet begins.
        let _ = self.predecessor.set(predecessor);
    }

    /// Has the daemon before this one end, so that no request is judged by rules that hold no more: at once, or when what is under
    /// way there has ended. Blocks until then.
    fn outlive_predecessor(&self, at_once: bool) {
        if let Some(predecessor) = self.predecessor.get() {
            if at_once {
                predecessor.hurry();
            }
            predecessor.wait();
        }
    }

    /// Takes back what was begun when the daemon's start fails: no cgroup that was closed is open afterwards. Blocks.
    pub(crate) fn withdraw(&self) {
        self.table().is_ending = true;
        for member in self.list() {
            if member.with(|enforced| enforced.was_closed()) == Some(true) {
                member.take().into_iter().for_each(Enforced::leave);
            } else {
                member.end(&self.tokio);
            }
        }
    }

    /// Lets what is under way end, at most for `patience`, when the sandboxes are another process's. The programs stay.
    pub(crate) async fn drain(&self, patience: Duration) {
        let mut draining = tokio::task::JoinSet::new();
        for enforced in self.list().iter().filter_map(|member| member.take()) {
            draining.spawn(enforced.drain(patience, self.hurry()));
        }
        while draining.join_next().await.is_some() {}
    }

    /// A sandbox that was another process's.
    pub(crate) fn adopt(&self, id: &Arc<str>, member: impl FnOnce(Arc<super::Feed>) -> Member) {
        let member = Arc::new(member(self.feeds.open(id)));
        self.table().slots.insert(id.clone(), Slot::Running(member));
    }

    /// Programs of this process's own, and what goes on with those of others.
    pub(crate) fn enforcer(&self) -> &Enforcer {
        &self.options.enforcer
    }

    /// Removes every sandbox, and takes no more.
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

    /// Reads policies that came from files, and keys in files, again. What is wrong is said in the log and changes nothing.
    /// Those of one sandbox hold up no other's for long.
    pub(crate) fn reload(self: &Arc<Self>) {
        for member in self.list() {
            let (fleet, of) = (self.clone(), member.clone());
            if files::within(READ_WITHIN, move || fleet.reload_one(&of)).is_none() {
                tracing::error!(sandbox = %member.id, "its files cannot be read in time; keeping what was read before until they can");
            }
        }
    }

    fn reload_one(&self, member: &Member) {
        if let Source::File(path) = member.summary().source {
            let read = member.replace(|keyring| self.rules_of_file(path.clone(), Some(keyring)), false);
            match read {
                Ok(()) => {
                    tracing::info!(sandbox = %member.id, file = %path.display(), "policy reloaded")
                }
                Err(error) => {
                    tracing::error!(sandbox = %member.id, file = %path.display(), %error, "cannot reload the policy; keeping the previous one");
                }
            }
        }
        for error in member.sandbox.keyring().reload() {
            tracing::error!(sandbox = %member.id, %error, "cannot reload a key file; keeping the previous key");
        }
    }

    /// Removes a sandbox whose cgroup is gone.
    pub(super) fn cgroup_gone(&self, member: &Member) {
        tracing::info!(sandbox = %member.id, cgroup = %member.cgroup.display(), "cgroup gone; sandbox removed");
        self.options.runtime.audit.emit(Record::lifecycle(&member.id, "cgroup_removed"));
        // Unknown: somebody else has just removed it.
        let _ = self.remove(&member.id);
    }

    /// Every step leaves the table whole.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
