//! Keeps hidden places where they are.
//!
//! A mount point cannot be renamed, but a directory above it can: the hidden place would move with
//! it. The command could then make another of the same name, which is there when the sandbox is
//! gone, and the next sandbox would look for the secret where it no longer is. So each directory
//! above that the command could rename becomes a mount point too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::as_user::AsUser;
use super::super::error::IoContext;
use super::super::handover::Launch;
use super::super::user::UserIdentity;
use super::super::{SandboxError, mountinfo};
use super::named::Named;
use super::steps::bind;

/// Keeps these places under their paths. After all other mounts: a search within one file system
/// ends at a mount point.
pub(super) fn pin<'a>(
    places: impl Iterator<Item = &'a Path>,
    launch: &Launch,
) -> Result<(), SandboxError> {
    let mounts = mountinfo::read().context(|| "cannot read /proc/self/mountinfo".into())?;
    // The topmost first, so that each mount is made in what is visible then.
    let mut pinned = BTreeSet::new();
    let looking = rights(launch)?;
    for place in places {
        for ancestor in place.ancestors().skip(1) {
            let Some(parent) = ancestor.parent() else { continue };
            let is_point = mounts.iter().any(|mount| mount.point == ancestor);
            if !is_point && may_rename(ancestor, parent, &launch.identity) {
                pinned.insert((ancestor.components().count(), ancestor));
            }
        }
    }
    drop(looking);
    for (_, directory) in pinned {
        let found = {
            let _rights = rights(launch)?;
            Named::open(directory).ok().filter(|found| found.status.is_dir())
        };
        // On itself, whatever the name leads to by now.
        if let Some(found) = found {
            bind(&found.path(), &found.path())?;
        }
    }
    Ok(())
}

fn rights(launch: &Launch) -> Result<Option<AsUser>, SandboxError> {
    launch.rights().context(|| "cannot take on the user's rights".into())
}

/// Whether the user may rename a directory.
fn may_rename(directory: &Path, parent: &Path, identity: &UserIdentity) -> bool {
    let (Ok(own), Ok(parent)) = (fs::symlink_metadata(directory), fs::symlink_metadata(parent))
    else {
        return false;
    };
    // An access list may permit more; the group's bits of the mode are then its mask.
    let bits = if parent.uid() == identity.uid { 0o220 } else { 0o022 };
    let writable = parent.mode() & bits != 0;
    let sticky = parent.mode() & 0o1000 != 0;
    writable && (!sticky || [own.uid(), parent.uid()].contains(&identity.uid))
}
