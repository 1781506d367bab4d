//! The `bpf(2)` commands that aya does not wrap: listing a cgroup's programs, and detaching a link
//! immediately (`include/uapi/linux/bpf.h`).
#![expect(unsafe_code, reason = "a system call that no safe crate wraps")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `BPF_CGROUP_INET4_CONNECT` of `enum bpf_attach_type`.
pub(super) const INET4_CONNECT: u32 = 10;
/// `BPF_F_QUERY_EFFECTIVE`.
const EFFECTIVE: u32 = 1;
/// `BPF_PROG_QUERY` of `enum bpf_cmd`.
const PROG_QUERY: libc::c_long = 16;
/// `BPF_LINK_GET_FD_BY_ID`.
const LINK_GET_FD_BY_ID: libc::c_long = 30;
/// `BPF_LINK_DETACH`.
const LINK_DETACH: libc::c_long = 34;
/// The most programs of one kind on a cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// The fields of `union bpf_attr` that BPF_PROG_QUERY uses.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The ids of the programs at a hook (`enum bpf_attach_type`): only those attached to the cgroup,
/// or with `inherited` also those from above.
pub(super) fn programs(cgroup: BorrowedFd<'_>, hook: u32, inherited: bool) -> io::Result<Vec<u32>> {
    // An effective list may hold the programs of every level.
    let mut ids = vec![0_u32; MAX_PROGRAMS * 16];
    let found = query(cgroup, hook, inherited, &mut ids)?;
    ids.truncate(found);
    Ok(ids)
}

/// Whether a program is attached directly to a cgroup at a hook.
pub(super) fn has_program(cgroup: BorrowedFd<'_>, hook: u32, program: u32) -> io::Result<bool> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let found = query(cgroup, hook, false, &mut ids)?;
    Ok(ids.iter().take(found).any(|id| *id == program))
}

/// Queries the programs at a hook of a cgroup; returns their number.
fn query(cgroup: BorrowedFd<'_>, hook: u32, inherited: bool, ids: &mut [u32]) -> io::Result<usize> {
    let mut query = Query {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: hook,
        query_flags: if inherited { EFFECTIVE } else { 0 },
        attach_flags: 0,
        program_ids: ids.as_mut_ptr().expose_provenance() as u64,
        program_count: ids.len() as u32,
        padding: 0,
        program_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `query` is this command's attribute. Its pointers are null or point to `ids`, whose
    // length it gives; both outlive the call.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>() as libc::c_uint)
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(query.program_count as usize)
}

/// Detaches a link even if others hold it: a forked child has all descriptors of this process until
/// it executes, and a pin holds the link too (Linux 5.9).
pub(super) fn detach_link(id: u32) -> io::Result<()> {
    let link = bpf(LINK_GET_FD_BY_ID, [id, 0, 0, 0])?;
    // SAFETY: the kernel has just created this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    bpf(LINK_DETACH, [link.as_raw_fd().cast_unsigned(), 0, 0, 0]).map(drop)
}

/// Waits until every program running now has ended (milliseconds). Programs run in RCU read-side
/// critical sections, which `MEMBARRIER_CMD_GLOBAL` waits for (membarrier(2)). A kernel without it,
/// or with tick-free processors, refuses it. Then for a moment some addresses may reach the proxy,
/// which enforces the same policy.
pub(super) fn wait_for_programs() {
    const GLOBAL: libc::c_long = 1;
    // SAFETY: the command takes no pointer.
    let _ = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
}

/// Runs a command whose attribute is a few numbers.
fn bpf(command: libc::c_long, attribute: [u32; 4]) -> io::Result<i32> {
    // SAFETY: these commands' attributes hold no pointer; the kernel reads the given number of
    // bytes.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const attribute,
            size_of_val(&attribute) as libc::c_uint,
        )
    };
    i32::try_from(outcome).ok().filter(|outcome| *outcome >= 0).ok_or_else(io::Error::last_os_error)
}

/// `connect(2)` with an arbitrary address given as bytes.
#[cfg(test)]
pub(super) fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel copies `address.len()` bytes from `address`.
    let outcome = unsafe {
        libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t)
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `sendto(2)` of one byte, with flags and an address given as bytes.
#[cfg(test)]
pub(super) fn send_to(
    socket: BorrowedFd<'_>,
    flags: libc::c_int,
    address: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel copies one byte of the payload and `address.len()` bytes from `address`.
    let outcome = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            [b'x'].as_ptr().cast(),
            1,
            flags,
            address.as_ptr().cast(),
            address.len() as libc::socklen_t,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `socket(2)` of any family, type and protocol.
#[cfg(test)]
pub(super) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Lets a listener accept data with the SYN (`TCP_FASTOPEN`, tcp(7)).
#[cfg(test)]
pub(super) fn set_fast_open(listener: BorrowedFd<'_>) -> io::Result<()> {
    let queue: libc::c_int = 16;
    // SAFETY: the kernel copies one integer.
    let outcome = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
