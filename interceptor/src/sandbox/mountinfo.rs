//! Reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `major:minor` of the file system.
    pub(crate) device: String,
    /// The mounted directory of the file system.
    pub(crate) root: PathBuf,
    /// The mount point.
    pub(crate) point: PathBuf,
    /// The mount options, e.g. `rw,relatime`.
    pub(crate) options: String,
    /// The type, e.g. `cgroup2`.
    pub(crate) kind: String,
    /// The file system options, e.g. `rw,pids`.
    pub(crate) data: String,
}

/// The mounts of this thread (which may have its own namespace), in the kernel's order: later ones
/// cover earlier ones.
pub(crate) fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/thread-self/mountinfo")?))
}

fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    // `36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw`: the optional fields end at
    // the lone dash.
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    Some(Mount {
        device: fields.next()?.to_owned(),
        root: unescape(fields.next()?),
        point: unescape(fields.next()?),
        options: fields.next()?.to_owned(),
        kind: after.split(' ').next()?.to_owned(),
        data: after.split(' ').nth(2).unwrap_or_default().to_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let octal = field
            .get(index + 1..index + 4)
            .filter(|_| bytes[index] == b'\\')
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                index += 4;
            }
            None => {
                out.push(bytes[index]);
                index += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Every path to `file` (absolute, symlinks resolved): the path itself, and those through other
/// mounts of its file system.
pub(crate) fn aliases(mounts: &[Mount], file: &Path) -> Vec<PathBuf> {
    let mut paths = vec![file.to_owned()];
    // The mount that holds the path: the deepest one, and the last if several share a mount point.
    let Some(own) = mounts
        .iter()
        .filter(|mount| file.starts_with(&mount.point))
        .max_by_key(|m| m.point.components().count())
    else {
        return paths;
    };
    let Ok(below) = file.strip_prefix(&own.point) else { return paths };
    let inner = own.root.join(below);
    for mount in mounts.iter().filter(|mount| mount.device == own.device) {
        if let Ok(rest) = inner.strip_prefix(&mount.root) {
            // `join("")` would add a trailing slash to a file that is itself a mount point.
            let path = if rest.as_os_str().is_empty() {
                mount.point.clone()
            } else {
                mount.point.join(rest)
            };
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n31 22 0:28 / \
                        /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n41 31 0:38 / \
                        /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n50 22 8:1 \
                        /srv/data /mnt/a\\040b rw master:3 propagate_from:1 - ext4 /dev/sda1 \
                        rw\nbad line\n";

    #[test]
    fn a_line_is_read_with_its_escapes_and_optional_fields() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[2].kind, "cgroup2");
        assert_eq!(mounts[2].point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts[3].point, Path::new("/mnt/a b"));
        assert_eq!(mounts[3].root, Path::new("/srv/data"));
    }

    #[test]
    fn a_file_is_found_below_every_mount_of_its_file_system() {
        let mounts = parse(TEXT);
        assert_eq!(
            aliases(&mounts, Path::new("/srv/data/key")),
            [PathBuf::from("/srv/data/key"), PathBuf::from("/mnt/a b/key")]
        );
        assert_eq!(
            aliases(&mounts, Path::new("/mnt/a b/key")),
            [PathBuf::from("/mnt/a b/key"), PathBuf::from("/srv/data/key")]
        );
        assert_eq!(aliases(&mounts, Path::new("/etc/key")), [PathBuf::from("/etc/key")]);
    }

    #[test]
    fn the_mounts_of_this_process_are_readable() {
        assert!(read().unwrap().iter().any(|mount| mount.point == Path::new("/proc")));
    }
}
