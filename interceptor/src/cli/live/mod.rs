//! A `run` while it lives: its user reaches it by `ps` and `ctl`, over a control socket of its own,
//! and its policy follows the file that it came from.
//!
//! Neither is within the sandbox's reach: the socket's directory is hidden inside, a peer from any
//! sandbox is refused, and a policy that the sandbox's user could have written takes effect only
//! when the person says so outside.

mod changes;
mod edits;
pub(in crate::cli) mod guarded;
mod loader;
pub(super) mod place;
mod watch;

use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use interceptor_policy::{Catalogue, Problem, Proxy};
use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::edits::RunsFiles;
pub(super) use self::loader::Hidden;
use self::loader::{Covered, Loader};
use self::watch::{Watch, Watched};
use super::person::Person;
use super::setup::LoadedPolicy;
use super::which::Which;
use super::written::Written;
use crate::control::{self, Controlled, Scope};
use crate::credential::{Asks, Keyring, Sources};
use crate::entrance::Entrance;
use crate::fleet::{
    self, Enforced, Fleet, FleetError, FleetOptions, GivenPolicies, Member, MemberDescription,
    PolicyFiles, RunDescription, Source,
};
use crate::ipc::{Secret, SentPath as Sent, Strings};
use crate::kernel::Enforcer;
use crate::notice;
use crate::page::{self, Page};
use crate::proxy::Runtime;
use crate::sandbox::trust;
use crate::sandbox::user::UserIdentity;

/// How long the end of a run waits for visitors of its socket.
const FAREWELL: Duration = Duration::from_millis(200);

/// The options of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct LiveOptions {
    /// Do not read the policy's file again when it changes.
    #[arg(long)]
    no_watch: bool,
    /// Show what the sandbox does, and what it asks, in a browser of this host; the address is
    /// printed.
    #[arg(long)]
    page: bool,
}

/// Where a policy came from, before it was loaded.
#[derive(Default)]
pub(super) struct Origin(Option<(PathBuf, bool)>);

impl Origin {
    /// Of a policy as it was written.
    ///
    /// # Errors
    /// If the working directory cannot be found.
    pub(super) fn of(written: &Written) -> anyhow::Result<Origin> {
        let path = written.file.as_deref().map(std::path::absolute).transpose()?;
        Ok(Origin(path.map(|path| (path, written.is_trusted))))
    }

    /// The file that may change; `None` if it is none, such as a pipe.
    pub(super) fn file(self, rules: &LoadedPolicy) -> Option<PolicyFile> {
        let (path, is_found) = self.0.filter(|_| rules.file.is_some())?;
        Some(PolicyFile { path, is_found, text: rules.text.clone() })
    }
}

/// The file that a policy came from.
pub(super) struct PolicyFile {
    /// Its absolute path, with links.
    pub(super) path: PathBuf,
    /// Whether it was found and not named.
    pub(super) is_found: bool,
    /// Its text as it was read.
    pub(super) text: Zeroizing<String>,
}

/// What is known of a run before it is made.
pub(super) struct Beginning {
    /// Where the policy came from.
    pub(super) origin: Origin,
    /// The options that made the policy, or added to it.
    pub(super) which: Which,
    /// Who typed the command.
    pub(super) person: Person,
    /// The service catalogue and profiles.
    pub(super) catalogue: Catalogue,
    /// The upstream proxy in place of a policy's own.
    pub(super) proxy: Option<Proxy>,
    /// What asks services for keys.
    pub(super) asks: Asks,
    /// Whether the placeholders are new ones.
    pub(super) fresh: bool,
    /// Whether to say only what is wrong.
    pub(super) quiet: bool,
}

/// What makes a run reachable.
pub(super) struct Reachable {
    beginning: Beginning,
    /// What the policy is called.
    name: String,
    /// The policy as it is shown.
    shown: Value,
    /// What `check` would warn of.
    warnings: Vec<Problem>,
    /// The policy's file.
    file: Option<PolicyFile>,
    /// Whether it is watched.
    is_watched: bool,
    /// The file itself.
    covered: Option<Covered>,
    /// Whether the user may change the policy.
    is_changeable: bool,
    /// The page, if there is to be one.
    page: Option<Entrance>,
}

/// The policy of a run that a daemon made for its user is settled when it starts: what the user may
/// have is judged then.
#[derive(Debug)]
struct Settled;

impl GivenPolicies for Settled {
    fn read(&self, _: &str, _: &Keyring, _: u32) -> Result<fleet::LoadedPolicy, FleetError> {
        let why = "the policy of a run without sudo is settled when it starts: end it, and start \
                   it again with another";
        Err(FleetError::Policy(vec![Problem::new("", why)]))
    }
}

impl Reachable {
    /// Of a run that a daemon makes for its user.
    pub(super) fn of_member(
        person: Person,
        name: String,
        shown: Value,
        quiet: bool,
        page: Option<Entrance>,
    ) -> Reachable {
        let beginning = Beginning {
            origin: Origin::default(),
            which: Which::default(),
            person,
            catalogue: Catalogue::builtin(),
            proxy: None,
            asks: Err("a member's run asks no services"),
            fresh: true,
            quiet,
        };
        Reachable {
            beginning,
            name,
            shown,
            warnings: Vec::new(),
            file: None,
            is_watched: false,
            covered: None,
            is_changeable: false,
            page,
        }
    }
}

/// What is inside of a run.
pub(super) struct Inside {
    /// The command line, without keys.
    pub(super) command: String,
    /// What is hidden.
    pub(super) hidden: Hidden,
    /// The command's variables.
    pub(super) environment: Strings,
    /// Who runs it.
    pub(super) runner: UserIdentity,
    /// Whether base URLs are set.
    pub(super) base_urls: bool,
}

/// What a run consists of.
pub(super) struct Parts {
    /// The sandbox's id.
    pub(super) id: Arc<str>,
    /// Its cgroup, and that cgroup's id.
    pub(super) cgroup: (PathBuf, u64),
    /// The shared part of the proxy.
    pub(super) runtime: Arc<Runtime>,
    /// The kernel's programs.
    pub(super) enforcer: Enforcer,
    /// The sandbox under enforcement.
    pub(super) enforced: Enforced,
    /// What is inside of it.
    pub(super) inside: Inside,
}

/// A run that can be reached.
pub(super) struct Live {
    fleet: Arc<Fleet>,
    member: Arc<Member>,
    /// Ends with this value.
    _watch: Option<Watch>,
    /// The control socket and the page.
    serving: [Serving; 2],
    stop: CancellationToken,
}

impl LiveOptions {
    /// What makes a run with these rules reachable.
    pub(super) fn reachable(
        &self,
        beginning: Beginning,
        rules: &LoadedPolicy,
        page: Option<Entrance>,
    ) -> Reachable {
        let mut beginning = beginning;
        let file = std::mem::take(&mut beginning.origin).file(rules);
        Reachable {
            name: rules.name.clone(),
            shown: rules.shown.clone(),
            warnings: rules.warnings.clone(),
            file,
            is_watched: !self.no_watch,
            covered: rules.file.as_deref().and_then(Covered::at),
            is_changeable: true,
            page,
            beginning,
        }
    }

    /// Whether there is to be a page.
    pub(super) fn page(&self) -> bool {
        self.page
    }
}

impl Live {
    /// Makes the run reachable. What fails of it is warned of: the sandbox is enforced all the
    /// same. Call it within a tokio runtime, before the command starts.
    pub(super) fn begin(reachable: Reachable, parts: Parts) -> Live {
        let Reachable { beginning, name, shown, warnings, file, covered, .. } = reachable;
        let (is_watched, is_changeable, page) =
            (reachable.is_watched, reachable.is_changeable, reachable.page);
        let Beginning { which, person, catalogue, proxy, asks, fresh, quiet, .. } = beginning;
        let Parts { id, cgroup, runtime, enforcer, enforced, inside } = parts;
        let Inside { command, hidden, environment, runner, base_urls } = inside;
        let run = RunDescription { user: runner.name.clone(), command, policy: name };
        let trusted = super::trust::directory(&person);
        let loader = Arc::new(Loader {
            which,
            person,
            runner,
            catalogue,
            proxy,
            asks,
            fresh,
            hidden,
            environment,
            covered,
            trusted,
        });
        let trust = PathBuf::from(trust::DIRECTORY);
        let given: Arc<dyn GivenPolicies> = match is_changeable {
            true => loader.clone(),
            false => Arc::new(Settled),
        };
        let options = options(runtime, enforcer, &loader, given, base_urls);
        let known = MemberDescription {
            id,
            cgroup: cgroup.0,
            cgroup_id: cgroup.1,
            trust,
            base_urls,
            shown,
            warnings,
            source: match &file {
                Some(file) => Source::file(&file.path, &file.text),
                None => Source::Given,
            },
            created: Timestamp::now(),
            changed: None,
            run: Some(run),
        };
        let (fleet, member) = Fleet::of_run(options, known, enforced);
        let stop = CancellationToken::new();
        let serving = serve(&loader, &fleet, page, (&member.id, quiet), &stop);
        let watch =
            file.filter(|_| is_watched).and_then(|file| watch(file, member.clone(), loader, quiet));
        Live { fleet, member, _watch: watch, serving, stop }
    }

    /// Ends the enforcement, once the command has ended, and then the socket. Blocks meanwhile.
    pub(super) fn end(self, tokio: &Handle) {
        // Unknown: it has never been removed by anybody else.
        let _ = self.fleet.remove(&self.member.id);
        self.stop.cancel();
        for serving in self.serving.into_iter().flatten() {
            // Followers of the records have been told; others are cut off.
            let _ = tokio.block_on(async { tokio::time::timeout(FAREWELL, serving).await });
        }
    }
}

/// Watches the policy's file, if that is possible.
fn watch(file: PolicyFile, member: Arc<Member>, loader: Arc<Loader>, quiet: bool) -> Option<Watch> {
    let PolicyFile { path, is_found, text } = file;
    let begun = Watch::begin(Watched { path, is_found, text, member, loader, quiet });
    begun
        .inspect_err(|error| {
            notice::warning(format_args!("changes of the policy are not noticed: {error}"));
        })
        .ok()
}

/// What serves, if it does.
type Serving = Option<JoinHandle<io::Result<()>>>;

/// Serves the run's control socket, and the page if there is to be one.
fn serve(
    loader: &Arc<Loader>,
    fleet: &Arc<Fleet>,
    page: Option<Entrance>,
    (id, quiet): (&str, bool),
    stop: &CancellationToken,
) -> [Serving; 2] {
    let entrance = page.map(Arc::new);
    let files: Arc<dyn PolicyFiles> = Arc::new(RunsFiles(loader.clone()));
    let showing = entrance.clone().map(|entrance| {
        let files = files.clone();
        let (person, fleet) = (Some(loader.person.identity.uid), fleet.clone());
        tokio::spawn(page::serve(Page { entrance, person, fleet, files }, stop.clone()))
    });
    let controlling = match place::bind(&loader.person, id) {
        Ok(socket) => {
            let (socket, fleet) = (Arc::new(socket), fleet.clone());
            let controlled = Controlled { socket, fleet, scope: Scope::Run { files }, entrance };
            Some(tokio::spawn(control::serve(controlled, stop.clone())))
        }
        Err(error) => {
            if !quiet {
                notice::warning(format_args!(
                    "`interceptor ps` and `ctl` do not reach this run: {error}"
                ));
            }
            None
        }
    };
    [controlling, showing]
}

/// Where the page of a run is, if it is wanted, and the address that lets a browser in: at a port
/// that is free.
///
/// # Errors
/// If the system refuses.
pub(super) fn entrance(is_wanted: bool) -> anyhow::Result<(Option<Entrance>, Option<Secret>)> {
    if !is_wanted {
        return Ok((None, None));
    }
    let entrance = Entrance::bind((Ipv4Addr::LOCALHOST, 0).into()).context("--page")?;
    let address = Secret::new(&entrance.invite()?);
    Ok((Some(entrance), Some(address)))
}

/// The fleet of one run.
fn options(
    runtime: Arc<Runtime>,
    enforcer: Enforcer,
    loader: &Loader,
    given: Arc<dyn GivenPolicies>,
    base_urls: bool,
) -> FleetOptions {
    FleetOptions {
        runtime,
        enforcer,
        catalogue: loader.catalogue.clone(),
        default_policy: None,
        trust: PathBuf::from(trust::DIRECTORY),
        base_urls,
        proxy: loader.proxy.clone(),
        sources: Sources::none("a run's own loader reads them"),
        read: |_| Err("a run has no default policy".to_owned()),
        owner: loader.person.identity.uid,
        given: Some(given),
    }
}

/// A command line in words, without keys.
pub(super) fn command_line(command: &[OsString], keyring: &Keyring) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    match keyring.redactor() {
        Ok(None) => line,
        Ok(Some(redactor)) => match redactor.text(line.as_bytes()) {
            None => line,
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
        },
        Err(_) => String::new(),
    }
}

/// The directory of the control sockets, which is hidden in the sandbox. It is made if it is
/// missing, since the sandbox could make it otherwise.
///
/// # Errors
/// If the command would run in it.
pub(super) fn hidden_sockets(
    person: &Person,
    working_directory: &Path,
) -> anyhow::Result<Option<Sent>> {
    let Some(directory) = place::make(person) else { return Ok(None) };
    if working_directory.starts_with(&directory) {
        bail!(
            "the working directory is in {}, which the interceptor hides from every sandbox; \
             change to another directory",
            directory.display()
        );
    }
    Ok(Some(Sent(directory)))
}
