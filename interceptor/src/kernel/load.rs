//! Loads the hooks' programs and attaches them.

use std::os::fd::BorrowedFd;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
    ProgramError, SockOps,
};

use super::KernelError;
use super::hooks::Hook;

impl Hook {
    /// Loads the program, which the kernel then verifies.
    pub(super) fn load(&self, object: &mut Ebpf) -> Result<(), KernelError> {
        let program = self.program(object)?;
        let outcome = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            _ => return Err(KernelError::Incomplete { part: self.program }),
        };
        outcome.map_err(|error| KernelError::hook(self, error))
    }

    /// Attaches the loaded program to a cgroup. Links reject every mode but `Single` (`EINVAL`) and
    /// always let other programs run too.
    pub(super) fn attach(
        &self,
        object: &mut Ebpf,
        cgroup: BorrowedFd<'_>,
    ) -> Result<FdLink, KernelError> {
        let program = self.program(object)?;
        let outcome = match program {
            Program::CgroupSockAddr(program) => attach_sock_addr(program, cgroup),
            Program::CgroupSock(program) => attach_sock(program, cgroup),
            Program::SockOps(program) => attach_sock_ops(program, cgroup),
            // aya takes the direction from the section name when loading, but not when attaching.
            Program::CgroupSkb(program) if self.name == "ingress" => {
                attach_skb(program, cgroup, CgroupSkbAttachType::Ingress)
            }
            Program::CgroupSkb(program) => attach_skb(program, cgroup, CgroupSkbAttachType::Egress),
            _ => return Err(KernelError::Incomplete { part: self.program }),
        };
        outcome.map_err(|error| KernelError::attach(self, error))
    }

    fn program<'a>(&self, object: &'a mut Ebpf) -> Result<&'a mut Program, KernelError> {
        object.program_mut(self.program).ok_or(KernelError::Incomplete { part: self.program })
    }
}

// One function per program type: each has its own link type, and on kernels that have links each is
// an `FdLink`.

fn attach_sock_addr(
    program: &mut CgroupSockAddr,
    cgroup: BorrowedFd<'_>,
) -> Result<FdLink, ProgramError> {
    let link = program.attach(cgroup, CgroupAttachMode::Single)?;
    program.take_link(link)?.try_into().map_err(|_| ProgramError::NotAttached)
}

fn attach_sock(program: &mut CgroupSock, cgroup: BorrowedFd<'_>) -> Result<FdLink, ProgramError> {
    let link = program.attach(cgroup, CgroupAttachMode::Single)?;
    program.take_link(link)?.try_into().map_err(|_| ProgramError::NotAttached)
}

fn attach_sock_ops(program: &mut SockOps, cgroup: BorrowedFd<'_>) -> Result<FdLink, ProgramError> {
    let link = program.attach(cgroup, CgroupAttachMode::Single)?;
    program.take_link(link)?.try_into().map_err(|_| ProgramError::NotAttached)
}

fn attach_skb(
    program: &mut CgroupSkb,
    cgroup: BorrowedFd<'_>,
    direction: CgroupSkbAttachType,
) -> Result<FdLink, ProgramError> {
    let link = program.attach(cgroup, direction, CgroupAttachMode::Single)?;
    program.take_link(link)?.try_into().map_err(|_| ProgramError::NotAttached)
}
