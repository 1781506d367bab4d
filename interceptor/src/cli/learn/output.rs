//! Writes a learnt policy to a file of the person's, whatever the sandbox has done to the directory
//! in the meantime.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cli::person::Person;
use crate::files;

/// The options that set the file.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Output {
    /// Write the learnt policy to this file, which must not exist.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(in crate::cli) file: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

/// An open directory, and a name in it.
#[derive(Debug)]
pub(in crate::cli) struct Place {
    directory: OwnedFd,
    name: PathBuf,
    path: PathBuf,
    force: bool,
}

impl Output {
    /// Whether none of the options is given.
    pub(super) fn is_empty(&self) -> bool {
        self.file.is_none() && !self.force
    }

    /// Opens the directory of `file` with the person's rights.
    ///
    /// # Errors
    /// If there is no such directory, or the file exists and is not to be replaced.
    pub(in crate::cli) fn place(&self, person: &Person, file: &Path) -> anyhow::Result<Place> {
        let context = || format!("cannot write {}", file.display());
        let name = file.file_name().context("it has no file name").with_context(context)?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let directory = person.act(|| {
            let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            Ok(openat(AT_FDCWD, parent, flags, Mode::empty())?)
        });
        let place = Place {
            directory: directory.with_context(context)?,
            name: name.into(),
            path: file.to_owned(),
            force: self.force,
        };
        if !self.force && place.exists() {
            bail!("{} exists already; --force replaces it", file.display());
        }
        Ok(place)
    }
}

impl Place {
    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn exists(&self) -> bool {
        fstatat(&self.directory, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW) != Err(Errno::ENOENT)
    }

    /// Writes the file with the person's rights, or replaces the old one. A symlink is replaced,
    /// not followed.
    ///
    /// # Errors
    /// If it exists and is not to be replaced, or cannot be written.
    pub(in crate::cli) fn write(&self, person: &Person, text: &str) -> anyhow::Result<()> {
        let written = person.act(|| {
            if !self.force {
                return self.create(&self.name, text);
            }
            let mut part = self.name.clone().into_os_string();
            part.push(format!(".{}.new", std::process::id()));
            let part = PathBuf::from(part);
            self.create(&part, text)?;
            renameat(&self.directory, &part, &self.directory, &self.name).map_err(|error| {
                let _ = unlinkat(&self.directory, &part, UnlinkatFlags::NoRemoveDir);
                io::Error::from(error)
            })
        });
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn create(&self, name: &Path, text: &str) -> io::Result<()> {
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        // Readable only by the person: the base may have had a literal key.
        let opened = openat(&self.directory, name, flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(opened.map_err(|error| match error {
            Errno::EEXIST => files::unfit("it exists already; --force replaces it"),
            error => error.into(),
        })?);
        file.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn the_file_is_the_persons_and_no_link_is_followed() {
        const USER: u32 = 54321;
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let own = home.path().join("own");
        fs::create_dir(&own).unwrap();
        chown(&own, Some(USER), Some(USER)).unwrap();
        let person = Person::with_variables(USER, &[]);
        let output = |force| Output { file: None, force };
        let file = own.join("p.jsonc");
        let place = output(false).place(&person, &file).unwrap();
        place.write(&person, "{}\n").unwrap();
        let about = fs::metadata(&file).unwrap();
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (USER, USER, 0o600));
        // It is never written over but on request, also when it came in between.
        let error = place.write(&person, "again").unwrap_err();
        assert!(format!("{error:#}").contains("--force"), "{error:#}");
        let error = output(false).place(&person, &file).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        output(true).place(&person, &file).unwrap().write(&person, "{ }\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{ }\n");
        // A link that leads to root's, and a directory that is root's.
        let roots = home.path().join("roots");
        fs::write(&roots, "root's").unwrap();
        let link = own.join("link.jsonc");
        symlink(&roots, &link).unwrap();
        output(false).place(&person, &link).unwrap_err();
        output(true).place(&person, &link).unwrap().write(&person, "mine").unwrap();
        assert_eq!(fs::read_to_string(&roots).unwrap(), "root's");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        let elsewhere = output(false).place(&person, &home.path().join("new.jsonc")).unwrap();
        assert!(elsewhere.write(&person, "{}").is_err());
        assert_eq!(fs::read_dir(&own).unwrap().count(), 2);
    }
}
