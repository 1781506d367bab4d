//! The places hidden in the homes of the person who typed `run` and of the user who runs the
//! command (`data/home.json`), and what `--expose` shows again.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::person::Person;
use crate::ipc::SentPath;
use crate::sandbox::handover::Secrets;
use crate::sandbox::user::UserIdentity;

/// The data file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    #[expect(dead_code, reason = "for readers of the file")]
    description: String,
    hidden: Vec<Group>,
    /// This program's own directories, which are made before they are hidden.
    own: Vec<PathBuf>,
    moved: Vec<Moved>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    what: String,
    paths: Vec<PathBuf>,
}

/// A place that a variable names, in addition to the one in the home.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moved {
    variable: String,
    below: PathBuf,
}

/// The base directories of the XDG specification: variable, and default below the home.
const XDG: [(&str, &str); 4] = [
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_DATA_HOME", ".local/share"),
    ("XDG_STATE_HOME", ".local/state"),
    ("XDG_CACHE_HOME", ".cache"),
];

/// What is hidden from a run.
#[derive(Debug)]
pub(super) struct AtHome {
    /// Each place, with what it is.
    hidden: Vec<(PathBuf, String)>,
    /// This program's own directories.
    own: Vec<PathBuf>,
    /// Those of `own` that the user who runs the command could create.
    made: Vec<PathBuf>,
    homes: Vec<PathBuf>,
    shown: Vec<PathBuf>,
}

impl AtHome {
    /// Collects the places in the homes of the person and of the user who runs the command.
    ///
    /// # Errors
    /// If the embedded list is broken.
    pub(super) fn of(person: &Person, identity: &UserIdentity) -> anyhow::Result<AtHome> {
        let data: Data = serde_json::from_str(include_str!("../../data/home.json"))
            .context("the embedded list of hidden places")?;
        let of_user = identity.home.as_ref().map(|home| home.0.clone());
        let of_database = person.identity.home.as_ref().map(|home| home.0.clone());
        let mut homes: Vec<PathBuf> = Vec::new();
        for home in of_user.into_iter().chain(person.home()).chain(of_database) {
            if !homes.contains(&home) {
                homes.push(home);
            }
        }
        let variable = |name: &str| {
            let path = person.variable(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let places = |path: &Path| {
            let moved = XDG.iter().filter_map(|(name, place)| {
                Some(variable(name)?.join(path.strip_prefix(place).ok()?))
            });
            homes.iter().map(|home| home.join(path)).chain(moved).collect::<Vec<_>>()
        };
        let mut hidden: Vec<(PathBuf, String)> = Vec::new();
        for Group { what, paths } in &data.hidden {
            let all = paths.iter().flat_map(|path| places(path));
            hidden.extend(all.map(|path| (path, what.clone())));
        }
        for Moved { variable: name, below } in &data.moved {
            // KUBECONFIG lists several.
            let named: Vec<PathBuf> =
                person.variable(name).iter().flat_map(std::env::split_paths).collect();
            for path in named.into_iter().filter(|path| path.is_absolute()) {
                let path = if below.as_os_str().is_empty() { path } else { path.join(below) };
                hidden.push((path, format!("what {name} names")));
            }
        }
        let own: Vec<PathBuf> = data.own.iter().flat_map(|path| places(path)).collect();
        let made = if person.identity.uid == identity.uid {
            own.clone()
        } else {
            let home = identity.home.iter();
            home.flat_map(|home| data.own.iter().map(|path| home.0.join(path))).collect()
        };
        Ok(AtHome { hidden, own, made, homes, shown: Vec::new() })
    }

    /// Shows these places again.
    ///
    /// # Errors
    /// If one is not hidden, or is this program's own.
    pub(super) fn expose(&mut self, paths: &[PathBuf], directory: &Path) -> anyhow::Result<()> {
        for given in paths {
            // Shells leave a tilde behind `=` as it is.
            let home = given.strip_prefix("~").ok().zip(self.homes.first());
            let path = home.map_or_else(|| directory.join(given), |(below, home)| home.join(below));
            let path = plain(&path);
            let shown = path.display();
            if self.own.iter().any(|own| is_in(&path, own)) {
                bail!("--expose {shown}: interceptor's own files are never shown inside");
            }
            let above_home = self.homes.iter().any(|home| is_in(home, &path));
            let whole = |place: &Path| is_in(place, &path);
            let inside = |place: &Path| is_in(&path, place);
            if above_home || !self.hidden.iter().any(|(place, _)| whole(place) || inside(place)) {
                bail!(
                    "--expose {shown}: this is not a hidden place; name one, such as ~/.ssh or \
                     ~/.netrc"
                );
            }
            self.hidden.retain(|(place, _)| !whole(place));
            if self.hidden.iter().any(|(place, _)| inside(place)) {
                self.shown.push(path);
            }
        }
        Ok(())
    }

    /// The hidden place that the working directory is in, with what it is.
    pub(super) fn around(&self, directory: &Path) -> Option<(&Path, &str)> {
        let is_shown = self.shown.iter().any(|shown| is_in(directory, shown));
        let mut hidden = self.hidden.iter().filter(|_| !is_shown);
        let around = hidden.find(|(place, _)| is_in(directory, place));
        around.map(|(place, what)| (place.as_path(), what.as_str()))
    }

    /// Hidden files with other hard links, through which the sandbox may read them.
    pub(super) fn linked(&self) -> impl Iterator<Item = &Path> {
        use std::os::unix::fs::MetadataExt;
        let places = self.hidden.iter().map(|(place, _)| place.as_path());
        places.filter(|place| {
            std::fs::metadata(place).is_ok_and(|status| status.is_file() && status.nlink() > 1)
        })
    }

    /// The form that the process inside needs.
    pub(super) fn sent(self) -> Secrets {
        let sent = |paths: Vec<PathBuf>| paths.into_iter().map(SentPath).collect();
        Secrets {
            hidden: self.hidden.into_iter().map(|(path, _)| SentPath(path)).collect(),
            own: sent(self.own),
            made: sent(self.made),
            homes: sent(self.homes),
            shown: sent(self.shown),
        }
    }
}

/// Whether a path is the other or below it, as text or with symlinks resolved.
fn is_in(path: &Path, other: &Path) -> bool {
    let resolved = |path| std::fs::canonicalize(path);
    path.starts_with(other)
        || resolved(path).is_ok_and(|path| resolved(other).is_ok_and(|o| path.starts_with(o)))
}

/// A path without `.` and `..`, resolved as text.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_below_a_home_and_named_once() {
        let data: Data = serde_json::from_str(include_str!("../../data/home.json")).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for path in data.hidden.iter().flat_map(|group| &group.paths).chain(&data.own) {
            assert!(path.is_relative() && *path == plain(path), "{}", path.display());
            assert!(seen.insert(path), "{} twice", path.display());
        }
        for path in &seen {
            let inside = path.ancestors().skip(1).find(|above| seen.contains(&above.to_path_buf()));
            assert_eq!(inside, None, "{}", path.display());
        }
    }

    #[test]
    fn a_path_is_made_plain() {
        assert_eq!(plain(Path::new("/home/me/./x/../.ssh/")), Path::new("/home/me/.ssh"));
        assert_eq!(plain(Path::new("/../..")), Path::new("/"));
    }
}
