//! A container's file system, seen from the host. The image is untrusted: never follow a symlink
//! out of it or open a device or pipe in it (openat2(2), RESOLVE_IN_ROOT).

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, mkdirat};

use super::{Attempt, OciError};
use crate::sandbox::read_only;
use crate::sandbox::trust::FoundFile;

/// Maximum bundle size; distributions' bundles are about 250 KiB.
const MAX_FILE: u64 = 16 << 20;

/// The root of a container's file system.
#[derive(Debug)]
pub(crate) struct Rootfs {
    directory: OwnedFd,
    path: PathBuf,
}

impl Rootfs {
    /// Opens the root directory.
    ///
    /// # Errors
    /// If it is not a directory.
    pub(crate) fn open(path: &Path) -> Result<Self, OciError> {
        let fail = || format!("cannot open the container's file system {}", path.display());
        let directory = File::open(path).attempt(fail)?;
        let path = fs::canonicalize(path).attempt(fail)?;
        Ok(Rootfs { directory: directory.into(), path })
    }

    /// The regular file that `path` leads to in the container: its path without symlinks, and its
    /// content.
    pub(crate) fn find(&self, path: &Path) -> Option<FoundFile> {
        let named = self.look_up(path, OFlag::O_PATH).ok()?;
        let shown = PathBuf::from(format!("/proc/self/fd/{}", named.as_raw_fd()));
        if !fs::metadata(&shown).ok()?.is_file() {
            return None;
        }
        let resolved = fs::read_link(&shown).ok()?;
        let path = Path::new("/").join(resolved.strip_prefix(&self.path).ok()?);
        let mut content = Vec::new();
        File::open(&shown).ok()?.take(MAX_FILE).read_to_end(&mut content).ok()?;
        Some(FoundFile { path, content })
    }

    fn look_up(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(
            &self.directory,
            below,
            OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve),
        )
    }
}

/// Mounts host files and directories read-only in the mount namespace of a container whose
/// entrypoint has not started, for engines without the stage `precreate`. Moves this process, which
/// must be single-threaded, into that namespace.
///
/// # Errors
/// If the container shares this process's namespace, or the kernel refuses.
pub(crate) fn mount_in(
    pid: i32,
    root: &Path,
    mounts: &[(PathBuf, PathBuf)],
) -> Result<(), OciError> {
    let path = format!("/proc/{pid}/ns/mnt");
    let own =
        fs::read_link("/proc/self/ns/mnt").attempt(|| "cannot examine /proc/self/ns/mnt".into())?;
    if fs::read_link(&path).attempt(|| format!("cannot examine {path}"))? == own {
        return Err(OciError::Refused("the container has no mount namespace of its own".into()));
    }
    let namespace = File::open(&path).attempt(|| format!("cannot open {path}"))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)
        .attempt(|| "cannot enter the container's mount namespace".into())?;
    let root = Rootfs::open(root)?;
    mounts.iter().try_for_each(|(source, destination)| root.bind(source, destination))
}

impl Rootfs {
    fn bind(&self, source: &Path, destination: &Path) -> Result<(), OciError> {
        let fail = || format!("cannot mount {} in the container", destination.display());
        let target = match self.look_up(destination, OFlag::O_PATH) {
            Ok(found) => found,
            Err(nix::errno::Errno::ENOENT) => {
                self.make_directory(destination).attempt(fail)?;
                self.look_up(destination, OFlag::O_PATH).attempt(fail)?
            }
            Err(error) => return Err(error).attempt(fail),
        };
        let none: Option<&Path> = None;
        let at = |open: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        mount(Some(source), &at(&target), none, MsFlags::MS_BIND, none).attempt(fail)?;
        // Look it up again: the old descriptor refers to the file below the new mount.
        let mounted = self.look_up(destination, OFlag::O_PATH).attempt(fail)?;
        read_only(&at(&mounted)).attempt(fail)
    }

    fn make_directory(&self, path: &Path) -> nix::Result<()> {
        let mut made = PathBuf::from("/");
        for part in path.components().skip(1) {
            let parent = self.look_up(&made, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            match mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
            made.push(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_in_the_image_does_not_lead_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secret"), "the host's").unwrap();
        let root = directory.path().join("rootfs");
        fs::create_dir_all(root.join("etc/ssl/certs")).unwrap();
        fs::write(root.join("etc/ssl/bundle.pem"), "the image's").unwrap();
        symlink("/etc/ssl/bundle.pem", root.join("etc/ssl/certs/absolute")).unwrap();
        symlink("../bundle.pem", root.join("etc/ssl/certs/relative")).unwrap();
        symlink("../../../../secret", root.join("etc/ssl/certs/up")).unwrap();
        symlink(directory.path().join("secret"), root.join("etc/ssl/certs/out")).unwrap();
        symlink("/proc/self/root/etc/hostname", root.join("etc/ssl/certs/magic")).unwrap();
        nix::unistd::mkfifo(&root.join("etc/ssl/certs/pipe"), Mode::S_IRWXU).unwrap();
        let rootfs = Rootfs::open(&root).unwrap();
        for name in ["absolute", "relative"] {
            let found = rootfs.find(&Path::new("/etc/ssl/certs").join(name)).unwrap();
            assert_eq!(
                (found.path.as_path(), found.content.as_slice()),
                (Path::new("/etc/ssl/bundle.pem"), &b"the image's"[..])
            );
        }
        for name in ["up", "out", "magic", "pipe", "none"] {
            assert!(rootfs.find(&Path::new("/etc/ssl/certs").join(name)).is_none(), "{name}");
        }
    }
}
