//! What `attach` finds in a cgroup that exists already: connections from before, and processes that could open sockets which no hook
//! sees. Each is closed or said.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use nix::unistd::Pid;

use crate::kernel::Wall;
use crate::sandbox::cgroup;

/// The number of CAP_NET_RAW (`include/uapi/linux/capability.h`).
const CAP_NET_RAW: u32 = 13;

/// Closes the connections from before the attach, or says how many go on.
pub(super) fn settle(wall: &Wall<'_>, kill: bool, quiet: bool) -> anyhow::Result<()> {
    if kill {
        let closed = wall.close_existing().context("--kill-existing")?;
        tracing::info!(closed, "closed what was connected before");
        return Ok(());
    }
    let existing = match wall.existing() {
        Ok(existing) => existing,
        Err(error) => {
            warn(quiet, &format!("cannot tell which connections from before go on: {error}"));
            return Ok(());
        }
    };
    let (number, foreign) = (existing.sockets, existing.foreign);
    if number > 0 {
        let born = match foreign {
            0 => String::new(),
            foreign => {
                format!(", {foreign} of them made outside this cgroup, which no policy ever applies to")
            }
        };
        warn(
            quiet,
            &format!(
                "{number} sockets of {} go on as they were before the attach{born}; --kill-existing closes them",
                wall.cgroup.display()
            ),
        );
    }
    Ok(())
}

/// Warns of processes that may open packet sockets where there is a device to send by: those are no internet sockets, and only a
/// filter on system calls (which a container's engine sets, and nobody can add from outside) keeps a process from making one.
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
                "{} processes of {} (the first is {first}) have CAP_NET_RAW, and with it packet sockets (AF_PACKET), which no hook \
                 sees, in a namespace with a device: start them without it (--cap-drop NET_RAW)",
                able.len(),
                path.display()
            ),
        );
    }
}

/// Whether a process has CAP_NET_RAW (proc_pid_status(5)).
fn may_open_raw(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let effective = field("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    effective >> CAP_NET_RAW & 1 == 1
}

fn warn(quiet: bool, what: &str) {
    if !quiet {
        let _ = writeln!(std::io::stderr(), "interceptor: warning: {what}");
    }
}
