//! Where the control sockets of a user's runs are: `$XDG_RUNTIME_DIR/interceptor`, or below the
//! user's state where there is no such directory. Only the user and root reach either, and no
//! sandbox: it has a `/run` of its own, and the state is hidden. A runtime directory elsewhere
//! would be the sandbox's too, so it does not count.
//!
//! A socket is called after its sandbox, with a random part, so that no run ever takes the place of
//! another's socket. One that a killed run left refuses connections, and is removed by whoever
//! comes across it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::dir::Dir;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cli::daemon::client::Address;
use crate::cli::history;
use crate::cli::person::Person;
use crate::files;
use crate::fleet::check_id;
use crate::ipc::ControlSocket;
use crate::sandbox::launch;

/// The directory of sockets in the runtime directory, which no other program uses.
const IN_RUNTIME: &str = "interceptor";
/// Where runtime directories are, as systemd and elogind make them. Each sandbox has its own.
const RUN: &str = "/run";
/// The directory of sockets in the state directory.
const IN_STATE: &str = "control";
/// How the name of a socket ends.
const SOCKET: &str = ".sock";
/// What is between the id and the random part of a socket's name. No id has it.
const BETWEEN: char = '@';
/// How many random characters there are.
const RANDOM: usize = 8;
/// How old a socket must be that never got its name, to be removed.
const UNBORN: Duration = Duration::from_secs(60);
/// The longest path that connect(2) takes.
const LONGEST: usize = 107;

/// The control socket of a run.
#[derive(Clone, Debug)]
pub(in crate::cli) struct RunSocket {
    /// The sandbox's id.
    pub(in crate::cli) id: String,
    /// A path that leads to it while this value lives.
    pub(in crate::cli) path: PathBuf,
    _directory: Arc<OwnedFd>,
}

impl RunSocket {
    /// Where it is asked.
    pub(in crate::cli) fn address(&self) -> Address {
        Address { path: self.path.clone(), is_run: true }
    }
}

/// Listens for a run of the person's. The socket is the person's.
///
/// # Errors
/// If neither directory can be used.
pub(super) fn bind(person: &Person, id: &str) -> io::Result<ControlSocket> {
    let random = launch::random_id().map_err(io::Error::other)?;
    let name = format!("{id}{BETWEEN}{}{SOCKET}", &random[random.len() - RANDOM..]);
    person.act(|| ControlSocket::bind_in(own(person, true)?, &name))
}

/// The directory for a run of the person's, which is made if it is missing, since the sandbox could
/// make it otherwise; `None` if there can be none. It is hidden in the sandbox.
pub(super) fn make(person: &Person) -> Option<PathBuf> {
    person
        .act(|| {
            let directory = own(person, true)?;
            fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        })
        .ok()
}

/// The runs of the person that live, by id.
///
/// # Errors
/// If a directory cannot be read.
pub(in crate::cli) fn runs(person: &Person) -> io::Result<Vec<RunSocket>> {
    let mut found = person.act(|| {
        let mut found = Vec::new();
        for directory in [in_runtime(person, false), in_state(person, false)] {
            match directory {
                Ok(directory) => found.extend(list(directory)?),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    })?;
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

fn is_absent(error: &io::Error) -> bool {
    // Unfit, or closed: it is not the person's, as after `su`.
    let kind = error.kind();
    kind == io::ErrorKind::InvalidInput
        || matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES)
        )
}

fn own(person: &Person, make: bool) -> io::Result<OwnedFd> {
    in_runtime(person, make).or_else(|_| in_state(person, make))
}

fn in_runtime(person: &Person, make: bool) -> io::Result<OwnedFd> {
    let named = person.variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let named = named.filter(|path| path.is_absolute());
    let named = named.ok_or_else(|| files::unfit("XDG_RUNTIME_DIR names no directory"))?;
    let runtime = open(&named, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let status = fstat(&runtime)?;
    // As the XDG Base Directory Specification demands.
    if status.st_uid != person.identity.uid || status.st_mode & 0o077 != 0 {
        return Err(files::unfit("XDG_RUNTIME_DIR is not the user's alone"));
    }
    if !fs::read_link(format!("/proc/self/fd/{}", runtime.as_raw_fd()))?.starts_with(RUN) {
        return Err(files::unfit("XDG_RUNTIME_DIR is not below /run"));
    }
    private(history::child(&runtime, Path::new(IN_RUNTIME), make, person)?)
}

fn in_state(person: &Person, make: bool) -> io::Result<OwnedFd> {
    let state = history::state(person, make)?;
    private(history::child(&state, Path::new(IN_STATE), make, person)?)
}

fn private(directory: OwnedFd) -> io::Result<OwnedFd> {
    match fstat(&directory)?.st_mode & 0o022 {
        0 => Ok(directory),
        _ => Err(files::unfit("others can write where the sockets of runs are")),
    }
}

/// The sockets in a directory behind which root's process listens, as a run is. Removes those
/// behind which nobody does.
fn list(directory: OwnedFd) -> io::Result<Vec<RunSocket>> {
    let directory = Arc::new(directory);
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let mut found = Vec::new();
    for entry in Dir::openat(&*directory, ".", flags, Mode::empty())? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok() else { continue };
        let Some((id, is_unborn)) = id_of(name) else { continue };
        let status = fstatat(&*directory, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
        let Ok(status) = status else { continue };
        if status.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
            continue;
        }
        if is_unborn && !is_old(status.st_mtime) {
            continue;
        }
        let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        match listener(&own) {
            Listener::None => {
                // Another process may have removed it.
                let _ = unlinkat(&*directory, name, UnlinkatFlags::NoRemoveDir);
            }
            Listener::Root if !is_unborn => {
                let plain = path.join(name);
                let path = if plain.as_os_str().len() <= LONGEST { plain } else { own };
                found.push(RunSocket { id: id.to_owned(), path, _directory: directory.clone() });
            }
            Listener::Root | Listener::Other => {}
        }
    }
    Ok(found)
}

/// The id in the name of a socket, and whether it is one that does not listen yet.
fn id_of(name: &str) -> Option<(&str, bool)> {
    let (name, is_unborn) = match name.strip_prefix('.') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (id, _) = name.strip_suffix(SOCKET)?.split_once(BETWEEN)?;
    check_id(id).is_ok().then_some((id, is_unborn))
}

fn is_old(modified: i64) -> bool {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(modified.try_into().unwrap_or(0));
    modified.elapsed().is_ok_and(|age| age > UNBORN)
}

/// Who listens at a socket.
enum Listener {
    None,
    /// Root, or whoever is too busy to tell.
    Root,
    Other,
}

/// Who listens there. Does not wait: a run that is stopped, or has many visitors, lives.
fn listener(path: &Path) -> Listener {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let by = || {
        let own = socket(AddressFamily::Unix, SockType::Stream, kind, None)?;
        connect(own.as_raw_fd(), &UnixAddr::new(path)?)?;
        getsockopt(&own, sockopt::PeerCredentials)
    };
    match by() {
        Err(nix::errno::Errno::ECONNREFUSED) => Listener::None,
        Ok(by) if by.uid() != 0 => Listener::Other,
        _ => Listener::Root,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    const USER: u32 = 54321;

    fn place() -> (tempfile::TempDir, PathBuf, Person) {
        let place = tempfile::tempdir_in(RUN).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let owned = |name: &str| {
            let path = place.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            chown(&path, Some(USER), Some(USER)).unwrap();
            path
        };
        let (home, runtime) = (owned("home"), owned("runtime"));
        let typed =
            [("HOME", home.to_str().unwrap()), ("XDG_RUNTIME_DIR", runtime.to_str().unwrap())];
        let person = Person::with_variables(USER, &typed);
        (place, runtime, person)
    }

    fn ids(person: &Person) -> Vec<String> {
        runs(person).unwrap().into_iter().map(|run| run.id).collect()
    }

    #[test]
    fn a_socket_is_its_users_alone_and_gone_with_its_run() {
        let (_place, runtime, person) = place();
        assert!(ids(&person).is_empty());
        let socket = bind(&person, "web").unwrap();
        let directory = fs::metadata(runtime.join("interceptor")).unwrap();
        assert_eq!((directory.uid(), directory.mode() & 0o777), (USER, 0o700));
        assert_eq!(make(&person), Some(fs::canonicalize(runtime.join("interceptor")).unwrap()));
        let found = runs(&person).unwrap();
        assert_eq!((found.len(), found[0].id.as_str()), (1, "web"));
        let file = fs::symlink_metadata(&found[0].path).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o777), (USER, 0o600));
        // Two may have one name for a moment.
        let other = bind(&person, "web").unwrap();
        assert_eq!(ids(&person), ["web", "web"]);
        drop((socket, other));
        assert!(ids(&person).is_empty());
        assert_eq!(fs::read_dir(runtime.join("interceptor")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_recognised_and_removed_and_nothing_else_is() {
        let (_place, runtime, person) = place();
        let alive = bind(&person, "alive").unwrap();
        let directory = runtime.join("interceptor");
        for name in ["dead@sb-1.sock", "notes.sock", "bad id@1.sock"] {
            drop(std::os::unix::net::UnixListener::bind(directory.join(name)).unwrap());
            chown(directory.join(name), Some(USER), Some(USER)).unwrap();
        }
        fs::write(directory.join("file@1.sock"), "a file").unwrap();
        assert_eq!(ids(&person), ["alive"]);
        let mut left: Vec<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("alive"))
            .collect();
        left.sort();
        assert_eq!(left, ["bad id@1.sock", "file@1.sock", "notes.sock"]);
        drop(alive);
    }

    #[test]
    fn a_directory_that_is_not_the_users_alone_is_not_used_and_the_state_is() {
        let (place, runtime, person) = place();
        let state = place.path().join("home/.local/state/interceptor/control");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = bind(&person, "web").unwrap();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        assert_eq!(ids(&person), ["web"]);
        drop(socket);
        // One that is elsewhere, or leads there, is not used.
        let elsewhere = tempfile::tempdir().unwrap();
        chown(elsewhere.path(), Some(USER), Some(USER)).unwrap();
        fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let link = place.path().join("link");
        symlink(elsewhere.path(), &link).unwrap();
        let home = place.path().join("home");
        for named in [elsewhere.path(), &link] {
            let typed =
                [("HOME", home.to_str().unwrap()), ("XDG_RUNTIME_DIR", named.to_str().unwrap())];
            let person = Person::with_variables(USER, &typed);
            let socket = bind(&person, "web").unwrap();
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
            assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
            drop(socket);
        }
        // A link to elsewhere in its place is not followed.
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, runtime.join("interceptor")).unwrap();
        let socket = bind(&person, "web").unwrap();
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        drop(socket);
    }
}
