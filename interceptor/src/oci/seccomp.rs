//! Restricts which sockets a container may create. The kernel programs see IPv4 and IPv6; engines'
//! own seccomp profiles also permit families that lead elsewhere: vsock to the VM's host, packet
//! sockets past the programs. This narrows a profile to the families `run` permits (attack K1), and
//! removes io_uring, which seccomp cannot inspect (K6).

use serde_json::{Value, json};

/// unix(7), ip(7), ipv6(7).
const OPEN: [u64; 3] = [libc::AF_UNIX as u64, libc::AF_INET as u64, libc::AF_INET6 as u64];
/// netlink(7), reduced to rtnetlink.
const NETLINK: u64 = libc::AF_NETLINK as u64;
/// More families than the kernel has. Those below are refused explicitly, those above by the
/// profile's default action.
const FAMILIES: u64 = 48;
/// System calls that create sockets of any family.
const UNSEEN: [&str; 4] = ["socketcall", "io_uring_setup", "io_uring_enter", "io_uring_register"];

/// The architecture whose system calls remain. Others (i386) create sockets by socketcall(2), whose
/// arguments a filter cannot inspect: their callers are killed, as in `run`'s sandboxes.
const NATIVE: &str =
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
    rules.extend(OPEN.map(|family| socket("SCMP_ACT_ALLOW", json!([is(0, family)]))));
    rules
        .push(socket("SCMP_ACT_ALLOW", json!([is(0, NETLINK), is(2, libc::NETLINK_ROUTE as u64)])));
    for family in (0..FAMILIES).filter(|family| !OPEN.contains(family) && *family != NETLINK) {
        let mut refused = socket("SCMP_ACT_ERRNO", json!([is(0, family)]));
        refused["errnoRet"] = libc::EAFNOSUPPORT.into();
        rules.push(refused);
    }
}

/// That an argument of the call has this value.
fn is(index: u32, value: u64) -> Value {
    json!({ "index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ" })
}

/// A rule for `socket` with these arguments.
fn socket(action: &str, arguments: Value) -> Value {
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
    let one_family = arguments.is_some_and(|arguments| {
        arguments.iter().any(|argument| {
            let number = |name| argument.get(name).and_then(Value::as_u64);
            number("index") == Some(0)
                && argument.get("op").and_then(Value::as_str) == Some("SCMP_CMP_EQ")
                && number("value").is_some_and(|family| OPEN.contains(&family) || family == NETLINK)
        })
    });
    !names.contains(&"socket") || one_family
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
        ] {
            assert!(!is_narrow(&profile), "{profile}");
        }
    }
}
