//! `run` of an ordinary user: sends the daemon what it learnt with the user's own rights, and takes
//! the command's place meanwhile. It has the terminal, receives the signals, keeps the records, and
//! ends as the command does.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Group};

use super::peer;
use super::relay::{Relay, is_controlling};
use super::wire::{Event, Request, Wish};
use crate::audit::{Audit, Record};
use crate::cli::told::Before;
use crate::cli::who;
use crate::ipc::Secret;
use crate::sandbox::handover::Channel;
use crate::sandbox::resources::Bounded;
use crate::sandbox::signals::Signals;

/// The daemon's socket for its members.
pub(in crate::cli) const SOCKET: &str = "/run/interceptor/run.sock";
/// The longest line that is taken for a record, in bytes.
const LONGEST: u64 = 1 << 20;
/// How many records may wait to be written before more are read.
const MOST_WAITING: usize = 4096;

/// A connection to the daemon.
#[derive(Debug)]
pub(in crate::cli) struct Connection(Channel);

/// How a run ended: its exit status, and the limits that it reached.
type Ended = (i32, Vec<Bounded>);

/// Connects to the daemon, where this process lacks the rights to do without; `None` if it has
/// them, or there is no daemon.
///
/// # Errors
/// If there is one that this user may not use, or a socket was given that nobody listens at.
pub(in crate::cli) fn connect(given: Option<&Path>) -> anyhow::Result<Option<Connection>> {
    if nix::unistd::geteuid().is_root() || who::lacking().is_empty() {
        if given.is_some() {
            bail!("--daemon is for users without root's rights: leave it out");
        }
        return Ok(None);
    }
    let path = given.unwrap_or(Path::new(SOCKET));
    let shown = path.display();
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::NotFound && given.is_none() => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let group = group_of(path);
            bail!(
                "the daemon is for the members of the group {group}. Type: sudo usermod -aG \
                 {group} $USER, and log in again; or: sudo interceptor run …"
            )
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => bail!(
            "no daemon listens at {shown}. Type: sudo systemctl start interceptor; or: sudo \
             interceptor run …"
        ),
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {shown}")),
    };
    // It will be told keys.
    if peer::user(&stream).ok() != Some(0) {
        bail!("whoever listens at {shown} is not root, and cannot be the daemon");
    }
    Ok(Some(Connection(Channel::from_descriptor(stream.into()))))
}

/// How `run` is typed here: without sudo where there is a daemon.
pub(in crate::cli) fn typed() -> &'static str {
    // A user who may not enter its directory cannot tell.
    match Path::new(SOCKET).exists() {
        true => "interceptor run",
        false => "sudo interceptor run",
    }
}

/// The group of the socket, or of its directory.
fn group_of(path: &Path) -> String {
    let number =
        path.ancestors().take(2).find_map(|path| path.metadata().ok()).map(|file| file.gid());
    let group = number.and_then(|number| Group::from_gid(Gid::from_raw(number)).ok().flatten());
    group.map_or_else(|| "interceptor".to_owned(), |group| group.name)
}

impl Connection {
    /// Runs the command to its end. `before` is called before it starts, with the variables that
    /// stay outside.
    ///
    /// # Errors
    /// If it was not started, or the sandbox was ended.
    pub(super) fn run(
        self,
        request: impl FnOnce(bool) -> Request,
        standard: [BorrowedFd<'_>; 3],
        signals: &Signals,
        audit: &Audit,
        before: impl FnOnce(&Before<'_>),
    ) -> anyhow::Result<Ended> {
        let mut relay = Relay::open(standard).context("cannot make a terminal")?;
        let (reader, records) = io::pipe().context("cannot make a pipe")?;
        let foreground = self.ask(request, standard, relay.as_ref(), &records.into())?;
        relay.iter_mut().for_each(Relay::give_away);
        let keeping = keep(reader.into(), audit.clone())?;
        let mut run = Running { daemon: &self.0, relay, foreground };
        let ended = run.until_the_end(signals, before);
        let relay = run.relay;
        // The records end with the process that makes them.
        drop(keeping.join());
        relay.into_iter().for_each(Relay::finish);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio.block_on(audit.shutdown());
        ended
    }

    /// Sends the request. Returns whether the command starts in the foreground of the terminal.
    fn ask(
        &self,
        request: impl FnOnce(bool) -> Request,
        standard: [BorrowedFd<'_>; 3],
        relay: Option<&Relay>,
        records: &OwnedFd,
    ) -> anyhow::Result<bool> {
        let path_only =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(".");
        let directory: File = path_only.context("cannot find the working directory")?;
        let terminal = relay.and_then(Relay::theirs);
        // Descriptors of the member's terminal become those of the command's.
        let own = |descriptor: BorrowedFd<'_>| is_controlling(&descriptor);
        let is_shown = standard[..2].iter().all(|descriptor| own(*descriptor));
        let foreground = is_shown && relay.is_some_and(Relay::is_in_foreground);
        let mut sent: Vec<BorrowedFd<'_>> = vec![directory.as_fd()];
        for descriptor in standard {
            sent.push(terminal.filter(|_| own(descriptor)).unwrap_or(descriptor));
        }
        sent.push(records.as_fd());
        sent.extend(terminal);
        match self.0.send(&request(foreground), &sent) {
            Ok(()) => Ok(foreground),
            Err(error) => match self.refusal() {
                Some(why) => bail!(why),
                None => Err(error).context("cannot ask the daemon"),
            },
        }
    }

    /// Why the daemon closed the connection, if it said so.
    fn refusal(&self) -> Option<String> {
        match self.0.receive() {
            Ok(Some((Event::Failed(why), _))) => Some(why),
            _ => None,
        }
    }
}

/// A run at the daemon.
struct Running<'a> {
    daemon: &'a Channel,
    relay: Option<Relay>,
    /// Whether the command has the terminal from its start.
    foreground: bool,
}

impl Running<'_> {
    fn until_the_end(
        &mut self,
        signals: &Signals,
        before: impl FnOnce(&Before<'_>),
    ) -> anyhow::Result<Ended> {
        let mut before = Some(before);
        loop {
            let mut watched = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.daemon.as_fd(), PollFlags::POLLIN),
            ];
            watched.extend(self.relay.iter().flat_map(Relay::watched));
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait for the command"),
            }
            let told = watched[1].any().unwrap_or(false);
            for (signal, group) in signals.take().context("cannot read signals")? {
                self.pass(signal, group);
            }
            if let Some(relay) = &mut self.relay
                && relay.pass().is_err()
            {
                // The terminal has hung up, as the signal for it says.
                relay.end();
            }
            if !told {
                continue;
            }
            match self.daemon.receive() {
                Ok(Some((Event::Starts { withheld, with_key, page }, _))) => {
                    let page = page.as_ref().map(Secret::expose);
                    let starts = Before { withheld: &withheld, with_key: &with_key, page };
                    before.take().into_iter().for_each(|before| before(&starts));
                    if self.foreground {
                        self.begin();
                    }
                }
                Ok(Some((Event::Stopped(signal), _))) => self.stopped(signal),
                Ok(Some((Event::Ended { status, reached }, _))) => return Ok((status, reached)),
                Ok(Some((Event::Failed(why), _))) => bail!(why),
                Ok(None) | Err(_) => bail!("the daemon has ended the sandbox"),
            }
        }
    }

    /// Passes a signal on to the command.
    fn pass(&mut self, signal: Signal, group: bool) {
        let wish = match (signal, &self.relay) {
            // The kernel tells the command when its terminal changes.
            (Signal::SIGWINCH, Some(relay)) => return relay.resize(),
            (Signal::SIGCONT, Some(relay)) if relay.is_in_foreground() => {
                self.begin();
                Wish::Lend
            }
            _ => Wish::Signal(signal as i32, group),
        };
        self.wish(wish);
    }

    /// Job control stopped the command.
    fn stopped(&mut self, signal: i32) {
        let needs_it = [Signal::SIGTTIN as i32, Signal::SIGTTOU as i32].contains(&signal);
        match &mut self.relay {
            Some(relay) if needs_it && relay.is_in_foreground() => {
                self.begin();
                self.wish(Wish::Lend);
            }
            Some(relay) => relay.stop(),
            // Without a terminal nobody could continue it.
            None => {}
        }
    }

    fn begin(&mut self) {
        if let Some(relay) = &mut self.relay
            && let Err(error) = relay.begin()
        {
            tracing::debug!(%error, "the terminal cannot be given to the command");
        }
    }

    fn wish(&self, wish: Wish) {
        // If the command has just ended, the next event says so.
        let _ = self.daemon.send(&wish, &[]);
    }
}

/// Passes the records that the sandbox's process makes on to this process's audit log, in a thread
/// of its own.
fn keep(records: OwnedFd, audit: Audit) -> anyhow::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("records".to_owned());
    let read = move || {
        let mut reader = BufReader::new(File::from(records));
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(LONGEST).read_line(&mut line);
            if !matches!(read, Ok(1..)) {
                return;
            }
            match Record::received(line.trim_end_matches('\n')) {
                Some(record) => audit.emit(record),
                None => tracing::warn!("a record of the sandbox cannot be read"),
            }
            // The pipe makes the other process wait, which counts what it then loses.
            while audit.waiting() > MOST_WAITING {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    };
    thread.spawn(read).context("cannot start the thread `records`")
}

/// The content of the files of `--upstream-ca`.
///
/// # Errors
/// If one cannot be read, or is no text.
pub(super) fn certificates(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let read = |file: &PathBuf| {
        let (text, _) =
            crate::files::read(file, 1 << 20).with_context(|| file.display().to_string())?;
        String::from_utf8(text.to_vec()).with_context(|| format!("{} is not PEM", file.display()))
    };
    files.iter().map(read).collect::<anyhow::Result<_>>().context("--upstream-ca")
}
