//! Drops every privilege: user, groups, capabilities, and the ways to regain them.

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::SandboxError;
use super::error::IoContext;
use super::handover::Launch;
use super::seccomp::{self, FilterOptions};
use super::sys;
use crate::notice;

/// Irrevocably turns this process into an unprivileged one with the launch's identity, even for
/// root. Everything it executes inherits that.
pub(crate) fn give_up(launch: &Launch) -> Result<(), SandboxError> {
    let identity = &launch.identity;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context(|| "cannot forbid core dumps".into())?;
    // Done first, because each needs CAP_SETPCAP.
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
        // With a network namespace of its own there are no abstract sockets of the host to reach.
        if launch.shared_network {
            notice::warning(format_args!(
                "the sandbox can reach abstract unix sockets of the host, because this kernel's \
                 Landlock cannot scope them ({error}); Linux 6.12 can"
            ));
        }
    }
    seccomp::apply(FilterOptions { root: identity.uid == 0, nesting: launch.nesting })
}

/// Drops every capability except those in `keep` from the bounding set, so that executing a file
/// cannot restore them.
pub(crate) fn bound(keep: impl Fn(u8) -> bool) -> Result<(), SandboxError> {
    for number in (0..=last_capability()?).filter(|number| !keep(*number)) {
        sys::drop_from_bounding_set(number)
            .context(|| format!("cannot drop capability {number}"))?;
    }
    Ok(())
}

fn capability(error: caps::errors::CapsError) -> SandboxError {
    SandboxError::Inside(format!("cannot drop the capabilities: {error}"))
}

/// The highest capability this kernel knows; may be newer than our list.
fn last_capability() -> Result<u8, SandboxError> {
    let path = "/proc/sys/kernel/cap_last_cap";
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    text.trim()
        .parse()
        .map_err(|_| SandboxError::Inside(format!("{path} does not contain a number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Capabilities, filters and user ids belong to a single thread when set by raw calls, so the
    /// probe is a program that this thread starts.
    #[test]
    fn root_that_gave_up_its_privileges_gains_none_by_executing() {
        let output = std::thread::spawn(|| {
            sys::root_gains_nothing().unwrap();
            for number in 0..=last_capability().unwrap() {
                sys::drop_from_bounding_set(number).unwrap();
            }
            for set in [caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted]
            {
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
