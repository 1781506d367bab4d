//! The daemon's system call filter (seccomp(2)). It allows everything except what a proxy never
//! does and an exploit would.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

use crate::sandbox::SandboxError;
use crate::sandbox::seccomp::{ABSENT, NEW_NAMESPACES, argument, foreign_numbers, has_bit};

/// Fail with EPERM whatever the arguments.
const REFUSED: [i64; 46] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
    // Executing programs that have no file.
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // The kernel itself.
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_userfaultfd,
    libc::SYS_lookup_dcookie,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_personality,
    // The host's clock and names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // The keyrings of host sessions.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

/// Socket families the daemon and its helpers use; netlink(7) in full, because the resolver needs
/// it.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Applies the filter to the calling thread and its descendants, irrevocably.
pub(super) fn apply() -> Result<(), SandboxError> {
    for program in programs().map_err(SandboxError::Refused)? {
        seccompiler::apply_filter(&program).map_err(|error| SandboxError::Missing {
            what: format!("seccomp refused the daemon's filter: {error}"),
            remedy: "use a kernel with CONFIG_SECCOMP_FILTER".into(),
        })?;
    }
    Ok(())
}

fn programs() -> Result<Vec<BpfProgram>, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let build = |errno: i32,
                 rules: BTreeMap<i64, Vec<SeccompRule>>|
     -> Result<BpfProgram, String> {
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
            .and_then(BpfProgram::try_from)
            .map_err(|error| error.to_string())
    };
    let unconditional =
        |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>();
    let refused = || -> Result<_, seccompiler::BackendError> {
        let mut refused = unconditional(&REFUSED);
        let namespaces =
            NEW_NAMESPACES.iter().map(|flag| has_bit(*flag)).collect::<Result<Vec<_>, _>>()?;
        refused.insert(libc::SYS_clone, namespaces.clone());
        refused.insert(libc::SYS_unshare, namespaces);
        let other = FAMILIES
            .iter()
            .map(|family| argument(0, seccompiler::SeccompCmpOp::Ne, *family as u64))
            .collect::<Result<Vec<_>, _>>()?;
        refused.insert(libc::SYS_socket, vec![SeccompRule::new(other)?]);
        Ok(refused)
    };
    let refused = refused().map_err(|error| error.to_string())?;
    let mut programs =
        vec![build(libc::EPERM, refused)?, build(libc::ENOSYS, unconditional(&ABSENT))?];
    programs.extend(foreign_numbers());
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_never_does_is_refused_and_what_it_does_is_not() {
        let numbers = [ABSENT.to_vec(), REFUSED.to_vec()].concat();
        let program = format!(
            "import ctypes, socket, subprocess, threading\nlibc = ctypes.CDLL(None, \
             use_errno=True)\nfor n in {numbers:?}:\n r = libc.syscall(n, 0, 0, 0, 0, 0, 0)\n \
             print(ctypes.get_errno() if r < 0 else 0)\nprint(libc.unshare(0x40000000), \
             libc.unshare(0x10000000))\ntry: socket.socket(socket.AF_PACKET, \
             socket.SOCK_RAW)\nexcept PermissionError: print('no packets')\nsocket.socket(); \
             socket.socket(socket.AF_UNIX); socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nt \
             = threading.Thread(target=print, args=('a thread',)); t.start(); \
             t.join()\nprint(subprocess.call('true'))"
        );
        let output = std::thread::spawn(move || {
            apply().unwrap();
            std::process::Command::new("python3").args(["-c", &program]).output().unwrap()
        })
        .join()
        .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut expected = vec![libc::ENOSYS.to_string(); ABSENT.len()];
        expected.extend(vec![libc::EPERM.to_string(); REFUSED.len()]);
        expected.extend(["-1 -1", "no packets", "a thread", "0"].map(str::to_owned));
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            expected,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
