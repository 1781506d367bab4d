//! Looking at files with the rights of the sandbox's user, before this process has given up its
//! own.

use std::io;

use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid, setgroups};

use super::user::Identity;

/// While this lives, file systems see this thread as the user: root's capabilities over files do
/// not hold either (capabilities(7), "Effect of user ID changes on capabilities"). Mounting is not
/// a right over files, and stays.
#[derive(Debug)]
pub(super) struct AsUser {
    groups: Vec<Gid>,
}

impl AsUser {
    /// Begins. For root there is nothing to change.
    pub(super) fn begin(identity: &Identity) -> io::Result<Option<Self>> {
        if identity.is_root() {
            return Ok(None);
        }
        let own = AsUser { groups: getgroups()? };
        setgroups(&identity.groups.iter().copied().map(Gid::from_raw).collect::<Vec<_>>())?;
        setfsgid(Gid::from_raw(identity.gid));
        setfsuid(Uid::from_raw(identity.uid));
        // They report nothing but what was before; a number that nobody has changes nothing.
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
        // Failing, it leaves the groups that the command is to have.
        let _ = setgroups(&self.groups);
    }
}
