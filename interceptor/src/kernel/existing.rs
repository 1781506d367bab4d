//! Finds and closes sockets that a cgroup's processes opened before the programs were attached.
//!
//! Hooks follow the cgroup in which a socket was *created*. A socket created in this cgroup may
//! already be connected: the programs stop its packets at every device but `lo`, so only
//! connections over `lo` continue. No hook sees a socket created elsewhere, whose process was moved
//! here or received it. sock_diag(7) lists both with the inode that `/proc/PID/fd` shows, and
//! closes them on request (`SOCK_DESTROY`, Linux 4.5, CONFIG_INET_DIAG_DESTROY).

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use super::KernelError;
use super::diag::{self, Socket};
use super::error::refused;

/// How many times to look again: a process may connect while its sockets are being closed.
const PASSES: usize = 5;

/// Tells sockets the programs govern from sockets they do not.
#[derive(Debug)]
pub struct Wall<'a> {
    /// The cgroup's directory.
    pub cgroup: &'a Path,
    /// Its processes.
    pub processes: &'a [Pid],
    /// The interceptor's listeners and resolvers: a socket connected to one was redirected.
    pub listeners: &'a [SocketAddr],
    /// Whether others share the loopback.
    pub shared_netns: bool,
}

/// Sockets that bypass the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Existing {
    /// How many sockets.
    pub sockets: usize,
    /// How many of them were created outside the cgroup.
    pub foreign: usize,
}

impl Wall<'_> {
    /// Counts the sockets that bypass the programs.
    ///
    /// # Errors
    ///
    /// If the kernel cannot list sockets.
    pub fn existing(&self) -> Result<Existing, KernelError> {
        self.in_each_namespace(false)
    }

    /// Closes those sockets and returns how many there were.
    ///
    /// # Errors
    ///
    /// If the kernel cannot close other processes' sockets, or some remain afterwards.
    pub fn close_existing(&self) -> Result<usize, KernelError> {
        let mut closed = 0;
        for _ in 0..PASSES {
            let found = self.in_each_namespace(true)?;
            if found.sockets == 0 {
                return Ok(closed);
            }
            closed += found.sockets;
        }
        let left = self.existing()?.sockets;
        if left == 0 { Ok(closed) } else { Err(KernelError::Undestroyed { left }) }
    }

    /// Visits the network namespace of every process and looks at that process's sockets.
    fn in_each_namespace(&self, close: bool) -> Result<Existing, KernelError> {
        let mut namespaces: HashMap<(u64, u64), (File, HashSet<u32>)> = HashMap::new();
        for process in self.processes {
            // A process that has exited has no sockets.
            let Ok(namespace) = File::open(format!("/proc/{process}/ns/net")) else { continue };
            let Ok(metadata) = namespace.metadata() else { continue };
            let known = namespaces.entry((metadata.dev(), metadata.ino()));
            known.or_insert_with(|| (namespace, HashSet::new())).1.extend(sockets_of(*process));
        }
        let own = subtree(self.cgroup);
        let mut total = Existing::default();
        for (namespace, inodes) in namespaces.into_values() {
            let found = thread::scope(|scope| {
                let look = || -> Result<Existing, diag::Failure> {
                    setns(&namespace, CloneFlags::CLONE_NEWNET)
                        .map_err(|error| diag::Failure::List(error.into()))?;
                    self.look(&inodes, &own, close)
                };
                scope.spawn(look).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            let found = found.map_err(failed)?;
            total.sockets += found.sockets;
            total.foreign += found.foreign;
        }
        Ok(total)
    }

    fn look(
        &self,
        inodes: &HashSet<u32>,
        own: &HashSet<u64>,
        close: bool,
    ) -> Result<Existing, diag::Failure> {
        let mut diag = diag::Diag::open().map_err(diag::Failure::List)?;
        let mut found = Existing::default();
        for socket in diag.sockets()? {
            let foreign = socket.cgroup.is_some_and(|cgroup| !own.contains(&cgroup));
            if !inodes.contains(&socket.inode) || !self.goes_on(&socket, foreign) {
                continue;
            }
            if close {
                diag.destroy(&socket).map_err(diag::Failure::Destroy)?;
            }
            found.sockets += 1;
            found.foreign += usize::from(foreign);
        }
        Ok(found)
    }

    /// Whether the socket bypasses the programs.
    fn goes_on(&self, socket: &Socket, foreign: bool) -> bool {
        if foreign {
            return true;
        }
        // Not connected: a listener, or a socket whose next datagram or `connect` will be judged.
        let Some(remote) = socket.remote else { return false };
        let own_loopback = !self.shared_netns && remote.ip().to_canonical().is_loopback();
        let redirected = self.listeners.iter().any(|listener| {
            listener.port() == remote.port() && listener.ip() == remote.ip().to_canonical()
        });
        !own_loopback && !redirected
    }
}

/// Tries to close a socket of its own, to learn whether [`Wall::close_existing`] works here.
///
/// # Errors
///
/// What the kernel or this process lacks.
pub fn try_closing() -> Result<(), KernelError> {
    let own = || -> io::Result<(UdpSocket, u32)> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(socket.local_addr()?)?;
        let target = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
        let inode =
            inode(&target).ok_or_else(|| io::Error::other("/proc/self/fd shows no socket"))?;
        Ok((socket, inode))
    };
    let attempt = || -> Result<(), diag::Failure> {
        let (_socket, inode) = own().map_err(diag::Failure::List)?;
        let mut diag = diag::Diag::open().map_err(diag::Failure::List)?;
        let found = diag.sockets()?.into_iter().find(|socket| socket.inode == inode);
        let unlisted = || {
            diag::Failure::List(io::Error::other(
                "the kernel did not list a socket of this process",
            ))
        };
        diag.destroy(&found.ok_or_else(unlisted)?).map_err(diag::Failure::Destroy)
    };
    attempt().map_err(failed)
}

/// The number in `socket:[…]`.
fn inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The inodes of a process's sockets (proc_pid_fd(5)).
fn sockets_of(process: Pid) -> HashSet<u32> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| inode(&fs::read_link(descriptor.path()).ok()?)).collect()
}

/// The ids of a cgroup and its descendants.
fn subtree(cgroup: &Path) -> HashSet<u64> {
    let mut ids = HashSet::new();
    let mut open = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        ids.extend(fs::metadata(&directory).ok().map(|metadata| metadata.ino()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        open.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    ids
}

fn failed(failure: diag::Failure) -> KernelError {
    const LIST: &str = "list the sockets that existed before (sock_diag)";
    const CLOSE: &str = "close the sockets that existed before (sock_diag)";
    match failure {
        diag::Failure::NoModule { module, source } => KernelError::NoDiag { module, source },
        diag::Failure::List(source) if refused(&source) => {
            KernelError::Privilege { action: LIST, source }
        }
        diag::Failure::List(source) => KernelError::Io { action: LIST, source },
        diag::Failure::Destroy(source) if refused(&source) => {
            KernelError::Privilege { action: CLOSE, source }
        }
        diag::Failure::Destroy(source) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            KernelError::NoDestroy { source }
        }
        diag::Failure::Destroy(source) => KernelError::Io { action: CLOSE, source },
    }
}
