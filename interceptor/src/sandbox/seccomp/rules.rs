//! The parts of a filter.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// A program that fails the calls in `rules` with `errno`.
pub(super) fn build(
    errno: i32,
    rules: BTreeMap<i64, Vec<SeccompRule>>,
) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    // The compiled program kills callers that use another architecture's system calls (i386 on
    // x86_64).
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

/// Rules that match whatever the arguments.
pub(super) fn unconditional(calls: &[i64]) -> BTreeMap<i64, Vec<SeccompRule>> {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// A condition on an argument.
pub(crate) fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    // These arguments are all `int`: the kernel ignores the register's upper half, and so must the
    // filter.
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}
