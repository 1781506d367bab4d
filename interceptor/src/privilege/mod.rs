//! Drops privileges: the daemon keeps only what it needs, so that a bug in the code that reads
//! sandbox traffic does not compromise the host.
//!
//! - [`capabilities`]: drops all but three, each with a reason.
//! - `filter`: a seccomp filter without mounts, kernel modules, other processes' memory, new
//!   namespaces and anything else a proxy never does.
//! - [`files`]: Landlock: the daemon executes only itself, writes only to its own paths, and
//!   optionally reads only named paths.
//! - [`attendant`]: Landlock also closes other processes' `/proc/PID/ns`, which the daemon needs to
//!   find a container's network. A small process that reads no sandbox data and can do nothing else
//!   opens those for it.
//!
//! All of this applies per thread and is inherited: call [`restrict`] while the process has one
//! thread.

pub(crate) mod attendant;
pub(crate) mod capabilities;
pub(crate) mod files;
mod filter;

use std::fmt;

use crate::sandbox::SandboxError;

pub(crate) use files::Files;

/// What [`restrict`] has done.
#[derive(Debug)]
pub(crate) struct Restrictions {
    /// A description of the Landlock restrictions.
    pub(crate) files: String,
}

impl fmt::Display for Restrictions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; no new privileges; a system call filter; {}", Keeps, self.files)
    }
}

/// Displays the kept capabilities and why.
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

/// Drops what the daemon does not need, for this thread and its descendants. Requires a
/// single-threaded process.
///
/// # Errors
/// If the kernel refuses a part; the error names what is missing. Missing Landlock is no error; the
/// result mentions it.
pub(crate) fn restrict(files: &Files) -> Result<Restrictions, SandboxError> {
    if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return Err(SandboxError::Refused(
            "cannot drop privileges: other threads are running already".into(),
        ));
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| SandboxError::Refused(format!("cannot set no_new_privs: {error}")))?;
    let files = files.restrict()?;
    capabilities::keep(capabilities::KEPT.iter().map(|kept| kept.capability))?;
    filter::apply()?;
    Ok(Restrictions { files })
}
