//! Accesses files with the sandbox user's rights, before this process has dropped its own.

use std::io;

use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid};

use super::sys;
use super::user::UserIdentity;

/// While this value lives, file systems treat this thread as the user, without root's file
/// capabilities (capabilities(7), "Effect of user ID changes on capabilities"). Mounting is not a
/// file access and still works.
#[derive(Debug)]
pub(crate) struct AsUser {
    groups: Vec<libc::gid_t>,
}

impl AsUser {
    /// Switches to the user; does nothing for root.
    pub(crate) fn begin(identity: &UserIdentity) -> io::Result<Option<Self>> {
        if identity.is_root() {
            return Ok(None);
        }
        let own = AsUser { groups: getgroups()?.into_iter().map(Gid::as_raw).collect() };
        sys::set_groups_of_thread(&identity.groups)?;
        setfsgid(Gid::from_raw(identity.gid));
        setfsuid(Uid::from_raw(identity.uid));
        // Both calls return only the previous id, so query it with an invalid one, which changes
        // nothing.
        let (uid, gid) = (setfsuid(Uid::from_raw(u32::MAX)), setfsgid(Gid::from_raw(u32::MAX)));
        if (uid.as_raw(), gid.as_raw()) != (identity.uid, identity.gid) {
            return Err(io::Error::other("the kernel keeps this thread's file system identity"));
        }
        Ok(Some(own))
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
        // If this fails, the groups are those the command gets anyway.
        let _ = sys::set_groups_of_thread(&self.groups);
    }
}
