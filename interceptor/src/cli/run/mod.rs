//! `interceptor run`: runs a command in a sandbox whose egress is intercepted.

mod hidden;
mod options;
mod rules;
mod setting;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Stderr, Stdin, Stdout, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};

pub use self::options::Run;
use self::rules::{ChosenRules, for_sandbox};
use self::setting::Setting;
use super::live::{self, Beginning};
use super::members::{self, Asking, Connection, Judged};
use super::perform::{self, Begun, Loading};
use super::plan::{self, Plan};
use super::told::{Before, Told};
use super::who;
use super::{Common, setup};
use crate::audit::Audit;
use crate::ipc::{Secret, SentPath as Sent, Strings};
use crate::sandbox::resources::Bounded;
use crate::sandbox::signals::{Signals, ignored_by_this_process};
use crate::sandbox::{launch, stdio};

/// How long to wait at the end for what cannot be cut off.
const FAREWELL: Duration = Duration::from_millis(500);

/// Runs the command.
pub fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    // Before any other thread starts, so that every thread inherits the blocked signals.
    let mut signals = Signals::hold().context("cannot block signals")?;
    setup::log(&arguments.common);
    let id = arguments.history.id()?;
    let maker = Maker::choose(&arguments, &id)?;
    let by_daemon = maker.is_daemon();
    let setting = Setting::of(&arguments, by_daemon)?;
    let chosen = ChosenRules::of(&arguments, &setting, by_daemon)?;
    let ChosenRules { judged, taught, variables, catalogue, origin, asks } = chosen;
    let standard = Standard::of(&arguments.common)?;

    let quiet = arguments.common.quiet;
    let (person, identity) = (setting.person.clone(), setting.identity.clone());
    let audit = setup::audit(&arguments.common, &judged.limits())?;
    let (kept, is_kept) = (judged.kept(), arguments.history.is_kept());
    arguments.history.begin(&audit, &person, &id, &kept, quiet);
    let learner = arguments.learning.begin(&audit, &person, taught)?;
    let summary = arguments.summary.begin(&audit, &arguments.common, kept);
    let rotated = audit.clone();
    signals.on_hangup(move || rotated.reopen());
    let told = Told { summary, id: id.clone(), user: identity.name.clone(), quiet };
    // That of a sandbox by the daemon is served where the sandbox is.
    let (page, address) = live::entrance(arguments.live.page() && !by_daemon)?;
    let plan = arguments.plan(id, setting, variables, by_daemon)?;

    let before = |starts: &Before<'_>| told.before(starts);
    let (standard, signals) = (standard.descriptors(), &signals);
    let (status, reached) = match (maker, judged) {
        (Maker::Daemon(daemon), judged) => {
            let (common, audit) = (&arguments.common, &audit);
            let hidden = hidden::audit_file(common).map(Sent).collect();
            Asking { plan, judged, common, hidden, standard, signals, audit }.run(daemon, before)?
        }
        (Maker::Here { begun, open_files }, Judged::By(rules)) => {
            let Run { common, which, live, fresh_placeholders: fresh, .. } = arguments;
            let (person, proxy) = (person.clone(), common.proxy()?);
            let beginning =
                Beginning { origin, which, person, catalogue, proxy, asks, fresh, quiet };
            let reachable = live.reachable(beginning, &rules, page);
            let (descriptors, rules) = (standard, for_sandbox(*rules, &common));
            let (limits, caller) = (None, None);
            let run = perform::Run {
                plan,
                identity,
                rules,
                open_files,
                limits,
                descriptors,
                signals,
                caller,
                reachable,
            };
            by_root(run, begun, &common, &audit, address.as_ref(), before)?
        }
        (Maker::Here { .. }, _) => {
            bail!("only the daemon has policies that its caller cannot read")
        }
    };
    told.after(is_kept);
    if let Some(learner) = learner {
        learner.end(&person)?;
    }
    told.reached(&reached);
    // Exit statuses have eight bits.
    Ok(ExitCode::from(status as u8))
}

impl Run {
    /// What is to be started.
    fn plan(
        &self,
        id: String,
        setting: Setting,
        variables: Vec<OsString>,
        by_daemon: bool,
    ) -> anyhow::Result<Plan> {
        let hidden_directories = hidden::directories(&setting.person, &setting.directory)?;
        let (processes, memory) = self.limits();
        Ok(Plan {
            id,
            isolated: self.is_isolated(),
            nesting: self.nesting,
            processes,
            memory,
            command: Strings(self.command.clone()),
            environment: plan::lines(setting.caller),
            given: Strings(with_defaults(self.env.clone(), variables)),
            directory: Sent(setting.directory),
            umask: setting.umask.or_else(|| by_daemon.then(own_umask)),
            ignored: by_daemon.then(ignored_by_this_process).transpose()?,
            base_urls: self.common.base_urls,
            quiet: self.common.quiet,
            page: self.live.page(),
            bundles: setting.bundles,
            search_bundles: !self.no_bundle_search,
            hidden_directories,
            secrets: setting.at_home.sent(),
        })
    }
}

/// Who makes the sandbox.
enum Maker {
    /// The daemon, for a user without root's rights.
    Daemon(Connection),
    /// This process, which has begun.
    Here { begun: Begun, open_files: (u64, u64) },
}

impl Maker {
    /// Chooses by the rights of this process, and begins.
    fn choose(arguments: &Run, id: &str) -> anyhow::Result<Maker> {
        if let Some(daemon) = members::connect(arguments.daemon.as_deref())? {
            return Ok(Maker::Daemon(daemon));
        }
        let open_files = launch::harden()?;
        who::needs_rights()?;
        let (processes, memory) = arguments.limits();
        let resources = plan::resources_asked(processes, memory);
        let begun = Loading::begin()?.make(id, arguments.is_isolated(), resources)?;
        Ok(Maker::Here { begun, open_files })
    }

    fn is_daemon(&self) -> bool {
        matches!(self, Maker::Daemon(_))
    }
}

/// The command's standard input, output and error.
struct Standard {
    /// In place of an input from which the policy was read: nothing is left there.
    null: Option<File>,
    own: (Stdin, Stdout, Stderr),
}

impl Standard {
    fn of(common: &Common) -> anyhow::Result<Standard> {
        let is_read = common.policy.as_deref() == Some(Path::new("-"));
        let null = is_read.then(|| File::open("/dev/null")).transpose();
        let null = null.context("cannot open /dev/null")?;
        let standard = Standard { null, own: (stdin(), stdout(), stderr()) };
        stdio::check_all(standard.descriptors())?;
        Ok(standard)
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        let (input, output, error) = &self.own;
        let input = self.null.as_ref().map_or(input.as_fd(), AsFd::as_fd);
        [input, output.as_fd(), error.as_fd()]
    }
}

/// Runs the command with this process's own rights.
fn by_root(
    run: perform::Run<'_>,
    begun: Begun,
    common: &Common,
    audit: &Audit,
    page: Option<&Secret>,
    before: impl FnOnce(&Before<'_>),
) -> anyhow::Result<(i32, Vec<Bounded>)> {
    // This thread lives as long as the sandbox and starts its processes; worker threads serve it.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let entered = tokio.enter();
    let runtime = setup::runtime(common, audit.clone())?;
    let ended = perform::perform(run, begun, &runtime, audit, |environment| {
        let (withheld, with_key) = (&environment.withheld, &environment.with_key);
        before(&Before { withheld, with_key, page: page.map(Secret::expose) });
    });
    drop(entered);
    // A visitor's request may wait for a file that never comes.
    tokio.shutdown_timeout(FAREWELL);
    ended
}

/// This process's umask.
fn own_umask() -> u32 {
    let own = umask(Mode::empty());
    umask(own);
    own.bits()
}

/// The given variables, plus those of `defaults` (`NAME=VALUE`) that were not given.
fn with_defaults(mut given: Vec<OsString>, defaults: Vec<OsString>) -> Vec<OsString> {
    let name =
        |text: &OsString| text.as_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let known: Vec<_> = given.iter().map(name).collect();
    given.extend(defaults.into_iter().filter(|default| !known.contains(&name(default))));
    given
}
