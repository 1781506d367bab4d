//! The sandbox's view of the file system: the host's, without its ways out.
//!
//! Programs see the files they would see anyway, under the permissions of their user. What is replaced are the places by which a
//! process reaches the kernel's controls, the host's services or a real key: `/proc`, `/sys`, `/dev`, `/run`, mounted cgroups and
//! bpffs wherever they are, the policy and key files. What is added are a resolver configuration and what to trust.
//!
//! Root inside owns most of the host's files, and would leave through them (a cron table, a shell's start-up file): for it
//! everything is read-only but the working directory and the temporary directories ([`root`]).

mod browsers;
mod devices;
mod etc;
mod hidden;
mod kernel;
mod packages;
mod root;
mod run;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::SandboxError;
use super::environment::FALLBACK_HOME;
use super::error::Context;
use super::handover::Launch;
use super::{mountinfo, sys, trust};

/// Changes this mount namespace, which must be a private one, into the sandbox's. `stdio` are the command's descriptors.
pub(crate) fn prepare(launch: &Launch, stdio: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context(|| "cannot make the mounts private".into())?;
    let mounts = mountinfo::read().context(|| "cannot read /proc/self/mountinfo".into())?;

    // All that is read from the host's view is read before the first change.
    let trust = trust::files(&launch.ca_pem);
    let resolver = etc::resolver_target();
    let console = devices::terminal(stdio);
    let hidden: Vec<PathBuf> =
        launch.hidden.iter().flat_map(|file| mountinfo::aliases(&mounts, &file.0)).collect();

    // Modes are given exactly; the command gets back the mask that its caller had.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    if launch.identity.is_root() {
        root::make_read_only(
            &mounts,
            &launch.directory.0,
            launch.identity.home.as_ref().map(|home| home.0.as_path()),
        )?;
    }
    kernel::replace(&mounts)?;
    devices::replace(console)?;
    run::replace(&launch.directory.0)?;
    etc::install(&trust, resolver.as_deref())?;
    hidden::hide(&hidden, launch)?;
    if launch.identity.home.is_none() {
        home(launch)?;
    }
    // After all that hides or moves something: both look at what the command will see.
    packages::cover(launch)?;
    browsers::install(launch);
    etc::seal(resolver.as_deref())?;
    // The kernel mounts a new /proc in a user namespace only where one is to be seen whole. Nobody
    // but root can write there what another process would notice, and with nesting the command is
    // not root.
    if !launch.nesting {
        kernel::close_proc()?;
    }
    nix::sys::stat::umask(mask);
    Ok(())
}

fn home(launch: &Launch) -> Result<(), SandboxError> {
    let home = Path::new(FALLBACK_HOME);
    make_directory(home)?;
    let options = format!("mode=700,uid={},gid={}", launch.identity.uid, launch.identity.gid);
    tmpfs(home, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)
}

/// Mounts an empty file system over a directory.
fn tmpfs(target: &Path, flags: MsFlags, options: &str) -> Result<(), SandboxError> {
    fresh("tmpfs", target, flags, options)
}

/// Mounts a file system of the kernel's over a directory.
fn fresh(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<(), SandboxError> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .context(|| format!("cannot mount {kind} on {}", target.display()))
}

/// Shows `source` at `target` too, with what is mounted below it.
fn bind(source: &Path, target: &Path) -> Result<(), SandboxError> {
    let none: Option<&Path> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context(|| format!("cannot mount {} on {}", source.display(), target.display()))
}

/// Shows what `source` has open at `target`, even where a later mount covers its path.
fn bind_open(source: &OwnedFd, target: &Path) -> Result<(), SandboxError> {
    bind(&PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

/// Shows `source` at `target`, where it cannot be written, executed as another user or opened as a device.
fn bind_read_only(source: &Path, target: &Path) -> Result<(), SandboxError> {
    bind(source, target)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::set_mount_attributes(target, attributes, 0, true)
        .context(|| format!("cannot make {} read-only", target.display()))
}

/// Opens a path to mount it elsewhere later, without following a last symbolic link.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    Ok(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

fn make_directory(path: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(path).context(|| format!("cannot make the directory {}", path.display()))
}

fn make_file(path: &Path, content: &[u8]) -> Result<(), SandboxError> {
    fs::write(path, content).context(|| format!("cannot write {}", path.display()))?;
    set_mode(path, 0o444)
}

fn make_empty(path: &Path) -> Result<(), SandboxError> {
    File::create(path).map(drop).context(|| format!("cannot make {}", path.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), SandboxError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(|| format!("cannot set the mode of {}", path.display()))
}
