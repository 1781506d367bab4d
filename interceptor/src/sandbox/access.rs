//! Who may write to a file or directory: by its owner, its mode and its access list (acl(5)).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;

use nix::sys::stat::{FileStat, fstat};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use super::sys;
use super::user::UserIdentity;

/// Tags and the permission to write of an access list (acl(5), linux/posix_acl.h).
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const WRITE: u16 = 0o2;
/// The version that an access list begins with (linux/posix_acl_xattr.h).
const VERSION: u32 = 2;
const STICKY: u32 = 0o1000;

/// Whether a user may write to what this descriptor, which may be `O_PATH`, refers to, or permit
/// itself to. In doubt it may.
///
/// # Errors
/// If that cannot be told.
pub(crate) fn may_write(descriptor: impl AsFd, user: &UserIdentity) -> io::Result<bool> {
    let status = fstat(&descriptor)?;
    // Who owns it can change its mode. Root may do anything.
    if user.is_root() || status.st_uid == user.uid {
        return Ok(true);
    }
    // The server of such a file system decides, whatever modes it shows.
    if fstatfs(&descriptor)?.filesystem_type() == FUSE_SUPER_MAGIC {
        return Ok(true);
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()));
    if sys::extended_attribute(&path, c"system.nfs4_acl")?.is_some() {
        return Ok(true);
    }
    let list = sys::extended_attribute(&path, c"system.posix_acl_access")?;
    Ok(match list {
        Some(list) => listed(&list, &status, user).unwrap_or(true),
        None => by_mode(&status, user),
    })
}

/// Whether a user may remove, rename or replace an entry of a directory.
///
/// # Errors
/// As of [`may_write`].
pub(crate) fn may_replace(
    directory: impl AsFd,
    entry: &FileStat,
    user: &UserIdentity,
) -> io::Result<bool> {
    if !may_write(&directory, user)? {
        return Ok(false);
    }
    let directory = fstat(&directory)?;
    let owns = [entry.st_uid, directory.st_uid].contains(&user.uid);
    Ok(directory.st_mode & STICKY == 0 || owns || user.is_root())
}

/// Whether anybody could write to what this descriptor, which may be `O_PATH`, refers to, but root
/// and this user. In doubt somebody could.
///
/// # Errors
/// If that cannot be told.
pub(crate) fn may_others_write(descriptor: impl AsFd, but: u32) -> io::Result<bool> {
    let status = fstat(&descriptor)?;
    if ![0, but].contains(&status.st_uid) || status.st_mode & 0o022 != 0 {
        return Ok(true);
    }
    if fstatfs(&descriptor)?.filesystem_type() == FUSE_SUPER_MAGIC {
        return Ok(true);
    }
    // The group's bits of the mode are the mask of an access list of acl(5): without the bit to
    // write, it grants that to nobody.
    let path = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()));
    Ok(sys::extended_attribute(&path, c"system.nfs4_acl")?.is_some())
}

/// Whether anybody could remove, rename or replace an entry of a directory, but root and this user.
///
/// # Errors
/// As of [`may_others_write`].
pub(crate) fn may_others_replace(
    directory: impl AsFd,
    entry: &FileStat,
    but: u32,
) -> io::Result<bool> {
    if !may_others_write(&directory, but)? {
        return Ok(false);
    }
    let directory = fstat(&directory)?;
    let owners = [entry.st_uid, directory.st_uid];
    let is_kept = directory.st_mode & STICKY != 0;
    Ok(!is_kept || owners.iter().any(|owner| ![0, but].contains(owner)))
}

fn is_in(user: &UserIdentity, group: u32) -> bool {
    user.gid == group || user.groups.contains(&group)
}

fn by_mode(status: &FileStat, user: &UserIdentity) -> bool {
    let shift = if is_in(user, status.st_gid) { 3 } else { 0 };
    status.st_mode >> shift & 0o2 != 0
}

/// Whether an access list permits writing to a user who is not the owner; `None` if it cannot be
/// understood.
fn listed(list: &[u8], status: &FileStat, user: &UserIdentity) -> Option<bool> {
    let (version, entries) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let entries = entries.chunks_exact(8).map(|entry| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        (tag, permissions, u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
    });
    let entries: Vec<(u16, u16, u32)> = entries.collect();
    let mask = entries.iter().find(|(tag, ..)| *tag == MASK);
    let mask = mask.map_or(WRITE, |(_, permissions, _)| *permissions);
    let permits = |permissions: u16| permissions & mask & WRITE != 0;
    if let Some((_, permissions, _)) =
        entries.iter().find(|(tag, _, id)| *tag == USER && *id == user.uid)
    {
        return Some(permits(*permissions));
    }
    let mut groups = entries.iter().filter(|(tag, _, id)| match *tag {
        GROUP_OBJ => is_in(user, status.st_gid),
        GROUP => is_in(user, *id),
        _ => false,
    });
    match groups.next() {
        Some((_, permissions, _)) => {
            Some(permits(*permissions) || groups.any(|(_, permissions, _)| permits(*permissions)))
        }
        // Others are not masked.
        None => Some(status.st_mode & 0o2 != 0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::process::Command;

    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> UserIdentity {
        UserIdentity {
            uid,
            gid,
            groups: groups.to_vec(),
            name: uid.to_string(),
            home: None,
            shell: None,
        }
    }

    #[test]
    fn modes_and_owners_decide() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, "").unwrap();
        let may = |mode: u32, owner: (u32, u32), user: &UserIdentity| {
            chown(&path, Some(owner.0), Some(owner.1)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            may_write(File::open(&path).unwrap(), user).unwrap()
        };
        let me = user(54321, 54322, &[54322, 54323]);
        for (mode, owner, expected) in [
            (0o644, (0, 0), false),
            (0o666, (0, 0), true),
            (0o664, (0, 0), false),
            (0o664, (0, 54322), true),
            (0o664, (0, 54323), true),
            // A group may have less than others.
            (0o646, (0, 54323), false),
            (0o444, (54321, 0), true),
        ] {
            assert_eq!(may(mode, owner, &me), expected, "{mode:o} {owner:?}");
        }
        assert!(may(0o600, (54321, 0), &user(0, 0, &[])));
    }

    #[test]
    fn what_is_roots_or_a_users_alone_is_changed_by_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, "").unwrap();
        let may = |mode: u32, owner: u32, but: u32| {
            chown(&path, Some(owner), Some(0)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            may_others_write(File::open(&path).unwrap(), but).unwrap()
        };
        for (mode, owner, but, expected) in [
            (0o644, 0, 0, false),
            (0o644, 0, 54321, false),
            (0o644, 54321, 54321, false),
            (0o644, 54321, 0, true),
            (0o600, 54322, 54321, true),
            (0o664, 0, 0, true),
            (0o646, 54321, 54321, true),
        ] {
            assert_eq!(may(mode, owner, but), expected, "{mode:o} {owner} {but}");
        }
        assert!(!may(0o644, 0, 0));
        let set = Command::new("setfacl").args(["-m", "u:54321:rw"]).arg(&path).status().unwrap();
        assert!(set.success() && may_others_write(File::open(&path).unwrap(), 54321).unwrap());
        // A sticky directory keeps what is root's, or the user's.
        let entry = |owner| {
            chown(&path, Some(owner), Some(0)).unwrap();
            let directory = File::open(home.path()).unwrap();
            let entry = fstat(File::open(&path).unwrap()).unwrap();
            may_others_replace(directory, &entry, 54321).unwrap()
        };
        for (mode, expected) in
            [(0o755, [false; 3]), (0o777, [true; 3]), (0o1777, [false, false, true])]
        {
            fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!([0, 54321, 54322].map(entry), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_sticky_directory_keeps_what_belongs_to_others() {
        let home = tempfile::tempdir().unwrap();
        let (own, roots) = (home.path().join("own"), home.path().join("roots"));
        for path in [&own, &roots] {
            fs::write(path, "").unwrap();
        }
        chown(&own, Some(54321), None).unwrap();
        let me = user(54321, 54321, &[]);
        for (mode, replaces_roots) in [(0o1777, false), (0o777, true), (0o755, false)] {
            fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
            let may = |path| {
                let entry = fstat(File::open(path).unwrap()).unwrap();
                may_replace(File::open(home.path()).unwrap(), &entry, &me).unwrap()
            };
            assert_eq!((may(&roots), may(&own)), (replaces_roots, mode != 0o755), "{mode:o}");
        }
    }

    #[test]
    fn access_lists_permit_more_and_less_than_the_mode_says() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, "").unwrap();
        let may = |list: &str, user: &UserIdentity| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let set = Command::new("setfacl").args(["--set", list]).arg(&path).status().unwrap();
            assert!(set.success(), "{list}");
            may_write(File::open(&path).unwrap(), user).unwrap()
        };
        let me = user(54321, 54322, &[54322, 54323]);
        for (list, expected) in [
            ("u::rw,g::r,o::r", false),
            ("u::rw,u:54321:rw,g::r,m::rw,o::r", true),
            // The mask is the most that is granted.
            ("u::rw,u:54321:rw,g::r,m::r,o::r", false),
            ("u::rw,u:54324:rw,g::r,m::rw,o::r", false),
            ("u::rw,g::r,g:54323:rw,m::rw,o::r", true),
            ("u::rw,g::r,g:54324:rw,m::rw,o::r", false),
            ("u::rw,g::r,g:54324:rw,m::rw,o::rw", true),
            // A named user is none of the others.
            ("u::rw,u:54321:r,g::r,m::rw,o::rw", false),
        ] {
            assert_eq!(may(list, &me), expected, "{list}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_understood_permits_everything() {
        let home = tempfile::tempdir().unwrap();
        let status = fstat(File::open(home.path()).unwrap()).unwrap();
        let me = user(54321, 54322, &[]);
        for list in [&b""[..], b"\x02\0\0\0\x01", b"\x03\0\0\0", b"\x02\0"] {
            assert_eq!(listed(list, &status, &me), None, "{list:?}");
        }
        assert_eq!(listed(b"\x02\0\0\0", &status, &me), Some(false));
    }
}
