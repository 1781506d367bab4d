//! The process that accepts members' connections for the daemon, which has given up the rights that
//! sandboxes need. It keeps those rights, so it reads nothing that a member sends: it asks the
//! kernel who connected, and starts one process for each sandbox, which reads the request.
//!
//! It ends when the daemon does, and the sandboxes with it; after a take-over by another daemon,
//! when the last of them has ended.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::access::Grants;
use super::peer;
use super::wire::{Admitted, Event, Opening, Turn, tell};
use crate::sandbox::handover::Channel;
use crate::sandbox::launch;

/// How many sandboxes one user may have at once.
const MOST_OF_ONE: usize = 32;
/// How many sandboxes one user may start at once.
const BURST: f64 = 32.0;
/// How many one user may start in a second, on average.
const RATE: f64 = 10.0;
/// How many connections are accepted in one turn.
const ONE_TURN: usize = 64;
/// The pause after a failed accept, so that the loop does not spin.
const BREATHER: Duration = Duration::from_millis(50);
/// How long sandboxes may take to end when the daemon has ended.
const FAREWELL: Duration = Duration::from_secs(5);

/// The arguments of the process; it is started by `serve`, not by people.
#[derive(Debug, clap::Args)]
pub struct MemberDoor {}

/// Runs the process.
pub fn run(_arguments: MemberDoor) -> anyhow::Result<ExitCode> {
    // Signals are for the daemon, and its end is this process's.
    let set: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
    set.thread_block().context("cannot block signals")?;
    launch::harden()?;
    let channel = Channel::from_descriptor(io::stdin().as_fd().try_clone_to_owned()?);
    let received = channel.receive::<Opening>().context("this is started by `serve`")?;
    let (opening, descriptors) = received.context("the daemon has ended")?;
    let listener: Option<OwnedFd> = descriptors.into_iter().next();
    let listener = UnixListener::from(listener.context("the daemon sent no socket")?);
    listener.set_nonblocking(true).context("cannot listen")?;
    Door { opening, listener: Some(listener), running: HashMap::new(), starts: HashMap::new() }
        .keep(&channel)?;
    Ok(ExitCode::SUCCESS)
}

struct Door {
    opening: Opening,
    /// `None` once another daemon accepts connections.
    listener: Option<UnixListener>,
    /// The processes of sandboxes, with their users.
    running: HashMap<Pid, u32>,
    /// How many sandboxes users may start, and when that was counted.
    starts: HashMap<u32, (f64, Instant)>,
}

impl Door {
    fn keep(mut self, daemon: &Channel) -> anyhow::Result<()> {
        let set: SigSet = [Signal::SIGCHLD].into_iter().collect();
        let children = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot watch processes")?;
        loop {
            let mut watched = vec![PollFd::new(children.as_fd(), PollFlags::POLLIN)];
            match &self.listener {
                Some(listener) => {
                    watched.push(PollFd::new(daemon.as_fd(), PollFlags::POLLIN));
                    watched.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
                }
                None if self.running.is_empty() => return Ok(()),
                None => {}
            }
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait"),
            }
            let ready = |at: usize| watched.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
            let (told, knocked) = (ready(1), ready(2));
            while let Ok(Some(_)) = children.read_signal() {}
            self.reap();
            if told {
                match daemon.receive::<Turn>() {
                    Ok(Some((Turn::Over, _))) => {
                        self.accept();
                        self.listener = None;
                    }
                    Ok(None) | Err(_) => {
                        self.end_all();
                        return Ok(());
                    }
                }
            } else if knocked {
                self.accept();
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(process) = status.pid() else { return };
            self.running.remove(&process);
        }
    }

    /// Ends every sandbox.
    fn end_all(&mut self) {
        self.listener = None;
        let all = |running: &HashMap<Pid, u32>, signal| {
            for process in running.keys() {
                let _ = kill(*process, signal);
            }
        };
        all(&self.running, Signal::SIGTERM);
        let until = Instant::now() + FAREWELL;
        while !self.running.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            self.reap();
        }
        // What stays outside of each sandbox ends it.
        all(&self.running, Signal::SIGKILL);
    }

    fn accept(&mut self) {
        for _ in 0..ONE_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((connection, _)) => self.admit(connection),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a member");
                    std::thread::sleep(BREATHER);
                    return;
                }
            }
        }
    }

    /// Counts a start, if the user may start one now.
    fn may_start(&mut self, user: u32) -> bool {
        let now = Instant::now();
        let filled = |(left, at): (f64, Instant)| {
            (left + now.duration_since(at).as_secs_f64() * RATE).min(BURST)
        };
        self.starts.retain(|_, start| filled(*start) < BURST);
        let left = self.starts.get(&user).map_or(BURST, |start| filled(*start));
        let may = left >= 1.0;
        self.starts.insert(user, (if may { left - 1.0 } else { left }, now));
        may
    }

    fn admit(&mut self, connection: UnixStream) {
        let admitted = self.judge(&connection);
        let connection = OwnedFd::from(connection);
        let started = admitted.and_then(|admitted| {
            let uid = admitted.uid;
            let process = start(&admitted, &connection).map_err(|error| {
                tracing::error!(%error, "cannot start the process of a sandbox");
                "the daemon cannot start a process for it".to_owned()
            })?;
            self.running.insert(process, uid);
            Ok(())
        });
        if let Err(why) = started {
            tracing::info!(why, "refused a member's connection");
            tell(&Channel::from_descriptor(connection), &Event::Failed(why));
        }
    }

    fn judge(&mut self, connection: &UnixStream) -> Result<Admitted, String> {
        let uid = peer::user(connection).map_err(|error| error.to_string())?;
        if uid == 0 {
            return Err("root needs no daemon for this".to_owned());
        }
        let own = self.running.values().filter(|user| **user == uid).count();
        if own >= MOST_OF_ONE {
            return Err(format!("you have {own} sandboxes already, as many as one user may have"));
        }
        if self.running.len() >= self.opening.sandboxes {
            return Err("the daemon has as many sandboxes as it may have".to_owned());
        }
        if !self.may_start(uid) {
            return Err("you start sandboxes faster than the daemon makes them: wait".to_owned());
        }
        let peer::Member { uid, gid, groups, limits, bounds } =
            peer::examine(connection, self.opening.group)?;
        let all: Vec<u32> = groups.iter().copied().chain([gid]).collect();
        let grants = Grants::of(&self.opening.rules, &all);
        let operator = self.opening.operator.clone();
        Ok(Admitted { uid, gid, groups, limits, bounds, grants, operator })
    }
}

/// Starts the process of a sandbox, which then reads what the member sends.
fn start(admitted: &Admitted, connection: &OwnedFd) -> io::Result<Pid> {
    let (channel, theirs) = Channel::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg("member-run")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    channel.send(admitted, &[connection.as_fd()])?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}
