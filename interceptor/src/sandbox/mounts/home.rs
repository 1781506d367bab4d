//! Hides what a home holds of secrets: each place is empty inside, and what is written there
//! vanishes with the sandbox.
//!
//! A place is opened with the user's rights and through symlinks, as programs do, and then covered
//! wherever its file system shows it.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::super::as_user::AsUser;
use super::super::bundles::path_of;
use super::super::error::IoContext;
use super::super::handover::{Launch, Secrets};
use super::super::{SandboxError, mountinfo};
use super::links::Links;
use super::named::{self, Named};
use super::steps::{bind, bind_open, make_directory, set_mode, tmpfs};
use crate::notice;

/// Holds the covers of files; nobody inside may enter it.
const COVERS: &str = "/run/.home";

/// What belongs to the system; a link in a home that leads there hides nothing.
const SYSTEM: [&str; 12] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/var/run",
];

/// The covered paths.
#[derive(Debug, Default)]
struct Covered(Vec<PathBuf>);

/// A place that exists, opened.
struct Place {
    file: OwnedFd,
    status: Metadata,
    path: PathBuf,
}

/// Covers the places of a launch. Returns their paths, and those of the links that lead to them.
pub(super) fn hide(launch: &Launch) -> Result<Vec<PathBuf>, SandboxError> {
    let Secrets { hidden, own, homes, shown, .. } = &launch.secrets;
    make(launch);
    let mut links = Links::default();
    let (places, kept, homes) = {
        let Ok(_rights) = AsUser::begin(&launch.identity) else {
            return Err(SandboxError::Inside("cannot look at the home as its user".into()));
        };
        for path in hidden.iter().chain(own) {
            // A place that is missing was not to be made.
            let _ = links.add(&path.0, &launch.identity);
        }
        let is_hidden = |path: &Path| {
            launch.hidden_directories.iter().any(|directory| path.starts_with(&directory.0))
        };
        let mut places: Vec<Place> = Vec::new();
        for path in hidden.iter().chain(own).map(|path| &path.0) {
            places.extend(named::found(open(path), path, &launch.identity)?);
        }
        places.retain(|place| !is_hidden(&place.path));
        // What is shown although it is inside of a hidden directory.
        let kept = shown.iter().filter_map(|path| open(&path.0).ok()).collect::<Vec<Place>>();
        let homes = homes.iter().filter_map(|home| fs::canonicalize(&home.0).ok());
        (places, kept, homes.collect::<Vec<PathBuf>>())
    };
    let needed = |path: &Path| {
        path == Path::new("/")
            || homes.iter().any(|home| home.starts_with(path))
            || SYSTEM.iter().any(|system| path.starts_with(system))
    };
    make_directory(Path::new(COVERS))?;
    set_mode(Path::new(COVERS), 0o700)?;
    let mounts = mountinfo::read().context(|| "cannot read /proc/self/mountinfo".into())?;
    let mut covered = Covered::default();
    for place in &places {
        if needed(&place.path) {
            notice::warning(format_args!(
                "a link in the home leads to {}, which is not hidden",
                place.path.display()
            ));
            continue;
        }
        cover(launch, place, &mountinfo::aliases(&mounts, &place.path), &mut covered)?;
    }
    let links = links.pin()?;
    for place in kept.iter().filter(|place| covered.holds(&place.path)) {
        show(launch, place)?;
    }
    if covered.holds(&launch.directory.0) {
        // Where the command starts, as empty as all around it.
        make_missing(&launch.directory.0, launch)?;
    }
    Ok(covered.0.into_iter().chain(links).collect())
}

impl Covered {
    fn holds(&self, path: &Path) -> bool {
        self.0.iter().any(|covered| path.starts_with(covered))
    }
}

/// Makes this program's own directories where there are none, so that nothing inside can make them.
fn make(launch: &Launch) {
    let Ok(_rights) = AsUser::begin(&launch.identity) else { return };
    for path in &launch.secrets.made {
        // A link may lead to what does not exist yet.
        let lacks = Links::default().add(&path.0, &launch.identity);
        for part in lacks.iter().flat_map(|path| missing(path)) {
            // Where the user may not, nothing inside may either.
            if fs::DirBuilder::new().create(&part).is_ok() {
                let _ = fs::set_permissions(&part, fs::Permissions::from_mode(0o700));
            }
        }
    }
}

/// The directories that a path lacks, from the outermost.
fn missing(path: &Path) -> Vec<PathBuf> {
    let lacks = path.ancestors().take_while(|part| fs::symlink_metadata(part).is_err());
    let mut missing: Vec<PathBuf> = lacks.map(Path::to_owned).collect();
    missing.reverse();
    missing
}

fn open(path: &Path) -> io::Result<Place> {
    let file: OwnedFd =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?.into();
    let status = File::from(file.try_clone()?).metadata()?;
    let path = fs::read_link(path_of(&file))?;
    Ok(Place { file, status, path })
}

/// Covers a place under each of these paths that leads to it.
fn cover(
    launch: &Launch,
    place: &Place,
    paths: &[PathBuf],
    covered: &mut Covered,
) -> Result<(), SandboxError> {
    let (is_directory, is_file) = (place.status.is_dir(), place.status.is_file());
    if !is_directory && !is_file || covered.holds(&place.path) {
        return Ok(());
    }
    let which = |status: &Metadata| (status.dev(), status.ino());
    let others: Vec<(&PathBuf, Named)> = {
        let _rights = rights(launch)?;
        let others = paths.iter().filter(|path| **path != place.path);
        let opened = others.filter_map(|path| Some((path, Named::open(path).ok()?)));
        opened.filter(|(_, found)| which(&found.status) == which(&place.status)).collect()
    };
    let empty = Path::new(COVERS).join(covered.0.len().to_string());
    if is_file {
        File::create(&empty).map(drop).context(|| format!("cannot make {}", empty.display()))?;
        set_mode(&empty, 0o600)?;
        give(&empty, launch)?;
    }
    let cover = |target: &Path| match is_directory {
        false => bind(&empty, target),
        true => {
            let (uid, gid) = (launch.identity.uid, launch.identity.gid);
            let options = format!("mode=700,uid={uid},gid={gid}");
            tmpfs(target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)
        }
    };
    // The opened place itself: a path may lead elsewhere by now.
    cover(&path_of(&place.file))?;
    covered.0.push(place.path.clone());
    for (other, found) in others {
        cover(&found.path())?;
        covered.0.push(other.clone());
    }
    Ok(())
}

/// Shows a place in a covered directory, where it was.
fn show(launch: &Launch, place: &Place) -> Result<(), SandboxError> {
    let above = place.path.parent().unwrap_or(Path::new("/"));
    make_missing(above, launch)?;
    {
        let _rights = rights(launch)?;
        if place.status.is_dir() {
            make_directory(&place.path)?;
        } else {
            File::create(&place.path)
                .map(drop)
                .context(|| format!("cannot make {}", place.path.display()))?;
        }
    }
    bind_open(&place.file, &place.path)
}

/// Makes the directories that a path in a covered place lacks, as the user who owns the cover: the
/// user can change where the path leads meanwhile.
fn make_missing(path: &Path, launch: &Launch) -> Result<(), SandboxError> {
    let _rights = rights(launch)?;
    missing(path).iter().try_for_each(|part| make_directory(part))
}

fn rights(launch: &Launch) -> Result<Option<AsUser>, SandboxError> {
    AsUser::begin(&launch.identity).context(|| "cannot take on the user's rights".into())
}

fn give(path: &Path, launch: &Launch) -> Result<(), SandboxError> {
    chown(path, Some(launch.identity.uid), Some(launch.identity.gid))
        .context(|| format!("cannot give {} away", path.display()))
}
