//! What root inside may write: the working directory, the temporary directories, and a throw-away
//! copy of its home.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;

use super::super::SandboxError;
use super::super::error::IoContext;
use super::super::mountinfo::Mount;
use super::super::sys;
use super::steps::{bind_open, fresh, make_directory, open_path, tmpfs};
use crate::notice;

/// Holds the changes to root's home until the sandbox ends; a later mount covers this directory.
const CHANGES: &str = "/sys";

/// Makes every mount read-only except those.
pub(super) fn make_read_only(
    mounts: &[Mount],
    directory: &Path,
    home: Option<&Path>,
) -> Result<(), SandboxError> {
    let mut writable = Vec::new();
    for path in [Path::new("/tmp"), Path::new("/var/tmp"), directory] {
        let resolved = fs::canonicalize(path).unwrap_or_default();
        if resolved == Path::new("/") || !resolved.is_dir() {
            continue;
        }
        let open =
            open_path(&resolved).context(|| format!("cannot open {}", resolved.display()))?;
        writable.push((resolved, open));
    }
    sys::set_mount_attributes(Path::new("/"), libc::MOUNT_ATTR_RDONLY, 0, true)
        .context(|| "cannot make the file system read-only".into())?;
    if let Some(home) = home.filter(|home| *home != directory && *home != Path::new("/")) {
        // Optional: without overlayfs the home stays read-only.
        if let Err(error) = overlay(home) {
            notice::warning(format_args!("root's home directory is read-only: {error}"));
        }
    }
    for (path, open) in writable {
        bind_open(&open, &path)?;
        // A mount that was read-only stays so.
        let own = mounts
            .iter()
            .rfind(|mount| path.starts_with(&mount.point) && is_deepest(mounts, mount, &path));
        let below =
            mounts.iter().filter(|mount| mount.point != path && mount.point.starts_with(&path));
        let points = own
            .map(|mount| (&path, mount))
            .into_iter()
            .chain(below.map(|mount| (&mount.point, mount)));
        for (point, mount) in points {
            if mount.options.split(',').any(|option| option == "rw") {
                sys::set_mount_attributes(point, 0, libc::MOUNT_ATTR_RDONLY, false)
                    .context(|| format!("cannot make {} writable", point.display()))?;
            }
        }
    }
    Ok(())
}

fn is_deepest(mounts: &[Mount], mount: &Mount, path: &Path) -> bool {
    let depth = |mount: &Mount| mount.point.components().count();
    mounts
        .iter()
        .filter(|other| path.starts_with(&other.point))
        .all(|other| depth(other) <= depth(mount))
}

/// Mounts an overlay over `home` that receives the changes.
fn overlay(home: &Path) -> Result<(), SandboxError> {
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let changes = Path::new(CHANGES);
    tmpfs(changes, sealed, "mode=700")?;
    let (upper, work) = (changes.join("upper"), changes.join("work"));
    make_directory(&upper)?;
    make_directory(&work)?;
    // Commas and colons would end a mount option's value.
    let shown = home.to_string_lossy();
    if shown.contains([',', ':', '\\']) {
        return Err(SandboxError::Refused(format!("the path {shown} cannot be layered")));
    }
    let options =
        format!("lowerdir={shown},upperdir={},workdir={}", upper.display(), work.display());
    fresh("overlay", home, sealed, &options)
}
