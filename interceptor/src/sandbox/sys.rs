//! System calls that safe libraries do not wrap; this module's only `unsafe` code.
//!
//! Every function is sound by itself: callers need not uphold anything.

#![expect(unsafe_code, reason = "system calls that no safe crate wraps")]

use std::ffi::{CStr, CString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags};
use nix::unistd::{ForkResult, Pid};

/// Maximum descriptors per message.
pub(crate) const MAX_DESCRIPTORS: usize = 32;

/// Forks this process; `None` in the child.
///
/// Refused if this process has several threads: the child would have only the calling one, and
/// locks held by others would stay locked.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot be copied"));
    }
    // SAFETY: there is only one thread, so the child may do anything.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Gives memory that is free back to the system, as far as the C library can.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only what is free, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Reads up to `buffer.len()` bytes and the descriptors that came with them (SCM_RIGHTS, unix(7)),
/// close-on-exec.
pub(crate) fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([libc::c_int; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message =
        nix::sys::socket::recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for descriptor in received {
                // SAFETY: the kernel has just installed it for this message; nobody else knows its
                // number.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    Ok((message.bytes, descriptors))
}

/// The value of an extended attribute of the file that a path leads to; `None` if it has none, or
/// its file system knows no such attribute.
pub(crate) fn extended_attribute(path: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // XATTR_SIZE_MAX of linux/limits.h.
    let mut value = vec![0; 1 << 16];
    // SAFETY: both strings end with NUL, and the buffer has the length that is given.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    match usize::try_from(length) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                Ok(None)
            }
            error => Err(error),
        },
    }
}

/// Closes every descriptor above standard error. For the start of a process, before it has opened
/// any.
pub(crate) fn close_above_stdio() -> io::Result<()> {
    let first = libc::STDERR_FILENO as libc::c_uint + 1;
    // SAFETY: takes numbers only.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })
}

/// Marks every descriptor above standard error close-on-exec.
pub(crate) fn close_on_exec_above_stdio() -> io::Result<()> {
    let first = libc::STDERR_FILENO as libc::c_uint + 1;
    // SAFETY: takes numbers only, and closes nothing in this process.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    answer(result)
}

/// Duplicates this process's descriptors whose link in `/proc/self/fd` is `kind`.
pub(crate) fn descriptors_of(kind: &str) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // Skip the directory's own descriptor, already closed.
        if !std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == kind) {
            continue;
        }
        let Some(number) =
            entry.file_name().to_str().and_then(|name| name.parse::<libc::c_int>().ok())
        else {
            continue;
        };
        // SAFETY: takes numbers only; a closed number is an error.
        let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
        answer(copy.into())?;
        // SAFETY: the kernel has just created it; nobody else knows its number.
        found.push(unsafe { OwnedFd::from_raw_fd(copy) });
    }
    Ok(found)
}

/// A child that ended or stopped, with its raw waitpid(2) status, because nix cannot represent
/// death by a real-time signal. `None` if there is none.
pub(crate) fn reap() -> io::Result<Option<(Pid, libc::c_int)>> {
    let mut status = 0;
    // SAFETY: the pointer is valid during the call.
    let child = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
    answer(child.into())?;
    Ok((child > 0).then(|| (Pid::from_raw(child), status)))
}

/// Opens the process that has this id now (pidfd_open(2)).
pub(crate) fn pidfd_open(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    answer(opened)?;
    let descriptor = i32::try_from(opened).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Restores a signal's default disposition: Rust ignores SIGPIPE, and programs inherit ignored
/// signals.
pub(crate) fn default_disposition(signal: Signal) -> io::Result<()> {
    // SAFETY: installs no handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    Ok(())
}

/// Sets the nice value of this process (setpriority(2)).
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    answer(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }.into())
}

/// The size of a terminal's window: rows, columns, and pixels across and down.
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> io::Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes a `winsize` to the pointer, which is valid during the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    answer(result.into()).map(|()| size)
}

/// Sets the size of a terminal's window.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: &libc::winsize) -> io::Result<()> {
    // SAFETY: the kernel reads a `winsize` from the pointer, which is valid during the call.
    let result =
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(size)) };
    answer(result.into())
}

/// Ignores a signal, as programs inherit.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: installs no handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    Ok(())
}

/// Drops a capability (by number) from the bounding set.
pub(crate) fn drop_from_bounding_set(capability: u8) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let result =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    answer(result.into())
}

/// Locks the securebits so that uid 0 gains no capability by executing a file (SECBIT_NOROOT,
/// capabilities(7)).
pub(crate) fn root_gains_nothing() -> io::Result<()> {
    // Each with its lock: SECURE_NOROOT 0, SECURE_NO_SETUID_FIXUP 2, SECURE_KEEP_CAPS 4 (locked
    // off), NO_CAP_AMBIENT_RAISE 6.
    let bits: libc::c_ulong = 0b1110_1111;
    // SAFETY: takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) };
    answer(result.into())
}

/// The kernel's `struct mount_attr` (mount_setattr(2)).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Sets and clears attributes (`MOUNT_ATTR_*`) of the mount at `path` and, if `recursive`, of those
/// below it.
pub(crate) fn set_mount_attributes(
    path: &Path,
    set: u64,
    clear: u64,
    recursive: bool,
) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = MountAttributes { set, clear, propagation: 0, userns: 0 };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: both pointers are valid during the call, and the size is that of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    answer(result)
}

/// Mounts an open symlink over itself, so that nothing in this mount namespace removes, renames or
/// replaces it. It is followed as before.
pub(crate) fn pin_link(link: &OwnedFd) -> io::Result<()> {
    let empty = c"".as_ptr();
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the path is a constant.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, link.as_raw_fd(), empty, flags) };
    let tree = libc::c_int::try_from(tree).map_err(io::Error::other)?;
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (tree, link) = (tree.as_raw_fd(), link.as_raw_fd());
    // SAFETY: both paths are constants, and both descriptors are open during the call.
    answer(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, link, empty, flags) })
}

/// The kernel's `struct landlock_ruleset_attr` as of ABI 6 (Linux 6.12).
#[repr(C)]
struct LandlockRuleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Confines abstract unix sockets (landlock(7), LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET) to this
/// process and its descendants.
pub(crate) fn scope_abstract_sockets() -> io::Result<()> {
    let ruleset = LandlockRuleset { handled_access_fs: 0, handled_access_net: 0, scoped: 1 };
    // SAFETY: the pointer is valid during the call, and the size is that of its target.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<LandlockRuleset>(),
            0 as libc::c_uint,
        )
    };
    answer(descriptor)?;
    // SAFETY: the kernel has just created it; nobody else knows its number.
    let ruleset = unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) };
    // SAFETY: takes numbers only.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0 as libc::c_uint)
    };
    answer(result)
}

/// Sets the supplementary groups of the calling thread alone; setgroups(3) sets those of every
/// thread.
pub(crate) fn set_groups_of_thread(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` numbers of the slice, which outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Duplicates `from` onto a standard descriptor (0, 1 or 2), inheritable.
pub(crate) fn duplicate_onto(from: BorrowedFd<'_>, standard: libc::c_int) -> io::Result<()> {
    match standard {
        libc::STDIN_FILENO => nix::unistd::dup2_stdin(from)?,
        libc::STDOUT_FILENO => nix::unistd::dup2_stdout(from)?,
        _ => nix::unistd::dup2_stderr(from)?,
    }
    Ok(())
}

fn answer(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
