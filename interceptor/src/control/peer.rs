//! Who may speak: the owner of the daemon and root, and nobody who lives in a sandbox (ATTACKS P1).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::net::UnixStream;

use super::{Control, Problem};
use crate::fleet::Fleet;
use crate::sandbox::cgroup;

/// The process at the other end, as the kernel knew it when it connected (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    uid: u32,
    /// `None` where it has no number here: it lives in a PID namespace that this one does not contain.
    pid: Option<i32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        Ok(Peer { uid: credentials.uid(), pid: credentials.pid().filter(|pid| *pid > 0) })
    }

    /// Whether it is of the right user at all.
    pub(super) fn is_owner(self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

/// Refuses every request of a process in a sandbox: root in a container is root to the socket, too.
pub(super) async fn admit(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let fleet = control.fleet.clone();
    let admitted = super::blocking(move || may_speak(&fleet, peer)).await;
    match admitted {
        Ok(Ok(())) => next.run(request).await,
        Ok(Err(why)) => {
            tracing::warn!(uid = peer.uid, pid = peer.pid, why, "refused a peer of the control socket");
            let title = "This process may not use the control API";
            Problem::new(StatusCode::FORBIDDEN, "peer_refused", title, why).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

fn may_speak(fleet: &Arc<Fleet>, peer: Peer) -> Result<(), &'static str> {
    if !peer.is_owner() {
        return Err("only root and the daemon's own user may");
    }
    let Some(pid) = peer.pid else {
        return Err("it lives in a PID namespace in which the daemon cannot see it");
    };
    let unknown = "it cannot be told whether it lives in a sandbox: it has ended, or /proc does not show it";
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| unknown)?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(unknown)?;
    let mount = cgroup::mount_point().map_err(|_| unknown)?;
    let enforced: Vec<u64> = fleet.list().iter().map(|member| member.cgroup_id).collect();
    if lives_below(&mount, Path::new(path), &enforced) {
        return Err("it lives in a sandbox, and a sandbox has no say in its own policy");
    }
    Ok(())
}

/// Whether a cgroup, as /proc shows it, is one of these or below one of them, or below those that `interceptor run` makes.
fn lives_below(mount: &Path, path: &Path, enforced: &[u64]) -> bool {
    let mut directory = mount.to_owned();
    for (depth, component) in path.components().filter(|part| *part != Component::RootDir).enumerate() {
        // A path with `..` leads out of the namespace that is mounted here; nothing enforced is there.
        directory.push(component);
        let id = fs::metadata(&directory).map(|found| found.ino());
        if id.is_ok_and(|id| enforced.contains(&id))
            || (depth == 1 && directory.parent() == Some(&mount.join("interceptor")))
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_a_process_in_or_below_an_enforced_cgroup_lives_in_a_sandbox() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("slice/sandbox/nested");
        fs::create_dir_all(&inner).unwrap();
        let id = fs::metadata(home.path().join("slice/sandbox")).unwrap().ino();
        let lives = |path: &str| lives_below(home.path(), Path::new(path), &[id]);
        assert!(lives("/slice/sandbox") && lives("/slice/sandbox/nested"));
        assert!(!lives("/") && !lives("/slice") && !lives("/slice/other"));
        assert!(lives("/interceptor/sb-1.2.3.4") && !lives("/interceptor"));
    }
}
