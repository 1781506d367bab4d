//! The directories of the history, and the files of a new run.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde_json::Value;

use super::{MOST_RUNS, POLICIES, POLICY, RECORDS, RUNS};
use crate::cli::person::Person;
use crate::files;

/// The directories of a person's history, held open.
pub(super) struct Directories {
    pub(super) runs: OwnedFd,
    pub(super) policies: OwnedFd,
}

/// Creates the files of a new run, and removes those of the oldest runs. Returns the file for its
/// records.
///
/// # Errors
/// If the directories cannot be created, or are not the person's.
pub(in crate::cli) fn keep(person: &Person, sandbox: &str, policy: &Value) -> io::Result<File> {
    let stem = format!("{}-{sandbox}", Timestamp::now().strftime("%Y%m%dT%H%M%S.%6fZ"));
    person.act(|| {
        let directories = Directories::open(person, true)?;
        let records = create(&directories.runs, &format!("{stem}{RECORDS}"))?;
        let mut kept = create(&directories.policies, &format!("{stem}{POLICY}"))?;
        kept.write_all(policy.to_string().as_bytes())?;
        prune(&directories.runs, RECORDS)?;
        prune(&directories.policies, POLICY)?;
        Ok(records)
    })
}

/// The directory of the person's state, with symlinks resolved; created if missing. `None` if there
/// can be none.
pub(in crate::cli) fn make_state_directory(person: &Person) -> Option<PathBuf> {
    let directory = person.state_directory()?;
    // It may exist and not be writable.
    person.act(|| Directories::open(person, true).map(drop)).ok();
    person.act(|| std::fs::canonicalize(&directory)).ok()
}

impl Directories {
    /// Opens them, and with `make` creates those that are missing. Call with the person's rights.
    pub(super) fn open(person: &Person, make: bool) -> io::Result<Directories> {
        let own = state(person, make)?;
        let directory = |name: &str| child(&own, Path::new(name), make, person);
        Ok(Directories { runs: directory(RUNS)?, policies: directory(POLICIES)? })
    }
}

/// Opens the directory of the person's state; with `make`, creates it if missing. Call with the
/// person's rights.
///
/// # Errors
/// If there is none, or it is another user's.
pub(in crate::cli) fn state(person: &Person, make: bool) -> io::Result<OwnedFd> {
    let state = person.state_directory().ok_or_else(|| {
        files::unfit("there is no home directory, and XDG_STATE_HOME names no directory")
    })?;
    let (Some(parent), Some(name)) = (state.parent(), state.file_name()) else {
        return Err(files::unfit("XDG_STATE_HOME names no directory"));
    };
    if make {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = open(parent, flags, Mode::empty())?;
    child(&parent, Path::new(name), make, person)
}

/// Opens a directory of the person's; a symlink is refused.
pub(in crate::cli) fn child(
    parent: &OwnedFd,
    name: &Path,
    make: bool,
    person: &Person,
) -> io::Result<OwnedFd> {
    if make {
        match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    if fstat(&directory)?.st_uid != person.identity.uid {
        return Err(files::unfit("the directory of the interceptor's state is another user's"));
    }
    Ok(directory)
}

fn create(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_NOFOLLOW
        | OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::from_bits_truncate(0o600))?.into())
}

/// The names of runs' files in a directory, oldest first.
pub(super) fn names(directory: &OwnedFd, ending: &str) -> io::Result<Vec<String>> {
    let listed = Dir::openat(directory, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry?;
        let name = entry.file_name().to_str().unwrap_or_default();
        if name.strip_suffix(ending).is_some_and(is_stem) {
            names.push(name.to_owned());
        }
    }
    // A name begins with the time.
    names.sort_unstable();
    Ok(names)
}

/// Whether a name begins like `20260131T120000.123456Z-`, as the files of runs do.
fn is_stem(stem: &str) -> bool {
    let shape = b"dddddddd?dddddd?dddddd??";
    stem.len() > shape.len()
        && stem.bytes().zip(shape).all(|(byte, shape)| *shape == b'?' || byte.is_ascii_digit())
}

/// Removes all but the newest files.
fn prune(directory: &OwnedFd, ending: &str) -> io::Result<()> {
    let names = names(directory, ending)?;
    let surplus = names.len().saturating_sub(MOST_RUNS);
    for name in &names[..surplus] {
        match unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            // Another run that starts may have removed it.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The path of an open file, for messages.
pub(super) fn path_of(file: &File) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_| PathBuf::from("the records of the run"))
}
