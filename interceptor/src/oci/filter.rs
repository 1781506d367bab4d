//! The seccomp filter of a container that has none (Kubernetes' default, `runc spec`): like that of
//! `run`'s sandboxes, it permits everything but a few system calls.

use serde_json::{Value, json};

use super::seccomp::{FAMILIES, NATIVE, NETLINK, OPEN, UNSEEN, is, socket};

/// Fail as if the kernel did not know them, so that programs fall back.
const ABSENT: [&str; 1] = ["clone3"];
/// Programs in the kernel, namespaces, the kernel itself, another process's memory, the host's
/// keyrings and clock; refused whatever the arguments.
const REFUSED: [&str; 34] = [
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "modify_ldt",
    "nfsservctl",
    "open_by_handle_at",
    "perf_event_open",
    "pidfd_getfd",
    "process_vm_readv",
    "process_vm_writev",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "uselib",
    "userfaultfd",
    "vhangup",
];
/// Namespaces that a process may not make: clone(2), unshare(2).
const NAMESPACES: [u64; 7] = [
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
];
/// A socket's type without its flags, and the one that makes an IPv4 socket a packet socket.
const TYPE: (u64, u64) = (0xf, 10);

/// The filter, as a configuration has it.
pub(crate) fn own() -> Value {
    let mut rules = vec![
        with_error(json!({ "names": UNSEEN }), libc::ENOSYS),
        with_error(json!({ "names": ABSENT }), libc::ENOSYS),
        with_error(json!({ "names": &REFUSED[..] }), libc::EPERM),
    ];
    for flag in NAMESPACES {
        let argument =
            json!({ "index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ" });
        let rule = json!({ "names": ["clone", "unshare"], "args": [argument] });
        rules.push(with_error(rule, libc::EPERM));
    }
    let refuse = |arguments: Value| {
        let mut rule = with_error(socket("", arguments), libc::EAFNOSUPPORT);
        rule["names"] = json!(["socket", "socketpair"]);
        rule
    };
    let other = (0..FAMILIES).filter(|family| !OPEN.contains(family) && *family != NETLINK);
    rules.extend(other.map(|family| refuse(json!([is(0, family)]))));
    // Also any with bits above the kernel's.
    let above = json!({ "index": 0, "value": FAMILIES, "valueTwo": 0, "op": "SCMP_CMP_GE" });
    rules.push(refuse(json!([above])));
    let not_route = json!({
        "index": 2, "value": libc::NETLINK_ROUTE as u64, "valueTwo": 0, "op": "SCMP_CMP_NE",
    });
    rules.push(refuse(json!([is(0, NETLINK), not_route])));
    let packet =
        json!({ "index": 1, "value": TYPE.0, "valueTwo": TYPE.1, "op": "SCMP_CMP_MASKED_EQ" });
    rules.push(refuse(json!([packet])));
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [NATIVE], "syscalls": rules })
}

fn with_error(mut rule: Value, error: i32) -> Value {
    rule["action"] = "SCMP_ACT_ERRNO".into();
    rule["errnoRet"] = error.into();
    rule
}
