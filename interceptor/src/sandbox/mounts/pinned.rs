//! Keeps hidden directories where they are.
//!
//! A mount point cannot be renamed, but a directory above it can: the hidden directory would move
//! with it, and the command could make another of the same name, which is there when the sandbox is
//! gone. So each directory above that the command could rename becomes a mount point too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::SandboxError;
use super::super::user::UserIdentity;
use super::bind;

/// Keeps `directory` under its path.
pub(super) fn pin(directory: &Path, identity: &UserIdentity) -> Result<(), SandboxError> {
    let above: Vec<&Path> = directory.ancestors().skip(1).collect();
    // The topmost first, so that each mount is made in what is visible then.
    for pair in above.windows(2).rev() {
        let [ancestor, parent] = pair else { continue };
        if may_rename(ancestor, parent, identity) {
            bind(ancestor, ancestor)?;
        }
    }
    Ok(())
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
