//! Finds, creates, fills and removes a sandbox's cgroup (cgroups(7); cgroup v2 only, wherever it is
//! mounted).
//!
//! Our cgroups are below `<mount>/interceptor/`. The directory's name identifies its owner, so that
//! a later supervisor recognises and removes the cgroup of a killed one.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::SandboxError;
use super::error::IoContext;
pub(super) use super::hierarchy::PARENT;
use super::hierarchy::make_directory;
pub(crate) use super::hierarchy::{add, find, mount_point};
use super::mountinfo;
use super::resources::{self, Bounded, Resources, V1Cgroup};

/// How long a killed cgroup may take to become empty: its processes must be reaped first.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// The kernel's id of a cgroup (`bpf_get_current_cgroup_id`): the inode number of its directory.
pub(crate) fn id_of(path: &Path) -> Result<u64, SandboxError> {
    let metadata =
        fs::metadata(path).context(|| format!("cannot examine the cgroup {}", path.display()))?;
    Ok(metadata.ino())
}

/// A cgroup this process created. Dropping it kills the processes inside and removes it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    id: u64,
    /// The matching cgroups in version 1 hierarchies.
    beside: Vec<V1Cgroup>,
}

impl Cgroup {
    /// Creates the cgroup of the sandbox `id` (letters, digits, `-` and `_`), after
    /// removing those of dead supervisors.
    pub(crate) fn create(id: &str) -> Result<Self, SandboxError> {
        debug_assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let parent = mount_point()?.join(PARENT);
        make_directory(&parent)?;
        remove_stale(&parent);
        for parent in resources::parents() {
            remove_stale(&parent);
        }
        let owner = Owner::this().context(|| "cannot read /proc/self".into())?;
        let path = parent.join(format!("{id}.{owner}"));
        fs::create_dir(&path).context(|| format!("cannot make the cgroup {}", path.display()))?;
        // From here on a failure removes the directory.
        let mut cgroup = Cgroup { path, id: 0, beside: Vec::new() };
        cgroup.id = id_of(&cgroup.path)?;
        Ok(cgroup)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its id in the kernel.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Limits its processes' resources, before there are any. Returns the limits that could not be
    /// set.
    pub(crate) fn limit(&mut self, resources: &Resources) -> Result<Vec<Bounded>, SandboxError> {
        let mounts = mountinfo::read().context(|| "cannot read /proc/self/mountinfo".into())?;
        Ok(resources.apply(&self.path, &mounts, &mut self.beside))
    }

    /// The limits its processes have hit.
    pub(crate) fn reached(&self) -> Vec<Bounded> {
        resources::reached(self.all())
    }

    /// Its directory in each hierarchy.
    fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path.as_path()).chain(self.beside.iter().map(V1Cgroup::path))
    }

    /// Moves a process in.
    pub(crate) fn add(&self, process: Pid) -> Result<(), SandboxError> {
        self.beside.iter().try_for_each(|beside| beside.add(process))?;
        add(&self.path, process)
    }

    /// Its parent directories, in every hierarchy, and its name there: enough to remove the cgroups
    /// from a mount namespace that does not show them.
    pub(crate) fn parents(&self) -> Result<(Vec<OwnedFd>, String), SandboxError> {
        let open = |path: &Path| {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let directory = File::open(parent)
                .context(|| format!("cannot open the cgroup {}", parent.display()))?;
            Ok(directory.into())
        };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((self.all().map(open).collect::<Result<_, SandboxError>>()?, name))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(
                cgroup = %self.path.display(),
                %error,
                "cannot remove the sandbox's cgroup"
            );
        }
        for beside in &self.beside {
            if let Err(error) = remove(beside.path()) {
                let cgroup = beside.path().display();
                tracing::warn!(%cgroup, %error, "the sandbox's cgroup could not be removed");
            }
        }
    }
}

/// The processes of a cgroup and its descendants.
pub(crate) fn processes(path: &Path) -> io::Result<Vec<Pid>> {
    let mut found: Vec<Pid> = fs::read_to_string(path.join("cgroup.procs"))?
        .lines()
        .filter_map(|line| line.parse().ok().map(Pid::from_raw))
        .collect();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(processes(&entry.path())?);
        }
    }
    Ok(found)
}

/// Kills everything in a cgroup and removes it with its descendants.
fn remove(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {
                // `cgroup.kill` exists since Linux 5.14; before, kill each process. Some may
                // already be gone.
                if fs::write(path.join("cgroup.kill"), "1").is_err() {
                    for process in processes(path).unwrap_or_default() {
                        let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Removes the cgroups of dead supervisors: only ours, and only of this PID namespace.
fn remove_stale(parent: &Path) {
    let (Ok(entries), Ok(namespace)) = (fs::read_dir(parent), pid_namespace()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(Owner::of_name) else { continue };
        if owner.namespace != namespace || start_time(owner.process) == Some(owner.started) {
            continue;
        }
        match remove(&entry.path()) {
            Ok(()) => {
                tracing::info!(
                    cgroup = %entry.path().display(),
                    "removed the cgroup of a crashed interceptor"
                )
            }
            Err(error) => {
                tracing::warn!(
                    cgroup = %entry.path().display(),
                    %error,
                    "cannot remove a stale cgroup"
                )
            }
        }
    }
}

/// The supervisor of a sandbox, identified so that a reused process id is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    process: i32,
    /// Clock ticks after boot: field 22 of proc_pid_stat(5).
    started: u64,
    /// The inode of the PID namespace: process ids mean nothing in another one.
    namespace: u64,
}

impl Owner {
    fn this() -> io::Result<Self> {
        let process = nix::unistd::getpid().as_raw();
        let started = start_time(process)
            .ok_or_else(|| io::Error::other("no start time in /proc/self/stat"))?;
        Ok(Owner { process, started, namespace: pid_namespace()? })
    }

    fn of_name(name: &str) -> Option<Self> {
        let mut fields = name.split('.').skip(1);
        let owner = Owner {
            process: fields.next()?.parse().ok()?,
            started: fields.next()?.parse().ok()?,
            namespace: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(owner)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.process, self.started, self.namespace)
    }
}

fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process started; `None` if it does not exist (a zombie counts as gone).
fn start_time(process: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may contain anything, so parse from the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // `state` is field 3, `starttime` field 22.
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_cgroup_is_made_populated_and_removed_with_what_lives_in_it() {
        let cgroup = Cgroup::create("sb-test-populated").unwrap();
        let path = cgroup.path().to_owned();
        assert_eq!(cgroup.id(), id_of(&path).unwrap());
        fs::create_dir(path.join("nested")).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        add(&path.join("nested"), pid).unwrap();
        assert_eq!(processes(&path).unwrap(), [pid]);
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        drop(cgroup);
        assert!(!reaper.join().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn o7_the_cgroup_of_a_dead_supervisor_is_removed_and_that_of_a_live_one_is_not() {
        let parent = mount_point().unwrap().join(PARENT);
        make_directory(&parent).unwrap();
        let this = Owner::this().unwrap();
        let dead =
            parent.join(format!("sb-stale-test.{}", Owner { started: this.started - 1, ..this }));
        let foreign =
            parent.join(format!("sb-stale-test.{}", Owner { started: 1, namespace: 1, ..this }));
        let unknown = parent.join("somebody-elses");
        for path in [&dead, &foreign, &unknown] {
            fs::create_dir(path).unwrap();
        }
        let live = Cgroup::create("sb-stale-live").unwrap();
        let second = Cgroup::create("sb-stale-second").unwrap();
        let seen = [
            dead.exists(),
            foreign.exists(),
            unknown.exists(),
            live.path().exists(),
            second.path().exists(),
        ];
        for path in [&foreign, &unknown] {
            fs::remove_dir(path).unwrap();
        }
        assert_eq!(seen, [false, true, true, true, true]);
    }

    #[test]
    fn an_owner_survives_its_name() {
        let owner = Owner { process: 7, started: 99, namespace: 4_026_531_836 };
        assert_eq!(Owner::of_name(&format!("sb-1.{owner}")), Some(owner));
        for name in ["sb-1", "sb-1.7.99", "sb-1.7.99.5.6", "sb-1.x.99.5", "sb-1.7.-1.5"] {
            assert_eq!(Owner::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_start_time() {
        assert_eq!(start_time(i32::MAX), None);
        assert!(start_time(1).is_some());
    }
}
