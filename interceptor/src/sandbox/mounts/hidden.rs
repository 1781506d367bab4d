//! Hides host files and directories: the policy document and key files, which hold real keys, and
//! service sockets outside `/run`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::super::SandboxError;
use super::super::error::IoContext;
use super::super::handover::Launch;
use super::steps::{bind, make_empty, set_mode, tmpfs};

/// The cover of a hidden file: empty and unreadable.
const COVER: &str = "/run/.hidden";

/// Directories with sockets of services that could run something outside, or show a screen.
const DIRECTORIES: [&str; 8] = [
    "/tmp/.X11-unix",
    "/tmp/.ICE-unix",
    "/tmp/.XIM-unix",
    "/var/lib/lxd",
    "/var/lib/incus",
    "/var/snap/lxd/common/lxd",
    "/var/spool/cron",
    "/var/lib/docker",
];

/// The same, below the home directory.
const IN_HOME: [&str; 6] =
    [".docker/run", ".docker/desktop", ".colima", ".rd", ".lima", ".orbstack/run"];

/// Covers `files` and `directories`, which the supervisor named (each by every path), and the
/// directories above.
pub(super) fn hide(
    files: &[PathBuf],
    directories: &[PathBuf],
    launch: &Launch,
) -> Result<(), SandboxError> {
    let cover = Path::new(COVER);
    make_empty(cover)?;
    set_mode(cover, 0)?;
    for file in files {
        match fs::symlink_metadata(file) {
            Ok(metadata) if metadata.is_file() => bind(cover, file)?,
            // Another mount covers this path.
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(error) => {
                return Err(error).context(|| format!("cannot examine {}", file.display()));
            }
        }
    }
    let home =
        launch.identity.home.iter().flat_map(|home| IN_HOME.iter().map(|name| home.0.join(name)));
    let named = directories.iter().cloned();
    for directory in DIRECTORIES.iter().map(PathBuf::from).chain(home).chain(named) {
        let own = launch.directory.0.starts_with(&directory);
        if !own && fs::symlink_metadata(&directory).is_ok_and(|metadata| metadata.is_dir()) {
            let sealed =
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
            tmpfs(&directory, sealed, "mode=755,size=4k")?;
        }
    }
    Ok(())
}
