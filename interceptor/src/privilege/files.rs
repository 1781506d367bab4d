//! Restricts which files the daemon may open (landlock(7)), if the kernel supports it.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use crate::sandbox::SandboxError;

/// Access rights up to Linux 6.10; older kernels ignore those they do not know.
const RIGHTS: ABI = ABI::V5;

/// Read by the system's resolver, trust store and time zone.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/lib/ca-certificates",
    "/opt",
];

/// Paths the daemon keeps access to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Directories it creates, writes and removes files in, and files it writes.
    pub(crate) written: Vec<PathBuf>,
    /// Directories and files it reads, besides the system's; empty means everything.
    pub(crate) read: Vec<PathBuf>,
}

/// Whether Landlock is available and enabled.
pub(crate) fn available() -> bool {
    let rights = AccessFs::from_all(ABI::V1);
    let set =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(rights);
    set.and_then(Ruleset::create).is_ok()
}

impl Files {
    /// Restricts this thread and its descendants; returns a description of the result.
    pub(super) fn restrict(&self) -> Result<String, SandboxError> {
        let status = self.rule_set().map_err(|error| {
            SandboxError::Refused(format!(
                "cannot restrict which files are opened (Landlock): {error}"
            ))
        })?;
        let read =
            if self.read.is_empty() { "it may read any file" } else { "it reads only named paths" };
        let what = format!(
            "Landlock: it executes only its own program, writes only to its own paths, {read}"
        );
        Ok(match status {
            RulesetStatus::FullyEnforced => what,
            RulesetStatus::PartiallyEnforced => {
                format!("{what} (partially: the kernel is older than Linux 6.10)")
            }
            RulesetStatus::NotEnforced => "file access is unrestricted, because this kernel has \
                                           no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK, \
                                           lsm=…,landlock)"
                .to_owned(),
        })
    }

    fn rule_set(&self) -> Result<RulesetStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_all(RIGHTS) & !AccessFs::Execute;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(RIGHTS))?
            .create()?;
        if self.read.is_empty() {
            rules = allow(rules, Path::new("/"), read)?;
        }
        for path in SYSTEM.map(Path::new).into_iter().chain(self.read.iter().map(PathBuf::as_path))
        {
            rules = allow(rules, path, read)?;
        }
        for path in self.written.iter().map(PathBuf::as_path).chain([Path::new("/dev/null")]) {
            rules = allow(rules, path, write)?;
        }
        let run = AccessFs::Execute | AccessFs::ReadFile;
        // By this link, so that the daemon can execute itself even if its file was replaced.
        rules = allow(rules, Path::new("/proc/self/exe"), run)?;
        if let Some(loader) = loader() {
            rules = allow(rules, &loader, run)?;
        }
        Ok(rules.restrict_self()?.ruleset)
    }
}

/// A missing path needs no rule.
fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    // Directory rights do not apply to files.
    let is_directory = fs::metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let access = if is_directory { access } else { access & AccessFs::from_file(RIGHTS) };
    rules.add_rule(PathBeneath::new(opened, access))
}

/// The dynamic loader (ld.so(8)).
fn loader() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let is_loader = |path: &&Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld"))
            && path.to_string_lossy().contains(".so")
    };
    paths.into_iter().find(is_loader).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a thread, because the restriction lasts for its life.
    fn restricted<T: Send + 'static>(
        files: Files,
        probe: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let said = files.restrict().unwrap();
            assert!(said.starts_with("Landlock"), "the tests need a kernel with Landlock: {said}");
            probe()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn only_named_places_are_written_to_and_nothing_else_is_executed() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("there"), "text").unwrap();
        let (within, beyond) = (inside.path().to_owned(), outside.path().to_owned());
        restricted(Files { written: vec![within.clone()], read: Vec::new() }, move || {
            fs::write(within.join("file"), "text").unwrap();
            fs::rename(within.join("file"), within.join("other")).unwrap();
            fs::remove_file(within.join("other")).unwrap();
            assert_eq!(fs::read_to_string(beyond.join("there")).unwrap(), "text");
            for refused in [
                fs::write(beyond.join("file"), "text"),
                fs::write(beyond.join("there"), "text"),
                fs::remove_file(beyond.join("there")),
            ] {
                assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            }
            let executed = std::process::Command::new("/bin/true").status();
            assert_eq!(executed.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            let own = std::process::Command::new("/proc/self/exe").arg("--list").output().unwrap();
            assert!(own.status.success(), "{own:?}");
        });
    }

    #[test]
    fn with_named_places_nothing_else_is_read() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (within, beyond) = (inside.path().to_owned(), outside.path().to_owned());
        for directory in [&within, &beyond] {
            fs::write(directory.join("key"), "sk").unwrap();
        }
        restricted(Files { written: Vec::new(), read: vec![within.clone()] }, move || {
            assert_eq!(fs::read_to_string(within.join("key")).unwrap(), "sk");
            fs::read("/etc/hostname").unwrap();
            assert_eq!(
                fs::read_to_string(beyond.join("key")).unwrap_err().kind(),
                std::io::ErrorKind::PermissionDenied
            );
        });
    }
}
