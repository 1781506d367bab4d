//! Access control for the socket: the daemon's owner and root, but no process in a sandbox (attack
//! P1).
//!
//! A peer is judged when its connection is accepted, through a pidfd, and a rejection is final
//! (attack P6). Each request checks the same process again, since it may have entered a sandbox
//! meanwhile.

use std::fmt;
use std::fs;
use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::net::UnixStream;

use super::process::{Process, Program};
use super::shared::{Control, Reader, Speaker, blocking};
use super::{ApiProblem, bounds};
use crate::fleet::Fleet;
use crate::kernel;
use crate::sandbox::cgroup;

/// The title of the response to a rejected peer.
pub(super) const MAY_NOT: &str = "This process may not use the control API";
const ENDED: &str =
    "cannot determine whether it is in a sandbox: it has exited, or /proc does not show it";

const LIVES: &str = "it is in a sandbox, and a sandbox cannot control its own policy";
const UNSEEN: &str = "cannot determine whether it is in a sandbox: the daemon failed to look at \
                      it, perhaps because the host lacks descriptors or memory; try again";
pub(super) const UNKNOWN: &str =
    "cannot determine whether it is in a sandbox: its cgroup cannot be examined";

/// The process at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer(Arc<PeerIdentity>);

#[derive(Debug)]
struct PeerIdentity {
    uid: u32,
    /// Whether it runs as a permitted user.
    is_owner: bool,
    /// Or why there is none.
    process: Result<Process, &'static str>,
    /// The program it ran at that time.
    program: Option<OwnedFd>,
    /// Why it was rejected then, if it was.
    found: Result<(), &'static str>,
}

/// The successor, for the log and the records.
#[derive(Clone, Debug)]
pub(crate) struct Successor {
    number: i32,
    uid: u32,
    program: PathBuf,
}

impl fmt::Display for Successor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {}, uid {}, {}", self.number, self.uid, self.program.display())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "uid {}", self.0.uid)?;
        match self.0.process.as_ref().ok().and_then(|process| process.number().ok()) {
            Some(number) => write!(formatter, ", pid {number}"),
            None => formatter.write_str(", which has exited"),
        }
    }
}

impl Peer {
    /// Judges the peer of a connection just accepted. Blocks briefly.
    ///
    /// # Errors
    /// If the kernel does not report the peer's credentials.
    pub(super) fn judge(stream: &UnixStream, fleet: &Fleet) -> io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        let uid = credentials.uid();
        let process = Process::of(stream, credentials.pid().filter(|pid| *pid > 0));
        let process = process.map_err(|error| match error.raw_os_error() {
            // Also of a process that was waited for before the connection was accepted.
            Some(libc::ESRCH | libc::EINVAL | libc::ENODATA) | None => ENDED,
            Some(_) => {
                tracing::debug!(%error, "cannot hold a peer of the control socket");
                UNSEEN
            }
        });
        // Only root may take over, and only if it still runs the same program. Checked first, since
        // it may exec at any moment.
        let root = process.as_ref().ok().filter(|_| uid == 0);
        let program = root.and_then(|process| process.program().ok());
        let is_owner = uid == 0 || uid == fleet.owner();
        let known = PeerIdentity { uid, is_owner, process, program, found: Ok(()) };
        let found = known.may_speak(fleet);
        Ok(Peer(Arc::new(PeerIdentity { found, ..known })))
    }

    /// Whether it runs as a permitted user.
    pub(super) fn is_owner(&self) -> bool {
        self.0.is_owner
    }

    /// Whether nothing is known of it but that it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.0.found == Err(ENDED)
    }

    /// The user it runs as.
    pub(super) fn uid(&self) -> u32 {
        self.0.uid
    }

    /// The verdict when it connected, which is final if negative.
    pub(super) fn found(&self) -> Result<(), &'static str> {
        self.0.found
    }

    /// Whether this process may receive the keys: it must be root, outside every sandbox, untraced,
    /// and run this daemon's program or one of `named`. Blocks briefly.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn may_take_over(
        &self,
        fleet: &Fleet,
        named: &[PathBuf],
    ) -> Result<Successor, &'static str> {
        self.0.may_speak_still(fleet)?;
        if self.0.uid != 0 {
            return Err("only root may");
        }
        let (Ok(process), Some(before)) = (&self.0.process, &self.0.program) else {
            return Err("cannot determine which program it runs");
        };
        let unknown = |_| "cannot determine which program it runs";
        let before = before.try_clone().and_then(Program::of).map_err(unknown)?;
        let program = process.program().and_then(Program::of).map_err(unknown)?;
        if !program.is(&before) {
            return Err("it runs a different program than when it connected");
        }
        let own = Program::own().map_err(unknown)?;
        let named = named.iter().filter_map(|path| Program::at(path).ok());
        // Read only if needed: the peer controls the file's contents.
        let permitted: Vec<Program> = iter::once(own)
            .chain(named)
            .filter(|permitted| permitted.may_equal(&program))
            .collect();
        let is_permitted = permitted.iter().any(|permitted| permitted.is(&program))
            || (!permitted.is_empty() && {
                let content = process.content().and_then(Program::of).map_err(unknown)?;
                content.is(&program)
                    && permitted.iter().any(|permitted| permitted.equals(&content).unwrap_or(false))
            });
        if !is_permitted {
            return Err("it runs a different program than this daemon: name that program when \
                        the daemon is started, with `serve --successor PATH`");
        }
        if process.is_traced().map_err(unknown)? {
            return Err("another process traces it");
        }
        let number = process.number().map_err(unknown)?;
        Ok(Successor { number, uid: self.0.uid, program: program.path() })
    }
}

impl Reader for Peer {
    async fn lasts(&self, fleet: &Arc<Fleet>) -> bool {
        let (peer, fleet) = (self.clone(), fleet.clone());
        matches!(blocking(move || peer.0.may_speak_still(&fleet)).await, Ok(Ok(())))
    }
}

impl PeerIdentity {
    /// The verdict when it connected, or now.
    fn may_speak_still(&self, fleet: &Fleet) -> Result<(), &'static str> {
        self.found.and_then(|()| self.may_speak(fleet))
    }

    fn may_speak(&self, fleet: &Fleet) -> Result<(), &'static str> {
        if !self.is_owner {
            return Err("only root and the daemon's own user may");
        }
        outside(self.process.as_ref().map_err(|why| *why)?, &fleet.cgroups())
    }
}

/// Whether a process is outside every sandbox, by what the kernel knows.
///
/// # Errors
/// Why it is not, or why that cannot be told.
pub(crate) fn outside_sandboxes(process: &Process) -> Result<(), &'static str> {
    outside(process, &[])
}

/// Whether a process is in a sandbox, as far as that can be told: without root's rights, only one
/// of `interceptor run` is recognised.
pub(crate) fn is_in_sandbox(process: &Process) -> Option<bool> {
    // Nothing is told of one that /proc does not show, however long one waits.
    process.number().ok()?;
    match outside_sandboxes(process) {
        Ok(()) => Some(false),
        Err(LIVES) => Some(true),
        Err(_) => None,
    }
}

fn outside(process: &Process, enforced: &[u64]) -> Result<(), &'static str> {
    let path = process.cgroup().map_err(|error| unseen(process, &error))?;
    outside_at(&mount()?, &path, enforced)
}

/// Where cgroups are.
pub(super) fn mount() -> Result<PathBuf, &'static str> {
    cgroup::mount_point().map_err(|error| {
        tracing::debug!(%error, "cannot tell where cgroups are");
        UNSEEN
    })
}

/// Whether what is in the cgroup at `path`, as /proc shows it, is outside every sandbox.
pub(super) fn outside_at(mount: &Path, path: &Path, enforced: &[u64]) -> Result<(), &'static str> {
    if lives_below(mount, path, enforced).map_err(|_| UNKNOWN)? {
        return Err(LIVES);
    }
    // Sandboxes of other interceptors (`attach`, hooks, a second daemon, crashed ones) are not in
    // our table, but the kernel knows them.
    let own = mount.join(path.strip_prefix("/").unwrap_or(path));
    match kernel::is_enforced(&own) {
        Ok(false) => Ok(()),
        Ok(true) => Err(LIVES),
        Err(error) => {
            tracing::debug!(%error, "cannot tell whether a peer is in a sandbox");
            Err(UNKNOWN)
        }
    }
}

/// Why a process could not be looked at. Only one that really exited is reported as such.
fn unseen(process: &Process, error: &io::Error) -> &'static str {
    if process.is_alive().unwrap_or(true) {
        tracing::debug!(%error, "cannot look at a living peer of the control socket");
        return UNSEEN;
    }
    ENDED
}

/// Refuses every request from a process in a sandbox: root in a container can open the socket too.
pub(super) async fn admit(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let (fleet, judged) = (control.fleet.clone(), peer.clone());
    request.extensions_mut().insert(Speaker::user(peer.uid()));
    let answer = match blocking(move || judged.0.may_speak_still(&fleet)).await {
        Ok(Ok(())) => {
            let (head, body) = request.into_parts();
            let (body, unread) = bounds::timely(body);
            let answer = next.run(Request::from_parts(head, body)).await;
            unread.drain().await;
            return answer;
        }
        Ok(Err(why)) => refused(&peer, MAY_NOT, why),
        Err(problem) => problem.into_response(),
    };
    bounds::drain(request.into_body()).await;
    answer
}

/// The response to a peer that may not make this request.
pub(super) fn refused(peer: &Peer, title: &'static str, why: &'static str) -> Response {
    let pid = peer.0.process.as_ref().ok().and_then(|process| process.number().ok());
    tracing::warn!(uid = peer.0.uid, pid, why, "refused a peer of the control socket");
    refusal(title, why).into_response()
}

/// The same as a problem document.
pub(super) fn refusal(title: &'static str, why: &'static str) -> ApiProblem {
    if why == UNSEEN {
        let title = "The peer cannot be examined";
        return ApiProblem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, why);
    }
    ApiProblem::new(StatusCode::FORBIDDEN, "peer_refused", title, why)
}

/// Whether a cgroup, as /proc shows it, is at or below one of these, or below those of `interceptor
/// run`.
///
/// # Errors
/// If it cannot be determined: a cgroup on the path is not visible, or outside the namespace
/// mounted here.
fn lives_below(mount: &Path, path: &Path, enforced: &[u64]) -> io::Result<bool> {
    let mut directory = mount.to_owned();
    for (depth, component) in
        path.components().filter(|part| *part != Component::RootDir).enumerate()
    {
        if component == Component::ParentDir {
            return Err(io::ErrorKind::NotFound.into());
        }
        directory.push(component);
        let is_ours = depth == 1 && directory.parent() == Some(&mount.join("interceptor"));
        if is_ours || enforced.contains(&fs::metadata(&directory)?.ino()) {
            return Ok(true);
        }
    }
    Ok(false)
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
        for path in ["slice/other", "interceptor/sb-1.2.3.4"] {
            fs::create_dir_all(home.path().join(path)).unwrap();
        }
        let lives = |path: &str| lives_below(home.path(), Path::new(path), &[id]);
        assert!(lives("/slice/sandbox").unwrap() && lives("/slice/sandbox/nested").unwrap());
        for path in ["/", "/slice", "/slice/other", "/interceptor"] {
            assert!(!lives(path).unwrap(), "{path}");
        }
        assert!(lives("/interceptor/sb-1.2.3.4").unwrap());
        for path in ["/../slice", "/slice/unseen", "/slice/other (deleted)"] {
            lives(path).unwrap_err();
        }
    }
}
