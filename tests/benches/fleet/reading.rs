//! What a daemon holds at a moment.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use interceptor_tests::daemon::Daemon;
use interceptor_tests::measure::processes::Tree;

/// How long memory may take to become stable.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// The lines of /proc/meminfo (proc_meminfo(5)) that programs, maps and sockets count for.
const KERNEL: [&str; 3] = ["Slab:", "Percpu:", "VmallocUsed:"];

/// Bytes and descriptors.
pub(crate) struct Reading {
    /// The proportional set size of the daemon and its helpers.
    pub(crate) memory: u64,
    /// The kernel's own memory, of the whole machine.
    pub(crate) kernel: u64,
    /// The files in the trust directory.
    pub(crate) trust: u64,
    /// Open files of the daemon.
    pub(crate) descriptors: u64,
}

impl Reading {
    /// Reads it once memory is stable.
    pub(crate) fn take(daemon: &Daemon<'_>) -> Result<Reading> {
        let memory = tree(daemon).settled_memory(SETTLED_WITHIN)?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let lines = meminfo.lines().filter_map(|line| {
            let rest = KERNEL.iter().find_map(|name| line.strip_prefix(name))?;
            rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        let pid = daemon.running().pid();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        let trust = held(&daemon.directory().join("trust"))?;
        Ok(Reading { memory, kernel: lines.sum::<u64>() * 1024, trust, descriptors })
    }

    /// CPU seconds of the daemon so far.
    pub(crate) fn cpu(daemon: &Daemon<'_>) -> Result<f64> {
        tree(daemon).cpu()
    }
}

fn tree(daemon: &Daemon<'_>) -> Tree {
    Tree::new(daemon.running().pid().as_raw().unsigned_abs())
}

/// The bytes of all files below a directory, which may not exist yet.
fn held(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let Ok(entries) = fs::read_dir(directory) else { return Ok(0) };
    for entry in entries {
        let entry = entry?;
        let about = entry.metadata().with_context(|| entry.path().display().to_string())?;
        bytes += if about.is_dir() { held(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
