//! The sandbox's resolver configuration and trust files.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;

use super::super::SandboxError;
use super::super::error::IoContext;
use super::super::sys;
use super::super::trust::{self, TrustFile};
use super::steps::{bind, bind_read_only, make_directory, make_file, tmpfs};

/// Any address works, because port 53 of every address reaches the proxy's resolver.
const RESOLVER: &str = "# The sandbox's resolver is the interceptor's.\nnameserver 198.18.0.2\n";
const RESOLVER_FILE: &str = "/etc/resolv.conf";
const HOSTS_FILE: &str = "/etc/hosts";

/// The target of `/etc/resolv.conf`, which is often a symlink into `/run`; the target may not
/// exist.
pub(super) fn resolver_target() -> Option<PathBuf> {
    let file = Path::new(RESOLVER_FILE);
    if let Ok(resolved) = fs::canonicalize(file) {
        return Some(resolved);
    }
    let target = fs::read_link(file).ok()?;
    Some(normalise(&Path::new("/etc").join(target)))
}

/// Resolves `.` and `..` lexically, for a path that does not exist.
fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Writes the trust files, covers the system's bundles with them, and sets the resolver and host
/// names. More files may be added until [`seal`].
pub(super) fn install(files: &[TrustFile], resolver: Option<&Path>) -> Result<(), SandboxError> {
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let directory = Path::new(trust::DIRECTORY);
    make_directory(directory)?;
    tmpfs(directory, sealed, "mode=755,size=16m")?;
    for file in files {
        let path = directory.join(file.name);
        make_file(&path, &file.content)?;
        for covered in &file.covers {
            bind_read_only(&path, covered)?;
        }
    }
    let hosts = directory.join("hosts");
    make_file(&hosts, hosts_of(&hostname()).as_bytes())?;
    if Path::new(HOSTS_FILE).exists() {
        bind(&hosts, Path::new(HOSTS_FILE))?;
    }
    let written = directory.join("resolv.conf");
    make_file(&written, RESOLVER.as_bytes())?;
    match resolver {
        // In our own empty `/run`, so create the file.
        Some(target) if target.starts_with("/run") => {
            make_directory(target.parent().unwrap_or(Path::new("/run")))?;
            make_file(target, RESOLVER.as_bytes())?;
        }
        Some(target) if target.exists() => bind(&written, target)?,
        // Without the file, resolvers use 127.0.0.1 (resolver(5)), whose port 53 reaches the
        // proxy's resolver too.
        _ => {}
    }
    Ok(())
}

/// Makes what [`install`] wrote read-only.
pub(super) fn seal(resolver: Option<&Path>) -> Result<(), SandboxError> {
    let directory = Path::new(trust::DIRECTORY);
    sys::set_mount_attributes(directory, libc::MOUNT_ATTR_RDONLY, 0, false)
        .context(|| format!("cannot make {} read-only", directory.display()))?;
    for target in [Some(Path::new(HOSTS_FILE)), resolver].into_iter().flatten() {
        // Not our mount: a file in our own `/run`, or a missing one.
        let _ = sys::set_mount_attributes(target, libc::MOUNT_ATTR_RDONLY, 0, false);
    }
    Ok(())
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// The names of this host only, not those that the host's file gives to others: the policy judges
/// names by the addresses the proxy resolves.
fn hosts_of(hostname: &str) -> String {
    let own = match hostname {
        "" => String::new(),
        // Both families: resolvers ask the name server for a family that is missing here.
        name => format!("127.0.0.1\t{name}\n::1\t{name}\n"),
    };
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_normalised_by_name() {
        let target = Path::new("/etc").join("../run/./systemd/resolve/stub-resolv.conf");
        assert_eq!(normalise(&target), Path::new("/run/systemd/resolve/stub-resolv.conf"));
        assert_eq!(normalise(Path::new("/../../x")), Path::new("/x"));
    }

    #[test]
    fn the_names_of_this_machine_are_there() {
        assert!(hosts_of("box").contains("127.0.0.1\tbox\n::1\tbox\n"));
        assert!(!hosts_of("").contains("127.0.0.1\t\n"));
    }
}
