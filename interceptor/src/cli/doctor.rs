//! `interceptor doctor`: says what this host can and cannot do, each with its remedy.
//!
//! What can be tried is tried (every hook is loaded and attached to a cgroup made for it), not concluded from a version. The exit status is
//! 1 when something is missing without which `interceptor run` cannot work.

mod engines;

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use caps::{CapSet, Capability};
use serde::Serialize;

use crate::kernel::{self, KernelError, MINIMUM_KERNEL};
use crate::notice;
use crate::privilege;
use crate::sandbox::user::user_namespaces as user_namespaces_of_users;
use crate::words;

/// The arguments of `interceptor doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Print one JSON object: {"ok": …, "checks": [{"name", "ok", "required", "detail", "remedy"}, …]}.
    #[arg(long)]
    json: bool,
}

/// What was looked at, and what was seen.
#[derive(Debug, Serialize)]
struct Check {
    /// What was looked at.
    name: String,
    /// Whether it is as it should be.
    ok: bool,
    /// Whether `interceptor run` cannot work without it.
    required: bool,
    /// What was seen.
    detail: String,
    /// What to do, where something is amiss.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn passed(name: impl Into<String>, required: bool, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok: true, required, detail: detail.into(), remedy: None }
    }

    fn failed(name: impl Into<String>, required: bool, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            name: name.into(),
            ok: false,
            required,
            detail: detail.into(),
            remedy: Some(remedy.to_owned()),
        }
    }
}

/// The outcome of all checks.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether `interceptor run` can work.
    ok: bool,
    /// Every check, in the order in which they were made.
    checks: Vec<Check>,
}

/// Runs the command.
pub fn run(arguments: Doctor) -> anyhow::Result<ExitCode> {
    let report = examine();
    let mut text = if arguments.json { serde_json::to_string_pretty(&report)? } else { describe(&report) };
    if arguments.json {
        text.push('\n');
    }
    super::verdict(io::Write::write_all(&mut io::stdout(), text.as_bytes()), u8::from(!report.ok))
}

/// Makes every check.
fn examine() -> Report {
    let mut checks = vec![kernel_version(), capabilities()];
    checks.extend(cgroup_and_hooks());
    checks.extend([
        bpffs(),
        btf(),
        seccomp(),
        least_privilege(),
        namespaces(),
        user_namespaces(),
        ipv6(),
        resolver(),
        upstream_trust(),
        closing_sockets(),
        other_families(),
    ]);
    checks.extend(engines::podman());
    Report { ok: checks.iter().all(|check| check.ok || !check.required), checks }
}

/// The report for people.
fn describe(report: &Report) -> String {
    let mut text = String::new();
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let mark = match (check.ok, check.required) {
            (true, _) => "ok  ",
            (false, true) => "FAIL",
            (false, false) => "warn",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark}  {:width$}  {}", check.name, check.detail);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "{:width$}        remedy: {remedy}", "");
        }
    }
    let failed = report.checks.iter().filter(|check| !check.ok && check.required).count();
    let _ = match failed {
        0 => writeln!(text, "\n`interceptor run` works on this host"),
        failed => writeln!(
            text,
            "\n`interceptor run` does not work on this host yet: {} must be fixed first",
            words::count(failed as u64, "problem")
        ),
    };
    text
}

/// The kernel's release. Not required: the hooks themselves are tried.
fn kernel_version() -> Check {
    const NAME: &str = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let number = |text: &str| {
        let mut parts =
            text.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    if number(release) >= number(MINIMUM_KERNEL) {
        Check::passed(NAME, false, format!("Linux {release}"))
    } else {
        Check::failed(
            NAME,
            false,
            format!("Linux {release} is older than {MINIMUM_KERNEL}"),
            "boot a newer kernel, unless every hook below loads: distributions backport features to older kernels",
        )
    }
}

/// What `interceptor run` does needs these.
fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    const NEEDED: [Capability; 7] = [
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_BPF,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        Capability::CAP_SETPCAP,
        Capability::CAP_MKNOD,
    ];
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|capability| !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false))
        .map(|capability| capability.to_string())
        .collect();
    if missing.is_empty() {
        Check::passed(NAME, true, NEEDED.map(|capability| capability.to_string()).join(", "))
    } else {
        Check::failed(
            NAME,
            true,
            format!("missing: {}", missing.join(", ")),
            "run as root: sudo interceptor …; in a container, grant them (--cap-add, or --privileged)",
        )
    }
}

/// The cgroup v2 mount, and every hook on a cgroup made there.
fn cgroup_and_hooks() -> Vec<Check> {
    const NAME: &str = "cgroup v2";
    let Some(mount) = mounted("cgroup2") else {
        return vec![Check::failed(
            NAME,
            true,
            "not mounted",
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with \
             systemd.unified_cgroup_hierarchy=1",
        )];
    };
    match Scratch::make(&mount) {
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
                _ => "the error above says why; no remedy is known for it",
            };
            let detail = format!("cannot create a cgroup below {}: {error}", mount.display());
            vec![Check::failed(NAME, true, detail, remedy)]
        }
    }
}

/// Every hook, or why none could be tried.
fn hooks(scratch: &Scratch) -> Vec<Check> {
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

/// The file system in which links are pinned, so that the death of the interceptor leaves the wall standing in a shared namespace.
fn bpffs() -> Check {
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

/// The kernel's type information. Said because people ask: the programs touch no structure that differs between kernels.
fn btf() -> Check {
    const NAME: &str = "kernel BTF";
    let present = Path::new("/sys/kernel/btf/vmlinux").exists();
    Check::passed(NAME, false, if present { "present" } else { "absent, and not needed" })
}

/// What `serve` may do once it runs.
fn least_privilege() -> Check {
    const NAME: &str = "least privilege";
    let keeps = privilege::Keeps;
    if privilege::files::available() {
        Check::passed(NAME, false, format!("serve {keeps}; Landlock restricts the files it opens"))
    } else {
        Check::failed(
            NAME,
            false,
            format!("serve {keeps}, and can open any file: this kernel has no Landlock, or it is off"),
            "boot a kernel with CONFIG_SECURITY_LANDLOCK=y, and with landlock in lsm=",
        )
    }
}

/// The filter on system calls that refuses the socket families without a hook.
fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        Check::passed(NAME, true, "filters are available")
    } else {
        Check::failed(
            NAME,
            true,
            "the kernel has no seccomp filters",
            "boot a kernel with CONFIG_SECCOMP_FILTER=y",
        )
    }
}

/// The namespaces a sandbox is made of.
fn namespaces() -> Check {
    const NAME: &str = "namespaces";
    let missing: Vec<_> = ["net", "mnt", "pid"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if missing.is_empty() {
        Check::passed(NAME, true, "network, mount and PID namespaces")
    } else {
        Check::failed(
            NAME,
            true,
            format!("the kernel lacks: {}", missing.join(", ")),
            "boot a kernel with CONFIG_NET_NS, CONFIG_NAMESPACES and CONFIG_PID_NS; mount /proc if it is not",
        )
    }
}

/// Whether sandboxed commands may make user namespaces; some (browsers, build tools) want to.
fn user_namespaces() -> Check {
    const NAME: &str = "user namespaces";
    match user_namespaces_of_users() {
        Err((why, remedy)) => Check::failed(
            NAME,
            false,
            format!("{why}; run --nesting needs them, and nothing else does"),
            remedy,
        ),
        Ok(most) => {
            Check::passed(NAME, false, format!("up to {most}; run --nesting lets commands make them"))
        }
    }
}

/// Whether there is IPv6 to intercept.
fn ipv6() -> Check {
    const NAME: &str = "IPv6";
    if Path::new("/proc/net/if_inet6").exists() {
        Check::passed(NAME, false, "present, and intercepted")
    } else {
        Check::passed(NAME, false, "absent; IPv4 is intercepted, and there is nothing else")
    }
}

/// The resolver the proxy asks for the addresses of permitted names.
fn resolver() -> Check {
    const NAME: &str = "resolver";
    const FILE: &str = "/etc/resolv.conf";
    const REMEDY: &str =
        "add a line `nameserver ADDRESS` to /etc/resolv.conf, or name every host with --resolve";
    match fs::read_to_string(FILE) {
        Ok(text) => {
            let servers: Vec<_> = text
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
                .filter_map(|rest| rest.split_whitespace().next())
                .collect();
            if servers.is_empty() {
                Check::failed(NAME, false, format!("{FILE} names no name server"), REMEDY)
            } else {
                Check::passed(NAME, false, servers.join(", "))
            }
        }
        Err(error) => Check::failed(NAME, false, format!("{FILE}: {error}"), REMEDY),
    }
}

/// The roots by which upstream servers are verified.
fn upstream_trust() -> Check {
    const NAME: &str = "upstream trust";
    const REMEDY: &str =
        "install the system's certificates (package ca-certificates), or pass yours with --upstream-ca";
    let roots = rustls_native_certs::load_native_certs();
    match (roots.certs.len(), roots.errors.first()) {
        (0, None) => Check::failed(NAME, false, "the system trusts no certificate authority", REMEDY),
        (0, Some(error)) => Check::failed(NAME, false, error.to_string(), REMEDY),
        (number, _) => Check::passed(NAME, false, words::count(number as u64, "certificate authority")),
    }
}

/// Whether the kernel closes sockets of others, for `attach --kill-existing`: tried on a socket of this process.
fn closing_sockets() -> Check {
    const NAME: &str = "closing sockets";
    match kernel::try_closing() {
        Ok(()) => {
            Check::passed(NAME, false, "attach --kill-existing can close connections that existed before")
        }
        Err(error) => Check::failed(NAME, false, with_causes(&error), remedy(&error)),
    }
}

/// Socket families that no hook of a cgroup sees. Said, since it differs between `run` and `attach`.
fn other_families() -> Check {
    Check::passed(
        "other families",
        false,
        "run refuses packet, vsock and other sockets with seccomp; attach cannot add a filter to running \
         processes: start them without CAP_NET_RAW and CAP_NET_ADMIN, or without a network device",
    )
}

/// Where a file system of a kind is mounted.
fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, found) = (fields.next()?, fields.next()?, fields.next()?);
        // Spaces are written as \040 there (proc_pid_mounts(5), getmntent(3)).
        (found == kind).then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// What to do about what the kernel says: what this process lacks is told from what the kernel lacks.
fn remedy(error: &KernelError) -> &'static str {
    match error {
        KernelError::Privilege { .. } => {
            "run as root: sudo interceptor …; in a container, grant the capabilities (--cap-add), and let \
             its seccomp filter pass bpf(2)"
        }
        KernelError::NoDiag { .. } => {
            "load the modules: modprobe inet_diag; modprobe tcp_diag; modprobe udp_diag"
        }
        KernelError::NoDestroy { .. } => {
            "boot a kernel with CONFIG_INET_DIAG_DESTROY=y, or restart a cgroup's processes after attaching"
        }
        KernelError::NotCgroup2 => "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup/unified",
        KernelError::Incomplete { .. } => "reinstall interceptor: this build is broken",
        KernelError::AlreadyEnforced { .. } => "stop the interceptor that enforces a policy there",
        _ => {
            "boot a kernel that has CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_INET, of the version \
             named or newer"
        }
    }
}

/// An error with everything below it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {}", error.to_string().trim_end().replace('\n', " "));
        cause = error.source();
    }
    text
}

/// A cgroup that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn make(mount: &Path) -> io::Result<Self> {
        let path = mount.join(format!("interceptor-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
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
    fn a_failed_check_that_is_required_decides_and_comes_with_its_remedy() {
        let report = |required| {
            let checks =
                vec![Check::passed("one", true, "fine"), Check::failed("two", required, "amiss", "mend it")];
            Report { ok: checks.iter().all(|check| check.ok || !check.required), checks }
        };
        let text = describe(&report(true));
        assert!(
            text.contains("FAIL  two  amiss")
                && text.contains("remedy: mend it")
                && text.contains("yet: 1 problem must be fixed first"),
            "{text}"
        );
        let text = describe(&report(false));
        assert!(text.contains("warn  two  amiss") && text.contains("works on this host"), "{text}");
    }

    #[test]
    fn this_host_passes_with_every_hook_tried_and_nothing_left_behind() {
        let report = examine();
        assert!(report.ok, "{}", describe(&report));
        for hook in kernel::HOOKS {
            assert!(
                report.checks.iter().any(|check| check.ok && check.name == format!("hook {}", hook.name)),
                "{}",
                hook.name
            );
        }
        let mount = mounted("cgroup2").unwrap();
        assert!(!mount.join(format!("interceptor-doctor-{}", std::process::id())).exists());
    }

    #[test]
    fn o6_what_is_missing_is_named_with_its_remedy() {
        // A directory that is no cgroup: every hook depends on it.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scratch");
        fs::create_dir(&path).unwrap();
        let checks = hooks(&Scratch(path));
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
