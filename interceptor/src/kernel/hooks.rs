//! The hooks: their programs, and the kernel version each needs.

/// The oldest kernel on which all hooks load: `bpf_get_netns_cookie` in `sock_ops` came with Linux
/// 5.15.
pub const MINIMUM_KERNEL: &str = "5.15";

/// One program and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The hook's name in messages.
    pub name: &'static str,
    /// The first mainline kernel that supports the program.
    pub minimum: &'static str,
    /// The feature that sets the minimum version.
    pub reason: &'static str,
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// Its number in `enum bpf_attach_type` of `include/uapi/linux/bpf.h`.
    pub(super) kind: u32,
}

const fn hook(
    name: &'static str,
    program: &'static str,
    kind: u32,
    minimum: &'static str,
    reason: &'static str,
) -> Hook {
    Hook { name, minimum, reason, program, kind }
}

/// The newest feature that most programs use.
const SHARED: &str = "cgroup storage shared among hooks";

/// Every hook. All use cgroup storage shared among hooks (Linux 5.9, 7d9c3427894f) and are attached
/// by links (Linux 5.7, af6eea57437a); most report through a ring buffer (Linux 5.8, 457f44363a88).
/// Versions are mainline's; distributions backport. ARCHITECTURE.md lists the rest, with sources.
pub const HOOKS: [Hook; 12] = [
    hook("connect4", "interceptor_connect4", 10, "5.9", SHARED),
    hook("connect6", "interceptor_connect6", 11, "5.9", SHARED),
    hook("sendmsg4", "interceptor_sendmsg4", 14, "5.9", SHARED),
    hook("sendmsg6", "interceptor_sendmsg6", 15, "5.9", SHARED),
    hook("recvmsg4", "interceptor_recvmsg4", 19, "5.9", SHARED),
    hook("recvmsg6", "interceptor_recvmsg6", 20, "5.9", SHARED),
    hook("getpeername4", "interceptor_getpeername4", 29, "5.9", SHARED),
    hook("getpeername6", "interceptor_getpeername6", 30, "5.9", SHARED),
    hook("sock_create", "interceptor_sock_create", 2, "5.9", SHARED),
    hook("sock_ops", "interceptor_sock_ops", 3, "5.15", "bpf_get_netns_cookie in sock_ops"),
    hook("egress", "interceptor_egress", 1, "5.9", SHARED),
    hook("ingress", "interceptor_ingress", 0, "5.9", SHARED),
];
