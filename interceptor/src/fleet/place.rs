//! Locates a sandbox that somebody else made: its cgroup and network namespace. Also validates ids.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, fstatfs, statfs};
use nix::unistd::Pid;

use super::FleetError;
use super::error::IoContext;
use crate::privilege::attendant;
use crate::sandbox::cgroup;

/// Maximum length of an id, as for container engines.
const LONGEST_ID: usize = 64;
/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(libc::NSFS_MAGIC as _);

/// Whether the id is valid: it becomes part of paths, records and a certificate.
///
/// # Errors
/// [`FleetError::BadId`], which does not repeat the id.
pub(crate) fn check_id(id: &str) -> Result<(), FleetError> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let begins = id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if plain && begins && id.len() <= LONGEST_ID {
        return Ok(());
    }
    Err(FleetError::BadId(format!(
        "an id is 1 to {LONGEST_ID} letters (A-Z, a-z), digits, `-` and `_`, the first of them a \
         letter or a digit"
    )))
}

/// Whose loopback a network namespace holds. Only its creator knows; its devices prove nothing,
/// because a host may have no device besides `lo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Netns {
    /// Made for this sandbox alone, by interceptor or a container engine: the loopback is the
    /// sandbox's own.
    Private,
    /// Shared with others, or unknown: other services may listen on its loopback.
    Shared,
}

/// A cgroup to enforce on, and the network namespace of its processes.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The cgroup's directory, symlinks resolved.
    pub(crate) cgroup: PathBuf,
    /// Its id in the kernel.
    pub(crate) cgroup_id: u64,
    /// The network namespace; `None` for this process's own.
    pub(crate) network: Option<OwnedFd>,
    /// Whether that namespace is the sandbox's alone.
    pub(crate) netns: Netns,
}

impl Visit {
    /// Finds the cgroup, given as a cgroup v2 directory or as a path that `/proc/PID/cgroup` shows.
    /// Opens the network namespace: `netns` if given, else that of `pid`, which must be in the
    /// cgroup, else that of the cgroup's first process, else this process's own.
    ///
    /// # Errors
    /// [`FleetError::NoCgroup`], [`FleetError::NoNamespace`], or a system error.
    pub(crate) fn find(
        cgroup: &Path,
        pid: Option<i32>,
        netns: Option<&Path>,
    ) -> Result<Visit, FleetError> {
        let cgroup = directory(cgroup)?;
        let cgroup_id = cgroup::id_of(&cgroup)?;
        let member = member(&cgroup, pid)?;
        let network = match (netns, member) {
            (Some(path), _) => Some(namespace_at(path)?),
            (None, Some(member)) => namespace_of(member)?,
            (None, None) => None,
        };
        Ok(Visit { cgroup, cgroup_id, network, netns: Netns::Shared })
    }

    /// If `told`, trusts the caller that the network namespace is this sandbox's alone.
    ///
    /// # Errors
    /// [`FleetError::NotPrivate`] for this process's own namespace and for that of process 1.
    pub(crate) fn private(mut self, told: bool) -> Result<Visit, FleetError> {
        if !told {
            return Ok(self);
        }
        let examine = || "cannot examine the network namespace".to_owned();
        let identity = |metadata: std::io::Result<fs::Metadata>| {
            let metadata = metadata.context(examine)?;
            Ok::<_, FleetError>((metadata.dev(), metadata.ino()))
        };
        // If process 1 cannot be inspected, the caller's word is all we have.
        let first =
            attendant::network_of(1).ok().map(|first| identity(File::from(first).metadata()));
        let first = first.transpose()?;
        let own = identity(fs::metadata("/proc/self/ns/net"))?;
        let network = match &self.network {
            Some(network) => {
                identity(network.try_clone().map(File::from).and_then(|file| file.metadata()))?
            }
            None => own,
        };
        if network == own || Some(network) == first {
            return Err(FleetError::NotPrivate(
                "this network namespace is the host's: its loopback is not the sandbox's own"
                    .into(),
            ));
        }
        self.netns = Netns::Private;
        Ok(self)
    }
}

/// The directory `path` names, absolute or below the cgroup mount. Errors do not repeat the path:
/// the caller knows it, and may have put a secret there by mistake.
fn directory(path: &Path) -> Result<PathBuf, FleetError> {
    let mount = cgroup::mount_point()?;
    let below = mount.join(path.strip_prefix("/").unwrap_or(path));
    let candidates = [path.to_owned(), below];
    let Some(found) = candidates.iter().find(|candidate| candidate.join("cgroup.procs").exists())
    else {
        return Err(FleetError::NoCgroup(format!(
            "this is no cgroup: give the directory of one below {}, or its path as \
             /proc/PID/cgroup shows it",
            mount.display()
        )));
    };
    let found =
        fs::canonicalize(found).context(|| format!("cannot resolve {}", found.display()))?;
    let kind =
        statfs(&found).context(|| format!("cannot examine {}", found.display()))?.filesystem_type();
    if kind != CGROUP2_SUPER_MAGIC {
        let why = "this is a cgroup of version 1, which eBPF programs cannot be attached to: use \
                   its cgroup v2";
        return Err(FleetError::NoCgroup(why.to_owned()));
    }
    if !found.join("cgroup.events").exists() {
        let why =
            "this is the root of all cgroups, the interceptor's own among them: give one below it";
        return Err(FleetError::NoCgroup(why.to_owned()));
    }
    Ok(found)
}

/// The given process, if it is in the cgroup; else the cgroup's first process.
fn member(cgroup: &Path, pid: Option<i32>) -> Result<Option<Pid>, FleetError> {
    let members = cgroup::processes(cgroup)
        .context(|| format!("cannot list the processes of {}", cgroup.display()))?;
    match pid.map(Pid::from_raw) {
        Some(pid) if !members.contains(&pid) => Err(FleetError::NoNamespace(format!(
            "process {pid} is not in the cgroup {}",
            cgroup.display()
        ))),
        Some(pid) => Ok(Some(pid)),
        None => Ok(members.first().copied()),
    }
}

/// The network namespace of a process; `None` if it is our own.
fn namespace_of(member: Pid) -> Result<Option<OwnedFd>, FleetError> {
    let path = format!("/proc/{member}/ns/net");
    let namespace =
        attendant::network_of(member.as_raw()).context(|| format!("cannot open {path}"))?;
    let namespace = File::from(namespace);
    let own =
        fs::metadata("/proc/self/ns/net").context(|| "cannot examine /proc/self/ns/net".into())?;
    let other = namespace.metadata().context(|| format!("cannot examine {path}"))?;
    Ok(((own.dev(), own.ino()) != (other.dev(), other.ino())).then(|| namespace.into()))
}

/// Opens a network namespace by a file, e.g. one below `/run/netns`.
fn namespace_at(path: &Path) -> Result<OwnedFd, FleetError> {
    let refused = |why: String| FleetError::NoNamespace(why);
    if !path.is_absolute() {
        return Err(refused("the path of a network namespace begins with a slash".into()));
    }
    let opened = match process_of(path) {
        Some(process) => attendant::network_of(process).map(File::from),
        None => File::open(path),
    };
    let file = opened.map_err(|error| refused(format!("this cannot be opened: {error}")))?;
    let kind =
        fstatfs(&file).context(|| "cannot examine the network namespace".into())?.filesystem_type();
    if kind != NSFS_MAGIC {
        return Err(refused("this is no namespace; `ip netns` keeps them below /run/netns".into()));
    }
    Ok(file.into())
}

/// The process of a procfs path to a network namespace.
fn process_of(path: &Path) -> Option<i32> {
    path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_an_id_that_could_lead_elsewhere_is_none() {
        let long = "a".repeat(65);
        for id in [
            "",
            "../x",
            "a/b",
            "a\nb",
            "a.b",
            "-a",
            "_a",
            "a b",
            "ä",
            "\u{202e}a",
            "a\0",
            long.as_str(),
        ] {
            let error = check_id(id).unwrap_err().to_string();
            assert!(id.len() < 3 || !error.contains(id), "{error}");
        }
        for id in ["a", "sb-0123", "A_b-9", &"f".repeat(64)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn what_is_no_cgroup_and_what_is_no_namespace_is_said() {
        let none = Visit::find(Path::new("/tmp"), None, None).unwrap_err();
        assert!(matches!(none, FleetError::NoCgroup(_)), "{none}");
        let root = Visit::find(&cgroup::mount_point().unwrap(), None, None).unwrap_err();
        assert!(matches!(root, FleetError::NoCgroup(_)), "{root}");
        for path in ["/etc/passwd", "relative", "/does/not/exist"] {
            let error = namespace_at(Path::new(path)).unwrap_err();
            assert!(matches!(error, FleetError::NoNamespace(_)), "{error}");
        }
        assert!(namespace_at(Path::new("/proc/self/ns/net")).is_ok());
    }

    #[test]
    fn k24_the_hosts_namespace_is_nobodys_own_whatever_is_said() {
        let visit = |path: Option<&str>| Visit {
            cgroup: PathBuf::from("/"),
            cgroup_id: 1,
            network: path.map(|path| namespace_at(Path::new(path)).unwrap()),
            netns: Netns::Shared,
        };
        for path in [None, Some("/proc/self/ns/net")] {
            let refused = visit(path).private(true).unwrap_err();
            assert!(matches!(refused, FleetError::NotPrivate(_)), "{path:?}: {refused}");
            assert_eq!(visit(path).private(false).unwrap().netns, Netns::Shared);
        }
        let other = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let mut made = visit(None);
        made.network = Some(other.join().unwrap().into());
        assert_eq!(made.private(true).unwrap().netns, Netns::Private);
    }
}
