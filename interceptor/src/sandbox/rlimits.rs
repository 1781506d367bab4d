//! The resource limits (getrlimit(2)) and the nice value of another process, for a command that is
//! started in its place.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::SandboxError;
use super::error::IoContext;
use super::sys;

/// Every limit, with its name in `/proc/PID/limits`. Core dumps are forbidden anyway.
const ALL: [(&str, Resource); 15] = [
    ("Max cpu time", Resource::RLIMIT_CPU),
    ("Max file size", Resource::RLIMIT_FSIZE),
    ("Max data size", Resource::RLIMIT_DATA),
    ("Max stack size", Resource::RLIMIT_STACK),
    ("Max resident set", Resource::RLIMIT_RSS),
    ("Max processes", Resource::RLIMIT_NPROC),
    ("Max open files", Resource::RLIMIT_NOFILE),
    ("Max locked memory", Resource::RLIMIT_MEMLOCK),
    ("Max address space", Resource::RLIMIT_AS),
    ("Max file locks", Resource::RLIMIT_LOCKS),
    ("Max pending signals", Resource::RLIMIT_SIGPENDING),
    ("Max msgqueue size", Resource::RLIMIT_MSGQUEUE),
    ("Max nice priority", Resource::RLIMIT_NICE),
    ("Max realtime priority", Resource::RLIMIT_RTPRIO),
    ("Max realtime timeout", Resource::RLIMIT_RTTIME),
];

/// The limits of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResourceLimits {
    /// Soft and hard, in the order of [`ALL`].
    each: Vec<(u64, u64)>,
    nice: i32,
}

impl ResourceLimits {
    /// Those of a process, from its directory in `/proc`.
    ///
    /// # Errors
    /// If they cannot be read, or one is missing.
    pub(crate) fn of(process: &Path) -> io::Result<ResourceLimits> {
        let limits = fs::read_to_string(process.join("limits"))?;
        let status = fs::read_to_string(process.join("stat"))?;
        parse(&limits, &status).ok_or_else(|| io::Error::other("its limits cannot be understood"))
    }

    /// The limit of open files, soft and hard.
    pub(crate) fn open_files(&self) -> (u64, u64) {
        let at = ALL.iter().position(|(_, resource)| *resource == Resource::RLIMIT_NOFILE);
        at.and_then(|at| self.each.get(at)).copied().unwrap_or((1024, 1024))
    }

    /// Gives them to this process. Needs root.
    pub(super) fn apply(&self) -> Result<(), SandboxError> {
        for ((name, resource), (soft, hard)) in ALL.iter().zip(&self.each) {
            setrlimit(*resource, *soft, *hard)
                .context(|| format!("cannot set the limit `{name}`"))?;
        }
        sys::set_nice(self.nice).context(|| "cannot set the nice value".into())
    }
}

fn parse(limits: &str, stat: &str) -> Option<ResourceLimits> {
    let number = |word: &str| match word {
        "unlimited" => Some(RLIM_INFINITY),
        digits => digits.parse().ok(),
    };
    let limit = |name: &str| {
        let mut words = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
        Some((number(words.next()?)?, number(words.next()?)?))
    };
    let each = ALL.iter().map(|(name, _)| limit(name)).collect::<Option<Vec<_>>>()?;
    // The name, in brackets, may contain anything; the nice value is the 19th field (proc(5)).
    let nice = stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()?;
    Some(ResourceLimits { each, nice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_process_are_those_that_it_has() {
        let own = ResourceLimits::of(Path::new("/proc/self")).unwrap();
        for ((name, resource), (soft, hard)) in ALL.iter().zip(&own.each) {
            let known = nix::sys::resource::getrlimit(*resource).unwrap();
            // Other tests may raise the limit of open files at the same time.
            if *resource != Resource::RLIMIT_NOFILE {
                assert_eq!((*soft, *hard), known, "{name}");
            }
        }
        let child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 77; exec nice -n 7 sleep 600"])
            .spawn();
        let mut child = child.unwrap();
        let directory = Path::new("/proc").join(child.id().to_string());
        let is_sleep = || fs::read_to_string(directory.join("comm")).unwrap() == "sleep\n";
        while !is_sleep() {
            std::thread::yield_now();
        }
        let limits = ResourceLimits::of(&directory).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((limits.open_files(), limits.nice), ((77, 77), (own.nice + 7).min(19)));
    }

    #[test]
    fn what_is_no_list_of_limits_is_none() {
        assert_eq!(parse("", "1 (a) S"), None);
        assert_eq!(parse("Max cpu time unlimited", "1 (a) S"), None);
    }
}
