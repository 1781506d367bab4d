//! Where a sandbox of somebody else's making is: its cgroup, and its network namespace. And what it may be called.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, fstatfs, statfs};
use nix::unistd::Pid;

use super::FleetError;
use super::error::Context;
use crate::privilege::attendant;
use crate::sandbox::cgroup;

/// The longest id, as long as the ids of container engines.
const LONGEST_ID: usize = 64;
/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(libc::NSFS_MAGIC as _);

/// Whether a sandbox may be called so: an id becomes a part of paths, of records and of a certificate.
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
        "an id is 1 to {LONGEST_ID} letters (A-Z, a-z), digits, `-` and `_`, the first of them a letter or a digit"
    )))
}

/// Whose loopback a network namespace holds. Who made the namespace knows; its devices tell
/// nothing: a host may have no device but `lo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Netns {
    /// It was made for this sandbox alone, by this product or by a container engine: its loopback
    /// is the sandbox's own.
    Private,
    /// It is also others', or nobody said whose it is: their services listen on its loopback.
    Shared,
}

/// A cgroup to put under enforcement, and the network namespace of what runs there.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The cgroup's directory, without symbolic links.
    pub(crate) cgroup: PathBuf,
    /// Its id in the kernel.
    pub(crate) cgroup_id: u64,
    /// The network namespace; `None` for this process's own.
    pub(crate) network: Option<OwnedFd>,
    /// Whose that namespace is.
    pub(crate) netns: Netns,
}

impl Visit {
    /// Looks at the cgroup, which is a directory of a mounted cgroup v2 or a path below its mount as `/proc/PID/cgroup` shows it,
    /// and opens the network namespace: that at the path `netns`, else that of the process `pid`, which must be in the cgroup, else
    /// that of the cgroup's first process, else this process's own.
    ///
    /// # Errors
    /// [`FleetError::NoCgroup`], [`FleetError::NoNamespace`], or what the system says.
    pub(crate) fn find(cgroup: &Path, pid: Option<i32>, netns: Option<&Path>) -> Result<Visit, FleetError> {
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

    /// Takes the word of who made the network namespace that it is this sandbox's alone, if `told`.
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
        // Where process 1 may not be looked at, the word of who asks is all there is.
        let first = attendant::network_of(1).ok().map(|first| identity(File::from(first).metadata()));
        let first = first.transpose()?;
        let own = identity(fs::metadata("/proc/self/ns/net"))?;
        let network = match &self.network {
            Some(network) => identity(network.try_clone().map(File::from).and_then(|file| file.metadata()))?,
            None => own,
        };
        if network == own || Some(network) == first {
            return Err(FleetError::NotPrivate(
                "this network namespace is the host's: its loopback is not the sandbox's own".into(),
            ));
        }
        self.netns = Netns::Private;
        Ok(self)
    }
}

/// The directory that `path` names, either itself or below the mount. Errors do not repeat it: who asked knows it, and may have put
/// something else there by mistake.
fn directory(path: &Path) -> Result<PathBuf, FleetError> {
    let mount = cgroup::mount_point()?;
    let below = mount.join(path.strip_prefix("/").unwrap_or(path));
    let candidates = [path.to_owned(), below];
    let Some(found) = candidates.iter().find(|candidate| candidate.join("cgroup.procs").exists()) else {
        return Err(FleetError::NoCgroup(format!(
            "this is no cgroup: give the directory of one below {}, or its path as /proc/PID/cgroup shows it",
            mount.display()
        )));
    };
    let found = fs::canonicalize(found).context(|| format!("cannot resolve {}", found.display()))?;
    let kind = statfs(&found).context(|| format!("cannot examine {}", found.display()))?.filesystem_type();
    if kind != CGROUP2_SUPER_MAGIC {
        let why =
            "this is a cgroup of version 1, which eBPF programs cannot be attached to: use its cgroup v2";
        return Err(FleetError::NoCgroup(why.to_owned()));
    }
    if !found.join("cgroup.events").exists() {
        let why = "this is the root of all cgroups, the interceptor's own among them: give one below it";
        return Err(FleetError::NoCgroup(why.to_owned()));
    }
    Ok(found)
}

/// The process that was named, if it is in the cgroup; else the first one there.
fn member(cgroup: &Path, pid: Option<i32>) -> Result<Option<Pid>, FleetError> {
    let members =
        cgroup::processes(cgroup).context(|| format!("cannot list the processes of {}", cgroup.display()))?;
    match pid.map(Pid::from_raw) {
        Some(pid) if !members.contains(&pid) => {
            Err(FleetError::NoNamespace(format!("process {pid} is not in the cgroup {}", cgroup.display())))
        }
        Some(pid) => Ok(Some(pid)),
        None => Ok(members.first().copied()),
    }
}

/// The network namespace of a process; `None` if it is our own.
fn namespace_of(member: Pid) -> Result<Option<OwnedFd>, FleetError> {
    let path = format!("/proc/{member}/ns/net");
    let namespace = attendant::network_of(member.as_raw()).context(|| format!("cannot open {path}"))?;
    let namespace = File::from(namespace);
    let own = fs::metadata("/proc/self/ns/net").context(|| "cannot examine /proc/self/ns/net".into())?;
    let other = namespace.metadata().context(|| format!("cannot examine {path}"))?;
    Ok(((own.dev(), own.ino()) != (other.dev(), other.ino())).then(|| namespace.into()))
}

/// The network namespace that a file stands for, e.g. one below `/run/netns`.
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
    let kind = fstatfs(&file).context(|| "cannot examine the network namespace".into())?.filesystem_type();
    if kind != NSFS_MAGIC {
        return Err(refused("this is no namespace; `ip netns` keeps them below /run/netns".into()));
    }
    Ok(file.into())
}

/// The process whose network namespace procfs has at this path.
fn process_of(path: &Path) -> Option<i32> {
    path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_an_id_that_could_lead_elsewhere_is_none() {
        let long = "a".repeat(65);
        for id in
            ["", "../x", "a/b", "a\nb", "a.b", "-a", "_a", "a b", "ä", "\u{202e}a", "a\0", long.as_str()]
        {
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
