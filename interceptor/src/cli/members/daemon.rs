//! The daemon's part: the socket for members, and the process that accepts their connections.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use socket2::{Domain, SockAddr, Socket, Type};

use super::access::{Rule, group_number};
use super::wire::{Opening, Operator, Turn};
use crate::cli::Common;
use crate::sandbox::handover::Channel;

/// The name of the socket, beside the control socket.
const NAME: &str = "run.sock";
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The way in for members, open while this lives.
#[derive(Debug)]
pub(in crate::cli) struct Doorway {
    channel: Channel,
    path: PathBuf,
    /// Device and inode of the socket.
    file: (u64, u64),
    /// Never reaped: it ends with this process, or after it.
    _process: Child,
}

/// Opens the way in: the socket beside the control socket, for the members of a group. Before this
/// process gives up its rights.
///
/// # Errors
/// If there is no such group, or the socket cannot be made.
pub(in crate::cli) fn open(
    control: &Path,
    group: &str,
    rules: Vec<Rule>,
    common: &Common,
    sandboxes: u32,
) -> anyhow::Result<Doorway> {
    let group = group_number(group, "--group")?;
    let path = control.with_file_name(NAME);
    let bound = bind(&path, group);
    let (listener, file) = bound.with_context(|| format!("cannot listen at {}", path.display()))?;
    let (channel, theirs) = Channel::pair().context("cannot make a socket pair")?;
    let process = Command::new("/proc/self/exe")
        .arg("member-door")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the process that accepts members' connections")?;
    let doorway = Doorway { channel, path, file, _process: process };
    let operator = Operator {
        resolve: common.resolve.clone(),
        upstream_ca: common.upstream_ca.clone(),
        base_urls: common.base_urls,
    };
    let sandboxes = usize::try_from(sandboxes).unwrap_or(usize::MAX);
    let opening = Opening { group, rules, sandboxes, operator };
    let sent = doorway.channel.send(&opening, &[listener.as_fd()]);
    sent.context("cannot open the way in for members")?;
    Ok(doorway)
}

impl Doorway {
    /// Lets the sandboxes of members go on to their ends: another daemon lets members in now.
    pub(in crate::cli) fn leave(&self) {
        if let Err(error) = self.channel.send(&Turn::Over, &[]) {
            tracing::warn!(%error, "the sandboxes of members end with this daemon");
        }
    }
}

impl Drop for Doorway {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the socket under another name first, so that it has its mode and group when it is found;
/// one that is there, of a dead daemon or of one that is taken over from, is replaced.
fn bind(path: &Path, group: u32) -> io::Result<(UnixListener, (u64, u64))> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let found = directory.metadata()?;
    // The control socket in it is its owner's alone, by its own mode.
    if found.mode() & 0o001 == 0 {
        chown(directory, None, Some(group))?;
        fs::set_permissions(directory, Permissions::from_mode(found.mode() & 0o7777 | 0o010))?;
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let bound = (|| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&fresh)?)?;
        chown(&fresh, None, Some(group))?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o660))?;
        socket.listen(BACKLOG)?;
        let file = fs::symlink_metadata(&fresh)?;
        fs::rename(&fresh, path)?;
        Ok((UnixListener::from(std::os::fd::OwnedFd::from(socket)), (file.dev(), file.ino())))
    })();
    if bound.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    bound
}
