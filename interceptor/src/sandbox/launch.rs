//! The supervisor's side of a sandbox: starts the process inside, talks to it, forwards signals and
//! cleans up.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg, raise};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::SandboxError;
use super::caller::{Ask, Caller};
use super::cgroup::{self, Cgroup};
use super::error::IoContext;
use super::handover::{Begin, Channel, InitEvent, Launch, Order};
pub(crate) use super::listeners::Sockets;
use super::resources::{Bounded, Resources};
use super::signals::Signals;
use super::sys;
use crate::notice;

/// Timeout for each step of the process inside. On a loaded machine the slowest step takes a
/// second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The file limit of a daemon; the usual `fs.nr_open`.
const OPEN_FILES: u64 = 1 << 20;

/// Hardens this process, which will hold real keys: no core dumps, no inspection by other processes
/// of its user (attack O3), and the highest possible limit of open files. Returns the original file
/// limit: soft and hard.
pub(crate) fn harden() -> Result<(u64, u64), SandboxError> {
    forbid_inspection()?;
    let before = getrlimit(Resource::RLIMIT_NOFILE)
        .context(|| "cannot read the limit of open files".into())?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, before.1, before.1);
    raised.context(|| "cannot raise the limit of open files".into())?;
    Ok(before)
}

/// Gives memory that is free back to the system.
pub(crate) fn give_back_memory() {
    sys::give_back_memory();
}

/// Forbids core dumps of this process, and its inspection by others of its user.
pub(crate) fn forbid_inspection() -> Result<(), SandboxError> {
    nix::sys::prctl::set_dumpable(false)
        .context(|| "cannot forbid inspection of this process".into())?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context(|| "cannot forbid core dumps".into())
}

/// Starts a new session and closes all but the standard descriptors, for a process that outlives
/// its starter: the starter's caller waits until every inherited descriptor is closed.
pub(crate) fn detach() -> Result<(), SandboxError> {
    sys::close_above_stdio().context(|| "cannot close inherited descriptors".into())?;
    nix::unistd::setsid().map(drop).context(|| "cannot start a session".into())
}

/// Raises the limit of open files above the hard limit, as far as the kernel and this process's
/// privileges permit, because a daemon serves many sandboxes. If refused, the limit that [`harden`]
/// set remains.
pub(crate) fn raise_open_files() {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let most = most.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        if hard < most { setrlimit(Resource::RLIMIT_NOFILE, most, most) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::info!(%error, "cannot raise the limit of open files");
    }
}

/// A random id for a sandbox, `sb-` and 16 hexadecimal digits.
pub(crate) fn random_id() -> Result<String, SandboxError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| SandboxError::Refused("the system's random generator failed".into()))?;
    Ok(format!("sb-{:016x}", u64::from_ne_bytes(bytes)))
}

/// The process inside and the connection to it. Dropping it kills the process and its whole PID
/// namespace.
#[derive(Debug)]
struct Inside {
    channel: Channel,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Inside {
    /// Starts the process, lets `add` move it into its cgroup, and sends its first order.
    fn start(
        add: impl FnOnce(Pid) -> Result<(), SandboxError>,
        begin: Begin,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Self, Sockets), SandboxError> {
        let (channel, theirs) = Channel::pair().context(|| "cannot make a socket pair".into())?;
        channel.set_patience(Some(PATIENCE)).context(|| "cannot set a timeout".into())?;
        let child = Command::new("/proc/self/exe")
            .arg("sandbox-init")
            .env_clear()
            .envs(notice::environment())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .context(|| "cannot start the sandbox's first process".into())?;
        let mut inside = Inside { channel, child, ended: None };
        // It waits for its first order, so everything it creates is created inside the cgroup.
        add(Pid::from_raw(inside.child.id() as i32))?;
        inside.order(&Order::Begin(begin), descriptors)?;
        let (report, descriptors) = inside.report()?;
        let InitEvent::Listening { closed } = report else {
            return Err(SandboxError::Lost("gave an unexpected answer to its first order".into()));
        };
        let sockets = Sockets::from_descriptors(descriptors, closed);
        Ok((inside, sockets.ok_or_else(|| SandboxError::Lost("handed over no listeners".into()))?))
    }

    fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        self.channel
            .send(order, descriptors)
            .context(|| "cannot reach the sandbox's first process".into())
            .map_err(|error| self.failure().unwrap_or(error))
    }

    /// What the process reported before it ended. Only after a write failed: it would wait for a
    /// process that lives.
    fn failure(&self) -> Option<SandboxError> {
        match self.channel.receive() {
            Ok(Some((InitEvent::Failed(why), _))) => Some(SandboxError::Inside(why)),
            _ => None,
        }
    }

    /// The next event; a failure inside, a timeout or an exit is an error.
    fn report(&mut self) -> Result<(InitEvent, Vec<OwnedFd>), SandboxError> {
        match self.channel.receive() {
            Ok(Some((InitEvent::Failed(why), _))) => Err(SandboxError::Inside(why)),
            Ok(Some(report)) => Ok(report),
            Ok(None) => Err(SandboxError::Lost(format!("ended unexpectedly ({})", self.status()?))),
            Err(error) => Err(SandboxError::Lost(format!("did not answer: {error}"))),
        }
    }

    fn self_test(&mut self, probe: std::net::SocketAddr, token: &str) -> Result<(), SandboxError> {
        self.order(&Order::SelfTest { probe, token: token.to_owned() }, &[])?;
        match self.report()? {
            (InitEvent::Passed, _) => Ok(()),
            _ => Err(SandboxError::Lost("gave an unexpected answer to the self-test".into())),
        }
    }

    fn status(&mut self) -> Result<ExitStatus, SandboxError> {
        let status =
            self.child.wait().context(|| "cannot wait for the sandbox's first process".into())?;
        self.ended = Some(status);
        Ok(status)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A sandbox that we created. Dropping it kills everything inside and removes it.
#[derive(Debug)]
pub(crate) struct LaunchedSandbox {
    // Drop order: first the processes, then their cgroup.
    inside: Inside,
    cgroup: Cgroup,
    /// Resource limits that could not be set.
    unbounded: Vec<Bounded>,
    /// Closes when this process ends, however it ends; the outer process then ends the sandbox.
    guard: UnixStream,
}

impl LaunchedSandbox {
    /// Creates the cgroup and namespaces and binds the listeners inside. `isolated` gives it its
    /// own network namespace.
    pub(crate) fn make(
        id: &str,
        isolated: bool,
        resources: &Resources,
    ) -> Result<(Self, Sockets), SandboxError> {
        let mut cgroup = Cgroup::create(id)?;
        let unbounded = cgroup.limit(resources)?;
        let (parents, name) = cgroup.parents()?;
        let (guard, theirs) = UnixStream::pair().context(|| "cannot make a socket pair".into())?;
        let begin = Begin::Sandbox { isolated, cgroup: name };
        let descriptors: Vec<BorrowedFd<'_>> =
            std::iter::once(theirs.as_fd()).chain(parents.iter().map(AsFd::as_fd)).collect();
        let (inside, sockets) = Inside::start(|process| cgroup.add(process), begin, &descriptors)?;
        Ok((LaunchedSandbox { inside, cgroup, unbounded, guard }, sockets))
    }

    /// Resource limits that could not be set.
    pub(crate) fn unbounded(&self) -> &[Bounded] {
        &self.unbounded
    }

    /// Its cgroup.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Gives the outer process copies of this process's links. It holds them until everything in
    /// the sandbox is dead, even if this process is killed. Only for a process with one sandbox.
    pub(crate) fn hold_links(&self) -> Result<(), SandboxError> {
        let fail = || "cannot hand over the programs' links".to_owned();
        // aya's links do not expose their descriptors.
        let links = sys::descriptors_of("anon_inode:bpf_link").context(fail)?;
        let raw: Vec<_> = links.iter().map(AsRawFd::as_raw_fd).take(sys::MAX_DESCRIPTORS).collect();
        let (slices, rights) = ([IoSlice::new(&[0])], [ControlMessage::ScmRights(&raw)]);
        sendmsg::<()>(self.guard.as_raw_fd(), &slices, &rights, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .context(fail)
            .map_err(|error| self.inside.failure().unwrap_or(error))
    }

    /// Runs the self-test inside: forbidden traffic is refused, and intercepted traffic is answered
    /// at `probe` with `token`.
    pub(crate) fn self_test(
        &mut self,
        probe: std::net::SocketAddr,
        token: &str,
    ) -> Result<(), SandboxError> {
        self.inside.self_test(probe, token)
    }

    /// Starts preparing the command's view of the system, with these standard descriptors, and
    /// returns at once; the self-test waits for it.
    pub(crate) fn prepare(
        &self,
        launch: Launch,
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<(), SandboxError> {
        self.inside.order(&Order::Prepare(Box::new(launch)), &stdio)
    }

    /// Starts the prepared command, waits for its end, and returns the exit status and the resource
    /// limits it hit. `stdio` are the descriptors it was prepared with; `caller` typed the command
    /// if this process's own caller did not, and the command ends with it.
    pub(crate) fn run(
        mut self,
        stdio: [BorrowedFd<'_>; 3],
        signals: &Signals,
        caller: Option<&dyn Caller>,
    ) -> Result<(i32, Vec<Bounded>), SandboxError> {
        let terminal = Terminal::open();
        // If another part of the pipeline, such as a pager, may need the terminal, leave it there
        // until the command does.
        let foreground = terminal.is_ours()
            && stdio[..2].iter().all(|standard| tcgetpgrp(standard).is_ok())
            && caller.is_none_or(Caller::is_in_foreground);
        self.inside.order(&Order::Start { foreground }, &[])?;
        let status = self.supervise(signals, caller, &terminal);
        let reached = self.cgroup.reached();
        drop(self);
        terminal.take_back();
        Ok((status?, reached))
    }

    fn supervise(
        &mut self,
        signals: &Signals,
        caller: Option<&dyn Caller>,
        terminal: &Terminal,
    ) -> Result<i32, SandboxError> {
        let channel = &self.inside.channel;
        channel.set_patience(None).context(|| "cannot clear a timeout".into())?;
        loop {
            let mut watched = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.inside.channel.as_fd(), PollFlags::POLLIN),
            ];
            watched.extend(caller.map(|caller| PollFd::new(caller.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context(|| "cannot wait for the command".into()),
            }
            let reported = watched[1].any().unwrap_or(false);
            let asked = watched.get(2).is_some_and(|caller| caller.any().unwrap_or(false));
            for (signal, group) in signals.take().context(|| "cannot read signals".into())? {
                // If the command has just ended, the next event says so.
                let channel = &self.inside.channel;
                let _ = match (signal, group) {
                    (Signal::SIGCONT, _) if terminal.is_ours() => terminal.lend(channel),
                    (_, true) => channel.send(&Order::GroupSignal(signal as i32), &[]),
                    (_, false) => channel.send(&Order::Signal(signal as i32), &[]),
                };
            }
            if let (true, Some(caller)) = (asked, caller) {
                self.obey(caller, terminal)?;
            }
            if reported {
                match self.inside.channel.receive() {
                    Ok(Some((InitEvent::Stopped(signal), _))) if caller.is_some() => {
                        caller.into_iter().for_each(|caller| caller.stopped(signal));
                    }
                    Ok(Some((InitEvent::Stopped(signal), _))) => {
                        let needs_it =
                            [Signal::SIGTTIN as i32, Signal::SIGTTOU as i32].contains(&signal);
                        if needs_it && terminal.is_ours() {
                            let _ = terminal.lend(&self.inside.channel);
                        } else {
                            terminal.follow_stop();
                        }
                    }
                    Ok(Some((InitEvent::Failed(why), _))) => return Err(SandboxError::Inside(why)),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        use std::os::unix::process::ExitStatusExt;
                        let status = self.inside.status()?;
                        return Ok(status
                            .code()
                            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
                    }
                }
            }
        }
    }
}

impl LaunchedSandbox {
    /// Does what the caller asks for. If the command has just ended, the next event says so.
    fn obey(&self, caller: &dyn Caller, terminal: &Terminal) -> Result<(), SandboxError> {
        let channel = &self.inside.channel;
        let asked = caller.next().context(|| "whoever started the command has gone".into())?;
        let _ = match asked {
            Ask::Lend => terminal.lend(channel),
            Ask::Signal(signal, true) => channel.send(&Order::GroupSignal(signal as i32), &[]),
            Ask::Signal(signal, false) => channel.send(&Order::Signal(signal as i32), &[]),
        };
        Ok(())
    }
}

/// The controlling terminal, if any. As with a shell's jobs, the command's process group has it
/// while it needs it.
struct Terminal(Option<OwnedFd>);

impl Terminal {
    fn open() -> Self {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let device = nix::fcntl::open("/dev/tty", flags, Mode::empty()).ok();
        // Some containers have no usable /dev/tty.
        Terminal(device.filter(controls).or_else(|| {
            let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
            let standard = [input.as_fd(), output.as_fd(), error.as_fd()];
            let terminal = standard.into_iter().find(controls)?;
            terminal.try_clone_to_owned().ok()
        }))
    }

    /// Whether this process is in the foreground.
    fn is_ours(&self) -> bool {
        self.0.as_ref().is_some_and(|terminal| tcgetpgrp(terminal) == Ok(getpgrp()))
    }

    /// Gives it to the command, and continues the command.
    fn lend(&self, channel: &Channel) -> std::io::Result<()> {
        let terminal: Vec<_> = self.0.iter().map(AsFd::as_fd).collect();
        channel.send(&Order::Foreground, &terminal)
    }

    /// Stops like the command, together with the rest of its job, so that the shell shows a stopped
    /// job. Without a terminal nobody could continue it.
    fn follow_stop(&self) {
        if self.0.is_some() {
            // Blocked here and in the sandbox's first processes; the SIGCONT that continues the job
            // discards it (signal(7)).
            let _ = killpg(getpgrp(), Signal::SIGTSTP);
            let _ = raise(Signal::SIGSTOP);
        }
    }

    /// Takes it back from the command once all its processes are gone; before, the group may keep
    /// it.
    fn take_back(&self) {
        let Some(terminal) = &self.0 else { return };
        if tcgetpgrp(terminal).is_ok_and(|group| killpg(group, None) == Err(Errno::ESRCH)) {
            // SIGTTOU, which this would raise, is blocked.
            let _ = tcsetpgrp(terminal, getpgrp());
        }
    }
}

/// Whether `terminal` is this process's controlling terminal (tcgetpgrp(3)).
fn controls(terminal: &impl AsFd) -> bool {
    tcgetpgrp(terminal).is_ok()
}

/// A short-lived process in a cgroup and network namespace that somebody else created: binds
/// listeners and runs the self-test.
#[derive(Debug)]
pub(crate) struct Visitor {
    inside: Inside,
}

impl Visitor {
    /// Starts it in the cgroup at `cgroup`, in the given network namespace or else this process's.
    pub(crate) fn start(
        cgroup: &Path,
        network: Option<BorrowedFd<'_>>,
    ) -> Result<(Self, Sockets), SandboxError> {
        let descriptors: Vec<BorrowedFd<'_>> = network.into_iter().collect();
        let add = |process| cgroup::add(cgroup, process);
        let (inside, sockets) = Inside::start(add, Begin::Join, &descriptors)?;
        Ok((Visitor { inside }, sockets))
    }

    /// As [`LaunchedSandbox::self_test`].
    pub(crate) fn self_test(
        &mut self,
        probe: std::net::SocketAddr,
        token: &str,
    ) -> Result<(), SandboxError> {
        self.inside.self_test(probe, token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_and_plain() {
        let (first, second) = (random_id().unwrap(), random_id().unwrap());
        assert_ne!(first, second);
        assert!(first.len() == 19 && first.starts_with("sb-"), "{first}");
        assert!(first[3..].bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
