//! Errors between this process and the kernel, each with its remedy.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use super::hooks::{Hook, MINIMUM_KERNEL};
use crate::words;

/// Why enforcement cannot be loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process may not load eBPF programs.
    #[error(
        "this process may not {action}: run as root, or with CAP_BPF, CAP_NET_ADMIN and \
         CAP_SYS_ADMIN in the initial user namespace; a container must be granted them, and its \
         seccomp filter must pass bpf(2)"
    )]
    Privilege {
        /// What was refused.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks the system call.
    #[error(
        "this kernel has no bpf(2): it needs CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and \
         CONFIG_INET, as distribution kernels have"
    )]
    NoBpf {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// One program did not load.
    #[error(
        "the hook {hook} does not load on this kernel ({kernel}): it needs Linux {minimum} or \
         later, and interceptor needs {MINIMUM_KERNEL}; there is no weaker mode"
    )]
    Hook {
        /// The hook's name.
        hook: &'static str,
        /// The release of the running kernel.
        kernel: String,
        /// The first kernel that supports this program.
        minimum: &'static str,
        /// What the verifier said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel rejected the object's maps or type information.
    #[error(
        "this kernel ({kernel}) rejects a map or the programs' type information: interceptor \
         needs Linux {MINIMUM_KERNEL} or later"
    )]
    Object {
        /// The release of the running kernel.
        kernel: String,
        /// What aya said.
        #[source]
        source: Box<EbpfError>,
    },
    /// The embedded object lacks a part: the build is broken, not the host.
    #[error("the embedded eBPF object has no `{part}`: rebuild it with `cargo xtask ebpf`")]
    Incomplete {
        /// The map or program.
        part: &'static str,
    },
    /// The directory is not a cgroup v2.
    #[error(
        "the cgroup is not on a cgroup v2 mount; mount one with `mount -t cgroup2 none \
         /sys/fs/cgroup/unified` (or boot with systemd.unified_cgroup_hierarchy=1) and use a \
         directory below it"
    )]
    NotCgroup2,
    /// The id does not match the directory.
    #[error("the cgroup's id is {actual}, not {given}")]
    WrongCgroup {
        /// The inode number of the directory.
        actual: u64,
        /// What was given.
        given: u64,
    },
    /// An interceptor already enforces a policy on a cgroup above or below.
    #[error(
        "an interceptor already enforces a policy on {place}, and a cgroup with all cgroups below \
         it can have only one: remove that sandbox (`interceptor ctl sandboxes delete ID`), stop \
         its `interceptor attach`, replace its daemon with `interceptor serve --takeover`, or use \
         another cgroup"
    )]
    AlreadyEnforced {
        /// The cgroup, relative to the given one.
        place: String,
    },
    /// The kernel refuses to attach a hook to the cgroup.
    #[error("the hook {hook} cannot be attached to the cgroup")]
    Attach {
        /// The hook's name.
        hook: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// All sandbox slots of the maps are taken.
    #[error(
        "this process already enforces {}, the most its maps hold",
        words::count(*sandboxes, "sandbox")
    )]
    Full {
        /// How many.
        sandboxes: u32,
    },
    /// A map operation failed.
    #[error("the map {map} cannot be {action}")]
    Map {
        /// The map.
        map: &'static str,
        /// The attempted operation.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// The kernel cannot list sockets, because the module is missing.
    #[error(
        "this kernel cannot list sockets: it has no {module} loaded; load the modules: modprobe \
         inet_diag; modprobe tcp_diag; modprobe udp_diag"
    )]
    NoDiag {
        /// The module.
        module: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot close another process's sockets.
    #[error(
        "this kernel cannot close other processes' sockets, because it lacks \
         CONFIG_INET_DIAG_DESTROY; restart the processes after attaching instead"
    )]
    NoDestroy {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Processes opened sockets as fast as they were closed.
    #[error(
        "{} from before the attach could not be closed; stop the processes that keep opening \
         them, or restart them after attaching",
        words::count(*left as u64, "socket")
    )]
    Undestroyed {
        /// How many.
        left: usize,
    },
    /// A file or socket operation failed.
    #[error("cannot {action}")]
    Io {
        /// The attempted action.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl KernelError {
    /// Wraps a failure to load a program.
    pub(super) fn hook(hook: &Hook, source: ProgramError) -> Self {
        match &source {
            ProgramError::LoadError { io_error, .. } if refused(io_error) => {
                Self::Privilege { action: "load eBPF programs", source: copy(io_error) }
            }
            _ => Self::Hook {
                hook: hook.name,
                kernel: release(),
                minimum: hook.minimum,
                source: Box::new(source),
            },
        }
    }

    /// Wraps a failure to load the object.
    pub(super) fn object(source: EbpfError) -> Self {
        let io_error = match &source {
            EbpfError::MapError(MapError::CreateError { io_error, .. }) => Some(io_error),
            EbpfError::MapError(MapError::SyscallError(error)) => Some(&error.io_error),
            EbpfError::ProgramError(ProgramError::SyscallError(error)) => Some(&error.io_error),
            _ => None,
        };
        match io_error {
            Some(error) if refused(error) => {
                Self::Privilege { action: "create eBPF maps", source: copy(error) }
            }
            Some(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                Self::NoBpf { source: copy(error) }
            }
            _ => Self::Object { kernel: release(), source: Box::new(source) },
        }
    }

    /// Wraps a failure to attach a program.
    pub(super) fn attach(hook: &Hook, source: ProgramError) -> Self {
        match &source {
            ProgramError::SyscallError(error) if refused(&error.io_error) => Self::Privilege {
                action: "attach eBPF programs to a cgroup",
                source: copy(&error.io_error),
            },
            _ => Self::Attach { hook: hook.name, source: Box::new(source) },
        }
    }
}

/// Whether the error means missing privilege. (EACCES is the verifier rejecting a program.)
pub(super) fn refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// Copies an error, for use in another variant.
fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// The release of the running kernel.
fn release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |error| format!("unknown: {error}"),
        |uname| uname.release().to_string_lossy().into_owned(),
    )
}
