//! Covers the root bundles of packages ([`bundles`]).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::super::as_user::AsUser;
use super::super::bundles::{self, Bundle, Places};
use super::super::error::IoContext;
use super::super::handover::Launch;
use super::super::{SandboxError, sys, trust};
use super::steps::{bind, make_directory, make_file, tmpfs};

/// Below the trust directory.
const DIRECTORY: &str = "packages";

/// Covers the bundles the operator named, which must be bundles, and, if enabled, those that a
/// search finds.
pub(super) fn cover(launch: &Launch) -> Result<(), SandboxError> {
    let authority = trust::certificates(launch.ca_pem.as_bytes());
    let mut found = Vec::new();
    for path in &launch.bundles {
        let rights = launch.rights().context(|| "cannot take on the user's rights".into())?;
        let bundle = bundles::named(&path.0, &authority);
        drop(rights);
        let bundle = bundle.context(|| {
            format!("cannot add the sandbox's authority to the bundle {}", path.0.display())
        })?;
        found.push(bundle);
    }
    if launch.search_bundles
        && let Ok(rights) = AsUser::begin(&launch.identity)
    {
        let home = launch.identity.home.as_ref().map(|home| home.0.as_path());
        let places =
            Places::of(&launch.command.0, &launch.environment.0, &launch.directory.0, home);
        found.extend(bundles::find(&places, &authority, bundles::BOUNDS));
        drop(rights);
    }
    if found.is_empty() { Ok(()) } else { show(&found) }
}

fn show(found: &[Bundle]) -> Result<(), SandboxError> {
    let directory = Path::new(trust::DIRECTORY).join(DIRECTORY);
    make_directory(&directory)?;
    tmpfs(
        &directory,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        "mode=755,size=64m",
    )?;
    // Most are identical: certifi's.
    let mut written: HashMap<&[u8], PathBuf> = HashMap::new();
    for bundle in found {
        if !written.contains_key(bundle.content.as_slice()) {
            let path = directory.join(format!("{}.pem", written.len()));
            make_file(&path, &bundle.content)?;
            written.insert(&bundle.content, path);
        }
    }
    // Bind mounts made from here on inherit this mount's attributes.
    sys::set_mount_attributes(&directory, libc::MOUNT_ATTR_RDONLY, 0, false)
        .context(|| format!("cannot make {} read-only", directory.display()))?;
    for bundle in found {
        if let Some(source) = written.get(bundle.content.as_slice()) {
            bind(source, &bundles::path_of(&bundle.file))?;
        }
    }
    Ok(())
}
