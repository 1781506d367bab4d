//! The sandbox's view of the file system: the host's, without the ways out.
//!
//! Programs see the same files as outside, with their user's permissions. Replaced are the places
//! through which a process reaches kernel controls, host services or a real key: `/proc`, `/sys`,
//! `/dev`, `/run`, mounted cgroups and bpffs wherever they are, the policy and key files, and the
//! secrets in the home. Added are a resolver configuration and trust files.
//!
//! Root inside owns most host files and could escape through them (a cron table, a shell start-up
//! file), so for root everything is read-only except the working directory and the temporary
//! directories ([`root`]).

mod browsers;
mod devices;
mod etc;
mod hidden;
mod home;
mod kernel;
mod links;
mod named;
mod packages;
mod pinned;
mod root;
mod run;
mod steps;
#[cfg(test)]
mod tests;
mod tree;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::SandboxError;
use super::environment::FALLBACK_HOME;
use super::error::IoContext;
use super::handover::Launch;
use super::{mountinfo, trust};
use steps::{make_directory, tmpfs};

/// Turns this mount namespace, which must be private, into the sandbox's. `stdio` are the command's
/// descriptors.
pub(crate) fn prepare(launch: &Launch, stdio: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context(|| "cannot make the mounts private".into())?;
    let mounts = mountinfo::read().context(|| "cannot read /proc/self/mountinfo".into())?;

    // Read everything needed from the host's view before the first change.
    let trust = trust::files(&launch.ca_pem);
    let resolver = etc::resolver_target();
    let console = devices::terminal(stdio, launch);
    let policy = launch.policy.as_ref().map(|policy| mountinfo::aliases(&mounts, &policy.path.0));
    let mut hidden: Vec<PathBuf> =
        launch.hidden.iter().flat_map(|file| mountinfo::aliases(&mounts, &file.0)).collect();
    let shown = launch.policy.as_ref().filter(|_| tree::is_shown(launch));
    if shown.is_none() {
        hidden.extend(policy.iter().flatten().cloned());
    }

    let hidden_directories: Vec<PathBuf> = launch
        .hidden_directories
        .iter()
        .flat_map(|directory| mountinfo::aliases(&mounts, &directory.0))
        .collect();

    // Set exact modes; the command gets its caller's umask back.
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
    run::replace(launch)?;
    etc::install(&trust, resolver.as_deref())?;
    hidden::hide(&hidden, &hidden_directories, launch)?;
    let at_home = home::hide(launch)?;
    if let Some(shown) = shown {
        tree::show(shown, policy.as_deref().unwrap_or_default(), launch)?;
    }
    tree::ignore(launch)?;
    if launch.identity.home.is_none() {
        fallback_home(launch)?;
    }
    // After every step that hides or moves something, because both look at what the command will
    // see.
    packages::cover(launch)?;
    browsers::install(launch);
    let hidden = hidden_directories.iter().chain(&at_home).map(PathBuf::as_path);
    pinned::pin(hidden, launch)?;
    etc::seal(resolver.as_deref())?;
    // The kernel mounts a new /proc in a user namespace only if an uncovered one is visible. Only
    // root could write there what other processes notice, and with nesting the command is not root.
    if !launch.nesting {
        kernel::close_proc()?;
    }
    nix::sys::stat::umask(mask);
    Ok(())
}

fn fallback_home(launch: &Launch) -> Result<(), SandboxError> {
    let home = Path::new(FALLBACK_HOME);
    make_directory(home)?;
    let options = format!("mode=700,uid={},gid={}", launch.identity.uid, launch.identity.gid);
    tmpfs(home, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)
}
