//! Checks for the kernel half: cgroup v2, every hook, pinning, closing sockets.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::check::Check;
use crate::kernel::{self, KernelError};
use crate::notice;
use crate::sandbox::cgroup;

/// The cgroup v2 mount, and every hook on a temporary cgroup.
pub(super) fn cgroup_and_hooks() -> Vec<Check> {
    const NAME: &str = "cgroup v2";
    // The mount that `run` and `attach` use, which need not be the first.
    let Ok(mount) = cgroup::mount_point() else {
        return vec![Check::failed(
            NAME,
            true,
            "not mounted",
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified, or \
             boot with systemd.unified_cgroup_hierarchy=1",
        )];
    };
    match ScratchCgroup::make(&mount) {
        Ok(scratch) => {
            let mut checks = vec![Check::passed(
                NAME,
                true,
                format!("{}, and cgroups can be created there", mount.display()),
            )];
            checks.extend(hooks(&scratch));
            checks
        }
        Err(error) => {
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => "run as root: sudo interceptor …",
                Some(libc::EROFS) => "mount the cgroup file system writable: mount -o remount,rw",
                Some(libc::EAGAIN) => "raise cgroup.max.descendants or cgroup.max.depth there",
                _ => "no remedy is known; see the error above",
            };
            let detail = format!("cannot create a cgroup below {}: {error}", mount.display());
            vec![Check::failed(NAME, true, detail, remedy)]
        }
    }
}

/// Every hook, or why none could be tested.
fn hooks(scratch: &ScratchCgroup) -> Vec<Check> {
    let directory = match File::open(&scratch.0) {
        Ok(directory) => directory,
        Err(error) => {
            let detail = format!("cannot open {}: {error}", scratch.0.display());
            return vec![Check::failed("hooks", true, detail, "run as root: sudo interceptor …")];
        }
    };
    match kernel::probe(directory) {
        Ok(hooks) => hooks
            .into_iter()
            .map(|kernel::Probe { hook, outcome }| {
                let name = format!("hook {}", hook.name);
                match outcome {
                    Ok(()) => Check::passed(
                        name,
                        true,
                        format!("loaded and attached (Linux {}: {})", hook.minimum, hook.reason),
                    ),
                    Err(error) => Check::failed(name, true, with_causes(&error), remedy(&error)),
                }
            })
            .collect(),
        Err(error) => vec![Check::failed("hooks", true, with_causes(&error), remedy(&error))],
    }
}

/// The bpffs mount that holds pinned links, so that enforcement in a shared namespace outlives the
/// interceptor.
pub(super) fn bpffs() -> Check {
    const NAME: &str = "bpffs";
    match mounted("bpf") {
        Some(mount) => Check::passed(NAME, false, mount.display().to_string()),
        None => Check::failed(
            NAME,
            false,
            "not mounted; needed for --net host and attach",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

/// Kernel BTF: reported because users ask; the programs do not need it.
pub(super) fn btf() -> Check {
    const NAME: &str = "kernel BTF";
    let present = Path::new("/sys/kernel/btf/vmlinux").exists();
    Check::passed(NAME, false, if present { "present" } else { "absent, and not needed" })
}

/// Whether the kernel can close other processes' sockets (`attach --kill-existing`); tested on our
/// own.
pub(super) fn closing_sockets() -> Check {
    const NAME: &str = "closing sockets";
    match kernel::try_closing() {
        Ok(()) => Check::passed(
            NAME,
            false,
            "attach --kill-existing can close connections that existed before",
        ),
        Err(error) => Check::failed(NAME, false, with_causes(&error), remedy(&error)),
    }
}

/// The remedy for a kernel error: privileges for this process, or a feature of the kernel.
pub(super) fn remedy(error: &KernelError) -> &'static str {
    match error {
        KernelError::Privilege { .. } => {
            "run as root: sudo interceptor …; in a container, grant the capabilities (--cap-add), \
             and let its seccomp filter pass bpf(2)"
        }
        KernelError::NoDiag { .. } => {
            "load the modules: modprobe inet_diag; modprobe tcp_diag; modprobe udp_diag"
        }
        KernelError::NoDestroy { .. } => {
            "boot a kernel with CONFIG_INET_DIAG_DESTROY=y, or restart a cgroup's processes after \
             attaching"
        }
        KernelError::NotCgroup2 => "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup/unified",
        KernelError::Incomplete { .. } => "reinstall interceptor: this build is broken",
        KernelError::AlreadyEnforced { .. } => "stop the interceptor that enforces a policy there",
        _ => {
            "boot a kernel that has CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_INET, of the \
             version named or newer"
        }
    }
}

/// The mount point of a file system type.
pub(super) fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, found) = (fields.next()?, fields.next()?, fields.next()?);
        // Spaces appear as \040 (proc_pid_mounts(5), getmntent(3)).
        (found == kind).then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// An error and its sources in one line.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {}", error.to_string().trim_end().replace('\n', " "));
        cause = error.source();
    }
    text
}

/// A temporary cgroup, removed on drop.
struct ScratchCgroup(PathBuf);

impl ScratchCgroup {
    fn make(mount: &Path) -> io::Result<Self> {
        let path = mount.join(format!("interceptor-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for ScratchCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            notice::warning(format_args!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o6_what_is_missing_is_named_with_its_remedy() {
        // A directory that is no cgroup: every hook depends on it.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scratch");
        fs::create_dir(&path).unwrap();
        let checks = hooks(&ScratchCgroup(path));
        assert!(checks.iter().all(|check| !check.ok && check.required && check.remedy.is_some()));
        assert!(checks[0].detail.contains("not on a cgroup v2 mount"), "{}", checks[0].detail);
    }

    #[test]
    fn the_remedy_tells_what_the_process_lacks_from_what_the_kernel_lacks() {
        let source = || io::Error::from_raw_os_error(libc::ENOENT);
        let table = [
            (KernelError::Privilege { action: "x", source: source() }, "run as root"),
            (KernelError::NoDiag { module: "udp_diag", source: source() }, "modprobe inet_diag"),
            (KernelError::NoDestroy { source: source() }, "CONFIG_INET_DIAG_DESTROY"),
            (KernelError::NoBpf { source: source() }, "CONFIG_BPF_SYSCALL"),
        ];
        for (error, text) in table {
            let found = remedy(&error);
            assert!(found.contains(text), "{found}");
            assert_eq!(found.contains("CONFIG_"), text.contains("CONFIG_"), "{found}");
        }
    }
}
