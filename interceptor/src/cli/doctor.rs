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

use crate::kernel::{self, MINIMUM_KERNEL};
use crate::privilege;
use crate::sandbox::user::user_namespaces as user_namespaces_of_users;

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
    let verdict = if report.ok {
        "can work on this host"
    } else {
        "cannot work on this host before every FAIL is mended"
    };
    let _ = writeln!(text, "\n`interceptor run` {verdict}");
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
            "boot a newer kernel, unless every hook below loads: distributions carry newer parts back to older kernels",
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
                format!("{}, and a cgroup can be made there", mount.display()),
            )];
            checks.extend(hooks(&scratch));
            checks
        }
        Err(error) => vec![Check::failed(
            NAME,
            true,
            format!("no cgroup can be made below {}: {error}", mount.display()),
            "run as root; in a container, mount the cgroup file system writable",
        )],
    }
}

/// Every hook, or why none could be tried.
fn hooks(scratch: &Scratch) -> Vec<Check> {
    const REMEDY: &str = "boot a kernel that has what is missing (CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and the version named), or give this \
                          process what it lacks";
    let outcome = File::open(&scratch.0)
        .map_err(|error| error.to_string())
        .and_then(|directory| kernel::probe(directory).map_err(|error| with_causes(&error)));
    match outcome {
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
                    Err(error) => Check::failed(name, true, with_causes(&error), REMEDY),
                }
            })
            .collect(),
        Err(error) => vec![Check::failed("hooks", true, error, REMEDY)],
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
            "not mounted; wanted for --net host and attach",
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
            format!("serve {keeps}, and opens any file: this kernel has no Landlock, or it is off"),
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
        Check::passed(NAME, false, "absent; only IPv4 is intercepted, and there is nothing else")
    }
}

/// The resolver the proxy asks for the addresses of permitted names.
fn resolver() -> Check {
    const NAME: &str = "resolver";
    const FILE: &str = "/etc/resolv.conf";
    const REMEDY: &str =
        "put a line `nameserver ADDRESS` into /etc/resolv.conf, or give every host by --resolve";
    match fs::read_to_string(FILE) {
        Ok(text) => {
            let servers: Vec<_> = text
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
                .filter_map(|rest| rest.split_whitespace().next())
                .collect();
            if servers.is_empty() {
                Check::failed(NAME, false, format!("{FILE} names no server"), REMEDY)
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
        "install the system's certificates (the package ca-certificates), or give yours by --upstream-ca";
    let roots = rustls_native_certs::load_native_certs();
    match (roots.certs.len(), roots.errors.first()) {
        (0, None) => Check::failed(NAME, false, "the system trusts no certificate authority", REMEDY),
        (0, Some(error)) => Check::failed(NAME, false, error.to_string(), REMEDY),
        (number, _) => Check::passed(NAME, false, format!("{number} certificate authorities")),
    }
}

/// Whether the kernel closes sockets of others, for `attach --kill-existing`: tried on a socket of this process.
fn closing_sockets() -> Check {
    const NAME: &str = "closing sockets";
    match kernel::try_closing() {
        Ok(()) => Check::passed(NAME, false, "attach --kill-existing can close connections from before"),
        Err(error) => Check::failed(
            NAME,
            false,
            with_causes(&error),
            "boot a kernel with CONFIG_INET_DIAG_DESTROY=y, or restart the processes of a cgroup after the attach",
        ),
    }
}

/// Socket families that no hook of a cgroup sees. Said, since it differs between `run` and `attach`.
fn other_families() -> Check {
    Check::passed(
        "other families",
        false,
        "run refuses packet, vsock and other sockets by seccomp; to what attach finds running nobody can add a filter: start that without \
         CAP_NET_RAW and CAP_NET_ADMIN, or without a device",
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
            let text = format!("interceptor: {} is left behind: {error}\n", self.0.display());
            let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
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
                && text.contains("cannot work"),
            "{text}"
        );
        let text = describe(&report(false));
        assert!(text.contains("warn  two  amiss") && text.contains("can work"), "{text}");
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
}
