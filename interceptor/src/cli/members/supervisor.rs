//! The process that makes one member's sandbox, with root's rights. It goes the way of `run` by
//! root from where everything is known; what comes before, the member's own process has done.
//!
//! Nothing that the member sent is a path that this process opens, a variable that it looks at, or
//! a program that it runs. Where the sandbox needs one of the member's paths, it is opened inside
//! with the member's rights.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use interceptor_policy::strict_json;
use nix::sys::signal::Signal;
use nix::sys::stat::{SFlag, fstat};
use serde_json::Value;
use zeroize::Zeroizing;

use super::deadline::Deadline;
use super::judged::{self, Judgement};
use super::wire::{Admitted, DESCRIPTORS, Event, Log, Request, VERSION, Wanted, Wish, tell};
use crate::audit::{Audit, AuditOptions};
use crate::cli::live::{self, Reachable};
use crate::cli::perform::{self, Loading};
use crate::cli::person::Person;
use crate::cli::plan::{Asked, Plan};
use crate::fleet::{check_id, without_keys};
use crate::ipc::SentPath;
use crate::logging::{self, Format};
use crate::notice;
use crate::proxy::{Runtime, RuntimeOptions};
use crate::sandbox::as_user::AsUser;
use crate::sandbox::caller::{Ask, Caller};
use crate::sandbox::handover::Channel;
use crate::sandbox::resources::Resources;
use crate::sandbox::signals::Signals;
use crate::sandbox::user::UserIdentity;
use crate::sandbox::{environment, launch, stdio, sys};
use crate::upstream::{OverrideError, Overrides, Upstream, UpstreamOptions};

/// How long a member may say nothing, or not take what it is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a member may take to send a request.
const WHOLE: Duration = Duration::from_secs(20);
/// The adjustment of this process's OOM score: it goes before the daemon.
const SOONER: &str = "200";
/// The most paths of a kind that a plan may name.
const MOST_PATHS: usize = 4096;

/// The arguments of the process; it is started by the daemon, not by people.
#[derive(Debug, clap::Args)]
pub struct MemberRun {}

/// What the command is called.
pub(in crate::cli) const NAME: &str = "member-run";

/// Runs the process.
///
/// # Errors
/// If the daemon does not say for whom.
pub fn run(_arguments: MemberRun) -> anyhow::Result<ExitCode> {
    supervise()
}

/// Runs the process, which has no arguments.
pub(in crate::cli) fn start() -> ExitCode {
    supervise().unwrap_or_else(|error| {
        notice::error(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}

fn supervise() -> anyhow::Result<ExitCode> {
    let signals = Signals::hold().context("cannot block signals")?;
    // When what accepts connections ends, however it does, so does the sandbox.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot watch the daemon")?;
    launch::harden()?;
    let _ = fs::write("/proc/self/oom_score_adj", SOONER);
    let door = Channel::from_descriptor(io::stdin().as_fd().try_clone_to_owned()?);
    let received = door.receive::<Admitted>().context("this is started by the daemon")?;
    let (admitted, descriptors) = received.context("the daemon has ended")?;
    let connection = descriptors.into_iter().next().context("there is no connection")?;
    let member = Channel::from_descriptor(connection);
    member.set_patience(Some(PATIENCE)).context("cannot set a timeout")?;
    member.set_send_patience(Some(PATIENCE)).context("cannot set a timeout")?;
    if let Err(error) = serve(&member, &admitted, signals) {
        tell(&member, &Event::Failed(format!("{error:#}")));
    }
    Ok(ExitCode::SUCCESS)
}

/// The descriptors of a request.
struct Descriptors {
    directory: OwnedFd,
    standard: [OwnedFd; 3],
    records: OwnedFd,
    terminal: Option<OwnedFd>,
}

impl Descriptors {
    /// Takes what came, if it is what it should be.
    fn of(received: Vec<OwnedFd>) -> anyhow::Result<Descriptors> {
        let number = received.len();
        ensure!(
            (DESCRIPTORS..=DESCRIPTORS + 1).contains(&number),
            "the request came with {number} descriptors"
        );
        let mut received = received.into_iter();
        let mut next = || received.next().context("a descriptor is missing");
        let (directory, standard, records) = (next()?, [next()?, next()?, next()?], next()?);
        let terminal = next().ok();
        let is = |descriptor: &OwnedFd, kind: SFlag| {
            fstat(descriptor).is_ok_and(|status| {
                SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) == kind
            })
        };
        ensure!(is(&directory, SFlag::S_IFDIR), "the working directory is no directory");
        ensure!(is(&records, SFlag::S_IFIFO), "the records go to no pipe");
        stdio::check_all(standard.each_ref().map(AsFd::as_fd))?;
        let is_terminal = |terminal: &OwnedFd| nix::unistd::isatty(terminal).unwrap_or(false);
        ensure!(terminal.as_ref().is_none_or(is_terminal), "the terminal is none");
        Ok(Descriptors { directory, standard, records, terminal })
    }
}

/// Waits for the request, which a member may send byte by byte.
fn request(member: &Channel) -> anyhow::Result<(Request, Vec<OwnedFd>)> {
    const LATE: &str = "no whole request came in time";
    let channel = member.as_fd().try_clone_to_owned()?;
    let deadline = Deadline::begin(WHOLE, move || {
        tell(&Channel::from_descriptor(channel), &Event::Failed(LATE.to_owned()));
        std::process::exit(1);
    });
    let deadline = deadline.context("cannot start a thread")?;
    let received = member.receive::<Request>();
    deadline.met();
    match received {
        Ok(received) => received.context("there is no request"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!(LATE),
        Err(error) => Err(error).context("the request cannot be read"),
    }
}

/// Does what the member asks for.
fn serve(member: &Channel, admitted: &Admitted, signals: Signals) -> anyhow::Result<()> {
    let (request, descriptors) = request(member)?;
    ensure!(
        request.version == VERSION,
        "the daemon is version {VERSION}, and this is version {}: restart the daemon",
        request.version
    );
    let descriptors = Descriptors::of(descriptors)?;
    // Not before: whoever connects and says nothing costs the kernel nothing.
    let loading = Loading::begin()?;
    let Request { mut plan, policy, hidden, resolve, upstream_ca, log, foreground, .. } = request;
    let identity = identity(admitted, &plan)?;
    check(&mut plan, admitted, &identity, &hidden, &descriptors.directory)?;
    let (name, text) = match &policy {
        Wanted::Named { name, .. } => (name.clone(), None),
        Wanted::Own(own) => (own.name.clone(), Some(Zeroizing::new(own.text.expose().to_owned()))),
    };
    let asked = judged::Asked { resolve: &resolve, upstream_ca: &upstream_ca };
    let Judgement { mut rules, own } =
        judged::judge(policy, &admitted.grants, &asked, identity.uid)?;
    rules.hidden.extend(hidden);
    let begun = loading.make(&plan.id, plan.isolated, plan.resources())?;
    take_over(&descriptors)?;
    // Of a policy that the member may not read, the log would tell.
    let log = if own { log } else { Log { filter: "error,interceptor=warn".into(), ..log } };
    logging::start_at(if log.json { Format::Json } else { Format::Text }, &log.filter);
    plan.base_urls |= admitted.operator.base_urls;

    let backlog = usize::try_from(rules.policy.limits().audit_backlog).unwrap_or(usize::MAX);
    let usual = AuditOptions::default();
    let options =
        AuditOptions { records_per_sandbox: backlog, records: usual.records.max(backlog), ..usual };
    let Descriptors { standard, records, .. } = descriptors;
    let audit = Audit::to_pipe(records, options)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let runtime = runtime(admitted, &resolve, upstream_ca, audit.clone())?;
    let caller = Remote { member, foreground };
    // Nothing of an operator's policy is shown.
    let document = text.and_then(|text| strict_json(&text).ok());
    let shown = document.map_or(Value::Null, |text| without_keys(&text, &[], &rules.keyring));
    let person = Person::of_member(&identity, plan.variables());
    let (page, address) = live::entrance(plan.page)?;
    let reachable = Reachable::of_member(person, name, shown, plan.quiet, page);
    let run = perform::Run {
        plan,
        identity,
        rules,
        open_files: admitted.limits.open_files(),
        limits: Some(admitted.limits.clone()),
        descriptors: standard.each_ref().map(AsFd::as_fd),
        signals: &signals,
        caller: Some(&caller),
        reachable,
    };
    let (status, reached) = perform::perform(run, begun, &runtime, &audit, |environment| {
        let (withheld, with_key) = (environment.withheld.clone(), environment.with_key.clone());
        tell(member, &Event::Starts { withheld, with_key, page: address });
    })?;
    tell(member, &Event::Ended { status, reached });
    Ok(())
}

/// The member's identity: number and groups are the kernel's, the rest is the system's and, for
/// the home, the member's choice among directories.
fn identity(admitted: &Admitted, plan: &Plan) -> anyhow::Result<UserIdentity> {
    let mut identity = UserIdentity::of_number(admitted.uid, Some(admitted.gid))?;
    identity.groups.clone_from(&admitted.groups);
    let home = plan.variables().into_iter().find(|(name, _)| name == "HOME");
    let home = home.map(|(_, value)| PathBuf::from(value)).filter(|home| is_usual(home));
    if let Some(home) = home
        && as_member(&identity, || Ok(home.is_dir())).is_ok_and(|is_there| is_there)
    {
        identity.home = Some(SentPath(home));
    }
    Ok(identity)
}

/// Whether a path is absolute, and not the kernel's.
fn is_usual(path: &Path) -> bool {
    let kernels = ["/proc", "/sys", "/dev"];
    path.is_absolute() && !kernels.iter().any(|kernels| path.starts_with(kernels))
}

/// Does work on files with the member's rights, in a thread of its own.
fn as_member<T: Send>(
    identity: &UserIdentity,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let _as_user = AsUser::begin(identity)?;
            work()
        });
        acting.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// Checks what the member's process claims, and puts in its place what can be known.
fn check(
    plan: &mut Plan,
    admitted: &Admitted,
    identity: &UserIdentity,
    hidden: &[SentPath],
    directory: &OwnedFd,
) -> anyhow::Result<()> {
    check_id(&plan.id)?;
    ensure!(!plan.command.0.is_empty(), "there is no command");
    if plan.nesting {
        perform::nesting_needs(identity)?;
    }
    let variables = plan.variables();
    let is_set = |name: &std::ffi::OsStr| variables.iter().any(|(known, _)| known == name);
    if let Some(why) = plan.given.0.iter().find_map(|given| environment::objection(given, is_set)) {
        bail!("--env: {why}");
    }
    plan.ignored.get_or_insert_default();
    plan.umask = Some(plan.umask.unwrap_or(0o22) & 0o777);
    plan.directory = SentPath(where_is(directory, identity)?);
    let secrets = &plan.secrets;
    let lists = [
        hidden,
        &plan.bundles[..],
        &plan.hidden_directories,
        &secrets.hidden,
        &secrets.own,
        &secrets.made,
        &secrets.homes,
        &secrets.shown,
    ];
    for list in lists {
        ensure!(list.len() <= MOST_PATHS, "the request names too many paths");
        ensure!(list.iter().all(|path| path.0.is_absolute()), "a path is not absolute");
    }
    bounded(plan, &admitted.bounds)
}

/// Where the working directory is, if the member can enter it.
fn where_is(directory: &OwnedFd, identity: &UserIdentity) -> anyhow::Result<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    // Inside, these are others.
    if !is_usual(&path) {
        return Ok(PathBuf::from("/"));
    }
    let meant = fstat(directory)?;
    let found = as_member(identity, || {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        OpenOptions::new().read(true).custom_flags(flags).open(&path)?.metadata()
    });
    let shown = path.display();
    let found = found.with_context(|| format!("cannot enter the working directory, {shown}"))?;
    ensure!(
        (found.dev(), found.ino()) == (meant.st_dev, meant.st_ino),
        "the working directory, {shown}, is another by now"
    );
    Ok(path)
}

/// Keeps the limits of the sandbox within those of the member's own processes, and the usual ones.
fn bounded(plan: &mut Plan, own: &Resources) -> anyhow::Result<()> {
    let usual = Plan::usual_resources();
    let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let limits = [
        ("--pids-limit", &mut plan.processes, least(usual.processes, own.processes)),
        ("--memory", &mut plan.memory, least(usual.memory, own.memory)),
    ];
    for (option, asked, most) in limits {
        let Some(most) = most else { continue };
        match *asked {
            Asked::Most(number) if number <= most => {}
            Asked::Usual => *asked = Asked::AtMost(most),
            _ => bail!("{option}: without sudo, a sandbox may have at most {most}"),
        }
    }
    Ok(())
}

/// Makes the member's descriptors this process's standard ones, and the terminal that came with
/// them its controlling one, in a session of its own.
fn take_over(descriptors: &Descriptors) -> anyhow::Result<()> {
    nix::unistd::setsid().context("cannot start a session")?;
    if let Some(terminal) = &descriptors.terminal {
        // Without O_NOCTTY, and only a terminal that is nobody's (open(2)).
        let path = format!("/proc/self/fd/{}", terminal.as_raw_fd());
        let opened =
            File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        drop(opened.context("cannot take the terminal")?);
    }
    for (standard, descriptor) in (0..).zip(&descriptors.standard) {
        sys::duplicate_onto(descriptor.as_fd(), standard)
            .context("cannot take the standard descriptors")?;
    }
    Ok(())
}

/// The proxy's state: the operator's options, and what the member may add.
fn runtime(
    admitted: &Admitted,
    resolve: &[String],
    upstream_ca: Vec<String>,
    audit: Audit,
) -> anyhow::Result<Arc<Runtime>> {
    let all = admitted.operator.resolve.iter().chain(resolve);
    let overrides: Result<Overrides, OverrideError> = all.map(|text| text.parse()).collect();
    let overrides = overrides.context("--resolve")?;
    let upstream = Upstream::new(UpstreamOptions { overrides, ..UpstreamOptions::default() });
    let roots = upstream_ca.into_iter().map(String::into_bytes).collect();
    let options = RuntimeOptions {
        upstream,
        upstream_ca: admitted.operator.upstream_ca.clone(),
        roots,
        audit,
    };
    let runtime = Runtime::new(options).context("upstream TLS")?;
    runtime.tidy_with(launch::give_back_memory);
    Ok(runtime)
}

/// The member, as the caller of the run.
struct Remote<'a> {
    member: &'a Channel,
    foreground: bool,
}

impl Caller for Remote<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.member.as_fd()
    }

    fn next(&self) -> io::Result<Ask> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        match self.member.receive::<Wish>()?.ok_or_else(gone)?.0 {
            Wish::Lend => Ok(Ask::Lend),
            Wish::Signal(number, group) => {
                let signal = Signal::try_from(number).map_err(io::Error::from)?;
                Ok(Ask::Signal(signal, group))
            }
        }
    }

    fn is_in_foreground(&self) -> bool {
        self.foreground
    }

    fn stopped(&self, signal: i32) {
        tell(self.member, &Event::Stopped(signal));
    }
}
