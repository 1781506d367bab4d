//! `interceptor doctor`: checks what this host can do, with a remedy for each failure.
//!
//! It tests features rather than versions: every hook is loaded and attached to a temporary cgroup.
//! The exit status is 1 if `interceptor run` cannot work.

mod agent;
mod check;
mod engines;
mod hooks;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::who;
use crate::kernel::MINIMUM_KERNEL;
use crate::privilege;
use crate::sandbox::user::user_namespaces as user_namespaces_of_users;
use crate::words;
use check::Check;

/// The arguments of `interceptor doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Print one JSON object: {"ok": …, "checks": [{"name", "ok", "required", "detail", "remedy"},
    /// …]}.
    #[arg(long)]
    json: bool,
    /// Check instead whether what this agent uses trusts the certificates that a sandbox sees; see
    /// `interceptor agents`.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

/// The outcome of all checks.
#[derive(Debug, Serialize)]
struct DoctorReport {
    /// Whether `interceptor run` can work.
    ok: bool,
    /// Every check, in order.
    checks: Vec<Check>,
}

/// Runs the command.
pub fn run(arguments: Doctor) -> anyhow::Result<ExitCode> {
    let report = match &arguments.agent {
        None => examine(),
        Some(agent) => DoctorReport::of(agent::checks(agent)?),
    };
    let mut text = match (arguments.json, &arguments.agent) {
        (true, _) => serde_json::to_string_pretty(&report)?,
        (false, None) => describe(&report),
        (false, Some(_)) => list(&report),
    };
    if arguments.json {
        text.push('\n');
    }
    super::verdict(io::Write::write_all(&mut io::stdout(), text.as_bytes()), u8::from(!report.ok))
}

/// Runs every check.
fn examine() -> DoctorReport {
    let mut checks = vec![kernel_version(), capabilities()];
    checks.extend(hooks::cgroup_and_hooks());
    checks.extend([
        hooks::bpffs(),
        hooks::btf(),
        seccomp(),
        least_privilege(),
        namespaces(),
        user_namespaces(),
        ipv6(),
        resolver(),
        upstream_trust(),
        hooks::closing_sockets(),
        other_families(),
    ]);
    checks.extend(engines::all());
    DoctorReport::of(checks)
}

impl DoctorReport {
    fn of(checks: Vec<Check>) -> DoctorReport {
        DoctorReport { ok: checks.iter().all(|check| check.ok || !check.required), checks }
    }
}

/// The checks as text.
fn list(report: &DoctorReport) -> String {
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
    text
}

/// The report as text.
fn describe(report: &DoctorReport) -> String {
    let mut text = list(report);
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

/// The kernel's release. Not required, because the hooks themselves are tested.
fn kernel_version() -> Check {
    const NAME: &str = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let number = |text: &str| {
        let mut parts = text
            .split(|character: char| !character.is_ascii_digit())
            .map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    if number(release) >= number(MINIMUM_KERNEL) {
        Check::passed(NAME, false, format!("Linux {release}"))
    } else {
        Check::failed(
            NAME,
            false,
            format!("Linux {release} is older than {MINIMUM_KERNEL}"),
            "boot a newer kernel, unless every hook below loads: distributions backport features \
             to older kernels",
        )
    }
}

/// The capabilities that `interceptor run` needs.
fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let missing = who::lacking();
    if missing.is_empty() {
        Check::passed(NAME, true, who::NEEDED.map(|capability| capability.to_string()).join(", "))
    } else {
        Check::failed(
            NAME,
            true,
            format!("missing: {}", missing.join(", ")),
            "run as root: sudo interceptor …; in a container, grant them (--cap-add, or \
             --privileged)",
        )
    }
}

/// What `serve` can still do after start-up.
fn least_privilege() -> Check {
    const NAME: &str = "least privilege";
    let keeps = privilege::Keeps;
    if privilege::files::available() {
        Check::passed(NAME, false, format!("serve {keeps}; Landlock restricts the files it opens"))
    } else {
        Check::failed(
            NAME,
            false,
            format!(
                "serve {keeps}, and can open any file: this kernel has no Landlock, or it is off"
            ),
            "boot a kernel with CONFIG_SECURITY_LANDLOCK=y, and with landlock in lsm=",
        )
    }
}

/// Seccomp filters, which refuse the socket families that no hook covers.
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

/// The namespaces that a sandbox needs.
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
            "boot a kernel with CONFIG_NET_NS, CONFIG_NAMESPACES and CONFIG_PID_NS; mount /proc \
             if it is not",
        )
    }
}

/// Whether sandboxed commands can create user namespaces, as browsers and build tools do.
fn user_namespaces() -> Check {
    const NAME: &str = "user namespaces";
    match user_namespaces_of_users() {
        Err((why, remedy)) => {
            Check::failed(NAME, false, format!("{why}; only run --nesting needs them"), remedy)
        }
        Ok(most) => Check::passed(
            NAME,
            false,
            format!("up to {most}; run --nesting lets commands make them"),
        ),
    }
}

/// Whether the host has IPv6.
fn ipv6() -> Check {
    const NAME: &str = "IPv6";
    if Path::new("/proc/net/if_inet6").exists() {
        Check::passed(NAME, false, "present, and intercepted")
    } else {
        Check::passed(NAME, false, "absent; only IPv4 is intercepted")
    }
}

/// The resolver that the proxy uses for permitted names.
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
                Check::failed(NAME, false, format!("{FILE} lists no name server"), REMEDY)
            } else {
                Check::passed(NAME, false, servers.join(", "))
            }
        }
        Err(error) => Check::failed(NAME, false, format!("{FILE}: {error}"), REMEDY),
    }
}

/// The roots that verify upstream servers.
fn upstream_trust() -> Check {
    const NAME: &str = "upstream trust";
    const REMEDY: &str = "install the system's certificates (package ca-certificates), or pass \
                          yours with --upstream-ca";
    let roots = rustls_native_certs::load_native_certs();
    match (roots.certs.len(), roots.errors.first()) {
        (0, None) => {
            Check::failed(NAME, false, "the system trusts no certificate authority", REMEDY)
        }
        (0, Some(error)) => Check::failed(NAME, false, error.to_string(), REMEDY),
        (number, _) => {
            Check::passed(NAME, false, words::count(number as u64, "certificate authority"))
        }
    }
}

/// Socket families that cgroup hooks do not cover; `run` and `attach` differ here.
fn other_families() -> Check {
    Check::passed(
        "other families",
        false,
        "run refuses packet, vsock and other sockets with seccomp; attach cannot add a filter to \
         running processes: start them without CAP_NET_RAW and CAP_NET_ADMIN, or without a \
         network device",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;

    #[test]
    fn a_failed_check_that_is_required_decides_and_comes_with_its_remedy() {
        let report = |required| {
            let checks = vec![
                Check::passed("one", true, "fine"),
                Check::failed("two", required, "amiss", "mend it"),
            ];
            DoctorReport { ok: checks.iter().all(|check| check.ok || !check.required), checks }
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
                report
                    .checks
                    .iter()
                    .any(|check| check.ok && check.name == format!("hook {}", hook.name)),
                "{}",
                hook.name
            );
        }
        let mount = crate::sandbox::cgroup::mount_point().unwrap();
        assert!(!mount.join(format!("interceptor-doctor-{}", std::process::id())).exists());
    }
}
