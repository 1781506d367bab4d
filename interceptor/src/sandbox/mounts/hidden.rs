//! Hides host files and directories: the policy document and key files, which hold real keys, and
//! service sockets outside `/run`.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::super::SandboxError;
use super::super::as_user::AsUser;
use super::super::error::IoContext;
use super::super::handover::Launch;
use super::named::{self, Named};
use super::steps::{bind, make_empty, set_mode, tmpfs};

/// The cover of a hidden file: empty and unreadable.
const COVER: &str = "/run/.hidden";

/// Directories with sockets of services that could run something outside, or show a screen; and the
/// daemon's state.
const DIRECTORIES: [&str; 9] = [
    "/var/lib/interceptor",
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
        // Whatever else it is, another mount covers this path.
        if let Some(found) = examine(file, launch)?.filter(|found| found.status.is_file()) {
            bind(cover, &found.path())?;
        }
    }
    let own = |directory: &Path| launch.directory.0.starts_with(directory);
    for directory in DIRECTORIES.iter().map(Path::new).filter(|directory| !own(directory)) {
        cover_directory(Named::open(directory).ok())?;
    }
    for directory in directories.iter().filter(|directory| !own(directory)) {
        let found = {
            let _rights = rights(launch.rights())?;
            named::found(Named::open(directory), directory, &launch.identity)?
        };
        cover_directory(found)?;
    }
    let home = launch.identity.home.iter();
    let home = home.flat_map(|home| IN_HOME.iter().map(|name| home.0.join(name)));
    for directory in home.filter(|directory| !own(directory)) {
        let found = {
            let _rights = rights(AsUser::begin(&launch.identity))?;
            named::found(Named::open(&directory), &directory, &launch.identity)?
        };
        cover_directory(found)?;
    }
    Ok(())
}

fn rights(begun: io::Result<Option<AsUser>>) -> Result<Option<AsUser>, SandboxError> {
    begun.context(|| "cannot take on the user's rights".into())
}

/// Opens a file that must be hidden; `None` if the command cannot reach it either.
fn examine(file: &Path, launch: &Launch) -> Result<Option<Named>, SandboxError> {
    let _rights = rights(launch.rights())?;
    let unknown = |error: &io::Error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => false,
        Some(libc::EACCES) => !launch.users_paths,
        _ => true,
    };
    match Named::open(file) {
        Err(error) if unknown(&error) => {
            Err(error).context(|| format!("cannot examine {}, to hide it", file.display()))
        }
        opened => named::found(opened, file, &launch.identity),
    }
}

fn cover_directory(found: Option<Named>) -> Result<(), SandboxError> {
    let Some(found) = found.filter(|found| found.status.is_dir()) else { return Ok(()) };
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    tmpfs(&found.path(), sealed, "mode=755,size=4k")
}
