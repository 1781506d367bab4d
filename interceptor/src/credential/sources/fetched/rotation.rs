//! Refresh tokens that change with each use (RFC 9700 section 4.14): the endpoint's new one is on
//! the disk before the token that came with it is used, and one process at a time asks.
//!
//! A token is kept under the name of its endpoint, its client, and the refresh token that the
//! policy names: another one there begins anew.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::super::household::Household;
use super::super::problem::SourceProblem;
use super::inputs::LONGEST;
use crate::files;

/// The directory of refresh tokens, below that of the state.
const DIRECTORY: &str = "refresh-tokens";
/// How often a lock that another process has is tried.
const AGAIN: Duration = Duration::from_millis(100);

/// One use of a refresh token, while no other process uses it.
pub(super) struct Rotation<'a> {
    household: &'a dyn Household,
    name: String,
    current: Zeroizing<Vec<u8>>,
    /// Where the next one will be written. Made before the endpoint is asked: a disk that takes
    /// nothing more must not cost the token.
    room: File,
    _lock: File,
}

fn unkept(error: &io::Error) -> SourceProblem {
    SourceProblem::Unkept(error.to_string())
}

impl<'a> Rotation<'a> {
    /// Waits until no other process uses the token, at most so long, and finds the current one.
    pub(super) fn begin(
        household: &'a dyn Household,
        whose: [&str; 2],
        first: &[u8],
        patience: Duration,
    ) -> Result<Rotation<'a>, SourceProblem> {
        let name = name(whose, first);
        let lock = lock(household, &name, patience)?;
        let (mut kept, mut room) = (None, None);
        let prepared = household.with_state(&mut |state| {
            let directory = state.join(DIRECTORY);
            kept = read(&directory.join(&name))?;
            room = Some(make_room(&directory.join(format!("{name}.new")))?);
            Ok(())
        });
        prepared.map_err(|error| unkept(&error))?;
        let room = room.ok_or(SourceProblem::Unkept("no room was made".to_owned()))?;
        let current = kept.unwrap_or_else(|| Zeroizing::new(first.to_vec()));
        Ok(Rotation { household, name, current, room, _lock: lock })
    }

    /// The token to present.
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// Keeps the next one; once this returns, it survives a crash.
    pub(super) fn replace(&mut self, next: &[u8]) -> Result<(), SourceProblem> {
        if next == &self.current[..] {
            return Ok(());
        }
        let fits = !next.is_empty() && next.len() <= LONGEST;
        let written = fits.then_some(()).ok_or_else(|| files::unfit("it is too long, or empty"));
        let written = written.and_then(|()| {
            self.room.rewind()?;
            self.room.write_all(next)?;
            self.room.set_len(next.len() as u64)?;
            self.room.sync_all()
        });
        let kept = written.and_then(|()| {
            self.household.with_state(&mut |state| {
                let directory = state.join(DIRECTORY);
                let new = directory.join(format!("{}.new", self.name));
                fs::rename(new, directory.join(&self.name))?;
                File::open(&directory)?.sync_all()
            })
        });
        kept.map_err(|error| unkept(&error))?;
        self.current = Zeroizing::new(next.to_vec());
        Ok(())
    }
}

impl Drop for Rotation<'_> {
    fn drop(&mut self) {
        let new = format!("{}.new", self.name);
        // Nothing is left in it: either it was renamed, or nothing was written.
        let _ = self.household.with_state(&mut |state| match fs::remove_file(
            state.join(DIRECTORY).join(&new),
        ) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
    }
}

/// The name under which a token is kept.
fn name(whose: [&str; 2], first: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    for part in whose.map(str::as_bytes).into_iter().chain([first]) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the lock of a token.
fn lock(household: &dyn Household, name: &str, patience: Duration) -> Result<File, SourceProblem> {
    let mut lock = None;
    let opened = household.with_state(&mut |state| {
        let directory = state.join(DIRECTORY);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        lock = Some(open(&directory.join(format!("{name}.lock")))?);
        Ok(())
    });
    opened.map_err(|error| unkept(&error))?;
    let lock = lock.ok_or(SourceProblem::Unkept("there is no lock".to_owned()))?;
    let deadline = Instant::now() + patience;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(AGAIN),
            Err(TryLockError::WouldBlock) => return Err(SourceProblem::Busy(patience)),
            Err(TryLockError::Error(error)) => return Err(unkept(&error)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(files::unfit("it is no regular file")) }
}

/// The token that was kept last.
fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match files::read(path, LONGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        // Nothing else writes there, and what has no bytes is no token.
        Ok((text, _)) => Ok(Some(text).filter(|text| !text.is_empty())),
    }
}

/// A new file with room for the longest token.
fn make_room(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(&[0; LONGEST])?;
    file.sync_all()?;
    Ok(file)
}
