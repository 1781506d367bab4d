//! What the daemon may still do once it has started: as little as its work needs, so that a fault in the code that reads what
//! sandboxes send is not the machine's.
//!
//! - [`capabilities`]: all are given up but three, each with its reason.
//! - `filter`: a seccomp filter without mounts, modules, other processes' memory, new namespaces and whatever else a proxy never
//!   does.
//! - [`files`]: Landlock: only its own program is executed, only the places it keeps are written to, and if so wished only named
//!   places are read.
//! - [`attendant`]: Landlock also closes `/proc/PID/ns` of other processes, which the daemon needs to find a container's network. So a
//!   small process that reads nothing of any sandbox, and can do nothing else, opens those for it.
//!
//! All of it is a thread's own and inherited by the threads and processes that it starts: call [`restrict`] while there is one thread.

pub(crate) mod attendant;
pub(crate) mod capabilities;
pub(crate) mod files;
mod filter;

use std::fmt;

use crate::sandbox::SandboxError;

pub(crate) use files::Files;

/// What [`restrict`] has done.
#[derive(Debug)]
pub(crate) struct Report {
    /// Landlock, in words.
    pub(crate) files: String,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; no new privileges; a system call filter; {}", Keeps, self.files)
    }
}

/// The capabilities that are kept, and why, in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeps;

impl fmt::Display for Keeps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, kept) in capabilities::KEPT.iter().enumerate() {
            let separator = if index == 0 { "keeps " } else { ", " };
            write!(formatter, "{separator}{} ({})", kept.name, kept.reason)?;
        }
        Ok(())
    }
}

/// Gives up, for this thread and all that it starts, what the daemon does not need. For a process with one thread.
///
/// # Errors
/// When the kernel refuses a part of it, with what is missing. Landlock may be missing: the report says so.
pub(crate) fn restrict(files: &Files) -> Result<Report, SandboxError> {
    if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return Err(SandboxError::Refused(
            "privileges are given up by a thread for itself: too many threads have been started before"
                .into(),
        ));
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| SandboxError::Refused(format!("cannot set no_new_privs: {error}")))?;
    let files = files.restrict()?;
    capabilities::keep(capabilities::KEPT.iter().map(|kept| kept.capability))?;
    filter::apply()?;
    Ok(Report { files })
}
