//! Limits a sandbox's processes and memory through the controllers of its cgroup (cgroups(7)). Its
//! CPU share is that of one cgroup among equals, however many processes it has.
//!
//! If a controller belongs to a version 1 hierarchy (systemd's hybrid mode), the sandbox also gets
//! a cgroup of the same name there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::SandboxError;
use super::hierarchy::{self, PARENT};
use super::mountinfo::{self, Mount};

/// Default limit of processes and threads: enough for parallel builds.
pub(crate) const PROCESSES: u64 = 4096;

/// A sandbox's resource limits. `None` means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Resources {
    /// Processes and threads.
    pub(crate) processes: Option<u64>,
    /// Bytes of memory, including page cache, sockets and kernel objects. Swap is not used.
    pub(crate) memory: Option<u64>,
}

/// A resource that can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Bounded {
    /// [`Resources::processes`].
    Processes,
    /// [`Resources::memory`].
    Memory,
}

impl std::fmt::Display for Bounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Bounded::Processes => "processes",
            Bounded::Memory => "memory",
        })
    }
}

/// A version 1 cgroup that matches the sandbox's own.
#[derive(Debug)]
pub(super) struct V1Cgroup {
    path: PathBuf,
    /// Whether the sandbox may do without it: it only protects others' performance.
    optional: bool,
}

impl V1Cgroup {
    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process in.
    pub(super) fn add(&self, process: Pid) -> Result<(), SandboxError> {
        let added = hierarchy::add(&self.path, process);
        if self.optional { Ok(()) } else { added }
    }
}

/// The controllers that limit a sandbox's resources (cgroup-v2.rst, cgroup-v1/ of the kernel's
/// documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    const ALL: [Controller; 3] = [Controller::Cpu, Controller::Memory, Controller::Pids];

    fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
        }
    }
}

/// The file has the same name and format in both versions.
const PIDS: &str = "pids.max";

impl Resources {
    /// Limits the cgroup at `path`, below [`PARENT`]; cgroups created in other hierarchies go to
    /// `beside`.
    pub(super) fn apply(
        &self,
        path: &Path,
        mounts: &[Mount],
        beside: &mut Vec<V1Cgroup>,
    ) -> Vec<Bounded> {
        let mut missing = Vec::new();
        for controller in Controller::ALL {
            let bound = match controller {
                Controller::Cpu => None,
                Controller::Memory => self.memory,
                Controller::Pids => self.processes,
            };
            if bound.is_none() && controller != Controller::Cpu {
                continue;
            }
            let set = match enable(path, controller) {
                Ok(()) => set_v2(path, controller, bound),
                Err(_) => in_version_1(path, mounts, controller, bound, beside),
            };
            if let Err(error) = set {
                tracing::info!(
                    controller = controller.name(),
                    %error,
                    "a controller cannot be used"
                );
                match controller {
                    Controller::Cpu => {}
                    Controller::Memory => missing.push(Bounded::Memory),
                    Controller::Pids => missing.push(Bounded::Processes),
                }
            }
        }
        missing
    }
}

/// Enables a controller for a version 2 cgroup, level by level from the root.
fn enable(path: &Path, controller: Controller) -> io::Result<()> {
    let lists = |file: PathBuf| {
        Ok::<_, io::Error>(
            fs::read_to_string(file)?.split_whitespace().any(|one| one == controller.name()),
        )
    };
    let levels: Vec<&Path> = path.ancestors().skip(1).take(2).collect();
    for level in levels.into_iter().rev() {
        if !lists(level.join("cgroup.controllers"))? {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = level.join("cgroup.subtree_control");
        if !lists(file.clone())? {
            fs::write(file, format!("+{}", controller.name()))?;
        }
    }
    Ok(())
}

fn set_v2(path: &Path, controller: Controller, bound: Option<u64>) -> io::Result<()> {
    let Some(bound) = bound else { return Ok(()) };
    match controller {
        Controller::Cpu => Ok(()),
        Controller::Pids => fs::write(path.join(PIDS), bound.to_string()),
        Controller::Memory => {
            fs::write(path.join("memory.max"), bound.to_string())?;
            // Absent if the kernel does not account swap.
            let _ = fs::write(path.join("memory.swap.max"), "0");
            Ok(())
        }
    }
}

/// The mount of the version 1 hierarchy with a controller.
fn version_1(mounts: &[Mount], controller: Controller) -> Option<&Path> {
    let has = |mount: &&Mount| {
        mount.kind == "cgroup"
            && mount.data.split(',').any(|option| option == controller.name())
            && mount.point.join("cgroup.procs").exists()
    };
    mounts.iter().rfind(has).map(|mount| mount.point.as_path())
}

fn in_version_1(
    like: &Path,
    mounts: &[Mount],
    controller: Controller,
    bound: Option<u64>,
    beside: &mut Vec<V1Cgroup>,
) -> io::Result<()> {
    let mount = version_1(mounts, controller).ok_or(io::ErrorKind::NotFound)?;
    let parent = mount.join(PARENT);
    let path = parent.join(like.file_name().unwrap_or_default());
    let optional = controller == Controller::Cpu;
    match beside.iter_mut().find(|one| one.path == path) {
        // Controllers may share a hierarchy.
        Some(known) => known.optional &= optional,
        None => {
            hierarchy::make_directory(&parent).map_err(io::Error::other)?;
            fs::create_dir(&path)?;
            beside.push(V1Cgroup { path: path.clone(), optional });
        }
    }
    let Some(bound) = bound else { return Ok(()) };
    match controller {
        Controller::Cpu => Ok(()),
        Controller::Pids => fs::write(path.join(PIDS), bound.to_string()),
        Controller::Memory => {
            fs::write(path.join("memory.limit_in_bytes"), bound.to_string())?;
            // Memory and swap together; absent if the kernel does not account swap.
            let _ = fs::write(path.join("memory.memsw.limit_in_bytes"), bound.to_string());
            Ok(())
        }
    }
}

/// The limits at which processes of these cgroups were refused something or killed.
pub(super) fn reached<'a>(cgroups: impl Iterator<Item = &'a Path>) -> Vec<Bounded> {
    let cgroups: Vec<&Path> = cgroups.collect();
    let counted = |files: &[&str], event: &str| {
        let all = cgroups.iter().flat_map(|cgroup| files.iter().map(|file| cgroup.join(file)));
        all.filter_map(|file| fs::read_to_string(file).ok()).any(|text| {
            let mut fields = text.lines().filter_map(|line| line.split_once(' '));
            fields.any(|(name, count)| name == event && count.trim() != "0")
        })
    };
    let events = [
        (Bounded::Processes, &["pids.events"][..], "max"),
        // The second is version 1's.
        (Bounded::Memory, &["memory.events", "memory.oom_control"], "oom_kill"),
    ];
    let all = events.into_iter().filter(|(_, files, event)| counted(files, event));
    all.map(|(resource, ..)| resource).collect()
}

/// The parent directories of our cgroups in version 1 hierarchies.
pub(super) fn parents() -> Vec<PathBuf> {
    let mounts = mountinfo::read().unwrap_or_default();
    let mut found: Vec<PathBuf> = Controller::ALL
        .iter()
        .filter_map(|one| Some(version_1(&mounts, *one)?.join(PARENT)))
        .collect();
    found.dedup();
    found
}

/// Three quarters of the available memory: the machine's, or that of the container this runs in.
pub(crate) fn most_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    // Absent in the root cgroup; `max` means unlimited.
    let container = hierarchy::mount_point().ok().and_then(|mount| {
        fs::read_to_string(mount.join("memory.max")).ok()?.trim().parse::<u64>().ok()
    });
    Some(container.map_or(machine, |container| container.min(machine)) / 4 * 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::cgroup::Cgroup;
    use std::process::Command;

    #[test]
    fn processes_beyond_the_bound_are_refused_and_nothing_stays() {
        let mut cgroup = Cgroup::create("sb-test-bounded").unwrap();
        let resources = Resources { processes: Some(7), memory: Some(64 << 20) };
        assert_eq!(cgroup.limit(&resources).unwrap(), [], "this machine has the controllers");
        let (parents, name) = cgroup.parents().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "read go; for n in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; wait"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        cgroup.add(Pid::from_raw(child.id() as i32)).unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        let mut said = String::new();
        let mut pipe = io::BufReader::new(child.stderr.take().unwrap());
        io::BufRead::read_line(&mut pipe, &mut said).unwrap();
        assert!(said.to_lowercase().contains("fork"), "{said}");
        assert_eq!(cgroup.reached(), [Bounded::Processes]);
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        drop(cgroup);
        assert!(!reaper.join().unwrap().success());
        for parent in parents {
            let path = fs::read_link(format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(&parent)
            ));
            assert!(!path.unwrap().join(&name).exists());
        }
    }

    #[test]
    fn controllers_of_version_2_are_handed_down_level_by_level() {
        // Plain files stand in for the kernel's: they keep what is written.
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join(PARENT);
        let path = parent.join("sb-test");
        fs::create_dir_all(&path).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "memory\n").unwrap();
        fs::write(parent.join("cgroup.controllers"), "memory pids\n").unwrap();
        fs::write(parent.join("cgroup.subtree_control"), "").unwrap();
        let resources = Resources { processes: Some(7), memory: Some(1 << 30) };
        let mut beside = Vec::new();
        assert_eq!(resources.apply(&path, &[], &mut beside), []);
        assert!(beside.is_empty());
        let read = |file: &Path| fs::read_to_string(file).unwrap();
        assert_eq!(read(&path.join("pids.max")), "7");
        assert_eq!(read(&path.join("memory.max")), (1_u64 << 30).to_string());
        assert_eq!(read(&path.join("memory.swap.max")), "0");
        // The last write; `memory` was already enabled at the upper level.
        assert_eq!(read(&root.path().join("cgroup.subtree_control")), "+pids");
        assert_eq!(read(&parent.join("cgroup.subtree_control")), "+pids");
        assert_eq!(reached([path.as_path()].into_iter()), []);
        fs::write(path.join("memory.events"), "low 0\nmax 5\noom 1\noom_kill 2\n").unwrap();
        fs::write(path.join("pids.events"), "max 0\n").unwrap();
        assert_eq!(reached([path.as_path()].into_iter()), [Bounded::Memory]);
    }

    #[test]
    fn what_cannot_be_bounded_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(PARENT).join("sb-test");
        let all = Resources { processes: Some(1), memory: Some(1) };
        let missing = all.apply(&path, &[], &mut Vec::new());
        assert_eq!(missing, [Bounded::Memory, Bounded::Processes]);
        assert_eq!(missing[0].to_string(), "memory");
        assert_eq!(Resources::default().apply(&path, &[], &mut Vec::new()), []);
        let most = most_memory().unwrap();
        assert!(most > 64 << 20, "{most}");
    }
}
