//! Runs a program outside every sandbox, with a person's rights, for what it prints.
//!
//! A copy of this executable takes on the rights and becomes the program ([`Order::Program`]). It
//! has a session of its own and no terminal, so it can ask nobody; its standard input is empty, and
//! what it says on standard error is dropped. It is killed with its process group at the deadline,
//! and with the thread that waits for it.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, chdir, setgroups, setresgid, setresuid, setsid};
use zeroize::Zeroizing;

use super::SandboxError;
use super::error::IoContext;
use super::exec;
use super::handover::{Channel, InitEvent, Order, Program};
use super::sys;

/// Why a program has no output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// It was not started.
    #[error("{0}")]
    Unstarted(String),
    /// It took too long.
    #[error("it took too long")]
    Timeout,
    /// It printed more than was asked for.
    #[error("it printed too much")]
    TooLong,
    /// It ended with this status.
    #[error("it ended with status {0}")]
    Status(i32),
    /// This signal killed it.
    #[error("signal {0} killed it")]
    Killed(i32),
}

impl From<io::Error> for ProgramError {
    fn from(error: io::Error) -> ProgramError {
        ProgramError::Unstarted(error.to_string())
    }
}

/// Runs a program to its end. Returns what it printed, at most `most` bytes.
///
/// # Errors
/// If it was not started, took longer than `patience`, printed more, or failed.
pub(crate) fn run(
    program: Program,
    patience: Duration,
    most: usize,
) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
    let deadline = Instant::now() + patience;
    let (channel, theirs) = Channel::pair()?;
    channel.set_patience(Some(patience))?;
    let child = Command::new("/proc/self/exe")
        .arg("sandbox-init")
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut running = Running { child, is_reaped: false };
    channel.send(&Order::Program(Box::new(program)), &[])?;
    // The other end closes when the copy has become the program.
    match channel.receive::<InitEvent>() {
        Ok(None) => {}
        Ok(Some((InitEvent::Failed(why), _))) => return Err(ProgramError::Unstarted(why)),
        Ok(Some(_)) => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(ProgramError::Timeout);
        }
        Err(error) => return Err(error.into()),
    }
    running.output(deadline, most)
}

/// A program that is killed with its process group when dropped.
struct Running {
    child: Child,
    /// Whether somebody else may have its number by now.
    is_reaped: bool,
}

impl Running {
    fn output(
        &mut self,
        deadline: Instant,
        most: usize,
    ) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
        let number = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        let process = sys::pidfd_open(number)?;
        let Some(mut stdout) = self.child.stdout.take() else {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        };
        fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        // Room for all of it, so that no copy stays behind in memory that was outgrown.
        let mut text = Zeroizing::new(Vec::with_capacity(most + 1));
        let mut is_open = true;
        loop {
            let ended = wait(&process, is_open.then_some(&stdout), deadline)?;
            is_open = is_open && take(&mut stdout, &mut text, most)?;
            if ended {
                break;
            }
        }
        // While it is not reaped, nobody else has its number.
        self.kill();
        self.is_reaped = true;
        let status = self.child.wait()?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(text),
            (Some(code), _) => Err(ProgramError::Status(code)),
            (None, signal) => Err(ProgramError::Killed(signal.unwrap_or_default())),
        }
    }

    /// Ends what is left of it.
    fn kill(&self) {
        let Ok(number) = i32::try_from(self.child.id()) else { return };
        let process = Pid::from_raw(number);
        // It may not have a group of its own yet.
        let _ = killpg(process, Signal::SIGKILL);
        let _ = kill(process, Signal::SIGKILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended itself and left others of its group behind.
        if !self.is_reaped {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until there is output, or the process has ended; returns whether it has.
fn wait(
    process: &OwnedFd,
    stdout: Option<&ChildStdout>,
    deadline: Instant,
) -> Result<bool, ProgramError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ProgramError::Timeout);
        }
        let mut watched = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        watched.extend(stdout.map(|stdout| PollFd::new(stdout.as_fd(), PollFlags::POLLIN)));
        // Rounded up, so that it does not spin at the end.
        let left = left + Duration::from_millis(1);
        match poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => return Ok(watched[0].any().unwrap_or(false)),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// Takes the output there is; returns whether more may come.
fn take(
    stdout: &mut ChildStdout,
    text: &mut Zeroizing<Vec<u8>>,
    most: usize,
) -> Result<bool, ProgramError> {
    let mut part = Zeroizing::new([0; 4096]);
    loop {
        match stdout.read(&mut *part) {
            Ok(0) => return Ok(false),
            Ok(length) if text.len() + length > most => return Err(ProgramError::TooLong),
            Ok(length) => text.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Becomes a program. Returns only on failure.
pub(super) fn become_it(program: &Program) -> Result<i32, SandboxError> {
    let Program { command, environment, identity, umask: mask } = program;
    setsid().context(|| "cannot begin a session".into())?;
    // Nothing of the sandbox's can be there.
    chdir("/").context(|| "cannot change to the root directory".into())?;
    umask(Mode::from_bits_truncate(*mask));
    if Uid::effective().is_root() {
        let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        setgroups(&groups).context(|| "cannot set the supplementary groups".into())?;
        setresgid(gid, gid, gid).context(|| format!("cannot become group {gid}"))?;
        setresuid(uid, uid, uid).context(|| format!("cannot become user {uid}"))?;
    }
    // After the change of rights, which forgets it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .context(|| "cannot end with the supervisor".into())?;
    sys::default_disposition(Signal::SIGPIPE).context(|| "cannot reset a signal".into())?;
    SigSet::empty()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .context(|| "cannot unblock signals".into())?;
    let (_, why) = exec::execute(&command.0, &environment.0);
    Err(SandboxError::Inside(why))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::path::Path;

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    /// Whether a process is there and has not ended.
    fn lives(process: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    }

    fn begun(directory: &Path) -> (Running, Pid) {
        let file = directory.join("left-behind");
        let script = format!("sleep 600 & echo $! >{}; echo too long", file.display());
        let child = Command::new("/bin/sh")
            .args(["-c", &script])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let leader = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // It has ended before its output is read.
        waitid(Id::Pid(leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let left = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        (Running { child, is_reaped: false }, Pid::from_raw(left))
    }

    #[test]
    fn what_a_program_left_behind_ends_though_its_output_was_too_long() {
        let directory = tempfile::tempdir().unwrap();
        let (mut running, left) = begun(directory.path());
        assert!(lives(left));
        let deadline = Instant::now() + Duration::from_secs(30);
        let output = running.output(deadline, 3);
        drop(running);
        let has_ended = || {
            while lives(left) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            !lives(left)
        };
        let has_ended = has_ended();
        if !has_ended {
            let _ = kill(left, Signal::SIGKILL);
        }
        assert!(matches!(output, Err(ProgramError::TooLong)));
        assert!(has_ended, "it lives on");
    }
}
