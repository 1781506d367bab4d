//! Reads the policy's file again when it changes.
//!
//! The directories that decide where its path leads are watched, not the file alone: editors put a
//! new file in the old one's place. A change takes effect by itself only where the sandbox's user
//! could not have made it ([`Guarded`]); else once the person has said so outside (`interceptor
//! trust`).

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use interceptor_policy::MAX_BYTES;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use zeroize::Zeroizing;

use super::changes;
use super::guarded::{Guarded, own_path};
use super::loader::{Loader, Rights};
use crate::cli::policy_file::describe;
use crate::cli::{policy_file, trust};
use crate::files;
use crate::fleet::{FleetError, Member};
use crate::notice;

/// How long to wait for the rest of what an editor does, and the least time between two looks.
const SETTLED: Duration = Duration::from_millis(150);
/// The least time between two checks after a message: a sandbox that can write the file must not
/// flood the terminal.
const SAID: Duration = Duration::from_secs(2);
/// How often to look where nothing can be watched.
const EVERY: Duration = Duration::from_secs(2);

/// The watch of one policy's file. It ends when dropped.
#[derive(Debug)]
pub(super) struct Watch(Arc<EventFd>);

/// What is watched.
pub(super) struct Watched {
    /// The file, as an absolute path with its links.
    pub(super) path: PathBuf,
    /// Whether the file was found and not named.
    pub(super) is_found: bool,
    /// Its text that is in force.
    pub(super) text: Zeroizing<String>,
    /// The sandbox.
    pub(super) member: Arc<Member>,
    /// How policies are loaded.
    pub(super) loader: Arc<Loader>,
    /// Whether to say only what is wrong.
    pub(super) quiet: bool,
}

impl Watch {
    /// Begins to watch, on a thread of its own: reading may block forever, and the end of the run
    /// does not wait for it.
    ///
    /// # Errors
    /// If there is no thread or descriptor for it.
    pub(super) fn begin(watched: Watched) -> io::Result<Watch> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let stopped = stop.clone();
        let mut watcher = Watcher::new(watched);
        thread::Builder::new().name("policy".to_owned()).spawn(move || watcher.run(&stopped))?;
        Ok(Watch(stop))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Fails only where it has been told already.
        let _ = self.0.write(1);
    }
}

struct Watcher {
    watched: Watched,
    /// The last content that was judged, whatever the outcome.
    judged: Zeroizing<String>,
    /// Whether that content may come into force yet: it waits for the person, or could not be used.
    is_waiting: bool,
    /// Why it could not be used, as reported.
    failed: Option<String>,
    /// Since when the person must have said that a content is trusted.
    since: Timestamp,
}

/// A content, and who could have put it there.
struct Content {
    text: Zeroizing<String>,
    /// The sandbox's user, or anybody but root and the person.
    is_changeable: bool,
    /// Nobody but root.
    is_roots: bool,
}

impl Watcher {
    fn new(watched: Watched) -> Watcher {
        let judged = watched.text.clone();
        Watcher { watched, judged, is_waiting: false, failed: None, since: Timestamp::now() }
    }

    fn run(&mut self, stop: &EventFd) {
        loop {
            // First, so that no change falls between the look and the wait.
            let watching = self.watch();
            let pause = if self.look() { SAID } else { SETTLED };
            let wait = match &watching {
                Ok(_) => None,
                Err(_) => Some(EVERY),
            };
            let inotify = watching.as_ref().ok().map(|(inotify, _)| inotify);
            if is_stopped(stop, inotify, wait) || is_stopped(stop, None, Some(pause)) {
                return;
            }
        }
    }

    /// Watches where the path leads now, and the list of what is trusted. What is returned holds
    /// the watched places.
    fn watch(&self) -> io::Result<(Inotify, Option<Guarded>)> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let within = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        if let Some(directory) = &self.watched.loader.trusted {
            // Without a watch, a look at the next change finds what was trusted.
            let _ = inotify.add_watch(&own_path(directory), AddWatchFlags::IN_MOVED_TO);
        }
        let Watched { path, loader, .. } = &self.watched;
        let guarded = match Guarded::open(path, &loader.runner, loader.person.identity.uid) {
            Ok(guarded) => guarded,
            // It may come back.
            Err(_) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                inotify.add_watch(parent, within)?;
                return Ok((inotify, None));
            }
        };
        let (file, directories) = guarded.watched();
        for directory in directories {
            inotify.add_watch(&directory, within)?;
        }
        // Another name of the file may be written to.
        inotify.add_watch(&file, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB)?;
        Ok((inotify, Some(guarded)))
    }

    /// Checks the file; returns whether it printed something.
    fn look(&mut self) -> bool {
        let Ok(content) = self.content() else { return false };
        if *content.text == *self.judged && !self.is_waiting {
            return false;
        }
        // Changed and changed back, or put into force by an answer, which is no news.
        if *content.text == *self.watched.text || self.watched.member.is_of(&content.text) {
            self.judged.clone_from(&content.text);
            self.watched.text = content.text;
            self.is_waiting = false;
            return false;
        }
        let is_new = *content.text != *self.judged;
        let Loader { person, trusted, .. } = &*self.watched.loader;
        let is_trusted = trusted.as_ref().is_some_and(|directory| {
            trust::is_trusted_since(person, directory, &content.text, self.since).unwrap_or(false)
        });
        self.judged.clone_from(&content.text);
        self.is_waiting = true;
        if is_new || is_trusted {
            self.failed = None;
        }
        if is_trusted || !(content.is_changeable || self.watched.is_found) {
            let rights = if content.is_roots { Rights::Own } else { Rights::Person };
            return self.apply(content.text, rights);
        }
        is_new && self.waits(&content.text)
    }

    /// The file's content: with this process's rights where only root could have put it there.
    fn content(&self) -> io::Result<Content> {
        let Watched { path, loader, .. } = &self.watched;
        let guarded = Guarded::open(path, &loader.runner, loader.person.identity.uid)?;
        let Guarded { is_changeable, is_roots, .. } = guarded;
        if is_roots {
            let mut bytes = Zeroizing::new(Vec::new());
            guarded.reader()?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| files::unfit("it is not UTF-8"))?;
            return Ok(Content { text: Zeroizing::new(text.to_owned()), is_changeable, is_roots });
        }
        let text = loader.person.act(|| policy_file::read(path).map_err(io::Error::other))?;
        Ok(Content { text: Zeroizing::new(text), is_changeable, is_roots })
    }

    /// Puts a content into force; whether something was said.
    fn apply(&mut self, text: Zeroizing<String>, rights: Rights) -> bool {
        // What could not be used is tried again when the person says so again.
        self.since = Timestamp::now();
        let Watched { path, member, loader, quiet, .. } = &self.watched;
        let (before, policy) = (member.summary().policy, member.policy());
        let replaced = member.replace(|keyring| loader.file(path, &text, keyring, rights), false);
        let name = trust::shown(path);
        match replaced {
            Ok(()) => {
                self.is_waiting = false;
                let whole = format!("interceptor ctl policy get {}", member.id);
                let keys = changes::keys(&policy, &member.policy());
                let what = changes::between(&before, &member.summary().policy, keys, &whole);
                if !quiet {
                    notice::info(format_args!("the policy {name} changed and is in force: {what}"));
                }
                self.watched.text = text;
            }
            // The sandbox has just ended.
            Err(FleetError::Unknown | FleetError::Ending) => return false,
            Err(error) => return self.is_invalid(&error),
        }
        true
    }

    /// Says why a content cannot be used, unless that was said of it already; whether it was said
    /// now.
    fn is_invalid(&mut self, error: &FleetError) -> bool {
        let what = match error {
            FleetError::Policy(problems) => {
                let first = problems.first().map(describe).unwrap_or_default();
                let more = problems.len().saturating_sub(1);
                if more > 0 { format!("{first} (and {more} more)") } else { first }
            }
            error => error.to_string(),
        };
        if self.failed.as_ref() == Some(&what) {
            return false;
        }
        notice::warning(format_args!(
            "the policy {} changed, but cannot be used, so the old one stays in force: {what}; see \
             interceptor check {}",
            trust::shown(&self.watched.path),
            trust::quoted(&self.watched.path)
        ));
        self.failed = Some(what);
        true
    }

    /// Says that a content waits for the person, or why it never could come into force.
    fn waits(&mut self, text: &str) -> bool {
        let Watched { path, is_found, member, loader, quiet, .. } = &self.watched;
        let document = interceptor_policy::strict_json(text)
            .ok()
            .filter(|strict| interceptor_policy::check(strict, &loader.catalogue).policy.is_some());
        let Some(document) = document else {
            let errors = interceptor_policy::check(text, &loader.catalogue).errors;
            return self.is_invalid(&FleetError::Policy(errors));
        };
        if *quiet {
            return true;
        }
        let now = member.summary().policy;
        let keyring = member.with(|enforced| enforced.sandbox().keyring());
        let new = keyring.and_then(|keyring| loader.shown(&document, &keyring));
        let whole = format!("interceptor trust {} --full", trust::quoted(path));
        let what = new.map_or_else(String::new, |(new, policy)| {
            let keys = changes::keys(&member.policy(), &policy);
            format!(" ({})", changes::between(&now, &new, keys, &whole))
        });
        let why = match is_found {
            true => "this policy holds only when you trust it",
            false => "the sandbox's user, or somebody else, could have written it",
        };
        notice::info(format_args!(
            "the policy {} changed{what}, and the old one stays in force, because {why}. If you \
             want the change, type elsewhere: {}",
            trust::shown(path),
            trust::command(path, text)
        ));
        true
    }
}

/// Waits until one of the watched places changes, or the time is up; whether to stop.
fn is_stopped(stop: &EventFd, inotify: Option<&Inotify>, wait: Option<Duration>) -> bool {
    let timeout = wait
        .map_or(PollTimeout::NONE, |wait| PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
    let mut watched = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    watched.extend(inotify.map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
    loop {
        match poll(&mut watched, timeout) {
            Err(Errno::EINTR) => {}
            // Without poll(2) there is no watch.
            Err(_) => return true,
            Ok(_) => return watched[0].any().unwrap_or(true),
        }
    }
}
