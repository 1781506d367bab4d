//! `interceptor run`: runs a command in a sandbox whose egress is intercepted.

mod hidden;
mod rules;
mod setting;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Stderr, Stdin, Stdout, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};

use self::rules::{ChosenRules, for_sandbox};
use self::setting::Setting;
use super::bounds::{self, Bound};
use super::history::History;
use super::learn::Learning;
use super::live::{Beginning, LiveOptions};
use super::members::{self, Asking, Connection, Judged};
use super::perform::{self, Begun, Loading};
use super::plan::{self, Asked, Plan};
use super::summary::Summary;
use super::told::Told;
use super::which::Which;
use super::who;
use super::{Common, Net, setup};
use crate::audit::Audit;
use crate::ipc::{SentPath as Sent, Strings};
use crate::sandbox::resources::Bounded;
use crate::sandbox::signals::{Signals, ignored_by_this_process};
use crate::sandbox::{launch, stdio};

/// How long to wait at the end for what cannot be cut off.
const FAREWELL: Duration = Duration::from_millis(500);

/// The arguments of `interceptor run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// The options that `attach` and `serve` have too.
    #[command(flatten)]
    common: Common,
    /// The network of the sandbox.
    #[arg(long, value_enum, default_value_t = Net::Isolated)]
    net: Net,
    /// The user to run the command as, by name or number, optionally with `:GROUP` [default: the
    /// user who called sudo; for root the owner of the working directory, else nobody].
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Pass in or set this variable; repeatable. By default, variables of services and those with
    /// secret-sounding names stay outside unless the policy names them.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Show a hidden place of the home inside (keys, logins, histories, …); repeatable.
    #[arg(long, value_name = "PATH")]
    expose: Vec<PathBuf>,
    /// Use new placeholders, not those of earlier runs with this policy.
    #[arg(long)]
    fresh_placeholders: bool,
    /// Also add the sandbox's CA to this bundle of roots (PEM), inside only; repeatable.
    #[arg(long, value_name = "FILE")]
    ca_bundle: Vec<PathBuf>,
    /// Do not cover the root bundles that packages bring (certifi, botocore, Stripe, …). A covered
    /// bundle cannot be removed or upgraded inside.
    #[arg(long)]
    no_bundle_search: bool,
    /// Allow user namespaces inside, for commands with a sandbox of their own (bubblewrap,
    /// browsers).
    #[arg(long)]
    nesting: bool,
    /// Limit the number of processes and threads inside, or `none` [default: 4096].
    #[arg(long, value_name = "NUMBER", value_parser = bounds::processes)]
    pids_limit: Option<Bound>,
    /// Limit the sandbox's memory: bytes, a number with k, m or g, or `none` [default: three
    /// quarters of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = bounds::memory)]
    memory: Option<Bound>,
    /// The daemon's socket, for users without root's rights [default: /run/interceptor/run.sock].
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,
    /// Which policy applies.
    #[command(flatten)]
    which: Which,
    /// Its name, and whether its records are kept.
    #[command(flatten)]
    history: History,
    /// What is printed about it.
    #[command(flatten)]
    summary: Summary,
    /// Whether to learn a policy from it.
    #[command(flatten)]
    learning: Learning,
    /// Whether its policy follows its file.
    #[command(flatten)]
    live: LiveOptions,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  interceptor run --policy p.json -- my-agent --task fix-the-tests
  interceptor \
     run --policy p.json --audit audit.jsonl -- \\
    curl https://api.example.com/v1/models
  interceptor run --agent claude-code -- claude
  interceptor run --allow api.example.com --key openai -- my-agent
  interceptor run --profile unrestricted -- bash  (any public host)
  interceptor run --nesting --policy p.json -- claude  (has a sandbox)
  interceptor run --pids-limit 512 --memory 2g --policy p.json -- make
  interceptor run --learn -- my-agent           (writes interceptor.jsonc)

Without the daemon (see interceptor install), type sudo interceptor run.

Without --nesting a command cannot create user namespaces. A program with a sandbox of its own \
     then reports that this is not permitted: turn that sandbox off (chromium --no-sandbox), or \
     give the flag.

The exit status is the command's own; 128 plus the signal's number if a signal killed it; 127 if \
     it was not found; 126 if it could not be executed; 125 if the interceptor itself failed.";

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
    let ChosenRules { judged, taught, variables, catalogue, origin } = chosen;
    let standard = Standard::of(&arguments.common)?;

    let quiet = arguments.common.quiet;
    let Setting { person, identity, .. } = &setting;
    let (person, identity) = (person.clone(), identity.clone());
    let audit = setup::audit(&arguments.common, &judged.limits())?;
    let (kept, is_kept) = (judged.kept(), arguments.history.is_kept());
    arguments.history.begin(&audit, &person, &id, &kept, quiet);
    let learner = arguments.learning.begin(&audit, &person, taught)?;
    let summary = arguments.summary.begin(&audit, &arguments.common, kept);
    let rotated = audit.clone();
    signals.on_hangup(move || rotated.reopen());
    let told = Told { summary, id: id.clone(), user: identity.name.clone(), quiet };
    let plan = arguments.plan(id, setting, variables, by_daemon)?;

    let before = |withheld: &[String], with_key: &[String]| told.before(withheld, with_key);
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
            let beginning = Beginning { origin, which, person, catalogue, proxy, fresh, quiet };
            let reachable = live.reachable(beginning, &rules);
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
            by_root(run, begun, &common, &audit, before)?
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
    fn is_isolated(&self) -> bool {
        self.net == Net::Isolated
    }

    /// The limits that were asked for.
    fn limits(&self) -> (Asked, Asked) {
        (Asked::of(self.pids_limit), Asked::of(self.memory))
    }

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
    before: impl FnOnce(&[String], &[String]),
) -> anyhow::Result<(i32, Vec<Bounded>)> {
    // This thread lives as long as the sandbox and starts its processes; worker threads serve it.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let entered = tokio.enter();
    let runtime = setup::runtime(common, audit.clone())?;
    let ended = perform::perform(run, begun, &runtime, audit, |environment| {
        before(&environment.withheld, &environment.with_key);
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
