//! Who is at the other end of a member's connection, as the kernel says.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};

use crate::control;
use crate::sandbox::cgroup;
use crate::sandbox::resources::Resources;
use crate::sandbox::rlimits::ResourceLimits;

/// The namespaces that a member must share with the daemon: in another, a path or a number means
/// something else, and the member may be confined there.
const SHARED: [&str; 3] = ["mnt", "pid", "user"];

/// The process that connected.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) limits: ResourceLimits,
    /// What the cgroup of the process may use.
    pub(super) bounds: Resources,
}

/// The user at the other end of a connection.
///
/// # Errors
/// As getsockopt(2).
pub(super) fn user(connection: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(connection, sockopt::PeerCredentials)?.uid())
}

/// Finds out who connected.
///
/// # Errors
/// Why this process may not use the daemon.
pub(super) fn examine(connection: &impl AsFd, group: u32) -> Result<Member, String> {
    const UNKNOWN: &str = "the daemon cannot tell who you are: your process has ended, or /proc \
                           does not show it";
    let unknown = |error: io::Error| {
        tracing::debug!(%error, "a member cannot be examined");
        UNKNOWN.to_owned()
    };
    let credentials =
        getsockopt(connection, sockopt::PeerCredentials).map_err(|error| unknown(error.into()))?;
    let process = control::Process::of(connection, Some(credentials.pid()).filter(|pid| *pid > 0))
        .map_err(unknown)?;
    let found = process.look(|number| {
        let directory = PathBuf::from(format!("/proc/{number}"));
        let status = Status::read(&directory)?;
        let elsewhere = SHARED.iter().find(|name| !is_shared(&directory, name));
        Ok((status, elsewhere.copied(), ResourceLimits::of(&directory)?))
    });
    let (status, elsewhere, limits) = found.map_err(unknown)?;
    let bounds = bounds(&process.cgroup().map_err(unknown)?);
    let Status { uids, gid, groups, no_new_privs } = status;
    if uids.iter().any(|uid| *uid != credentials.uid()) {
        return Err("a program with another user's rights cannot use the daemon".to_owned());
    }
    if credentials.gid() != group && gid != group && !groups.contains(&group) {
        return Err("you are no member of the daemon's group".to_owned());
    }
    if let Some(name) = elsewhere {
        return Err(format!(
            "your process is in a container or another sandbox (its {name} namespace is not the \
             daemon's): type the command outside of it"
        ));
    }
    if no_new_privs && !Status::read(Path::new("/proc/self")).map_err(unknown)?.no_new_privs {
        return Err("your process has given up gaining rights (no_new_privs), so it can use \
                    neither sudo nor the daemon: type the command outside of what confines it"
            .to_owned());
    }
    control::outside_sandboxes(&process).map_err(|why| format!("you may not: {why}"))?;
    Ok(Member { uid: credentials.uid(), gid, groups, limits, bounds })
}

/// What a cgroup and those around it may use, where that is limited (cgroups(7)).
fn bounds(path: &Path) -> Resources {
    let Ok(mount) = cgroup::mount_point() else { return Resources::default() };
    let own = mount.join(path.strip_prefix("/").unwrap_or(path));
    let around = || own.ancestors().take_while(|around| around.starts_with(&mount));
    let least = |file: &str| {
        let limit = |around: &Path| fs::read_to_string(around.join(file)).ok()?.trim().parse().ok();
        around().filter_map(limit).min()
    };
    Resources { processes: least("pids.max"), memory: least("memory.max") }
}

fn is_shared(process: &Path, name: &str) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns").join(name));
    namespace(process)
        .is_ok_and(|theirs| namespace(Path::new("/proc/self")).is_ok_and(|ours| ours == theirs))
}

/// What `/proc/PID/status` says (proc_pid_status(5)).
#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// The real, effective, saved and file system user.
    uids: Vec<u32>,
    /// The real group.
    gid: u32,
    groups: Vec<u32>,
    no_new_privs: bool,
}

impl Status {
    fn read(process: &Path) -> io::Result<Status> {
        let text = fs::read_to_string(process.join("status"))?;
        Status::parse(&text).ok_or_else(|| io::Error::other("its status cannot be understood"))
    }

    fn parse(text: &str) -> Option<Status> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let numbers = |name: &str| {
            let words = field(name)?.split_whitespace();
            words.map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>()
        };
        let uids = numbers("Uid:").filter(|uids| uids.len() == 4)?;
        Some(Status {
            uids,
            gid: numbers("Gid:")?.first().copied()?,
            groups: numbers("Groups:")?,
            no_new_privs: field("NoNewPrivs:")?.trim() != "0",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_status_is_read_and_what_is_none_is_refused() {
        let text = "Name:\tx\nUid:\t5\t5\t5\t5\nGid:\t6\t7\t7\t7\nGroups:\t6 9 \nNoNewPrivs:\t1\n";
        let status = Status { uids: vec![5; 4], gid: 6, groups: vec![6, 9], no_new_privs: true };
        assert_eq!(Status::parse(text), Some(status));
        for broken in ["", "Uid:\t5\n", &text.replace("Groups", "X"), &text.replace("5\t5\t5", "5")]
        {
            assert_eq!(Status::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn whoever_is_in_no_group_is_refused_and_the_groups_are_the_kernels() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = examine(&ours, 54321).unwrap_err();
        assert!(error.contains("no member"), "{error}");
        let member = examine(&ours, nix::unistd::getgid().as_raw()).unwrap();
        assert_eq!(member.uid, nix::unistd::getuid().as_raw());
        let own = nix::unistd::getgroups().unwrap();
        let own: Vec<u32> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
        assert_eq!(member.groups, own);
    }
}
