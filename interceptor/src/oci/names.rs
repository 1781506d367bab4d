//! Names of sandboxes in paths.

use std::path::{Component, Path};

/// Whether a name is that of a sandbox.
pub(crate) fn is_sandbox_id(name: &str) -> bool {
    name.strip_prefix("sb-")
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a path is a sandbox's trust files, which any container may see.
pub(crate) fn is_trust(source: &Path) -> bool {
    let mut parts = source
        .components()
        .skip_while(|part| !part.as_os_str().to_str().is_some_and(is_sandbox_id));
    parts.next().is_some()
        && parts.next() == Some(Component::Normal("trust".as_ref()))
        && parts.all(|part| matches!(part, Component::Normal(_)))
}
