//! The system-call filter of the sandbox (seccomp(2)): what the kernel's cgroup hooks do not see.
//!
//! A second line of defence: it allows everything but a few system calls. Socket families are an
//! allow-list (attack K1), io_uring is hidden because it creates sockets without system calls (K6),
//! and nothing remains that creates or enters namespaces, mounts, loads programs into the kernel or
//! takes another process's descriptors.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompCmpOp, SeccompRule};

use super::SandboxError;

mod nesting;
mod rules;
mod set_id;

pub(crate) use rules::argument;
use rules::{build, unconditional};

/// Permitted socket families: unix(7), ip(7), ipv6(7), and rtnetlink of netlink(7).
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Permitted Internet protocols: the default of the socket type, TCP and UDP. Not ICMP, SCTP,
/// UDP-Lite, SMC, MPTCP.
const PROTOCOLS: [i32; 3] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
/// The obsolete type that makes an Internet socket a packet socket (socket(2)); libc deprecates it.
const SOCK_PACKET: i32 = 10;
/// A socket's type without its flags (`SOCK_TYPE_MASK` in the kernel).
const SOCKET_TYPE_MASK: u64 = 0xf;

/// Fail with ENOSYS, so that programs fall back: from io_uring to ordinary calls, from clone3
/// (whose flags are in memory, where no filter can read them) to clone.
pub(crate) const ABSENT: [i64; 4] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_clone3,
];

/// Fail with EPERM whatever the arguments.
const REFUSED: [i64; 29] = [
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
    // Namespaces.
    libc::SYS_setns,
    // Programs in the kernel, and the kernel itself.
    libc::SYS_bpf,
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
    // The host's clock.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    // The keyrings of host sessions, which no namespace separates.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Another process's memory and descriptors.
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
];

/// CLONE_NEWTIME (clone3(2), unshare(2)); libc does not define it as a `c_int`. clone(2) uses these
/// bits for the exit signal.
const CLONE_NEWTIME: u64 = 0x80;
pub(crate) const NEW_NAMESPACES: [u64; 7] = [
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
];

/// The options of a sandbox's filter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FilterOptions {
    /// Whether it is root's sandbox, whose files must not run as their owner for anybody outside.
    pub(crate) root: bool,
    /// Whether processes inside may create user namespaces and what belongs to them.
    pub(crate) nesting: bool,
}

/// Applies the filter to the calling thread and its descendants, irrevocably. Sets no_new_privs.
pub(crate) fn apply(options: FilterOptions) -> Result<(), SandboxError> {
    let mut programs = programs(options.nesting).map_err(SandboxError::Refused)?;
    if options.root {
        programs.extend(set_id::programs().map_err(SandboxError::Refused)?);
    }
    for program in programs {
        seccompiler::apply_filter(&program).map_err(|error| SandboxError::Missing {
            what: format!("seccomp refused the sandbox's filter: {error}"),
            remedy: "use a kernel with CONFIG_SECCOMP_FILTER".into(),
        })?;
    }
    Ok(())
}

/// One program per errno, since a program has one action. The last one installed runs first.
fn programs(nesting: bool) -> Result<Vec<BpfProgram>, String> {
    let rules = || -> Result<_, seccompiler::BackendError> {
        let mut refused = unconditional(&REFUSED);
        refused.extend(architecture_specific().iter().map(|call| (*call, Vec::new())));
        let mut unshare = vec![has_bit(CLONE_NEWTIME)?];
        if !nesting {
            refused.extend(unconditional(&[&nesting::MOUNTS[..], &nesting::NEWER_MOUNTS].concat()));
            let flags = NEW_NAMESPACES.iter().map(|flag| has_bit(*flag));
            let namespaces = flags.collect::<Result<Vec<_>, _>>()?;
            refused.insert(libc::SYS_clone, namespaces.clone());
            unshare.extend(namespaces);
        }
        refused.insert(libc::SYS_unshare, unshare);
        // Injecting terminal input as if the user had typed it (attack P4).
        refused.insert(
            libc::SYS_ioctl,
            vec![equals(1, libc::TIOCSTI)?, equals(1, libc::TIOCLINUX as _)?],
        );

        let mut families = BTreeMap::new();
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            let other = FAMILIES
                .iter()
                .map(|family| argument(0, SeccompCmpOp::Ne, *family as u64))
                .collect::<Result<Vec<_>, _>>()?;
            let netlink = vec![
                argument(0, SeccompCmpOp::Eq, libc::AF_NETLINK as u64)?,
                argument(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE as u64)?,
            ];
            families.insert(call, vec![SeccompRule::new(other)?, SeccompRule::new(netlink)?]);
        }
        // `socket(AF_INET, SOCK_PACKET)` is the old way to create a packet socket.
        let packet = argument(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE_MASK), SOCK_PACKET as u64)?;
        families.entry(libc::SYS_socket).or_default().push(SeccompRule::new(vec![packet])?);

        let mut protocols = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut other = vec![argument(0, SeccompCmpOp::Eq, family as u64)?];
            for protocol in PROTOCOLS {
                other.push(argument(2, SeccompCmpOp::Ne, protocol as u64)?);
            }
            protocols.push(SeccompRule::new(other)?);
        }
        Ok((refused, families, BTreeMap::from([(libc::SYS_socket, protocols)])))
    };
    let (refused, families, protocols) = rules().map_err(|error| error.to_string())?;
    let mut absent = unconditional(&ABSENT);
    if nesting {
        absent.extend(unconditional(&nesting::NEWER_MOUNTS));
    }
    let mut programs = vec![
        build(libc::EPERM, refused)?,
        build(libc::EPROTONOSUPPORT, protocols)?,
        build(libc::EACCES, families)?,
        build(libc::ENOSYS, absent)?,
    ];
    programs.extend(foreign_numbers());
    Ok(programs)
}

fn equals(index: u8, value: libc::c_ulong) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![argument(index, SeccompCmpOp::Eq, value)?])
}

pub(crate) fn has_bit(bit: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![argument(0, SeccompCmpOp::MaskedEq(bit), bit)?])
}

#[cfg(target_arch = "x86_64")]
fn architecture_specific() -> &'static [i64] {
    &[
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
        libc::SYS_uselib,
        libc::SYS_nfsservctl,
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn architecture_specific() -> &'static [i64] {
    &[]
}

/// x32 shares x86_64's architecture and sets bit 30 of the number: without this, each call above
/// would have a second number that no rule names.
#[cfg(target_arch = "x86_64")]
pub(crate) fn foreign_numbers() -> Option<BpfProgram> {
    use seccompiler::sock_filter;

    const X32_BIT: u32 = 0x4000_0000;
    const OFFSET_OF_NUMBER: u32 = 0;
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    Some(vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, OFFSET_OF_NUMBER),
        sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: X32_BIT,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn foreign_numbers() -> Option<BpfProgram> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Runs `probe` in a thread under the filter.
    fn confined<T: Send + 'static>(probe: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(|| {
            apply(FilterOptions::default()).unwrap();
            probe()
        })
        .join()
        .unwrap()
    }

    fn errno(result: io::Result<impl Sized>) -> i32 {
        result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
    }

    fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<socket2::Socket> {
        socket2::Socket::new_raw(family.into(), kind.into(), Some(protocol.into()))
    }

    #[test]
    fn k1_only_the_families_on_the_list_make_sockets() {
        let opened = confined(|| {
            let mut opened = Vec::new();
            for family in 0..64 {
                for kind in 1..=10 {
                    for protocol in [0, 1, 6, 17, 33, 58, 132, 136, 255, 256, 262] {
                        if socket(family, kind, protocol).is_ok() {
                            opened.push((family, kind, protocol));
                        }
                    }
                }
            }
            opened
        });
        assert!(!opened.is_empty());
        for (family, kind, protocol) in opened {
            let fine = match family {
                libc::AF_UNIX => true,
                // Raw sockets are refused by missing capabilities, which this thread still has.
                libc::AF_INET | libc::AF_INET6 => {
                    kind == libc::SOCK_RAW || [0, 6, 17].contains(&protocol)
                }
                libc::AF_NETLINK => protocol == libc::NETLINK_ROUTE,
                _ => false,
            };
            assert!(fine, "family {family}, type {kind}, protocol {protocol}");
        }
    }

    #[test]
    fn a_family_off_the_list_is_refused_also_with_flags_and_with_a_dirty_register() {
        confined(|| {
            assert_eq!(
                errno(socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)),
                libc::EACCES
            );
            assert_eq!(errno(socket(libc::AF_PACKET, libc::SOCK_RAW, 0)), libc::EACCES);
            assert_eq!(errno(socket(libc::AF_INET, SOCK_PACKET, 0)), libc::EACCES);
            assert_eq!(
                errno(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT)),
                libc::EACCES
            );
            assert_eq!(errno(socket(libc::AF_INET, libc::SOCK_STREAM, 262)), libc::EPROTONOSUPPORT);
            socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
            socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).unwrap();
        });
    }

    #[test]
    fn namespaces_cannot_be_made_and_threads_and_children_can() {
        use nix::sched::{CloneFlags, unshare};
        confined(|| {
            for flag in
                CloneFlags::all().iter().filter(|flag| flag.bits() as u64 & 0x7e02_0000 != 0)
            {
                assert_eq!(unshare(flag), Err(nix::errno::Errno::EPERM), "{flag:?}");
            }
            unshare(CloneFlags::CLONE_FS).unwrap();
            let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
            assert_eq!(
                nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET),
                Err(nix::errno::Errno::EPERM)
            );
            assert!(std::thread::spawn(|| true).join().unwrap());
            assert!(std::process::Command::new("true").status().unwrap().success());
            let status =
                std::process::Command::new("unshare").args(["--user", "true"]).output().unwrap();
            assert!(
                String::from_utf8_lossy(&status.stderr).contains("Operation not permitted"),
                "{status:?}"
            );
        });
    }

    #[test]
    fn p4_nothing_is_typed_into_a_terminal() {
        let ends = nix::pty::openpty(None, None).unwrap();
        let (typed, linux) =
            confined(move || (ioctl::type_character(&ends.slave), ioctl::linux(&ends.slave)));
        assert_eq!((typed, linux), (libc::EPERM, libc::EPERM));
    }

    /// The two requests, made by a separate program: ioctl is not a safe call.
    mod ioctl {
        use std::os::fd::OwnedFd;
        use std::process::{Command, Stdio};

        fn request(terminal: &OwnedFd, number: u64) -> i32 {
            let program = format!(
                "import fcntl\ntry:\n fcntl.ioctl(0, {number}, b'x')\n print(0)\nexcept OSError \
                 as e:\n print(e.errno)"
            );
            let input = Stdio::from(terminal.try_clone().unwrap());
            let output =
                Command::new("python3").args(["-c", &program]).stdin(input).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
        }

        pub(super) fn type_character(terminal: &OwnedFd) -> i32 {
            request(terminal, libc::TIOCSTI)
        }

        pub(super) fn linux(terminal: &OwnedFd) -> i32 {
            request(terminal, libc::TIOCLINUX)
        }
    }

    #[test]
    fn k6_io_uring_is_absent_and_the_kernel_takes_no_programs() {
        let program = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor n in \
                       NUMBERS:\n r = libc.syscall(n, 0, 0, 0, 0, 0, 0)\n \
                       print(ctypes.get_errno() if r < 0 else 0)";
        let refused = [&REFUSED[..], &nesting::MOUNTS, &nesting::NEWER_MOUNTS].concat();
        let numbers =
            [ABSENT.to_vec(), refused.clone(), vec![libc::SYS_getpid + 0x4000_0000]].concat();
        let program = program.replace("NUMBERS", &format!("{numbers:?}"));
        let output = confined(move || {
            std::process::Command::new("python3").args(["-c", &program]).output().unwrap()
        });
        let answers: Vec<i32> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        let expected = [
            vec![libc::ENOSYS; ABSENT.len()],
            vec![libc::EPERM; refused.len()],
            vec![libc::ENOSYS],
        ]
        .concat();
        assert_eq!(answers, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
