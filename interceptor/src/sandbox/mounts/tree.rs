//! The policy in a project: inside it reads as it is, but for its keys, and cannot be changed.
//!
//! Git would put it into commits and stashes, and fail where it wants to remove it or to read a
//! hidden file. So the repository ignores such files inside, unless they are already a part of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::super::as_user::AsUser;
use super::super::bundles::path_of;
use super::super::error::IoContext;
use super::super::handover::{Launch, ShownPolicy};
use super::super::{SandboxError, sys};
use super::named::Named;
use super::steps::{bind, make_file, set_mode};

/// What the policy reads as.
const POLICY: &str = "/run/.policy";
/// What the file of ignored names reads as.
const EXCLUDE: &str = "/run/.exclude";
/// The most that is read of git's files, in bytes.
const LONGEST: u64 = 1 << 20;

/// Whether the policy is shown: it is in the project, and its user may read it outside.
pub(super) fn is_shown(launch: &Launch) -> bool {
    let Some(policy) = &launch.policy else { return false };
    let Ok(_rights) = AsUser::begin(&launch.identity) else { return false };
    let path = &policy.path.0;
    let project = repository(path).map(|(top, _)| top);
    let project = project.or_else(|| path.parent().map(Path::to_owned)).unwrap_or_default();
    let here = &launch.directory.0;
    (here.starts_with(&project) || path.starts_with(here)) && File::open(path).is_ok()
}

/// Shows the policy under each of these paths by which the user can reach it.
pub(super) fn show(
    policy: &ShownPolicy,
    paths: &[PathBuf],
    launch: &Launch,
) -> Result<(), SandboxError> {
    let places: Vec<Named> = {
        let rights = AsUser::begin(&launch.identity);
        let _rights = rights.context(|| "cannot take on the user's rights".into())?;
        let opened = paths.iter().filter_map(|path| Named::open(path).ok());
        opened.filter(|place| place.status.is_file()).collect()
    };
    let mode = places.first().map_or(0, |place| place.status.permissions().mode());
    let shown = Path::new(POLICY);
    make_file(shown, policy.text.as_bytes())?;
    // Git compares whether a file is executable.
    set_mode(shown, 0o444 | mode & 0o111)?;
    // Bind mounts made from it inherit this mount's attributes.
    bind(shown, shown)?;
    sys::set_mount_attributes(shown, libc::MOUNT_ATTR_RDONLY, 0, false)
        .context(|| format!("cannot make {} read-only", shown.display()))?;
    places.iter().try_for_each(|place| bind(shown, &place.path()))
}

/// Makes repositories ignore the hidden files and the policy in their working trees. A repository
/// that cannot be understood is left alone.
pub(super) fn ignore(launch: &Launch) -> Result<(), SandboxError> {
    let mut lists: BTreeMap<PathBuf, List> = BTreeMap::new();
    {
        // With the user's rights: the user may read what is copied.
        let Ok(_rights) = AsUser::begin(&launch.identity) else { return Ok(()) };
        let policy = launch.policy.iter().map(|policy| &policy.path);
        for path in launch.hidden.iter().chain(policy) {
            let Some((top, repository)) = repository(&path.0) else { continue };
            let Some(name) = path.0.strip_prefix(&top).ok().and_then(pattern) else { continue };
            let Some((file, place, text)) = ignored(&repository) else { continue };
            let list = lists.entry(place).or_insert(List { file, text });
            list.text.push(b'\n');
            list.text.extend(name);
        }
    }
    for (number, list) in lists.values().enumerate() {
        let shown = PathBuf::from(format!("{EXCLUDE}-{number}"));
        make_file(&shown, &list.text)?;
        set_mode(&shown, 0o644)?;
        chown(&shown, Some(launch.identity.uid), Some(launch.identity.gid))
            .context(|| format!("cannot give {} away", shown.display()))?;
        bind(&shown, &path_of(&list.file))?;
    }
    Ok(())
}

/// A repository's own list of ignored names, and what it reads as inside.
struct List {
    file: OwnedFd,
    text: Vec<u8>,
}

/// The top of the working tree that a file is in, and the directory that its repository shares
/// among working trees (gitrepository-layout(5)).
fn repository(file: &Path) -> Option<(PathBuf, PathBuf)> {
    let top = file.ancestors().skip(1).find(|path| path.join(".git").exists())?;
    let mut directory = top.join(".git");
    if directory.is_file() {
        let text = line_of(&directory)?;
        directory = top.join(OsStr::from_bytes(text.strip_prefix(b"gitdir: ")?));
    }
    if let Some(common) = line_of(&directory.join("commondir")) {
        directory = directory.join(OsStr::from_bytes(&common));
    }
    Some((top.to_owned(), directory))
}

fn line_of(file: &Path) -> Option<Vec<u8>> {
    let text = read(file)?;
    Some(text.trim_ascii_end().to_vec())
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(file).ok()?;
    let mut text = Vec::new();
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(text)
}

/// A repository's own list of ignored names, made if it is missing: opened, where it is, and its
/// content.
fn ignored(repository: &Path) -> Option<(OwnedFd, PathBuf, Vec<u8>)> {
    let path = repository.join("info/exclude");
    if !path.exists() {
        let _ = fs::create_dir(repository.join("info"));
        File::create_new(&path).ok()?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).ok()?;
    }
    let text = read(&path)?;
    let file: OwnedFd =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).ok()?.into();
    let place = fs::read_link(path_of(&file)).ok()?;
    Some((file, place, text))
}

/// The line that ignores exactly this file (gitignore(5)); `None` if none can.
fn pattern(below_top: &Path) -> Option<Vec<u8>> {
    let bytes = below_top.as_os_str().as_bytes();
    if bytes.contains(&b'\n') {
        return None;
    }
    let mut line = vec![b'/'];
    for byte in bytes {
        if br"\*?[ ".contains(byte) {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    line.push(b'\n');
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_one_file() {
        let line =
            |path: &str| pattern(Path::new(path)).map(|line| String::from_utf8(line).unwrap());
        assert_eq!(line("a/p.json").as_deref(), Some("/a/p.json\n"));
        assert_eq!(line(r"we*rd [1] \.json").as_deref(), Some("/we\\*rd\\ \\[1]\\ \\\\.json\n"));
        assert_eq!(line("two\nlines"), None);
    }

    #[test]
    fn a_repository_is_found_from_its_working_trees() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        let git = top.join(".git");
        fs::create_dir_all(git.join("worktrees/other")).unwrap();
        let file = top.join("a/b.json");
        assert_eq!(repository(&file), Some((top.to_owned(), git.clone())));
        let other = top.join("other");
        fs::create_dir(&other).unwrap();
        let gitdir = git.join("worktrees/other");
        fs::write(other.join(".git"), format!("gitdir: {}\n", gitdir.display())).unwrap();
        fs::write(gitdir.join("commondir"), "../..\n").unwrap();
        let (found, shared) = repository(&other.join("p.json")).unwrap();
        assert_eq!((found, shared.canonicalize().unwrap()), (other, git.canonicalize().unwrap()));
    }
}
