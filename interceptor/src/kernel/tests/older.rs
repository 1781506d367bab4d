//! Simulates older or smaller kernels by filtering this thread's system calls: the result is a
//! clear refusal, never weaker enforcement.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::rig::Rig;
use crate::kernel::{Enforcer, KernelError, LoadOptions, MINIMUM_KERNEL};

/// `enum bpf_cmd`.
const MAP_CREATE: u64 = 0;
const PROG_LOAD: u64 = 5;
const LINK_CREATE: u64 = 28;

/// Runs a closure in a thread where bpf(2) answers with `errno`: every command, or the one given.
fn where_bpf_fails<T: Send>(
    errno: i32,
    command: Option<u64>,
    body: impl FnOnce() -> T + Send,
) -> T {
    let rules = command.map(|command| {
        let is =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command).unwrap();
        SeccompRule::new(vec![is]).unwrap()
    });
    let rules = BTreeMap::from([(libc::SYS_bpf, rules.into_iter().collect())]);
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
            .unwrap();
    let filter = BpfProgram::try_from(filter).unwrap();
    let thread = || {
        seccompiler::apply_filter(&filter).unwrap();
        body()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

fn load() -> KernelError {
    Enforcer::load_with(LoadOptions { sandboxes: 1, debug: false }).unwrap_err()
}

#[test]
fn o6_a_kernel_that_lacks_a_part_is_refused_with_the_version_that_has_it() {
    let error = where_bpf_fails(libc::EINVAL, Some(PROG_LOAD), load);
    assert!(matches!(error, KernelError::Hook { hook: "connect4", .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(MINIMUM_KERNEL) && text.contains("no weaker mode"), "{text}");

    let error = where_bpf_fails(libc::EINVAL, Some(MAP_CREATE), load);
    assert!(matches!(error, KernelError::Object { .. }), "{error}");
    assert!(error.to_string().contains(MINIMUM_KERNEL), "{error}");

    let error = where_bpf_fails(libc::EPERM, None, load);
    assert!(matches!(error, KernelError::Privilege { .. }), "{error}");
}

#[test]
fn o6_a_cgroup_to_which_a_hook_cannot_be_attached_is_left_as_it_was() {
    let enforcer = super::rig::enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let attach = || rig.attach(&enforcer, &rig.enforcement(&ports)).map(drop).unwrap_err();
    let error = where_bpf_fails(libc::EINVAL, Some(LINK_CREATE), attach);
    assert!(matches!(error, KernelError::Attach { .. }), "{error}");
    // The attempt leaves nothing behind: the next one succeeds.
    rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
}
