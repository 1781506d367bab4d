//! The control socket: created with mode 0600, in a directory only its owner can write. It replaces
//! a dead daemon's socket, never a living one's.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio_util::sync::CancellationToken;

/// Maximum connections waiting to be accepted.
const BACKLOG: i32 = 128;

/// Why the control socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// A living daemon listens there.
    #[error(
        "another daemon listens on {path}: take over its sandboxes with `interceptor serve \
         --takeover`, stop it first, or choose another path with --control",
        path = path.display()
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The directory, or whatever is at the path, is unsafe.
    #[error("{path} {why}", path = path.display())]
    Unsafe {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong and how to fix it.
        why: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    System {
        /// The attempted action.
        action: &'static str,
        /// Its object.
        path: PathBuf,
        /// The kernel's error.
        cause: io::Error,
    },
}

/// A bound control socket; dropping it removes the file, unless another file has replaced it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// What holds the directory open that the path goes through, if anything.
    directory: Option<OwnedFd>,
    /// Device and inode of the file.
    file: (u64, u64),
    /// Another process listens there now and owns the file.
    handed: CancellationToken,
    /// A description of the process that last asked to take over.
    successor: Mutex<String>,
}

impl ControlSocket {
    /// Binds the socket.
    ///
    /// # Errors
    /// If a living daemon listens there, others could replace the file, or the system refuses.
    pub(crate) fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
        let system = |action, path: &Path, cause| SocketError::System {
            action,
            path: path.to_owned(),
            cause,
        };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // Held until the socket listens: of two daemons that start together, one finds the other's
        // socket.
        let _held = hold(directory)?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let why =
                    "exists and is not a socket: remove it, or give another path with --control";
                return Err(SocketError::Unsafe { path: path.to_owned(), why });
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tracing::info!(
                        path = %path.display(),
                        "removing the socket of a crashed daemon"
                    );
                    fs::remove_file(path)
                        .map_err(|cause| system("remove the stale socket", path, cause))?;
                }
                // Alive, possibly busy (EAGAIN).
                _ => return Err(SocketError::Taken { path: path.to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(system("examine", path, cause)),
        }
        let bound = (|| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // The file gets the socket's own mode (unix_bind in net/unix/af_unix.c), so it never
            // has another.
            fchmod(socket.as_fd(), Mode::from_bits_truncate(0o600))?;
            socket.bind(&SockAddr::unix(path)?)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let metadata = fs::symlink_metadata(path)?;
            Ok((socket, (metadata.dev(), metadata.ino())))
        })();
        let (socket, file) = bound.map_err(|cause| system("listen at", path, cause))?;
        Ok(ControlSocket::of(socket.into(), path, file))
    }

    fn of(listener: UnixListener, path: &Path, file: (u64, u64)) -> ControlSocket {
        ControlSocket {
            listener,
            path: path.to_owned(),
            directory: None,
            file,
            handed: CancellationToken::new(),
            successor: Mutex::default(),
        }
    }

    /// Listens in a directory that is open, which must be the caller's alone. No path is resolved,
    /// and nobody finds the socket before it listens.
    ///
    /// # Errors
    /// As of bind(2), listen(2) and rename(2).
    pub(crate) fn bind_in(directory: OwnedFd, name: &str) -> io::Result<ControlSocket> {
        let within = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let (unborn, path) = (within.join(format!(".{name}")), within.join(name));
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        fchmod(socket.as_fd(), Mode::from_bits_truncate(0o600))?;
        socket.bind(&SockAddr::unix(&unborn)?)?;
        let listens = || {
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let metadata = fs::symlink_metadata(&unborn)?;
            fs::rename(&unborn, &path)?;
            io::Result::Ok((metadata.dev(), metadata.ino()))
        };
        let file = listens().inspect_err(|_| drop(fs::remove_file(&unborn)))?;
        let mut socket = ControlSocket::of(socket.into(), &path, file);
        socket.directory = Some(directory);
        Ok(socket)
    }

    /// Adopts another process's socket.
    ///
    /// # Errors
    /// If the socket is no longer at this path.
    pub(crate) fn inherit(
        listener: UnixListener,
        path: &Path,
    ) -> Result<ControlSocket, SocketError> {
        let found = listener.set_nonblocking(true).and_then(|()| fs::symlink_metadata(path));
        let found = found.map_err(|cause| SocketError::System {
            action: "take over",
            path: path.to_owned(),
            cause,
        })?;
        Ok(ControlSocket::of(listener, path, (found.dev(), found.ino())))
    }

    /// Remembers the process that is about to take over.
    pub(crate) fn expect(&self, successor: String) {
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = successor;
    }

    /// A description of the process that took over.
    pub(crate) fn successor(&self) -> String {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the socket file up to another process that listens on it.
    pub(crate) fn hand_over(&self) {
        self.handed.cancel();
    }

    /// Whether another process listens on it instead.
    pub(crate) fn is_handed(&self) -> bool {
        self.handed.is_cancelled()
    }

    /// Cancelled once another process listens on it instead.
    pub(crate) fn handed(&self) -> CancellationToken {
        self.handed.clone()
    }

    /// Duplicates the listening socket.
    ///
    /// # Errors
    /// If no descriptor is free.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.is_handed() {
            return;
        }
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates the directory if necessary, verifies that only its owner can write to it, and locks it.
fn hold(path: &Path) -> Result<File, SocketError> {
    let system = |action, cause| SocketError::System { action, path: path.to_owned(), cause };
    let refused = |why| SocketError::Unsafe { path: path.to_owned(), why };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(system("make the directory", error));
        }
        _ => {}
    }
    let options =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
    let directory = options.map_err(|cause| match cause.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR) => {
            refused("is a symbolic link or no directory: name the directory itself")
        }
        _ => system("open the directory", cause),
    })?;
    let found = directory.metadata().map_err(|cause| system("examine", cause))?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(refused(
            "belongs to another user, who could replace the socket: choose a directory of your own",
        ));
    }
    if found.mode() & 0o022 != 0 {
        return Err(refused(
            "is writable by others, who could replace the socket: run chmod go-w on it, or choose \
             another directory",
        ));
    }
    // Close our own directory to others; the mode of a shared one is not ours to change.
    if path.ends_with("interceptor") && found.mode() & 0o077 != 0 {
        directory
            .set_permissions(Permissions::from_mode(0o700))
            .map_err(|cause| system("protect", cause))?;
    }
    directory.lock().map_err(|cause| system("lock", cause))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_the_socket_is_private_replaces_a_dead_ones_and_never_a_living_ones_nor_a_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("own/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let second = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(second, SocketError::Taken { .. }), "{second}");

        // A daemon that was killed leaves the file.
        let dead = home.path().join("own/dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let replaced = ControlSocket::bind(&dead).unwrap();
        drop(replaced);
        assert!(!dead.exists(), "a normal end removes it");

        let file = home.path().join("own/file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&file).unwrap_err(), SocketError::Unsafe { .. }));
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        let link = home.path().join("own/link.sock");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(ControlSocket::bind(&link).unwrap_err(), SocketError::Unsafe { .. }));
        drop(socket);
    }

    #[test]
    fn p2_a_directory_that_others_write_or_that_is_a_link_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            ControlSocket::bind(&open.join("s")).unwrap_err(),
            SocketError::Unsafe { .. }
        ));
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(matches!(
            ControlSocket::bind(&link.join("s")).unwrap_err(),
            SocketError::Unsafe { .. }
        ));
    }
}
