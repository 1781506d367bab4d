//! Handles what `attach` finds in an existing cgroup: open connections, and processes that can open
//! sockets no hook covers. Each is closed or reported.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::unistd::Pid;

use crate::kernel::Wall;
use crate::notice;
use crate::sandbox::cgroup;
use crate::words;

/// CAP_NET_RAW and CAP_NET_ADMIN (`include/uapi/linux/capability.h`) as bits of a set.
const DANGEROUS: u64 = 1 << 13 | 1 << 12;

/// Closes the connections from before the attach, or reports how many continue.
pub(super) fn settle(wall: &Wall<'_>, kill: bool, quiet: bool) -> anyhow::Result<()> {
    if kill {
        let closed = wall.close_existing().context("--kill-existing")?;
        tracing::info!(closed, "closed existing connections");
        return Ok(());
    }
    let existing = match wall.existing() {
        Ok(existing) => existing,
        Err(error) => {
            warn(quiet, &format!("cannot tell which existing connections continue: {error}"));
            return Ok(());
        }
    };
    let (number, foreign) = (existing.sockets, existing.foreign);
    if number > 0 {
        let unseen = match foreign {
            0 => String::new(),
            foreign => {
                format!(
                    "; {foreign} of them were opened outside this cgroup and are not intercepted \
                     at all"
                )
            }
        };
        warn(
            quiet,
            &format!(
                "{} of {} connected before the attach: traffic over loopback continues, traffic \
                 through a network device is stopped{unseen}; --kill-existing closes them",
                words::count(number as u64, "socket"),
                wall.cgroup.display()
            ),
        );
    }
    Ok(())
}

/// Warns of processes that can open packet sockets (CAP_NET_RAW), or create devices and tunnels
/// (CAP_NET_ADMIN), if there is a network device. No cgroup hook covers either.
pub(super) fn warn_of_packet_sockets(path: &Path, has_devices: bool, quiet: bool) {
    if !has_devices {
        return;
    }
    let processes = cgroup::processes(path).unwrap_or_default();
    let able: Vec<String> = processes
        .into_iter()
        .filter(|process| may_open_raw(*process))
        .map(|process| process.to_string())
        .collect();
    if let [first, ..] = able.as_slice() {
        warn(
            quiet,
            &format!(
                "{} in {} with CAP_NET_RAW or CAP_NET_ADMIN and a network device (first: \
                 {first}): no cgroup hook sees packet sockets or tunnels, so start them without \
                 these capabilities (--cap-drop NET_RAW --cap-drop NET_ADMIN)",
                words::count(able.len() as u64, "process"),
                path.display()
            ),
        );
    }
}

/// Whether a process has either capability (proc_pid_status(5)).
fn may_open_raw(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let effective = field("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    effective & DANGEROUS != 0
}

fn warn(quiet: bool, what: &str) {
    if !quiet {
        notice::warning(what);
    }
}
