//! A process that runs programs for a daemon that may not execute any: started before the daemon
//! gives up its rights, it takes on those of one user for good. Whatever the daemon's process is
//! made to ask for, it gets what that user may do and no more.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SandboxError;
use super::error::IoContext;
use super::handover::{Channel, InitEvent, Order, Program};
use super::launch;
use super::program::{self, ProgramError};
use super::user::UserIdentity;
use crate::ipc::Secret;

/// Why nothing is run any more.
const ENDED: &str = "the process that runs programs has ended";

/// How much longer than the program itself the daemon waits.
const MARGIN: Duration = Duration::from_secs(10);

/// The connection to the process, which ends with it.
#[derive(Debug)]
pub(crate) struct Keeper {
    channel: Mutex<Channel>,
    /// The same connection, to see its end.
    end: OwnedFd,
    /// Whether its end was logged.
    is_told: AtomicBool,
    /// Never reaped: it ends with this process.
    _child: Child,
}

/// A program to run; the answer goes to the descriptor that comes along.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    program: Program,
    patience: Duration,
    most: usize,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Printed(Secret),
    Unstarted(String),
    Timeout,
    TooLong,
    Status(i32),
    Killed(i32),
}

impl Keeper {
    /// Starts the process, which becomes this user.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(identity: &UserIdentity) -> Result<Keeper, SandboxError> {
        let failed = |error: io::Error| {
            SandboxError::Refused(format!("cannot start the process for programs: {error}"))
        };
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let child = Command::new("/proc/self/exe")
            .arg("sandbox-init")
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        channel.set_patience(Some(MARGIN)).map_err(failed)?;
        channel.send(&Order::Keep(Box::new(identity.clone())), &[]).map_err(failed)?;
        match channel.receive::<InitEvent>().map_err(failed)? {
            Some((InitEvent::Passed, _)) => {}
            Some((InitEvent::Failed(why), _)) => return Err(SandboxError::Inside(why)),
            _ => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
        let end = channel.as_fd().try_clone_to_owned().map_err(failed)?;
        let is_told = AtomicBool::new(false);
        Ok(Keeper { channel: Mutex::new(channel), end, is_told, _child: child })
    }

    /// Whether the process is gone, and runs nothing any more. Logs it once.
    pub(crate) fn has_ended(&self) -> bool {
        // That the other end is closed is always told.
        let mut watched = [PollFd::new(self.end.as_fd(), PollFlags::empty())];
        let has_ended = matches!(poll(&mut watched, PollTimeout::ZERO), Ok(1..));
        if has_ended && !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::error!("{ENDED}, and no program is run any more: start the daemon again");
        }
        has_ended
    }

    /// Runs a program, as [`program::run`].
    ///
    /// # Errors
    /// As [`program::run`].
    pub(crate) fn run(
        &self,
        program: Program,
        patience: Duration,
        most: usize,
    ) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
        if self.has_ended() {
            return Err(ProgramError::Unstarted(ENDED.to_owned()));
        }
        let (answered, theirs) = Channel::pair()?;
        answered.set_patience(Some(patience + MARGIN))?;
        let wanted = Wanted { program, patience, most };
        {
            let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
            channel.send(&wanted, &[theirs.as_fd()])?;
        }
        drop(theirs);
        match answered.receive::<Answer>()?.map(|(answer, _)| answer) {
            Some(Answer::Printed(text)) => Ok(Zeroizing::new(text.expose().as_bytes().to_vec())),
            Some(Answer::Unstarted(why)) => Err(ProgramError::Unstarted(why)),
            Some(Answer::Timeout) => Err(ProgramError::Timeout),
            Some(Answer::TooLong) => Err(ProgramError::TooLong),
            Some(Answer::Status(status)) => Err(ProgramError::Status(status)),
            Some(Answer::Killed(signal)) => Err(ProgramError::Killed(signal)),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// Runs programs for the daemon on `channel` until that closes.
pub(super) fn serve(channel: &Channel, identity: &UserIdentity) -> Result<i32, SandboxError> {
    launch::harden()?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups).context(|| "cannot set the supplementary groups".into())?;
    setresgid(gid, gid, gid).context(|| format!("cannot become group {gid}"))?;
    setresuid(uid, uid, uid).context(|| format!("cannot become user {uid}"))?;
    nix::sys::prctl::set_no_new_privs().context(|| "cannot set no_new_privs".into())?;
    // The change of rights made it dumpable or not as the system's administrator chose.
    nix::sys::prctl::set_dumpable(false).context(|| "cannot become undumpable".into())?;
    channel.send(&InitEvent::Passed, &[]).context(|| "cannot answer the daemon".into())?;
    loop {
        let (wanted, descriptors) = match channel.receive::<Wanted>() {
            Ok(Some(received)) => received,
            // It was read whole, and the next may be understood.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            Ok(None) | Err(_) => return Ok(0),
        };
        let Some(answers) = descriptors.into_iter().next() else { continue };
        // Without a thread, the other end of the descriptor is told by its end.
        let _ = thread::Builder::new().spawn(move || answer(wanted, answers));
    }
}

fn answer(wanted: Wanted, answers: OwnedFd) {
    let Wanted { program, patience, most } = wanted;
    let answer = match program::run(program, patience, most) {
        // What is no text is no key either, and is refused as such.
        Ok(text) => Answer::Printed(Secret::new(&String::from_utf8_lossy(&text))),
        Err(ProgramError::Unstarted(why)) => Answer::Unstarted(why),
        Err(ProgramError::Timeout) => Answer::Timeout,
        Err(ProgramError::TooLong) => Answer::TooLong,
        Err(ProgramError::Status(status)) => Answer::Status(status),
        Err(ProgramError::Killed(signal)) => Answer::Killed(signal),
    };
    // The daemon may be gone.
    let _ = Channel::from_descriptor(answers).send(&answer, &[]);
}
