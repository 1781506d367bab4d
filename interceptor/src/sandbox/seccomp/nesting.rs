//! What a nested sandbox needs: mounts and names in its own namespaces. Refused without
//! `--nesting`.
//!
//! With it, the kernel's rules for user namespaces replace this part of the filter: a less
//! privileged mount namespace has its parent's mounts locked, so no cover comes off; a new network
//! namespace has only its own `lo`; and no capability affects objects of another user namespace.
//! The rest of the filter, the cgroup and its programs apply inside as well.
//! inside as outside.

/// Mounts, roots and names of the host.
pub(super) const MOUNTS: [i64; 6] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Their descriptor-based variants. With nesting they fail with ENOSYS rather than EPERM: programs
/// then use mount(2), and less of the kernel is exposed.
pub(super) const NEWER_MOUNTS: [i64; 8] = [
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
];

/// Not named by libc yet: open_tree_attr(2), Linux 6.15, with one number on all architectures.
const OPEN_TREE_ATTR: i64 = 467;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::{FilterOptions, apply};

    #[test]
    fn k25_with_nesting_namespaces_are_made_and_the_rest_is_refused_as_ever() {
        let program = r#"
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print(name, 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()])
call('newuser', 97 if arm else 272, 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000)
call('mount', 40 if arm else 165, b'none', b'/tmp', b'tmpfs', 0, None)
call('newtime', 97 if arm else 272, 0x80)
call('setns', 268 if arm else 308, 0, 0)
call('fsopen', 430, b'tmpfs', 0)
call('clone3', 435, None, 0)
call('io_uring_setup', 425, 8, None)
call('bpf', 280 if arm else 321, 0, None, 0)
call('keyctl', 219 if arm else 250, 0, 0)
call('open_by_handle_at', 265 if arm else 304, 0, None, 0)
for family in (17, 40, 38):
    try: socket.socket(family, socket.SOCK_RAW); print(family, 'made')
    except OSError as e: print(family, errno.errorcode[e.errno])
"#;
        let output = std::thread::spawn(move || {
            apply(FilterOptions { root: false, nesting: true }).unwrap();
            Command::new("/usr/bin/python3").args(["-c", program]).output().unwrap()
        });
        let output = output.join().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let expected = "newuser ok\nmount ok\nnewtime EPERM\nsetns EPERM\nfsopen ENOSYS\nclone3 \
                        ENOSYS\nio_uring_setup ENOSYS\nbpf EPERM\nkeyctl EPERM\nopen_by_handle_at \
                        EPERM\n17 EACCES\n40 EACCES\n38 EACCES\n";
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
