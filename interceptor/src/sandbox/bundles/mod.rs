//! Finds the root bundles that packages ship (certifi, botocore's, Stripe's): their clients read
//! neither variables nor the system's bundle. Adds the sandbox's CA to each, inside the sandbox
//! only.
//!
//! The working directory may be malicious. So every lookup has the sandbox user's rights and, below
//! the search root, follows no symlink and crosses no file system boundary. A found file is held
//! open and covered through its descriptor, wherever its path leads by then. The replacement
//! contains the file's certificates and nothing else. The search is bounded in files, bytes and
//! time.

mod names;
mod places;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::{Dir, Type};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat, fstatat};
use rustls::pki_types::CertificateDer;

use super::trust::{certificates, pem};
use names::{ENDINGS, KNOWN, is_bundle, is_known};
pub(super) use places::Places;

/// A bundle that was found.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The file itself (O_PATH), independent of its path.
    pub(super) file: OwnedFd,
    /// Its new content: the sandbox's CA and the certificates it holds.
    pub(super) content: Vec<u8>,
}

/// Limits of the search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Directory entries visited.
    pub(super) entries: usize,
    /// Duration of the search.
    pub(super) time: Duration,
    /// Bundles.
    pub(super) bundles: usize,
    /// Bytes of all bundles.
    pub(super) bytes: usize,
}

pub(super) const BOUNDS: Bounds =
    Bounds { entries: 20_000, time: Duration::from_millis(250), bundles: 256, bytes: 32 << 20 };

/// Maximum depth, of the working directory and of package directories, whose bundles mostly have
/// known names.
const DEPTH: usize = 8;
const DEPTH_IN_PACKAGES: usize = 3;
/// Mozilla's roots are 230 KiB.
const MAX_FILE: u64 = 4 << 20;

/// Directories that belong to packages; elsewhere a file with few certificates may be the user's
/// own.
const PACKAGES: [&str; 6] =
    ["site-packages", "dist-packages", "node_modules", "vendor", "gems", "_vendor"];
/// Certainly public roots.
const MANY: usize = 20;
/// Large directories without packages.
const SKIPPED: [&str; 9] = [
    ".git",
    ".hg",
    ".svn",
    "target",
    "__pycache__",
    ".cache",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
];

/// Endings of directories that describe Python packages: half of the directories beside them.
const METADATA: [&str; 2] = [".dist-info", ".egg-info"];

/// Searches these places with this thread's rights.
pub(super) fn find(
    places: &Places,
    authority: &[CertificateDer<'_>],
    bounds: Bounds,
) -> Vec<Bundle> {
    let until = Instant::now() + bounds.time;
    let mut finder =
        BundleFinder { authority, bounds, until, seen: HashSet::new(), found: Vec::new() };
    for file in &places.files {
        if let (Some(directory), Some(name)) = (file.parent(), file.file_name()) {
            let _ = open_root(directory)
                .map(|root| finder.look_at(root.as_fd(), directory, Path::new(name), 1));
        }
    }
    for directory in places.others.iter().chain(&places.packages) {
        let Ok(root) = open_root(directory) else { continue };
        KNOWN.iter().for_each(|known| finder.look_at(root.as_fd(), directory, Path::new(known), 1));
    }
    for (number, directory) in places.others.iter().enumerate() {
        finder.walk(directory, if number == 0 { DEPTH } else { DEPTH_IN_PACKAGES }, MANY);
    }
    places.packages.iter().for_each(|directory| finder.walk(directory, DEPTH_IN_PACKAGES, 1));
    finder.found
}

/// The bundle at a path the operator named.
pub(super) fn named(path: &Path, authority: &[CertificateDer<'_>]) -> io::Result<Bundle> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    let file = openat2(AT_FDCWD, path, how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS))?;
    merged(file, authority, 1, MAX_FILE)?.ok_or_else(|| {
        io::Error::other("it contains no certificate (PEM), or it also contains a private key")
    })
}

struct BundleFinder<'a> {
    authority: &'a [CertificateDer<'a>],
    bounds: Bounds,
    until: Instant,
    seen: HashSet<PathBuf>,
    found: Vec<Bundle>,
}

impl BundleFinder<'_> {
    /// Takes the file `relative` below `root` if it is a bundle of at least `least` certificates.
    fn look_at(&mut self, root: BorrowedFd<'_>, directory: &Path, relative: &Path, least: usize) {
        if self.bounds.bundles == 0 || !self.seen.insert(directory.join(relative)) {
            return;
        }
        let Ok(file) = open_below(root, relative, OFlag::O_PATH) else { return };
        let most = MAX_FILE.min(self.bounds.bytes as u64);
        if let Ok(Some(bundle)) = merged(file, self.authority, least, most) {
            self.bounds.bundles -= 1;
            self.bounds.bytes = self.bounds.bytes.saturating_sub(bundle.content.len());
            self.found.push(bundle);
        }
    }

    /// Walks `directory` breadth-first. A file that only its name identifies needs at least `least`
    /// certificates.
    fn walk(&mut self, directory: &Path, depth: usize, least: usize) {
        let Ok(root) = open_root(directory) else { return };
        let mut waiting = VecDeque::from([(PathBuf::new(), 0)]);
        while let Some((below, level)) = waiting.pop_front() {
            let opened = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
            let opened = open_below(root.as_fd(), opened, OFlag::O_DIRECTORY);
            let Ok(mut entries) = opened.and_then(Dir::from_fd) else { continue };
            for entry in entries.iter().flatten() {
                if self.bounds.entries == 0 || Instant::now() >= self.until {
                    return;
                }
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                self.bounds.entries -= 1;
                let kind = entry.file_type().or_else(|| type_of(root.as_fd(), &below.join(name)));
                if kind == Some(Type::Directory) && level < depth && !is_skipped(name) {
                    waiting.push_back((below.join(name), level + 1));
                } else if kind == Some(Type::File) && may_be_bundle(name) {
                    let path = below.join(name);
                    let whole = directory.join(&path);
                    if is_bundle(&whole) {
                        let sure = is_known(&whole) || is_packages(&whole);
                        self.look_at(root.as_fd(), directory, &path, if sure { 1 } else { least });
                    }
                }
            }
        }
    }
}

/// The type of a file whose directory does not tell it; `None` if it is none that matters.
fn type_of(root: BorrowedFd<'_>, path: &Path) -> Option<Type> {
    let status = fstatat(root, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFREG => Some(Type::File),
        _ => None,
    }
}

/// Whether a directory of this name is left out.
fn is_skipped(name: &OsStr) -> bool {
    SKIPPED.iter().any(|skipped| name == *skipped)
        || METADATA.iter().any(|ending| name.as_bytes().ends_with(ending.as_bytes()))
}

/// Whether a file of this name can be a bundle. Few can, and the walk meets mostly files.
fn may_be_bundle(name: &OsStr) -> bool {
    ENDINGS.iter().any(|ending| {
        let (name, ending) = (name.as_bytes(), ending.as_bytes());
        name.len() >= ending.len() && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
    })
}

fn is_packages(path: &Path) -> bool {
    path.components().any(|part| PACKAGES.iter().any(|packages| part.as_os_str() == *packages))
}

/// Opens a search root; symlinks in its path are already resolved.
fn open_root(path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
    openat2(AT_FDCWD, path, how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS))
}

fn open_below(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(
        root,
        path,
        OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve),
    )
}

/// A path to an open file that stays valid whatever happens to its own.
pub(super) fn path_of(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The replacement for `file`, if it is a bundle.
fn merged(
    file: OwnedFd,
    authority: &[CertificateDer<'_>],
    least: usize,
    most: u64,
) -> io::Result<Option<Bundle>> {
    let status = fstat(&file)?;
    let regular = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    let size = u64::try_from(status.st_size).unwrap_or(u64::MAX);
    if !regular || size == 0 || size > most {
        return Ok(None);
    }
    let mut options = File::options();
    let opened =
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path_of(&file))?;
    let mut text = Vec::new();
    // It may have grown since.
    opened.take(most + 1).read_to_end(&mut text)?;
    let own = certificates(&text);
    // A certificate beside its key is somebody's own, and hiding the key would break them.
    let key = memchr::memmem::find(&text, b"PRIVATE KEY-----").is_some();
    if text.len() as u64 > most || own.len() < least || key {
        return Ok(None);
    }
    let all: Vec<CertificateDer<'_>> = authority.iter().cloned().chain(own).collect();
    Ok(Some(Bundle { file, content: pem(&all).into_bytes() }))
}
