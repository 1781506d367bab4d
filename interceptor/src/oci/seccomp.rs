//! Restricts which sockets a container may create. The kernel programs see IPv4 and IPv6; engines'
//! own seccomp profiles also permit families that lead elsewhere: vsock to the VM's host, packet
//! sockets past the programs. This narrows a profile to the families `run` permits (attack K1), and
//! removes io_uring, which seccomp cannot inspect (K6).

use serde_json::{Value, json};

/// unix(7), ip(7), ipv6(7).
pub(super) const OPEN: [u64; 3] =
    [libc::AF_UNIX as u64, libc::AF_INET as u64, libc::AF_INET6 as u64];
/// netlink(7), reduced to rtnetlink.
pub(super) const NETLINK: u64 = libc::AF_NETLINK as u64;
/// The types of sockets that lead nowhere else (socket(2)), and the mask that leaves out flags.
const TYPES: [u64; 3] =
    [libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64, libc::SOCK_SEQPACKET as u64];
const TYPE_MASK: u64 = 0xf;
/// More families than the kernel has. Those below are refused explicitly, those above by the
/// profile's default action.
pub(super) const FAMILIES: u64 = 48;
/// System calls that create sockets of any family.
pub(super) const UNSEEN: [&str; 4] =
    ["socketcall", "io_uring_setup", "io_uring_enter", "io_uring_register"];

/// The architecture whose system calls remain. Others (i386) create sockets by socketcall(2), whose
/// arguments a filter cannot inspect: their callers are killed, as in `run`'s sandboxes.
pub(super) const NATIVE: &str =
    if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };

/// Narrows a profile: a container configuration's, or an engine's profile file, which looks the
/// same here.
pub(crate) fn narrow(profile: &mut Value) {
    if let Some(architectures) = profile.get_mut("architectures") {
        *architectures = json!([NATIVE]);
    }
    for map in profile.get_mut("archMap").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(map) = map.as_object_mut() {
            map.insert("subArchitectures".into(), json!([]));
        }
    }
    let Some(rules) = profile.get_mut("syscalls").and_then(Value::as_array_mut) else { return };
    for rule in rules.iter_mut().filter(|rule| permits(rule)) {
        if let Some(names) = rule.get_mut("names").and_then(Value::as_array_mut) {
            names.retain(|name| {
                !name.as_str().is_some_and(|name| name == "socket" || UNSEEN.contains(&name))
            });
        }
    }
    rules.retain(|rule| {
        rule.get("names").and_then(Value::as_array).is_none_or(|names| !names.is_empty())
    });
    for family in OPEN {
        // A type for each: of others, one makes an IPv4 socket a packet socket (`SOCK_PACKET`).
        for kind in TYPES {
            rules.push(socket("SCMP_ACT_ALLOW", json!([is(0, family), is_type(kind)])));
        }
    }
    rules
        .push(socket("SCMP_ACT_ALLOW", json!([is(0, NETLINK), is(2, libc::NETLINK_ROUTE as u64)])));
    for family in (0..FAMILIES).filter(|family| !OPEN.contains(family) && *family != NETLINK) {
        let mut refused = socket("SCMP_ACT_ERRNO", json!([is(0, family)]));
        refused["errnoRet"] = libc::EAFNOSUPPORT.into();
        // A profile may have been narrowed before.
        if !rules.contains(&refused) {
            rules.push(refused);
        }
    }
}

/// That an argument of the call has this value.
pub(super) fn is(index: u32, value: u64) -> Value {
    json!({ "index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ" })
}

/// That the call makes a socket of this type, whatever the flags.
fn is_type(kind: u64) -> Value {
    json!({ "index": 1, "value": TYPE_MASK, "valueTwo": kind, "op": "SCMP_CMP_MASKED_EQ" })
}

/// A rule for `socket` with these arguments.
pub(super) fn socket(action: &str, arguments: Value) -> Value {
    json!({ "names": ["socket"], "action": action, "args": arguments })
}

/// Whether a profile permits at most what [`narrow`] does. A rule it does not understand counts as
/// permitting more.
pub(crate) fn is_narrow(profile: &Value) -> bool {
    let denies = profile.get("defaultAction").and_then(Value::as_str).is_some_and(refuses);
    // Absent means the native one.
    let architectures = profile.get("architectures").and_then(Value::as_array);
    let native =
        architectures.is_none_or(|all| all.iter().all(|architecture| architecture == NATIVE));
    let rules = profile.get("syscalls").and_then(Value::as_array);
    denies
        && native
        && rules.is_some_and(|rules| rules.iter().filter(|rule| permits(rule)).all(is_narrow_rule))
}

fn is_narrow_rule(rule: &Value) -> bool {
    let Some(names) = rule.get("names").and_then(Value::as_array) else { return false };
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    if names.iter().any(|name| UNSEEN.contains(name)) {
        return false;
    }
    let arguments = rule.get("args").and_then(Value::as_array);
    let compares = |index: u64, operator: &str, holds: &dyn Fn(u64, u64) -> bool| {
        arguments.into_iter().flatten().any(|argument| {
            let number = |name| argument.get(name).and_then(Value::as_u64);
            number("index") == Some(index)
                && argument.get("op").and_then(Value::as_str) == Some(operator)
                && number("value").is_some_and(|v| holds(v, number("valueTwo").unwrap_or(0)))
        })
    };
    let is_open = |family: u64, _: u64| OPEN.contains(&family);
    let is_known = |mask: u64, kind: u64| mask == TYPE_MASK && TYPES.contains(&kind);
    !names.contains(&"socket")
        || compares(0, "SCMP_CMP_EQ", &is_open) && compares(1, "SCMP_CMP_MASKED_EQ", &is_known)
        || compares(0, "SCMP_CMP_EQ", &|family, _| family == NETLINK)
}

fn permits(rule: &Value) -> bool {
    !rule.get("action").and_then(Value::as_str).is_some_and(refuses)
}

fn refuses(action: &str) -> bool {
    action == "SCMP_ACT_ERRNO" || action.starts_with("SCMP_ACT_KILL") || action == "SCMP_ACT_TRAP"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_profile_is_wide_and_becomes_narrow() {
        let mut profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                { "names": ["read", "io_uring_setup", "socketcall"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_NE" }] },
                { "names": ["socket"], "action": "SCMP_ACT_ERRNO",
                  "args": [{ "index": 2, "value": 9, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        assert!(!is_narrow(&profile));
        narrow(&mut profile);
        assert!(is_narrow(&profile), "{profile:#}");
        let mut again = profile.clone();
        narrow(&mut again);
        let count = |profile: &Value| profile["syscalls"].as_array().unwrap().len();
        assert_eq!(count(&again), count(&profile), "{again:#}");
        assert_eq!(profile["syscalls"][0]["names"], json!(["read"]));
        assert_eq!(profile["syscalls"][1]["action"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn what_permits_by_default_or_cannot_be_understood_is_wide() {
        let but = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule] });
        for profile in [
            json!(null),
            json!({}),
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [] }),
            but(json!({ "names": "socket", "action": "SCMP_ACT_ALLOW" })),
            but(json!({ "names": ["socket"], "action": "SCMP_ACT_LOG" })),
            but(json!({ "names": ["io_uring_setup"], "action": "SCMP_ACT_ALLOW" })),
            // Of any type: one of them makes a packet socket.
            but(socket("SCMP_ACT_ALLOW", json!([is(0, libc::AF_INET as u64)]))),
            but(socket("SCMP_ACT_ALLOW", json!([is(0, libc::AF_INET as u64), is(1, 10)]))),
        ] {
            assert!(!is_narrow(&profile), "{profile}");
        }
    }
}
