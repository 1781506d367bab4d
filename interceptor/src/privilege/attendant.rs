//! The process that opens `/proc/PID/ns/net` and `/proc/PID/exe` for the daemon, which Landlock
//! keeps from looking at processes outside its domain. It
//! answers the daemon alone, with that descriptor or with nothing, and keeps one capability; it ends with the daemon.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use caps::Capability;
use serde::{Deserialize, Serialize};

use super::{capabilities, filter};
use crate::sandbox::SandboxError;
use crate::sandbox::handover::{Channel, Order};
use crate::sandbox::launch;

/// How long it may take to open a file of procfs.
const PATIENCE: Duration = Duration::from_secs(10);

/// That of this process, once it has one.
static ATTENDANT: OnceLock<Mutex<Attendant>> = OnceLock::new();

#[derive(Debug)]
struct Attendant {
    channel: Channel,
    /// The last question went without its answer, which may come yet.
    is_behind: bool,
    /// What it says makes no sense any more.
    is_out_of_step: bool,
    /// Never waited for: it ends when the channel is closed, which is when this process ends.
    _child: Child,
}

/// What is wanted, and of whom.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    process: i32,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    Network,
    Program,
    Content,
}

/// It comes as a descriptor, unless there is an error number.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    error: Option<i32>,
}

/// Starts the attendant of this process. Before [`super::restrict`].
///
/// # Errors
/// When it cannot be started.
pub(crate) fn start() -> Result<(), SandboxError> {
    let failed =
        |error: io::Error| SandboxError::Refused(format!("cannot start the attendant process: {error}"));
    let (channel, theirs) = Channel::pair().map_err(failed)?;
    channel.set_patience(Some(PATIENCE)).map_err(failed)?;
    let child = Command::new("/proc/self/exe")
        .arg("init")
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    channel.send(&Order::Attend, &[]).map_err(failed)?;
    let attendant = Mutex::new(Attendant { channel, is_behind: false, is_out_of_step: false, _child: child });
    ATTENDANT.set(attendant).map_err(|_| SandboxError::Refused("there is an attendant already".into()))
}

/// The network namespace of a process: opened by the attendant, where there is one.
///
/// # Errors
/// As of open(2).
pub(crate) fn network_of(process: i32) -> io::Result<OwnedFd> {
    obtain(Wanted { process, what: What::Network })
}

/// The program that a process runs, to be known by (`O_PATH`): no file system is asked for anything, and
/// so none can make one wait. Opened by the attendant, where there is one.
///
/// # Errors
/// As of open(2).
pub(crate) fn program_of(process: i32) -> io::Result<OwnedFd> {
    obtain(Wanted { process, what: What::Program })
}

/// The same, to be read.
///
/// # Errors
/// As of open(2).
pub(crate) fn content_of(process: i32) -> io::Result<OwnedFd> {
    obtain(Wanted { process, what: What::Content })
}

impl Attendant {
    /// Asks, after the answer to the question before: there is never more than one under way, and
    /// no late answer is taken for that to a later question.
    fn ask(&mut self, wanted: &Wanted) -> io::Result<(Opened, Vec<OwnedFd>)> {
        if self.is_behind {
            self.answer()?;
            tracing::info!("the attendant process answers again");
        }
        if let Err(error) = self.channel.send(wanted, &[]) {
            self.is_out_of_step = true;
            return Err(error);
        }
        self.answer()
    }

    fn answer(&mut self) -> io::Result<(Opened, Vec<OwnedFd>)> {
        let answer = self.channel.receive::<Opened>();
        let answer = answer.and_then(|answer| answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        match &answer {
            Ok(_) => self.is_behind = false,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                self.is_behind = true;
                tracing::warn!("the attendant process does not answer in time");
            }
            Err(error) => {
                self.is_out_of_step = true;
                tracing::error!(%error, "the attendant process is out of step: start the daemon anew");
            }
        }
        answer
    }
}

fn obtain(wanted: Wanted) -> io::Result<OwnedFd> {
    let Some(attendant) = ATTENDANT.get() else { return open(&wanted) };
    // Poisoned: the conversation may have stopped half-way.
    let out_of_step = || io::Error::other("the attendant process is out of step");
    let mut attendant = attendant.lock().map_err(|_| out_of_step())?;
    if attendant.is_out_of_step {
        return Err(out_of_step());
    }
    let (opened, descriptors) = attendant.ask(&wanted)?;
    match (opened.error, descriptors.into_iter().next()) {
        (None, Some(opened)) => Ok(opened),
        (Some(error), _) => Err(io::Error::from_raw_os_error(error)),
        (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn open(wanted: &Wanted) -> io::Result<OwnedFd> {
    let (file, flags) = match wanted.what {
        What::Network => ("ns/net", 0),
        What::Program => ("exe", libc::O_PATH),
        What::Content => ("exe", libc::O_NONBLOCK),
    };
    let path = format!("/proc/{}/{file}", wanted.process);
    OpenOptions::new().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}

/// Serves the daemon at the other end of `channel` until it is closed. For the attendant's own process.
pub(crate) fn serve(channel: &Channel) -> Result<i32, SandboxError> {
    launch::harden()?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| SandboxError::Refused(format!("cannot set no_new_privs: {error}")))?;
    capabilities::keep([Capability::CAP_SYS_PTRACE].into_iter())?;
    filter::apply()?;
    while let Ok(Some((wanted, _))) = channel.receive::<Wanted>() {
        let sent = match open(&wanted) {
            Ok(opened) => channel.send(&Opened { error: None }, &[std::os::fd::AsFd::as_fd(&opened)]),
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                channel.send(&Opened { error: Some(number) }, &[])
            }
        };
        if sent.is_err() {
            break;
        }
    }
    Ok(0)
}
