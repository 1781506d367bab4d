//! The processes inside a sandbox, before they become the command.
//!
//! `interceptor sandbox-init` starts in the sandbox's cgroup with an empty environment and one
//! socket to the supervisor. It creates the namespaces and forks: the child is process 1 of the
//! sandbox (`first`); the parent stays outside the PID namespace to pass the exit status on, and to
//! clean up if the supervisor is killed (`outer`).
//!
//! For `attach` the same program joins a network namespace instead, and ends after the self-test.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, getpgrp, setpgid, tcsetpgrp};

use super::error::{IoContext, SandboxError};
use super::exec::OUR_FAILURE;
use super::handover::{Begin, Channel, InitEvent, Launch, Order};
use super::listeners::Sockets;
use super::{exec, keeper, loopback, mounts, outer, privileges, program, reaper, selftest, sys};
use crate::notice;

/// The OOM score adjustment of the sandbox's processes, from -1000 to 1000.
const FIRST_TO_GO: i32 = 500;

/// Serves [`Order::Attend`], for a daemon that may not open namespaces itself.
pub(crate) type Attend = fn(&Channel) -> Result<i32, SandboxError>;

/// Obeys the supervisor at the other end of standard input. Returns the exit status.
pub(crate) fn main(attend: Attend) -> i32 {
    notice::inherit();
    // Terminal signals are for the command: nothing may end this process before its task ends.
    if let Err(error) = SigSet::all().thread_block() {
        notice::error(format_args!("cannot block signals: {error}"));
        return OUR_FAILURE;
    }
    let channel = match take_channel() {
        Ok(channel) => channel,
        Err(error) => {
            notice::error(format_args!(
                "`init` is started by `interceptor run`, not by people: {error}"
            ));
            return OUR_FAILURE;
        }
    };
    reporting(&channel, || begin(&channel, attend))
}

/// Runs `work` and sends a failure to the supervisor, which reports it.
fn reporting(channel: &Channel, work: impl FnOnce() -> Result<i32, SandboxError>) -> i32 {
    work().unwrap_or_else(|error| {
        if channel.send(&InitEvent::Failed(error.to_string()), &[]).is_err() {
            notice::error(format_args!("{error}"));
        }
        OUR_FAILURE
    })
}

/// Moves the socket away from standard input, so that no program started later inherits it.
fn take_channel() -> io::Result<Channel> {
    // Close what the supervisor itself inherited without knowing.
    sys::close_above_stdio()?;
    let socket = nix::unistd::dup(io::stdin())?;
    let nothing = File::open("/dev/null")?;
    sys::duplicate_onto(nothing.as_fd(), libc::STDIN_FILENO)?;
    sys::close_on_exec_above_stdio()?;
    let channel = Channel::from_descriptor(socket);
    nix::sys::socket::getpeername::<nix::sys::socket::UnixAddr>(std::os::fd::AsRawFd::as_raw_fd(
        &channel.as_fd(),
    ))?;
    Ok(channel)
}

fn begin(channel: &Channel, attend: Attend) -> Result<i32, SandboxError> {
    let lost = || SandboxError::Lost("received no orders".into());
    let received = channel.receive().context(|| "cannot receive orders".into())?;
    let (begin, descriptors) = match received.ok_or_else(lost)? {
        (Order::Begin(begin), descriptors) => (begin, descriptors),
        (Order::Attend, _) => return attend(channel),
        (Order::Program(program), _) => return program::become_it(&program),
        (Order::Keep(identity), _) => return keeper::serve(channel, &identity),
        _ => return Err(lost()),
    };
    let mut descriptors = descriptors.into_iter();
    match begin {
        Begin::Sandbox { isolated, cgroup } => {
            let guard = descriptors.next().ok_or_else(lost)?;
            let parents: Vec<OwnedFd> = descriptors.collect();
            make_namespaces(isolated)?;
            match sys::fork().context(|| "cannot start the sandbox's first process".into())? {
                Some(first) => Ok(outer::wait(first, guard.into(), &parents, &cgroup)),
                None => {
                    drop((parents, guard));
                    Ok(reporting(channel, || first(channel, isolated)))
                }
            }
        }
        Begin::Join => {
            if let Some(namespace) = descriptors.next() {
                setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .context(|| "cannot join the network namespace".into())?;
                // Without another device nobody else uses it, so only we give it an address.
                if only_loopback()? {
                    loopback::ensure().context(|| "cannot bring up the loopback device".into())?;
                }
            }
            let ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
            listen(channel, ipv6)?;
            wait_for_end(channel, ipv6).map(|()| 0)
        }
    }
}

fn make_namespaces(isolated: bool) -> Result<(), SandboxError> {
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    namespaces.set(CloneFlags::CLONE_NEWNET, isolated);
    unshare(namespaces).context(|| "cannot make the sandbox's namespaces".into())
}

/// Runs process 1 of the sandbox.
fn first(channel: &Channel, isolated: bool) -> Result<i32, SandboxError> {
    die_with_parent()?;
    // When memory runs out, the kernel must kill the sandbox rather than the proxy. Set with
    // CAP_SYS_RESOURCE, so that nothing inside can undo it (proc_pid_oom_score_adj(5)).
    first_to_go().context(|| "cannot set /proc/self/oom_score_adj".into())?;
    let ipv6 = if isolated {
        loopback::up().context(|| "cannot bring up the loopback device".into())?
    } else {
        std::net::TcpListener::bind("[::1]:0").is_ok()
    };
    listen(channel, ipv6)?;
    let Some(ready) = wait_for_start(channel, ipv6)? else { return Ok(OUR_FAILURE) };
    start(channel, ready)
}

/// Raises this process's OOM score adjustment; lowering it needs a privilege.
fn first_to_go() -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE)?.trim().parse::<i32>().unwrap_or(FIRST_TO_GO);
    if now < FIRST_TO_GO { std::fs::write(FILE, FIRST_TO_GO.to_string()) } else { Ok(()) }
}

/// Binds the sockets and sends them to the supervisor.
fn listen(channel: &Channel, ipv6: bool) -> Result<(), SandboxError> {
    let sockets = Sockets::bind(ipv6).context(|| "cannot bind the sandbox's listeners".into())?;
    let closed = only_loopback()?;
    channel
        .send(&InitEvent::Listening { closed }, &sockets.descriptors())
        .context(|| "cannot hand over the listeners".into())
}

fn only_loopback() -> Result<bool, SandboxError> {
    let devices =
        nix::net::if_::if_nameindex().context(|| "cannot list the network devices".into())?;
    Ok(devices.iter().all(|device| device.name() == c"lo"))
}

/// A command that is ready to start, with its standard descriptors.
struct ReadyCommand {
    launch: Launch,
    stdio: Vec<OwnedFd>,
    foreground: bool,
}

/// Handles orders until the command is to start; `None` if the supervisor hung up.
fn wait_for_start(channel: &Channel, ipv6: bool) -> Result<Option<ReadyCommand>, SandboxError> {
    let (mut prepared, mut passed) = (None, false);
    loop {
        match channel.receive().context(|| "cannot receive orders".into())? {
            None => return Ok(None),
            Some((Order::Prepare(launch), stdio)) if prepared.is_none() => {
                let borrowed: Vec<_> = stdio.iter().map(AsFd::as_fd).collect();
                if borrowed.len() != 3 {
                    return Err(SandboxError::Inside(
                        "the command has no standard descriptors".into(),
                    ));
                }
                mounts::prepare(&launch, &borrowed)?;
                prepared = Some((*launch, stdio));
            }
            Some((Order::SelfTest { probe, token }, _)) => {
                self_test(channel, probe, &token, ipv6)?;
                passed = true;
            }
            // Nothing starts before the self-test has passed.
            Some((Order::Start { foreground }, _)) if passed => {
                let Some((launch, stdio)) = prepared else { return Err(untimely()) };
                return Ok(Some(ReadyCommand { launch, stdio, foreground }));
            }
            Some(_) => return Err(untimely()),
        }
    }
}

/// Runs self-tests on demand until the supervisor hangs up.
fn wait_for_end(channel: &Channel, ipv6: bool) -> Result<(), SandboxError> {
    loop {
        match channel.receive().context(|| "cannot receive orders".into())? {
            None => return Ok(()),
            Some((Order::SelfTest { probe, token }, _)) => self_test(channel, probe, &token, ipv6)?,
            Some(_) => return Err(untimely()),
        }
    }
}

fn self_test(
    channel: &Channel,
    probe: SocketAddr,
    token: &str,
    ipv6: bool,
) -> Result<(), SandboxError> {
    selftest::run(probe, token, ipv6).map_err(|failed| SandboxError::Inside(failed.to_string()))?;
    channel.send(&InitEvent::Passed, &[]).context(|| "cannot report".into())
}

fn untimely() -> SandboxError {
    SandboxError::Inside("an order came at the wrong time".into())
}

/// Links the chain: when the supervisor dies, so does the outer process, then this one, then the
/// whole sandbox.
fn die_with_parent() -> Result<(), SandboxError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .context(|| "cannot watch the supervisor".into())?;
    nix::sys::prctl::set_dumpable(false).context(|| "cannot forbid inspection".into())
}

/// Leaves the supervisor's process group, which `kill(0)` would reach across namespaces (kill(2)),
/// and optionally gives the new group the terminal. All signals are blocked, SIGTTOU among them.
fn own_group(foreground: bool) -> io::Result<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    if foreground {
        // If this fails, the command starts in the background, stops when it needs the terminal,
        // and gets it then.
        let _ = tcsetpgrp(io::stdin(), getpgrp());
    }
    Ok(())
}

/// Sets the command's signal dispositions: Rust ignores SIGPIPE, and the process that started the
/// supervisor may ignore other signals than the caller does.
fn dispositions(ignored: Option<&[i32]>) -> io::Result<()> {
    for signal in Signal::iterator().filter(|_| ignored.is_some()) {
        match signal {
            Signal::SIGKILL | Signal::SIGSTOP => {}
            _ if ignored.is_some_and(|all| all.contains(&(signal as i32))) => sys::ignore(signal)?,
            _ => sys::default_disposition(signal)?,
        }
    }
    sys::default_disposition(Signal::SIGPIPE)
}

/// Enters the working directory by path, so that it is seen through the sandbox's mounts.
fn enter(launch: &Launch) -> Result<(), SandboxError> {
    let entered = {
        let rights = launch.rights().context(|| "cannot take on the user's rights".into())?;
        let entered = chdir(&launch.directory.0);
        drop(rights);
        entered
    };
    match entered {
        Ok(()) => Ok(()),
        Err(_) => chdir("/").context(|| "cannot enter /".into()),
    }
}

/// Drops every privilege and starts the command.
fn start(channel: &Channel, prepared: ReadyCommand) -> Result<i32, SandboxError> {
    let ReadyCommand { launch, stdio, foreground } = prepared;
    enter(&launch)?;
    for (standard, descriptor) in (0..).zip(&stdio) {
        sys::duplicate_onto(descriptor.as_fd(), standard)
            .context(|| "cannot set the standard descriptors".into())?;
    }
    drop(stdio);
    sys::close_on_exec_above_stdio().context(|| "cannot close inherited descriptors".into())?;
    if let Some(mask) = launch.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    if let Some(limits) = &launch.limits {
        limits.apply()?;
    }
    let (soft, hard) = launch.open_files;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)
        .context(|| "cannot restore the limit of open files".into())?;
    privileges::give_up(&launch)?;
    // Changing the user id clears both.
    die_with_parent()?;

    match sys::fork().context(|| "cannot start the command".into())? {
        Some(command) => {
            // It stays as long as the command, and needs nothing of what it prepared.
            drop(launch);
            sys::give_back_memory();
            reaper::wait(channel, command)
        }
        None => {
            let ready = own_group(foreground);
            let ready = ready.and_then(|()| dispositions(launch.ignored.as_deref()));
            let ready =
                ready.and_then(|()| SigSet::all().thread_unblock().map_err(io::Error::from));
            let (status, why) = match ready {
                Ok(()) => exec::execute(&launch.command.0, &launch.environment.0),
                Err(error) => (
                    OUR_FAILURE,
                    format!(
                        "cannot give the command a process group and signals of its own: {error}"
                    ),
                ),
            };
            notice::error(format_args!("{why}"));
            std::process::exit(status);
        }
    }
}
