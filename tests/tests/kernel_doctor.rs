//! `interceptor doctor` on incomplete hosts: it names what is missing and the remedy, and exits 1
//! only if `run` could not work.

use std::process::Command;

use interceptor_tests::sandbox::binary;
use serde_json::Value;

/// Runs it through a command that first takes something away; `$DOCTOR` is the program.
fn doctor(script: &str) -> (Option<i32>, Value) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
    let output = command
        .env("DOCTOR", format!("{} doctor --json", binary("interceptor").display()))
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{script}: {error}: {output:?}"));
    (output.status.code(), report)
}

fn checks(report: &Value) -> &[Value] {
    report["checks"].as_array().unwrap()
}

#[track_caller]
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    checks(report)
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

#[test]
fn everything_that_is_promised_is_looked_at_and_this_host_passes() {
    let (code, report) = doctor("exec $DOCTOR");
    assert_eq!((code, report["ok"].as_bool()), (Some(0), Some(true)), "{report:#}");
    for name in [
        "kernel",
        "capabilities",
        "cgroup v2",
        "bpffs",
        "kernel BTF",
        "seccomp",
        "namespaces",
        "user namespaces",
        "IPv6",
        "resolver",
        "upstream trust",
        "closing sockets",
        "other families",
        "hook connect4",
        "hook ingress",
        "hook sock_ops",
    ] {
        assert!(
            check(&report, name)["detail"].as_str().is_some_and(|detail| !detail.is_empty()),
            "{name}"
        );
    }
    assert_eq!(
        checks(&report)
            .iter()
            .filter(|check| check["name"].as_str().unwrap().starts_with("hook "))
            .count(),
        12
    );
}

#[test]
fn o6_what_run_needs_and_is_missing_is_a_failure_with_its_remedy() {
    let table = [
        ("exec setpriv --reuid 65534 --clear-groups --inh-caps=-all $DOCTOR", "capabilities"),
        // cgroup v2 is mounted nowhere.
        (
            "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do umount -l $m; \
             done; exec $DOCTOR",
            "cgroup v2",
        ),
        // No cgroup can be made.
        (
            "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do mount -o \
             remount,bind,ro $m; done; exec $DOCTOR",
            "cgroup v2",
        ),
        ("mount -t tmpfs none /proc/sys/kernel/seccomp; exec $DOCTOR", "seccomp"),
    ];
    for (script, name) in table {
        let (code, report) = doctor(script);
        assert_eq!((code, report["ok"].as_bool()), (Some(1), Some(false)), "{script}: {report:#}");
        let failed = check(&report, name);
        assert_eq!(
            (failed["ok"].as_bool(), failed["required"].as_bool()),
            (Some(false), Some(true)),
            "{script}"
        );
        for check in checks(&report).iter().filter(|check| check["ok"] == false) {
            assert!(
                check["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10),
                "{script}: {check:#}"
            );
        }
    }
}

#[test]
fn the_cgroup_mount_that_enforcement_uses_is_the_one_that_is_checked() {
    // A part of the tree is mounted first, the whole of it last.
    let (code, report) = doctor(
        "mount -t tmpfs none /mnt; mkdir /mnt/part /mnt/whole
         set -- $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts)
         child=$(find $1 -mindepth 1 -maxdepth 1 -type d | head -n 1); mount --bind $child /mnt/part
         umount -l \"$@\"; mount -t cgroup2 none /mnt/whole; exec $DOCTOR",
    );
    assert_eq!(code, Some(0), "{report:#}");
    let detail = check(&report, "cgroup v2")["detail"].as_str().unwrap();
    assert!(detail.starts_with("/mnt/whole, "), "{detail}");
}

#[test]
fn o6_what_run_can_do_without_is_a_warning_with_its_remedy() {
    let table = [
        (
            "for m in $(awk '$3 == \"bpf\" { print $2 }' /proc/mounts); do umount -l $m; done; \
             exec $DOCTOR",
            "bpffs",
        ),
        ("mount --bind /dev/null /etc/resolv.conf; exec $DOCTOR", "resolver"),
        ("SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/nonexistent exec $DOCTOR", "upstream trust"),
        (
            "mount -t tmpfs none /mnt; echo 5.10.0-old > /mnt/r; mount --bind /mnt/r \
             /proc/sys/kernel/osrelease; exec $DOCTOR",
            "kernel",
        ),
        (
            "mount -t tmpfs none /mnt; echo 0 > /mnt/n; mount --bind /mnt/n \
             /proc/sys/user/max_user_namespaces; exec $DOCTOR",
            "user namespaces",
        ),
    ];
    for (script, name) in table {
        let (code, report) = doctor(script);
        assert_eq!((code, report["ok"].as_bool()), (Some(0), Some(true)), "{script}: {report:#}");
        let warned = check(&report, name);
        assert_eq!(
            (warned["ok"].as_bool(), warned["required"].as_bool()),
            (Some(false), Some(false)),
            "{script}"
        );
        assert!(
            warned["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10),
            "{script}: {warned:#}"
        );
    }
}

#[test]
fn without_root_no_kernel_option_is_blamed() {
    let (code, report) =
        doctor("exec setpriv --reuid 65534 --clear-groups --inh-caps=-all $DOCTOR");
    assert_eq!(code, Some(1));
    let failed: Vec<&Value> = checks(&report).iter().filter(|check| check["ok"] == false).collect();
    assert!(failed.len() >= 3, "{report:#}");
    for check in failed {
        let remedy = check["remedy"].as_str().unwrap();
        // Everybody can read the configuration of an engine.
        let installs = remedy.starts_with("sudo interceptor install");
        assert!(remedy.contains("run as root") || installs, "{check:#}");
        assert!(!remedy.contains("CONFIG_"), "{check:#}");
        assert!(!check["detail"].as_str().unwrap().contains("CONFIG_"), "{check:#}");
    }
    let text = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "--inh-caps=-all"])
        .arg(binary("interceptor"))
        .arg("doctor")
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.ends_with(": 2 problems must be fixed first\n"), "{text}");
}
