//! What daemons and `attach` that were killed have left: programs pinned on cgroups, which refuse everything. A daemon that starts
//! adopts them, keeps them closed, or removes them, and says which.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::Context;
use super::{FleetError, Pins};
use crate::kernel;
use crate::sandbox::cgroup;

/// Cgroups below one another that are looked at.
const DEEPEST: usize = 64;

/// Which of the sandboxes that a dead daemon has left are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Adopt {
    /// All.
    #[default]
    All,
    /// None but those of the configuration.
    None,
    /// Those with these ids.
    Only(Vec<String>),
}

impl TryFrom<String> for Adopt {
    type Error = String;

    fn try_from(text: String) -> Result<Adopt, String> {
        text.parse()
    }
}

impl FromStr for Adopt {
    type Err = String;

    fn from_str(text: &str) -> Result<Adopt, String> {
        match text {
            "all" => Ok(Adopt::All),
            "none" => Ok(Adopt::None),
            ids => {
                let ids: Vec<String> = ids.split(',').map(str::to_owned).collect();
                match ids.iter().find_map(|id| super::check_id(id).err()) {
                    Some(error) => Err(format!("not `all`, `none` or a list of sandbox ids: {error}")),
                    None => Ok(Adopt::Only(ids)),
                }
            }
        }
    }
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The configuration has a sandbox for its cgroup, which takes its place without a gap.
    Adopted,
    /// It stays as it is: everything is refused.
    Closed,
    /// It was not to be kept: what still runs there is not confined any more.
    Removed,
    /// Its cgroup was removed in the meantime, and so it is.
    Gone,
}

/// A sandbox that somebody who died has left.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    /// Its id.
    pub(crate) id: String,
    /// The directory of its cgroup, or the number it had.
    pub(crate) cgroup: PathBuf,
    /// What became of it.
    pub(crate) fate: Fate,
}

impl Stale {
    /// The name of its lifecycle record.
    pub(crate) fn event(&self) -> &'static str {
        match self.fate {
            Fate::Adopted => "sandbox_adopting",
            Fate::Closed => "sandbox_kept_closed",
            Fate::Removed | Fate::Gone => "sandbox_removed",
        }
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stale { id, cgroup, fate } = self;
        let place = cgroup.display();
        let left = "left by a crashed daemon";
        match fate {
            Fate::Adopted => write!(
                formatter,
                "adopted sandbox {id} on {place}, {left}; it has a new CA and new placeholders, so \
                 restart what loaded the old ones"
            ),
            Fate::Closed => write!(
                formatter,
                "sandbox {id} on {place}, {left}, stays closed: everything it sends is refused; \
                 create a sandbox on this cgroup to open it, or remove it with --adopt none"
            ),
            Fate::Removed => write!(
                formatter,
                "removed sandbox {id} on {place}, {left}, because --adopt does not keep it: its \
                 processes are no longer confined"
            ),
            Fate::Gone => {
                write!(formatter, "cleaned up sandbox {id} {left} (its cgroup no longer exists)")
            }
        }
    }
}

/// Looks through what is pinned, and removes what is not to be kept. `configured` are the cgroups that are about to get a sandbox:
/// theirs stay until that is in their place. What living processes hold is not touched. `trust` is where files to trust are.
///
/// # Errors
/// When bpffs or the cgroups cannot be read, or a pin cannot be removed.
pub(crate) fn sweep(
    adopt: &Adopt,
    configured: &HashSet<u64>,
    trust: &Path,
) -> Result<Vec<Stale>, FleetError> {
    let root = kernel::bpffs()?.join("interceptor");
    let Ok(entries) = fs::read_dir(&root) else { return Ok(Vec::new()) };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let cgroups = if numbers.is_empty() { HashMap::new() } else { cgroups()? };
    let mut found = Vec::new();
    for number in numbers {
        let pins = match Pins::of(number) {
            Ok(pins) => pins,
            Err(FleetError::Taken(_)) => continue,
            Err(error) => return Err(error),
        };
        for directory in &pins.stale {
            let id = Pins::id_of(directory);
            let fate = match cgroups.get(&number) {
                None => Fate::Gone,
                Some(_) if configured.contains(&number) => Fate::Adopted,
                Some(_) if adopt.keeps(&id) => Fate::Closed,
                Some(_) => Fate::Removed,
            };
            if matches!(fate, Fate::Gone | Fate::Removed) {
                kernel::remove_pins(directory)?;
                super::trust::remove(&trust.join(number.to_string()));
            }
            let cgroup = cgroups.get(&number).cloned().unwrap_or_else(|| number.to_string().into());
            found.push(Stale { id, cgroup, fate });
        }
    }
    Ok(found)
}

impl Adopt {
    fn keeps(&self, id: &str) -> bool {
        match self {
            Adopt::All => true,
            Adopt::None => false,
            Adopt::Only(ids) => ids.iter().any(|kept| kept == id),
        }
    }
}

/// Every cgroup by its id. One that vanishes meanwhile is none.
fn cgroups() -> Result<HashMap<u64, PathBuf>, FleetError> {
    let mount = cgroup::mount_point()?;
    let mut found = HashMap::new();
    let mut open = vec![(mount.clone(), 0)];
    fs::metadata(&mount).context(|| format!("cannot examine {}", mount.display()))?;
    while let Some((directory, depth)) = open.pop() {
        let Ok(metadata) = fs::metadata(&directory) else { continue };
        found.insert(metadata.ino(), directory.clone());
        if depth == DEEPEST {
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_adopted_is_all_none_or_ids() {
        assert_eq!("all".parse(), Ok(Adopt::All));
        assert_eq!("none".parse(), Ok(Adopt::None));
        assert_eq!("a,b-1".parse(), Ok(Adopt::Only(vec!["a".into(), "b-1".into()])));
        for text in ["", "a,", "a b", "../x", "a,,b"] {
            assert!(text.parse::<Adopt>().is_err(), "{text}");
        }
    }
}
