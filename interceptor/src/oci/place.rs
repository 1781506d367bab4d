//! Finds or creates the cgroup of a container, to which the programs are attached.
//!
//! An engine gives each container a cgroup named after it, and later runs `exec` there. A container
//! without one (`--cgroups=disabled`) shares its starter's cgroup, so it is moved into a new one
//! before its entrypoint starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{Attempt, OciError};
use crate::sandbox::cgroup;

/// Shortest container id to match cgroup names with; engines' ids have 64 digits.
const SHORTEST_ID: usize = 12;
/// How long the processes of a container that does not start may take to end.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// A container's cgroup. Dropping it removes the cgroup if it was created here and is empty.
#[derive(Debug)]
pub(crate) struct ContainerCgroup {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Whether it was created here; a later `exec` is then outside it.
    pub(crate) made: bool,
}

impl ContainerCgroup {
    /// Finds the cgroup of the container `id`, whose first process is `pid`, or creates one named
    /// `sandbox` if the container has none of its own.
    ///
    /// # Errors
    /// If the process is gone, or the kernel refuses.
    pub(crate) fn of(pid: i32, id: &str, sandbox: &str) -> Result<Self, OciError> {
        let file = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&file).attempt(|| format!("cannot read {file}"))?;
        let below = text.lines().find_map(|line| line.strip_prefix("0::"));
        let below = Path::new(below.unwrap_or("/"));
        let mount = cgroup::mount_point()?;
        let current = mount.join(below.strip_prefix("/").unwrap_or(below));
        let path = mount.join(own(below, id).strip_prefix("/").unwrap_or(below));
        // The root has no `cgroup.events`. A cgroup that vanishes meanwhile belongs to somebody
        // else.
        let is_own = path.join("cgroup.events").exists()
            && cgroup::processes(&path).is_ok_and(|members| members == [Pid::from_raw(pid)]);
        if is_own {
            return Ok(ContainerCgroup { path, made: false });
        }
        let path = current.join(format!("interceptor-{sandbox}"));
        fs::create_dir(&path).attempt(|| format!("cannot make the cgroup {}", path.display()))?;
        let made = ContainerCgroup { path, made: true };
        cgroup::add(&made.path, Pid::from_raw(pid))?;
        Ok(made)
    }
}

impl Drop for ContainerCgroup {
    fn drop(&mut self) {
        if self.made {
            remove(&self.path);
        }
    }
}

/// Whether a cgroup or a descendant has processes.
pub(crate) fn is_populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events"))
        .is_ok_and(|events| events.contains("populated 1"))
}

/// Removes an ended container's cgroup once it is empty.
pub(crate) fn remove(path: &Path) {
    let deadline = Instant::now() + EMPTY_WITHIN;
    while let Err(error) = fs::remove_dir(path) {
        if error.kind() == std::io::ErrorKind::NotFound || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The topmost part of a process's cgroup path that is named after the container; the whole path if
/// none is. Runtimes may create cgroups below it that do not hold every process of the container.
fn own<'a>(below: &'a Path, id: &str) -> &'a Path {
    if id.len() < SHORTEST_ID {
        return below;
    }
    let named = below
        .ancestors()
        .filter(|part| part.file_name().is_some_and(|name| name.to_string_lossy().contains(id)));
    named.last().unwrap_or(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_cgroup_is_the_topmost_that_is_named_after_it() {
        let id = "22d712e4dc2dcf503986b9d1e9a8c7ec";
        for (process, expected) in [
            (
                format!("/machine.slice/libpod-{id}.scope/container"),
                format!("/machine.slice/libpod-{id}.scope"),
            ),
            (format!("/libpod_parent/libpod-{id}"), format!("/libpod_parent/libpod-{id}")),
            (
                format!("/kubepods.slice/pod1.slice/crio-{id}.scope"),
                format!("/kubepods.slice/pod1.slice/crio-{id}.scope"),
            ),
            (format!("/docker/{id}/init"), format!("/docker/{id}")),
            ("/user.slice/session-1.scope".into(), "/user.slice/session-1.scope".into()),
            ("/".into(), "/".into()),
        ] {
            assert_eq!(own(Path::new(&process), id), Path::new(&expected));
        }
        assert_eq!(own(Path::new("/a/b"), "a"), Path::new("/a/b"), "a short id names nothing");
    }

    #[test]
    fn a_process_in_a_shared_cgroup_is_moved_into_one_of_its_own() {
        // A cgroup of its own: other tests create threaded cgroups, below which no process can be
        // moved.
        let shared = cgroup::mount_point()
            .unwrap()
            .join(format!("interceptor-place-{}", std::process::id()));
        fs::create_dir(&shared).unwrap();
        let sleep = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut children = [sleep(), sleep()];
        let pids = children.each_ref().map(|child| child.id() as i32);
        pids.iter().for_each(|pid| cgroup::add(&shared, Pid::from_raw(*pid)).unwrap());
        let place = |sandbox: &str| ContainerCgroup::of(pids[0], "none-of-its-own", sandbox);
        let (made, again) = (place("made"), place("again"));
        children.iter_mut().for_each(|child| child.kill().unwrap());
        for child in &mut children {
            child.wait().unwrap();
        }
        let (path, seen) = {
            let (made, again) = (made.unwrap(), again.unwrap());
            (made.path.clone(), (made.made, again.made, made.path == again.path))
        };
        remove(&shared);
        assert_eq!(seen, (true, false, true));
        assert!(!path.exists() && !shared.exists());
    }
}
