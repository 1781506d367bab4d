//! Where a program may be that others start with root's rights.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};

/// A user who can change or move the program would have root's rights. `what` is what it would be.
///
/// # Errors
/// If one can: with what to do.
pub(super) fn check(executable: &Path, what: &str) -> anyhow::Result<()> {
    for part in executable.ancestors() {
        let metadata =
            fs::metadata(part).with_context(|| format!("cannot examine {}", part.display()))?;
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.uid() != 0 || (metadata.mode() & 0o022 != 0 && !sticky) {
            bail!(
                "users other than root can change {}, and it would be {what}: install it first \
                 (install -m 755 {} /usr/local/bin/), and call that one",
                part.display(),
                executable.display()
            );
        }
    }
    Ok(())
}
