//! A helper process that opens `/proc/PID/ns/net` and `/proc/PID/exe` for the daemon, because
//! Landlock denies the daemon access to processes outside its domain. It serves only the daemon,
//! returns only those descriptors, keeps one capability, and ends with the daemon.

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

/// How long opening a procfs file may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// This process's attendant, once started.
static ATTENDANT: OnceLock<Mutex<Attendant>> = OnceLock::new();

#[derive(Debug)]
struct Attendant {
    channel: Channel,
    /// The last request timed out; its answer may still arrive.
    is_behind: bool,
    /// The protocol is out of sync.
    is_out_of_step: bool,
    /// Never reaped: it ends with this process, when the channel closes.
    _child: Child,
}

/// A request: a file of a process.
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

/// The reply. The file comes as a descriptor unless there is an error number.
#[derive(Debug, Serialize, Deserialize)]
struct OpenReply {
    error: Option<i32>,
}

/// Starts this process's attendant. Call it before [`super::restrict`].
///
/// # Errors
/// If it cannot be started.
pub(crate) fn start() -> Result<(), SandboxError> {
    let failed = |error: io::Error| {
        SandboxError::Refused(format!("cannot start the attendant process: {error}"))
    };
    let (channel, theirs) = Channel::pair().map_err(failed)?;
    channel.set_patience(Some(PATIENCE)).map_err(failed)?;
    let child = Command::new("/proc/self/exe")
        .arg("sandbox-init")
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    channel.send(&Order::Attend, &[]).map_err(failed)?;
    let attendant =
        Mutex::new(Attendant { channel, is_behind: false, is_out_of_step: false, _child: child });
    ATTENDANT
        .set(attendant)
        .map_err(|_| SandboxError::Refused("there is an attendant already".into()))
}

/// Opens the network namespace of a process, through the attendant if there is one.
///
/// # Errors
/// As open(2).
pub(crate) fn network_of(process: i32) -> io::Result<OwnedFd> {
    obtain(Wanted { process, what: What::Network })
}

/// Opens the executable of a process with `O_PATH`, to identify it; this cannot block on a file
/// system. Uses the attendant if there is one.
///
/// # Errors
/// As open(2).
pub(crate) fn program_of(process: i32) -> io::Result<OwnedFd> {
    obtain(Wanted { process, what: What::Program })
}

/// As [`program_of`], for reading.
///
/// # Errors
/// As open(2).
pub(crate) fn content_of(process: i32) -> io::Result<OwnedFd> {
    obtain(Wanted { process, what: What::Content })
}

impl Attendant {
    /// Sends a request after the previous answer has arrived: only one is ever outstanding, so a
    /// late answer is never taken for a later request's.
    fn ask(&mut self, wanted: &Wanted) -> io::Result<(OpenReply, Vec<OwnedFd>)> {
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

    fn answer(&mut self) -> io::Result<(OpenReply, Vec<OwnedFd>)> {
        let answer = self.channel.receive::<OpenReply>();
        let answer =
            answer.and_then(|answer| answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        match &answer {
            Ok(_) => self.is_behind = false,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                self.is_behind = true;
                tracing::warn!("the attendant process does not answer in time");
            }
            Err(error) => {
                self.is_out_of_step = true;
                tracing::error!(%error, "the attendant process is out of sync: restart the daemon");
            }
        }
        answer
    }
}

fn obtain(wanted: Wanted) -> io::Result<OwnedFd> {
    let Some(attendant) = ATTENDANT.get() else { return open(&wanted) };
    // Poisoned: an exchange may have stopped half-way.
    let out_of_step = || io::Error::other("the attendant process is out of sync");
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

/// The attendant's main loop: serves the daemon on `channel` until it closes.
pub(crate) fn serve(channel: &Channel) -> Result<i32, SandboxError> {
    launch::harden()?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| SandboxError::Refused(format!("cannot set no_new_privs: {error}")))?;
    capabilities::keep([Capability::CAP_SYS_PTRACE].into_iter())?;
    filter::apply()?;
    while let Ok(Some((wanted, _))) = channel.receive::<Wanted>() {
        let sent = match open(&wanted) {
            Ok(opened) => {
                channel.send(&OpenReply { error: None }, &[std::os::fd::AsFd::as_fd(&opened)])
            }
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                channel.send(&OpenReply { error: Some(number) }, &[])
            }
        };
        if sent.is_err() {
            break;
        }
    }
    Ok(0)
}
