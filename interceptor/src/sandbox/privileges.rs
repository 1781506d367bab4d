//! Gives up every privilege: user, groups, capabilities, and the ways to gain them again.

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::SandboxError;
use super::error::Context;
use super::handover::Launch;
use super::seccomp::{self, Filter};
use super::sys;
use crate::notice;

/// Makes this process, for ever, an unprivileged one of the launch's identity, root included. What
/// it executes inherits all of it.
pub(crate) fn give_up(launch: &Launch) -> Result<(), SandboxError> {
    let identity = &launch.identity;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context(|| "cannot forbid core dumps".into())?;
    // While this process still may: each of these needs CAP_SETPCAP.
    sys::root_gains_nothing().context(|| "cannot lock the secure bits".into())?;
    caps::clear(None, caps::CapSet::Ambient).map_err(capability)?;
    bound(|_| false)?;

    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups).context(|| "cannot set the supplementary groups".into())?;
    setresgid(gid, gid, gid).context(|| format!("cannot become group {gid}"))?;
    setresuid(uid, uid, uid).context(|| format!("cannot become user {uid}"))?;
    for set in [caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted] {
        caps::clear(None, set).map_err(capability)?;
    }

    nix::sys::prctl::set_no_new_privs().context(|| "cannot set no_new_privs".into())?;
    if let Err(error) = sys::scope_abstract_sockets() {
        // In a namespace of its own there is no abstract socket of the host to scope away.
        if launch.shared_network {
            notice::warning(format_args!(
                "the sandbox can reach abstract unix sockets of the host, because this kernel's \
                 Landlock cannot scope them ({error}); Linux 6.12 can"
            ));
        }
    }
    seccomp::apply(Filter { root: identity.uid == 0, nesting: launch.nesting })
}

/// Takes every capability but those that `keep` names out of the bounding set, so that executing a file does not give it back.
pub(crate) fn bound(keep: impl Fn(u8) -> bool) -> Result<(), SandboxError> {
    for number in (0..=last_capability()?).filter(|number| !keep(*number)) {
        sys::drop_from_bounding_set(number).context(|| format!("cannot drop capability {number}"))?;
    }
    Ok(())
}

fn capability(error: caps::errors::CapsError) -> SandboxError {
    SandboxError::Inside(format!("cannot drop the capabilities: {error}"))
}

/// The highest capability this kernel knows, which may be newer than any list.
fn last_capability() -> Result<u8, SandboxError> {
    let path = "/proc/sys/kernel/cap_last_cap";
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    text.trim().parse().map_err(|_| SandboxError::Inside(format!("{path} does not contain a number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Capabilities, filters and user ids are a thread's own until something tells the others: here only the raw calls of one
    /// thread do, so the probe is what that thread starts.
    #[test]
    fn root_that_gave_up_its_privileges_gains_none_by_executing() {
        let output = std::thread::spawn(|| {
            sys::root_gains_nothing().unwrap();
            for number in 0..=last_capability().unwrap() {
                sys::drop_from_bounding_set(number).unwrap();
            }
            for set in [caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted] {
                caps::clear(None, set).unwrap();
            }
            Command::new("grep").args(["-E", "^(Cap|Uid)", "/proc/self/status"]).output().unwrap()
        })
        .join()
        .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Uid:\t0"), "{text}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(text.contains(&format!("{set}:\t0000000000000000")), "{text}");
        }
    }
}
